//! What can be wrong with a chunk.

use super::Encoding;
use std::fmt;

/// A chunk that can't be read. It is an error of this chunk, not of the block or the series that it is in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{encoding} chunk, {section}, bit {bit} of {}: {kind}", .length.saturating_mul(8))]
pub struct ChunkError {
    /// The chunk's format.
    pub encoding: Encoding,
    /// The part that can't be read.
    pub section: Section,
    /// Where reading stopped, in bits from the chunk's start.
    pub bit: usize,
    /// The chunk's size in bytes.
    pub length: usize,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// The part of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The bytes before the first sample.
    Head,
    /// What all histograms of the chunk share: schema, zero threshold, spans, bounds.
    Layout,
    /// A sample.
    Sample {
        /// Its number, from 0.
        index: u16,
        /// How many the head announces.
        total: u16,
    },
    /// An entry of an aggregate chunk, by its name.
    Aggregate(&'static str),
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("head"),
            Self::Layout => f.write_str("layout"),
            Self::Sample { index, total } => write!(f, "sample {index} of {total}"),
            Self::Aggregate(name) => write!(f, "aggregate {name}"),
        }
    }
}

/// What is wrong with a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The bytes end before what is announced does.
    #[error("it ends early")]
    Truncated,
    /// A field holds what no writer produces.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// A histogram's resolution that this version does not know.
    #[error("histogram schema {0} is not supported")]
    Schema(i64),
    /// The format is not known here, or not one that has samples of the wanted kind.
    #[error("this version can't read the encoding; keep Prometheus's chunk encoding at its default (xor)")]
    UnknownEncoding,
    /// A container of other chunks where a chunk of samples was expected.
    #[error("an aggregate chunk has no samples of its own; read the chunks in it")]
    Container,
    /// It may be well-formed, but is more than a reader takes.
    #[error("{0}")]
    Limit(&'static str),
}

/// Where reading is. A copy and no reference, so that the reader of a hot loop can stay in registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Bits from the chunk's start; behind the end after an overrun.
    pub(crate) bit: usize,
    /// The chunk's size in bytes.
    pub(crate) length: usize,
}

/// Why a step of reading failed; where it did is added by [`Fault::at`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Truncated,
    Corrupt(&'static str),
    Schema(i64),
}

impl Fault {
    /// The error, at the place where reading is. What was read behind the end is not to be believed.
    #[cold]
    pub(crate) fn at(self, encoding: Encoding, section: Section, Place { bit, length }: Place) -> ChunkError {
        let bits = length.saturating_mul(8);
        let kind = match self {
            _ if bit > bits => ErrorKind::Truncated,
            Self::Truncated => ErrorKind::Truncated,
            Self::Corrupt(what) => ErrorKind::Corrupt(what),
            Self::Schema(n) => ErrorKind::Schema(n),
        };
        ChunkError { encoding, section, bit: bit.min(bits), length, kind }
    }
}

/// A chunk that is shorter than its head.
pub(crate) fn no_head(encoding: Encoding, data: &[u8]) -> ChunkError {
    let bit = data.len().saturating_mul(8);
    ChunkError { encoding, section: Section::Head, bit, length: data.len(), kind: ErrorKind::Truncated }
}

/// A sample that can't be put into a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The chunk can't count further.
    #[error("the chunk is full ({0} samples); begin another one")]
    Full(u16),
    /// A histogram whose spans and buckets differ in number.
    #[error("a histogram's spans announce {spans} buckets and it has {buckets}")]
    Buckets {
        /// Buckets that the spans announce.
        spans: u64,
        /// Buckets that there are.
        buckets: usize,
    },
    /// A histogram with a bucket that no layout can hold beside others.
    #[error("a histogram's bucket lies further out than any number does")]
    BucketIndex,
}
