//! Chunks: a run of samples of one series, compressed. The bytes are described in `FORMAT.md` beside this file.
//!
//! Reading: [`decode`] gives an iterator over the samples of any chunk as PromQL sees them (histograms with float counts),
//! [`floats`] the samples of a chunk of floats in two columns, which is the fastest, and [`exact`] the samples as they were stored
//! (integer counts, start times), for whoever writes them again. Bytes from a peer may be anything, so every step can fail and
//! none panics. [`check`] reads a chunk only to see whether it can be read.
//!
//! Writing: an encoder per kind, byte for byte like Prometheus's, and [`Recoder`], which cuts a run of samples into chunks.
//!
//! [`decoded`] counts the chunks that this process has opened: a part that only passes chunks on proves it by a zero.

pub mod aggregate;
mod bits;
mod check;
mod error;
pub mod histogram;
mod recode;
mod start_time;
mod varbit;
pub mod xor;
pub mod xor2;

use bytes::Bytes;
use model::histogram::rows::Table;
use model::histogram::{FloatHistogram, IntHistogram};
use model::sample;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use check::{Stats, check};
pub use error::{ChunkError, EncodeError, ErrorKind, Section};
pub use histogram::{HistogramEncoder, HistogramIter};
pub use recode::{Chunk, Recoder};
pub use xor::{XorEncoder, XorIter};
pub use xor2::{Xor2Encoder, Xor2Iter};

/// How many samples Prometheus and Thanos put into one chunk when they cut it themselves.
pub const SAMPLES_PER_CHUNK: usize = 120;

/// A chunk's format. The numbers are Prometheus's; the StoreAPI's are one lower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Encoding {
    /// Floats: 1.
    Xor,
    /// Native histograms with integer counts: 2.
    Histogram,
    /// Native histograms with float counts: 3.
    FloatHistogram,
    /// Floats with start times, the newer code: 4.
    Xor2,
    /// Native histograms with integer counts and start times: 5.
    HistogramSt,
    /// Native histograms with float counts and start times: 6.
    FloatHistogramSt,
    /// Thanos's container of up to five chunks of a downsampled series: 0xff.
    Aggregate,
    /// A format that this version does not know, by Prometheus's number.
    Unknown(u8),
}

impl Encoding {
    /// From the number that Prometheus writes before a chunk and in remote read.
    pub fn from_prometheus(number: u8) -> Self {
        match number {
            1 => Self::Xor,
            2 => Self::Histogram,
            3 => Self::FloatHistogram,
            4 => Self::Xor2,
            5 => Self::HistogramSt,
            6 => Self::FloatHistogramSt,
            0xff => Self::Aggregate,
            n => Self::Unknown(n),
        }
    }

    /// From the number in the StoreAPI, one below Prometheus's.
    pub fn from_store_api(number: i32) -> Self {
        // Numbers beyond a byte can't be Prometheus's; 0 ("none") stands for them.
        Self::from_prometheus(number.checked_add(1).and_then(|n| u8::try_from(n).ok()).unwrap_or(0))
    }

    /// Prometheus's number.
    pub fn to_prometheus(self) -> u8 {
        match self {
            Self::Xor => 1,
            Self::Histogram => 2,
            Self::FloatHistogram => 3,
            Self::Xor2 => 4,
            Self::HistogramSt => 5,
            Self::FloatHistogramSt => 6,
            Self::Aggregate => 0xff,
            Self::Unknown(n) => n,
        }
    }

    /// The StoreAPI's number.
    pub fn to_store_api(self) -> i32 {
        i32::from(self.to_prometheus()) - 1
    }

    /// Whether its samples are floats, so that [`floats`] can read it.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Xor | Self::Xor2)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xor => f.write_str("XOR"),
            Self::Histogram => f.write_str("histogram"),
            Self::FloatHistogram => f.write_str("float histogram"),
            Self::Xor2 => f.write_str("XOR2"),
            Self::HistogramSt => f.write_str("histogram with start time"),
            Self::FloatHistogramSt => f.write_str("float histogram with start time"),
            Self::Aggregate => f.write_str("aggregate"),
            Self::Unknown(n) => write!(f, "unknown ({n})"),
        }
    }
}

