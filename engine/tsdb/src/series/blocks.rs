//! A block as a stream.

use super::Series;
use crate::block::{Block, Scan};
use crate::chunk::{Chunk, announced_samples};
use crate::error::Result;
use crate::index::ChunkMeta;

/// The series of a block. A series that can't be read is an error of that series; those behind it follow.
pub struct Blocks<'a> {
    block: &'a Block,
    scan: Scan<'a>,
}

impl<'a> Blocks<'a> {
    /// All series of a block.
    ///
    /// # Errors
    /// When the list of all series is damaged.
    pub fn all(block: &'a Block) -> Result<Self> {
        Ok(Self { block, scan: block.scan()? })
    }

    /// These series of a block, by ascending reference: what [`crate::index::Reader::select`] found.
    pub fn selected(block: &'a Block, references: &'a [u32]) -> Self {
        Self { block, scan: block.scan_selected(references) }
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Series>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.block;
        Some(self.scan.next()?.and_then(|series| {
            let chunks = series.chunks.iter().map(|meta| chunk(block, meta)).collect::<Result<_>>()?;
            Ok(Series { labels: series.labels, chunks })
        }))
    }
}

fn chunk(block: &Block, meta: &ChunkMeta) -> Result<Chunk> {
    let (encoding, data) = block.chunk_bytes(meta)?;
    let samples = announced_samples(encoding, &data).unwrap_or(0);
    Ok(Chunk { encoding, min_t: meta.min_time, max_t: meta.max_time, samples, data })
}
