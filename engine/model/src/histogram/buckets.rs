//! The layout of buckets: indexes, bounds, iteration.

use super::{FloatHistogram, Span};
use crate::number::format_g;
use std::sync::LazyLock;

/// Growth factors of the buckets of schema 1…8, `2^(2^-schema)`, as in the tables of the Prometheus clients: that of
/// schema 1 is one bit below the nearest float. Bounds are printed, so every bit counts.
const FACTORS: [u64; 8] = [
    0x3ff6_a09e_667f_3bcc,
    0x3ff3_06fe_0a31_b715,
    0x3ff1_72b8_3c7d_517b,
    0x3ff0_b558_6cf9_890f,
    0x3ff0_59b0_d315_8574,
    0x3ff0_2c9a_3e77_8061,
    0x3ff0_163d_a9fb_3335,
    0x3ff0_0b1a_fa5a_bcbf,
];

/// Fractions of the bounds within one power of two, per schema 0…8, halved as `frexp` gives them. Every other bound is
/// that of the schema below, the one behind it a factor larger.
static FRACTIONS: LazyLock<Vec<Vec<f64>>> = LazyLock::new(|| {
    let mut tables = vec![vec![0.5]];
    for factor in FACTORS.map(f64::from_bits) {
        let coarse = tables.last().into_iter().flatten();
        let fine = coarse.flat_map(|bound: &f64| [*bound, *bound * factor]).collect();
        tables.push(fine);
    }
    tables
});

/// A bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// The lower bound belongs to it.
    pub lower_inclusive: bool,
    /// The upper bound belongs to it.
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
}

impl Bucket {
    /// The share of the bucket's width at or below `v`, which lies inside its finite bounds: linear, or on a
    /// logarithmic scale.
    pub fn fraction_below(&self, v: f64, linear: bool) -> f64 {
        if linear {
            return (v - self.lower) / (self.upper - self.lower);
        }
        let (lower, upper, at) = (self.lower.abs().log2(), self.upper.abs().log2(), v.abs().log2());
        if v > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - (at - upper) / (lower - upper) }
    }
}

/// Bucket indexes with their counts, ascending. Inconsistent spans end the iteration early.
pub fn expand<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    indexes(spans).zip(counts.iter().copied())
}

/// The indexes that `spans` describe, ascending.
pub fn indexes(spans: &[Span]) -> impl Iterator<Item = i32> + '_ {
    let mut next = 0i32;
    spans.iter().flat_map(move |span| {
        let first = next.wrapping_add(span.offset);
        next = first.wrapping_add(span.length as i32);
        (0..span.length).map(move |i| first.wrapping_add(i as i32))
    })
}

/// Spans and counts of buckets that come in ascending order.
pub fn build(buckets: impl Iterator<Item = (i32, f64)>) -> (Vec<Span>, Vec<f64>) {
    let (mut spans, mut counts): (Vec<Span>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = 0i32;
    for (index, count) in buckets {
        push_index(&mut spans, &mut next, index);
        counts.push(count);
    }
    (spans, counts)
}

/// Appends a bucket's index to `spans`; `next` is the index behind the last one.
pub fn push_index(spans: &mut Vec<Span>, next: &mut i32, index: i32) {
    match spans.last_mut() {
        Some(last) if index == *next => last.length += 1,
        _ => spans.push(Span { offset: index.wrapping_sub(*next), length: 1 }),
    }
    *next = index.wrapping_add(1);
}

/// Upper bound of the exponential bucket `index`.
pub fn exponential_bound(index: i32, schema: i32) -> f64 {
    let index = i64::from(index);
    // The last regular bucket ends at the largest float; the one behind it holds the infinities.
    if schema < 0 {
        let exponent = index << (-schema).min(32);
        return if exponent == 1024 { f64::MAX } else { ldexp(1.0, exponent) };
    }
    let schema = schema.min(8);
    let fraction = usize::try_from(index & ((1 << schema) - 1))
        .ok()
        .and_then(|i| FRACTIONS.get(schema as usize)?.get(i))
        .copied()
        .unwrap_or(f64::NAN);
    let exponent = (index >> schema) + 1;
    if fraction == 0.5 && exponent == 1025 { f64::MAX } else { ldexp(fraction, exponent) }
}

/// `x * 2^exponent` without intermediate overflow.
fn ldexp(x: f64, exponent: i64) -> f64 {
    let exponent = exponent.clamp(-4000, 4000) as i32;
    let step = |e: i32| 2f64.powi(e.clamp(-1000, 1000));
    let mut rest = exponent;
    let mut v = x;
    while rest != 0 {
        let part = rest.clamp(-1000, 1000);
        v *= step(part);
        rest -= part;
    }
    v
}

/// Upper bound of the bucket `index` of a histogram's positive side.
pub fn bound(index: i32, schema: i32, custom: Option<&[f64]>) -> f64 {
    match custom {
        None => exponential_bound(index, schema),
        Some(_) if index < 0 => f64::NEG_INFINITY,
        Some(bounds) => bounds.get(index as usize).copied().unwrap_or(f64::INFINITY),
    }
}

/// A bucket of one side.
pub fn bucket(index: i32, count: f64, schema: i32, custom: Option<&[f64]>, positive: bool) -> Bucket {
    let (outer, inner) = (bound(index, schema, custom), bound(index.wrapping_sub(1), schema, custom));
    let (lower, upper) = if positive { (inner, outer) } else { (-outer, -inner) };
    let (lower_inclusive, upper_inclusive) =
        if custom.is_some() { (index == 0, true) } else { (lower < 0.0, upper > 0.0) };
    Bucket { lower, upper, lower_inclusive, upper_inclusive, count }
}

/// The custom bounds, if the histogram has such.
pub fn custom(h: &FloatHistogram) -> Option<&[f64]> {
    h.has_custom_buckets().then_some(h.custom_values.as_slice())
}

/// The positive buckets, away from zero.
pub fn positive(h: &FloatHistogram) -> impl Iterator<Item = Bucket> + '_ {
    expand(&h.positive_spans, &h.positive_buckets).map(|(i, c)| bucket(i, c, h.schema, custom(h), true))
}

