//! Streams of series: data in motion. A stream gives series in the order of their labels, each once, with chunks that no one has
//! opened.
//!
//! * [`Blocks`] reads a block as a stream.
//! * [`Merge`] merges streams. It is fed and asked, does no IO and knows no clock, so that a compactor over files and a store over
//!   a bucket use the same; [`Merged`] drives it from iterators.
//! * [`join`] turns the chunks of one series from several streams into chunks that don't overlap, opening only those that do; [`Dedup`] says what
//!   becomes of the samples of those.
//!
//! Merged and joined series are what Prometheus's compactor makes of the same blocks, byte for byte (`tests/chunks`).

mod blocks;
mod heap;
mod join;
mod merge;
mod penalty;

pub use blocks::{Blocks, DamagedChunk};
pub(crate) use heap::Heap;
pub use join::{Dedup, JoinError, join, join_by};
pub use merge::{Group, Merge, Merged, OutOfOrder, Step};
pub use penalty::{Side, Turns};

use crate::chunk::Chunk;
use model::Labels;

/// A series with its chunks, in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Its chunks. Their bytes are shared with what they were read from.
    pub chunks: Vec<Chunk>,
}
