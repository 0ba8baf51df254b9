//! What a bucket looks like when a plan has been done; how much there is to do.

use super::item::{OUTDATED, SOURCE_OF_COMPACTED, span};
use super::{Action, Block, Plan, Settings, Snapshot, Why, compacted, downsampled, make, streams};
use crate::marks::{DeletionMark, NoCompactMark};
use model::BlockId;
use std::sync::Arc;

/// How much there is to do until nothing is left, if nothing new comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Compactions.
    pub compactions: u64,
    /// Blocks that go into them, counted each time.
    pub compaction_blocks: u64,
    /// Blocks that are downsampled.
    pub downsamples: u64,
    /// Blocks that are marked for deletion by retention or because others supersede them.
    pub deletions: u64,
    /// Whether more was to do than was counted.
    pub more: bool,
}

/// Plans, does, and plans again, at the same `now`, at most so many `rounds`.
pub fn forecast(snapshot: &Snapshot, now: i64, settings: &Settings, rounds: usize) -> Forecast {
    let (mut state, mut out, mut number) = (snapshot.clone(), Forecast::default(), 0u128);
    for _ in 0..rounds {
        let plan = make(&state, now, settings);
        if plan.items.is_empty() {
            return out;
        }
        for item in &plan.items {
            match &item.action {
                Action::Compact(c) => {
                    out.compactions += 1;
                    out.compaction_blocks += c.blocks.len() as u64;
                }
                Action::Downsample(..) => out.downsamples += 1,
                Action::MarkForDeletion(_) => out.deletions += 1,
                Action::Delete(_) | Action::MarkNoCompact(..) => {}
            }
        }
        apply(&mut state, &plan, now, settings, &mut || {
            number += 1;
            BlockId::from_parts(u64::try_from(now).unwrap_or(0), number)
        });
    }
    out.more = true;
    out
}

/// Does a plan to a snapshot, as an executor would to the bucket. `id` names new blocks.
pub fn apply(snapshot: &mut Snapshot, plan: &Plan, now: i64, settings: &Settings, id: &mut dyn FnMut() -> BlockId) {
    let mark = |block: &mut Block, details: String| {
        block.marks.deletion.get_or_insert_with(|| DeletionMark::new(block.meta.id, now.div_euclid(1000), details));
    };
    for item in &plan.items {
        match &item.action {
            Action::Delete(block) => {
                snapshot.blocks.remove(block);
                snapshot.partial.remove(block);
            }
            Action::MarkForDeletion(block) => {
                if let Some(block) = snapshot.blocks.get_mut(block) {
                    mark(block, deletion_details(&item.why));
                }
            }
            Action::MarkNoCompact(block, reason) => {
                if let Some(block) = snapshot.blocks.get_mut(block) {
                    let mark = NoCompactMark::new(block.meta.id, now.div_euclid(1000), *reason, item.why.to_string());
                    block.marks.no_compact.get_or_insert(mark);
                }
            }
            Action::Compact(compaction) => {
                let inputs: Vec<Arc<_>> = compaction
                    .blocks
                    .iter()
                    .filter_map(|b| snapshot.blocks.get(b))
                    .map(|b| Arc::clone(&b.meta))
                    .collect();
                let metas: Vec<_> = inputs.iter().map(|m| &**m).collect();
                let labels = inputs.first().map(|m| m.labels()).unwrap_or_default();
                let labels = streams::without_replicas(&labels, &settings.replica_labels);
                let Some(meta) = compacted(id(), &labels, &metas) else { continue };
                let mut block = Block::new(meta);
                let sizes = compaction.blocks.iter().filter_map(|b| snapshot.blocks.get(b)?.index_size());
                block.index_bytes = Some(sizes.sum());
                snapshot.blocks.insert(block.meta.id, block);
                for input in &compaction.blocks {
                    if let Some(block) = snapshot.blocks.get_mut(input) {
                        mark(block, SOURCE_OF_COMPACTED.to_owned());
                    }
                }
            }
            Action::Downsample(block, to) => {
                let Some(block) = snapshot.blocks.get(block).cloned() else { continue };
                for resolution in to {
                    let mut copy = Block::new(downsampled(id(), &block.meta, *resolution));
                    copy.index_bytes = block.index_size();
                    snapshot.blocks.insert(copy.meta.id, copy);
                }
            }
        }
    }
}

/// What a deletion mark says for a reason; as Thanos, where it has that reason.
pub fn deletion_details(why: &Why) -> String {
    match why {
        Why::Superseded { .. } => OUTDATED.to_owned(),
        Why::Retention { keep } => format!("block exceeding retention of {}", span(*keep)),
        other => other.to_string(),
    }
}
