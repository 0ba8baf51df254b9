//! Running commands, with errors that hold what the command said.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// Runs a command to its end and gives its standard output.
///
/// # Errors
/// With the command line and its standard error, when it fails.
pub fn output(program: impl AsRef<Path>, args: &[&str]) -> anyhow::Result<String> {
    command(Command::new(program.as_ref()).args(args))
}

/// [`output`] for a prepared command.
///
/// # Errors
/// As [`output`].
pub fn command(command: &mut Command) -> anyhow::Result<String> {
    let line = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {line}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{line}: {} {}", output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command ends well; what it says is dropped.
pub fn succeeds(program: impl AsRef<Path>, args: &[&str]) -> bool {
    output(program, args).is_ok()
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
