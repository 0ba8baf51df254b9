//! Native histograms between the wire and `model`.

use crate::prometheus::{BucketSpan, Histogram, histogram};
use model::FloatHistogram;
use model::histogram::{ResetHint, Span};

/// A histogram as the wire has it; one of integers becomes one of floats, which loses nothing below 2^53.
pub fn decode(h: &Histogram) -> FloatHistogram {
    let spans = |s: &[BucketSpan]| s.iter().map(|s| Span { offset: s.offset, length: s.length }).collect();
    let buckets = |deltas: &[i64], counts: &[f64]| {
        let mut sum = 0i64;
        let absolute = deltas.iter().map(|d| {
            sum = sum.wrapping_add(*d);
            sum as f64
        });
        absolute.chain(counts.iter().copied()).collect()
    };
    FloatHistogram {
        reset_hint: match h.reset_hint {
            1 => ResetHint::Reset,
            2 => ResetHint::NotReset,
            3 => ResetHint::Gauge,
            _ => ResetHint::Unknown,
        },
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: match h.zero_count {
            Some(histogram::ZeroCount::ZeroCountInt(n)) => n as f64,
            Some(histogram::ZeroCount::ZeroCountFloat(n)) => n,
            None => 0.0,
        },
        count: match h.count {
            Some(histogram::Count::CountInt(n)) => n as f64,
            Some(histogram::Count::CountFloat(n)) => n,
            None => 0.0,
        },
        sum: h.sum,
        positive_spans: spans(&h.positive_spans),
        negative_spans: spans(&h.negative_spans),
        positive_buckets: buckets(&h.positive_deltas, &h.positive_counts),
        negative_buckets: buckets(&h.negative_deltas, &h.negative_counts),
        custom_values: h.custom_values.clone(),
    }
}

/// A float histogram at a time (milliseconds since the epoch) for the wire.
pub fn encode(t: i64, h: &FloatHistogram) -> Histogram {
    let spans = |s: &[Span]| s.iter().map(|s| BucketSpan { offset: s.offset, length: s.length }).collect();
    Histogram {
        count: Some(histogram::Count::CountFloat(h.count)),
        sum: h.sum,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: Some(histogram::ZeroCount::ZeroCountFloat(h.zero_count)),
        negative_spans: spans(&h.negative_spans),
        negative_counts: h.negative_buckets.clone(),
        positive_spans: spans(&h.positive_spans),
        positive_counts: h.positive_buckets.clone(),
        reset_hint: match h.reset_hint {
            ResetHint::Unknown => 0,
            ResetHint::Reset => 1,
            ResetHint::NotReset => 2,
            ResetHint::Gauge => 3,
        },
        timestamp: t,
        custom_values: h.custom_values.clone(),
        ..Histogram::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_histograms_round_trip() {
        let h = FloatHistogram {
            reset_hint: ResetHint::Gauge,
            schema: 3,
            zero_threshold: 1e-3,
            zero_count: 2.5,
            count: 10.0,
            sum: -4.0,
            positive_spans: vec![Span { offset: -2, length: 2 }],
            negative_spans: vec![Span { offset: 1, length: 1 }],
            positive_buckets: vec![1.5, 2.0],
            negative_buckets: vec![4.0],
            custom_values: vec![],
        };
        let wire = encode(7, &h);
        assert_eq!((wire.timestamp, decode(&wire)), (7, h));
    }
}
