//! Blocks by the stream that they are of, and those of a stream that others supersede.

use super::item::resolution;
use super::{Action, Block, Hold, Plan, Settings, Snapshot, Subject, Why};
use model::{BlockId, Labels};
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that may become one: same resolution, same external labels (but for those of replicas).
#[derive(Debug, Clone)]
pub struct Stream<'a> {
    /// Resolution in ms.
    pub resolution: i64,
    /// External labels, those of replicas left out.
    pub labels: Labels,
    /// Its blocks, by begin.
    pub blocks: Vec<&'a Block>,
    /// Those of them that are too fresh: nothing is done to them, nor around them.
    pub fresh: BTreeSet<BlockId>,
}

impl Stream<'_> {
    /// How it is called in plans and logs: `raw{cluster="eu"}`.
    pub fn name(&self) -> String {
        name(self.resolution, &self.labels)
    }
}

fn name(ms: i64, labels: &Labels) -> String {
    format!("{}{labels}", resolution(ms))
}

/// Puts blocks into streams. Left out are those that were marked for deletion long ago; damaged ones are told.
pub(super) fn group<'a>(snapshot: &'a Snapshot, now: i64, settings: &Settings, plan: &mut Plan) -> Vec<Stream<'a>> {
    let mut streams: BTreeMap<(i64, Labels), Vec<&Block>> = BTreeMap::new();
    for (id, block) in &snapshot.blocks {
        // For half the delay a mark may be a mistake that someone takes back: nothing is compacted around the block so long.
        if block.marks.deletion.as_ref().is_some_and(|m| super::age(m, now) > settings.delete_delay / 2) {
            continue;
        }
        if !block.problems.is_empty() {
            plan.hold(Subject::Block(*id), Hold::Damaged(block.problems.join(", ")));
        }
        let resolution = block.meta.resolution();
        if !super::RESOLUTIONS.contains(&resolution) {
            plan.hold(Subject::Block(*id), Hold::Resolution(resolution));
            continue;
        }
        let labels = without_replicas(&block.meta.labels(), &settings.replica_labels);
        streams.entry((resolution, labels)).or_default().push(block);
    }
    let stream = |((resolution, labels), mut blocks): (_, Vec<&'a Block>)| {
        blocks.sort_by_key(|b| (b.meta.min_time, b.meta.id));
        let fresh = blocks.iter().filter(|b| b.is_too_fresh(now, settings.consistency_delay));
        let fresh = fresh.map(|b| b.meta.id).collect();
        Stream { resolution, labels, blocks, fresh }
    };
    streams.into_iter().map(stream).collect()
}

/// External labels without those that tell replicas apart. As Thanos does: if nothing else is left, the first of them stays and
/// says `deduped`.
pub fn without_replicas(labels: &Labels, replicas: &[String]) -> Labels {
    let rest = labels.without(replicas);
    match replicas.first() {
        Some(first) if rest.is_empty() && !replicas.is_empty() => rest.with(first, "deduped"),
        _ => rest,
    }
}

/// Whether `by` holds all that `block` holds: its sources and its time, in the same resolution.
pub(super) fn covers(by: &Block, block: &Block) -> bool {
    by.meta.resolution() == block.meta.resolution()
        && by.meta.min_time <= block.meta.min_time
        && by.meta.max_time >= block.meta.max_time
        && block.sources().iter().all(|s| by.sources().contains(s))
}

/// Marks blocks whose sources another one of the stream has, too, and takes them out of the stream. Of two with the same sources
/// the older stays.
pub(super) fn collect_garbage(streams: &mut [Stream<'_>], plan: &mut Plan) {
    for stream in streams {
        let mut by_sources = stream.blocks.clone();
        by_sources.retain(|b| !stream.fresh.contains(&b.meta.id));
        by_sources.sort_by_key(|b| (std::cmp::Reverse(b.sources().len()), b.meta.id));
        // Blocks that stay, by each source that they hold.
        let mut holders: BTreeMap<BlockId, Vec<&Block>> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for block in by_sources {
            let first = block.sources().first();
            let by = first.and_then(|s| holders.get(s)).and_then(|h| h.iter().find(|by| covers(by, block)));
            match by {
                Some(by) => {
                    gone.insert(block.meta.id);
                    if block.marks.deletion.is_none() {
                        let why = Why::Superseded { by: by.meta.id };
                        plan.item(Action::MarkForDeletion(block.meta.id), why);
                    }
                }
                None if block.is_sound() => {
                    for source in block.sources() {
                        holders.entry(*source).or_default().push(block);
                    }
                }
                None => {}
            }
        }
        stream.blocks.retain(|b| !gone.contains(&b.meta.id));
    }
}
