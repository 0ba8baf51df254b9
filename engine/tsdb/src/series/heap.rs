//! A binary heap that gives items of the same rank in the order that Go's `container/heap` gives them. Which of two samples with
//! the same time survives a compaction depends on it, and ours is to write the block that Prometheus would write.

/// The heap. `before` says whether the first item must come out before the second.
#[derive(Debug, Clone)]
pub(crate) struct Heap<T, F> {
    items: Vec<T>,
    before: F,
}

impl<T, F: Fn(&T, &T) -> bool> Heap<T, F> {
    pub(crate) fn new(before: F) -> Self {
        Self { items: Vec::new(), before }
    }

    pub(crate) fn peek(&self) -> Option<&T> {
        self.items.first()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn is_before(&self, i: usize, j: usize) -> bool {
        matches!((self.items.get(i), self.items.get(j)), (Some(a), Some(b)) if (self.before)(a, b))
    }

    /// Puts an item in: at the end, and up while it is before its parent.
    pub(crate) fn push(&mut self, item: T) {
        let mut at = self.items.len();
        self.items.push(item);
        while at > 0 && self.is_before(at, (at - 1) / 2) {
            self.items.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    /// Takes the first item: the last one takes its place, and goes down while a child is before it, to the left child unless the
    /// right one is before that.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.items.is_empty() {
            return None;
        }
        let first = self.items.swap_remove(0);
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.is_before(right, left) { right } else { left };
            if !self.is_before(child, at) {
                return Some(first);
            }
            self.items.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_out_sorted(items in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut heap = Heap::new(|a: &u8, b: &u8| a < b);
            items.iter().for_each(|i| heap.push(*i));
            let out: Vec<u8> = std::iter::from_fn(|| heap.pop()).collect();
            let mut sorted = items;
            sorted.sort_unstable();
            prop_assert_eq!(out, sorted);
            prop_assert!(heap.is_empty());
        }
    }

    #[test]
    fn equals_come_out_as_in_go() {
        // Five of the same rank: what `container/heap` gives for pushes of 0…4 and five pops.
        let mut heap = Heap::new(|_: &u8, _: &u8| false);
        (0..5).for_each(|i| heap.push(i));
        assert_eq!(std::iter::from_fn(|| heap.pop()).collect::<Vec<_>>(), [0, 4, 3, 2, 1]);
    }
}
