//! Chunks of one series from several streams, made into one run: Prometheus's rules (0.314, `storage/merge.go`).

use super::heap::Heap;
use super::penalty::Folded;
use crate::chunk::{Chunk, ChunkError, Columns, EncodeError, Encoding, Exact, ExactIter, Recoder, exact, floats};
use std::iter::Peekable;

/// Chunks that overlap and can't be joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// One can't be read.
    #[error("the chunk of {min_t} to {max_t}: {error}")]
    Read {
        /// Time of its first sample as its index tells it, in ms.
        min_t: i64,
        /// Time of its last sample.
        max_t: i64,
        /// Why.
        error: ChunkError,
    },
    /// A sample in it can't be written.
    #[error(transparent)]
    Write(#[from] EncodeError),
}

/// What becomes of the samples of chunks that overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dedup {
    /// All of them, each time once: nothing is lost.
    #[default]
    Merge,
    /// Thanos's `penalty`: one replica at a time, see [`super::Turns`]. Samples of the others are dropped, and holes may be left.
    Penalty,
}

/// The rest of a part, with the times of its next chunk.
type Part = ((i64, i64), Peekable<std::vec::IntoIter<Chunk>>);
type PartHeap = Heap<Part, fn(&Part, &Part) -> bool>;

/// Makes one run of chunks. A chunk that overlaps no other is passed on as it is; of equal ones the first. Those that overlap are
/// read, and their samples written again: in the order of their times, of several with the same time one, in chunks of at most 120
/// samples; `xor2` says how floats without start times are written then (see [`Recoder::new`]).
///
/// Each part is in the order of its times. A single part is to be taken as it is, without this function.
///
/// # Errors
/// When chunks that overlap can't be read or written.
pub fn join(parts: Vec<Vec<Chunk>>, xor2: bool) -> Result<Vec<Chunk>, JoinError> {
    join_by(parts, xor2, Dedup::Merge)
}

/// As [`join`]; `dedup` says what becomes of the samples of chunks that overlap. With [`Dedup::Penalty`] the chunks are those that
/// Thanos's compactor makes, but for one thing: where chunks of floats and of histograms overlap, Thanos drops those that are
/// not of the first one's kind, and here all take part.
///
/// # Errors
/// As [`join`].
pub fn join_by(parts: Vec<Vec<Chunk>>, xor2: bool, dedup: Dedup) -> Result<Vec<Chunk>, JoinError> {
    let mut heap: PartHeap = Heap::new(|a, b| a.0 < b.0);
    let mut out = Vec::new();
    for part in parts {
        push(&mut heap, part.into_iter().peekable());
    }
    while let Some(first) = pop(&mut heap) {
        let (mut max_t, mut same, mut others) = (first.max_t, None::<Chunk>, Vec::new());
        while heap.peek().is_some_and(|((min_t, _), _)| *min_t <= max_t)
            && let Some(next) = pop(&mut heap)
        {
            // Compared with the last one only, which in the order of times is where its like would be.
            let before = same.as_ref().unwrap_or(&first);
            if (next.min_t, next.max_t, &next.data) != (before.min_t, before.max_t, &before.data) {
                max_t = max_t.max(next.max_t);
                same = Some(next.clone());
                others.push(next);
            }
        }
        if others.is_empty() {
            out.push(first);
        } else {
            let rewritten = match dedup {
                Dedup::Merge => {
                    // The first comes last: which of two samples with the same time is taken depends on it.
                    others.push(first);
                    rewrite(&others, xor2)?
                }
                Dedup::Penalty => {
                    others.insert(0, first);
                    penalty(&others, xor2)?
                }
            };
            let mut rewritten = rewritten.into_iter().peekable();
            out.extend(rewritten.next());
            // The further ones queue up with the rest, which moves those in the heap as it does in Prometheus.
            push(&mut heap, rewritten);
        }
    }
    Ok(out)
}

fn push(heap: &mut PartHeap, mut part: Peekable<std::vec::IntoIter<Chunk>>) {
    if let Some(times) = part.peek().map(|c| (c.min_t, c.max_t)) {
        heap.push((times, part));
    }
}

fn pop(heap: &mut PartHeap) -> Option<Chunk> {
    let (_, mut part) = heap.pop()?;
    let chunk = part.next();
    push(heap, part);
    chunk
}

/// A chunk while its samples are merged with others: the sample that it stands on, and those behind it.
struct Cursor<'a> {
    chunk: &'a Chunk,
    at: Option<Exact>,
    rest: ExactIter,
}

