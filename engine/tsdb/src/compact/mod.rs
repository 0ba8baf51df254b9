//! Compaction: blocks of one stream become one. Read, merge, write; one series is held at a time, and a chunk that overlaps no other
//! is passed on as it is, unopened.
//!
//! What comes out is, byte for byte, what Prometheus's compactor makes of the same blocks, or with [`Dedup::Penalty`] Thanos's
//! (`tests/chunks`).

mod repair;

use crate::block::{Block, Writer, Written, write_meta};
use crate::chunk::Chunk;
use crate::disk::Disk;
use crate::error::{Error, Result as FileResult};
use crate::meta::BlockMeta;
use crate::segment::{CHUNKS_DIR, NewChunk};
use crate::series::{Blocks, Dedup, Group, JoinError, Merged, OutOfOrder, Series, join, join_by};
use model::{BlockId, Labels};
use std::collections::BTreeSet;
use std::path::Path;

/// What came of a compaction.
#[derive(Debug, Clone)]
pub struct Compacted {
    /// The new block; `None` if nothing was in any of them.
    pub written: Option<Written>,
    /// What went through.
    pub counts: Counts,
}

/// What went through a compaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Series of the new block.
    pub series: u64,
    /// Samples in the blocks; of downsampled ones, samples of the count aggregate.
    pub samples_in: u64,
    /// Samples in the new block: fewer, where blocks had samples of the same time.
    pub samples_out: u64,
    /// Chunks that were passed on unopened.
    pub passed: u64,
    /// Chunks that were opened, because they overlap others.
    pub opened: u64,
    /// Series of a block whose chunks were out of order or there twice, and were put in order without a loss.
    pub repaired: u64,
}

/// Blocks that can't be compacted. Where one block is to blame, it is named; the others are as good as before.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// A file of a block.
    #[error("block {block}: {error}")]
    Block {
        /// The block.
        block: BlockId,
        /// What is wrong.
        error: Error,
    },
    /// Series of a block are out of order, or come twice.
    #[error("block {block}: {error}")]
    Order {
        /// The block.
        block: BlockId,
        /// Which.
        error: OutOfOrder,
    },
    /// Chunks of a series in a block are out of order, or overlap, and putting them in order could lose a sample.
    #[error(
        "block {block}, series {series}: the chunk of {min_t} to {max_t} overlaps the one before it or lies before it, and they \
         contradict each other"
    )]
    Chunks {
        /// The block.
        block: BlockId,
        /// The series.
        series: Labels,
        /// Time of the chunk's first sample in ms.
        min_t: i64,
        /// Time of its last.
        max_t: i64,
    },
    /// A chunk lies outside of its block's time.
    #[error("block {block}, series {series}: the chunk of {min_t} to {max_t} lies outside of the block's time")]
    Outside {
        /// The block.
        block: BlockId,
        /// The series.
        series: Labels,
        /// Time of the chunk's first sample in ms.
        min_t: i64,
        /// Time of its last.
        max_t: i64,
    },
    /// Chunks of several blocks overlap and can't be joined.
    #[error("series {series}: {error}")]
    Join {
        /// The series.
        series: Labels,
        /// What is wrong.
        error: JoinError,
    },
    /// A block has ranges that are deleted but still there.
    #[error("block {block} has tombstones; rewrite it without the deleted ranges first")]
    Tombstones {
        /// The block.
        block: BlockId,
    },
    /// The new block can't be written.
    #[error(transparent)]
    Write(#[from] Error),
}

impl Failure {
    /// The block that is to blame, if it is one: it is to be marked, and the others may go on.
    pub fn block(&self) -> Option<BlockId> {
        match self {
            Self::Block { block, .. }
            | Self::Order { block, .. }
            | Self::Chunks { block, .. }
            | Self::Outside { block, .. }
            | Self::Tombstones { block } => Some(*block),
            Self::Join { .. } | Self::Write(_) => None,
        }
    }
}

/// An error of one stream.
enum StreamError {
    File(Error),
    Order(OutOfOrder),
}

