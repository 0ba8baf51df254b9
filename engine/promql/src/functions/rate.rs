//! `rate`, `increase`, `delta`, `irate`, `idelta`: how fast a series moves.

use super::window::{Note, Notes, Value, Window};
use crate::histogram::{Accumulator, compact, detect_reset, divide, scale};
use crate::parse::RangeMode;
use model::FloatHistogram;
use model::histogram::{Added, Incompatible, ResetHint};
use std::sync::Arc;

/// Which of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Falling means a reset.
    pub(crate) counter: bool,
    /// Per second.
    pub(crate) per_second: bool,
}

/// `rate`, `increase` and `delta`.
pub(crate) fn extrapolated(w: &Window<'_>, kind: Kind, notes: &mut Notes<'_>) -> Option<Value> {
    if w.is_mixed() {
        notes.tell(Note::MixedFloatsHistograms);
        return None;
    }
    if w.mode != RangeMode::Plain {
        return if !w.histograms.is_empty() {
            extended_histogram(w, kind, notes)
        } else if !w.floats.is_empty() {
            extended_float(w, kind).map(Value::Float)
        } else {
            None
        };
    }
    if !w.histograms.is_empty() {
        return histogram_rate(w, kind, notes);
    }
    let (first, last) = (*w.floats.first()?, *w.floats.last()?);
    let mut result = last - first;
    if kind.counter {
        result = with_float_resets(result, w, notes);
    }
    let starts = if kind.counter { w.float_starts } else { &[] };
    let span = Extent { first: *w.times.first()?, last: *w.times.last()?, samples: w.floats.len() };
    let (factor, from_zero) = span.factor(w, kind, starts.first().copied(), first, result)?;
    if from_zero {
        result += first;
    }
    Some(Value::Float(result * factor))
}

/// Adds to "last minus first" what was lost when the counter fell on the way.
fn with_float_resets(mut result: f64, w: &Window<'_>, notes: &mut Notes<'_>) -> f64 {
    if w.float_starts.is_empty() {
        for before in w.peaks {
            result += before;
        }
        return result;
    }
    let mut overlap = false;
    let moments = w.floats.iter().zip(w.times).zip(w.float_starts);
    for (((previous, pt), ps), ((current, ct), cs)) in moments.clone().zip(moments.skip(1)) {
        overlap |= starts_overlap(*ps, *pt, *cs);
        if current < previous || is_start_reset(*ps, *pt, *cs, *ct) {
            result += previous;
        }
    }
    if overlap {
        notes.start_overlap();
    }
    result
}

/// A start time after the previous sample means that the counter began anew.
pub(crate) fn is_start_reset(previous_start: i64, previous: i64, start: i64, t: i64) -> bool {
    // 0 is "unknown"; a start at or behind the sample says nothing.
    if start == 0 || start >= t || start < previous {
        return false;
    }
    if start > previous {
        return true;
    }
    // Equal: so it is between deltas, but also in a cumulative series of unknown start.
    previous_start <= previous && previous_start != 0 && previous_start != previous
}

fn starts_overlap(previous_start: i64, previous: i64, start: i64) -> bool {
    start != 0 && start < previous && start != previous_start
}

/// The covered part of a window.
struct Extent {
    first: i64,
    last: i64,
    samples: usize,
}

impl Extent {
    /// By what to multiply the raw increase, and whether the first value counts as increase too, since the counter
    /// began inside the window. `None` if the window tells nothing.
    fn factor(
        &self,
        w: &Window<'_>,
        kind: Kind,
        start: Option<i64>,
        first_value: f64,
        increase: f64,
    ) -> Option<(f64, bool)> {
        let gaps = self.samples.saturating_sub(1);
        let mut to_start = (self.first - w.start) as f64 / 1000.0;
        let mut to_end = (w.end - self.last) as f64 / 1000.0;
        let mut sampled = (self.last - self.first) as f64 / 1000.0;
        let average = if gaps > 0 { sampled / gaps as f64 } else { 0.0 };
        let threshold = average * 1.1;
        let began_inside = start.filter(|s| kind.counter && *s != 0 && *s > w.start && *s < self.first);
        if let Some(s) = began_inside {
            to_start = 0.0;
            sampled = (self.last - s) as f64 / 1000.0;
        } else if gaps == 0 {
            return None;
        } else {
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            // A counter was not below zero: do not extrapolate beyond the time when it would have been.
            if kind.counter && increase > 0.0 && first_value >= 0.0 {
                let to_zero = sampled * (first_value / increase);
                if to_zero < to_start {
                    to_start = to_zero;
                }
            }
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled };
        if kind.per_second {
            factor /= w.seconds();
        }
        Some((factor, began_inside.is_some()))
    }
}