static DECODED: AtomicU64 = AtomicU64::new(0);

/// How many chunks this process has opened for reading samples.
pub fn decoded() -> u64 {
    DECODED.load(Ordering::Relaxed)
}

/// Number of samples that a chunk announces, without opening it; of an aggregate chunk that of its count. `None` if it is too
/// short.
pub fn announced_samples(encoding: Encoding, data: &[u8]) -> Option<u16> {
    if encoding == Encoding::Aggregate {
        return match aggregate::first(data)? {
            None | Some((Encoding::Aggregate, _)) => Some(0),
            Some((encoding, data)) => announced_samples(encoding, data),
        };
    }
    let count = u16::from_be_bytes(*data.first_chunk()?);
    let has_header = matches!(encoding, Encoding::HistogramSt | Encoding::FloatHistogramSt);
    Some(if has_header { count & 0x3fff } else { count })
}

/// Words of eight bytes that spans, buckets and bounds of a chunk's histograms take together once they are decoded, as its head
/// announces them: many times the chunk, where little changes. 0 for other chunks, and for those that can't be read.
pub fn announced_words(encoding: Encoding, data: &[u8]) -> u64 {
    match encoding {
        Encoding::Histogram | Encoding::FloatHistogram | Encoding::HistogramSt | Encoding::FloatHistogramSt => {
            histogram::announced_words(data, announced_samples(encoding, data).unwrap_or(0))
        }
        _ => 0,
    }
}

/// Opens a chunk for reading its samples, those of histograms with float counts.
///
/// # Errors
/// An unknown encoding, a container, or no head.
pub fn decode(encoding: Encoding, data: Bytes) -> Result<ChunkIter, ChunkError> {
    DECODED.fetch_add(1, Ordering::Relaxed);
    match encoding {
        Encoding::Xor => XorIter::new(data).map(ChunkIter::Xor),
        Encoding::Xor2 => Xor2Iter::new(data).map(ChunkIter::Xor2),
        Encoding::Histogram | Encoding::HistogramSt => {
            HistogramIter::new(encoding == Encoding::HistogramSt, data).map(|i| ChunkIter::Histogram(Box::new(i)))
        }
        Encoding::FloatHistogram | Encoding::FloatHistogramSt => {
            HistogramIter::new(encoding == Encoding::FloatHistogramSt, data)
                .map(|i| ChunkIter::FloatHistogram(Box::new(i)))
        }
        Encoding::Aggregate => Err(refused(encoding, &data, ErrorKind::Container)),
        Encoding::Unknown(_) => Err(refused(encoding, &data, ErrorKind::UnknownEncoding)),
    }
}

fn refused(encoding: Encoding, data: &[u8], kind: ErrorKind) -> ChunkError {
    ChunkError { encoding, section: Section::Head, bit: 0, length: data.len(), kind }
}

/// Samples of floats, column by column. Both columns have the same length.
#[derive(Debug, Default, Clone)]
pub struct Columns {
    /// Milliseconds since the epoch.
    pub times: Vec<i64>,
    /// The values.
    pub values: Vec<f64>,
}

impl Columns {
    /// The samples, row by row.
    pub fn iter(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        self.times.iter().copied().zip(self.values.iter().copied())
    }

