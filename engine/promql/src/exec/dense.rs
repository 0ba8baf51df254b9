//! The common case, without detours: a series of floats alone under a plain selector. Gives the very bits of the general
//! way, which a test compares.

use super::column::Column;
use super::source::Samples;
use crate::functions::rate::Kind;
use crate::functions::window::Falls;
use crate::parse::RangeMode;
use crate::plan::{Grid, RangeArg, Selector};
use model::sample::is_stale;

/// Where windows end: the first, and the distance of the others.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    first: i64,
    step: i64,
}

impl Ends {
    /// `None` where times are so extreme that sums of them are cut.
    pub(super) fn new(selector: &Selector, grid: &Grid, reach: i64) -> Option<Self> {
        let (first, last) = (selector.reference(grid.start), selector.reference(grid.end()));
        let step = if selector.at.is_some() { 0 } else { grid.step };
        let exact = first.checked_sub(reach).is_some()
            && step.checked_mul(i64::try_from(grid.len).ok()?.checked_sub(1)?)?.checked_add(first)? == last;
        exact.then_some(Self { first, step })
    }

    fn at(self, i: usize) -> i64 {
        self.first + self.step * i as i64
    }

    /// Lays windows of `range` over `times`: for each of as many steps as there are `slots`, the slot and its window.
    #[inline(always)]
    pub(super) fn windows<'t, T>(
        self,
        times: &'t [i64],
        range: i64,
        slots: impl Iterator<Item = T> + 't,
    ) -> impl Iterator<Item = (usize, T, Placed)> + 't {
        let (mut from, mut to) = (Edge::default(), Edge::default());
        slots.enumerate().map(move |(i, slot)| {
            let end = self.at(i);
            let start = end - range;
            (i, slot, Placed { start, end, from: from.advance(times, start), to: to.advance(times, end) })
        })
    }
}

/// An edge of windows on its way over ascending times.
#[derive(Default)]
struct Edge {
    /// Samples behind it.
    at: usize,
    /// How many it passed last.
    stride: usize,
}

impl Edge {
    /// The number of times up to `until`, which never goes back.
    #[inline(always)]
    fn advance(&mut self, times: &[i64], until: i64) -> usize {
        // Of steady scrapes it passes as many each time.
        let guess = self.at + self.stride;
        if guess.checked_sub(1).and_then(|last| times.get(last)).is_some_and(|t| *t <= until)
            && times.get(guess).is_none_or(|t| *t > until)
        {
            self.at = guess;
            return guess;
        }
        let before = self.at;
        while times.get(self.at).is_some_and(|t| *t <= until) {
            self.at += 1;
        }
        self.stride = self.at - before;
        self.at
    }
}

/// A window, and its samples: `from..to`.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    start: i64,
    end: i64,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Placed {
    /// How its samples lie in it; `None` if they are less than two.
    #[inline(always)]
    pub(super) fn shape(self, times: &[i64]) -> Option<Shape> {
        let Self { start, end, from, to } = self;
        let samples = to - from;
        let (first, last) = (times.get(from)?, times.get(to.checked_sub(1)?)?);
        let shape = Shape { before: first - start, sampled: last - first, after: end - last, samples };
        (samples >= 2).then_some(shape)
    }
}

/// True if there are only floats, and nothing is known of when they began.
fn is_plain(s: &Samples) -> bool {
    s.histograms.is_empty() && s.table.is_empty() && s.float_starts.is_empty() && s.times.len() == s.floats.len()
}

/// The newest value of each step, if it is not too old.
pub(super) fn newest(s: &Samples, selector: &Selector, grid: &Grid, lookback: i64) -> Option<Column> {
    let ends = Ends::new(selector, grid, lookback).filter(|_| is_plain(s))?;
    let mut column = Column::empty(grid.len);
    let mut to = Edge::default();
    for (i, slot) in column.floats.iter_mut().enumerate() {
        let end = ends.at(i);
        let Some(last) = to.advance(&s.times, end).checked_sub(1) else { continue };
        if let (Some(t), Some(v)) = (s.times.get(last), s.floats.get(last))
            && *t > end - lookback
            && !is_stale(*v)
        {
            *slot = *v;
            column.present.set(i);
        }
    }
    Some(column)
}

/// What the factor of a window depends on beside its values. Of steady scrapes all windows have the same.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// From the window's start to the first sample, milliseconds.
    before: i64,
    /// From the first sample to the last.
    sampled: i64,
    /// From the last sample to the window's end.
    after: i64,
    /// At least two.
    samples: usize,
}

/// How a window of a shape is extrapolated.
#[derive(Clone, Copy)]
struct Factor {
    sampled: f64,
    to_start: f64,
    to_end: f64,
    /// If the counter's zero does not lie within.
    usual: f64,
}

