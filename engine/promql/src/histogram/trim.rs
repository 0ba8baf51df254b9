//! `</` and `>/`: cutting a histogram at a value.

use model::FloatHistogram;
use model::histogram::{Bucket, bucket, custom, indexes, zero};

/// Keeps the observations below `at` (`keep_lower`) or above it. Cut buckets are interpolated; count and sum are
/// estimated again from what is left, if anything was cut.
pub(crate) fn trim(h: &mut FloatHistogram, at: f64, keep_lower: bool) {
    let is_custom = h.has_custom_buckets();
    let (mut count, mut sum, mut cut) = (0.0, 0.0, false);
    let mut filled = [false, false];
    for (side, positive) in [true, false].into_iter().enumerate() {
        let bounds = custom(h).map(<[f64]>::to_vec);
        let (spans, counts) = if positive {
            (h.positive_spans.clone(), &mut h.positive_buckets)
        } else {
            (h.negative_spans.clone(), &mut h.negative_buckets)
        };
        for (index, slot) in indexes(&spans).zip(counts.iter_mut()) {
            if *slot == 0.0 {
                continue;
            }
            let b = bucket(index, *slot, h.schema, bounds.as_deref(), positive);
            if let Some(f) = filled.get_mut(side) {
                *f = true;
            }
            let (whole, partial) =
                if keep_lower { (b.upper <= at, b.lower < at) } else { (b.lower >= at, b.upper > at) };
            let (kept, middle) = if whole {
                (b.count, midpoint(b.lower, b.upper, positive, is_custom))
            } else if partial {
                cut_bucket(&b, at, keep_lower, positive, is_custom)
            } else {
                (0.0, 0.0)
            };
            count += kept;
            sum += middle * kept;
            if *slot != kept {
                *slot = kept;
                cut = true;
            }
        }
    }
    if h.zero_count > 0.0 {
        let [has_positive, has_negative] = filled;
        let (kept, middle) = cut_zero_bucket(&zero(h), at, has_negative, has_positive, keep_lower);
        if h.zero_count != kept {
            h.zero_count = kept;
            cut = true;
        }
        count += kept;
        sum += middle * kept;
    }
    if cut {
        h.count = count;
        h.sum = sum;
        super::compact(h);
    }
}

/// What stays of a bucket that `at` cuts, and where its middle is.
fn cut_bucket(b: &Bucket, at: f64, keep_lower: bool, positive: bool, linear: bool) -> (f64, f64) {
    if b.lower == f64::NEG_INFINITY || b.upper == f64::INFINITY {
        return cut_infinite_bucket(b, at, keep_lower);
    }
    let below = if at <= b.lower {
        0.0
    } else if at >= b.upper {
        b.count
    } else {
        b.count * b.fraction_below(at, linear)
    };
    if keep_lower {
        (below, midpoint(b.lower, at, positive, linear))
    } else {
        (b.count - below, midpoint(at, b.upper, positive, linear))
    }
}

/// A bucket without an end can't be interpolated, unless zero is its natural other end: all or nothing stays.
fn cut_infinite_bucket(b: &Bucket, at: f64, keep_lower: bool) -> (f64, f64) {
    let finite = |v: f64| if v.is_infinite() { 0.0 } else { v };
    let from_zero = b.upper.is_finite();
    if b.lower == f64::NEG_INFINITY {
        return match keep_lower {
            true if at >= b.upper => (b.count, 0.0),
            true if at > 0.0 && b.upper > 0.0 && from_zero => (b.count * at / b.upper, at / 2.0),
            true if b.upper <= 0.0 => (b.count, at),
            false if at <= b.lower => (b.count, 0.0),
            false if at >= 0.0 && b.upper > at && from_zero => (b.count * (1.0 - at / b.upper), (at + b.upper) / 2.0),
            _ => (0.0, finite(b.upper)),
        };
    }
    if !keep_lower && at >= b.lower { (b.count, at) } else { (0.0, finite(b.lower)) }
}

fn cut_zero_bucket(b: &Bucket, at: f64, has_negative: bool, has_positive: bool, keep_lower: bool) -> (f64, f64) {
    let upper = if has_negative && !has_positive { 0.0 } else { b.upper };
    let lower = if has_positive && !has_negative { 0.0 } else { b.lower };
    let whole = (b.count, (lower + upper) / 2.0);
    if at <= lower {
        return if keep_lower { (0.0, 0.0) } else { whole };
    }
    if at >= upper {
        return if keep_lower { whole } else { (0.0, 0.0) };
    }
    if keep_lower {
        (b.count * ((at - lower) / (upper - lower)), (lower + at) / 2.0)
    } else {
        (b.count * ((upper - at) / (upper - lower)), (at + upper) / 2.0)
    }
}

/// Where the observations between two bounds are thought to lie: half way, or half way on a logarithmic scale.
fn midpoint(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) if linear => (lower + upper) / 2.0,
        (false, false) => {
            let middle = (lower * upper).abs().sqrt();
            if positive { middle } else { -middle }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::Span;

    #[test]
    fn cuts_between_and_inside_buckets() {
        let h = FloatHistogram {
            count: 6.0,
            sum: 20.0,
            positive_spans: vec![Span { offset: 1, length: 2 }],
            positive_buckets: vec![2.0, 4.0], // (1,2], (2,4]
            ..FloatHistogram::default()
        };
        let mut low = h.clone();
        trim(&mut low, 2.0, true);
        assert_eq!((low.count, low.positive_buckets.clone()), (2.0, vec![2.0]));
        let mut high = h.clone();
        trim(&mut high, 8f64.sqrt(), false);
        assert!((high.count - 2.0).abs() < 1e-9, "{}", high.count);
        let mut all = h.clone();
        trim(&mut all, 100.0, true);
        assert_eq!(all, h, "nothing cut, nothing estimated");
    }
}
