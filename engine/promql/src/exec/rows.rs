//! Native histograms as rows of numbers, from the chunks to the sums of an aggregation: the common case, in which the
//! histograms of a series have one layout. Gives what the general way gives, which a test compares.

use super::budget::Cost;
use super::column::{Bits, histograms_cost};
use super::dense::{Ends, Extrapolation};
use crate::functions::rate::Kind;
use crate::histogram::Accumulator;
use crate::parse::RangeMode;
use crate::plan::{Grid, RangeArg};
use model::FloatHistogram;
use model::histogram::rows::{Layout, ROW_HEAD, Table};
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, ResetHint};
use model::number::kahan;
use std::sync::Arc;

/// Gauge histograms of one series by step.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    layout: Arc<Layout>,
    width: usize,
    present: Bits,
    /// Rows of all steps; those that are absent hold zeros.
    values: Vec<f64>,
}

impl Rows {
    /// The steps with a histogram, and these.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, FloatHistogram)> + '_ {
        let row = |i: usize| self.values.get(i * self.width..(i + 1) * self.width);
        self.present.iter().filter_map(move |i| {
            let mut h = self.layout.histogram(row(i)?, ResetHint::Gauge);
            crate::histogram::compact(&mut h);
            Some((i, h))
        })
    }

    pub(super) fn cost(&self) -> Cost {
        let count = self.present.count();
        let mut cost = histograms_cost(count, count * self.layout.words());
        // Steps without a histogram have their place, too.
        cost.bytes = cost.bytes.max(8 * self.values.len() as u64);
        cost
    }
}

/// Bytes that the rates of a table will take.
pub(super) fn expected(table: &Table, grid: &Grid) -> u64 {
    let width = (table.numbers() / table.len().max(1)) as u64;
    width.saturating_mul(8).saturating_mul(grid.len as u64)
}

/// `rate` and `increase` of all windows; `None` where rows do not tell all, and then the general way is to be gone.
pub(super) fn rates(table: &Table, range: &RangeArg, grid: &Grid, kind: Kind) -> Option<Option<Rows>> {
    let RangeArg::Selector { selector, range } = range else { return None };
    let ends = Ends::new(selector, grid, *range).filter(|_| selector.mode == RangeMode::Plain && kind.counter)?;
    let (layout, values) = table.joined().filter(|(layout, _)| layout.is_plain())?;
    let width = layout.width();
    let row = |i: usize| values.get(i * width..(i + 1) * width);
    if layout.schema == CUSTOM_BUCKETS_SCHEMA && (0..table.len()).any(|i| row(i).is_none_or(|r| r.get(1) != Some(&0.0)))
    {
        return None;
    }
    let mut resets = Vec::new();
    for i in table.unknown.iter().copied().filter(|i| *i > 0) {
        let (before, now) = (row(i - 1)?, row(i)?);
        // The sum may fall.
        let fell = |(at, (b, n)): (usize, (&f64, &f64))| at != 2 && n < b;
        if before.iter().zip(now).enumerate().any(fell) {
            resets.push(i);
        }
    }
    let mut extrapolation = Extrapolation::new(*range, kind);
    let mut out = Rows { layout: Arc::clone(&layout), width, present: Bits::none(grid.len), values: Vec::new() };
    out.values.resize(grid.len.checked_mul(width)?, 0.0);
    let mut reset = 0;
    for (i, slots, w) in ends.windows(&table.times, *range, out.values.chunks_exact_mut(width)) {
        let Some(shape) = w.shape(&table.times) else { continue };
        let (from, to) = (w.from, w.to);
        let (Some(first), Some(last)) = (row(from), row(to - 1)) else { break };
        while resets.get(reset).is_some_and(|at| *at <= from) {
            reset += 1;
        }
        let mut within = resets.get(reset..).unwrap_or_default().iter().copied().take_while(|at| *at < to).peekable();
        // After a reset the first one does not matter.
        if within.next_if_eq(&(from + 1)).is_some() {
            for (slot, last) in slots.iter_mut().zip(last) {
                *slot = last - 0.0;
            }
        } else {
            for ((slot, last), first) in slots.iter_mut().zip(last).zip(first) {
                *slot = last - first;
            }
        }
        for at in within {
            for (slot, lost) in slots.iter_mut().zip(row(at - 1).unwrap_or_default()) {
                *slot += lost;
            }
        }
        let (Some(first), Some(increase)) = (first.first(), slots.first()) else { break };
        // Adding 0 turns −0 into 0, as the general way does.
        let by = extrapolation.by(shape, *first, increase + 0.0);
        for slot in slots {
            *slot = (*slot + 0.0) * by;
        }
        out.present.set(i);
    }
    Some(out.present.any().then_some(out))
}