fn histogram_rate(w: &Window<'_>, kind: Kind, notes: &mut Notes<'_>) -> Option<Value> {
    let (first_t, first) = w.histograms.first()?;
    let (last_t, _) = w.histograms.last()?;
    let mut result = None;
    if w.histograms.len() > 1 {
        result = Some(histogram_increase(w, kind, notes)?);
    }
    let span = Extent { first: *first_t, last: *last_t, samples: w.histograms.len() };
    let increase = result.as_ref().map_or(0.0, |h| h.count);
    let starts = if kind.counter { w.histogram_starts } else { &[] };
    let (factor, from_zero) = span.factor(w, kind, starts.first().copied(), first.count, increase)?;
    let mut h = match result {
        None => FloatHistogram::clone(first),
        Some(h) if from_zero => add(&h, first, notes)?,
        Some(h) => h,
    };
    scale(&mut h, factor);
    Some(h.into())
}

/// Last minus first, plus what was lost in resets.
fn histogram_increase(w: &Window<'_>, kind: Kind, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    let points = w.histograms;
    let (first, last) = (&points.first()?.1, &points.last()?.1);
    let gauge = |h: &FloatHistogram| h.reset_hint == ResetHint::Gauge;
    if kind.counter && (gauge(first) || gauge(last)) {
        notes.tell(Note::NotCounter);
    }
    let starts = w.histogram_starts;
    let start_reset =
        |i: usize| match (starts.get(i.wrapping_sub(1)), points.get(i.wrapping_sub(1)), starts.get(i), points.get(i)) {
            (Some(ps), Some((pt, _)), Some(s), Some((t, _))) => is_start_reset(*ps, *pt, *s, *t),
            _ => false,
        };
    let mut base: FloatHistogram = FloatHistogram::clone(first);
    let mut is_custom = first.has_custom_buckets();
    if kind.counter
        && let Some((_, second)) = points.get(1)
        && (start_reset(1) || detect_reset(second, first))
    {
        // After a reset the first one does not matter, nor does its layout.
        base =
            FloatHistogram { schema: second.schema, custom_values: second.custom_values.clone(), ..Default::default() };
        is_custom = second.has_custom_buckets();
    }
    if last.has_custom_buckets() != is_custom {
        notes.tell(Note::MixedExponentialCustom);
        return None;
    }
    let mut schema = last.schema.min(base.schema);
    if kind.counter {
        for (_, h) in points.get(1..points.len() - 1).unwrap_or_default() {
            if gauge(h) {
                notes.tell(Note::NotCounter);
            }
            schema = schema.min(h.schema);
            if h.has_custom_buckets() != is_custom {
                notes.tell(Note::MixedExponentialCustom);
                return None;
            }
        }
    }
    let mut sum = Accumulator::new(last);
    sum.reduce_to(schema);
    match sum.sub(&base) {
        Err(_) => {
            notes.tell(Note::MixedExponentialCustom);
            return None;
        }
        Ok(added) if added.bounds_reconciled => notes.tell(Note::ReconciledSubtraction),
        Ok(_) => {}
    }
    if kind.counter {
        let mut previous: &FloatHistogram = &base;
        let mut overlap = false;
        for (i, (_, current)) in points.iter().enumerate().skip(1) {
            if let (Some(ps), Some((pt, _)), Some(s)) = (starts.get(i - 1), points.get(i - 1), starts.get(i)) {
                overlap |= starts_overlap(*ps, *pt, *s);
            }
            if start_reset(i) || detect_reset(current, previous) {
                match sum.add(previous) {
                    Err(_) => {
                        notes.tell(Note::MixedExponentialCustom);
                        return None;
                    }
                    Ok(added) if added.bounds_reconciled => notes.tell(Note::ReconciledAddition),
                    Ok(_) => {}
                }
            }
            previous = current;
        }
        if overlap {
            notes.start_overlap();
        }
    } else if !gauge(first) || !gauge(last) {
        notes.tell(Note::NotGauge);
    }
    let mut h = sum.finish();
    h.reset_hint = ResetHint::Gauge;
    Some(h)
}

