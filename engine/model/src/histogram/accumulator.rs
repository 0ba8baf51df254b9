//! Sums of histograms. The accumulator keeps its layout between additions, so that histograms of one layout are
//! added without allocation.

use super::buckets::{bound, custom, exponential_bound, indexes, push_index, target_index};
use super::rows::{Layout, ROW_HEAD};
use super::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, ResetHint, Span};
use crate::number::kahan;

/// Exponential and custom buckets can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incompatible;

/// What happened in an addition beside adding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// One said "reset", the other "no reset".
    pub reset_collision: bool,
    /// Custom bounds differed; the common ones are kept.
    pub bounds_reconciled: bool,
}

/// A number with the error of its summation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    v: f64,
    c: f64,
}

impl Sum {
    fn of(v: f64) -> Self {
        Self { v, c: 0.0 }
    }

    fn add(&mut self, v: f64, exact: bool) {
        if exact {
            (self.v, self.c) = kahan(v, self.v, self.c);
        } else {
            self.v += v;
        }
    }

    fn add_sum(&mut self, other: Sum) {
        (self.v, self.c) = kahan(other.v, self.v, self.c);
        if other.c != 0.0 {
            (self.v, self.c) = kahan(other.c, self.v, self.c);
        }
    }

    fn total(self) -> f64 {
        self.v + self.c
    }
}

/// The buckets of one side of zero.
#[derive(Clone, Debug, Default)]
struct Side {
    spans: Vec<Span>,
    sums: Vec<Sum>,
}

impl Side {
    fn of(spans: &[Span], counts: &[f64]) -> Self {
        let mut side = Self { spans: spans.to_vec(), sums: counts.iter().map(|c| Sum::of(*c)).collect() };
        let promised: usize = spans.iter().map(|s| s.length as usize).sum();
        if promised != side.sums.len() {
            // Inconsistent input: keep what both agree on.
            side = Self::build(indexes(spans).zip(side.sums.iter().copied()));
        }
        side
    }

    fn build(buckets: impl Iterator<Item = (i32, Sum)>) -> Self {
        let (mut side, mut next) = (Self::default(), 0i32);
        for (index, sum) in buckets {
            push_index(&mut side.spans, &mut next, index);
            side.sums.push(sum);
        }
        side
    }

    fn iter(&self) -> impl Iterator<Item = (i32, Sum)> + '_ {
        indexes(&self.spans).zip(self.sums.iter().copied())
    }

    /// Merges buckets for a coarser schema.
    fn reduce(&mut self, from: i32, to: i32) {
        let mut merged: Vec<(i32, Sum)> = Vec::with_capacity(self.sums.len());
        for (index, sum) in self.iter() {
            let index = target_index(index, from, to);
            match merged.last_mut() {
                Some((i, s)) if *i == index => s.add_sum(sum),
                _ => merged.push((index, sum)),
            }
        }
        *self = Self::build(merged.into_iter());
    }

    /// Adds (or subtracts) buckets of the same schema; those that `skip` names are counted elsewhere.
    fn add(&mut self, other: &Side, sign: f64, exact: bool, skip: impl Fn(i32) -> bool) {
        let same = self.spans == other.spans && self.sums.len() == other.sums.len();
        if same && !indexes(&other.spans).next().is_some_and(&skip) {
            for (a, b) in self.sums.iter_mut().zip(&other.sums) {
                a.add(sign * b.v, exact);
                if b.c != 0.0 {
                    a.add(sign * b.c, exact);
                }
            }
            return;
        }
        let mut merged = Vec::with_capacity(self.sums.len() + other.sums.len());
        let mut left = self.iter().peekable();
        // Only the innermost buckets can lie within the zero bucket.
        let mut right = other.iter().skip_while(|(i, _)| skip(*i)).peekable();
        loop {
            match (left.peek().copied(), right.peek().copied()) {
                (None, None) => break,
                (Some(a), Some(b)) if a.0 == b.0 => {
                    let mut sum = a.1;
                    sum.add(sign * b.1.v, exact);
                    if b.1.c != 0.0 {
                        sum.add(sign * b.1.c, exact);
                    }
                    merged.push((a.0, sum));
                    left.next();
                    right.next();
                }
                (Some(a), b) if b.is_none_or(|b| a.0 < b.0) => {
                    merged.push(a);
                    left.next();
                }
                (_, Some(b)) => {
                    merged.push((b.0, Sum { v: sign * b.1.v, c: sign * b.1.c }));
                    right.next();
                }
                (Some(_), None) => break,
            }
        }
        drop(left);
        *self = Self::build(merged.into_iter());
    }
}

