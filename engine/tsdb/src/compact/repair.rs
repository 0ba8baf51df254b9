//! Chunks of one series in one block that are out of order, overlap, or come twice: old versions of Prometheus and broken tools
//! made such. They are put in order where that changes no sample.

use crate::chunk::{Chunk, Exact, exact};
use std::collections::BTreeMap;

/// Whether chunks are in the order of their times, none before the one before it ends.
pub(super) fn in_order<C>(chunks: &[C], times: impl Fn(&C) -> (i64, i64)) -> bool {
    let mut end = None;
    chunks.iter().map(times).all(|(min_t, max_t)| min_t <= max_t && end.replace(max_t).is_none_or(|end| end < min_t))
}

/// The same chunks as runs that are in order each, to be joined; `None` if that could lose a sample: one that can't be read, or two
/// different ones of the same time.
pub(super) fn runs(mut chunks: Vec<Chunk>) -> Option<Vec<Vec<Chunk>>> {
    chunks.sort_by_key(|c| (c.min_t, c.max_t));
    let overlap = chunks.iter().zip(chunks.iter().skip(1)).any(|(a, b)| b.min_t <= a.max_t);
    if overlap && !agree(&chunks) {
        return None;
    }
    let mut runs: Vec<Vec<Chunk>> = Vec::new();
    for chunk in chunks {
        if chunk.min_t > chunk.max_t {
            return None;
        }
        match runs.iter_mut().find(|run| run.last().is_some_and(|last| last.max_t < chunk.min_t)) {
            Some(run) => run.push(chunk),
            None => runs.push(vec![chunk]),
        }
    }
    Some(runs)
}

/// Whether all samples can be read, lie in the times of their chunks, and those of the same time are equal.
fn agree(chunks: &[Chunk]) -> bool {
    let mut samples: BTreeMap<i64, Exact> = BTreeMap::new();
    chunks.iter().all(|chunk| {
        let Ok(mut all) = exact(chunk.encoding, chunk.data.clone()) else { return false };
        all.all(|sample| {
            let Ok(sample) = sample else { return false };
            let inside = (chunk.min_t..=chunk.max_t).contains(&sample.t);
            let before = samples.get(&sample.t);
            // A NaN equals none, not even itself: then it is not known to be safe.
            let same = before.is_none_or(|b| *b == sample);
            samples.insert(sample.t, sample);
            inside && same
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Encoding, XorEncoder};
    use crate::series::join;

    fn chunk(times: std::ops::Range<i64>, plus: f64) -> Chunk {
        let mut encoder = XorEncoder::default();
        times.clone().for_each(|t| encoder.append(t, t as f64 + plus).unwrap());
        let (min_t, max_t, samples) = (times.start, times.end - 1, (times.end - times.start) as u16);
        Chunk { encoding: Encoding::Xor, min_t, max_t, samples, data: encoder.bytes() }
    }

    #[test]
    fn order_comes_back_and_nothing_is_lost() {
        let (a, b, c) = (chunk(0..10, 0.5), chunk(10..20, 0.5), chunk(20..30, 0.5));
        let ordered = |chunks: &[Chunk]| in_order(chunks, |c| (c.min_t, c.max_t));
        assert!(ordered(&[a.clone(), b.clone(), c.clone()]) && !ordered(&[b.clone(), a.clone()]));
        // Only the order was wrong: no chunk is opened.
        assert_eq!(runs(vec![c.clone(), a.clone(), b.clone()]), Some(vec![vec![a.clone(), b.clone(), c.clone()]]));
        // Twice, and overlapping ones that say the same.
        let twice = runs(vec![a.clone(), b.clone(), b.clone(), c.clone()]).unwrap();
        assert_eq!(join(twice, false).unwrap(), [a.clone(), b.clone(), c.clone()]);
        let over = runs(vec![chunk(0..15, 0.5), chunk(5..30, 0.5)]).unwrap();
        let joined = join(over, false).unwrap();
        assert_eq!(joined.iter().map(|c| u32::from(c.samples)).sum::<u32>(), 30);
        // Two truths, and one that can't be read.
        assert_eq!(runs(vec![chunk(0..15, 0.5), chunk(5..30, 0.75)]), None);
        let broken = Chunk { data: b.data.slice(..5), ..chunk(5..20, 0.5) };
        assert_eq!(runs(vec![a, broken]), None);
    }
}