/// `irate` (`counter`) and `idelta`: the last two samples.
pub(crate) fn instant(w: &Window<'_>, counter: bool, notes: &mut Notes<'_>) -> Option<Value> {
    #[derive(Clone, Copy)]
    struct Last<'a> {
        t: i64,
        start: i64,
        v: Result<f64, &'a Arc<FloatHistogram>>,
    }
    if w.histograms.is_empty() && w.float_starts.is_empty() {
        // The common case.
        let n = w.floats.len().checked_sub(2)?;
        let (a, b) = (*w.floats.get(n)?, *w.floats.get(n + 1)?);
        let gap = w.times.get(n + 1)? - w.times.get(n)?;
        if gap == 0 {
            return None;
        }
        let difference = if counter && b < a { b } else { b - a };
        return Some(Value::Float(if counter { difference / (gap as f64 / 1000.0) } else { difference }));
    }
    let start = |starts: &[i64], i: usize| starts.get(i).copied().unwrap_or(0);
    let mut last: Vec<Last<'_>> = Vec::with_capacity(4);
    for i in w.floats.len().saturating_sub(2)..w.floats.len() {
        last.push(Last { t: *w.times.get(i)?, start: start(w.float_starts, i), v: Ok(*w.floats.get(i)?) });
    }
    for i in w.histograms.len().saturating_sub(2)..w.histograms.len() {
        let (t, h) = w.histograms.get(i)?;
        last.push(Last { t: *t, start: start(w.histogram_starts, i), v: Err(h) });
    }
    last.sort_by_key(|l| l.t);
    let n = last.len().checked_sub(2)?;
    let (a, b) = (*last.get(n)?, *last.get(n + 1)?);
    let gap = b.t - a.t;
    if gap == 0 {
        return None;
    }
    let seconds = gap as f64 / 1000.0;
    let restarted = is_start_reset(a.start, a.t, b.start, b.t);
    match (a.v, b.v) {
        (Ok(x), Ok(y)) => {
            let difference = if counter && (y < x || restarted) { y } else { y - x };
            Some(Value::Float(if counter { difference / seconds } else { difference }))
        }
        (Err(x), Err(y)) => {
            let gauges = [x, y].iter().filter(|h| h.reset_hint == ResetHint::Gauge).count();
            if counter && gauges > 0 {
                notes.tell(Note::NotCounter);
            }
            if !counter && gauges < 2 {
                notes.tell(Note::NotGauge);
            }
            let mut h = FloatHistogram::clone(y);
            if !counter || (!restarted && !detect_reset(y, x)) {
                h = sub(y, x, notes)?;
            }
            h.reset_hint = ResetHint::Gauge;
            compact(&mut h);
            if counter {
                divide(&mut h, seconds);
            }
            Some(h.into())
        }
        _ => {
            notes.tell(Note::MixedFloatsHistograms);
            None
        }
    }
}

/// The samples that `anchored` and `smoothed` take into account: from the last one at or before the start, to the
/// end, or for `smoothed` to the first one at or behind it.
///
/// Of `smoothed` all may lie behind the window's end: see [`lies_behind`].
pub(crate) fn extended_bounds(time: impl Fn(usize) -> i64, len: usize, w: &Window<'_>) -> Option<(usize, usize)> {
    let last = len.checked_sub(1)?;
    let search = |reached: &dyn Fn(i64) -> bool| {
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = usize::midpoint(low, high);
            if reached(time(middle)) { high = middle } else { low = middle + 1 }
        }
        low
    };
    let first = search(&|t| t > w.start).saturating_sub(1);
    let smoothed = w.mode == RangeMode::Smoothed;
    let last = if smoothed { search(&|t| t >= w.end) } else { last };
    if time(last) <= w.start {
        return None;
    }
    Some((first, last))
}

