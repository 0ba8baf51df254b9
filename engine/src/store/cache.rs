//! Postings and series of indexes, kept in memory; bounded in bytes, the bookkeeping counted.

use super::blocks::Edition;
use crate::server::metrics::gauge;
use bytes::Bytes;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};
use std::sync::Arc;
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
    /// Gave way, to others or to a newer one of their own.
    evicted: AtomicU64,
    /// Kept now, and their bytes without and with the bookkeeping.
    items: AtomicU64,
    bytes: AtomicU64,
    weight: AtomicU64,
}

impl Counts {
    fn came(&self, key: &Key, value: &Bytes) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        self.weight.fetch_add(Bytewise.weight(key, value), Ordering::Relaxed);
    }

    fn went(&self, key: &Key, value: &Bytes) {
        self.items.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(value.len() as u64, Ordering::Relaxed);
        self.weight.fetch_sub(Bytewise.weight(key, value), Ordering::Relaxed);
    }
}

/// What happened to items, by their type; clones share it.
#[derive(Clone, Debug, Default)]
struct ByType(Arc<[Counts; 4]>);

impl ByType {
    fn of(&self, key: &Key) -> &Counts {
        let [postings, expanded, series, values] = &*self.0;
        match key {
            Key::Postings(..) => postings,
            Key::Expanded(..) => expanded,
            Key::Series(..) => series,
            Key::Values(..) => values,
        }
    }
}

impl Lifecycle<Key, Bytes> for ByType {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), key: Key, value: Bytes) {
        let counts = self.of(&key);
        counts.evicted.fetch_add(1, Ordering::Relaxed);
        counts.went(&key, &value);
    }
}

/// The cache; one for all blocks.
pub struct IndexCache {
    kept: Cache<Key, Bytes, Bytewise, DefaultHashBuilder, ByType>,
    max_bytes: u64,
    max_item: u64,
    counts: ByType,
}

impl IndexCache {
    /// A cache of at most `max_bytes`, none of its items larger than `max_item` bytes.
    pub fn new(max_bytes: u64, max_item: u64) -> Self {
        let items = usize::try_from(max_bytes / 1024).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let counts = ByType::default();
        let kept = Cache::with(items, max_bytes, Bytewise, DefaultHashBuilder::default(), counts.clone());
        Self { kept, max_bytes, max_item: max_item.min(max_bytes), counts }
    }

    /// What is kept under this key.
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        let found = self.kept.get(key);
        let counts = self.counts.of(key);
        counts.requests.fetch_add(1, Ordering::Relaxed);
        counts.hits.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
        found
    }

    /// Keeps a value. Hand in bytes of its own: a slice would keep the whole buffer that it was cut from.
    pub fn insert(&self, key: Key, value: Bytes) {
        let counts = self.counts.of(&key);
        if Bytewise.weight(&key, &value) > self.max_item {
            counts.too_large.fetch_add(1, Ordering::Relaxed);
            return;
        }
        counts.added.fetch_add(1, Ordering::Relaxed);
        counts.came(&key, &value);
        self.kept.insert(key, value);
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Thanos's metrics of its index cache.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Count = fn(&Counts) -> &AtomicU64;
        let families: [(&str, &str, Count); 5] = [
            ("requests", "Items that were asked for", |c| &c.requests),
            ("hits", "Items that were there", |c| &c.hits),
            ("items_added", "Items that were kept", |c| &c.added),
            ("items_evicted", "Items that gave way to others", |c| &c.evicted),
            ("items_overflowed", "Items that were too large to be kept", |c| &c.too_large),
        ];
        for (name, help, count) in families {
            let name = format!("thanos_store_index_cache_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (item_type, counts) in TYPES.iter().zip(&*self.counts.0) {
                let labels = [("item_type", *item_type)];
                ConstCounter::new(count(counts).load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
            }
        }
        let families: [(&str, &str, Count); 3] = [
            ("items", "Items that are kept", |c| &c.items),
            ("items_size_bytes", "Bytes of items that are kept", |c| &c.bytes),
            ("total_size_bytes", "Bytes that are kept, bookkeeping included", |c| &c.weight),
        ];
        for (name, help, count) in families {
            let name = format!("thanos_store_index_cache_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (item_type, counts) in TYPES.iter().zip(&*self.counts.0) {
                let value = i64::try_from(count(counts).load(Ordering::Relaxed)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(family.encode_family(&[("item_type", *item_type)])?)?;
            }
        }
        for (name, help, value) in [
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
        let counts = cache.counts.of(&key(0));
        let [added, evicted, items, weight] =
            [&counts.added, &counts.evicted, &counts.items, &counts.weight].map(|n| n.load(Ordering::Relaxed));
        assert_eq!((added, items, weight), (10_000, there as u64, cache.bytes()));
        assert_eq!(evicted, 10_000 - items);
        // A newer one takes the place of the older.
        for n in 1..=3 {
            cache.insert(Key::Series(edition, 7), Bytes::from(vec![0; n]));
        }
        let series = cache.counts.of(&Key::Series(edition, 7));
        assert_eq!([&series.items, &series.bytes].map(|n| n.load(Ordering::Relaxed)), [1, 3]);
        cache.insert(key(0), Bytes::from(vec![0; 10_000]));
        assert_eq!(cache.get(&key(0)).map(|b| b.len()).filter(|n| *n > 1000), None);
    }
}
