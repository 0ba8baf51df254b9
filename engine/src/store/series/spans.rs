//! What a window reads of segments, as it grows: chunks, and the gaps between them that are read with them.

use crate::store::select::GAP;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Stretches of files; those that overlap or have at most [`GAP`] bytes between them are one.
#[derive(Debug, Default)]
pub struct Spans {
    /// By the number of a cursor and its segment: where stretches begin and end.
    files: HashMap<(u32, u32), BTreeMap<u32, u32>>,
}

impl Spans {
    /// Adds a chunk; tells how many bytes more are read because of it. The end of a chunk may be a guess: the next one begins
    /// before it.
    pub fn add(&mut self, file: (u32, u32), chunk: Range<u32>) -> u64 {
        let spans = self.files.entry(file).or_default();
        let gap = u32::try_from(GAP).unwrap_or(u32::MAX);
        let (mut start, mut end) = (chunk.start, chunk.end.max(chunk.start));
        let mut known = 0;
        // From the right to the left, all that touch it.
        while let Some((from, to)) = spans.range(..=end.saturating_add(gap)).next_back().map(|(f, t)| (*f, *t)) {
            if to.saturating_add(gap) < start {
                break;
            }
            if from <= start && end <= to {
                return 0;
            }
            spans.remove(&from);
            known += u64::from(to - from);
            (start, end) = (start.min(from), end.max(to));
        }
        spans.insert(start, end);
        u64::from(end - start).saturating_sub(known)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.files.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const G: u32 = GAP as u32;

    #[test]
    fn bytes_are_counted_once_wherever_a_chunk_lies() {
        let mut spans = Spans::default();
        // Ends are guesses of 1000 bytes, chunks are 100 long.
        assert_eq!(spans.add((0, 0), 8..1008), 1000);
        assert_eq!(spans.add((0, 0), 108..1108), 100);
        // Another file, another place far to the right, and then to the left of it.
        assert_eq!(spans.add((1, 0), 108..1108), 1000);
        assert_eq!(spans.add((0, 0), 10 * G..10 * G + 50), 50);
        assert_eq!(spans.add((0, 0), 5 * G..5 * G + 50), 50);
        // In between: what lies between is read, too.
        assert_eq!(spans.add((0, 0), 10 * G - 1000..10 * G - 900), 1000);
        assert_eq!(spans.add((0, 0), 10 * G - 500..10 * G - 400), 0);
        spans.clear();
        assert_eq!(spans.add((0, 0), 8..1008), 1000);
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_read(mut chunks in prop::collection::vec((0u32..40 * G, 1u32..2 * G), 1..60)) {
            let mut spans = Spans::default();
            let counted: u64 = chunks.iter().map(|(at, size)| spans.add((0, 0), *at..at + size)).sum();
            chunks.sort_unstable();
            // With the gap behind each, what is near to each other touches.
            let ranges = chunks.iter().map(|(at, size)| u64::from(*at)..u64::from(at + size) + GAP);
            let read: u64 = crate::store::select::join(ranges, u64::MAX).iter().map(|r| r.end - r.start - GAP).sum();
            prop_assert_eq!(counted, read);
        }
    }
}
