//! Coarser buckets, for chunks of a newer Prometheus with resolutions that nothing here computes with.

use super::count::Count;
use super::layout::{SpanBuilder, indexes};
use model::histogram::{Histogram, Span};

/// The finest resolution that is computed with.
pub(crate) const FINEST: i32 = 8;

/// Reduces a histogram's resolution to [`FINEST`].
pub(crate) fn reduce<V: Count>(h: &mut Histogram<V>) {
    if h.schema > FINEST {
        // The schema is at most 52.
        let steps = (h.schema - FINEST) as u32;
        (h.positive_spans, h.positive_buckets) = coarser(&h.positive_spans, &h.positive_buckets, steps);
        (h.negative_spans, h.negative_buckets) = coarser(&h.negative_spans, &h.negative_buckets, steps);
        h.schema = FINEST;
    }
}

/// Each step joins two neighbours; bucket `i` ends at `base^i`, so 1 and 2 become 1.
fn coarser<V: Count>(spans: &[Span], buckets: &[V], steps: u32) -> (Vec<Span>, Vec<V>) {
    let (mut out, mut counts): (SpanBuilder, Vec<V>) = Default::default();
    let mut last = None;
    for (index, count) in indexes(spans).zip(buckets) {
        let index = ((index - 1) >> steps) + 1;
        match counts.last_mut() {
            Some(sum) if last == Some(index) => *sum = sum.plus(*count),
            _ => {
                out.push(index);
                counts.push(*count);
                last = Some(index);
            }
        }
    }
    (out.spans, counts)
}
