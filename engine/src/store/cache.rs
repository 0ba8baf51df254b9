//! Postings and series of indexes, kept in memory; bounded in bytes, the bookkeeping counted.

use bytes::Bytes;
use model::BlockId;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Bytes that an entry takes beside key and value.
const OVERHEAD: u64 = 96;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The postings list of a label pair, in whatever form the reader of postings likes.
    Postings(BlockId, Box<str>, Box<str>),
    /// The postings of a set of matchers, under a text that stands for them.
    Expanded(BlockId, Box<str>),
    /// The series at this reference (bytes from the start of the index).
    Series(BlockId, u64),
}

impl Key {
    /// The `item_type` label of metrics.
    pub fn item_type(&self) -> &'static str {
        match self {
            Self::Postings(..) => "Postings",
            Self::Expanded(..) => "ExpandedPostings",
            Self::Series(..) => "Series",
        }
    }

    fn heap(&self) -> usize {
        match self {
            Self::Postings(_, name, value) => name.len() + value.len(),
            Self::Expanded(_, matchers) => matchers.len(),
            Self::Series(..) => 0,
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

/// The cache; one for all blocks.
pub struct IndexCache {
    kept: Cache<Key, Bytes, Bytewise>,
    max_item: u64,
}

impl IndexCache {
    /// A cache of at most `max_bytes`, none of its items larger than `max_item` bytes.
    pub fn new(max_bytes: u64, max_item: u64) -> Self {
        let items = usize::try_from(max_bytes / 1024).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self { kept: Cache::with_weighter(items, max_bytes, Bytewise), max_item: max_item.min(max_bytes) }
    }

    /// What is kept under this key.
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        self.kept.get(key)
    }

    /// Keeps a value. Hand in bytes of its own: a slice would keep the whole buffer that it was cut from.
    pub fn insert(&self, key: Key, value: Bytes) {
        if Bytewise.weight(&key, &value) <= self.max_item {
            self.kept.insert(key, value);
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.kept.weight()
    }
}
