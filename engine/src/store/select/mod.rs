//! From matchers to bytes, pure: which blocks, which postings lists, which series entries, which chunk ranges. Nothing here
//! reads; everything says what to read and takes what was read.

pub mod blocks;
pub mod chunks;
pub mod expand;
pub mod order;
pub mod parts;

use std::ops::Range;

/// Ranges with no more than this between them are read as one, in bytes; as in Thanos.
pub const GAP: u64 = 512 << 10;

/// Joins sorted ranges that overlap or have at most [`GAP`] bytes between them, into reads of at most `most` bytes each
/// (a single range may be longer). The result is sorted and does not overlap.
pub fn join(ranges: impl IntoIterator<Item = Range<u64>>, most: u64) -> Vec<Range<u64>> {
    let gap = if model::protection::off("range-merge") { 0 } else { GAP };
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|r| !r.is_empty()) {
        match out.last_mut() {
            Some(last)
                if range.start < last.end
                    || (range.start - last.end <= gap && range.end.saturating_sub(last.start) <= most) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_one_read() {
        let most = 4 << 20;
        assert_eq!(join([0..10, 10..20, 5..7, 20 + GAP..21 + GAP], most), [0..21 + GAP]);
        assert_eq!(join([0..10, 11 + GAP..12 + GAP], most), [0..10, 11 + GAP..12 + GAP]);
        assert_eq!(join([0..most, most..most + 1], most), [0..most, most..most + 1]);
        assert_eq!(join([0..2 * most, most..most + 1], most), [0..2 * most]);
        assert_eq!(join([7..7], most), []);
    }
}
