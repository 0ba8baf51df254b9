//! What is kept of a meta.json: all that decides whether and how a block is served, in a few hundred bytes.

use model::{BlockId, Labels};
use tsdb::BlockMeta;
use tsdb::meta::source;

/// What is kept of a meta.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: BlockId,
    /// Begin of its time range in ms, inclusive.
    pub min_t: i64,
    /// End of its time range in ms, exclusive.
    pub max_t: i64,
    /// Resolution in ms.
    pub resolution: i64,
    /// External labels.
    pub external: Labels,
    /// Ids of the blocks of level 1 that went in.
    pub sources: Box<[BlockId]>,
    /// When it went to the bucket, in ms since the epoch, if it says so.
    pub upload_ms: Option<i64>,
    /// It was made in the bucket, so that no other part of the same data can be late.
    pub is_compacted: bool,
    /// Bytes of its longest series entry; 0 where it does not tell.
    pub series_max: u32,
    /// Bytes of its longest chunk; 0 where it does not tell.
    pub chunk_max: u32,
    /// Bytes of its index; 0 where it does not tell.
    pub index_bytes: u64,
    /// Bytes of its segments from number 1 on; empty where it does not tell.
    pub segments: Box<[u64]>,
    /// Hash of the whole document: two that differ in anything are two.
    pub hash: u64,
    /// Hash of what it says of the content, which stays as long as the bytes of index and segments do.
    pub content: u64,
}

impl Entry {
    /// Keeps what is needed.
    pub fn new(meta: &BlockMeta) -> Self {
        let thanos = meta.thanos.as_ref();
        let stats = thanos.map(|t| &t.index_stats);
        let bytes = |n: u64| u32::try_from(n).unwrap_or(0);
        let files = || thanos.into_iter().flat_map(|t| &t.files);
        let index = files().find(|f| f.rel_path == bucket::block::INDEX);
        let from = thanos.map_or("", |t| t.source.as_str());
        // A document that was read can be written.
        let json = serde_json::to_vec(meta).unwrap_or_default();
        Self {
            id: meta.id,
            min_t: meta.min_time,
            max_t: meta.max_time,
            resolution: meta.resolution(),
            external: meta.labels(),
            sources: meta.compaction.sources.clone().into(),
            upload_ms: thanos.and_then(|t| t.upload_time.ms()),
            is_compacted: [source::COMPACTOR, source::COMPACTOR_REPAIR, source::BUCKET_REPAIR].contains(&from),
            series_max: stats.map_or(0, |s| bytes(s.series_max_size)),
            chunk_max: stats.map_or(0, |s| bytes(s.chunk_max_size)),
            index_bytes: index.map_or(0, |f| f.size_bytes),
            segments: (1..)
                .map_while(|n| {
                    let name = bucket::block::segment(n);
                    files().find(|f| f.rel_path == name).map(|f| f.size_bytes)
                })
                .collect(),
            hash: xxhash_rust::xxh3::xxh3_64(&json),
            content: content(meta),
        }
    }

    /// Age in ms, by its upload or else by its id.
    pub fn age(&self, now_ms: i64) -> i64 {
        let born = self.upload_ms.unwrap_or_else(|| i64::try_from(self.id.time_ms()).unwrap_or(0));
        now_ms.saturating_sub(born)
    }
}

/// Stands for the bytes of index and segments, as far as a meta.json tells them apart. What versions of this program keep of a
/// meta.json does not matter, so that an update fetches nothing anew.
fn content(meta: &BlockMeta) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let stats = &meta.stats;
    let uploaded = meta.thanos.as_ref().and_then(|t| t.upload_time.ms()).unwrap_or(0);
    for number in [meta.min_time, meta.max_time, meta.resolution(), uploaded] {
        hasher.update(&number.to_be_bytes());
    }
    for number in [stats.num_series, stats.num_samples, stats.num_chunks] {
        hasher.update(&number.to_be_bytes());
    }
    for file in meta.thanos.iter().flat_map(|t| &t.files).filter(|f| f.rel_path != bucket::block::META) {
        hasher.update(file.rel_path.as_bytes());
        hasher.update(&file.size_bytes.to_be_bytes());
        hasher.update(file.hash.as_ref().map_or(&[][..], |h| h.value.as_bytes()));
    }
    hasher.digest()
}
