//! Reading a chunk only to see whether it can be read.

use super::aggregate::Container;
use super::{ChunkError, Encoding, ErrorKind, Exact, Section, Value, exact};
use bytes::Bytes;

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Samples; of an aggregate chunk those of its count.
    pub samples: u64,
    /// Time of the first sample, milliseconds since the epoch; above `max_t` if there is none.
    pub min_t: i64,
    /// Time of the last sample.
    pub max_t: i64,
    /// Samples that are not later than their predecessor. In an aggregate chunk those of its count: its counter repeats a time by
    /// design.
    pub out_of_order: u64,
    /// Staleness markers.
    pub stale: u64,
}

/// Reads all samples of a chunk; of an aggregate chunk all chunks in it.
///
/// # Errors
/// Why it can't be read.
pub fn check(encoding: Encoding, data: &Bytes) -> Result<Stats, ChunkError> {
    if encoding != Encoding::Aggregate {
        return check_one(encoding, data);
    }
    let (mut stats, container) = (Stats::NONE, Container::parse(data)?);
    for (aggregate, encoding, data) in container.iter() {
        if encoding == Encoding::Aggregate {
            let section = Section::Aggregate(aggregate.name());
            return Err(ChunkError { encoding, section, bit: 0, length: data.len(), kind: ErrorKind::Container });
        }
        let one = check_one(encoding, data)?;
        if aggregate == super::aggregate::Aggregate::Count {
            stats = one;
        } else {
            stats.min_t = stats.min_t.min(one.min_t);
            stats.max_t = stats.max_t.max(one.max_t);
        }
    }
    Ok(stats)
}

impl Stats {
    const NONE: Self = Self { samples: 0, min_t: i64::MAX, max_t: i64::MIN, out_of_order: 0, stale: 0 };
}

fn check_one(encoding: Encoding, data: &Bytes) -> Result<Stats, ChunkError> {
    let mut stats = Stats::NONE;
    for sample in exact(encoding, data.clone())? {
        let Exact { t, v, .. } = sample?;
        stats.out_of_order += u64::from(stats.samples > 0 && t <= stats.max_t);
        stats.samples += 1;
        stats.min_t = stats.min_t.min(t);
        stats.max_t = stats.max_t.max(t);
        stats.stale += u64::from(match v {
            Value::Float(v) => model::sample::is_stale(v),
            Value::Histogram(h) => model::sample::is_stale(h.sum),
            Value::FloatHistogram(h) => model::sample::is_stale(h.sum),
        });
    }
    Ok(stats)
}
