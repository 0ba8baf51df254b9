//! What all samples of a histogram chunk share, and arithmetic on spans.

use crate::chunk::bits::{BitReader, BitWriter};
use crate::chunk::error::Fault;
use crate::chunk::varbit::{
    read_custom_bound, read_int, read_uint, read_zero_threshold, write_custom_bound, write_int, write_uint,
    write_zero_threshold,
};
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, Span};
use std::ops::Deref;

/// Resolutions that can be read; those above [`super::reduce::FINEST`] are reduced to it.
const SCHEMAS: std::ops::RangeInclusive<i64> = -9..=52;
/// So many buckets (spans, bounds) may a chunk have at least. Beyond, it may have one for each eight bytes: a bucket takes only a
/// bit, but memory for it up to 24 bytes, and what a chunk makes us allocate is bounded (1 MiB and 16 times its size).
const MANY: usize = 8192;

/// Each sample that is read has its own copy of spans and bounds, so few bytes may cost much time. A chunk may make us copy this
/// many bytes in all, and as many more for each byte that it has: 120 samples of the widest layout are 8 MB.
const COPIED: usize = 16 << 20;
const COPIED_PER_BYTE: usize = 1024;

/// What all samples of a chunk share.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Layout {
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) positive: Vec<Span>,
    pub(crate) negative: Vec<Span>,
    pub(crate) custom: Vec<f64>,
}

impl Layout {
    /// Reads the layout of a chunk of so many samples, and gives the numbers of positive and negative buckets with it.
    pub(crate) fn read<D: Deref<Target = [u8]>>(
        r: &mut BitReader<D>,
        samples: u16,
    ) -> Result<(Self, usize, usize), Fault> {
        let most = MANY.saturating_add(r.length() / 8);
        let zero_threshold = read_zero_threshold(r);
        let schema = read_int(r);
        let has_bounds = schema == i64::from(CUSTOM_BUCKETS_SCHEMA);
        if !SCHEMAS.contains(&schema) && !has_bounds {
            return Err(Fault::Schema(schema));
        }
        let (positive, np) = read_spans(r, most)?;
        let (negative, nn) = read_spans(r, most)?;
        let mut custom = Vec::new();
        if has_bounds {
            let n = bounded(read_uint(r), most, "more custom bounds than the chunk has room for")?;
            custom.reserve_exact(n.min(r.remaining()));
            for _ in 0..n {
                custom.push(read_custom_bound(r));
                if r.overrun() {
                    return Err(Fault::Truncated);
                }
            }
        }
        let buckets = np.saturating_add(nn);
        bounded(buckets, most.min(r.remaining()), "more buckets than the chunk has room for")?;
        if r.overrun() {
            return Err(Fault::Truncated);
        }
        let shared = positive.len() + negative.len() + custom.len();
        let copied = shared.saturating_mul(8).saturating_mul(usize::from(samples));
        if copied > COPIED.saturating_add(r.length().saturating_mul(COPIED_PER_BYTE))
            && !model::protection::off("layout-copies")
        {
            return Err(Fault::Corrupt("more spans and bounds than its samples have room for"));
        }
        // The range check above keeps the schema within i32, that here both numbers within usize.
        Ok((Self { schema: schema as i32, zero_threshold, positive, negative, custom }, np as usize, nn as usize))
    }