impl From<OutOfOrder> for StreamError {
    fn from(error: OutOfOrder) -> Self {
        Self::Order(error)
    }
}

/// Compacts `blocks`, in the order of their begins, into a new block of this `meta` (see [`crate::plan::compacted`]) in the folder
/// `parent`; `dedup` says what becomes of the samples of chunks that overlap. Its stats, segment names and index stats are filled
/// in.
///
/// # Errors
/// See [`Failure`]; `*.tmp-for-creation` may be left then.
pub fn blocks(
    disk: &dyn Disk,
    blocks: &[Block],
    parent: &Path,
    meta: BlockMeta,
    dedup: Dedup,
) -> Result<Compacted, Failure> {
    if let Some(block) = blocks.iter().find(|b| !b.tombstones().stones().is_empty()) {
        return Err(Failure::Tombstones { block: block.meta().id });
    }
    let id = |stream: usize| blocks.get(stream).map(|b| b.meta().id).unwrap_or_default();
    let new_id = meta.id;
    let mut writer = Writer::create(disk, parent, meta)?;
    symbols(blocks, &mut writer)?;
    let streams: Vec<_> = blocks
        .iter()
        .map(|b| match Blocks::all(b) {
            Ok(all) => Ok(all.map(|s| s.map_err(StreamError::File))),
            Err(error) => Err(Failure::Block { block: b.meta().id, error }),
        })
        .collect::<Result<_, _>>()?;
    let mut counts = Counts::default();
    for group in Merged::new(streams) {
        let Group { labels, mut parts } = group.map_err(|(stream, error)| match error {
            StreamError::File(error) => Failure::Block { block: id(stream), error },
            StreamError::Order(error) => Failure::Order { block: id(stream), error },
        })?;
        counts.samples_in += parts.iter().map(|(_, chunks)| samples(chunks)).sum::<u64>();
        for i in (0..parts.len()).rev() {
            let Some((stream, chunks)) = parts.get(i) else { break };
            let Some(block) = blocks.get(*stream) else { continue };
            check(block, &labels, chunks)?;
            if repair::in_order(chunks) {
                continue;
            }
            let (stream, chunks) = parts.remove(i);
            let first = out_of_order(block, &labels, &chunks);
            let runs = repair::runs(chunks).ok_or(first)?;
            counts.repaired += 1;
            if dedup == Dedup::Merge {
                runs.into_iter().rev().for_each(|run| parts.insert(i, (stream, run)));
            } else {
                // They are one replica's, so all of them count.
                let whole = join(runs, false).map_err(|error| Failure::Join { series: labels.clone(), error })?;
                parts.insert(i, (stream, whole));
            }
        }
        let series = joined(labels, parts, dedup, &mut counts)?;
        if series.chunks.is_empty() {
            continue;
        }
        let new: Vec<NewChunk<'_>> = series.chunks.iter().map(new_chunk).collect();
        writer.add_series(&series.labels, &new)?;
        counts.series += 1;
        counts.samples_out += samples(&series.chunks);
    }
    if counts.series == 0 {
        drop(writer);
        disk.remove_dir(&parent.join(format!("{new_id}{}", crate::block::TEMP_DIR_SUFFIX)))?;
        return Ok(Compacted { written: None, counts });
    }
    Ok(Compacted { written: Some(complete(disk, writer.finish()?)?), counts })
}

