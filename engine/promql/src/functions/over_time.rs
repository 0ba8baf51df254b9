//! The `_over_time` family, `changes`, `resets`, `deriv` and `predict_linear`: one number or histogram per window.

use super::math::{kahan, quantile};
use super::rate::is_start_reset;
use super::window::{Note, Notes, Value, Window};
use crate::histogram::{Accumulator, Incompatible, detect_reset, equals};
use crate::parse::{RangeMode, Span};
use model::FloatHistogram;
use model::histogram::ResetHint;
use std::sync::Arc;

/// Notes histograms beside floats, which most functions leave out.
fn ignore_histograms(w: &Window<'_>, notes: &mut Notes<'_>) {
    if !w.histograms.is_empty() {
        notes.tell(Note::IgnoredHistograms);
    }
}

/// `sum_over_time`
pub(crate) fn sum(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    if w.is_mixed() {
        notes.tell(Note::MixedFloatsHistograms);
        return None;
    }
    if w.floats.is_empty() {
        return histogram_sum(w, notes).map(Value::from);
    }
    let (mut s, mut c) = (0.0, 0.0);
    for v in w.floats {
        (s, c) = kahan(*v, s, c);
    }
    Some(Value::Float(if s.is_infinite() { s } else { s + c }))
}

/// `avg_over_time`: sum by count; when the sum would overflow, a running mean.
pub(crate) fn avg(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    if w.is_mixed() {
        notes.tell(Note::MixedFloatsHistograms);
        return None;
    }
    let Some((first, rest)) = w.floats.split_first() else {
        return histogram_avg(w, notes).map(Value::from);
    };
    let mut mean = Mean::new(*first);
    for v in rest {
        mean.add(*v);
    }
    Some(Value::Float(mean.value()))
}

/// An average of floats that survives sums beyond the range of floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mean {
    count: f64,
    /// The sum, or the mean once `running`.
    value: f64,
    c: f64,
    running: bool,
}

impl Mean {
    pub(crate) fn new(v: f64) -> Self {
        Self { count: 1.0, value: v, c: 0.0, running: false }
    }

    pub(crate) fn add(&mut self, v: f64) {
        self.count += 1.0;
        if !self.running {
            let (sum, c) = kahan(v, self.value, self.c);
            if !sum.is_infinite() {
                (self.value, self.c) = (sum, c);
                return;
            }
            self.running = true;
            self.value /= self.count - 1.0;
            self.c /= self.count - 1.0;
        }
        let q = (self.count - 1.0) / self.count;
        (self.value, self.c) = kahan(v / self.count, q * self.value, q * self.c);
    }

    pub(crate) fn value(&self) -> f64 {
        if self.running { self.value + self.c } else { self.value / self.count + self.c / self.count }
    }
}

/// A sum or average of histograms with what is to be told about it.
pub(crate) struct HistogramMean {
    acc: Accumulator,
    count: f64,
    running: bool,
    average: bool,
    seen_reset: bool,
    seen_not_reset: bool,
    /// Custom bounds differed.
    pub(crate) reconciled: bool,
}

impl HistogramMean {
    pub(crate) fn new(h: &FloatHistogram, average: bool) -> Self {
        let mut mean = Self {
            acc: Accumulator::new(h),
            count: 1.0,
            running: false,
            average,
            seen_reset: false,
            seen_not_reset: false,
            reconciled: false,
        };
        mean.track(h);
        mean
    }

    /// Goes on with a sum of gauges.
    pub(crate) fn of_sum(acc: Accumulator) -> Self {
        Self {
            acc,
            count: 1.0,
            running: false,
            average: false,
            seen_reset: false,
            seen_not_reset: false,
            reconciled: false,
        }
    }

