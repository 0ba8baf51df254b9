//! From matchers to bytes, pure: which blocks, which postings lists, which series entries, which chunk ranges. Nothing here
//! reads; everything says what to read and takes what was read.

pub mod blocks;
pub mod chunks;
pub mod expand;
pub mod order;
pub mod parts;

use std::ops::Range;

/// What lies closer together than this, in bytes, is one read from the bucket ([`crate::store::ranges`]); as in Thanos.
pub const GAP: u64 = 512 << 10;

/// Joins sorted ranges that touch or overlap, into ranges of at most `most` bytes each (what overlaps may be longer). The
/// result is sorted and does not overlap. What lies apart stays apart: a cache may have the one and not what is between.
pub fn join(ranges: impl IntoIterator<Item = Range<u64>>, most: u64) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|r| !r.is_empty()) {
        match out.last_mut() {
            Some(last)
                if range.start < last.end
                    || (range.start == last.end && range.end.saturating_sub(last.start) <= most) =>
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
    fn neighbours_are_one_range() {
        let most = 4 << 20;
        assert_eq!(join([0..10, 10..20, 5..7, 21..22], most), [0..20, 21..22]);
        assert_eq!(join([0..most, most..most + 1], most), [0..most, most..most + 1]);
        assert_eq!(join([0..2 * most, most..most + 1], most), [0..2 * most]);
        assert_eq!(join([7..7], most), []);
    }
}
