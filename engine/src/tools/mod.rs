//! `panoptes tools …`: what a person runs by hand.

mod bucket;
mod promqltest;

use model::world::World;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Tools for people: nothing here serves.
#[derive(Clone, Debug, clap::Args)]
pub struct ToolsArgs {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Tool {
    /// Look at a bucket, check it, mark blocks.
    Bucket(bucket::Args),
    /// What a compactor with these settings would do with a bucket now, and why. Nothing is written.
    Plan(bucket::PlanArgs),
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
/// When something can't be read, or something that the tool checks does not hold.
pub async fn run(args: ToolsArgs, world: World, stop: CancellationToken) -> anyhow::Result<()> {
    match args.tool {
        Tool::Bucket(args) => bucket::run(args, world, stop).await,
        Tool::Plan(args) => bucket::plan(args, world, stop).await,
        Tool::Promqltest { files } => promqltest::run(&files, &mut std::io::stdout().lock()),
    }
}
