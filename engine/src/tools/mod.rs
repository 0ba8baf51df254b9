//! `panoptes tools …`: what a person runs by hand.

mod promqltest;

use std::path::PathBuf;

/// Tools for people: nothing here serves.
#[derive(Clone, Debug, clap::Args)]
pub struct ToolsArgs {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Tool {
    /// Run scripts of Prometheus' test language (load, eval, expect …) against our PromQL.
    Promqltest {
        /// Scripts, or folders of which every *.test is run
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Runs one tool.
///
/// # Errors
/// When a file can't be read, or something that the tool checks does not hold.
pub fn run(args: ToolsArgs) -> anyhow::Result<()> {
    match args.tool {
        Tool::Promqltest { files } => promqltest::run(&files, &mut std::io::stdout().lock()),
    }
}