impl Factor {
    fn new(shape: Shape, seconds: f64, per_second: bool) -> Self {
        let mut to_start = shape.before as f64 / 1000.0;
        let mut to_end = shape.after as f64 / 1000.0;
        let sampled = shape.sampled as f64 / 1000.0;
        let average = sampled / (shape.samples - 1) as f64;
        let threshold = average * 1.1;
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = Self { sampled, to_start, to_end, usual: 0.0 };
        factor.usual = factor.of(to_start, seconds, per_second);
        factor
    }

    fn of(&self, to_start: f64, seconds: f64, per_second: bool) -> f64 {
        let factor = if self.sampled == 0.0 { 1.0 } else { (self.sampled + to_start + self.to_end) / self.sampled };
        if per_second { factor / seconds } else { factor }
    }
}

/// By what increases of windows are multiplied.
pub(super) struct Extrapolation {
    seconds: f64,
    kind: Kind,
    known: Option<(Shape, Factor)>,
}

impl Extrapolation {
    /// Of windows of `range` milliseconds.
    pub(super) fn new(range: i64, kind: Kind) -> Self {
        Self { seconds: range as f64 / 1000.0, kind, known: None }
    }

    /// For a window in which the counter began at `first` and grew by `increase`.
    #[inline(always)]
    pub(super) fn by(&mut self, shape: Shape, first: f64, increase: f64) -> f64 {
        let Self { seconds, kind, .. } = *self;
        let factor = match self.known {
            Some((known, factor)) if known == shape => factor,
            _ => {
                let factor = Factor::new(shape, seconds, kind.per_second);
                self.known = Some((shape, factor));
                factor
            }
        };
        // A counter was not below zero. Most are far from it, which a product tells faster than the exact quotient.
        if kind.counter && increase > 0.0 && first >= 0.0 {
            let (far, near) = (factor.sampled * first, factor.to_start * increase);
            let beyond = far > near * 1.000_001 + f64::MIN_POSITIVE && near.is_finite();
            if !beyond {
                let to_zero = factor.sampled * (first / increase);
                if to_zero < factor.to_start {
                    return factor.of(to_zero, seconds, kind.per_second);
                }
            }
        }
        factor.usual
    }
}

/// `rate`, `increase` and `delta` of all windows.
pub(super) fn rates(s: &Samples, range: &RangeArg, grid: &Grid, kind: Kind, falls: &Falls) -> Option<Column> {
    let RangeArg::Selector { selector, range } = range else { return None };
    let ends = Ends::new(selector, grid, *range).filter(|_| is_plain(s) && selector.mode == RangeMode::Plain)?;
    let mut extrapolation = Extrapolation::new(*range, kind);
    let mut column = Column::empty(grid.len);
    let mut falls = falls.walk();
    for (i, slot, w) in ends.windows(&s.times, *range, column.floats.iter_mut()) {
        let peaks = falls.within(w.from, w.to);
        let Some(shape) = w.shape(&s.times) else { continue };
        let (Some(first), Some(last)) = (s.floats.get(w.from), s.floats.get(w.to - 1)) else { break };
        let mut increase = last - first;
        if kind.counter {
            for before in peaks {
                increase += before;
            }
        }
        let by = extrapolation.by(shape, *first, increase);
        *slot = increase * by;
        column.present.set(i);
    }
    Some(column)
}

/// Values that are looked at in one go: some 20 ms.
const MOST_LOOKS: i64 = 64 << 20;

/// `max_over_time` (`GREATEST`) and `min_over_time` of all windows.
pub(super) fn extremes<const GREATEST: bool>(s: &Samples, range: &RangeArg, grid: &Grid) -> Option<Column> {
    let RangeArg::Selector { selector, range } = range else { return None };
    let ends = Ends::new(selector, grid, *range).filter(|_| is_plain(s) && selector.mode == RangeMode::Plain)?;
    // Much work is for the general way, which can be stopped.
    let windows_of_each = range / grid.step.max(1) + 1;
    if s.floats.len() as i64 > MOST_LOOKS / windows_of_each || s.floats.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut column = Column::empty(grid.len);
    for (i, slot, w) in ends.windows(&s.times, *range, column.floats.iter_mut()) {
        let window = s.floats.get(w.from..w.to).unwrap_or_default();
        if let Some(first) = window.first() {
            *slot = extreme::<GREATEST>(*first, window);
            column.present.set(i);
        }
    }
    Some(column)
}

/// The first of the greatest, or of the least.
#[inline(always)]
fn extreme<const GREATEST: bool>(first: f64, window: &[f64]) -> f64 {
    let better = |best: f64, v: f64| if (GREATEST && v > best) || (!GREATEST && v < best) { v } else { best };
    // Four at a time, since each comparison waits for the one before.
    let mut best = [first; 4];
    let (fours, rest) = window.as_chunks::<4>();
    for four in fours {
        for (best, v) in best.iter_mut().zip(four) {
            *best = better(*best, *v);
        }
    }
    let best = best.into_iter().chain(rest.iter().copied()).fold(first, better);
    // Zeros of both signs are equal: the order tells.
    if best == 0.0 { window.iter().copied().fold(first, better) } else { best }
}

