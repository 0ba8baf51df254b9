//! What a compactor tells of itself: the section of the state document, and metrics.

use super::metrics::Metrics;
use super::pass::Failed;
use crate::server::Context;
use crate::server::ready::Readiness;
use crate::storage::web::Listing;
use args::state::{Compaction, CompactionLease, CompactionWork, HeldItem, MAX_SKIPPED};
use bucket::lease::Record;
use model::world::Clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::plan::{Forecast, Held, Subject};

/// Shared by the compactor and whoever asks.
#[derive(Clone)]
pub(super) struct Progress {
    clock: Arc<dyn Clock>,
    inner: Arc<Mutex<Inner>>,
    /// Not ready for want of disk space.
    ready: Readiness,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    state: Compaction,
    doing: BTreeMap<u64, CompactionWork>,
    next: u64,
    /// When the round began, ms.
    round_begin: i64,
    /// The blocks of the bucket, and when they were looked at, ms.
    blocks: Vec<Arc<BlockMeta>>,
    looked_ms: Option<i64>,
    #[cfg(test)]
    held: Vec<HeldItem>,
}

/// How far a piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Its blocks are fetched.
    Fetch,
    /// Blocks are made of them.
    Work,
    /// The new blocks are sent.
    Send,
}

/// Work that goes on; ends when dropped.
pub(super) struct Working {
    progress: Progress,
    number: u64,
}

impl Progress {
    pub(super) fn new(context: &Context) -> Self {
        let (clock, ready) = (Arc::clone(&context.world.clock), context.ready.clone());
        Self { clock, inner: Arc::default(), ready, metrics: Arc::new(Metrics::new(&context.metrics)) }
    }

    /// The list of blocks, for people.
    pub(super) fn list(&self) -> Listing {
        let inner = self.inner.lock();
        Listing { metas: inner.blocks.clone(), refreshed_ms: inner.looked_ms, error: inner.state.error.clone() }
    }

    /// What the last look showed.
    pub(super) fn blocks(&self, blocks: Vec<Arc<BlockMeta>>) {
        let mut inner = self.inner.lock();
        (inner.blocks, inner.looked_ms) = (blocks, Some(self.clock.now_ms()));
    }

    /// The section of the state document.
    pub(super) fn state(&self) -> Compaction {
        let inner = self.inner.lock();
        Compaction { doing: inner.doing.values().cloned().collect(), ..inner.state.clone() }
    }

    /// Who has the lease.
    pub(super) fn lease(&self, record: &Record, held: bool) {
        let (holder, epoch, since_ms) = (record.holder.clone(), record.epoch, record.since_ms);
        self.inner.lock().state.lease = Some(CompactionLease { held, holder, epoch, since_ms });
        self.metrics.lease.set(i64::from(held));
    }

    /// A pass ended well, or why it did not.
    pub(super) fn pass(&self, outcome: Result<(), String>) {
        let now = self.clock.now_ms();
        let mut inner = self.inner.lock();
        let state = &mut inner.state;
        match outcome {
            Ok(()) => {
                state.passes += 1;
                (state.last_pass_ms, state.failing_since_ms, state.error) = (Some(now), None, None);
                if state.lacks_disk_bytes.take().is_some() {
                    self.ready.ready();
                }
                self.metrics.iterations.inc();
            }
            Err(why) => {
                state.failing_since_ms.get_or_insert(now);
                state.error = Some(why);
                self.metrics.retries.inc();
            }
        }
    }

    /// Why nothing is deleted, if so.
    pub(super) fn deletions_stopped(&self, why: Option<String>) {
        let mut inner = self.inner.lock();
        if why.is_some() && inner.state.deletions_stopped != why {
            tracing::error!(why, "another compactor writes to this bucket");
        }
        self.metrics.halted.set(i64::from(why.is_some()));
        inner.state.deletions_stopped = why;
    }

    /// Disk space is short by this.
    pub(super) fn lacks_disk(&self, bytes: u64) {
        self.ready.not_ready(format!("{bytes} bytes of disk space are missing under --data-dir"));
        self.inner.lock().state.lacks_disk_bytes = Some(bytes);
    }