    /// Empties both columns and keeps their memory.
    pub fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
    }

    /// Appends the samples that `read` writes into rows (number, time, value), `total` of them or until it fails. A sample takes
    /// at least a bit: whatever a head announces, one row more than `bytes` has bits is enough for `read` to see the end.
    #[inline(always)]
    fn fill(
        &mut self,
        total: u16,
        bytes: usize,
        read: impl FnOnce(Rows<'_>) -> Result<(), ChunkError>,
    ) -> Result<(), ChunkError> {
        let (old, most) = (self.times.len(), bytes.saturating_mul(8).saturating_add(1));
        let rows = usize::from(total).min(most);
        self.times.resize(old + rows, 0);
        self.values.resize(old + rows, 0.0);
        let times = self.times.get_mut(old..).unwrap_or_default().iter_mut();
        let values = self.values.get_mut(old..).unwrap_or_default().iter_mut();
        let outcome = read(Rows { index: 0, times, values });
        if let Err(ChunkError { section: Section::Sample { index, .. }, .. }) = &outcome {
            self.times.truncate(old + usize::from(*index));
            self.values.truncate(old + usize::from(*index));
        }
        outcome
    }
}

/// The rows of columns that a decoder fills.
struct Rows<'a> {
    index: u16,
    times: std::slice::IterMut<'a, i64>,
    values: std::slice::IterMut<'a, f64>,
}

impl<'a> Iterator for Rows<'a> {
    type Item = (u16, &'a mut i64, &'a mut f64);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let (t, v) = (self.times.next()?, self.values.next()?);
        let index = self.index;
        self.index = index.wrapping_add(1);
        Some((index, t, v))
    }
}

/// Appends all samples of a chunk of floats to `columns`: the fastest way to read one.
///
/// # Errors
/// An encoding that has no floats ([`Encoding::is_float`]), or bytes that can't be read; then the samples before the fault are
/// there.
pub fn floats(encoding: Encoding, data: &[u8], columns: &mut Columns) -> Result<(), ChunkError> {
    DECODED.fetch_add(1, Ordering::Relaxed);
    match encoding {
        Encoding::Xor => xor::read_columns(data, columns),
        Encoding::Xor2 => xor2::read_columns(data, columns),
        _ => Err(refused(encoding, data, ErrorKind::UnknownEncoding)),
    }
}

/// Appends the samples of a chunk of native histograms to `table`, as far as `wants` takes their times (milliseconds) and without
/// staleness markers: the fastest way to read one. Gives `false`, and appends nothing, where this can't be done: gauges, start
/// times, resolutions that nothing computes with, rows that take many times their chunk, chunks of something else.
///
/// # Errors
/// Bytes that can't be read; then some of the samples before the fault are there.
pub fn histograms(
    encoding: Encoding,
    data: &[u8],
    table: &mut Table,
    wants: impl FnMut(i64) -> bool,
) -> Result<bool, ChunkError> {
    let read = match encoding {
        Encoding::Histogram => histogram::read_rows::<u64>(data, table, wants)?,
        Encoding::FloatHistogram => histogram::read_rows::<f64>(data, table, wants)?,
        _ => false,
    };
    DECODED.fetch_add(u64::from(read), Ordering::Relaxed);
    Ok(read)
}

/// The samples of one chunk, in the order of the chunk. Ends after the first error.
#[derive(Debug)]
pub enum ChunkIter {
    /// Floats.
    Xor(XorIter),
    /// Floats with start times.
    Xor2(Xor2Iter),
    /// Native histograms that were stored with integer counts.
    Histogram(Box<HistogramIter<u64>>),
    /// Native histograms that were stored with float counts.
    FloatHistogram(Box<HistogramIter<f64>>),
}

impl Iterator for ChunkIter {
    type Item = Result<sample::Sample, ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let float = |(t, v)| sample::Sample { t, v: sample::Value::Float(v) };
        let histogram = |(t, h)| sample::Sample { t, v: sample::Value::Histogram(Arc::new(h)) };
        match self {
            Self::Xor(i) => Some(i.next()?.map(float)),
            Self::Xor2(i) => Some(i.next()?.map(float)),
            Self::Histogram(i) => Some(i.next_float()?.map(histogram)),
            Self::FloatHistogram(i) => Some(i.next_float()?.map(histogram)),
        }
    }
}

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A float.
    Float(f64),
    /// A histogram with integer counts.
    Histogram(IntHistogram),
    /// A histogram with float counts.
    FloatHistogram(FloatHistogram),
}

