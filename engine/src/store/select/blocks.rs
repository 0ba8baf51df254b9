//! Which blocks answer a request.
//!
//! Blocks with equal external labels are one stream. Of each stream the coarsest blocks that are allowed are taken; what they
//! leave open is filled from finer ones.

use model::{Labels, Matcher};

/// What of a block decides whether it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Begin of its time range in ms, inclusive.
    pub min_t: i64,
    /// End of its time range in ms, exclusive.
    pub max_t: i64,
    /// Milliseconds between its samples; 0 is raw.
    pub resolution: i64,
}

/// Which of the blocks of one stream to read for `min_t..=max_t` (ms) in a resolution of at most `max_resolution` ms: their
/// places, ascending, each once.
pub fn choose(stream: impl IntoIterator<Item = Facts>, (min_t, max_t): (i64, i64), max_resolution: i64) -> Vec<usize> {
    // One that is finer may be needed for what a coarse one leaves open; one that is too coarse never is.
    let touches = |f: &Facts| f.max_t > min_t && f.min_t <= max_t && f.resolution <= max_resolution.max(0);
    let mut stream: Vec<(usize, Facts)> = stream.into_iter().enumerate().filter(|(_, f)| touches(f)).collect();
    stream.sort_by_key(|(index, f)| (std::cmp::Reverse(f.resolution), f.min_t, f.max_t, *index));
    let mut taken = vec![false; stream.len()];
    fill(&stream, 0, (min_t, max_t), &mut taken);
    let mut places: Vec<usize> = stream.iter().zip(taken).filter(|(_, t)| *t).map(|((i, _), _)| *i).collect();
    places.sort_unstable();
    places
}

/// Takes the blocks of the coarsest resolution from `level` on that touch `from..=to`, and fills what they leave open.
fn fill(stream: &[(usize, Facts)], level: usize, (from, to): (i64, i64), taken: &mut [bool]) {
    let Some((_, first)) = stream.get(level) else { return };
    if from > to {
        return;
    }
    let end =
        level + stream.get(level..).unwrap_or_default().partition_point(|(_, f)| f.resolution == first.resolution);
    let mut open = from;
    for (place, (_, facts)) in stream.iter().enumerate().take(end).skip(level) {
        if facts.max_t <= from || facts.min_t > to {
            continue;
        }
        fill(stream, end, (open, facts.min_t.saturating_sub(1)), taken);
        if let Some(t) = taken.get_mut(place) {
            *t = true;
        }
        open = open.max(facts.max_t);
    }
    fill(stream, end, (open, to), taken);
}

/// True if a block's labels pass what the hints of a request ask of blocks. `__block_id` is the block's id.
pub fn hinted(id: &str, external: &Labels, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|m| m.matches(if m.name == "__block_id" { id } else { external.value(&m.name) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::MatchOp;
    use proptest::prelude::*;

    type Block = (i64, i64, i64);

    fn places(blocks: &[Block], min_t: i64, max_t: i64, max_resolution: i64) -> Vec<usize> {
        let facts = blocks.iter().map(|b| Facts { min_t: b.0, max_t: b.1, resolution: b.2 });
        choose(facts, (min_t, max_t), max_resolution)
    }

    #[test]
    fn coarse_first_and_holes_from_finer_ones() {
        const M5: i64 = 300_000;
        const H1: i64 = 3_600_000;
        let blocks =
            [(0, 100, 0), (100, 200, 0), (200, 300, 0), (300, 400, 0), (0, 200, M5), (200, 300, M5), (100, 200, H1)];
        assert_eq!(places(&blocks, 0, 399, 0), [0, 1, 2, 3]);
        assert_eq!(places(&blocks, 0, 399, M5), [3, 4, 5]);
        assert_eq!(places(&blocks, 0, 399, M5 - 1), [0, 1, 2, 3]);
        // The hole before the hour's block is filled by the 5m block that covers it, which reaches beyond.
        assert_eq!(places(&blocks, 0, 399, i64::MAX), [3, 4, 5, 6]);
        assert_eq!(places(&blocks, 100, 199, i64::MAX), [6]);
        // Ends are exclusive, requests inclusive.
        assert_eq!(places(&blocks, 200, 200, 0), [2]);
        assert_eq!(places(&blocks, 199, 199, 0), [1]);
        assert_eq!(places(&blocks, 199, 198, 0), Vec::<usize>::new());
        assert_eq!(places(&[], 0, 1, 0), Vec::<usize>::new());
        assert_eq!(places(&blocks, i64::MIN, i64::MAX, 0), [0, 1, 2, 3]);
    }

    #[test]
    fn hints_narrow_blocks() {
        let a = Labels::from_pairs([("c", "a")]);
        let m = |op, n: &str, v: &str| Matcher::new(op, n, v).unwrap();
        assert!(hinted("X", &a, &[m(MatchOp::Equal, "__block_id", "X"), m(MatchOp::Equal, "c", "a")]));
        assert!(!hinted("Y", &a, &[m(MatchOp::Equal, "__block_id", "X")]));
        assert!(!hinted("X", &a, &[m(MatchOp::NotRegex, "c", "a|b")]));
    }

    proptest! {
        // Every moment that some allowed block covers is covered by the coarsest one that covers it.
        #[test]
        fn every_moment_is_covered(
            blocks in prop::collection::vec((0i64..40, 1i64..20, 0i64..3), 0..12), from in 0i64..50, length in 0i64..50, most in 0i64..3,
        ) {
            let blocks: Vec<Block> = blocks.into_iter().map(|(a, n, r)| (a, a + n, r)).collect();
            let chosen = places(&blocks, from, from + length, most);
            for t in from..=from + length {
                let covers = |b: &Block| b.0 <= t && t < b.1 && b.2 <= most;
                let coarsest = blocks.iter().filter(|b| covers(b)).map(|b| b.2).max();
                // All blocks of the coarsest resolution: they may hold different series.
                for (i, b) in blocks.iter().enumerate() {
                    if covers(b) && Some(b.2) == coarsest {
                        prop_assert!(chosen.contains(&i), "{t} {blocks:?} {chosen:?}");
                    }
                }
            }
            for i in &chosen {
                let b = blocks[*i];
                prop_assert!(b.2 <= most && b.0 <= from + length && b.1 > from);
            }
        }
    }
}