    /// What is left alone: by the plan, and what failed in this pass.
    pub(super) fn held(&self, held: &[Held], failed: &BTreeMap<String, Failed>) {
        let planned = held.iter().map(|h| {
            let what = match &h.what {
                Subject::Bucket => "bucket".to_owned(),
                Subject::Stream(name) => name.clone(),
                Subject::Block(id) => id.to_string(),
            };
            HeldItem { what, why: h.why.to_string(), waits: h.why.waits() }
        });
        let failed = failed.iter().map(|(what, f)| HeldItem { what: what.clone(), why: f.why.clone(), waits: f.waits });
        let mut all: Vec<HeldItem> = planned.chain(failed).collect();
        // What somebody has to act on comes first.
        all.sort_by_key(|item| item.waits);
        let mut inner = self.inner.lock();
        for item in all.iter().filter(|item| !inner.state.held_items.contains(item)).take(MAX_SKIPPED) {
            tracing::warn!(what = item.what, why = item.why, "left alone");
        }
        inner.state.held = all.len() as u64;
        #[cfg(test)]
        all.clone_into(&mut inner.held);
        inner.state.held_items = all.into_iter().take(MAX_SKIPPED).collect();
        self.metrics.held.set(i64::try_from(inner.state.held).unwrap_or(i64::MAX));
    }

    /// What must never be: a law is broken, or our own blocks are taken for another program's.
    #[cfg(test)]
    pub(super) fn wrong(&self) -> Option<String> {
        let state = &self.inner.lock().state;
        let law = state.error.as_ref().filter(|e| e.contains("breaks the law"));
        law.or(state.deletions_stopped.as_ref()).cloned()
    }

    /// All that is left alone.
    #[cfg(test)]
    pub(super) fn all_held(&self) -> Vec<HeldItem> {
        self.inner.lock().held.clone()
    }

    /// How much there is to do.
    pub(super) fn todo(&self, all: &Forecast) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut inner = self.inner.lock();
        inner.state.todo_compactions = all.compactions;
        inner.state.todo_downsamplings = all.downsamples;
        inner.state.todo_deletions = all.deletions;
        self.metrics.todo_compactions.set(gauge(all.compactions));
        self.metrics.todo_blocks.set(gauge(all.compaction_blocks));
        self.metrics.todo_downsamplings.set(gauge(all.downsamples));
        self.metrics.todo_deletions.set(gauge(all.deletions));
    }

    /// A round of so many bytes of blocks begins.
    pub(super) fn round(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.round_begin = self.clock.now_ms();
        (inner.state.round_bytes, inner.state.done_bytes, inner.state.round_ends_ms) = (bytes, 0, None);
    }

    /// Work of so many bytes begins.
    pub(super) fn begin(&self, what: String, bytes: u64) -> Working {
        let since_ms = self.clock.now_ms();
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        tracing::info!(what, bytes, "begins");
        inner.doing.insert(number, CompactionWork { what, step: String::new(), since_ms, bytes });
        Working { progress: self.clone(), number }
    }
}

impl Working {
    /// It is so far.
    pub(super) fn step(&self, step: Step) {
        let step = match step {
            Step::Fetch => "fetch",
            Step::Work => "work",
            Step::Send => "send",
        };
        if let Some(work) = self.progress.inner.lock().doing.get_mut(&self.number) {
            step.clone_into(&mut work.step);
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let now = self.progress.clock.now_ms();
        let mut inner = self.progress.inner.lock();
        let Some(work) = inner.doing.remove(&self.number) else { return };
        let begin = inner.round_begin;
        let state = &mut inner.state;
        state.done_bytes = state.done_bytes.saturating_add(work.bytes);
        // As fast as so far.
        let (took, left) = (now.saturating_sub(begin), state.round_bytes.saturating_sub(state.done_bytes));
        if state.done_bytes > 0 && left > 0 {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a guess")]
            let more = (took as f64 * (left as f64 / state.done_bytes as f64)) as i64;
            state.round_ends_ms = Some(now.saturating_add(more));
        } else {
            state.round_ends_ms = None;
        }
        let took_ms = now.saturating_sub(work.since_ms);
        let (done, all, ends_ms) = (state.done_bytes, state.round_bytes, state.round_ends_ms);
        tracing::info!(
            what = work.what,
            took_ms,
            done_bytes = done,
            round_bytes = all,
            round_ends_ms = ends_ms,
            "ended"
        );
    }
}