    fn track(&mut self, h: &FloatHistogram) {
        match h.reset_hint {
            ResetHint::Reset => self.seen_reset = true,
            ResetHint::NotReset => self.seen_not_reset = true,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
    }

    pub(crate) fn add(&mut self, h: &FloatHistogram) -> Result<(), Incompatible> {
        self.track(h);
        self.count += 1.0;
        if !self.average {
            self.reconciled |= self.acc.add_exact(h)?.bounds_reconciled;
            return Ok(());
        }
        if !self.running {
            let mut next = self.acc.clone();
            self.reconciled |= next.add_exact(h)?.bounds_reconciled;
            if !next.has_overflow() {
                self.acc = next;
                return Ok(());
            }
            self.running = true;
            self.acc.divide(self.count - 1.0);
        }
        self.acc.scale((self.count - 1.0) / self.count);
        let mut part = h.clone();
        crate::histogram::divide(&mut part, self.count);
        self.reconciled |= self.acc.add_exact(&part)?.bounds_reconciled;
        Ok(())
    }

    /// A reset and a "no reset" were added.
    pub(crate) fn reset_collision(&self) -> bool {
        self.seen_reset && self.seen_not_reset
    }

    pub(crate) fn finish(mut self) -> FloatHistogram {
        if self.average && !self.running {
            self.acc.divide(self.count);
        }
        self.acc.finish()
    }
}

fn histogram_sum(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    combine(w, notes, false)
}

fn histogram_avg(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    combine(w, notes, true)
}

fn combine(w: &Window<'_>, notes: &mut Notes<'_>, average: bool) -> Option<FloatHistogram> {
    let ((_, first), rest) = w.histograms.split_first()?;
    let mut mean = HistogramMean::new(first, average);
    for (_, h) in rest {
        if mean.add(h).is_err() {
            notes.tell(Note::MixedExponentialCustom);
            return None;
        }
    }
    if mean.reset_collision() {
        notes.tell(Note::ResetCollision);
    }
    if mean.reconciled {
        notes.tell(Note::ReconciledAggregation);
    }
    Some(mean.finish())
}

/// The first value that no other beats, with its time; NaN is beaten by anything.
fn extreme(w: &Window<'_>, notes: &mut Notes<'_>, beats: impl Fn(f64, f64) -> bool) -> Option<(i64, f64)> {
    let mut best = *w.floats.first()?;
    let mut at = *w.times.first()?;
    ignore_histograms(w, notes);
    for (t, v) in w.times.iter().zip(w.floats) {
        if beats(*v, best) || best.is_nan() {
            (at, best) = (*t, *v);
        }
    }
    Some((at, best))
}

/// `min_over_time`
pub(crate) fn min(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    extreme(w, notes, |v, best| v < best).map(|(_, v)| Value::Float(v))
}

/// `max_over_time`
pub(crate) fn max(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    extreme(w, notes, |v, best| v > best).map(|(_, v)| Value::Float(v))
}

/// `ts_of_min_over_time`: of the last of equal values.
pub(crate) fn ts_of_min(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    extreme(w, notes, |v, best| v <= best).map(|(t, _)| Value::Float(t as f64 / 1000.0))
}

/// `ts_of_max_over_time`: of the last of equal values.
pub(crate) fn ts_of_max(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    extreme(w, notes, |v, best| v >= best).map(|(t, _)| Value::Float(t as f64 / 1000.0))
}

/// `count_over_time`
pub(crate) fn count(w: &Window<'_>) -> Value {
    Value::Float((w.floats.len() + w.histograms.len()) as f64)
}

/// `first_over_time`
pub(crate) fn first(w: &Window<'_>) -> Option<Value> {
    pick(w.times.first().zip(w.floats.first()), w.histograms.first(), |float, histogram| float < histogram)
}

/// `last_over_time`
pub(crate) fn last(w: &Window<'_>) -> Option<Value> {
    pick(w.times.last().zip(w.floats.last()), w.histograms.last(), |float, histogram| float > histogram)
}

fn pick(
    float: Option<(&i64, &f64)>,
    histogram: Option<&(i64, Arc<FloatHistogram>)>,
    prefer_float: impl Fn(i64, i64) -> bool,
) -> Option<Value> {
    match (float, histogram) {
        (Some((t, v)), Some((th, h))) => {
            Some(if prefer_float(*t, *th) { Value::Float(*v) } else { Value::Histogram(h.clone()) })
        }
        (Some((_, v)), None) => Some(Value::Float(*v)),
        (None, Some((_, h))) => Some(Value::Histogram(h.clone())),
        (None, None) => None,
    }
}

/// `ts_of_first_over_time`
pub(crate) fn ts_of_first(w: &Window<'_>) -> Option<Value> {
    let t = w.times.first().into_iter().chain(w.histograms.first().map(|(t, _)| t)).min()?;
    Some(Value::Float(*t as f64 / 1000.0))
}

/// `ts_of_last_over_time`
pub(crate) fn ts_of_last(w: &Window<'_>) -> Option<Value> {
    let t = w.times.last().into_iter().chain(w.histograms.last().map(|(t, _)| t)).max()?;
    Some(Value::Float(*t as f64 / 1000.0))
}

/// `quantile_over_time`; `span` is that of the quantile. `buffer` is working space.
pub(crate) fn quantile_of(
    w: &Window<'_>,
    q: f64,
    span: Span,
    buffer: &mut Vec<f64>,
    notes: &mut Notes<'_>,
) -> Option<Value> {
    if w.floats.is_empty() {
        return None;
    }
    if q.is_nan() || !(0.0..=1.0).contains(&q) {
        notes.invalid_quantile(q, span);
    }
    ignore_histograms(w, notes);
    buffer.clear();
    buffer.extend_from_slice(w.floats);
    Some(Value::Float(quantile(q, buffer)))
}

/// `mad_over_time`: the median distance from the median.
pub(crate) fn median_deviation(w: &Window<'_>, buffer: &mut Vec<f64>, notes: &mut Notes<'_>) -> Option<Value> {
    if w.floats.is_empty() {
        return None;
    }
    ignore_histograms(w, notes);
    if w.floats.iter().any(|v| v.is_nan()) {
        return Some(Value::Float(f64::NAN));
    }
    buffer.clear();
    buffer.extend_from_slice(w.floats);
    let median = quantile(0.5, buffer);
    for v in buffer.iter_mut() {
        *v = (*v - median).abs();
    }
    Some(Value::Float(quantile(0.5, buffer)))
}

/// `stdvar_over_time`
pub(crate) fn variance(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<f64> {
    if w.floats.is_empty() {
        return None;
    }
    ignore_histograms(w, notes);
    let (mut count, mut mean, mut mean_c, mut aux, mut aux_c) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for v in w.floats {
        count += 1.0;
        let delta = v - (mean + mean_c);
        (mean, mean_c) = kahan(delta / count, mean, mean_c);
        (aux, aux_c) = kahan(delta * (v - (mean + mean_c)), aux, aux_c);
    }
    Some((aux + aux_c) / count)
}

/// Slope and value at `at` (milliseconds) of the least-squares line.
fn regression(w: &Window<'_>, at: i64) -> Option<(f64, f64)> {
    let first = *w.floats.first()?;
    if w.floats.iter().all(|v| *v == first) {
        return Some(if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) });
    }
    let mut sums = [(0.0, 0.0); 4];
    for (t, y) in w.times.iter().zip(w.floats) {
        let x = t.saturating_sub(at) as f64 / 1e3;
        for (sum, v) in sums.iter_mut().zip([x, *y, x * y, x * x]) {
            *sum = kahan(v, sum.0, sum.1);
        }
    }
    let n = w.floats.len() as f64;
    let [x, y, xy, xx] = sums.map(|(s, c)| s + c);
    let covariance = xy - x * y / n;
    let variance = xx - x * x / n;
    let slope = covariance / variance;
    Some((slope, y / n - slope * x / n))
}

