//! Order after the labels have changed.
//!
//! An index gives series in the order of their own labels; we owe the order of the final ones. Setting the same label on all
//! series disturbs the order in one place only: a label set S and those that extend it by a name below the new one change
//! sides. All extensions of S follow S directly, so it is enough to hold S back until something greater comes. That holds
//! while no series has a label of its own under a set or removed name; where one has, everything is sorted.

use model::Labels;
use std::collections::VecDeque;

/// Puts items into the order of their final labels.
#[derive(Debug)]
pub struct Order<T> {
    /// What is held back, the smallest last (with `all`: as it came).
    held: Vec<(Labels, T)>,
    /// Nothing is given before everything is there.
    all: bool,
}

impl<T> Order<T> {
    /// With `all`, for series of any labels; else for those that have no label of their own under a changed name.
    pub fn new(all: bool) -> Self {
        Self { held: Vec::new(), all }
    }

    /// Takes the next item, in the order of the labels as they were before the change; gives those whose turn has come.
    pub fn push(&mut self, labels: Labels, item: T, ready: &mut VecDeque<(Labels, T)>) {
        if self.all {
            self.held.push((labels, item));
            return;
        }
        while let Some(first) = self.held.pop_if(|first| first.0 < labels) {
            ready.push_back(first);
        }
        let place = self.held.partition_point(|(l, _)| *l > labels);
        self.held.insert(place, (labels, item));
    }

    /// Gives the rest; what has equal labels keeps its order.
    pub fn finish(&mut self, ready: &mut VecDeque<(Labels, T)>) {
        let mut rest = std::mem::take(&mut self.held);
        if self.all {
            rest.sort_by(|a, b| a.0.cmp(&b.0));
        } else {
            rest.reverse();
        }
        ready.extend(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels() -> impl Strategy<Value = Labels> {
        let pair = (prop::sample::select(vec!["a", "b", "c", "d", "e"]), prop::sample::select(vec!["1", "2"]));
        prop::collection::vec(pair, 0..5).prop_map(Labels::from_pairs)
    }

    proptest! {
        #[test]
        fn as_sorting_does(sets in prop::collection::btree_set(labels(), 0..40), over in labels(), all in any::<bool>()) {
            let own = |l: &Labels| l.iter().any(|(n, _)| over.get(n).is_some());
            let sets: Vec<Labels> = sets.into_iter().filter(|l| all || !own(l)).collect();
            let (mut order, mut ready, mut most) = (Order::new(all), VecDeque::new(), 0);
            for (i, l) in sets.iter().enumerate() {
                order.push(l.overlay(&over), i, &mut ready);
                most = most.max(order.held.len());
            }
            order.finish(&mut ready);
            let mut want: Vec<(Labels, usize)> = sets.iter().enumerate().map(|(i, l)| (l.overlay(&over), i)).collect();
            want.sort();
            prop_assert_eq!(ready.into_iter().collect::<Vec<_>>(), want);
            // Only a chain of prefixes waits.
            prop_assert!(all || most <= 5, "{most}");
        }
    }
}
