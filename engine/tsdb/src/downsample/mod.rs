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

pub use block::{Coarser, Failure, block};
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

/// What was made of a series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    /// Aggregate chunks; none where nothing is left.
    pub chunks: Vec<Chunk>,
    /// Samples of the source that count: all but markers of staleness, those that are no number (or histograms with such a sum), and
    /// those that go back in time. Exact up to 2^53; of aggregates what their counts say, which may be anything.
    pub counted: f64,
}

/// Downsamples one series. `from` is the resolution of its chunks, `to` those that are wanted, ascending, in ms: 300000 and
/// 3600000; each is made of the one before it. The chunks are in the order of their times. Gives what was made for each in `to`.
///
/// # Errors
/// When chunks overlap, or one can't be read or written.
pub fn series(chunks: &[Chunk], from: i64, to: &[i64]) -> Result<Vec<Made>, Error> {
    for (a, b) in chunks.iter().zip(chunks.iter().skip(1)) {
        if a.max_t >= b.min_t {
            return Err(Error::Overlap { min_t: b.min_t, max_t: b.max_t });
        }
    }
    let mut out: Vec<Made> = Vec::with_capacity(to.len());
    let mut before = from;
    for resolution in to.iter().copied() {
        let source = out.last().map_or(chunks, |made| made.chunks.as_slice());
        let mut made = Made::default();
        if before == 0 {
            raw(source, resolution, &mut made)?;
        } else {
            coarser(source, before, resolution, &mut made)?;
        }
        out.push(made);
        before = resolution;
    }
    Ok(out)
}

fn is_histogram(encoding: Encoding) -> bool {
    !encoding.is_float()
}

/// Raw samples, by runs of chunks of floats and of histograms.
fn raw(chunks: &[Chunk], resolution: i64, made: &mut Made) -> Result<(), Error> {
    for run in chunks.chunk_by(|a, b| is_histogram(a.encoding) == is_histogram(b.encoding)) {
        if run.first().is_some_and(|c| is_histogram(c.encoding)) {
            made.counted += histograms::raw(run, resolution, &mut made.chunks)?;
        } else {
            let mut samples = Columns::default();
            for chunk in run {
                expand(chunk.encoding, chunk, &chunk.data, &mut samples)?;
            }
            made.counted += samples.values.iter().filter(|v| !v.is_nan()).count() as f64;
            floats::raw(&samples, resolution, &mut made.chunks)?;
        }
    }
    Ok(())
}

/// Samples that aggregate chunks stand for: the sum of their counts.
///
/// # Errors
/// When one can't be read.
pub fn counted(chunks: &[Chunk]) -> Result<f64, Error> {
    let (mut counts, mut total) = (Columns::default(), 0.0);
    for chunk in chunks {
        let container = Container::parse(&chunk.data).map_err(unreadable(chunk))?;
        total += counts_of(&container, chunk, &mut counts)?;
    }
    Ok(total)
}

fn counts_of(container: &Container, chunk: &Chunk, counts: &mut Columns) -> Result<f64, Error> {
    counts.clear();
    if let Some((encoding, data)) = container.get(Aggregate::Count) {
        expand(*encoding, chunk, data, counts)?;
    }
    Ok(counts.values.iter().filter(|v| v.is_finite() && **v >= 0.0).sum())
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
fn coarser(chunks: &[Chunk], from: i64, to: i64, made: &mut Made) -> Result<(), Error> {
    let mut parts: Vec<Part> = Vec::with_capacity(chunks.len());
    let mut counts = Columns::default();
    for chunk in chunks {
        let mut put = |chunk: Chunk| -> Result<(), Error> {
            let container = Container::parse(&chunk.data).map_err(unreadable(&chunk))?;
            made.counted += counts_of(&container, &chunk, &mut counts)?;
            parts.push(Part { chunk, container });
            Ok(())
        };
        if chunk.encoding == Encoding::Aggregate {
            put(chunk.clone())?;
        } else if chunk.samples > 0 {
            // Old versions of Thanos left such behind; empty ones, too.
            let mut aggregated = Made::default();
            raw(std::slice::from_ref(chunk), from, &mut aggregated)?;
            aggregated.chunks.into_iter().try_for_each(put)?;
        }
    }
    let out = &mut made.chunks;
    for run in parts.chunk_by(|a, b| a.is_histogram() == b.is_histogram()) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let samples = run.iter().map(|p| usize::from(p.chunk.samples)).sum();
        let wanted = windows::chunks(first.chunk.min_t, last.chunk.max_t, from, to, samples);
        // Whole chunks, since each tells the first and the last value of its counter.
        let mut counter = None;
        for batch in run.chunks((run.len() / wanted).max(1)) {
            if first.is_histogram() {
                histograms::coarser(batch, to, &mut counter, out)?;
            } else {
                floats::coarser(batch, to, out)?;
            }
        }
    }
    Ok(())
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