/// A running sum of histograms.
#[derive(Clone, Debug)]
pub struct Accumulator {
    hint: ResetHint,
    schema: i32,
    zero_threshold: f64,
    zero: Sum,
    count: Sum,
    sum: Sum,
    positive: Side,
    negative: Side,
    custom: Option<Vec<f64>>,
}

impl Accumulator {
    /// Starts with `h`.
    pub fn new(h: &FloatHistogram) -> Self {
        Self {
            hint: h.reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero: Sum::of(h.zero_count),
            count: Sum::of(h.count),
            sum: Sum::of(h.sum),
            positive: Side::of(&h.positive_spans, &h.positive_buckets),
            negative: Side::of(&h.negative_spans, &h.negative_buckets),
            custom: custom(h).map(<[f64]>::to_vec),
        }
    }

    /// Goes on with a row of sums (number, error so far) of a layout.
    pub fn of_row(layout: &Layout, row: &[(f64, f64)], hint: ResetHint) -> Self {
        let number = |i: usize| row.get(i).map_or(Sum::default(), |(v, c)| Sum { v: *v, c: *c });
        let mut next = ROW_HEAD;
        let mut side = |spans: &[Span]| {
            let sums = indexes(spans).map(|_| {
                next += 1;
                number(next - 1)
            });
            Side { spans: spans.to_vec(), sums: sums.collect() }
        };
        let (positive, negative) = (side(&layout.positive_spans), side(&layout.negative_spans));
        Self {
            hint,
            schema: layout.schema,
            zero_threshold: layout.zero_threshold,
            count: number(0),
            zero: number(1),
            sum: number(2),
            positive,
            negative,
            custom: (layout.schema == CUSTOM_BUCKETS_SCHEMA).then(|| layout.custom_values.clone()),
        }
    }

    /// Adds `h` with plain arithmetic.
    pub fn add(&mut self, h: &FloatHistogram) -> Result<Added, Incompatible> {
        self.combine(h, 1.0, false)
    }

    /// Subtracts `h` with plain arithmetic.
    pub fn sub(&mut self, h: &FloatHistogram) -> Result<Added, Incompatible> {
        self.combine(h, -1.0, false)
    }

    /// Adds `h` with compensated arithmetic.
    pub fn add_exact(&mut self, h: &FloatHistogram) -> Result<Added, Incompatible> {
        self.combine(h, 1.0, true)
    }

    /// True if `h` can be added number by number: its layout is the same, and no bucket lies within the zero bucket.
    fn is_like(&self, h: &FloatHistogram) -> bool {
        let (schema, threshold) = (self.schema, self.zero_threshold);
        let apart = |spans: &[Span]| indexes(spans).next().is_none_or(|i| exponential_bound(i, schema) > threshold);
        self.custom.is_none()
            && schema == h.schema
            && threshold == h.zero_threshold
            && self.positive.spans == h.positive_spans
            && self.negative.spans == h.negative_spans
            && self.positive.sums.len() == h.positive_buckets.len()
            && self.negative.sums.len() == h.negative_buckets.len()
            && apart(&h.positive_spans)
            && apart(&h.negative_spans)
    }

    fn combine(&mut self, h: &FloatHistogram, sign: f64, exact: bool) -> Result<Added, Incompatible> {
        if self.is_like(h) {
            self.zero.add(sign * h.zero_count, exact);
            self.count.add(sign * h.count, exact);
            self.sum.add(sign * h.sum, exact);
            let counts = h.positive_buckets.iter().chain(&h.negative_buckets);
            for (sum, count) in self.positive.sums.iter_mut().chain(&mut self.negative.sums).zip(counts) {
                sum.add(sign * count, exact);
            }
            return Ok(Added { reset_collision: self.join_hint(h.reset_hint), bounds_reconciled: false });
        }
        let mut other = Accumulator::new(h);
        if self.custom.is_some() != other.custom.is_some() {
            return Err(Incompatible);
        }
        let mut added = Added { reset_collision: self.join_hint(other.hint), bounds_reconciled: false };
        if self.custom.is_none() {
            self.join_zero_buckets(&mut other);
            self.zero.add(sign * other.zero.v, exact);
            if other.zero.c != 0.0 {
                self.zero.add(sign * other.zero.c, exact);
            }
        }
        self.count.add(sign * h.count, exact);
        self.sum.add(sign * h.sum, exact);
        if let (Some(a), Some(b)) = (&self.custom, &other.custom) {
            if a == b {
                self.positive.add(&other.positive, sign, exact, |_| false);
            } else {
                added.bounds_reconciled = true;
                let common = intersect(a, b);
                let mut target = vec![Sum::default(); common.len() + 1];
                map_custom(&self.positive, a, &common, 1.0, &mut target);
                map_custom(&other.positive, b, &common, sign, &mut target);
                if !exact {
                    for s in &mut target {
                        s.c = 0.0;
                    }
                }
                let filled = target.into_iter().enumerate().filter(|(_, s)| s.v != 0.0 || s.c != 0.0);
                self.positive = Side::build(filled.map(|(i, s)| (i as i32, s)));
                self.custom = Some(common);
            }
            return Ok(added);
        }
        if other.schema < self.schema {
            self.reduce_to(other.schema);
        } else if other.schema > self.schema {
            other.reduce_to(self.schema);
        }
        let (schema, threshold) = (self.schema, self.zero_threshold);
        let skip = |index: i32| exponential_bound(index, schema) <= threshold;
        self.positive.add(&other.positive, sign, exact, skip);
        self.negative.add(&other.negative, sign, exact, skip);
        Ok(added)
    }