#[cfg(test)]
mod tests {
    use super::super::Annotations;
    use super::super::select::{Take, instant_column};
    use super::*;
    use crate::functions::over_time as over;
    use crate::functions::rate::extrapolated;
    use crate::functions::window::{Notes, Slider, Value};
    use crate::parse::Span;
    use model::Labels;
    use proptest::prelude::*;

    fn selector(at: Option<i64>, offset: i64) -> Selector {
        Selector { select: 0, matchers: Vec::new(), at, offset, mode: RangeMode::Plain, stats: false }
    }

    fn bits(column: &Column) -> Vec<Option<u64>> {
        (0..column.len()).map(|i| column.float(i).map(f64::to_bits)).collect()
    }

    /// Values of counters, gauges and worse; distances of steady and of wild scrapes.
    fn samples() -> impl Strategy<Value = Samples> {
        let value = prop_oneof![
            8 => (0u32..1000).prop_map(f64::from),
            2 => any::<f64>(),
            1 => Just(f64::from_bits(0x7ff0_0000_0000_0002)),
            1 => -10.0..10.0f64,
            2 => prop_oneof![Just(0.0), Just(-0.0), Just(-1.0)],
        ];
        let distance = prop_oneof![6 => Just(15i64), 2 => 1i64..40, 1 => 100i64..400];
        proptest::collection::vec((distance, value, any::<bool>()), 0..80).prop_map(|all| {
            let (mut s, mut t, mut total) = (Samples::default(), 0, 0.0);
            for (distance, v, grow) in all {
                t += distance;
                total = if grow && v.is_finite() && v.abs() < 1e6 { total + v.abs() } else { v };
                s.push(t, total);
            }
            s
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_bits_are_those_of_the_general_way(
            s in samples(), start in -50i64..300, step in 1i64..90, len in 1usize..40, range in 1i64..200,
            offset in -60i64..60, at in proptest::option::of(0i64..900),
        ) {
            let grid = Grid { start, step, len, spread: true };
            let selector = selector(at, offset);
            let newest = newest(&s, &selector, &grid, range).unwrap();
            prop_assert_eq!(bits(&newest), bits(&instant_column(&s, &selector, &grid, range, Take::Value)));
            let arg = RangeArg::Selector { selector, range };
            let mut falls = Falls::default();
            falls.find(&s.floats);
            for (counter, per_second) in [(true, true), (true, false), (false, false)] {
                let kind = Kind { counter, per_second };
                let none = Falls::default();
                let falls = if counter { &falls } else { &none };
                let dense = rates(&s, &arg, &grid, kind, falls).unwrap();
                let mut general = Column::empty(len);
                let mut slider = Slider::new(&s, falls, range, RangeMode::Plain, 0);
                let mut annotations = Annotations::default();
                let mut notes = Notes::new(&mut annotations, &Labels::empty(), Span::default());
                for i in 0..len {
                    let t = grid.time(i);
                    if let Some(Value::Float(v)) = extrapolated(&slider.at(t, arg.reference(t)), kind, &mut notes) {
                        general.set(i, v);
                    }
                }
                prop_assert_eq!(bits(&dense), bits(&general), "{:?}", kind);
            }
            let none = Falls::default();
            for greatest in [true, false] {
                let dense =
                    if greatest { extremes::<true>(&s, &arg, &grid) } else { extremes::<false>(&s, &arg, &grid) };
                let Some(dense) = dense else { continue };
                let mut general = Column::empty(len);
                let mut slider = Slider::new(&s, &none, range, RangeMode::Plain, 0);
                let mut annotations = Annotations::default();
                let mut notes = Notes::new(&mut annotations, &Labels::empty(), Span::default());
                for i in 0..len {
                    let window = slider.at(grid.time(i), arg.reference(grid.time(i)));
                    let value = if greatest { over::max(&window, &mut notes) } else { over::min(&window, &mut notes) };
                    if let Some(Value::Float(v)) = value {
                        general.set(i, v);
                    }
                }
                prop_assert_eq!(bits(&dense), bits(&general), "greatest {}", greatest);
            }
        }
    }

    #[test]
    fn times_that_nobody_can_mean_take_the_general_way() {
        let mut s = Samples::default();
        s.push(0, 1.0);
        let grid = Grid { start: i64::MAX - 5, step: 10, len: 3, spread: true };
        assert!(newest(&s, &selector(None, 0), &grid, 10).is_none());
        assert!(newest(&s, &selector(Some(i64::MIN + 5), 0), &Grid::single(0), 10).is_none());
    }
}
