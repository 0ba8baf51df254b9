//! Programs of ours around a peer's own library (`e2e/peers/prometheus-blocks` and its like), as an oracle for formats: a
//! request is a line of JSON with the operation in `op`, the answer a line with `ok` or `error`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde_json::Value;

use crate::peers;

/// A running oracle; it ends when this is dropped.
#[derive(Debug)]
pub struct Oracle {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts the peer `name`, as in `start("prometheus-blocks")`.
    ///
    /// # Errors
    /// When the peer is not built.
    pub fn start(name: &str) -> anyhow::Result<Self> {
        let path = peers::path(name)?;
        let mut child = Command::new(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", path.display()))?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the oracle has no standard output")?);
        Ok(Self { child, requests, answers })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks, and gives what is in `ok`.
    ///
    /// # Errors
    /// What the oracle says in `error`, or that it is gone.
    pub fn ask(&mut self, request: &Value) -> anyhow::Result<Value> {
        let requests = self.requests.as_mut().context("the oracle has no standard input")?;
        requests.write_all(format!("{request}\n").as_bytes())?;
        requests.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("the oracle said {line:?}"))?;
        match answer.get_mut("error") {
            Some(Value::String(error)) => anyhow::bail!("{error}"),
            _ => Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default()),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // It ends with its input; waiting leaves no zombie.
        drop(self.requests.take());
        let _ended = self.child.wait();
    }
}