    /// Merges buckets down to a coarser exponential schema.
    pub fn reduce_to(&mut self, schema: i32) {
        if self.custom.is_none() && schema < self.schema {
            self.positive.reduce(self.schema, schema);
            self.negative.reduce(self.schema, schema);
            self.schema = schema;
        }
    }

    /// Everything times `factor`; the hint stays.
    pub fn scale(&mut self, factor: f64) {
        self.each(|s| {
            s.v *= factor;
            s.c *= factor;
        });
    }

    /// Everything divided by `divisor`; the hint stays.
    pub fn divide(&mut self, divisor: f64) {
        self.each(|s| {
            s.v /= divisor;
            s.c /= divisor;
        });
    }

    fn each(&mut self, mut f: impl FnMut(&mut Sum)) {
        f(&mut self.zero);
        f(&mut self.count);
        f(&mut self.sum);
        self.positive.sums.iter_mut().for_each(&mut f);
        self.negative.sums.iter_mut().for_each(f);
    }

    /// True if any number has become infinite.
    pub fn has_overflow(&self) -> bool {
        let buckets = self.positive.sums.iter().chain(&self.negative.sums);
        [self.zero, self.count, self.sum].iter().chain(buckets).any(|s| s.v.is_infinite())
            || self.custom.iter().flatten().any(|b| b.is_infinite())
    }

    /// The sum, without empty buckets.
    pub fn finish(self) -> FloatHistogram {
        self.finish_where(|count| count != 0.0)
    }

    /// The sum with its empty buckets: that there are negative ones, empty or not, tells how to read the zero bucket.
    pub fn finish_with_empty(self) -> FloatHistogram {
        self.finish_where(|_| true)
    }

    fn finish_where(self, keep: impl Fn(f64) -> bool) -> FloatHistogram {
        let side = |side: Side| super::build(side.iter().map(|(i, s)| (i, s.total())).filter(|(_, c)| keep(*c)));
        let (positive_spans, positive_buckets) = side(self.positive);
        let (negative_spans, negative_buckets) = side(self.negative);
        FloatHistogram {
            reset_hint: self.hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero.total(),
            count: self.count.total(),
            sum: self.sum.total(),
            positive_spans,
            negative_spans,
            positive_buckets,
            negative_buckets,
            custom_values: self.custom.unwrap_or_default(),
        }
    }

    /// A gauge stays a gauge and makes one; unknown wins over known; contradictions become unknown.
    fn join_hint(&mut self, other: ResetHint) -> bool {
        match (self.hint, other) {
            (a, b) if a == b => {}
            (ResetHint::Gauge, _) | (ResetHint::Unknown, ResetHint::Reset | ResetHint::NotReset) => {}
            (_, ResetHint::Gauge) => self.hint = ResetHint::Gauge,
            (_, ResetHint::Unknown) => self.hint = ResetHint::Unknown,
            _ => {
                self.hint = ResetHint::Unknown;
                return true;
            }
        }
        false
    }

    /// Widens both zero buckets until they have one threshold that cuts no filled bucket on either side.
    fn join_zero_buckets(&mut self, other: &mut Accumulator) {
        while other.zero_threshold != self.zero_threshold {
            if self.zero_threshold > other.zero_threshold {
                other.widen_zero_bucket(self.zero_threshold);
            }
            if other.zero_threshold > self.zero_threshold {
                self.widen_zero_bucket(other.zero_threshold);
            }
            if other.zero_threshold.is_nan() || self.zero_threshold.is_nan() {
                return;
            }
        }
    }

    /// Moves the buckets up to `threshold` into the zero bucket; a filled bucket that it would cut goes in whole.
    fn widen_zero_bucket(&mut self, threshold: f64) {
        let (threshold, zero) = self.zero_bucket_at(threshold);
        let (schema, at) = (self.schema, threshold);
        self.zero_threshold = threshold;
        self.zero = zero;
        for side in [&mut self.positive, &mut self.negative] {
            let kept: Vec<_> = side
                .iter()
                .filter(|(i, s)| exponential_bound(i.wrapping_sub(1), schema) >= at && (s.v != 0.0 || s.c != 0.0))
                .collect();
            *side = Side::build(kept.into_iter());
        }
    }

