//! Order after the labels have changed.
//!
//! Prometheus sends series in the order of their own labels; we owe the order of the final ones. Adding the same label to all
//! series disturbs the order in one place only: a label set S and those that extend it by a name below the added one change
//! sides. All extensions of S follow S directly, so it is enough to hold S back until something greater comes: a handful of
//! series in memory instead of the whole answer. That holds while no series has a label of its own under an added or removed
//! name; where one has, everything is collected and sorted, within a budget.

use crate::storeapi::wire::compare;
use proto::thanos::{Label, Series};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The order can't be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    /// A series came too late: it has an own label under an external or removed name, which was not known.
    #[error("a series came out of order because it has an external label of its own; ask again")]
    Late,
    /// The budget is used up.
    #[error(
        "the answers under way have more than {0} bytes and have to be sorted in memory, because series have labels of their \
         own under external or replica names: narrow the request, rename those labels, or give the sidecar more memory"
    )]
    Budget(usize),
}

/// Bytes that all answers of a sidecar together may hold back; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    limit: usize,
    used: Arc<AtomicUsize>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: Arc::default() }
    }

    /// Half of the memory that the container may use, at most `most`.
    pub(super) fn of_container(most: usize) -> Self {
        let limit = crate::server::memory::limit().and_then(|n| usize::try_from(n).ok());
        Self::new(limit.map_or(most, |n| (n / 2).min(most)))
    }
}

