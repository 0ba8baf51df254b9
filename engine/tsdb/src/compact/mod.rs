//! Compaction: blocks of one stream become one. Read, merge, write; one series is held at a time, and a chunk that overlaps no other
//! is passed on as it is, unopened. Labels are compared and written by the numbers of their symbols (`symbols`), and blocks that were
//! opened by [`Block::open_passing`] are given back while they are read: what is held is one series, and at the end some 16 bytes for each for the postings.
//!
//! What comes out is, byte for byte, what Prometheus's compactor makes of the same blocks, or with [`Dedup::Penalty`] Thanos's
//! (`tests/chunks`).

mod repair;
mod symbols;
mod walk;

use crate::block::{Block, TEMP_DIR_SUFFIX, Writer, Written, write_meta};
use crate::chunk::{Chunk, announced_samples};
use crate::disk::Disk;
use crate::error::{Error, Result as FileResult};
use crate::index::ChunkMeta;
use crate::meta::BlockMeta;
use crate::segment::{CHUNKS_DIR, NewChunk};
use crate::series::{Dedup, JoinError, OutOfOrder, join, join_by};
use model::{BlockId, Labels};
use std::path::Path;
use symbols::Numbers;
use walk::{Part, Walk};

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
    /// Series of the blocks, as their lists of all tell.
    pub series_in: u64,
    /// Series of the blocks that were merged: as many, or some were left out.
    pub series_seen: u64,
    /// Samples in the blocks; of downsampled ones, samples of the count aggregate.
    pub samples_in: u64,
    /// Samples in the new block: fewer, where blocks had samples of the same time.
    pub samples_out: u64,
    /// Of those, samples of series of which chunks overlap or were out of order.
    pub opened_in: u64,
    /// What became of the samples of those series: fewer, where some were there twice. All others are as many as before.
    pub opened_out: u64,
    /// Chunks that were passed on unopened.
    pub passed: u64,
    /// Chunks of series of which some were opened, because they overlap.
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
    let new_id = meta.id;
    let mut writer = Writer::create(disk, parent, meta)?;
    let folder = parent.join(format!("{new_id}{TEMP_DIR_SUFFIX}"));
    let numbers = symbols::merge(disk, blocks, &folder, &mut writer)?;
    let mut walk = Walk::new(blocks, &numbers)?;
    let (mut counts, mut read) = (Counts { series_in: walk.series(), ..Counts::default() }, 0);
    let (mut parts, mut places, mut new) = (Vec::new(), Vec::new(), Vec::new());
    while walk.next(&mut parts)? {
        counts.series_seen += parts.len() as u64;
        for part in &parts {
            check(blocks, &walk, part)?;
        }
        let Some(Part { key, .. }) = parts.first() else { continue };
        new.clear();
        if apart(&parts, &mut places) {
            pass(blocks, &places, &mut new)?;
            counts.passed += new.len() as u64;
            let samples = announced(&new);
            counts.samples_in += samples;
            counts.samples_out += samples;
            if !new.is_empty() {
                writer.add_numbered(key, &new)?;
                counts.series += 1;
            }
            read += new.iter().map(|c| c.data.len() as u64).sum::<u64>();
        } else {
            let chunks = open(blocks, &walk, &parts, dedup, &mut counts)?;
            let chunks: Vec<NewChunk<'_>> = chunks.iter().map(new_chunk).collect();
            if !chunks.is_empty() {
                writer.add_numbered(key, &chunks)?;
                counts.series += 1;
            }
            read += parts.iter().map(|part| 128 * part.chunks.len() as u64).sum::<u64>();
        }
        read += 64 * parts.len() as u64;
        if read > HELD {
            blocks.iter().for_each(Block::release);
            numbers.iter().for_each(Numbers::release);
            read = 0;
        }
    }
    drop(walk);
    drop(numbers);
    if counts.series == 0 {
        drop(writer);
        disk.remove_dir(&folder)?;
        return Ok(Compacted { written: None, counts });
    }
    Ok(Compacted { written: Some(complete(disk, writer.finish()?)?), counts })
}

/// Bytes of blocks that are read before their pages are given back.
const HELD: u64 = 4 << 20;

/// Gathers the chunks of all parts in the order of their times. False where one does not lie behind the one before it, in its own
/// block or among all.
fn apart(parts: &[Part], places: &mut Vec<(usize, ChunkMeta)>) -> bool {
    places.clear();
    if !parts.iter().all(|part| repair::in_order(&part.chunks, |c| (c.min_time, c.max_time))) {
        return false;
    }
    for part in parts {
        places.extend(part.chunks.iter().map(|c| (part.stream, *c)));
    }
    if parts.len() > 1 {
        places.sort_unstable_by_key(|(_, c)| c.min_time);
    }
    places.iter().zip(places.iter().skip(1)).all(|(a, b)| a.1.max_time < b.1.min_time)
}

