//! Postings and series of indexes, kept in memory; bounded in bytes, the bookkeeping counted.

use super::blocks::Edition;
use crate::server::metrics::gauge;
use bytes::Bytes;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};

/// The `item_type` label of metrics, as Thanos has it; the last one is ours.
const TYPES: [&str; 4] = ["Postings", "ExpandedPostings", "Series", "LabelValues"];
/// Bytes that an entry takes beside key and value.
const OVERHEAD: u64 = 96;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The postings list of a label pair, in whatever form the reader of postings likes.
    Postings(Edition, Box<str>, Box<str>),
    /// The postings of a set of matchers, under a text that stands for them.
    Expanded(Edition, Box<str>),
    /// The series at this reference (bytes from the start of the index).
    Series(Edition, u64),
    /// The values of a label, as [`super::labels::Texts`] has them.
    Values(Edition, Box<str>),
}

impl Key {
    fn heap(&self) -> usize {
        match self {
            Self::Postings(_, name, value) => name.len() + value.len(),
            Self::Expanded(_, matchers) => matchers.len(),
            Self::Series(..) => 0,
            Self::Values(_, label) => label.len(),
        }
    }
}

#[derive(Clone)]
struct Bytewise;

impl Weighter<Key, Bytes> for Bytewise {
    fn weight(&self, key: &Key, value: &Bytes) -> u64 {
        OVERHEAD + (key.heap() + value.len()) as u64
    }
}

/// What happened to items of one type.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    hits: AtomicU64,
    added: AtomicU64,
    too_large: AtomicU64,
}

/// The cache; one for all blocks.
pub struct IndexCache {
    kept: Cache<Key, Bytes, Bytewise>,
    max_bytes: u64,
    max_item: u64,
    counts: [Counts; 4],
}

impl IndexCache {
    /// A cache of at most `max_bytes`, none of its items larger than `max_item` bytes.
    pub fn new(max_bytes: u64, max_item: u64) -> Self {
        let items = usize::try_from(max_bytes / 1024).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let kept = Cache::with_weighter(items, max_bytes, Bytewise);
        Self { kept, max_bytes, max_item: max_item.min(max_bytes), counts: Default::default() }
    }

    fn counts(&self, key: &Key) -> &Counts {
        let [postings, expanded, series, values] = &self.counts;
        match key {
            Key::Postings(..) => postings,
            Key::Expanded(..) => expanded,
            Key::Series(..) => series,
            Key::Values(..) => values,
        }
    }

    /// What is kept under this key.
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        let found = self.kept.get(key);
        let counts = self.counts(key);
        counts.requests.fetch_add(1, Ordering::Relaxed);
        counts.hits.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
        found
    }

    /// Keeps a value. Hand in bytes of its own: a slice would keep the whole buffer that it was cut from.
    pub fn insert(&self, key: Key, value: Bytes) {
        let counts = self.counts(&key);
        if Bytewise.weight(&key, &value) > self.max_item {
            counts.too_large.fetch_add(1, Ordering::Relaxed);
            return;
        }
        counts.added.fetch_add(1, Ordering::Relaxed);
        self.kept.insert(key, value);
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Thanos's metrics of its index cache.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Count = fn(&Counts) -> &AtomicU64;
        let families: [(&str, &str, Count); 4] = [
            ("requests", "Items that were asked for", |c| &c.requests),
            ("hits", "Items that were there", |c| &c.hits),
            ("items_added", "Items that were kept", |c| &c.added),
            ("items_overflowed", "Items that were too large to be kept", |c| &c.too_large),
        ];
        for (name, help, count) in families {
            let name = format!("thanos_store_index_cache_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (item_type, counts) in TYPES.iter().zip(&self.counts) {
                let labels = [("item_type", *item_type)];
                ConstCounter::new(count(counts).load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in [
            ("items", "Items that are kept", self.kept.len() as u64),
            ("total_size_bytes", "Bytes that are kept, bookkeeping included", self.kept.weight()),
            ("max_size_bytes", "Most bytes that are kept", self.max_bytes),
            ("max_item_size_bytes", "Most bytes of one item", self.max_item),
        ] {
            gauge(encoder, &format!("thanos_store_index_cache_{name}"), help, value as f64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes_and_takes_nothing_too_large() {
        let cache = IndexCache::new(1 << 20, 10_000);
        let edition = Edition { id: model::BlockId::from_parts(1, 1), bucket: 1, content: 1 };
        let key = |n: usize| Key::Expanded(edition, format!("{n:0100}").into());
        for n in 0..10_000 {
            cache.insert(key(n), Bytes::from(vec![0; 1000]));
            assert!(cache.bytes() <= 1 << 20, "{} bytes", cache.bytes());
        }
        // Keys and bookkeeping count.
        let there = (0..10_000).filter(|n| cache.get(&key(*n)).is_some()).count();
        assert!((400..=876).contains(&there), "{there} items");
        cache.insert(key(0), Bytes::from(vec![0; 10_000]));
        assert_eq!(cache.get(&key(0)).map(|b| b.len()).filter(|n| *n > 1000), None);
    }
}
