//! Reading histogram chunks.

use super::count::Count;
use super::layout::Layout;
use super::{ST_COUNT, hint_of, reduce};
use crate::chunk::Encoding;
use crate::chunk::bits::BitReader;
use crate::chunk::error::{ChunkError, Fault, Section, no_head};
use crate::chunk::start_time::StartTimes;
use crate::chunk::varbit::read_int;
use crate::chunk::xor::{Window, read_xor};
use bytes::Bytes;
use model::histogram::{FloatHistogram, Histogram, ResetHint};
use model::sample::STALE_NAN_BITS;

/// The samples of a histogram chunk: time in milliseconds since the epoch, histogram with its own kind of counts.
/// [`HistogramIter::next_float`] gives float counts from any chunk.
#[derive(Debug)]
pub struct HistogramIter<V: Count> {
    r: BitReader,
    encoding: Encoding,
    total: u16,
    read: u16,
    header: ResetHint,
    layout: Layout,
    t: i64,
    delta: i64,
    starts: StartTimes,
    /// The total and the zero bucket, once there is a sample.
    totals: Option<[V::Column; 2]>,
    sum: (u64, Window),
    positive: Vec<V::Column>,
    negative: Vec<V::Column>,
}

impl<V: Count> HistogramIter<V> {
    /// Opens a chunk, with start times or without; fails if it has no head. Prefer [`crate::chunk::decode`], which counts.
    pub fn new(start_times: bool, data: Bytes) -> Result<Self, ChunkError> {
        let [plain, with] = V::ENCODINGS;
        let encoding = if start_times { with } else { plain };
        let Some([a, b, c]) = data.first_chunk::<3>().copied() else { return Err(no_head(encoding, &data)) };
        let count = u16::from_be_bytes([a, b]);
        Ok(Self {
            encoding,
            total: if start_times { count & ST_COUNT } else { count },
            header: hint_of(if start_times { a } else { c }),
            starts: StartTimes::new(if start_times { c } else { 0 }),
            r: BitReader::new(data, 3),
            read: 0,
            t: 0,
            delta: 0,
            layout: Layout::default(),
            totals: None,
            sum: (0, Window::WHOLE),
            positive: Vec::new(),
            negative: Vec::new(),
        })
    }

    /// What the head says about the first sample and the chunk before. Readers must not rely on it, since that chunk may be gone
    /// or another one may have come between.
    pub fn header(&self) -> ResetHint {
        self.header
    }

    /// When the counter of the sample just read began, in milliseconds since the epoch; 0: not known.
    pub fn start_time(&self) -> i64 {
        self.starts.st
    }

    /// Like `next`, with float counts.
    pub fn next_float(&mut self) -> Option<Result<(i64, FloatHistogram), ChunkError>> {
        self.advance(|i| i.sample(V::total_to_float, V::bucket_to_float))
    }

    fn advance<T>(&mut self, sample: impl FnOnce(&Self) -> T) -> Option<Result<(i64, T), ChunkError>> {
        if self.read == self.total {
            return None;
        }
        Some(match self.step() {
            Ok(()) => {
                self.read += 1;
                Ok((self.t, sample(self)))
            }
            Err((section, fault)) => {
                // Nothing comes after an error.
                self.read = self.total;
                Err(fault.at(self.encoding, section, self.r.place()))
            }
        })
    }

    fn step(&mut self) -> Result<(), (Section, Fault)> {
        let section = Section::Sample { index: self.read, total: self.total };
        let before = self.t;
        match &mut self.totals {
            None => {
                let (layout, np, nn) = Layout::read(&mut self.r, self.total).map_err(|f| (Section::Layout, f))?;
                self.layout = layout;
                let r = &mut self.r;
                self.t = read_int(r);
                self.totals = Some([V::read_total(r), V::read_total(r)]);
                self.sum.0 = r.take(64);
                for (buckets, n) in [(&mut self.positive, np), (&mut self.negative, nn)] {
                    buckets.reserve_exact(n);
                    buckets.extend((0..n).map(|_| V::read_bucket(r)));
                }
            }
            Some(totals) => {
                let r = &mut self.r;
                self.delta = self.delta.wrapping_add(read_int(r));
                self.t = self.t.wrapping_add(self.delta);
                let rest = || {
                    for total in totals {
                        V::read_next(r, total)?;
                    }
                    read_xor(r, &mut self.sum.0, &mut self.sum.1)?;
                    if self.sum.0 != STALE_NAN_BITS {
                        for bucket in self.positive.iter_mut().chain(&mut self.negative) {
                            V::read_next(r, bucket)?;
                        }
                    }
                    Ok(())
                };
                rest().map_err(|f| (section, f))?;
            }
        }
        if self.read == 0 {
            self.starts.first(&mut self.r, self.t).map_err(|f| (section, f))?;
        } else {
            self.starts.next(&mut self.r, self.read, before);
        }
        if self.r.overrun() { Err((section, Fault::Truncated)) } else { Ok(()) }
    }

    /// What is known about a reset before the sample just read. The first sample's predecessor is in another chunk, which may
    /// not be the one that the writer saw; so nothing is known there.
    fn hint(&self) -> ResetHint {
        match self.header {
            ResetHint::Gauge => ResetHint::Gauge,
            _ if self.read > 1 => ResetHint::NotReset,
            _ => ResetHint::Unknown,
        }
    }

    fn sample<W: Count>(&self, total: impl Fn(V) -> W, bucket: impl Fn(V) -> W) -> Histogram<W> {
        let sum = f64::from_bits(self.sum.0);
        let (Some([count, zero]), false) = (&self.totals, self.sum.0 == STALE_NAN_BITS) else {
            // A stale histogram has nothing but its marker.
            return Histogram { sum, ..Histogram::default() };
        };
        let buckets = |columns: &[V::Column]| {
            let mut last = V::default();
            let count = |column| {
                last = V::absolute(V::held(column), last);
                bucket(last)
            };
            columns.iter().map(count).collect()
        };
        let mut h = Histogram {
            reset_hint: self.hint(),
            schema: self.layout.schema,
            zero_threshold: self.layout.zero_threshold,
            zero_count: total(V::held(zero)),
            count: total(V::held(count)),
            sum,
            positive_spans: self.layout.positive.clone(),
            negative_spans: self.layout.negative.clone(),
            positive_buckets: buckets(&self.positive),
            negative_buckets: buckets(&self.negative),
            custom_values: self.layout.custom.clone(),
        };
        reduce::reduce(&mut h);
        h
    }
}

impl<V: Count> Iterator for HistogramIter<V> {
    type Item = Result<(i64, Histogram<V>), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(|i| i.sample(|v| v, |v| v))
    }
}
