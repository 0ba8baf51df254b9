//! Quantiles and fractions of classic and native histograms.

use model::FloatHistogram;
use model::histogram::{Bucket, all_buckets, all_buckets_reversed};

/// A cumulative bucket of a classic histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassicBucket {
    pub(crate) upper: f64,
    pub(crate) count: f64,
}

/// Counts that fell with growing bounds and were lifted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forced {
    pub(crate) min_bound: f64,
    pub(crate) max_bound: f64,
    pub(crate) max_difference: f64,
}

/// Observations that are NaN are in no bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NanNote {
    /// The result is NaN because of them.
    Result,
    /// The result is higher than it should be, or they are left out.
    Skew,
}

/// Differences smaller than this share of the counts are taken for rounding errors.
const SMALL_DIFFERENCE: f64 = 1e-12;

/// The quantile `q` of buckets that are sorted by bound; equal bounds are merged.
pub(crate) fn classic_quantile(q: f64, buckets: &mut Vec<ClassicBucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return (f64::NAN, None);
    }
    coalesce(buckets);
    let forced = make_monotonic(buckets);
    (interpolate(q, buckets).unwrap_or(f64::NAN), forced)
}

fn interpolate(q: f64, buckets: &[ClassicBucket]) -> Option<f64> {
    let (last, finite) = buckets.split_last()?;
    let highest = finite.last()?;
    if last.count == 0.0 {
        return None;
    }
    let mut rank = q * last.count;
    let at = finite.partition_point(|b| b.count < rank || rank.is_nan() || b.count.is_nan());
    let Some(b) = finite.get(at) else {
        return Some(highest.upper);
    };
    let Some(below) = at.checked_sub(1).and_then(|i| finite.get(i)) else {
        if b.upper <= 0.0 {
            return Some(b.upper);
        }
        return Some(b.upper * (rank / b.count));
    };
    rank -= below.count;
    Some(below.upper + (b.upper - below.upper) * (rank / (b.count - below.count)))
}

fn coalesce(buckets: &mut Vec<ClassicBucket>) {
    buckets.dedup_by(|b, last| {
        let same = b.upper == last.upper;
        if same {
            last.count += b.count;
        }
        same
    });
}

/// Lifts counts that are lower than those of smaller bounds.
fn make_monotonic(buckets: &mut [ClassicBucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut previous = buckets.first()?.count;
    for b in buckets.iter_mut().skip(1) {
        if b.count == previous {
            continue;
        }
        if almost_equal(previous, b.count) {
            b.count = previous;
            continue;
        }
        if b.count < previous {
            let f = forced.get_or_insert(Forced {
                min_bound: f64::INFINITY,
                max_bound: f64::NEG_INFINITY,
                max_difference: 0.0,
            });
            f.min_bound = f.min_bound.min(b.upper);
            f.max_bound = f.max_bound.max(b.upper);
            f.max_difference = f.max_difference.max(previous - b.count);
            b.count = previous;
            continue;
        }
        previous = b.count;
    }
    forced
}

fn almost_equal(a: f64, b: f64) -> bool {
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    if a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < SMALL_DIFFERENCE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < SMALL_DIFFERENCE
}

/// The share of observations in `(lower, upper]` of classic buckets that are sorted by bound.
pub(crate) fn classic_fraction(lower: f64, upper: f64, buckets: &mut Vec<ClassicBucket>) -> f64 {
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return f64::NAN;
    }
    coalesce(buckets);
    let count = buckets.last().map_or(0.0, |b| b.count);
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    // All is positive if the first bound is.
    let mut start = if buckets.first().is_some_and(|b| b.upper > 0.0) { 0.0 } else { f64::NEG_INFINITY };
    let mut ranks = RankPair::new(lower, upper);
    let mut rank = 0.0;
    for b in buckets.iter() {
        let inside = |v: f64| {
            if start == f64::NEG_INFINITY { b.count } else { rank + (b.count - rank) * (v - start) / (b.upper - start) }
        };
        if ranks.visit(start, b.upper, rank, inside) {
            break;
        }
        rank = b.count;
        start = b.upper;
    }
    ranks.difference(count) / count
}

/// Ranks of two values, found in one walk over ascending buckets.
struct RankPair {
    bounds: [f64; 2],
    ranks: [Option<f64>; 2],
}

impl RankPair {
    fn new(lower: f64, upper: f64) -> Self {
        Self { bounds: [lower, upper], ranks: [None, None] }
    }

    /// Looks at the bucket from `start` to `end`, below which there are `rank` observations. True if both are known.
    fn visit(&mut self, start: f64, end: f64, rank: f64, inside: impl Fn(f64) -> f64) -> bool {
        for (v, found) in self.bounds.iter().zip(&mut self.ranks) {
            if found.is_none() && start >= *v {
                *found = Some(rank);
            }
        }
        if self.ranks.iter().all(Option::is_some) {
            return true;
        }
        for (v, found) in self.bounds.iter().zip(&mut self.ranks) {
            if found.is_none() && start < *v && end > *v {
                *found = Some(inside(*v));
            }
        }
        self.ranks.iter().all(Option::is_some)
    }

    fn difference(&self, count: f64) -> f64 {
        let rank = |r: Option<f64>| match r {
            Some(r) if r <= count || r.is_nan() => r,
            _ => count,
        };
        rank(self.ranks[1]) - rank(self.ranks[0])
    }
}

