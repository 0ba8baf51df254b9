//! Arithmetic on native histograms: exponential buckets and custom bounds.

mod quantile;
mod trim;

pub(crate) use model::histogram::{Accumulator, Incompatible, build, detect_reset, equals, expand, text};
pub use model::histogram::{Bucket, all_buckets};
pub(crate) use quantile::{
    ClassicBucket, NanNote, classic_fraction, classic_quantile, native_fraction, native_quantile,
};
pub(crate) use trim::trim;

use model::FloatHistogram;
use model::histogram::ResetHint;

/// All counts times `factor`. A negative factor makes a gauge.
pub(crate) fn scale(h: &mut FloatHistogram, factor: f64) {
    each_count(h, |v| *v *= factor);
    if factor < 0.0 {
        h.reset_hint = ResetHint::Gauge;
    }
}

/// All counts divided by `divisor`; zero removes the buckets and leaves infinities.
pub(crate) fn divide(h: &mut FloatHistogram, divisor: f64) {
    each_count(h, |v| *v /= divisor);
    if divisor == 0.0 {
        h.positive_buckets.clear();
        h.negative_buckets.clear();
        h.positive_spans.clear();
        h.negative_spans.clear();
    }
    if divisor < 0.0 {
        h.reset_hint = ResetHint::Gauge;
    }
}

fn each_count(h: &mut FloatHistogram, mut f: impl FnMut(&mut f64)) {
    f(&mut h.zero_count);
    f(&mut h.count);
    f(&mut h.sum);
    h.positive_buckets.iter_mut().for_each(&mut f);
    h.negative_buckets.iter_mut().for_each(f);
}

/// Drops empty buckets and joins neighbouring spans.
pub(crate) fn compact(h: &mut FloatHistogram) {
    for (spans, counts) in
        [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
    {
        let tidy = counts.iter().all(|c| *c != 0.0)
            && spans.iter().enumerate().all(|(i, s)| s.length > 0 && (i == 0 || s.offset > 0))
            && spans.iter().map(|s| s.length as usize).sum::<usize>() == counts.len();
        if !tidy {
            let filled: Vec<_> = expand(spans, counts).filter(|(_, c)| *c != 0.0).collect();
            (*spans, *counts) = build(filled.into_iter());
        }
    }
}
