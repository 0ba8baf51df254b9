//! Writing histogram chunks, byte for byte as Prometheus does.

use super::count::Count;
use super::fit::{Fit, Last, fit};
use super::iter::HistogramIter;
use super::layout::{Layout, announced, widen, within_bounds};
use super::{ST_COUNT, header_bits};
use crate::chunk::Encoding;
use crate::chunk::bits::BitWriter;
use crate::chunk::error::EncodeError;
use crate::chunk::start_time::StartTimes;
use crate::chunk::varbit::write_int;
use crate::chunk::xor::{Window, write_xor};
use bytes::Bytes;
use model::histogram::{Histogram, ResetHint, Span};
use model::sample::is_stale;
use std::borrow::Cow;

/// What became of a sample.
#[derive(Debug)]
#[must_use = "a chunk that was cut off must be kept"]
pub enum Appended<V: Count> {
    /// It is in the chunk, whose layout may have been widened for it.
    Here,
    /// It did not fit (a reset, another schema, a sample behind a staleness marker, …) and begins a chunk of its own, which the
    /// encoder is now; this is the one before, complete.
    Cut(Box<HistogramEncoder<V>>),
}

/// Builds a chunk of histograms with integer (`u64`) or float counts (`f64`), with start times or without.
#[derive(Debug, Clone)]
pub struct HistogramEncoder<V: Count> {
    w: BitWriter,
    with_starts: bool,
    header: ResetHint,
    layout: Layout,
    count: u16,
    first: i64,
    t: i64,
    delta: i64,
    starts: StartTimes,
    totals: [V::Column; 2],
    sum: (f64, Window),
    positive: Vec<V::Column>,
    negative: Vec<V::Column>,
}

impl<V: Count> HistogramEncoder<V> {
    /// A chunk that begins with `h`, at time `t`, with start time `st` (0: none; kept only with `start_times`).
    ///
    /// `after` is the chunk before, when this one begins only because that one is long enough: then the head tells whether `h`
    /// is a reset. Without it, the head says that nothing is known, unless `h` says more.
    ///
    /// # Errors
    /// [`EncodeError::Buckets`].
    pub fn new(
        start_times: bool,
        st: i64,
        t: i64,
        h: &Histogram<V>,
        after: Option<&Self>,
    ) -> Result<Self, EncodeError> {
        well_formed(h)?;
        let header = match (h.reset_hint, after) {
            (hint @ (ResetHint::Gauge | ResetHint::Reset), _) => hint,
            (_, Some(before)) => V::header_after(match before.fit(h) {
                Fit::Cut(found) => found,
                Fit::Spans { .. } | Fit::Fits => ResetHint::NotReset,
            }),
            (_, None) => ResetHint::Unknown,
        };
        Ok(Self::begin(start_times, header, st, t, h))
    }

    fn begin(with_starts: bool, header: ResetHint, st: i64, t: i64, h: &Histogram<V>) -> Self {
        let h = without_stale_buckets(h);
        let mut w = BitWriter::head(&[0, 0, 0]);
        let layout = Layout::of(&h);
        layout.write(&mut w);
        write_int(&mut w, t);
        let totals = [V::write_total(&mut w, h.count), V::write_total(&mut w, h.zero_count)];
        w.write(h.sum.to_bits(), 64);
        let mut buckets = |counts: &[V]| relative(counts).map(|v| V::write_bucket(&mut w, v)).collect();
        let (positive, negative) = (buckets(&h.positive_buckets), buckets(&h.negative_buckets));
        let mut starts = StartTimes::default();
        if with_starts {
            starts.write(&mut w, 0, st, t, 0);
        }
        let sum = (h.sum, Window::NONE);
        Self {
            w,
            with_starts,
            header,
            layout,
            count: 1,
            first: t,
            t,
            delta: 0,
            starts,
            totals,
            sum,
            positive,
            negative,
        }
    }

    /// Appends a sample, to this chunk or to a new one. Times should not go back.
    ///
    /// # Errors
    /// [`EncodeError::Buckets`], or [`EncodeError::Full`] at 65,535 samples (16,383 with start times). Nothing is written then.
    pub fn append(&mut self, st: i64, t: i64, h: &Histogram<V>) -> Result<Appended<V>, EncodeError> {
        well_formed(h)?;
        if self.count >= if self.with_starts { ST_COUNT } else { u16::MAX } {
            return Err(EncodeError::Full(self.count));
        }
        match self.fit(h) {
            Fit::Fits => self.push(st, t, h),
            Fit::Spans { positive, negative, recode } => {
                let mut wide = h.clone();
                widen_to(&mut wide, &positive, &negative);
                if recode {
                    self.recode(&positive, &negative);
                }
                self.push(st, t, &wide);
            }
            Fit::Cut(found) => {
                let header = if found == ResetHint::Gauge { found } else { V::header_at_cut(found) };
                let next = Self::begin(self.with_starts, header, st, t, h);
                return Ok(Appended::Cut(Box::new(std::mem::replace(self, next))));
            }
        }
        Ok(Appended::Here)
    }