/// `deriv`
pub(crate) fn deriv(w: &Window<'_>, notes: &mut Notes<'_>) -> Option<Value> {
    if !w.floats.is_empty() {
        ignore_histograms(w, notes);
    }
    if w.floats.len() < 2 {
        return None;
    }
    // Measured from a near time, for precision.
    regression(w, *w.times.first()?).map(|(slope, _)| Value::Float(slope))
}

/// `predict_linear`, `ahead` seconds after the evaluation time.
pub(crate) fn predict(w: &Window<'_>, ahead: f64, notes: &mut Notes<'_>) -> Option<Value> {
    if !w.floats.is_empty() {
        ignore_histograms(w, notes);
    }
    if w.floats.len() < 2 {
        return None;
    }
    regression(w, w.t).map(|(slope, intercept)| Value::Float(slope * ahead + intercept))
}

/// `double_exponential_smoothing` with factors between 0 and 1.
pub(crate) fn smooth(w: &Window<'_>, smoothing: f64, trend: f64, notes: &mut Notes<'_>) -> Option<Value> {
    if !w.floats.is_empty() {
        ignore_histograms(w, notes);
    }
    let (first, second) = (*w.floats.first()?, *w.floats.get(1)?);
    let (mut before, mut current, mut slope) = (0.0, first, second - first);
    for (i, v) in w.floats.iter().enumerate().skip(1) {
        let x = smoothing * v;
        if i > 1 {
            slope = trend * (current - before) + (1.0 - trend) * slope;
        }
        let y = (1.0 - smoothing) * (current + slope);
        (before, current) = (current, x + y);
    }
    Some(Value::Float(current))
}