    fn zero_bucket_at(&self, mut threshold: f64) -> (f64, Sum) {
        if threshold == self.zero_threshold {
            return (threshold, self.zero);
        }
        'again: loop {
            let mut zero = self.zero;
            for side in [&self.positive, &self.negative] {
                for (index, sum) in side.iter() {
                    let (lower, upper) =
                        (bound(index.wrapping_sub(1), self.schema, None), bound(index, self.schema, None));
                    if lower >= threshold {
                        break;
                    }
                    zero.add_sum(sum);
                    if upper > threshold {
                        if sum.v != 0.0 {
                            threshold = upper;
                            continue 'again;
                        }
                        break;
                    }
                }
            }
            return (threshold, zero);
        }
    }

    /// What the zero bucket would hold with a larger threshold, and the threshold it would have.
    pub(super) fn zero_count_for(h: &FloatHistogram, threshold: f64) -> (f64, f64) {
        let (threshold, zero) = Accumulator::new(h).zero_bucket_at(threshold);
        (threshold, zero.v)
    }
}

/// The bounds that both have.
fn intersect(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut rest = b.iter().peekable();
    a.iter()
        .copied()
        .filter(|bound| {
            while rest.next_if(|x| **x < *bound).is_some() {}
            rest.peek().is_some_and(|x| **x == *bound)
        })
        .collect()
}

/// Adds buckets to those of coarser custom bounds.
fn map_custom(side: &Side, bounds: &[f64], common: &[f64], sign: f64, target: &mut [Sum]) {
    for (index, sum) in side.iter() {
        let upper = bound(index, 0, Some(bounds));
        let at = common.partition_point(|b| *b < upper);
        if let Some(t) = target.get_mut(at) {
            t.add_sum(Sum { v: sign * sum.v, c: sign * sum.c });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exponential(schema: i32, counts: &[f64]) -> FloatHistogram {
        FloatHistogram {
            schema,
            count: counts.iter().sum(),
            sum: 10.0,
            positive_spans: vec![Span { offset: 1, length: counts.len() as u32 }],
            positive_buckets: counts.to_vec(),
            ..FloatHistogram::default()
        }
    }

    #[test]
    fn the_coarser_schema_wins() {
        let mut a = Accumulator::new(&exponential(1, &[1.0, 2.0, 3.0, 4.0]));
        a.add(&exponential(0, &[10.0, 20.0])).unwrap();
        let h = a.finish();
        assert_eq!((h.schema, h.positive_buckets, h.count), (0, vec![13.0, 27.0], 40.0));
    }

    #[test]
    fn zero_buckets_swallow_what_they_would_cut() {
        let mut wide = exponential(0, &[]);
        wide.zero_threshold = 3.0;
        wide.zero_count = 1.0;
        let mut a = Accumulator::new(&exponential(0, &[1.0, 2.0, 4.0])); // up to 2, 4, 8
        a.add(&wide).unwrap();
        let h = a.finish();
        assert_eq!((h.zero_threshold, h.zero_count), (4.0, 4.0));
        assert_eq!((h.positive_spans, h.positive_buckets), (vec![Span { offset: 3, length: 1 }], vec![4.0]));
    }

    #[test]
    fn differing_bounds_keep_the_common_ones() {
        let custom = |bounds: &[f64], counts: &[f64]| FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            custom_values: bounds.to_vec(),
            positive_spans: vec![Span { offset: 0, length: counts.len() as u32 }],
            positive_buckets: counts.to_vec(),
            ..FloatHistogram::default()
        };
        let mut a = Accumulator::new(&custom(&[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0, 1.0]));
        let added = a.add(&custom(&[2.0, 5.0], &[10.0, 20.0, 30.0])).unwrap();
        assert!(added.bounds_reconciled);
        let h = a.finish();
        assert_eq!((h.custom_values, h.positive_buckets), (vec![2.0], vec![12.0, 52.0]));
        assert_eq!(Accumulator::new(&exponential(0, &[1.0])).add(&custom(&[1.0], &[1.0])), Err(Incompatible));
    }

    #[test]
    fn contradicting_hints_are_told() {
        let mut reset = exponential(0, &[1.0]);
        reset.reset_hint = ResetHint::Reset;
        let mut not = exponential(0, &[1.0]);
        not.reset_hint = ResetHint::NotReset;
        let mut a = Accumulator::new(&reset);
        assert!(a.add(&not).unwrap().reset_collision);
        assert_eq!(a.finish().reset_hint, ResetHint::Unknown);
    }
}
