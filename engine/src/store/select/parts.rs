//! Which bytes of an index hold the entries of the series that were found, part by part.

use bytes::Bytes;
use std::ops::Range;
use tsdb::index::{Version, series_offset};

/// Bytes of an entry's own length and checksum, at most.
const FRAME: u64 = 10 + 4;

/// Longest entry, in bytes: one that announces more is damaged, and is not read. Prometheus's are a few kilobytes.
pub const ENTRY_MAX: u64 = 16 << 20;

/// Bytes that are brought near before the first part.
const FIRST: u64 = 8 << 20;

/// The entries of a block's series, read in parts of bounded size.
#[derive(Debug)]
pub struct Parts {
    refs: Vec<u32>,
    version: Version,
    section: Range<u64>,
    /// Bytes that an entry is expected to have at most.
    estimate: u64,
    /// Bytes of a part, about.
    most: u64,
    /// The first series that is not in a part that was asked for.
    asked: usize,
    /// The first one that nobody was asked to bring near.
    near: usize,
}

/// A part: what to read, and for which series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Places in the list of references.
    pub series: Range<usize>,
    /// What to read of the index: sorted, not overlapping.
    pub ranges: Vec<Range<u64>>,
}

impl Parts {
    /// Of these series, in an index of this version whose series lie in `section`.
    pub fn new(refs: Vec<u32>, version: Version, section: Range<u64>, estimate: u64, most: u64) -> Self {
        Self { refs, version, section, estimate: estimate.max(64), most, asked: 0, near: 0 }
    }

    /// How many series.
    pub fn len(&self) -> usize {
        self.refs.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }

    /// Bytes that the references take.
    pub fn memory(&self) -> usize {
        self.refs.capacity() * 4
    }

    /// Where the entry of the series at this place begins.
    pub fn offset(&self, place: usize) -> Option<u64> {
        self.refs.get(place).map(|r| series_offset(self.version, *r))
    }

    /// The next part; `None` at the end. A reference that points out of the section ends up with no bytes.
    pub fn ask(&mut self) -> Option<Part> {
        let first = self.asked;
        let (end, ranges) = self.from(first, self.most);
        self.asked = end;
        (end > first).then_some(Part { series: first..end, ranges })
    }

    /// What to bring near for the next parts, so many bytes at a time; nothing while they are near, or are the next part alone.
    pub fn ahead(&mut self, most: u64) -> Vec<Range<u64>> {
        if self.asked < self.near || most <= self.most {
            return Vec::new();
        }
        // One part is all: it is read as it is.
        if self.from(self.asked, self.most).0 == self.refs.len() {
            self.near = self.refs.len();
            return Vec::new();
        }
        // The first ones are waited for by a caller who has nothing yet.
        let (end, ranges) = self.from(self.asked, if self.near == 0 { most.min(FIRST) } else { most });
        self.near = end;
        ranges
    }

    /// The series from `first` on whose entries take about so many bytes, at least one: where they end, and what to read.
    fn from(&self, first: usize, most: u64) -> (usize, Vec<Range<u64>>) {
        let mut next = first;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut bytes = 0;
        while let Some(at) = self.offset(next) {
            let end = at.saturating_add(self.estimate).min(self.section.end);
            let range = at.max(self.section.start)..end;
            let last = ranges.last().map_or(0, |l| l.end);
            // What a read in between costs counts, too.
            let more = if ranges.is_empty() || range.start.saturating_sub(last) > super::GAP {
                range.end.saturating_sub(range.start)
            } else {
                range.end.saturating_sub(last)
            };
            if next > first && bytes + more > most {
                break;
            }
            bytes += more;
            next += 1;
            // Joined as they come: a million neighbours are one range.
            match ranges.last_mut() {
                _ if range.is_empty() => {}
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        (next, ranges)
    }

    /// Where an entry ends that is longer than what was read of it: its first bytes tell. `None` if they tell nothing.
    pub fn whole(&self, at: u64, head: &[u8]) -> Option<Range<u64>> {
        let mut length = 0u64;
        for (i, byte) in head.iter().take(5).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                let end = at.saturating_add(length).saturating_add(FRAME).min(self.section.end);
                return (end > at && end - at <= ENTRY_MAX).then_some(at..end);
            }
        }
        None
    }
}

