//! Downsampling: series of raw samples, or of aggregates, to coarser aggregates, as Thanos makes them (0.42.4,
//! `pkg/compact/downsample`), in its containers ([`crate::chunk::aggregate`]).
//!
//! Per window of the resolution: count, sum, least and greatest of the samples, and the running total of the counter with resets
//! taken out; of native histograms count, sum and counter. [`series`] does it for one series, [`block`] for a whole block, to
//! several resolutions in one pass: what is made of 5m aggregates is the same, whether they were just made or read again. Of one
//! series at most the floats are held, of one batch (about 140 windows) of histograms what is known of each.
//!
//! Where this differs from Thanos, Thanos is wrong:
//! * A series may change between exponential and custom buckets, which ends a batch (Thanos's compactor ends).
//! * The counter of histograms goes on from batch to batch. Thanos begins anew, so that behind a reset the series falls.
//! * A reset is looked for between histograms as they were stored. Thanos compares with one that was made coarser before, and
//!   takes each finer one for a reset.
//! * Buckets that are empty are not stored, and a chunk ends where a layout changes; Thanos then loses the part before.
//! * The least of infinities is infinite; an aggregate that is absent everywhere does not move the chunk's begin to 1970.

mod block;
mod floats;
mod histograms;
mod resets;
mod windows;

pub use block::{Failure, block};
pub use resets::Resets;

use crate::chunk::aggregate::{Aggregate, Container};
use crate::chunk::{Chunk, ChunkError, Columns, EncodeError, Encoding, decode, floats as read_floats};
use model::histogram::{FloatHistogram, ResetHint};
use model::sample::{Value, is_stale};
use std::sync::Arc;

/// A series that can't be downsampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A chunk begins before the one before it ends.
    #[error("the chunk of {min_t} to {max_t} overlaps the one before it; compact the block first")]
    Overlap {
        /// Time of its first sample as its index tells it, in ms.
        min_t: i64,
        /// Time of its last sample.
        max_t: i64,
    },
    /// A chunk can't be read.
    #[error("the chunk of {min_t} to {max_t}: {error}")]
    Read {
        /// Time of its first sample as its index tells it, in ms.
        min_t: i64,
        /// Time of its last sample.
        max_t: i64,
        /// Why.
        error: ChunkError,
    },
    /// A sample can't be written.
    #[error(transparent)]
    Write(#[from] EncodeError),
}

fn unreadable(chunk: &Chunk) -> impl Fn(ChunkError) -> Error {
    let (min_t, max_t) = (chunk.min_t, chunk.max_t);
    move |error| Error::Read { min_t, max_t, error }
}

/// Downsamples one series. `from` is the resolution of its chunks, `to` those that are wanted, ascending, in ms: 300000 and
/// 3600000; each is made of the one before it. The chunks are in the order of their times. Gives one run of aggregate chunks for
/// each in `to`; an empty one where nothing is left.
///
/// # Errors
/// When chunks overlap, or one can't be read or written.
pub fn series(chunks: &[Chunk], from: i64, to: &[i64]) -> Result<Vec<Vec<Chunk>>, Error> {
    for (a, b) in chunks.iter().zip(chunks.iter().skip(1)) {
        if a.max_t >= b.min_t {
            return Err(Error::Overlap { min_t: b.min_t, max_t: b.max_t });
        }
    }
    let mut out: Vec<Vec<Chunk>> = Vec::with_capacity(to.len());
    let mut before = from;
    for resolution in to.iter().copied() {
        let source = out.last().map_or(chunks, Vec::as_slice);
        let made = if before == 0 { raw(source, resolution)? } else { coarser(source, before, resolution)? };
        out.push(made);
        before = resolution;
    }
    Ok(out)
}

fn is_histogram(encoding: Encoding) -> bool {
    !encoding.is_float()
}