/// The quantile `q` of a native histogram.
pub(crate) fn native_quantile(q: f64, h: &FloatHistogram) -> (f64, Option<NanNote>) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if h.count == 0.0 || q.is_nan() {
        return (f64::NAN, None);
    }
    // From the nearer end, for precision; with NaN observations, which no bucket holds, always from below.
    let forward = h.sum.is_nan() || q < 0.5;
    let (buckets, mut rank) =
        if forward { (all_buckets(h), q * h.count) } else { (all_buckets_reversed(h), (1.0 - q) * h.count) };
    let mut count = 0.0;
    let mut bucket = Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0 };
    let mut rest = buckets.iter();
    for b in rest.by_ref() {
        bucket = *b;
        if b.count == 0.0 {
            continue;
        }
        count += b.count;
        if count >= rank {
            break;
        }
    }
    if h.has_custom_buckets() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
    } else {
        let is_zero = bucket.lower < 0.0 && bucket.upper > 0.0;
        narrow_zero_bucket(h, &mut bucket, is_zero);
    }
    if count > h.count {
        count = h.count;
    }
    if count < rank {
        if h.sum.is_nan() {
            return (f64::NAN, Some(NanNote::Result));
        }
        return (bucket.upper, None);
    }
    rank = if forward { rank - (count - bucket.count) } else { count - rank };
    let mut note = None;
    if h.sum.is_nan() {
        // Prometheus goes on with the last bucket here, and so do we: the answer is marked as doubtful anyway.
        for b in rest {
            bucket = *b;
            count += b.count;
        }
        if count < h.count {
            note = Some(NanNote::Skew);
        }
    }
    let fraction = rank / bucket.count;
    if h.has_custom_buckets() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (bucket.lower + (bucket.upper - bucket.lower) * fraction, note);
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    let v = if bucket.lower > 0.0 {
        (lower + (upper - lower) * fraction).exp2()
    } else {
        -(upper + (lower - upper) * (1.0 - fraction)).exp2()
    };
    (v, note)
}

/// Observations near zero lie on the side where the others are.
fn narrow_zero_bucket(h: &FloatHistogram, bucket: &mut Bucket, is_zero: bool) {
    if is_zero {
        if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
            bucket.lower = 0.0;
        } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
            bucket.upper = 0.0;
        }
    }
}

/// The share of observations between two values of a native histogram.
pub(crate) fn native_fraction(lower: f64, upper: f64, h: &FloatHistogram) -> (f64, Option<NanNote>) {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, None);
    }
    if lower >= upper {
        return (0.0, None);
    }
    let mut ranks = RankPair::new(lower, upper);
    let (mut count, mut rank) = (0.0, 0.0);
    let buckets = all_buckets(h);
    let mut rest = buckets.iter();
    for b in rest.by_ref() {
        let mut b = *b;
        count += b.count;
        let is_zero = b.lower <= 0.0 && b.upper >= 0.0;
        narrow_zero_bucket(h, &mut b, is_zero);
        let linear = h.has_custom_buckets() || is_zero;
        let inside = |v: f64| {
            if linear && b.lower == f64::NEG_INFINITY { b.count } else { rank + b.count * b.fraction_below(v, linear) }
        };
        if ranks.visit(b.lower, b.upper, rank, inside) {
            break;
        }
        rank += b.count;
    }
    let mut note = None;
    if h.sum.is_nan() {
        count += rest.map(|b| b.count).sum::<f64>();
        if count < h.count {
            note = Some(NanNote::Skew);
        }
    } else {
        count = h.count;
    }
    (ranks.difference(count) / h.count, note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::Span;

    fn classic(b: &[(f64, f64)]) -> Vec<ClassicBucket> {
        b.iter().map(|(upper, count)| ClassicBucket { upper: *upper, count: *count }).collect()
    }

    #[test]
    fn classic_quantiles_interpolate() {
        let all = [(1.0, 10.0), (2.0, 20.0), (f64::INFINITY, 20.0)];
        assert_eq!(classic_quantile(0.5, &mut classic(&all)), (1.0, None));
        assert_eq!(classic_quantile(0.75, &mut classic(&all)), (1.5, None));
        assert_eq!(classic_quantile(0.25, &mut classic(&all)), (0.5, None));
        assert!(classic_quantile(0.5, &mut classic(&all[..2])).0.is_nan());
        let (v, forced) = classic_quantile(1.0, &mut classic(&[(1.0, 10.0), (2.0, 5.0), (f64::INFINITY, 12.0)]));
        assert_eq!(v, 2.0);
        assert_eq!(forced, Some(Forced { min_bound: 2.0, max_bound: 2.0, max_difference: 5.0 }));
    }

    #[test]
    fn classic_fractions() {
        let mut b = classic(&[(1.0, 10.0), (2.0, 20.0), (f64::INFINITY, 40.0)]);
        assert_eq!(classic_fraction(0.5, 1.5, &mut b), 0.25);
        assert_eq!(classic_fraction(f64::NEG_INFINITY, f64::INFINITY, &mut b), 1.0);
        assert_eq!(classic_fraction(2.0, 1.0, &mut b), 0.0);
    }

    #[test]
    fn native_quantiles_are_exponential() {
        let h = FloatHistogram {
            count: 12.0,
            sum: 100.0,
            zero_count: 2.0,
            zero_threshold: 0.001,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 2 }],
            positive_buckets: vec![2.0, 3.0, 1.0, 4.0],
            ..FloatHistogram::default()
        };
        // Buckets: zero 2, (0.5,1] 2, (1,2] 3, (4,8] 1, (8,16] 4.
        assert_eq!(native_quantile(1.0, &h).0, 16.0);
        assert!((native_quantile(0.5, &h).0 - 2f64.powf(2.0 / 3.0)).abs() < 1e-12);
        assert!((native_fraction(8.0, 16.0, &h).0 - 4.0 / 12.0).abs() < 1e-12);
        assert_eq!(native_quantile(0.0, &h).0, 0.0);
        assert_eq!(native_quantile(2.0, &h).0, f64::INFINITY);
    }
}