/// The chunks at these places, as they lie there.
fn pass<'a>(blocks: &'a [Block], places: &[(usize, ChunkMeta)], new: &mut Vec<NewChunk<'a>>) -> Result<(), Failure> {
    for (stream, meta) in places {
        let Some(block) = blocks.get(*stream) else { return Err(no_block(*stream)) };
        let chunk = block.chunk(meta).map_err(|error| Failure::Block { block: block.meta().id, error })?;
        let (min_time, max_time) = (meta.min_time, meta.max_time);
        new.push(NewChunk { encoding: chunk.encoding, data: chunk.data, min_time, max_time });
    }
    Ok(())
}

/// Opens the chunks of a series where they overlap or are out of order: one run of chunks comes of all parts.
fn open(
    blocks: &[Block],
    walk: &Walk<'_>,
    parts: &[Part],
    dedup: Dedup,
    counts: &mut Counts,
) -> Result<Vec<Chunk>, Failure> {
    let mut runs: Vec<Vec<Chunk>> = Vec::with_capacity(parts.len());
    for part in parts {
        let Some(block) = blocks.get(part.stream) else { return Err(no_block(part.stream)) };
        let read = |meta: &ChunkMeta| {
            let (encoding, data) = block.chunk_bytes(meta)?;
            let samples = announced_samples(encoding, &data).unwrap_or(0);
            Ok(Chunk { encoding, min_t: meta.min_time, max_t: meta.max_time, samples, data })
        };
        let failed = |error| Failure::Block { block: block.meta().id, error };
        runs.push(part.chunks.iter().map(read).collect::<FileResult<_>>().map_err(failed)?);
    }
    let before = runs.iter().map(|chunks| samples(chunks)).sum::<u64>();
    counts.samples_in += before;
    counts.opened_in += before;
    counts.opened += runs.iter().map(|chunks| chunks.len() as u64).sum::<u64>();
    let join_failed = |part: &Part, error| match walk.labels(part) {
        Ok(series) => Failure::Join { series, error },
        Err(error) => Failure::Write(error),
    };
    let mut sorted: Vec<Vec<Chunk>> = Vec::with_capacity(runs.len());
    for (part, chunks) in parts.iter().zip(runs) {
        if repair::in_order(&chunks, |c| (c.min_t, c.max_t)) {
            sorted.push(chunks);
            continue;
        }
        let first = || out_of_order(blocks, walk, part, &chunks);
        let runs = repair::runs(chunks.clone()).ok_or_else(first)?;
        counts.repaired += 1;
        if dedup == Dedup::Merge {
            sorted.extend(runs);
        } else {
            // They are one replica's, so all of them count.
            sorted.push(join(runs, false).map_err(|error| join_failed(part, error))?);
        }
    }
    let joined = match (sorted.len(), parts.first()) {
        (1, _) | (_, None) => sorted.pop().unwrap_or_default(),
        (_, Some(first)) => join_by(sorted, false, dedup).map_err(|error| join_failed(first, error))?,
    };
    let after = samples(&joined);
    counts.samples_out += after;
    counts.opened_out += after;
    Ok(joined)
}

fn no_block(number: usize) -> Failure {
    Failure::Write(Error::refused("blocks", "compaction", format!("there is no block {number}")))
}

/// What must hold of a series before it is passed on: its chunks lie in its block's time.
fn check(blocks: &[Block], walk: &Walk<'_>, part: &Part) -> Result<(), Failure> {
    let Some(meta) = blocks.get(part.stream).map(Block::meta) else { return Ok(()) };
    match part.chunks.iter().find(|c| c.min_time < meta.min_time || c.max_time >= meta.max_time) {
        Some(ChunkMeta { min_time: min_t, max_time: max_t, .. }) => {
            let (min_t, max_t, block) = (*min_t, *max_t, meta.id);
            let series = walk.labels(part).map_err(|error| Failure::Block { block, error })?;
            Err(Failure::Outside { block, series, min_t, max_t })
        }
        None => Ok(()),
    }
}

/// The failure that names the first chunk that does not lie behind the one before it.
fn out_of_order(blocks: &[Block], walk: &Walk<'_>, part: &Part, chunks: &[Chunk]) -> Failure {
    let block = blocks.get(part.stream).map(|b| b.meta().id).unwrap_or_default();
    let series = match walk.labels(part) {
        Ok(series) => series,
        Err(error) => return Failure::Block { block, error },
    };
    let mut end = None;
    let first = chunks.iter().find(|c| c.min_t > c.max_t || end.replace(c.max_t).is_some_and(|end| c.min_t <= end));
    let (min_t, max_t) = first.map_or((0, 0), |c| (c.min_t, c.max_t));
    Failure::Chunks { block, series, min_t, max_t }
}

fn samples(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|c| u64::from(c.samples)).sum()
}

fn announced(chunks: &[NewChunk<'_>]) -> u64 {
    chunks.iter().map(|c| u64::from(announced_samples(c.encoding, c.data).unwrap_or(0))).sum()
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
