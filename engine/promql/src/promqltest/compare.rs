//! Is the answer what the script expects?

use super::load::Slot;
use super::script::Eval;
use crate::exec::{QueryValue, Series, Times, VectorSample};
use crate::histogram::{compact, text};
use model::histogram::Span;
use model::sample::{Value, is_stale};
use model::{FloatHistogram, Labels};
use std::collections::BTreeSet;

/// A series that is expected.
pub(super) struct Expected {
    /// Its place among the expected ones, from 0.
    pub(super) position: usize,
    pub(super) values: Vec<Slot>,
}

/// Compares an answer with the expectation.
pub(super) fn matrix_or_value(eval: &Eval, value: &QueryValue) -> Result<(), String> {
    match value {
        QueryValue::Scalar(_, got) => match eval.expected_scalar {
            Some(want) if almost_equal(want, *got) => Ok(()),
            Some(want) => Err(format!("expected the scalar {want}, got {got}")),
            None => Err(format!("got the scalar {got}, but none is expected")),
        },
        QueryValue::String(_, got) => match &eval.expected_string {
            Some(want) if want == got => Ok(()),
            want => Err(format!("expected the string {want:?}, got {got:?}")),
        },
        // The scalar of a range query is a matrix of one series without labels.
        QueryValue::Vector(_) | QueryValue::Matrix(_) if eval.expected_scalar.is_some() => {
            Err("expected a scalar, got a vector or matrix".to_owned())
        }
        QueryValue::Vector(got) => vector(eval, got),
        QueryValue::Matrix(got) => matrix(eval, &got.iter().collect::<Vec<_>>()),
    }
}

fn vector(eval: &Eval, got: &[VectorSample]) -> Result<(), String> {
    for (i, sample) in got.iter().enumerate() {
        let labels = &sample.labels;
        let Some(want) = eval.expected(labels) else {
            return Err(format!("unexpected series {labels} with {}", show(&sample.value)));
        };
        if eval.ordered && want.position != i {
            return Err(format!("expected {labels} at position {}, got it at {i}", want.position));
        }
        let Some(Some(first)) = want.values.first() else {
            return Err(format!("{labels} is expected without a value, which an instant query can't give"));
        };
        same_value(&first.value, &sample.value, first.hint_set).map_err(|e| format!("{labels}: {e}"))?;
    }
    all_found(eval, got.iter().map(|s| &s.labels))
}

fn all_found<'a>(eval: &Eval, got: impl Iterator<Item = &'a Labels>) -> Result<(), String> {
    let got: BTreeSet<&Labels> = got.collect();
    match eval.series.keys().find(|labels| !got.contains(labels)) {
        Some(missing) => Err(format!("the expected series {missing} was not found")),
        None => Ok(()),
    }
}

fn matrix(eval: &Eval, got: &[Series]) -> Result<(), String> {
    if eval.ordered {
        return Err("a matrix can't be in the order that is expected".to_owned());
    }
    sorted(got)?;
    let (start, end, step) = match (eval.expected_grid, eval.times) {
        (Some(grid), _) => grid,
        (None, Times::Range { start, end, step }) => (start, end, step),
        (None, Times::Instant(t)) => (t, t, 0),
    };
    for series in got {
        let labels = &series.labels;
        let shown = || format!("{labels}, which has {:?} and {} histograms", series.floats, series.histograms.len());
        let Some(want) = eval.expected(labels) else {
            return Err(format!("unexpected series {}", shown()));
        };
        let times = (0..).map(|i: i64| start + i * step);
        let points: Vec<_> = want.values.iter().zip(times).filter_map(|(v, t)| Some((t, v.as_ref()?))).collect();
        if step > 0 && want.values.len() as i64 > (end - start) / step + 1 {
            return Err(format!("{} values of {labels} are expected, more than the time range has", want.values.len()));
        }
        let (histograms, floats): (Vec<_>, Vec<_>) =
            points.into_iter().partition(|(_, w)| matches!(w.value, Value::Histogram(_)));
        if (floats.len(), histograms.len()) != (series.floats.len(), series.histograms.len()) {
            return Err(format!(
                "expected {} float and {} histogram points of {}",
                floats.len(),
                histograms.len(),
                shown()
            ));
        }
        let got_floats = series.floats.iter().map(|(t, v)| (*t, Value::Float(*v)));
        let got_histograms = series.histograms.iter().map(|(t, h)| (*t, Value::Histogram(h.clone())));
        for ((want_t, want), (t, value)) in floats.iter().chain(&histograms).zip(got_floats.chain(got_histograms)) {
            if *want_t != t {
                return Err(format!("expected a point at {want_t} ms, got one at {t} ms of {}", shown()));
            }
            same_value(&want.value, &value, want.hint_set).map_err(|e| format!("at {t} ms of {}: {e}", shown()))?;
        }
    }
    all_found(eval, got.iter().map(|s| &s.labels))
}

