//! The series of several blocks in one order, with the places of their chunks: labels are numbers in the new block's table of symbols.

use super::Failure;
use super::symbols::Numbers;
use crate::block::Block;
use crate::error::{Error, Result as FileResult};
use crate::index::{ChunkMeta, Postings, Series};
use crate::series::{Heap, OutOfOrder};
use model::Labels;

/// Labels as pairs of numbers, by the names.
pub(super) type Key = Vec<(u32, u32)>;

/// A series of one block.
#[derive(Default)]
pub(super) struct Part {
    /// The block's number.
    pub(super) stream: usize,
    /// Its labels.
    pub(super) key: Key,
    /// The same as the block's index tells them.
    pub(super) symbols: Vec<(u32, u32)>,
    /// Its reference there.
    reference: u32,
    /// Its chunks.
    pub(super) chunks: Vec<ChunkMeta>,
}

struct Stream<'a> {
    block: &'a Block,
    numbers: &'a Numbers,
    all: Postings<'a>,
    next: usize,
    entry: Series,
    /// The labels of the series before.
    last: Option<Key>,
}

impl Stream<'_> {
    /// Reads the next series into `part`; false at the end.
    fn read(&mut self, part: &mut Part) -> FileResult<bool> {
        let Some(reference) = self.all.get(self.next) else { return Ok(false) };
        self.next += 1;
        let index = self.block.index();
        index.series(reference, &mut self.entry)?;
        part.reference = reference;
        part.key.clear();
        let number = |of: u32| {
            let at = index.series_offset(reference);
            let damaged = || Error::corrupt(index.file(), "series", at, format!("there is no symbol {of}"));
            self.numbers.get(of).ok_or_else(damaged)
        };
        for (name, value) in &self.entry.symbols {
            part.key.push((number(*name)?, number(*value)?));
        }
        let empty = self.numbers.empty;
        if empty.is_some() && part.key.iter().any(|(_, v)| Some(*v) == empty) || !ascending(&part.key) {
            // Labels out of order or without a value are put right; worse than that is an error.
            self.labels(&self.entry, reference)?;
            part.key.retain(|(_, v)| Some(*v) != empty);
            part.key.sort_unstable();
        }
        std::mem::swap(&mut part.chunks, &mut self.entry.chunks);
        std::mem::swap(&mut part.symbols, &mut self.entry.symbols);
        Ok(true)
    }

    fn labels(&self, entry: &Series, reference: u32) -> FileResult<Labels> {
        let index = self.block.index();
        entry.labels(index.file(), index.series_offset(reference), &mut index.symbols().cached())
    }
}

fn ascending(key: &[(u32, u32)]) -> bool {
    key.is_sorted_by(|a, b| a.0 < b.0)
}

type Before = fn(&Part, &Part) -> bool;

/// Gives series after series, each with its parts of all blocks that have it.
pub(super) struct Walk<'a> {
    streams: Vec<Stream<'a>>,
    heap: Heap<Part, Before>,
    /// Streams whose next series is not known yet, in the order of asking, with memory to read it into.
    hungry: Vec<Part>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(blocks: &'a [Block], numbers: &'a [Numbers]) -> Result<Self, Failure> {
        let mut streams = Vec::with_capacity(blocks.len());
        for (block, numbers) in blocks.iter().zip(numbers) {
            let all = block.index().all().map_err(|error| Failure::Block { block: block.meta().id, error })?;
            streams.push(Stream { block, numbers, all, next: 0, entry: Series::default(), last: None });
        }
        let hungry = (0..streams.len()).map(|stream| Part { stream, ..Part::default() }).collect();
        Ok(Self { streams, heap: Heap::new(|a, b| a.key < b.key), hungry })
    }

    /// The parts of the next series, of the blocks in the order in which Prometheus has them; those of the series before are taken
    /// back. False at the end.
    pub(super) fn next(&mut self, parts: &mut Vec<Part>) -> Result<bool, Failure> {
        let first = std::mem::take(&mut self.hungry);
        for mut part in first.into_iter().chain(parts.drain(..)) {
            let Some(stream) = self.streams.get_mut(part.stream) else { continue };
            let block = stream.block.meta().id;
            if stream.next > 0 {
                std::mem::swap(stream.last.get_or_insert_default(), &mut part.key);
            }
            if !stream.read(&mut part).map_err(|error| Failure::Block { block, error })? {
                continue;
            }
            if stream.last.as_ref().is_some_and(|last| *last >= part.key) {
                let failed = |error| Failure::Block { block, error };
                let labels = self.labels(&part).map_err(failed)?;
                let before = self.labels_before(&part).map_err(failed)?;
                return Err(Failure::Order { block, error: OutOfOrder { stream: part.stream, labels, before } });
            }
            self.heap.push(part);
        }
        let Some(first) = self.heap.pop() else { return Ok(false) };
        parts.push(first);
        while let (Some(first), Some(head)) = (parts.first(), self.heap.peek())
            && head.key == first.key
            && let Some(part) = self.heap.pop()
        {
            parts.push(part);
        }
        Ok(true)
    }

    /// Series of all blocks together, as their lists of all tell.
    pub(super) fn series(&self) -> u64 {
        self.streams.iter().map(|stream| stream.all.len() as u64).sum()
    }

    /// The labels of a series in words.
    pub(super) fn labels(&self, part: &Part) -> FileResult<Labels> {
        let Some(stream) = self.streams.get(part.stream) else { return Ok(Labels::default()) };
        let entry = Series { symbols: part.symbols.clone(), chunks: Vec::new() };
        stream.labels(&entry, part.reference)
    }

    /// Those of the series that its block has before it.
    fn labels_before(&self, part: &Part) -> FileResult<Labels> {
        let Some(stream) = self.streams.get(part.stream) else { return Ok(Labels::default()) };
        let Some(reference) = stream.next.checked_sub(2).and_then(|i| stream.all.get(i)) else {
            return Ok(Labels::default());
        };
        let mut entry = Series::default();
        stream.block.index().series(reference, &mut entry)?;
        stream.labels(&entry, reference)
    }
}
