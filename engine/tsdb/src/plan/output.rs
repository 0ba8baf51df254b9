//! The meta.json of blocks that a plan makes.

use crate::meta::{BlockMeta, Compaction, Downsample, IndexStats, Parent, Stats, Thanos, source};
use model::{BlockId, Labels};
use std::collections::BTreeSet;

/// Of the block `id` that is made of these, in their order, for a stream of these labels: as Prometheus and Thanos write it. Its
/// stats, files and time of upload are whoever's who writes it.
///
/// `None` if there are no blocks.
pub fn compacted(id: BlockId, labels: &Labels, blocks: &[&BlockMeta]) -> Option<BlockMeta> {
    let min_time = blocks.iter().map(|b| b.min_time).min()?;
    let max_time = blocks.iter().map(|b| b.max_time).max()?;
    let sources: BTreeSet<BlockId> = blocks.iter().flat_map(|b| sources(b)).copied().collect();
    let parent =
        |b: &&BlockMeta| Parent { id: b.id, min_time: b.min_time, max_time: b.max_time, unknown: Default::default() };
    let resolution = blocks.iter().map(|b| b.resolution()).max()?;
    let mut meta = BlockMeta::new(id, min_time, max_time);
    meta.compaction = Compaction {
        level: blocks.iter().map(|b| b.compaction.level).max()?.saturating_add(1),
        sources: sources.into_iter().collect(),
        parents: blocks.iter().map(parent).collect(),
        ..Compaction::default()
    };
    meta.thanos = Some(Thanos {
        version: 1,
        labels: labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        downsample: Downsample { resolution, ..Downsample::default() },
        source: source::COMPACTOR.to_owned(),
        extensions: extensions(blocks),
        ..Thanos::default()
    });
    Some(meta)
}

/// Of the block `id` that is made of `block` in a coarser resolution (ms): range, labels and compaction section stay.
pub fn downsampled(id: BlockId, block: &BlockMeta, resolution: i64) -> BlockMeta {
    let mut meta = block.clone();
    meta.id = id;
    meta.stats = Stats::default();
    // What has no source of its own would otherwise be nobody's copy.
    meta.compaction.sources = sources(block).to_vec();
    let thanos = meta.thanos.get_or_insert_default();
    thanos.downsample.resolution = resolution;
    thanos.source = source::COMPACTOR.to_owned();
    thanos.segment_files.clear();
    thanos.files.clear();
    thanos.index_stats = IndexStats::default();
    meta
}

fn sources(meta: &BlockMeta) -> &[BlockId] {
    match meta.compaction.sources.as_slice() {
        [] => std::slice::from_ref(&meta.id),
        sources => sources,
    }
}

/// Keys that all blocks with extensions have, with the first one's values.
fn extensions(blocks: &[&BlockMeta]) -> Option<serde_json::Value> {
    let mut all = blocks.iter().filter_map(|b| b.thanos.as_ref()?.extensions.as_ref()?.as_object());
    let mut kept = all.next()?.clone();
    for other in all {
        kept.retain(|key, _| other.contains_key(key));
    }
    (!kept.is_empty()).then_some(serde_json::Value::Object(kept))
}