    fn fit(&self, h: &Histogram<V>) -> Fit {
        let [count, zero_count] = self.totals.map(|c| V::held(&c));
        let last = Last {
            header: self.header,
            schema: self.layout.schema,
            zero_threshold: self.layout.zero_threshold,
            custom: &self.layout.custom,
            count,
            zero_count,
            sum: self.sum.0,
            positive: (&self.layout.positive, absolute::<V>(&self.positive)),
            negative: (&self.layout.negative, absolute::<V>(&self.negative)),
        };
        fit(&last, h)
    }

    /// Writes a sample whose buckets are those of the layout.
    fn push(&mut self, st: i64, t: i64, h: &Histogram<V>) {
        let w = &mut self.w;
        let delta = t.wrapping_sub(self.t);
        write_int(w, delta.wrapping_sub(self.delta));
        let stale = is_stale(h.sum);
        for (column, v) in self.totals.iter_mut().zip([h.count, h.zero_count]) {
            if stale {
                V::write_stale(w, column);
            } else {
                V::write_next(w, column, v);
            }
        }
        write_xor(w, self.sum.0, h.sum, &mut self.sum.1);
        self.sum.0 = h.sum;
        if !stale {
            let counts = relative(&h.positive_buckets).chain(relative(&h.negative_buckets));
            for (column, v) in self.positive.iter_mut().chain(&mut self.negative).zip(counts) {
                V::write_next(w, column, v);
            }
        }
        if self.with_starts {
            self.starts.write(w, self.count, st, t, self.t);
        }
        (self.t, self.delta) = (t, delta);
        self.count += 1;
    }

    /// Writes the chunk again with wider spans.
    fn recode(&mut self, positive: &[Span], negative: &[Span]) {
        let mut new: Option<Self> = None;
        // It is our own chunk: reading it does not fail.
        let Ok(mut old) = HistogramIter::<V>::new(self.with_starts, self.bytes()) else { return };
        while let Some(Ok((t, mut h))) = old.next() {
            widen_to(&mut h, positive, negative);
            match &mut new {
                None => new = Some(Self::begin(self.with_starts, self.header, old.start_time(), t, &h)),
                Some(new) => new.push(old.start_time(), t, &h),
            }
        }
        if let Some(new) = new {
            *self = new;
        }
    }

    /// The chunk's encoding.
    pub fn encoding(&self) -> Encoding {
        let [plain, with] = V::ENCODINGS;
        if self.with_starts { with } else { plain }
    }

    /// Whether it keeps start times.
    pub fn keeps_start_times(&self) -> bool {
        self.with_starts
    }

    /// Samples so far, at least one.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Size so far, in bytes.
    pub fn size(&self) -> usize {
        self.w.length()
    }

    /// Times of the first and the last sample, in milliseconds since the epoch.
    pub fn range(&self) -> (i64, i64) {
        (self.first, self.t)
    }

    /// The chunk's bytes so far; more can be appended afterwards.
    pub fn bytes(&self) -> Bytes {
        let ([a, b], header) = (self.count.to_be_bytes(), header_bits(self.header));
        let head = if self.with_starts { [a | header, b, self.starts.head] } else { [a, b, header] };
        self.w.finish(&head)
    }
}

fn well_formed<V>(h: &Histogram<V>) -> Result<(), EncodeError> {
    for (spans, buckets) in [(&h.positive_spans, &h.positive_buckets), (&h.negative_spans, &h.negative_buckets)] {
        let (spans, buckets) = (announced(spans), buckets.len());
        if !is_stale(h.sum) && spans != buckets as u64 {
            return Err(EncodeError::Buckets { spans, buckets });
        }
    }
    if !within_bounds(&h.positive_spans) || !within_bounds(&h.negative_spans) {
        return Err(EncodeError::BucketIndex);
    }
    Ok(())
}

/// Of a staleness marker only the marker is written.
fn without_stale_buckets<V: Count>(h: &Histogram<V>) -> Cow<'_, Histogram<V>> {
    if is_stale(h.sum) { Cow::Owned(Histogram { sum: h.sum, ..Histogram::default() }) } else { Cow::Borrowed(h) }
}

fn widen_to<V: Count>(h: &mut Histogram<V>, positive: &[Span], negative: &[Span]) {
    h.positive_buckets = widen(&h.positive_spans, positive, &h.positive_buckets);
    h.negative_buckets = widen(&h.negative_spans, negative, &h.negative_buckets);
    h.positive_spans = positive.to_vec();
    h.negative_spans = negative.to_vec();
}

/// What the columns of buckets hold for these counts.
fn relative<V: Count>(counts: &[V]) -> impl Iterator<Item = V> + '_ {
    let mut left = V::default();
    counts.iter().map(move |count| {
        let held = V::relative(*count, left);
        left = *count;
        held
    })
}

fn absolute<V: Count>(columns: &[V::Column]) -> Vec<V> {
    let mut left = V::default();
    let next = |column| {
        left = V::absolute(V::held(column), left);
        left
    };
    columns.iter().map(next).collect()
}