#[derive(Clone, Copy)]
enum Moment<'a> {
    Float(f64),
    Histogram(&'a FloatHistogram),
}

/// Calls `f` with each pair of neighbours (time, start, value) of both kinds in the order of time.
fn neighbours(w: &Window<'_>, mut f: impl FnMut((i64, i64, Moment<'_>), (i64, i64, Moment<'_>))) -> Option<()> {
    let (mut i, mut j) = (0, 0);
    if w.mode == RangeMode::Anchored {
        // The baseline is the last sample at or before the start, of whatever kind.
        let floats = w.times.partition_point(|t| *t <= w.start);
        let histograms = w.histograms.partition_point(|(t, _)| *t <= w.start);
        if floats == w.times.len() && histograms == w.histograms.len() {
            return None;
        }
        let last_float = floats.checked_sub(1).and_then(|i| w.times.get(i));
        let last_histogram = histograms.checked_sub(1).and_then(|i| w.histograms.get(i)).map(|(t, _)| t);
        (i, j) = match (last_float, last_histogram) {
            (None, None) => (0, 0),
            (Some(_), None) => (floats - 1, histograms),
            (Some(a), Some(b)) if a >= b => (floats - 1, histograms),
            (_, Some(_)) => (floats, histograms - 1),
        };
    }
    let mut previous = None;
    loop {
        let start = |starts: &[i64], i: usize| starts.get(i).copied().unwrap_or(0);
        let float = w.times.get(i).zip(w.floats.get(i));
        let current = match (float, w.histograms.get(j)) {
            (None, None) => return previous.map(|_| ()),
            (Some((t, v)), h) if h.is_none_or(|h| *t < h.0) => {
                i += 1;
                (*t, start(w.float_starts, i - 1), Moment::Float(*v))
            }
            (_, Some((t, h))) => {
                j += 1;
                (*t, start(w.histogram_starts, j - 1), Moment::Histogram(h))
            }
            (Some(_), None) => return None,
        };
        if let Some(p) = previous {
            f(p, current);
        }
        previous = Some(current);
    }
}

/// `changes`
pub(crate) fn changes(w: &Window<'_>) -> Option<Value> {
    let mut n = 0.0;
    neighbours(w, |(_, _, a), (_, _, b)| {
        let changed = match (a, b) {
            (Moment::Float(a), Moment::Float(b)) => a != b && !(a.is_nan() && b.is_nan()),
            (Moment::Histogram(a), Moment::Histogram(b)) => !equals(a, b),
            _ => true,
        };
        n += f64::from(u8::from(changed));
    })?;
    Some(Value::Float(n))
}

/// `resets`
pub(crate) fn resets(w: &Window<'_>) -> Option<Value> {
    let mut n = 0.0;
    neighbours(w, |(ta, sa, a), (tb, sb, b)| {
        let reset = match (a, b) {
            (Moment::Float(a), Moment::Float(b)) => b < a || is_start_reset(sa, ta, sb, tb),
            (Moment::Histogram(a), Moment::Histogram(b)) => is_start_reset(sa, ta, sb, tb) || detect_reset(b, a),
            _ => true,
        };
        n += f64::from(u8::from(reset));
    })?;
    Some(Value::Float(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_survive_overflow() {
        let mut m = Mean::new(f64::MAX);
        m.add(f64::MAX);
        assert_eq!(m.value(), f64::MAX);
        let mut m = Mean::new(1.0);
        m.add(2.0);
        assert_eq!(m.value(), 1.5);
    }
}
