//! What is to be done with the blocks of a bucket: plain data in, decisions out; no clock, no bucket.
//!
//! [`make`] takes a [`Snapshot`] of the bucket, the time and [`Settings`], and gives a [`Plan`]: items that can be done now,
//! each with its reason, and what is left alone, with the reason. Doing them changes the bucket; then the next plan is made.
//! Which blocks are compacted together, kept, and downsampled are Thanos's rules (0.42.4, `pkg/compact`, `cmd/thanos`), so that
//! either can take over from the other. Stricter than Thanos are these, and [`laws`] checks them:
//!
//! * An overlap, a damaged block, a doubt holds back its own stream or block; the others go on.
//! * A block that is marked for deletion is never compacted into another one: what someone wants gone does not come back.
//! * A block goes as superseded only while a healthy one that will stay holds all its sources and all its time.
//! * Retention waits for the coarser copy, and asks for it at any width of block.
//! * Of an incomplete view nothing is decided.

mod choose;
mod coarser;
mod item;
pub mod laws;
mod output;
mod settings;
mod simulate;
mod streams;

pub use choose::{Choice, Kind, choose};
pub use item::{Action, Compaction, Held, Hold, Item, OUTDATED, SOURCE_OF_COMPACTED, Subject, Why};
pub use output::{compacted, downsampled};
pub use settings::{Finding, Retention, Settings};
pub use simulate::{Forecast, apply, deletion_details, forecast};
pub use streams::{Stream, without_replicas};

use crate::marks::{DeletionMark, NoCompactMark, NoDownsampleMark};
use crate::meta::{BlockMeta, source};
use model::BlockId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Resolutions of blocks in ms: raw, 5 minutes, 1 hour.
pub const RESOLUTIONS: [i64; 3] = [0, 300_000, 3_600_000];

/// What is in a bucket, as far as it matters to this compactor (its shard, its time range).
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Blocks that have a meta.json.
    pub blocks: BTreeMap<BlockId, Block>,
    /// What has an id of a block and no meta.json that can be read.
    pub partial: BTreeMap<BlockId, Partial>,
    /// False if something could not be read: then nothing is decided.
    pub complete: bool,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), partial: BTreeMap::new(), complete: true }
    }
}

/// A block in a bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// What it is.
    pub meta: Arc<BlockMeta>,
    /// Its marks.
    pub marks: Marks,
    /// Bytes of its index as the listing tells them; meta.json's word counts first.
    pub index_bytes: Option<u64>,
    /// What is wrong with it: files that are missing or have another size. Such a block is no source of anything.
    pub problems: Vec<String>,
}

impl Block {
    /// A healthy block without marks.
    pub fn new(meta: impl Into<Arc<BlockMeta>>) -> Self {
        Self { meta: meta.into(), marks: Marks::default(), index_bytes: None, problems: Vec::new() }
    }

    /// Whether it can stand for others: nothing is wrong with it and nobody wants it gone.
    fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.marks.deletion.is_none()
    }

    /// The blocks of level 1 that went in; itself where the meta says none.
    fn sources(&self) -> &[BlockId] {
        match self.meta.compaction.sources.as_slice() {
            [] => std::slice::from_ref(&self.meta.id),
            sources => sources,
        }
    }

    /// Width of its time range in ms.
    fn width(&self) -> i64 {
        self.meta.max_time.saturating_sub(self.meta.min_time)
    }

    /// Bytes of its index, if anyone knows.
    fn index_size(&self) -> Option<u64> {
        let files = self.meta.thanos.iter().flat_map(|t| &t.files);
        let told = files.filter(|f| f.rel_path == crate::index::INDEX_FILE).map(|f| f.size_bytes).find(|s| *s > 0);
        told.or(self.index_bytes)
    }

    /// Whether a foreign reader may not see all of it yet. Compactors write in one go and are believed at once.
    fn is_too_fresh(&self, now: i64, delay: i64) -> bool {
        let thanos = self.meta.thanos.as_ref();
        let made = thanos.and_then(|t| t.upload_time.ms());
        let made = made.unwrap_or_else(|| i64::try_from(self.meta.id.time_ms()).unwrap_or(i64::MAX));
        let by = thanos.map_or("", |t| t.source.as_str());
        now.saturating_sub(made) < delay
            && !matches!(by, source::BUCKET_REPAIR | source::COMPACTOR | source::COMPACTOR_REPAIR)
    }
}