fn sorted(got: &[Series]) -> Result<(), String> {
    match got.windows(2).find(|w| w[0].labels > w[1].labels) {
        Some(w) => Err(format!("the matrix is not sorted: {} before {}", w[0].labels, w[1].labels)),
        None => Ok(()),
    }
}

/// The points at `t` of a range query's answer, as the answer of an instant query.
pub(super) fn middle_of_range(value: &QueryValue, t: i64, scalar: bool) -> Result<QueryValue, String> {
    let QueryValue::Matrix(series) = value else {
        return match value {
            QueryValue::Scalar(..) if scalar => Ok(value.clone()),
            _ => Err("a range query gives a matrix".to_owned()),
        };
    };
    let series: &Vec<Series> = &series.iter().collect();
    sorted(series)?;
    let at = |s: &Series| {
        let float = s.floats.iter().find(|(pt, _)| *pt == t).map(|(_, v)| Value::Float(*v));
        let histogram = s.histograms.iter().find(|(pt, _)| *pt == t).map(|(_, h)| Value::Histogram(h.clone()));
        Some(VectorSample { labels: s.labels.clone(), t, value: float.or(histogram)? })
    };
    let samples: Vec<VectorSample> = series.iter().filter_map(at).collect();
    if !scalar {
        return Ok(QueryValue::Vector(samples));
    }
    match samples.first() {
        Some(VectorSample { value: Value::Float(v), .. }) => Ok(QueryValue::Scalar(t, *v)),
        _ => Err("no value of the scalar at the middle step".to_owned()),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Float(v) => v.to_string(),
        Value::Histogram(h) => format!("{} ({:?})", text(h), h.reset_hint),
    }
}

fn same_value(want: &Value, got: &Value, hint_set: bool) -> Result<(), String> {
    let same = match (want, got) {
        (Value::Float(want), Value::Float(got)) => almost_equal(*want, *got),
        (Value::Histogram(want), Value::Histogram(got)) => same_histogram(want, got, hint_set),
        (Value::Histogram(_), Value::Float(got)) => {
            return Err(format!("expected the histogram {}, got {got}", show(want)));
        }
        (Value::Float(want), Value::Histogram(_)) => {
            return Err(format!("expected {want}, got the histogram {}", show(got)));
        }
    };
    if same { Ok(()) } else { Err(format!("expected {}, got {}", show(want), show(got))) }
}

fn same_histogram(want: &FloatHistogram, got: &FloatHistogram, hint_set: bool) -> bool {
    let (mut want, mut got) = (want.clone(), got.clone());
    compact(&mut want);
    compact(&mut got);
    let same = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| almost_equal(*a, *b));
    want.schema == got.schema
        && almost_equal(want.count, got.count)
        && almost_equal(want.sum, got.sum)
        && (!want.has_custom_buckets() || want.custom_values == got.custom_values)
        && want.zero_threshold == got.zero_threshold
        && almost_equal(want.zero_count, got.zero_count)
        && indexes(&want.positive_spans) == indexes(&got.positive_spans)
        && indexes(&want.negative_spans) == indexes(&got.negative_spans)
        && same(&want.positive_buckets, &got.positive_buckets)
        && same(&want.negative_buckets, &got.negative_buckets)
        && (!hint_set || want.reset_hint == got.reset_hint)
}

/// The bucket indexes of spans: equal for spans that mean the same.
fn indexes(spans: &[Span]) -> Vec<i64> {
    let mut next = 0i64;
    let mut all = Vec::new();
    for span in spans {
        next += i64::from(span.offset);
        all.extend((0..i64::from(span.length)).map(|i| next + i));
        next += i64::from(span.length);
    }
    all
}

/// Equal but for a relative difference of a millionth; a stale marker equals only itself, other NaNs each other.
fn almost_equal(a: f64, b: f64) -> bool {
    const EPSILON: f64 = 1e-6;
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn almost_equal_is_relative() {
        assert!(almost_equal(1e300, 1e300 * (1.0 + 1e-7)));
        assert!(!almost_equal(1.0, 1.00001));
        assert!(!almost_equal(0.0, 1e-300));
        assert!(almost_equal(f64::INFINITY, f64::INFINITY) && !almost_equal(f64::INFINITY, f64::NEG_INFINITY));
        assert!(!almost_equal(f64::INFINITY, 1.0));
        assert!(almost_equal(f64::NAN, -f64::NAN));
        assert!(!almost_equal(model::sample::stale_nan(), f64::NAN));
    }

    #[test]
    fn spans_are_compared_by_what_they_mean() {
        let span = |offset, length| Span { offset, length };
        assert_eq!(indexes(&[span(1, 2), span(0, 1)]), indexes(&[span(1, 3)]));
        assert_ne!(indexes(&[span(1, 2), span(1, 1)]), indexes(&[span(1, 3)]));
    }
}