    pub(crate) fn write(&self, w: &mut BitWriter) {
        write_zero_threshold(w, self.zero_threshold);
        write_int(w, i64::from(self.schema));
        for spans in [&self.positive, &self.negative] {
            write_uint(w, spans.len() as u64);
            for s in spans {
                write_uint(w, u64::from(s.length));
                write_int(w, i64::from(s.offset));
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            write_uint(w, self.custom.len() as u64);
            for bound in &self.custom {
                write_custom_bound(w, *bound);
            }
        }
    }

    pub(crate) fn of<V>(h: &Histogram<V>) -> Self {
        Self {
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            positive: h.positive_spans.clone(),
            negative: h.negative_spans.clone(),
            custom: h.custom_values.clone(),
        }
    }
}

fn bounded(n: u64, most: usize, what: &'static str) -> Result<usize, Fault> {
    usize::try_from(n).ok().filter(|n| *n <= most).ok_or(Fault::Corrupt(what))
}

/// How far from 0 a bucket may lie. Buckets of the finest schema end below 2^19; with this bound the distance between any two
/// fits into the 32 bits of a span's offset.
const MAX_BUCKET_INDEX: u64 = 1 << 30;

/// True if the buckets of these spans lie within bounds, so that layouts can be joined.
pub(crate) fn within_bounds(spans: &[Span]) -> bool {
    let mut index = 0i64;
    spans.iter().all(|s| {
        index = index.saturating_add(i64::from(s.offset)).saturating_add(i64::from(s.length));
        index.unsigned_abs() <= MAX_BUCKET_INDEX
    })
}

fn read_spans<D: Deref<Target = [u8]>>(r: &mut BitReader<D>, most: usize) -> Result<(Vec<Span>, u64), Fault> {
    let n = bounded(read_uint(r), most.min(r.remaining()), "more spans than the chunk has room for")?;
    let (mut spans, mut buckets) = (Vec::with_capacity(n), 0u64);
    for _ in 0..n {
        let length = u32::try_from(read_uint(r)).map_err(|_e| Fault::Corrupt("a span is longer than 32 bits"))?;
        let offset =
            i32::try_from(read_int(r)).map_err(|_e| Fault::Corrupt("a span's offset has more than 32 bits"))?;
        buckets = buckets.saturating_add(u64::from(length));
        spans.push(Span { offset, length });
    }
    // So many buckets are refused by whoever knows how much room there is.
    if buckets <= MAX_BUCKET_INDEX && !within_bounds(&spans) {
        return Err(Fault::Corrupt("a bucket lies further out than any number does"));
    }
    Ok((spans, buckets))
}

/// The indexes of all buckets. Their number is that of the buckets beside them; callers bound it.
pub(crate) fn indexes(spans: &[Span]) -> impl Iterator<Item = i64> + '_ {
    let mut next = 0i64;
    spans.iter().flat_map(move |s| {
        let first = next + i64::from(s.offset);
        next = first + i64::from(s.length);
        first..next
    })
}

/// The number of buckets that spans announce.
pub(crate) fn announced(spans: &[Span]) -> u64 {
    spans.iter().map(|s| u64::from(s.length)).sum()
}

/// Collects ascending bucket indexes into spans without gaps that needn't be.
#[derive(Default)]
pub(crate) struct SpanBuilder {
    pub(crate) spans: Vec<Span>,
    /// The index behind the last bucket.
    next: i64,
}

impl SpanBuilder {
    pub(crate) fn push(&mut self, index: i64) {
        match self.spans.last_mut() {
            Some(last) if index == self.next => last.length += 1,
            // Offsets between buckets that came from spans fit into 32 bits.
            _ => self.spans.push(Span { offset: (index - self.next) as i32, length: 1 }),
        }
        self.next = index + 1;
    }
}

/// Spans that cover the buckets of both.
pub(crate) fn union(a: &[Span], b: &[Span]) -> Vec<Span> {
    let (mut a, mut b) = (indexes(a).peekable(), indexes(b).peekable());
    let mut out = SpanBuilder::default();
    loop {
        let next = match (a.peek().copied(), b.peek().copied()) {
            (Some(x), Some(y)) => x.min(y),
            (Some(x), None) | (None, Some(x)) => x,
            (None, None) => return out.spans,
        };
        a.next_if_eq(&next);
        b.next_if_eq(&next);
        out.push(next);
    }
}

/// Puts buckets into wider spans; new ones are empty.
pub(crate) fn widen<V: Copy + Default>(from: &[Span], to: &[Span], buckets: &[V]) -> Vec<V> {
    let mut old = indexes(from).zip(buckets).peekable();
    indexes(to).map(|index| old.next_if(|(i, _)| *i == index).map_or(V::default(), |(_, v)| *v)).collect()
}