/// Marks of a block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    /// It is to be deleted.
    pub deletion: Option<DeletionMark>,
    /// It is not to be compacted.
    pub no_compact: Option<NoCompactMark>,
    /// It is not to be downsampled.
    pub no_downsample: Option<NoDownsampleMark>,
}

/// Objects under the id of a block that are no block: an upload that goes on or broke off, a deletion that broke off.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// When the newest of them was written, in ms; `None` where the store does not say.
    pub newest_ms: Option<i64>,
    /// Its deletion mark.
    pub deletion: Option<DeletionMark>,
    /// Whether a living upload has claimed this id.
    pub claimed: bool,
}

/// Decisions about a bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// What is to be done. Each block is in at most one item, so they may be done in any order and side by side.
    pub items: Vec<Item>,
    /// What is left alone although something is due, or looks wrong.
    pub held: Vec<Held>,
}

impl Plan {
    /// The compactions of it.
    pub fn compactions(&self) -> impl Iterator<Item = &Compaction> {
        self.items.iter().filter_map(|i| match &i.action {
            Action::Compact(c) => Some(c),
            _ => None,
        })
    }

    fn item(&mut self, action: Action, why: Why) {
        self.items.push(Item { action, why });
    }

    fn hold(&mut self, what: Subject, why: Hold) {
        self.held.push(Held { what, why });
    }
}

/// Decides what is to be done at `now` (ms since the epoch).
pub fn make(snapshot: &Snapshot, now: i64, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    if !snapshot.complete {
        plan.hold(Subject::Bucket, Hold::Incomplete);
        return plan;
    }
    deletions(snapshot, now, settings, &mut plan);
    let mut streams = streams::group(snapshot, now, settings, &mut plan);
    streams::collect_garbage(&mut streams, &mut plan);
    coarser::decide(&streams, now, settings, &mut plan);
    partial_uploads(snapshot, now, settings, &mut plan);
    plan
}

/// Marked blocks whose delay is over.
fn deletions(snapshot: &Snapshot, now: i64, settings: &Settings, plan: &mut Plan) {
    // Those that may stand for a marked one, by each of their sources.
    let mut sound: BTreeMap<BlockId, Vec<&Block>> = BTreeMap::new();
    if snapshot.blocks.values().any(|b| b.marks.deletion.is_some()) {
        for block in snapshot.blocks.values().filter(|b| b.is_sound()) {
            block.sources().iter().for_each(|source| sound.entry(*source).or_default().push(block));
        }
    }
    for (id, block) in &snapshot.blocks {
        let Some(mark) = block.marks.deletion.as_ref().filter(|m| age(m, now) > settings.delete_delay) else {
            continue;
        };
        // A mark that says "superseded" is believed while that is true. What retention has dropped needs no successor.
        let superseded = mark.details == SOURCE_OF_COMPACTED || mark.details == OUTDATED;
        if superseded
            && !settings.is_over(&block.meta, now)
            && !block
                .sources()
                .first()
                .and_then(|s| sound.get(s))
                .into_iter()
                .flatten()
                .any(|b| b.meta.id != *id && streams::covers(b, block))
        {
            plan.hold(Subject::Block(*id), Hold::SuccessorGone);
            continue;
        }
        let (details, age) = (mark.details.clone(), age(mark, now));
        plan.item(Action::Delete(*id), Why::MarkIsOld { age, delay: settings.delete_delay, details });
    }
}

/// Uploads and deletions that broke off.
fn partial_uploads(snapshot: &Snapshot, now: i64, settings: &Settings, plan: &mut Plan) {
    for (id, partial) in &snapshot.partial {
        if partial.claimed {
            continue;
        }
        if let Some(mark) = &partial.deletion {
            if age(mark, now) > settings.delete_delay {
                plan.item(Action::Delete(*id), Why::DeletionBrokeOff);
            }
            continue;
        }
        let newest = partial.newest_ms.unwrap_or_else(|| i64::try_from(id.time_ms()).unwrap_or(i64::MAX));
        let age = now.saturating_sub(newest);
        if age > settings.partial_age {
            plan.item(Action::Delete(*id), Why::UploadBrokeOff { age });
        }
    }
}

/// How long ago a mark was set, in ms.
fn age(mark: &DeletionMark, now: i64) -> i64 {
    now.saturating_sub(mark.deletion_time.saturating_mul(1000))
}

#[cfg(test)]
mod scenario;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thanos;
