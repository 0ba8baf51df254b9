//! A peer as a child process: its output goes to a file, and it ends with its owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::{http, wait};

/// A running peer. Dropping it ends the process (by its id) and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; standard output and error go to the file `log`.
    ///
    /// # Errors
    /// When the log can't be written or the program can't be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name}: {}", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything the process has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `GET url` is answered with a success; fails at once when the process has ended.
    ///
    /// # Errors
    /// With the end of the peer's log, when it does not come up in time.
    pub fn wait_for_url(&mut self, url: &str, within: Duration) -> anyhow::Result<()> {
        self.wait_for(url, within, || {
            let status = http::get(url)?.status;
            anyhow::ensure!((200..300).contains(&status), "{url} answers {status}");
            Ok(())
        })
    }

    /// Waits until `attempt` succeeds; fails at once when the process has ended.
    ///
    /// # Errors
    /// With the end of the peer's log, when it does not come up in time.
    pub fn wait_for(
        &mut self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut ended = None;
        let waited = wait::until(what, within, Duration::from_millis(50), || {
            ended = self.child.try_wait()?;
            // An end is final: leave the loop, the outer check reports it.
            if ended.is_some() { Ok(()) } else { attempt() }
        });
        match (ended, waited) {
            (None, Ok(())) => Ok(()),
            (Some(status), _) => anyhow::bail!("{} ended with {status}; it said:\n{}", self.name, self.tail()),
            (None, Err(error)) => Err(error.context(format!("{} said:\n{}", self.name, self.tail()))),
        }
    }

    /// Sends a signal by name, as in `"STOP"`, `"CONT"`, `"HUP"`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        signal(self.child.id(), name)
    }

    /// Asks the process to end (SIGTERM), and kills it when it has not done so after 10 s.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn stop(mut self) -> anyhow::Result<std::process::ExitStatus> {
        let _ = self.signal("TERM");
        let ended = wait::until("the end", Duration::from_secs(10), Duration::from_millis(20), || {
            self.child.try_wait()?.context("it still runs")
        });
        if let Ok(status) = ended {
            return Ok(status);
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal by name to a process that this test started.
///
/// # Errors
/// When the process is gone.
pub fn signal(id: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).stderr(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "kill -{name} {id}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such flag; exit 3"]);
        let mut process = Process::spawn("sh", &mut command, &dir.path().join("log")).unwrap();
        let error = process.wait_for_url("http://127.0.0.1:1/", Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such flag"), "{error}");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::spawn("sleep", Command::new("sleep").arg("60"), &dir.path().join("log")).unwrap();
        let id = process.id();
        drop(process);
        assert!(signal(id, "0").is_err());
    }
}
