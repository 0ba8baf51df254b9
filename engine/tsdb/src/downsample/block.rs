//! Downsampling a block.

use super::{Error, counted, series};
use crate::block::{Block, Writer, Written};
use crate::compact::{complete, new_chunk};
use crate::disk::Disk;
use crate::error::Error as FileError;
use crate::meta::BlockMeta;
use crate::segment::NewChunk;
use crate::series::Blocks;
use model::Labels;
use std::path::Path;

/// A block that can't be downsampled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// A file of it, or of the new one.
    #[error(transparent)]
    File(#[from] FileError),
    /// A series of it.
    #[error("series {series}: {error}")]
    Series {
        /// Its labels.
        series: Labels,
        /// What is wrong.
        error: Error,
    },
    /// What is asked makes no sense: no target, or one that is no coarser than what is there.
    #[error("a block of resolution {from} ms can't be downsampled to {to:?} ms; ask for ascending coarser ones")]
    Targets {
        /// The block's resolution in ms.
        from: i64,
        /// What was asked for.
        to: Vec<i64>,
    },
}

/// A coarser copy of a block.
#[derive(Debug, Clone)]
pub struct Coarser {
    /// The new block.
    pub written: Written,
    /// Samples of its source that count, see [`super::Made::counted`].
    pub samples_in: f64,
    /// Samples that its aggregates stand for, read from its chunks: as many, or some were lost.
    pub samples_out: f64,
}

/// Bytes of the block that are read before its pages are given back.
const HELD: u64 = 4 << 20;

/// Downsamples `block` to the resolutions of `metas` (made by [`crate::plan::downsampled`], ascending) in one pass, into new
/// blocks in the folder `parent`. Series of which nothing is left are left out. Holds one series at a time.
///
/// # Errors
/// See [`Failure`]; `*.tmp-for-creation` may be left then.
pub fn block(disk: &dyn Disk, block: &Block, parent: &Path, metas: Vec<BlockMeta>) -> Result<Vec<Coarser>, Failure> {
    let from = block.meta().resolution();
    let to: Vec<i64> = metas.iter().map(BlockMeta::resolution).collect();
    let ascending = std::iter::once(&from).chain(&to).zip(&to).all(|(a, b)| a < b);
    if to.is_empty() || !ascending {
        return Err(Failure::Targets { from, to });
    }
    let mut writers = metas.into_iter().map(|m| Writer::create(disk, parent, m)).collect::<Result<Vec<_>, _>>()?;
    let symbols = block.index().symbols();
    for (reference, _) in symbols.iter() {
        let symbol = symbols.lookup(reference)?;
        writers.iter_mut().try_for_each(|w| w.add_symbol(symbol))?;
    }
    let mut counts = vec![(0.0, 0.0); to.len()];
    let mut read = 0;
    for one in Blocks::all(block)? {
        let one = one?;
        let failed = |error| Failure::Series { series: one.labels.clone(), error };
        let made = series(&one.chunks, from, &to).map_err(failed)?;
        for ((writer, made), (samples_in, samples_out)) in writers.iter_mut().zip(&made).zip(&mut counts) {
            *samples_in += made.counted;
            *samples_out += counted(&made.chunks).map_err(failed)?;
            if made.chunks.is_empty() {
                continue;
            }
            let new: Vec<NewChunk<'_>> = made.chunks.iter().map(new_chunk).collect();
            writer.add_series(&one.labels, &new)?;
        }
        read += one.chunks.iter().map(|c| c.data.len() as u64).sum::<u64>();
        if read > HELD {
            block.release();
            read = 0;
        }
    }
    let finish = |(w, (samples_in, samples_out)): (Writer<'_>, _)| {
        Ok(Coarser { written: complete(disk, w.finish()?)?, samples_in, samples_out })
    };
    writers.into_iter().zip(counts).map(finish).collect()
}
