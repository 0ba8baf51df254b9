//! Thanos's `xrate`, `xincrease` and `xdelta`: the window begins with the last sample before it, and what is between
//! samples is not extrapolated beyond the window.

use super::rate::Kind;
use crate::exec::Samples;

/// How far before a window its first sample may lie, milliseconds; Thanos has no flag for it.
pub(crate) const X_LOOKBACK_MS: i64 = 3_600_000;

/// A series and its position in the data of one evaluation.
pub(crate) struct Extended<'a> {
    samples: &'a Samples,
    kind: Kind,
    /// Width of the window, milliseconds.
    range: i64,
    /// Behind the last sample of the window.
    to: usize,
    /// The first sample behind the window's start.
    inside: usize,
}

impl<'a> Extended<'a> {
    /// Over the floats of a series, without stale markers.
    pub(crate) fn new(samples: &'a Samples, kind: Kind, range: i64) -> Self {
        Self { samples, kind, range, to: 0, inside: 0 }
    }

    /// The value of the window that ends at `end`; ends never go back.
    pub(crate) fn at(&mut self, end: i64) -> Option<f64> {
        let start = end.saturating_sub(self.range);
        let times = &self.samples.times;
        while times.get(self.to).is_some_and(|t| *t <= end) {
            self.to += 1;
        }
        while self.inside < self.to && times.get(self.inside).is_some_and(|t| *t <= start) {
            self.inside += 1;
        }
        let before = self
            .inside
            .checked_sub(1)
            .filter(|i| times.get(*i).is_some_and(|t| *t >= start.saturating_sub(X_LOOKBACK_MS).saturating_add(1)));
        let from = before.unwrap_or(self.inside);
        let (times, floats) = (times.get(from..self.to)?, self.samples.floats.get(from..self.to)?);
        let appeared = *self.samples.times.first()?;
        self.value(times, floats, start, end, appeared)
    }

    fn value(&self, times: &[i64], floats: &[f64], start: i64, end: i64, appeared: i64) -> Option<f64> {
        let (first_t, last_t) = (*times.first()?, *times.last()?);
        let (first, last) = (*floats.first()?, *floats.last()?);
        let increase = self.kind.counter && !self.kind.per_second;
        // A counter that has just appeared and has not moved since began at zero.
        let still = floats.windows(2).all(|p| matches!(p, [a, b] if a == b));
        if increase && still && end <= self.range.saturating_add(appeared) {
            return Some(first);
        }
        let gaps = |n: usize| n as f64 - 1.0;
        let mut sampled = (last_t - first_t) as f64;
        let mut gap = sampled / gaps(times.len());
        let mut skip = 0;
        // A sample too far before the window is no neighbour of it.
        if !increase && (start.saturating_sub(first_t)) as f64 > gap {
            if times.len() < 3 {
                return Some(0.0);
            }
            skip = 1;
            sampled = (last_t - times.get(1)?) as f64;
            gap = sampled / gaps(times.len() - 1);
        }
        let used = floats.get(skip..)?;
        let mut result = last - used.first()?;
        if self.kind.counter {
            let mut before = 0.0;
            let mut lost = 0.0;
            for v in used {
                if *v < before {
                    lost += before;
                }
                before = *v;
            }
            result += lost;
        }
        let seconds = (self.range / 1000) as f64;
        let to_end = (end - last_t) as f64;
        if !increase && *times.get(skip)? <= start && to_end < gap {
            result *= seconds / (sampled / 1000.0);
        }
        Some(if self.kind.per_second { result / seconds } else { result })
    }
}