/// What one answer holds back. It is given back when the answer ends, however it ends.
#[derive(Debug)]
pub(super) struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    fn add(&mut self, bytes: usize) -> Result<(), OrderError> {
        self.bytes += bytes;
        let before = self.budget.used.fetch_add(bytes, Relaxed);
        if before + bytes > self.budget.limit { Err(OrderError::Budget(self.budget.limit)) } else { Ok(()) }
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// Restores the order of a stream of series.
#[derive(Debug)]
pub(super) enum Order {
    /// Series are held back only as long as a smaller one may come.
    Streaming { held: BinaryHeap<Reverse<Entry>>, last: Option<Vec<Label>>, next: u64, bytes: Held },
    /// Everything is collected.
    Collecting { all: Vec<Series>, bytes: Held },
}

#[derive(Debug)]
pub(super) struct Entry {
    series: Series,
    /// Parts of one series keep their order.
    number: u64,
    bytes: usize,
}

impl Ord for Entry {
    fn cmp(&self, o: &Self) -> Ordering {
        compare(&self.series.labels, &o.series.labels).then(self.number.cmp(&o.number))
    }
}
impl PartialOrd for Entry {
    fn partial_cmp(&self, o: &Self) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}
impl PartialEq for Entry {
    fn eq(&self, o: &Self) -> bool {
        self.cmp(o) == Ordering::Equal
    }
}
impl Eq for Entry {}

impl Order {
    /// For series without own labels under the changed names.
    pub(super) fn streaming(budget: &Budget) -> Self {
        Self::Streaming { held: BinaryHeap::new(), last: None, next: 0, bytes: Held::new(budget) }
    }

    /// For any series.
    pub(super) fn collecting(budget: &Budget) -> Self {
        Self::Collecting { all: Vec::new(), bytes: Held::new(budget) }
    }

    /// Adds a series with its final labels; gives those whose turn has come.
    pub(super) fn push(&mut self, series: Series) -> Result<Vec<Series>, OrderError> {
        let size = size(&series);
        match self {
            Self::Collecting { all, bytes } => {
                bytes.add(size)?;
                all.push(series);
                Ok(Vec::new())
            }
            Self::Streaming { held, last, next, bytes } => {
                if last.as_ref().is_some_and(|l| compare(&series.labels, l) == Ordering::Less) {
                    return Err(OrderError::Late);
                }
                let mut out = Vec::new();
                while let Some(Reverse(first)) = held.peek()
                    && compare(&first.series.labels, &series.labels) == Ordering::Less
                {
                    let Some(Reverse(first)) = held.pop() else { break };
                    bytes.give_back(first.bytes);
                    out.push(first.series);
                }
                if let Some(s) = out.last() {
                    *last = Some(s.labels.clone());
                }
                bytes.add(size)?;
                held.push(Reverse(Entry { series, number: *next, bytes: size }));
                *next += 1;
                Ok(out)
            }
        }
    }

    /// No more series will come: the rest, in order.
    pub(super) fn finish(self) -> Vec<Series> {
        match self {
            Self::Streaming { held, .. } => {
                // Descending in Reverse is ascending in the entries.
                held.into_sorted_vec().into_iter().rev().map(|Reverse(e)| e.series).collect()
            }
            Self::Collecting { mut all, bytes: _held } => {
                // Stable: parts of one series keep their order.
                all.sort_by(|a, b| compare(&a.labels, &b.labels));
                all
            }
        }
    }
}

fn size(s: &Series) -> usize {
    let labels: usize = s.labels.iter().map(|l| l.name.len() + l.value.len() + size_of::<Label>()).sum();
    let chunks: usize = s.chunks.iter().filter_map(|c| c.raw.as_ref()).map(|c| c.data.len() + 128).sum();
    labels + chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storeapi::wire::Relabel;
    use model::Labels;
    use proptest::prelude::*;
    use proto::labels::encode;

    /// Sends sets (in their own order) through relabelling and an order.
    fn run(mut order: Order, own: &[Labels], external: &Labels, without: &[String]) -> Result<Vec<Labels>, OrderError> {
        let relabel = Relabel::new(external, without);
        let mut out = Vec::new();
        for l in own {
            out.extend(order.push(Series { labels: relabel.apply(encode(l)), chunks: vec![] })?);
        }
        out.extend(order.finish());
        Ok(out.iter().map(|s| proto::labels::decode(&s.labels).unwrap()).collect())
    }

    proptest! {
        // Names a…f for series, external names between them: every prefix case occurs.
        #[test]
        fn streaming_equals_sorting(
            sets in prop::collection::btree_set(prop::collection::btree_map("[acegik]", "[12]", 0..5), 0..60),
            external in prop::collection::btree_map("[bdfhjl]", "[12]", 0..4),
            without in prop::collection::vec("[bdfhjl]", 0..2),
        ) {
            let mut own: Vec<Labels> = sets.iter().map(Labels::from_pairs).collect();
            own.sort();
            let external = Labels::from_pairs(&external);
            let streamed = run(Order::streaming(&Budget::new(1 << 20)), &own, &external, &without);
            let sorted = run(Order::collecting(&Budget::new(1 << 20)), &own, &external, &without);
            prop_assert!(sorted.as_ref().unwrap().is_sorted());
            prop_assert_eq!(streamed, sorted);
        }
    }

    #[test]
    fn little_is_held() {
        let mut order = Order::streaming(&Budget::new(1 << 20));
        let relabel = Relabel::new(&Labels::from_pairs([("m", "x")]), &[]);
        for i in 0..1000 {
            let own = Labels::from_pairs([("__name__", "up"), ("pod", &format!("{i:04}"))]);
            order.push(Series { labels: relabel.apply(encode(&own)), chunks: vec![] }).unwrap();
            let Order::Streaming { held, .. } = &order else { unreachable!() };
            assert!(held.len() <= 1);
        }
    }

    #[test]
    fn own_labels_under_an_external_name_are_noticed() {
        // Both become {cluster="ops", x=…}: the own order no longer says anything.
        let own = [
            Labels::from_pairs([("cluster", "a"), ("x", "2")]),
            Labels::from_pairs([("cluster", "b"), ("x", "3")]),
            Labels::from_pairs([("cluster", "c"), ("x", "1")]),
        ];
        let external = Labels::from_pairs([("cluster", "ops")]);
        assert_eq!(run(Order::streaming(&Budget::new(1 << 20)), &own, &external, &[]), Err(OrderError::Late));
        assert!(run(Order::collecting(&Budget::new(1 << 20)), &own, &external, &[]).unwrap().is_sorted());
        // The budget is shared, and given back.
        let budget = Budget::new(600);
        assert_eq!(run(Order::collecting(&Budget::new(100)), &own, &external, &[]), Err(OrderError::Budget(100)));
        for _ in 0..10 {
            assert!(run(Order::collecting(&budget), &own, &external, &[]).is_ok());
        }
        let mut other = Order::collecting(&budget);
        other.push(Series { labels: encode(&own[0]), chunks: vec![] }).unwrap();
        other.push(Series { labels: encode(&own[1]), chunks: vec![] }).unwrap();
        other.push(Series { labels: encode(&own[2]), chunks: vec![] }).unwrap();
        assert_eq!(run(Order::collecting(&budget), &own, &external, &[]), Err(OrderError::Budget(600)));
        drop(other);
        assert!(run(Order::collecting(&budget), &own, &external, &[]).is_ok());
        assert_eq!(budget.used.load(Relaxed), 0);
    }
}