/// True if `smoothed` has looked ahead and seen nothing inside the window; functions then have no value.
fn lies_behind(w: &Window<'_>, first: i64) -> bool {
    w.mode == RangeMode::Smoothed && first > w.end
}

/// The value at `t` on the line between two points; a fall of a counter begins at zero.
pub(crate) fn interpolate(a: (i64, f64), b: (i64, f64), t: i64, counter: bool) -> f64 {
    let from = if counter && b.1 < a.1 { 0.0 } else { a.1 };
    from + (b.1 - from) * (t - a.0) as f64 / (b.0 - a.0) as f64
}

fn extended_float(w: &Window<'_>, kind: Kind) -> Option<f64> {
    let point = |i: usize| Some((*w.times.get(i)?, *w.floats.get(i)?));
    let (mut first, last) = extended_bounds(|i| w.times.get(i).copied().unwrap_or(i64::MAX), w.floats.len(), w)?;
    if lies_behind(w, *w.times.get(first)?) {
        return None;
    }
    let (left, right) = edges(w, first, last, kind.counter)?;
    let mut result = right - left;
    if kind.counter {
        if point(first)?.0 <= w.start {
            first += 1;
        }
        let end = if point(last)?.0 >= w.end { last } else { last + 1 };
        let (mut previous, mut lost) = (left, 0.0);
        let inner = w.floats.get(first..end.max(first)).unwrap_or_default();
        for v in inner.iter().chain(std::iter::once(&right)) {
            if *v < previous {
                lost += previous;
            }
            previous = *v;
        }
        result += lost;
    }
    Some(if kind.per_second { result / w.seconds() } else { result })
}

/// The values at both edges of the window: those of the outermost samples, or for `smoothed` interpolated.
pub(crate) fn edges(w: &Window<'_>, first: usize, last: usize, counter: bool) -> Option<(f64, f64)> {
    let point = |i: usize| Some((*w.times.get(i)?, *w.floats.get(i)?));
    let smoothed = w.mode == RangeMode::Smoothed;
    let (a, b) = (point(first)?, point(last)?);
    let left = match point(first + 1) {
        Some(next) if smoothed && a.0 < w.start => interpolate(a, next, w.start, counter),
        _ => a.1,
    };
    let right =
        if smoothed && last > 0 && b.0 > w.end { interpolate(point(last - 1)?, b, w.end, counter) } else { b.1 };
    Some((left, right))
}

fn extended_histogram(w: &Window<'_>, kind: Kind, notes: &mut Notes<'_>) -> Option<Value> {
    let points = w.histograms;
    let smoothed = w.mode == RangeMode::Smoothed;
    let (first, last) = extended_bounds(|i| points.get(i).map_or(i64::MAX, |p| p.0), points.len(), w)?;
    let used = points.get(first..=last)?;
    if lies_behind(w, used.first()?.0) {
        return None;
    }
    let is_custom = used.first()?.1.has_custom_buckets();
    for (_, h) in used {
        if h.has_custom_buckets() != is_custom {
            notes.tell(Note::MixedExponentialCustom);
            return None;
        }
        if kind.counter && h.reset_hint == ResetHint::Gauge {
            notes.tell(Note::NotCounter);
        }
    }
    let (a, b) = (points.get(first)?, points.get(last)?);
    let left = match points.get(first + 1) {
        Some(next) if smoothed && a.0 < w.start => interpolate_histogram(a, next, w.start, kind.counter, notes)?,
        _ => FloatHistogram::clone(&a.1),
    };
    let right = if smoothed && last > 0 && b.0 > w.end {
        interpolate_histogram(points.get(last - 1)?, b, w.end, kind.counter, notes)?
    } else {
        FloatHistogram::clone(&b.1)
    };
    if !kind.counter && (left.reset_hint != ResetHint::Gauge || right.reset_hint != ResetHint::Gauge) {
        notes.tell(Note::NotGauge);
    }
    let mut result = sub(&right, &left, notes)?;
    if kind.counter
        && let Some(lost) = histogram_resets(w, first, last, &left, &right, notes)?
    {
        result = add(&result, &lost, notes)?;
    }
    if kind.per_second {
        divide(&mut result, w.seconds());
    }
    result.reset_hint = ResetHint::Gauge;
    compact(&mut result);
    Some(result.into())
}

