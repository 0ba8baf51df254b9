//! What one request wants of every block, and what it has used.

use crate::storeapi::wire::Shard;
use model::{Labels, Matcher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What a Series request wants of every series and chunk.
#[derive(Debug)]
pub struct Spec {
    /// Oldest sample in ms, inclusive.
    pub min_t: i64,
    /// Newest sample in ms, inclusive.
    pub max_t: i64,
    /// Names to leave out of the final labels.
    pub without: Vec<String>,
    /// The caller's share of the series.
    pub shard: Option<Shard>,
    /// Labels only.
    pub skip_chunks: bool,
    /// Which aggregates to send of downsampled chunks.
    pub aggregates: Aggregates,
    /// Bytes that a chunk is expected to have where its block does not tell.
    pub chunk_estimate: u32,
    /// Series up to and with these labels were sent before.
    pub after: Option<Labels>,
    /// Set when nobody waits for the answer any more.
    pub stop: Stop,
    /// What was done.
    pub stats: Arc<Stats>,
}

/// Which aggregates are wanted, by the StoreAPI's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aggregates(u8);

impl Aggregates {
    /// From a request; numbers that are not known want nothing.
    pub fn read(wire: &[i32]) -> Self {
        Self(wire.iter().filter_map(|n| 1u8.checked_shl(u32::try_from(*n).ok()?)).fold(0, |a, b| a | b))
    }

    /// Whether one is wanted.
    pub fn has(self, aggregate: tsdb::chunk::aggregate::Aggregate) -> bool {
        // 0 is RAW; the others follow in the container's order.
        self.0 >> (aggregate as u8 + 1) & 1 == 1
    }
}

/// A sign that work is in vain. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// True once nobody waits.
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Sets the sign when the guard is dropped.
    pub fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }
}

/// See [`Stop::on_drop`].
#[derive(Debug)]
pub struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

/// One kind of data: postings, series or chunks.
#[derive(Debug, Default)]
pub struct Counts {
    /// Items that were looked at.
    pub touched: AtomicU64,
    /// Their bytes.
    pub touched_bytes: AtomicU64,
    /// Items that were read.
    pub fetched: AtomicU64,
    /// Bytes that were read for them.
    pub fetched_bytes: AtomicU64,
    /// Reads.
    pub fetches: AtomicU64,
}

/// What was done for one request.
#[derive(Debug, Default)]
pub struct Stats {
    /// Blocks that were opened.
    pub blocks: AtomicU64,
    /// Series that were sent.
    pub series: AtomicU64,
    /// Chunks that were sent.
    pub chunks: AtomicU64,
    /// Bytes of chunks that were sent.
    pub chunk_bytes: AtomicU64,
    /// Postings lists.
    pub postings: Counts,
    /// Series entries.
    pub entries: Counts,
    /// Chunks.
    pub data: Counts,
    /// Entries that had to be read again because they are longer than expected.
    pub entry_refetches: AtomicU64,
    /// Chunks that had to be read again because they are longer than expected.
    pub chunk_refetches: AtomicU64,
    /// Groups of postings that were not read because they are larger than what they save.
    pub lazy_size: AtomicU64,
    /// Groups of postings that were not read because they have too many lists.
    pub lazy_keys: AtomicU64,
    /// Blocks some of whose postings were not read.
    pub lazy_blocks: AtomicU64,
    /// Blocks without a single matching series.
    pub empty: AtomicU64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: impl TryInto<u64>) {
    counter.fetch_add(n.try_into().unwrap_or(u64::MAX), Relaxed);
}

impl Counts {
    /// Notes reads.
    pub fn fetched(&self, items: usize, bytes: u64, reads: usize) {
        add(&self.fetched, items as u64);
        add(&self.fetched_bytes, bytes);
        add(&self.fetches, reads as u64);
    }
}

/// Sets external labels over a sorted label set and leaves names out; the result is sorted.
pub fn final_labels(pairs: &[(&str, &str)], external: &Labels, without: &[String]) -> Labels {
    if external.is_empty() && without.is_empty() {
        return Labels::from_sorted(pairs.iter().copied());
    }
    let mut over = external.iter().peekable();
    let mut own = pairs.iter().copied().peekable();
    Labels::from_sorted(std::iter::from_fn(move || {
        loop {
            let take_own = match (own.peek(), over.peek()) {
                (None, None) => return None,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((a, _)), Some((b, _))) => {
                    if a == b {
                        own.next();
                        continue;
                    }
                    a < b
                }
            };
            let pair = if take_own { own.next() } else { over.next() }?;
            if !without.iter().any(|w| w == pair.0) {
                return Some(pair);
            }
        }
    }))
}

/// The value of a name in a sorted label set, empty if it is absent.
pub fn value_of<'a>(pairs: &[(&'a str, &'a str)], name: &str) -> &'a str {
    pairs.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v)
}

/// True if a sorted label set passes all matchers.
pub fn passes(pairs: &[(&str, &str)], matchers: &[Matcher]) -> bool {
    matchers.iter().all(|m| m.matches(value_of(pairs, &m.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tsdb::chunk::aggregate::Aggregate;

    #[test]
    fn aggregates_are_by_number() {
        let a = Aggregates::read(&[1, 5, 0, 77, -3]);
        assert!(a.has(Aggregate::Count) && a.has(Aggregate::Counter));
        assert!(!a.has(Aggregate::Sum) && !a.has(Aggregate::Min) && !a.has(Aggregate::Max));
        assert_eq!(Aggregates::read(&[]), Aggregates::default());
        let stop = Stop::default();
        drop(stop.clone().on_drop());
        assert!(stop.is_set());
    }

    proptest! {
        #[test]
        fn final_labels_are_overlay_and_without(
            own in prop::collection::btree_map("[a-e]", "[x-z]", 0..5),
            external in prop::collection::btree_map("[a-g]", "[1-3]", 0..4),
            without in prop::collection::vec("[a-g]", 0..3),
        ) {
            let (own, external) = (Labels::from_pairs(own), Labels::from_pairs(external));
            let pairs: Vec<(&str, &str)> = own.iter().collect();
            let want = own.overlay(&external).without(&without);
            prop_assert_eq!(final_labels(&pairs, &external, &without), want);
        }
    }
}