/// Sums of histograms by step.
pub(super) struct RowSums {
    layout: Arc<Layout>,
    width: usize,
    present: Bits,
    /// Sums with their errors, by rows.
    sums: Vec<(f64, f64)>,
}

impl RowSums {
    /// Begins with one series.
    pub(super) fn new(rows: &Rows) -> Self {
        let Rows { layout, width, present, values } = rows;
        let sums = values.iter().map(|v| (*v, 0.0)).collect();
        Self { layout: Arc::clone(layout), width: *width, present: present.clone(), sums }
    }

    pub(super) fn cost(&self) -> Cost {
        let numbers = self.sums.len() as u64;
        Cost { samples: numbers, bytes: numbers * 16 }
    }

    /// Adds a series and gives what more is held, or gives it back where resolutions, zero buckets or bounds differ.
    pub(super) fn add(&mut self, rows: Box<Rows>) -> Result<Cost, Box<Rows>> {
        let before = self.cost();
        if !Arc::ptr_eq(&self.layout, &rows.layout) && self.layout != rows.layout {
            // Each has buckets that the other lacks, where they are empty.
            let Some(wide) = self.layout.union(&rows.layout).filter(Layout::is_plain) else { return Err(rows) };
            if wide != *self.layout {
                self.widen(wide);
            }
        }
        let same = self.layout == rows.layout;
        let places = if same { Vec::new() } else { rows.layout.places_in(&self.layout) };
        let pairs = self.sums.chunks_exact_mut(self.width).zip(rows.values.chunks_exact(rows.width));
        for (i, (sums, values)) in pairs.enumerate() {
            if !rows.present.get(i) {
                continue;
            }
            let first = !self.present.get(i);
            let add = |sum: &mut (f64, f64), v: f64| *sum = if first { (v, 0.0) } else { kahan(v, sum.0, sum.1) };
            if same {
                sums.iter_mut().zip(values).for_each(|(sum, v)| add(sum, *v));
                continue;
            }
            for (at, v) in places.iter().zip(values) {
                if let Some(sum) = sums.get_mut(*at) {
                    add(sum, *v);
                }
            }
        }
        self.present.or(&rows.present);
        let after = self.cost();
        Ok(Cost { samples: after.samples - before.samples, bytes: after.bytes - before.bytes })
    }

    fn widen(&mut self, wide: Layout) {
        let (width, places) = (wide.width(), self.layout.places_in(&wide));
        let mut sums = vec![(0.0, 0.0); self.sums.len() / self.width.max(ROW_HEAD) * width];
        for (from, to) in self.sums.chunks_exact(self.width).zip(sums.chunks_exact_mut(width)) {
            for (sum, at) in from.iter().zip(&places) {
                if let Some(slot) = to.get_mut(*at) {
                    *slot = *sum;
                }
            }
        }
        (self.layout, self.width, self.sums) = (Arc::new(wide), width, sums);
    }

    /// The steps with a sum, and these.
    pub(super) fn sums(&self) -> impl Iterator<Item = (usize, Accumulator)> + '_ {
        let row = |i: usize| self.sums.get(i * self.width..(i + 1) * self.width);
        self.present.iter().filter_map(move |i| Some((i, Accumulator::of_row(&self.layout, row(i)?, ResetHint::Gauge))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemorySource;
    use super::super::{
        Encoded, EngineOptions, Entry, Plan, QueryError, Samples, SelectRequest, SeriesSet, Source, Stop, Times,
    };
    use super::*;
    use model::Labels;
    use model::histogram::Span;
    use proptest::prelude::*;

    /// The same source, whose histograms come one by one.
    struct OneByOne<'m>(&'m MemorySource);
    struct Set<'s>(Box<dyn SeriesSet<'s> + 's>);
    struct One<'s>(Box<dyn Encoded + 's>);