/// The sum of what was lost in resets between the edges; `None` outside means that histograms don't fit together.
fn histogram_resets(
    w: &Window<'_>,
    first: usize,
    last: usize,
    left: &FloatHistogram,
    right: &FloatHistogram,
    notes: &mut Notes<'_>,
) -> Option<Option<FloatHistogram>> {
    let points = w.histograms;
    // The first sample is represented by the left edge, the last one by the right edge.
    let mut from = first + 1;
    let mut previous = left;
    if w.mode == RangeMode::Smoothed
        && let (Some(a), Some(b)) = (points.get(first), points.get(first + 1))
        && a.0 < w.start
        && detect_reset(&b.1, &a.1)
    {
        // The interpolation has already crossed this reset.
        previous = &b.1;
        from += 1;
    }
    if from > last {
        return Some(None);
    }
    let mut lost: Option<FloatHistogram> = None;
    let inner = points.get(from..last).unwrap_or_default().iter().map(|p| &*p.1);
    for h in inner.chain(std::iter::once(right)) {
        if detect_reset(h, previous) {
            lost = Some(match lost {
                None => previous.clone(),
                Some(sum) => add(&sum, previous, notes)?,
            });
        }
        previous = h;
    }
    Some(lost)
}

/// The histogram at `t` on the line between two; a fall of a counter begins at zero.
pub(crate) fn interpolate_histogram(
    a: &(i64, Arc<FloatHistogram>),
    b: &(i64, Arc<FloatHistogram>),
    t: i64,
    counter: bool,
    notes: &mut Notes<'_>,
) -> Option<FloatHistogram> {
    if t == a.0 {
        return Some(FloatHistogram::clone(&a.1));
    }
    if t == b.0 {
        return Some(FloatHistogram::clone(&b.1));
    }
    let share = (t - a.0) as f64 / (b.0 - a.0) as f64;
    if counter && detect_reset(&b.1, &a.1) {
        let mut h = FloatHistogram::clone(&b.1);
        scale(&mut h, share);
        return Some(h);
    }
    let mut between = Accumulator::new(&b.1);
    let mut combine = |added: Result<Added, Incompatible>, reconciled: Note| {
        match added {
            Err(Incompatible) => {
                notes.tell(Note::MixedExponentialCustom);
                return None;
            }
            Ok(added) if added.bounds_reconciled => notes.tell(reconciled),
            Ok(_) => {}
        }
        Some(())
    };
    combine(between.sub(&a.1), Note::ReconciledSubtraction)?;
    between.scale(share);
    combine(between.add(&a.1), Note::ReconciledAddition)?;
    Some(between.finish_with_empty())
}

fn add(a: &FloatHistogram, b: &FloatHistogram, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    let mut sum = Accumulator::new(a);
    match sum.add(b) {
        Err(_) => {
            notes.tell(Note::MixedExponentialCustom);
            return None;
        }
        Ok(added) if added.bounds_reconciled => notes.tell(Note::ReconciledAddition),
        Ok(_) => {}
    }
    Some(sum.finish())
}

fn sub(a: &FloatHistogram, b: &FloatHistogram, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    let mut sum = Accumulator::new(a);
    match sum.sub(b) {
        Err(_) => {
            notes.tell(Note::MixedExponentialCustom);
            return None;
        }
        Ok(added) if added.bounds_reconciled => notes.tell(Note::ReconciledSubtraction),
        Ok(_) => {}
    }
    Some(sum.finish())
}
