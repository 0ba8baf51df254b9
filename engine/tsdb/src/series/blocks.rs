//! A block as a stream.

use super::Series;
use crate::block::{Block, Scan};
use crate::chunk::{Chunk, announced_samples};
use crate::error::{Error, Result};
use crate::index::ChunkMeta;
use model::Labels;

/// The series of a block as they were written: tombstones are not applied. A series that can't be read is an error of that
/// series, one chunk that can't be read too, unless [`Blocks::without_damaged`] is asked for; those behind it follow.
pub struct Blocks<'a> {
    block: &'a Block,
    scan: Scan<'a>,
    damaged: Option<Box<dyn FnMut(DamagedChunk) + 'a>>,
}

/// A chunk that can't be read.
#[derive(Debug, Clone)]
pub struct DamagedChunk {
    /// The series that it is of.
    pub labels: Labels,
    /// Its times and its place, as the index tells them.
    pub meta: ChunkMeta,
    /// What is wrong, with the segment and the byte.
    pub error: Error,
}

impl<'a> Blocks<'a> {
    /// All series of a block.
    ///
    /// # Errors
    /// When the list of all series is damaged.
    pub fn all(block: &'a Block) -> Result<Self> {
        Ok(Self { block, scan: block.scan()?, damaged: None })
    }

    /// These series of a block, by ascending reference: what [`crate::index::Reader::select`] found.
    pub fn selected(block: &'a Block, references: &'a [u32]) -> Self {
        Self { block, scan: block.scan_selected(references), damaged: None }
    }

    /// One damaged chunk costs one chunk: it is told to `damaged`, and the rest of its series is given. A series of which no
    /// chunk can be read is left out.
    #[must_use]
    pub fn without_damaged(self, damaged: impl FnMut(DamagedChunk) + 'a) -> Self {
        Self { damaged: Some(Box::new(damaged)), ..self }
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Series>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let series = match self.scan.next()? {
                Ok(series) => series,
                Err(e) => return Some(Err(e)),
            };
            let mut chunks = Vec::with_capacity(series.chunks.len());
            for meta in series.chunks {
                match (chunk(self.block, meta), &mut self.damaged) {
                    (Ok(chunk), _) => chunks.push(chunk),
                    (Err(error), Some(damaged)) => {
                        damaged(DamagedChunk { labels: series.labels.clone(), meta: *meta, error });
                    }
                    (Err(error), None) => return Some(Err(error)),
                }
            }
            if chunks.is_empty() && !series.chunks.is_empty() {
                continue;
            }
            return Some(Ok(Series { labels: series.labels, chunks }));
        }
    }
}

fn chunk(block: &Block, meta: &ChunkMeta) -> Result<Chunk> {
    let (encoding, data) = block.chunk_bytes(meta)?;
    let samples = announced_samples(encoding, &data).unwrap_or(0);
    Ok(Chunk { encoding, min_t: meta.min_time, max_t: meta.max_time, samples, data })
}