/// All symbols of all blocks, sorted, each once.
fn symbols(blocks: &[Block], writer: &mut Writer<'_>) -> Result<(), Failure> {
    let mut streams: Vec<_> = blocks.iter().map(|b| b.index().symbols().iter().peekable()).collect();
    // The symbols at the heads of the streams; a set, since there are few blocks and many symbols.
    let mut heads: BTreeSet<(&[u8], usize)> = BTreeSet::new();
    for (i, stream) in streams.iter_mut().enumerate() {
        heads.extend(stream.next().map(|(_, symbol)| (symbol, i)));
    }
    let mut last: Option<&[u8]> = None;
    while let Some((symbol, i)) = heads.pop_first() {
        if last != Some(symbol) {
            let text = std::str::from_utf8(symbol).map_err(|e| match blocks.get(i) {
                Some(block) => Failure::Block {
                    block: block.meta().id,
                    error: Error::corrupt(block.index().file(), "symbols", 0, format!("a symbol is no UTF-8: {e}")),
                },
                None => Failure::Write(Error::refused("index", "symbols", e.to_string())),
            })?;
            writer.add_symbol(text)?;
            last = Some(symbol);
        }
        heads.extend(streams.get_mut(i).and_then(Iterator::next).map(|(_, symbol)| (symbol, i)));
    }
    Ok(())
}

/// What must hold of a series before it is passed on: its chunks lie in its block's time.
fn check(block: &Block, labels: &Labels, chunks: &[Chunk]) -> Result<(), Failure> {
    let meta = block.meta();
    match chunks.iter().find(|c| c.min_t < meta.min_time || c.max_t >= meta.max_time) {
        Some(Chunk { min_t, max_t, .. }) => {
            let (min_t, max_t, block, series) = (*min_t, *max_t, meta.id, labels.clone());
            Err(Failure::Outside { block, series, min_t, max_t })
        }
        None => Ok(()),
    }
}

/// The failure that names the first chunk that does not lie behind the one before it.
fn out_of_order(block: &Block, labels: &Labels, chunks: &[Chunk]) -> Failure {
    let mut end = None;
    let first = chunks.iter().find(|c| c.min_t > c.max_t || end.replace(c.max_t).is_some_and(|end| c.min_t <= end));
    let (min_t, max_t) = first.map_or((0, 0), |c| (c.min_t, c.max_t));
    Failure::Chunks { block: block.meta().id, series: labels.clone(), min_t, max_t }
}

/// One run of chunks of those of several blocks.
fn joined(
    labels: Labels,
    mut parts: Vec<(usize, Vec<Chunk>)>,
    dedup: Dedup,
    counts: &mut Counts,
) -> Result<Series, Failure> {
    let before: u64 = parts.iter().map(|(_, chunks)| chunks.len() as u64).sum();
    if parts.len() == 1 {
        counts.passed += before;
        let chunks = parts.pop().map(|(_, chunks)| chunks).unwrap_or_default();
        return Ok(Series { labels, chunks });
    }
    let mut all: Vec<(i64, i64)> = parts.iter().flat_map(|(_, c)| c.iter().map(|c| (c.min_t, c.max_t))).collect();
    all.sort_unstable();
    let apart = all.iter().zip(all.iter().skip(1)).all(|(a, b)| a.1 < b.0);
    let parts = parts.into_iter().map(|(_, chunks)| chunks).collect();
    let chunks = join_by(parts, false, dedup).map_err(|error| Failure::Join { series: labels.clone(), error })?;
    *(if apart { &mut counts.passed } else { &mut counts.opened }) += before;
    Ok(Series { labels, chunks })
}

fn samples(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|c| u64::from(c.samples)).sum()
}

/// A chunk as the writer takes it.
pub(crate) fn new_chunk(chunk: &Chunk) -> NewChunk<'_> {
    NewChunk { encoding: chunk.encoding, data: &chunk.data, min_time: chunk.min_t, max_time: chunk.max_t }
}

/// Tells in a new block's meta.json what Thanos tells of it: names of segments, sizes in the index.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn complete(disk: &dyn Disk, mut written: Written) -> FileResult<Written> {
    let segments = disk.list(&written.dir.join(CHUNKS_DIR))?;
    let thanos = written.meta.thanos.get_or_insert_default();
    thanos.segment_files = segments.into_iter().map(|e| e.name).collect();
    thanos.segment_files.sort();
    thanos.index_stats.series_max_size = written.index.series_max_size;
    thanos.index_stats.chunk_max_size = written.chunk_max_size;
    write_meta(disk, &written.dir, &written.meta)?;
    Ok(written)
}
