//! A query asked many times of one side, and what the side's processes spent on it.

use super::measure::{cpu_s, median, peak_mib, timed};
use anyhow::Context as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::http;

/// Longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// One of those that are asked.
pub(super) struct Side {
    /// The base address of its HTTP API.
    pub(super) url: String,
    /// The processes that work for it: the querier, perhaps a store.
    pub(super) ids: Vec<u32>,
}

/// What a query cost.
pub(super) struct Spent {
    /// Seconds of CPU of each, of all processes.
    pub(super) cpu_s: f64,
    /// Times in seconds, ascending.
    times: Vec<f64>,
    /// Highest resident memory of all processes together, MiB.
    pub(super) peak_mib: f64,
    /// The last answer.
    pub(super) body: String,
}

impl Spent {
    pub(super) fn p50_s(&self) -> f64 {
        median(&self.times)
    }

    pub(super) fn p99_s(&self) -> f64 {
        self.times.get((self.times.len() * 99 / 100).min(self.times.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }
}

impl Side {
    /// Asks `path` so many times, so many at once.
    pub(super) fn drive(&self, path: &str, times: usize, at_once: usize) -> anyhow::Result<Spent> {
        let url = format!("{}{path}", self.url);
        let once = || {
            let answer = http::request("GET", &url, &[], Vec::new(), PATIENCE)?;
            anyhow::ensure!(answer.status == 200, "{url}: {} {:.500}", answer.status, answer.body);
            Ok(answer.body)
        };
        let mut last = once()?;
        for id in &self.ids {
            // The peak is counted anew.
            std::fs::write(format!("/proc/{id}/clear_refs"), "5")?;
        }
        let cpu = || self.ids.iter().map(|id| cpu_s(*id)).sum::<anyhow::Result<f64>>();
        let before = cpu()?;
        let begun = AtomicUsize::new(0);
        let done = Mutex::new((Vec::with_capacity(times), String::new()));
        let work = || -> anyhow::Result<()> {
            while begun.fetch_add(1, Ordering::SeqCst) < times {
                let mut body = String::new();
                let took = timed(|| {
                    body = once()?;
                    Ok(())
                })?;
                let mut done = done.lock().map_err(|_| anyhow::anyhow!("another thread failed"))?;
                done.0.push(took);
                done.1 = body;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
        })?;
        let cpu_s = (cpu()? - before) / times as f64;
        let (mut took, body) = done.into_inner().ok().context("a thread failed")?;
        took.sort_by(f64::total_cmp);
        if !body.is_empty() {
            last = body;
        }
        let peak_mib = self.ids.iter().map(|id| peak_mib(*id)).sum::<anyhow::Result<f64>>()?;
        Ok(Spent { cpu_s, times: took, peak_mib, body: last })
    }
}
