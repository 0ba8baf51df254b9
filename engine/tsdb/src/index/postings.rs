//! Postings: sorted lists of series references, as they lie in the file, and what is done with them.
//!
//! A reference is the number that the index stores: the place of the series in units of 16 bytes (version 2) or of one
//! byte (version 1).

/// A list as it lies in the file: big-endian numbers of 4 bytes, ascending.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postings<'a>(&'a [[u8; 4]]);

impl<'a> Postings<'a> {
    /// A list of these bytes; up to three at the end that make no number are left out.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks::<4>().0)
    }

    /// How many series.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The i-th reference.
    pub fn get(&self, i: usize) -> Option<u32> {
        self.0.get(i).map(|b| u32::from_be_bytes(*b))
    }

    /// All references.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.iter().map(|b| u32::from_be_bytes(*b))
    }

    /// From the first reference that is not below `reference`: looks at 1, 2, 4, … places ahead, then halves.
    fn seek(self, reference: u32) -> Self {
        let below = |b: &[u8; 4]| u32::from_be_bytes(*b) < reference;
        let mut reach = 1;
        while self.0.get(reach - 1).is_some_and(below) {
            reach = reach.saturating_mul(2);
        }
        // Places before reach/2 are below; the place reach-1 is not (or there is none).
        let from = reach / 2;
        let window = self.0.get(from..reach.min(self.0.len())).unwrap_or_default();
        Self(self.0.get(from + window.partition_point(below)..).unwrap_or_default())
    }
}

/// Keeps of `kept` what `list` has, too.
pub fn intersect(kept: &mut Vec<u32>, list: Postings<'_>) {
    let mut rest = list;
    kept.retain(|r| {
        rest = rest.seek(*r);
        rest.get(0) == Some(*r)
    });
}

/// Takes out of `kept` what `list` has.
pub fn subtract(kept: &mut Vec<u32>, list: Postings<'_>) {
    let mut rest = list;
    kept.retain(|r| {
        rest = rest.seek(*r);
        rest.get(0) != Some(*r)
    });
}

/// As [`intersect`], with a list in memory.
pub fn intersect_sorted(kept: &mut Vec<u32>, list: &[u32]) {
    let mut rest = list;
    kept.retain(|r| has(&mut rest, *r));
}

/// As [`subtract`], with a list in memory.
pub fn subtract_sorted(kept: &mut Vec<u32>, list: &[u32]) {
    let mut rest = list;
    kept.retain(|r| !has(&mut rest, *r));
}

fn has(rest: &mut &[u32], reference: u32) -> bool {
    let mut reach = 1;
    while rest.get(reach - 1).is_some_and(|r| *r < reference) {
        reach *= 2;
    }
    let from = reach / 2;
    let window = rest.get(from..reach.min(rest.len())).unwrap_or_default();
    let skip = from + window.partition_point(|r| *r < reference);
    *rest = rest.get(skip..).unwrap_or_default();
    rest.first() == Some(&reference)
}

/// All references of the lists, ascending, each once.
pub fn union(lists: &[Postings<'_>]) -> Vec<u32> {
    let total: usize = lists.iter().map(Postings::len).sum();
    let first = lists.iter().filter_map(|l| l.get(0)).min();
    let last = lists.iter().filter_map(|l| l.get(l.len().checked_sub(1)?)).max();
    let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
    let words = (last.saturating_sub(first) as usize / 64) + 1;
    if lists.len() > 2 && words <= total {
        // Dense: a bit per place costs no more than two numbers per reference.
        return union_bits(lists, first, words);
    }
    let mut all = Vec::with_capacity(total);
    for list in lists {
        all.extend(list.iter());
    }
    if lists.len() > 1 {
        all.sort_unstable();
        all.dedup();
    }
    all
}

fn union_bits(lists: &[Postings<'_>], first: u32, words: usize) -> Vec<u32> {
    let mut bits = vec![0u64; words];
    for list in lists {
        for r in list.iter() {
            // A list that is not sorted (a damaged file) may reach beyond; its references are lost, nothing else.
            let place = r.wrapping_sub(first);
            if let Some(word) = bits.get_mut(place as usize / 64) {
                *word |= 1 << (place % 64);
            }
        }
    }
    let count = bits.iter().map(|w| w.count_ones() as usize).sum();
    let mut all = Vec::with_capacity(count);
    for (i, word) in bits.into_iter().enumerate() {
        let mut rest = word;
        while rest != 0 {
            all.push(first.wrapping_add((i * 64) as u32 + rest.trailing_zeros()));
            rest &= rest - 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bytes(refs: &BTreeSet<u32>) -> Vec<u8> {
        refs.iter().flat_map(|r| r.to_be_bytes()).collect()
    }

    fn set() -> impl Strategy<Value = BTreeSet<u32>> {
        prop_oneof![
            prop::collection::btree_set(0u32..300, 0..200),
            prop::collection::btree_set(any::<u32>(), 0..40),
            prop::collection::btree_set(4_000_000_000u32.., 0..20),
        ]
    }

    proptest! {
        #[test]
        fn as_sets_do(a in set(), b in set(), c in set()) {
            let (x, y, z) = (bytes(&a), bytes(&b), bytes(&c));
            let lists = [Postings::from_bytes(&x), Postings::from_bytes(&y), Postings::from_bytes(&z)];
            let sorted = |s: Vec<u32>| s;
            prop_assert_eq!(union(&lists), sorted(a.iter().chain(&b).chain(&c).copied().collect::<BTreeSet<_>>().into_iter().collect()));
            prop_assert_eq!(union(&lists[..2]), a.union(&b).copied().collect::<Vec<_>>());
            let mut kept: Vec<u32> = a.iter().copied().collect();
            intersect(&mut kept, lists[1]);
            prop_assert_eq!(&kept, &a.intersection(&b).copied().collect::<Vec<_>>());
            subtract(&mut kept, lists[2]);
            let want: Vec<u32> = a.intersection(&b).copied().filter(|r| !c.contains(r)).collect();
            prop_assert_eq!(&kept, &want);
            let (mut kept, other): (Vec<u32>, Vec<u32>) = (a.iter().copied().collect(), b.iter().copied().collect());
            intersect_sorted(&mut kept, &other);
            prop_assert_eq!(&kept, &a.intersection(&b).copied().collect::<Vec<_>>());
            let mut kept: Vec<u32> = a.iter().copied().collect();
            subtract_sorted(&mut kept, &other);
            prop_assert_eq!(&kept, &a.difference(&b).copied().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes(x in prop::collection::vec(any::<u8>(), 0..99), y in prop::collection::vec(any::<u8>(), 0..99)) {
            let lists = [Postings::from_bytes(&x), Postings::from_bytes(&y), Postings::from_bytes(&y)];
            let mut all = union(&lists);
            intersect(&mut all, lists[0]);
            subtract(&mut all, lists[1]);
        }
    }
}
