//! Which blocks of one stream become one: Thanos's planner (0.42.4, `pkg/compact/planner.go`).

use crate::meta::BlockMeta;
use std::ops::Range;

/// Blocks that are to become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Their numbers, ascending.
    pub blocks: Vec<usize>,
    /// Why these.
    pub kind: Kind,
}

/// Why blocks were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They overlap.
    Overlap,
    /// They lie in a window of this width in ms, and it is full or past.
    Window {
        /// The width.
        range: i64,
        /// Whether they span it from end to end.
        full: bool,
    },
    /// It is a single block with many tombstones.
    Tombstones,
}

/// Chooses among the blocks of a stream, sorted by their begin. `ranges` are the widths that blocks grow to in ms, ascending,
/// each a multiple of the one before; the first is never aimed at. Blocks with `out` stay as they are, and nothing is compacted
/// across them.
pub fn choose(ranges: &[i64], blocks: &[(&BlockMeta, bool)]) -> Option<Choice> {
    let free: Vec<usize> = (0..blocks.len()).filter(|i| blocks.get(*i).is_some_and(|(_, out)| !out)).collect();
    let meta = |i: &usize| blocks.get(*i).map(|(m, _)| *m);
    if let Some(run) = overlap(free.iter().filter_map(|i| meta(i).map(|m| (*i, m)))) {
        return Some(Choice { blocks: run, kind: Kind::Overlap });
    }
    // The newest block stays as it is: the next one may still come into its window.
    let older = blocks.get(..blocks.len().saturating_sub(1)).unwrap_or_default();
    if let Some((run, range, full)) = window(ranges, older) {
        return Some(Choice { blocks: run.collect(), kind: Kind::Window { range, full } });
    }
    let wide = ranges.get(ranges.len() / 2).copied().unwrap_or(i64::MAX);
    for i in free.iter().rev().filter(|i| **i < older.len()) {
        let Some(m) = meta(i) else { continue };
        if m.max_time.wrapping_sub(m.min_time) < wide {
            break;
        }
        if m.stats.num_tombstones as f64 / (m.stats.num_series.wrapping_add(1)) as f64 > 0.05 {
            return Some(Choice { blocks: vec![*i], kind: Kind::Tombstones });
        }
    }
    None
}

/// The first run of blocks of which each begins before an earlier one ends.
fn overlap<'a>(blocks: impl Iterator<Item = (usize, &'a BlockMeta)>) -> Option<Vec<usize>> {
    let mut run = Vec::new();
    let mut before: Option<(usize, i64)> = None;
    for (i, m) in blocks {
        if let Some((previous, end)) = before {
            if m.min_time < end {
                if run.is_empty() {
                    run.push(previous);
                }
                run.push(i);
            } else if !run.is_empty() {
                break;
            }
        }
        before = Some((i, before.map_or(m.max_time, |(_, end)| end.max(m.max_time))));
    }
    (!run.is_empty()).then_some(run)
}

/// The first run of at least two blocks in a window of the smallest width that has one.
fn window(ranges: &[i64], blocks: &[(&BlockMeta, bool)]) -> Option<(Range<usize>, i64, bool)> {
    let (newest, _) = blocks.last()?;
    for range in ranges.get(1..)?.iter().copied().filter(|r| *r > 0) {
        for w in windows(blocks, range) {
            let inside = blocks.get(w.clone()).unwrap_or_default();
            let (Some((first, _)), Some((last, _))) = (inside.first(), inside.last()) else { continue };
            let full = last.max_time.wrapping_sub(first.min_time) == range;
            let ready = full || last.max_time <= newest.min_time;
            if inside.len() < 2 || !ready || inside.iter().any(|(m, _)| m.compaction.failed) {
                continue;
            }
            let mut start = w.start;
            for (i, (_, out)) in inside.iter().enumerate().map(|(i, b)| (w.start + i, b)) {
                if *out {
                    if i - start > 1 {
                        return Some((start..i, range, full));
                    }
                    start = i + 1;
                }
            }
            if w.end.saturating_sub(start) > 1 {
                return Some((start..w.end, range, full));
            }
        }
    }
    None
}

/// Runs of blocks that lie in one window of this width; windows begin at multiples of it.
fn windows(blocks: &[(&BlockMeta, bool)], range: i64) -> Vec<Range<usize>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some((first, _)) = blocks.get(at) {
        let end = first.min_time.div_euclid(range).saturating_mul(range).saturating_add(range);
        let inside = blocks.iter().skip(at).take_while(|(m, _)| m.max_time <= end).count();
        if inside > 0 {
            out.push(at..at + inside);
        }
        at += inside.max(1);
    }
    out
}