    impl Source for OneByOne<'_> {
        fn select<'s>(&'s self, request: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
            Ok(Box::new(Set(self.0.select(request)?)))
        }
    }

    impl<'s> SeriesSet<'s> for Set<'s> {
        fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
            let next = self.0.next_series()?;
            Ok(next.map(|e| Entry { labels: e.labels, data: Box::new(One(e.data)) }))
        }
    }

    impl Encoded for One<'_> {
        fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
            out.wants_rows = false;
            self.0.decode(out)
        }
    }

    #[derive(Clone, Debug)]
    struct Step {
        distance: i64,
        /// First bucket, buckets, and another span behind a gap.
        layout: (i32, u32, u32),
        grow: Vec<u8>,
        reset: bool,
        hint: ResetHint,
        odd: u8,
    }

    fn step() -> impl Strategy<Value = Step> {
        let hint =
            prop_oneof![3 => Just(ResetHint::Unknown), 6 => Just(ResetHint::NotReset), 1 => Just(ResetHint::Reset)];
        let layout = prop_oneof![8 => Just((1, 4, 0)), 2 => (0i32..3, 2u32..6, 0u32..3)];
        let distance = prop_oneof![8 => Just(15i64), 1 => 1i64..40, 1 => 100i64..300];
        (distance, layout, proptest::collection::vec(0u8..9, 10), proptest::bool::weighted(0.1), hint, 0u8..60)
            .prop_map(|(distance, layout, grow, reset, hint, odd)| Step { distance, layout, grow, reset, hint, odd })
    }

    /// A series of histograms that grow, fall, and change their form now and then.
    fn series(steps: &[Step], custom: bool) -> Vec<(i64, FloatHistogram)> {
        let (mut t, mut counts, mut zero, mut all) = (0, [0.0; 16], 0.0, Vec::new());
        for s in steps {
            t += s.distance * 1000;
            if s.reset {
                counts = [0.0; 16];
                zero = 0.0;
            }
            for (slot, more) in counts.iter_mut().skip(s.layout.0 as usize).zip(&s.grow) {
                *slot += f64::from(*more) / 7.0;
            }
            zero += if custom { 0.0 } else { 0.3 };
            let (first, n, more) = s.layout;
            let mut spans = vec![Span { offset: first, length: n }];
            let mut indexes: Vec<usize> = (first as usize..first as usize + n as usize).collect();
            if more > 0 {
                spans.push(Span { offset: 1, length: more });
                let begin = first as usize + n as usize + 1;
                indexes.extend(begin..begin + more as usize);
            }
            let buckets: Vec<f64> = indexes.iter().map(|i| counts[*i]).collect();
            let mut h = FloatHistogram {
                reset_hint: s.hint,
                schema: if custom { CUSTOM_BUCKETS_SCHEMA } else { 2 },
                custom_values: if custom { (1..14).map(f64::from).collect() } else { Vec::new() },
                zero_threshold: if custom { 0.0 } else { 1e-3 },
                zero_count: zero,
                count: zero + buckets.iter().sum::<f64>(),
                sum: counts[1] * 3.1 - 5.0,
                positive_spans: spans.clone(),
                positive_buckets: buckets.clone(),
                ..FloatHistogram::default()
            };
            match s.odd {
                0 if !custom => h.schema = 1,
                1 if !custom => h.zero_threshold = 0.01,
                2 => h.reset_hint = ResetHint::Gauge,
                3 => h.sum = f64::from_bits(model::sample::STALE_NAN_BITS),
                4 if !custom => (h.negative_spans, h.negative_buckets) = (spans, buckets),
                _ => {}
            }
            all.push((t, h));
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn rows_give_what_histograms_give(
            all in proptest::collection::vec((proptest::collection::vec(step(), 0..60), any::<bool>()), 1..5),
            start in 0i64..300, step in 1i64..90, len in 1i64..30, range in 20i64..200, floats in proptest::bool::weighted(0.1),
        ) {
            let mut source = MemorySource::new();
            for (i, (steps, custom)) in all.iter().enumerate() {
                let labels = Labels::from_pairs([("__name__", "h".to_owned()), ("i", i.to_string())]);
                for (t, h) in series(steps, *custom && i % 2 == 1) {
                    source.push_histogram(&labels, t, h.into());
                }
                if floats && i == 1 {
                    source.push(&labels, 200_001, 1.0);
                }
            }
            let times = Times::Range { start: start * 1000, end: (start + step * len) * 1000, step: step * 1000 };
            for query in [
                format!("sum(rate(h[{range}s]))"),
                format!("sum by (i) (increase(h[{range}s]))"),
                format!("rate(h[{range}s])"),
                format!("histogram_quantile(0.7, sum(rate(h[{range}s])))"),
            ] {
                let plan = Plan::new(&query, times, &EngineOptions::default()).unwrap();
                let (rows, plain) = (plan.execute(&source, &Stop::new()), plan.execute(&OneByOne(&source), &Stop::new()));
                let shown = |r: Result<super::super::QueryResult, QueryError>| match r {
                    Ok(r) => format!("{:?} {:?}", r.value, r.annotations.strings(&query, 0)),
                    Err(e) => e.to_string(),
                };
                prop_assert_eq!(shown(rows), shown(plain), "{}", query);
            }
        }
    }
}
