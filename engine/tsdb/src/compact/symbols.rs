//! The symbols of several blocks as one table, and what number in it each symbol of a block has. Both are sorted, so numbers are in
//! the order of the texts: labels need not be read to be compared, nor looked up to be written.

use super::Failure;
use crate::block::{Block, Writer};
use crate::disk::{Disk, Passing, TempFile};
use crate::error::Error;
use crate::index::Version;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;

/// Bytes that are read before pages are given back.
const HELD: u64 = 4 << 20;

/// New numbers of the symbols of a block. They lie in a file: memory does not grow with the number of symbols.
pub(super) struct Numbers {
    /// Of version 1 each with its old reference before it: those are places in the file.
    version: Version,
    bytes: Bytes,
    file: Passing,
    /// The number of the empty symbol, if there is one.
    pub(super) empty: Option<u32>,
}

impl Numbers {
    /// The new number of a symbol that a series of the block names.
    pub(super) fn get(&self, reference: u32) -> Option<u32> {
        let number = |b: &[u8; 4]| u32::from_le_bytes(*b);
        match self.version {
            Version::V2 => self.bytes.as_chunks::<4>().0.get(reference as usize).map(number),
            Version::V1 => {
                let pairs = self.bytes.as_chunks::<8>().0;
                let of = |pair: &[u8; 8]| pair.first_chunk::<4>().map(number);
                let found = pairs.binary_search_by_key(&Some(reference), of).ok()?;
                pairs.get(found)?.last_chunk::<4>().map(number)
            }
        }
    }

    pub(super) fn release(&self) {
        self.file.release();
    }
}

/// Adds all symbols of all blocks to the new one, sorted, each once. Files of numbers lie in the folder `dir` as long as they are
/// open.
pub(super) fn merge(
    disk: &dyn Disk,
    blocks: &[Block],
    dir: &Path,
    writer: &mut Writer<'_>,
) -> Result<Vec<Numbers>, Failure> {
    let mut streams: Vec<_> = blocks.iter().map(|b| b.index().symbols().iter().peekable()).collect();
    let mut files = (0..blocks.len())
        .map(|i| TempFile::create(disk, &dir.join(format!("numbers-{i}"))))
        .collect::<Result<Vec<_>, _>>()?;
    // The symbols at the heads of the streams; a set, since there are few blocks and many symbols.
    let mut heads: BTreeSet<(&[u8], usize)> = BTreeSet::new();
    for (i, stream) in streams.iter_mut().enumerate() {
        heads.extend(stream.peek().map(|(_, symbol)| (*symbol, i)));
    }
    let (mut last, mut count, mut read): (Option<&[u8]>, u32, u64) = (None, 0, 0);
    let mut empty = None;
    while let Some((symbol, i)) = heads.pop_first() {
        let (Some(block), Some(stream), Some(file)) = (blocks.get(i), streams.get_mut(i), files.get_mut(i)) else {
            continue;
        };
        let damaged = |what: String| Failure::Block {
            block: block.meta().id,
            error: Error::corrupt(block.index().file(), "symbols", 0, what),
        };
        if last != Some(symbol) {
            if last.is_some_and(|last| last > symbol) {
                return Err(damaged(format!("the symbol {:?} is out of order", String::from_utf8_lossy(symbol))));
            }
            let text = std::str::from_utf8(symbol).map_err(|e| damaged(format!("a symbol is no UTF-8: {e}")))?;
            if text.is_empty() {
                empty = Some(count);
            }
            // Refuses more than 2^32.
            writer.add_symbol(text)?;
            (last, count) = (Some(symbol), count.wrapping_add(1));
        }
        if let Some((reference, _)) = stream.next() {
            if block.index().version() == Version::V1 {
                file.write(&reference.to_le_bytes())?;
            }
            file.write(&count.wrapping_sub(1).to_le_bytes())?;
        }
        heads.extend(stream.peek().map(|(_, symbol)| (*symbol, i)));
        read += symbol.len() as u64;
        if read > HELD {
            blocks.iter().for_each(Block::release);
            read = 0;
        }
    }
    blocks.iter().for_each(Block::release);
    let mut all = Vec::with_capacity(files.len());
    for (mut file, block) in files.into_iter().zip(blocks) {
        file.flush()?;
        let open = disk.open_passing(file.path())?;
        all.push(Numbers { version: block.index().version(), bytes: open.bytes(), file: open, empty });
        // The file loses its name with this, and stays open.
        drop(file);
    }
    Ok(all)
}
