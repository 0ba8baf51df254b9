//! Chunks: a run of samples of one series, compressed.
//!
//! [`decode`] gives an iterator over the samples of any chunk that we know; bytes from a peer may be anything, so every
//! step can fail and none panics. [`decoded`] counts the chunks that this process has opened: a part that only passes
//! chunks on proves it by a zero.

mod bits;
pub mod histogram;
mod varbit;
pub mod xor;

use bytes::Bytes;
use model::sample::{Sample, Value};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use bits::Truncated;
pub use histogram::{FloatHistogramIter, HistogramIter};
pub use xor::{XorEncoder, XorIter};

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

/// A chunk that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{encoding} chunk, byte {offset} of {length}: {kind}")]
pub struct ChunkError {
    /// The chunk's format.
    pub encoding: Encoding,
    /// About where reading stopped, in bytes from the chunk's start.
    pub offset: usize,
    /// The chunk's size in bytes.
    pub length: usize,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// What is wrong with a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The bytes end before the announced samples do.
    #[error("it ends early, at sample {sample} of {total}")]
    Truncated {
        /// Samples read so far.
        sample: u16,
        /// Samples announced.
        total: u16,
    },
    /// A field holds what no writer produces.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// A histogram's resolution that this version does not know.
    #[error("histogram schema {0} is not supported")]
    Schema(i64),
    /// The format is not known here.
    #[error("this version can't read the encoding; keep Prometheus's chunk encoding at its default (xor)")]
    UnknownEncoding,
}

static DECODED: AtomicU64 = AtomicU64::new(0);

/// How many chunks this process has opened for reading samples.
pub fn decoded() -> u64 {
    DECODED.load(Ordering::Relaxed)
}

/// Opens a chunk for reading its samples.
pub fn decode(encoding: Encoding, data: Bytes) -> Result<ChunkIter, ChunkError> {
    DECODED.fetch_add(1, Ordering::Relaxed);
    match encoding {
        Encoding::Xor => XorIter::new(data).map(ChunkIter::Xor),
        Encoding::Histogram => HistogramIter::new(data).map(|i| ChunkIter::Histogram(Box::new(i))),
        Encoding::FloatHistogram => FloatHistogramIter::new(data).map(|i| ChunkIter::FloatHistogram(Box::new(i))),
        Encoding::Xor2
        | Encoding::HistogramSt
        | Encoding::FloatHistogramSt
        | Encoding::Aggregate
        | Encoding::Unknown(_) => {
            Err(ChunkError { encoding, offset: 0, length: data.len(), kind: ErrorKind::UnknownEncoding })
        }
    }
}

/// Number of samples that a chunk of any format announces, without opening it; `None` if it is too short.
pub fn announced_samples(data: &[u8]) -> Option<u16> {
    data.first_chunk::<2>().map(|b| u16::from_be_bytes(*b))
}

/// The samples of one chunk, in the order of the chunk. Ends after the first error.
#[derive(Debug)]
pub enum ChunkIter {
    /// Floats.
    Xor(XorIter),
    /// Native histograms that were stored with integer counts.
    Histogram(Box<HistogramIter>),
    /// Native histograms that were stored with float counts.
    FloatHistogram(Box<FloatHistogramIter>),
}

impl Iterator for ChunkIter {
    type Item = Result<Sample, ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Xor(i) => Some(i.next()?.map(|(t, v)| Sample { t, v: Value::Float(v) })),
            Self::Histogram(i) => Some(i.next()?.map(|(t, h)| Sample { t, v: Value::Histogram(Arc::new(h)) })),
            Self::FloatHistogram(i) => Some(i.next()?.map(|(t, h)| Sample { t, v: Value::Histogram(Arc::new(h)) })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_encodings_are_named() {
        let error = decode(Encoding::from_store_api(3), Bytes::from_static(&[0, 1])).unwrap_err().to_string();
        assert!(error.contains("XOR2") && error.contains("default (xor)"), "{error}");
        assert_eq!(Encoding::from_store_api(-5), Encoding::Unknown(0));
        assert_eq!(Encoding::from_store_api(300), Encoding::Unknown(0));
        for n in 0..=255 {
            assert_eq!(Encoding::from_prometheus(n).to_prometheus(), n);
        }
    }

    #[test]
    fn opening_is_counted() {
        let before = decoded();
        assert!(decode(Encoding::Xor, Bytes::from_static(&[0, 0])).is_ok());
        assert!(decoded() > before);
    }

    proptest! {
        // Any bytes at all: an error or samples, never a panic, and never more samples than announced.
        #[test]
        fn hostile_bytes_do_not_panic(encoding in 0u8..5, data in prop::collection::vec(any::<u8>(), 0..400)) {
            let announced = announced_samples(&data).map_or(0, usize::from);
            if let Ok(iter) = decode(Encoding::from_prometheus(encoding), data.into()) {
                prop_assert!(iter.count() <= announced + 1);
            }
        }
    }
}