/// A sample as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Exact {
    /// When its counter began, in milliseconds since the epoch; 0: not known.
    pub st: i64,
    /// Milliseconds since the epoch.
    pub t: i64,
    /// The value.
    pub v: Value,
}

/// Opens a chunk for reading its samples as they are stored.
///
/// # Errors
/// As [`decode`].
pub fn exact(encoding: Encoding, data: Bytes) -> Result<ExactIter, ChunkError> {
    decode(encoding, data).map(ExactIter)
}

/// The samples of one chunk as they are stored. Ends after the first error.
#[derive(Debug)]
pub struct ExactIter(ChunkIter);

impl Iterator for ExactIter {
    type Item = Result<Exact, ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match &mut self.0 {
            ChunkIter::Xor(i) => i.next()?.map(|(t, v)| Exact { st: 0, t, v: Value::Float(v) }),
            ChunkIter::Xor2(i) => {
                let sample = i.next()?;
                sample.map(|(t, v)| Exact { st: i.start_time(), t, v: Value::Float(v) })
            }
            ChunkIter::Histogram(i) => {
                let sample = i.next()?;
                sample.map(|(t, h)| Exact { st: i.start_time(), t, v: Value::Histogram(h) })
            }
            ChunkIter::FloatHistogram(i) => {
                let sample = i.next()?;
                sample.map(|(t, h)| Exact { st: i.start_time(), t, v: Value::FloatHistogram(h) })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_encodings_are_named() {
        let error = decode(Encoding::from_store_api(6), Bytes::from_static(&[0, 1])).unwrap_err().to_string();
        assert!(error.contains("unknown (7) chunk, head, bit 0 of 16") && error.contains("default (xor)"), "{error}");
        assert_eq!(Encoding::from_store_api(-5), Encoding::Unknown(0));
        assert_eq!(Encoding::from_store_api(300), Encoding::Unknown(0));
        for n in 0..=255 {
            assert_eq!(Encoding::from_prometheus(n).to_prometheus(), n);
        }
        assert_eq!(decode(Encoding::Aggregate, Bytes::new()).unwrap_err().kind, ErrorKind::Container);
        let mut columns = Columns::default();
        assert_eq!(floats(Encoding::Histogram, &[], &mut columns).unwrap_err().kind, ErrorKind::UnknownEncoding);
    }

    #[test]
    fn opening_is_counted() {
        let before = decoded();
        assert!(decode(Encoding::Xor, Bytes::from_static(&[0, 0])).is_ok());
        assert!(decoded() > before);
    }

    #[test]
    fn an_announced_sample_that_can_t_be_there_is_an_error() {
        // 65,535 samples in no bits at all, and in a few.
        for data in [&[0xff, 0xff][..], &[0xff, 0xff, 0], &[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            for encoding in [Encoding::Xor, Encoding::Xor2] {
                let mut columns = Columns::default();
                assert!(floats(encoding, data, &mut columns).is_err());
                assert!(
                    columns.times.len() <= data.len() * 8
                        && columns.times.capacity() < 200
                        && columns.times.len() == columns.values.len()
                );
            }
        }
    }

    proptest! {
        // Any bytes at all: an error or samples, never a panic, and never more samples than announced.
        #[test]
        fn hostile_bytes_do_not_panic(encoding in 0u8..8, data in prop::collection::vec(any::<u8>(), 0..400)) {
            let (encoding, data) = (Encoding::from_prometheus(encoding), Bytes::from(data));
            let announced = announced_samples(encoding, &data).map_or(0, usize::from);
            if let Ok(iter) = decode(encoding, data.clone()) {
                prop_assert!(iter.count() <= announced + 1);
            }
            let mut columns = Columns::default();
            let columns_ok = floats(encoding, &data, &mut columns).is_ok();
            if encoding.is_float() {
                prop_assert_eq!(columns_ok, check(encoding, &data).is_ok());
            }
            let _read_or_refused = check(Encoding::Aggregate, &data);
        }
    }
}