/// The negative buckets, away from zero.
pub fn negative(h: &FloatHistogram) -> impl Iterator<Item = Bucket> + '_ {
    expand(&h.negative_spans, &h.negative_buckets).map(|(i, c)| bucket(i, c, h.schema, None, false))
}

/// The zero bucket.
pub fn zero(h: &FloatHistogram) -> Bucket {
    Bucket {
        lower: -h.zero_threshold,
        upper: h.zero_threshold,
        lower_inclusive: true,
        upper_inclusive: true,
        count: h.zero_count,
    }
}

/// All buckets, ascending; those that overlap the zero bucket are cut at its threshold.
pub fn all_buckets(h: &FloatHistogram) -> Vec<Bucket> {
    let mut all: Vec<Bucket> = negative(h).collect();
    all.reverse();
    if h.zero_count > 0.0 && !h.has_custom_buckets() {
        all.push(zero(h));
    }
    all.extend(positive(h));
    for b in &mut all {
        if b.upper < 0.0 && b.upper > -h.zero_threshold {
            b.upper = -h.zero_threshold;
        } else if b.lower > 0.0 && b.lower < h.zero_threshold {
            b.lower = h.zero_threshold;
        }
    }
    all
}

/// All buckets, descending.
pub fn all_buckets_reversed(h: &FloatHistogram) -> Vec<Bucket> {
    let mut all = all_buckets(h);
    all.reverse();
    all
}

/// Prometheus's text of a histogram: `{count:…, sum:…, [lower,upper]:count …}`.
pub fn text(h: &FloatHistogram) -> String {
    let mut out = format!("{{count:{}, sum:{}", format_g(h.count), format_g(h.sum));
    let negative: Vec<_> = negative(h).filter(|b| b.count != 0.0).collect();
    let zero = (h.zero_count != 0.0).then(|| zero(h));
    for b in negative.iter().rev().copied().chain(zero).chain(positive(h).filter(|b| b.count != 0.0)) {
        let (open, close) = (if b.lower_inclusive { '[' } else { '(' }, if b.upper_inclusive { ']' } else { ')' });
        let (lower, upper, count) = (format_g(b.lower), format_g(b.upper), format_g(b.count));
        out.push_str(&format!(", {open}{lower},{upper}{close}:{count}"));
    }
    out.push('}');
    out
}

/// The index in a coarser schema of a bucket.
pub fn target_index(index: i32, from: i32, to: i32) -> i32 {
    (index.wrapping_sub(1) >> (from - to).clamp(0, 31)).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers() {
        assert_eq!(exponential_bound(0, 0), 1.0);
        assert_eq!(exponential_bound(3, 0), 8.0);
        assert_eq!(exponential_bound(-1, 0), 0.5);
        assert_eq!(exponential_bound(2, -1), 16.0);
        // One bit below the square root of 2, as Prometheus prints it.
        assert_eq!(exponential_bound(1, 1).to_string(), "1.414213562373095");
        assert_eq!(exponential_bound(-1, 2).to_string(), "0.8408964152537144");
        assert_eq!(exponential_bound(1024, 0), f64::MAX);
        assert_eq!(exponential_bound(1025, 0), f64::INFINITY);
        assert_eq!(exponential_bound(-1074, 0), 5e-324);
    }

    #[test]
    fn spans_round_trip() {
        let buckets = vec![(-3, 1.0), (-2, 2.0), (5, 3.0)];
        let (spans, counts) = build(buckets.iter().copied());
        assert_eq!(spans, [Span { offset: -3, length: 2 }, Span { offset: 6, length: 1 }]);
        assert_eq!(expand(&spans, &counts).collect::<Vec<_>>(), buckets);
        // More buckets promised than there are counts: what is there is used.
        assert_eq!(expand(&[Span { offset: 0, length: u32::MAX }], &[1.0]).count(), 1);
    }

    #[test]
    fn coarser_schemas_merge_pairs() {
        assert_eq!([1, 2, 3, 4].map(|i| target_index(i, 1, 0)), [1, 1, 2, 2]);
        assert_eq!([-1, 0].map(|i| target_index(i, 1, 0)), [0, 0]);
    }
}
