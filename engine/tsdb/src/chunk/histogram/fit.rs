//! Whether a histogram fits into a chunk, and what must change so that it does: Prometheus's rules (0.314, `tsdb/chunkenc`,
//! `appendable` and `appendableGauge`).

use super::count::Count;
use super::layout::{indexes, union};
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, ResetHint, Span};
use model::sample::is_stale;

/// The chunk's side of the question.
pub(crate) struct Last<'a, V> {
    pub(crate) header: ResetHint,
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) custom: &'a [f64],
    pub(crate) count: V,
    pub(crate) zero_count: V,
    pub(crate) sum: f64,
    pub(crate) positive: (&'a [Span], Vec<V>),
    pub(crate) negative: (&'a [Span], Vec<V>),
}

/// The answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Fit {
    /// It needs a chunk of its own; this is what was found about a reset.
    Cut(ResetHint),
    /// It fits in these spans (positive, negative): the sample is to be widened to them, and, if `recode`, the chunk too.
    Spans { positive: Vec<Span>, negative: Vec<Span>, recode: bool },
    /// It fits as it is.
    Fits,
}

/// Which side lacks buckets of the other.
#[derive(Clone, Copy, PartialEq, Default)]
struct Lacks {
    chunk: bool,
    sample: bool,
}

pub(crate) fn fit<V: Count>(last: &Last<'_, V>, h: &Histogram<V>) -> Fit {
    let gauge = h.reset_hint == ResetHint::Gauge;
    let cut = |found| Fit::Cut(if gauge { ResetHint::Gauge } else { found });
    if (last.header == ResetHint::Gauge) != gauge {
        return cut(ResetHint::NotReset);
    }
    // A reset that the sample itself tells is always believed.
    if h.reset_hint == ResetHint::Reset {
        return cut(ResetHint::Reset);
    }
    // The buckets of a staleness marker don't matter; behind one only another may follow.
    if is_stale(h.sum) {
        return Fit::Fits;
    }
    if is_stale(last.sum) {
        return cut(ResetHint::Unknown);
    }
    if !gauge && last.count.total_falls(h.count) {
        return cut(ResetHint::Reset);
    }
    // Whether that is a reset as well is left to the reader.
    if h.schema != last.schema || h.zero_threshold != last.zero_threshold {
        return cut(ResetHint::Unknown);
    }
    if h.schema == CUSTOM_BUCKETS_SCHEMA && h.custom_values != last.custom {
        return cut(ResetHint::Reset);
    }
    if !gauge && last.zero_count.total_falls(h.zero_count) {
        return cut(ResetHint::Reset);
    }
    let positive = compare(&last.positive, &h.positive_spans, &h.positive_buckets, gauge);
    let negative = compare(&last.negative, &h.negative_spans, &h.negative_buckets, gauge);
    let (Some(p), Some(n)) = (positive, negative) else { return cut(ResetHint::Reset) };
    let (recode, widen) = (p.chunk || n.chunk, p.sample || n.sample);
    let both = |(of_chunk, _): &(&[Span], Vec<V>), of_sample: &[Span], lacks: Lacks| match (widen, recode) {
        // All that the sample has is in the chunk.
        (true, false) if !gauge => of_chunk.to_vec(),
        (true, _) if gauge || lacks.sample => union(of_chunk, of_sample),
        _ => of_sample.to_vec(),
    };
    if !recode && !widen {
        return Fit::Fits;
    }
    Fit::Spans {
        positive: both(&last.positive, &h.positive_spans, p),
        negative: both(&last.negative, &h.negative_spans, n),
        recode,
    }
}

/// Walks the buckets of both. `None`: a counter fell, or lacks a bucket that was not empty.
fn compare<V: Count>(chunk: &(&[Span], Vec<V>), spans: &[Span], buckets: &[V], gauge: bool) -> Option<Lacks> {
    let mut old = indexes(chunk.0).zip(&chunk.1).peekable();
    let mut new = indexes(spans).zip(buckets).peekable();
    let mut lacks = Lacks::default();
    loop {
        match (old.peek().copied(), new.peek().copied()) {
            (None, None) => return Some(lacks),
            (Some((i, a)), Some((j, b))) if i == j => {
                if !gauge && a.bucket_falls(*b) {
                    return None;
                }
                old.next();
                new.next();
            }
            (Some((i, a)), j) if j.is_none_or(|(j, _)| i < j) => {
                if !gauge && *a != V::default() {
                    return None;
                }
                lacks.sample = true;
                old.next();
            }
            _ => {
                lacks.chunk = true;
                new.next();
            }
        }
    }
}
