//! What the bucket has besides our blocks, as far as it decides on ours: read where the catalogue can't tell, which is rare.
//!
//! Every meta.json is read once and dropped, so that a bucket that many clusters share costs time and no memory.

use bucket::store::Entry;
use bucket::{Advice, Bucket, Result, block};
use futures::{StreamExt as _, TryStreamExt as _};
use model::{BlockId, Labels};
use std::collections::{BTreeMap, BTreeSet};
use tsdb::meta::{BlockMeta, MAX_META_BYTES};

/// Files that are read at the same time.
const CONCURRENCY: usize = 8;

/// What one reading has found.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Local blocks that went into another block of the bucket, and which: whatever its labels, since ids are unique, and
    /// labels change.
    pub(super) covered: BTreeMap<BlockId, BlockId>,
    /// Blocks with our labels: id, begin and end of the time in ms.
    ranges: Vec<(BlockId, i64, i64)>,
}

impl Others {
    /// Reads every meta.json of the bucket. A file that can't be read says nothing and is told in the log; a store that
    /// refuses is a failure.
    pub(super) async fn read(bucket: &Bucket, local: &BTreeSet<BlockId>, labels: &Labels) -> Result<Self> {
        let mut metas = bucket
            .list_dir("")
            .try_filter_map(|entry| async move {
                Ok(match entry {
                    Entry::Directory(path) => path.trim_end_matches('/').parse::<BlockId>().ok(),
                    Entry::Object(_) => None,
                })
            })
            .map_ok(|id| {
                let bucket = bucket.clone();
                async move {
                    let path = block::object(id, block::META);
                    match bucket.get(&path, MAX_META_BYTES).await {
                        Ok(object) => Ok(BlockMeta::read(&path, &object.bytes)
                            .inspect_err(|error| tracing::warn!(%error, "a block of the bucket is passed over"))
                            .ok()),
                        Err(e) if e.is_not_found() => Ok(None),
                        Err(error) if error.advice() == Advice::Skip => {
                            tracing::warn!(%error, "a block of the bucket is passed over");
                            Ok(None)
                        }
                        Err(e) => Err(e),
                    }
                }
            })
            .try_buffer_unordered(CONCURRENCY)
            .boxed();
        let mut others = Self::default();
        while let Some(meta) = metas.try_next().await? {
            let Some(meta) = meta else { continue };
            let sources = meta.compaction.sources.iter().filter(|s| **s != meta.id && local.contains(s));
            others.covered.extend(sources.map(|source| (*source, meta.id)));
            if meta.labels() == *labels {
                others.ranges.push((meta.id, meta.min_time, meta.max_time));
            }
        }
        Ok(others)
    }

    /// A block of ours is there since it was read; its time in ms.
    pub(super) fn joined(&mut self, id: BlockId, (begin, end): (i64, i64)) {
        self.ranges.push((id, begin, end));
    }

    /// Another block with our labels that shares time with `begin..end` (ms).
    pub(super) fn overlapping(&self, id: BlockId, (begin, end): (i64, i64)) -> Option<BlockId> {
        self.ranges.iter().find(|r| r.0 != id && r.1 < end && begin < r.2).map(|r| r.0)
    }
}