/// Bytes that were read of an object, by place.
#[derive(Clone, Debug, Default)]
pub struct Loaded(Vec<(u64, Bytes)>);

impl Loaded {
    /// What was read for these ranges, which are sorted and don't overlap.
    pub fn new(ranges: &[Range<u64>], parts: Vec<Bytes>) -> Self {
        Self(ranges.iter().map(|r| r.start).zip(parts).collect())
    }

    /// All that was read from `at` on without a gap, and the number of its part; nothing if nothing was.
    pub fn from(&self, at: u64) -> Option<(usize, &[u8])> {
        let part = self.0.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, bytes) = self.0.get(part)?;
        Some((part, bytes.get(usize::try_from(at - start).ok()?..)?))
    }

    /// As [`Loaded::from`], the bytes alone.
    pub fn view(&self, at: u64) -> &[u8] {
        self.from(at).map_or(&[], |(_, bytes)| bytes)
    }

    /// The part with this number.
    pub fn part(&self, number: usize) -> Option<&Bytes> {
        self.0.get(number).map(|(_, bytes)| bytes)
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.0.iter().map(|(_, b)| b.len()).sum()
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_series_costs_its_estimate() {
        let mut parts = Parts::new(vec![100], Version::V2, 16..10_000_000, 4096, 1 << 20);
        assert_eq!(parts.ask(), Some(Part { series: 0..1, ranges: vec![1600..5696] }));
        assert_eq!(parts.ask(), None);
        let mut parts = Parts::new(vec![100], Version::V2, 16..2000, 4096, 1 << 20);
        assert_eq!(parts.ask().unwrap().ranges, [1600..2000]);
        assert_eq!(parts.whole(1600, &[0x80, 0x01]), Some(1600..1742));
        assert_eq!(parts.whole(1600, &[0xff; 20]), None);
        // A bit that has fallen over in a length costs no gigabyte.
        let parts = Parts::new(vec![100], Version::V2, 16..u64::MAX, 4096, 1 << 20);
        assert_eq!(parts.whole(1600, &[0xff, 0xff, 0xff, 0x7f]), None);
        assert_eq!(parts.whole(1600, &[0xff, 0xff, 0x7f]), Some(1600..1600 + (2 << 20) - 1 + FRAME));
    }

    #[test]
    fn neighbours_are_one_range_and_outsiders_none() {
        let mut parts = Parts::new((1..100_000).collect(), Version::V2, 16..1_600_000, 256, 1 << 20);
        let first = parts.ask().unwrap();
        assert_eq!(first.ranges.len(), 1);
        assert!((60_000..70_000).contains(&first.series.end), "{first:?}");
        let mut parts = Parts::new(vec![0, 5, 4_000_000_000], Version::V2, 16..1600, 256, 1 << 20);
        assert_eq!(parts.ask().unwrap(), Part { series: 0..3, ranges: vec![16..336] });
    }

    proptest! {
        #[test]
        fn every_entry_is_in_a_part(refs in prop::collection::btree_set(1u32..500_000, 1..300), estimate in 64u64..70_000, most in 100u64..3_000_000) {
            let refs: Vec<u32> = refs.into_iter().collect();
            let section = 16..8_000_000;
            let mut parts = Parts::new(refs.clone(), Version::V2, section.clone(), estimate, most);
            let mut next = 0;
            while let Some(part) = parts.ask() {
                prop_assert_eq!(part.series.start, next);
                next = part.series.end;
                prop_assert!(part.ranges.windows(2).all(|w| w[0].end <= w[1].start));
                let bytes: Vec<Bytes> = part.ranges.iter().map(|r| vec![0u8; (r.end - r.start) as usize].into()).collect();
                let loaded = Loaded::new(&part.ranges, bytes);
                for place in part.series {
                    let at = parts.offset(place).unwrap();
                    let want = at.saturating_add(estimate).min(section.end) - at;
                    prop_assert!(loaded.from(at).unwrap().1.len() as u64 >= want);
                    prop_assert!(loaded.view(at).len() as u64 >= want);
                }
            }
            prop_assert_eq!(next, refs.len());
        }
    }
}