/// Raw samples, by runs of chunks of floats and of histograms.
fn raw(chunks: &[Chunk], resolution: i64) -> Result<Vec<Chunk>, Error> {
    let mut out = Vec::new();
    for run in chunks.chunk_by(|a, b| is_histogram(a.encoding) == is_histogram(b.encoding)) {
        if run.first().is_some_and(|c| is_histogram(c.encoding)) {
            histograms::raw(run, resolution, &mut out)?;
        } else {
            let mut samples = Columns::default();
            for chunk in run {
                expand(chunk.encoding, chunk, &chunk.data, &mut samples)?;
            }
            floats::raw(&samples, resolution, &mut out)?;
        }
    }
    Ok(out)
}

/// A container and its chunk's times.
struct Part {
    chunk: Chunk,
    container: Container,
}

impl Part {
    fn is_histogram(&self) -> bool {
        self.container.get(Aggregate::Counter).is_some_and(|(encoding, _)| is_histogram(*encoding))
    }
}

/// Aggregates, by runs of those of floats and of histograms.
fn coarser(chunks: &[Chunk], from: i64, to: i64) -> Result<Vec<Chunk>, Error> {
    let mut parts: Vec<Part> = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let mut put = |chunk: Chunk| -> Result<(), Error> {
            let container = Container::parse(&chunk.data).map_err(unreadable(&chunk))?;
            parts.push(Part { chunk, container });
            Ok(())
        };
        if chunk.encoding == Encoding::Aggregate {
            put(chunk.clone())?;
        } else if chunk.samples > 0 {
            // Old versions of Thanos left such behind; empty ones, too.
            raw(std::slice::from_ref(chunk), from)?.into_iter().try_for_each(put)?;
        }
    }
    let mut out = Vec::new();
    for run in parts.chunk_by(|a, b| a.is_histogram() == b.is_histogram()) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let samples = run.iter().map(|p| usize::from(p.chunk.samples)).sum();
        let wanted = windows::chunks(first.chunk.min_t, last.chunk.max_t, from, to, samples);
        // Whole chunks, since each tells the first and the last value of its counter.
        let mut counter = None;
        for batch in run.chunks((run.len() / wanted).max(1)) {
            if first.is_histogram() {
                histograms::coarser(batch, to, &mut counter, &mut out)?;
            } else {
                floats::coarser(batch, to, &mut out)?;
            }
        }
    }
    Ok(out)
}

/// Appends the samples of a chunk of floats, without markers of staleness and without those that go back in time or lie before
/// 1970. `of` is the chunk that an error names.
fn expand(encoding: Encoding, of: &Chunk, data: &[u8], to: &mut Columns) -> Result<(), Error> {
    let begin = to.times.len();
    read_floats(encoding, data, to).map_err(unreadable(of))?;
    let (mut kept, mut last) = (begin, 0);
    for i in begin..to.times.len() {
        let (Some(t), Some(v)) = (to.times.get(i).copied(), to.values.get(i).copied()) else { break };
        if is_stale(v) || t < last {
            continue;
        }
        last = t;
        if let (Some(to_t), Some(to_v)) = (to.times.get_mut(kept), to.values.get_mut(kept)) {
            (*to_t, *to_v) = (t, v);
        }
        kept += 1;
    }
    to.times.truncate(kept);
    to.values.truncate(kept);
    Ok(())
}

/// Hands the histograms of a chunk to `take`, without markers of staleness and without those that go back in time or lie before
/// 1970. `of` is the chunk that an error names.
fn each_histogram(
    encoding: Encoding,
    of: &Chunk,
    data: &bytes::Bytes,
    take: &mut dyn FnMut(i64, Arc<FloatHistogram>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut last = 0;
    for sample in decode(encoding, data.clone()).map_err(unreadable(of))? {
        let sample = sample.map_err(unreadable(of))?;
        if let Value::Histogram(h) = sample.v
            && !is_stale(h.sum)
            && sample.t >= last
        {
            last = sample.t;
            take(sample.t, h)?;
        }
    }
    Ok(())
}

fn is_gauge(h: &FloatHistogram) -> bool {
    h.reset_hint == ResetHint::Gauge
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod thanos;
