//! What the storage and the scraper do to histograms on their way into the test data.

use crate::histogram::expand;
use model::FloatHistogram;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, ResetHint, Span};
use model::sample::is_stale;
use std::collections::BTreeMap;

/// True if the storage would append `h` to the chunk that ends with `previous`, which tells readers that there was no
/// reset between them.
pub(super) fn continues(h: &FloatHistogram, previous: &FloatHistogram) -> bool {
    if previous.reset_hint == ResetHint::Gauge || h.reset_hint == ResetHint::Reset {
        return false;
    }
    if is_stale(h.sum) {
        return true;
    }
    if is_stale(previous.sum) || h.count < previous.count || h.schema != previous.schema {
        return false;
    }
    if h.zero_threshold != previous.zero_threshold || h.zero_count < previous.zero_count {
        return false;
    }
    if h.has_custom_buckets() && h.custom_values != previous.custom_values {
        return false;
    }
    grows(&previous.positive_spans, &previous.positive_buckets, &h.positive_spans, &h.positive_buckets)
        && grows(&previous.negative_spans, &previous.negative_buckets, &h.negative_spans, &h.negative_buckets)
}

fn grows(spans: &[Span], counts: &[f64], next_spans: &[Span], next_counts: &[f64]) -> bool {
    let next: BTreeMap<i32, f64> = expand(next_spans, next_counts).collect();
    expand(spans, counts).all(|(index, count)| count <= next.get(&index).copied().unwrap_or(0.0))
}

/// Collects the parts of a classic histogram at one time.
#[derive(Default)]
pub(super) struct NativeBuilder {
    /// Cumulative counts by upper bound, ascending.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl NativeBuilder {
    /// The cumulative count below `bound`; the first one of a bound stays.
    pub(super) fn bucket(&mut self, bound: f64, count: f64) {
        let at = self.buckets.partition_point(|(b, _)| *b < bound);
        if self.buckets.get(at).is_none_or(|(b, _)| *b != bound) {
            self.buckets.insert(at, (bound, count));
        }
    }

    pub(super) fn count(&mut self, count: f64) {
        self.count = Some(count);
    }

    pub(super) fn sum(&mut self, sum: f64) {
        self.sum = sum;
    }

    /// The histogram with custom bounds.
    pub(super) fn build(mut self) -> Result<FloatHistogram, String> {
        let count = self.count.or(self.buckets.last().map(|(_, c)| *c)).unwrap_or(0.0);
        if self.buckets.last().is_none_or(|(b, _)| *b != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let mut h = FloatHistogram { schema: CUSTOM_BUCKETS_SCHEMA, count, sum: self.sum, ..FloatHistogram::default() };
        let mut below = 0.0;
        for (bound, cumulative) in &self.buckets {
            if *cumulative < below {
                return Err(format!("count is not cumulative: {cumulative} < {below}"));
            }
            h.positive_buckets.push(cumulative - below);
            below = *cumulative;
            if *bound != f64::INFINITY {
                h.custom_values.push(*bound);
            }
        }
        if below != count {
            return Err(format!("count mismatch: count={count} != le=+Inf count={below}"));
        }
        h.positive_spans = vec![Span { offset: 0, length: h.positive_buckets.len() as u32 }];
        crate::histogram::compact(&mut h);
        Ok(h)
    }
}
