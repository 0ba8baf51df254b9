//! Downsampling a block.

use super::{Error, series};
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

/// Downsamples `block` to the resolutions of `metas` (made by [`crate::plan::downsampled`], ascending) in one pass, into new
/// blocks in the folder `parent`. Series of which nothing is left are left out. Holds one series at a time.
///
/// # Errors
/// See [`Failure`]; `*.tmp-for-creation` may be left then.
pub fn block(disk: &dyn Disk, block: &Block, parent: &Path, metas: Vec<BlockMeta>) -> Result<Vec<Written>, Failure> {
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
    for one in Blocks::all(block)? {
        let one = one?;
        let made =
            series(&one.chunks, from, &to).map_err(|error| Failure::Series { series: one.labels.clone(), error })?;
        for (writer, chunks) in writers.iter_mut().zip(made).filter(|(_, chunks)| !chunks.is_empty()) {
            let new: Vec<NewChunk<'_>> = chunks.iter().map(new_chunk).collect();
            writer.add_series(&one.labels, &new)?;
        }
    }
    let finish = |w: Writer<'_>| Ok(complete(disk, w.finish()?)?);
    writers.into_iter().map(finish).collect()
}