impl<'a> Cursor<'a> {
    fn open(chunk: &'a Chunk) -> Result<Self, JoinError> {
        let rest = exact(chunk.encoding, chunk.data.clone()).map_err(|e| unreadable(chunk, e))?;
        Ok(Self { chunk, at: None, rest })
    }

    /// Steps on; the time that it stands on then.
    fn step(&mut self) -> Result<Option<i64>, JoinError> {
        self.at = self.rest.next().transpose().map_err(|e| unreadable(self.chunk, e))?;
        Ok(self.at.as_ref().map(|s| s.t))
    }

    fn t(&self) -> i64 {
        self.at.as_ref().map_or(i64::MAX, |s| s.t)
    }
}

fn unreadable(chunk: &Chunk, error: ChunkError) -> JoinError {
    JoinError::Read { min_t: chunk.min_t, max_t: chunk.max_t, error }
}

/// Merges the samples of chunks and cuts them into new ones.
fn rewrite(chunks: &[Chunk], xor2: bool) -> Result<Vec<Chunk>, JoinError> {
    let mut recoder = Recoder::new(xor2);
    let mut heap = Heap::new(|a: &Cursor<'_>, b: &Cursor<'_>| a.t() < b.t());
    let mut cursors = chunks.iter().map(Cursor::open);
    // The first one is stepped on below, the others stand on their first samples.
    let Some(mut current) = cursors.next().transpose()? else { return Ok(Vec::new()) };
    for cursor in cursors {
        let mut cursor = cursor?;
        if cursor.step()?.is_some() {
            heap.push(cursor);
        }
    }
    let mut last = i64::MIN;
    'samples: loop {
        loop {
            match current.step()? {
                None if heap.is_empty() => break 'samples,
                None => {}
                // Of samples with the same time the first one counts.
                Some(t) if t == last => continue,
                Some(t) if heap.peek().is_none_or(|top| t < top.t()) => break,
                Some(_) => heap.push(current),
            }
            let Some(top) = heap.pop() else { break 'samples };
            current = top;
            if current.t() != last {
                break;
            }
        }
        // What samples say of resets before them holds in their chunk only; but none that was read says that there was one, and
        // all else the encoders find out by themselves.
        let Some(sample) = current.at.take() else { break };
        last = sample.t;
        recoder.push(&sample)?;
    }
    Ok(recoder.finish())
}

/// One replica at a time, of chunks in the order of their times.
fn penalty(chunks: &[Chunk], xor2: bool) -> Result<Vec<Chunk>, JoinError> {
    if chunks.iter().all(|c| c.encoding == Encoding::Xor) {
        return float_penalty(chunks, xor2);
    }
    let read = |chunk: &Chunk| -> Result<Vec<Exact>, JoinError> {
        let samples = exact(chunk.encoding, chunk.data.clone()).map_err(|e| unreadable(chunk, e))?;
        samples.collect::<Result<_, _>>().map_err(|e| unreadable(chunk, e))
    };
    let Some((first, others)) = chunks.split_first() else { return Ok(Vec::new()) };
    let mut all = Folded::new(read(first)?, |s| s.t);
    for chunk in others {
        all.fold(&read(chunk)?, |s| s.t);
    }
    let mut recoder = Recoder::new(xor2);
    all.samples().iter().try_for_each(|sample| recoder.push(sample))?;
    Ok(recoder.finish())
}

/// The same for floats, which most samples are: without a box around each.
fn float_penalty(chunks: &[Chunk], xor2: bool) -> Result<Vec<Chunk>, JoinError> {
    let mut columns = Columns::default();
    let mut read = |chunk: &Chunk| -> Result<Vec<(i64, f64)>, JoinError> {
        columns.times.clear();
        columns.values.clear();
        floats(chunk.encoding, &chunk.data, &mut columns).map_err(|e| unreadable(chunk, e))?;
        Ok(columns.times.iter().copied().zip(columns.values.iter().copied()).collect())
    };
    let Some((first, others)) = chunks.split_first() else { return Ok(Vec::new()) };
    let mut all = Folded::new(read(first)?, |s| s.0);
    for chunk in others {
        all.fold(&read(chunk)?, |s| s.0);
    }
    let mut recoder = Recoder::new(xor2);
    all.samples().iter().try_for_each(|(t, v)| recoder.push_float(*t, *v))?;
    Ok(recoder.finish())
}
