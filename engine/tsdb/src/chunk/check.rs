//! Reading a chunk only to see whether it can be read.

use super::aggregate::Container;
use super::{ChunkError, Encoding, ErrorKind, Exact, Section, Value, XorIter, exact};
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

    /// One more sample; of a histogram its sum, which tells whether it is a marker.
    fn add(&mut self, t: i64, v: f64) {
        self.out_of_order += u64::from(self.samples > 0 && t <= self.max_t);
        self.samples += 1;
        self.min_t = self.min_t.min(t);
        self.max_t = self.max_t.max(t);
        self.stale += u64::from(model::sample::is_stale(v));
    }
}

fn check_one(encoding: Encoding, data: &Bytes) -> Result<Stats, ChunkError> {
    let mut stats = Stats::NONE;
    if encoding == Encoding::Xor {
        // Most chunks are: without a box around each sample.
        for sample in XorIter::new(data.clone())? {
            let (t, v) = sample?;
            stats.add(t, v);
        }
        return Ok(stats);
    }
    for sample in exact(encoding, data.clone())? {
        let Exact { t, v, .. } = sample?;
        let v = match v {
            Value::Float(v) => v,
            Value::Histogram(h) => h.sum,
            Value::FloatHistogram(h) => h.sum,
        };
        stats.add(t, v);
    }
    Ok(stats)
}
