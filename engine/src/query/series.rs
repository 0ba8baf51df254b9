//! The stream's unit: one series with its still encoded chunks, as stores send it.

use bytes::Bytes;
use model::Labels;

/// A series in motion. Streams of these are sorted by labels; the same labels may follow each other.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The full label set, external labels included, replica labels removed if the request asked for that.
    pub labels: Labels,
    /// Chunks, ordered by time within one source; those of different sources may overlap.
    pub chunks: Vec<Chunk>,
}

impl Series {
    /// What a buffer is charged for this series, in bytes.
    pub fn cost(&self) -> usize {
        self.labels.packed_len() + size_of::<Self>() + self.chunks.iter().map(Chunk::cost).sum::<usize>()
    }

    /// The part of it that decoding has made; the rest are slices of the message.
    pub fn overhead(&self) -> usize {
        self.labels.packed_len() + size_of::<Self>() + self.chunks.len() * size_of::<Chunk>()
    }
}

/// A chunk's bytes as they came, never decoded on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// StoreAPI's number of the encoding: 0 XOR, 1 histogram, 2 float histogram.
    pub encoding: i32,
    /// The chunk, without its encoding byte.
    pub data: Bytes,
    /// xxhash64 of the data; 0 if the sender did not say.
    pub hash: u64,
}

/// The sub-streams of a downsampled chunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Aggregates {
    /// Number of samples per window.
    pub count: Option<Slot>,
    /// Sum per window.
    pub sum: Option<Slot>,
    /// Least value per window.
    pub min: Option<Slot>,
    /// Greatest value per window.
    pub max: Option<Slot>,
    /// Counter with resets applied.
    pub counter: Option<Slot>,
}

/// A stretch of a series.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Time of the first sample, milliseconds.
    pub min_time: i64,
    /// Time of the last sample, milliseconds.
    pub max_time: i64,
    /// The samples themselves.
    pub raw: Option<Slot>,
    /// Present only on downsampled data.
    pub aggregates: Option<Box<Aggregates>>,
    /// Index of the store that sent it, in the request's list of stores: tells replicas apart after their label is gone.
    pub source: u32,
}

impl Chunk {
    /// What lies in it.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let a = self.aggregates.as_deref();
        let aggregates = a.into_iter().flat_map(|a| [&a.count, &a.sum, &a.min, &a.max, &a.counter]);
        std::iter::once(&self.raw).chain(aggregates).flatten()
    }

    fn cost(&self) -> usize {
        let aggregates = if self.aggregates.is_some() { size_of::<Aggregates>() } else { 0 };
        size_of::<Self>() + aggregates + self.slots().map(|s| s.data.len()).sum::<usize>()
    }

    /// Equal keys mean equal content: what the merge drops duplicates by.
    fn key(&self) -> [u64; 6] {
        let h = |s: Option<&Slot>| match s {
            None => 0,
            Some(s) if s.hash != 0 => s.hash,
            Some(s) => xxhash_rust::xxh64::xxh64(&s.data, 0),
        };
        let a = self.aggregates.as_deref();
        [
            h(self.raw.as_ref()),
            h(a.and_then(|a| a.count.as_ref())),
            h(a.and_then(|a| a.sum.as_ref())),
            h(a.and_then(|a| a.min.as_ref())),
            h(a.and_then(|a| a.max.as_ref())),
            h(a.and_then(|a| a.counter.as_ref())),
        ]
    }

    /// True if there is something in it.
    pub fn has_data(&self) -> bool {
        self.raw.is_some() || self.aggregates.is_some()
    }

    /// Number of samples or windows, from the head of a chunk in it: all encodings begin with it, big-endian. Counters have
    /// two more, so another aggregate is looked at first.
    fn samples(&self) -> i64 {
        let a = self.aggregates.as_deref();
        let any = a.and_then(|a| [&a.count, &a.sum, &a.min, &a.max, &a.counter].into_iter().flatten().next());
        match self.raw.as_ref().or(any).map(|s| s.data.as_ref()) {
            Some([a, b, ..]) => i64::from(u16::from_be_bytes([*a, *b])),
            _ => 0,
        }
    }

    /// Average distance of the samples, milliseconds; 0 if there are fewer than two.
    pub fn interval(&self) -> i64 {
        let n = self.samples();
        if n < 2 { 0 } else { self.max_time.saturating_sub(self.min_time) / (n - 1) }
    }
}

/// Drops all but the first of identical chunks and orders the rest by time.
pub fn drop_duplicates(chunks: &mut Vec<Chunk>) {
    // The common case: what one store sent, each chunk once and in order.
    let apart = |a: &Chunk, b: &Chunk| (a.min_time, a.max_time) < (b.min_time, b.max_time);
    if chunks.iter().zip(chunks.iter().skip(1)).all(|(a, b)| apart(a, b)) {
        return;
    }
    let mut keyed: Vec<(i64, i64, [u64; 6], Chunk)> =
        std::mem::take(chunks).into_iter().map(|c| (c.min_time, c.max_time, c.key(), c)).collect();
    // Stable: of identical chunks the one of the first source stays.
    keyed.sort_by_key(|k| (k.0, k.1, k.2));
    keyed.dedup_by_key(|k| (k.0, k.1, k.2));
    chunks.extend(keyed.into_iter().map(|k| k.3));
}

/// Splits a series' chunks into replicas: lists without overlap, each ordered by time. Chunks of one source stay
/// together unless they overlap (a querier joins replicas before it sends them on); a chunk then goes on with the
/// list whose next sample is expected where the chunk begins.
pub fn split_replicas(chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    let mut sorted = chunks;
    sorted.sort_by_key(|c| (c.source, c.min_time, c.max_time));
    let mut replicas: Vec<Vec<Chunk>> = Vec::new();
    let (mut first_of_source, mut source) = (0, None);
    for c in sorted {
        if source != Some(c.source) {
            source = Some(c.source);
            first_of_source = replicas.len();
        }
        let best = replicas
            .iter()
            .enumerate()
            .skip(first_of_source)
            .filter_map(|(i, r)| r.last().map(|l| (i, l)))
            .filter(|(_, l)| l.max_time < c.min_time)
            .min_by_key(|(_, l)| {
                let distance = c.min_time.saturating_sub(l.max_time);
                distance.saturating_sub(l.interval().max(c.interval())).unsigned_abs()
            })
            .map(|(i, _)| i);
        match best.and_then(|i| replicas.get_mut(i)) {
            Some(r) => r.push(c),
            None => replicas.push(vec![c]),
        }
    }
    replicas
}

/// The same as Thanos does it, for comparison: each chunk goes on with the first list that it does not overlap, whoever sent it.
pub fn split_by_overlap(mut chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    chunks.sort_by_key(|c| (c.min_time, c.max_time));
    let mut replicas: Vec<Vec<Chunk>> = Vec::new();
    for c in chunks {
        let free = |r: &&mut Vec<Chunk>| r.last().is_none_or(|l| l.max_time < c.min_time);
        match replicas.iter_mut().find(free) {
            Some(r) => r.push(c),
            None => replicas.push(vec![c]),
        }
    }
    replicas
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A chunk of `n` samples every `step` from `min`, with a fake body that only says how many.
    pub(crate) fn chunk(source: u32, min: i64, step: i64, n: u16, hash: u64) -> Chunk {
        Chunk {
            min_time: min,
            max_time: min + step * i64::from(n - 1),
            raw: Some(Slot { encoding: 0, data: Bytes::copy_from_slice(&n.to_be_bytes()), hash }),
            aggregates: None,
            source,
        }
    }

    #[test]
    fn identical_chunks_are_kept_once() {
        let mut c =
            vec![chunk(0, 100, 10, 5, 7), chunk(0, 0, 10, 5, 6), chunk(1, 100, 10, 5, 7), chunk(1, 100, 10, 5, 8)];
        drop_duplicates(&mut c);
        assert_eq!(c.iter().map(|c| (c.min_time, c.source)).collect::<Vec<_>>(), [(0, 0), (100, 0), (100, 1)]);
    }

    #[test]
    fn a_missing_hash_is_computed() {
        let mut a = chunk(0, 0, 10, 5, 0);
        let b = chunk(1, 0, 10, 5, 0);
        let mut both = vec![a.clone(), b.clone()];
        drop_duplicates(&mut both);
        assert_eq!(both.len(), 1);
        a.raw = Some(Slot { encoding: 0, data: Bytes::from_static(&[0, 5, 1]), hash: 0 });
        let mut both = vec![a, b];
        drop_duplicates(&mut both);
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn replicas_that_a_querier_joined_are_told_apart_by_their_phase() {
        // Scrape interval 15, phase 7: the first-ended list is the right one, though the second ends nearer.
        let (a, b) = (chunk(0, 0, 15, 8, 1), chunk(0, 7, 15, 8, 2));
        let (a2, b2) = (chunk(0, 120, 15, 8, 3), chunk(0, 127, 15, 8, 4));
        let r = split_replicas(vec![a, b, a2, b2]);
        let times: Vec<Vec<i64>> = r.iter().map(|r| r.iter().map(|c| c.min_time).collect()).collect();
        assert_eq!(times, [[0, 120], [7, 127]]);
        // Times that nobody can mean do not overflow.
        let wild = |min_time, max_time| Chunk { min_time, max_time, ..chunk(0, 0, 1, 2, 1) };
        let r = split_replicas(vec![wild(i64::MIN, i64::MAX - 1), wild(i64::MAX, i64::MAX), wild(i64::MIN, i64::MIN)]);
        assert_eq!(r.iter().map(Vec::len).sum::<usize>(), 3);
        // Other sources are other replicas, even without overlap.
        assert_eq!(split_replicas(vec![chunk(0, 0, 15, 2, 1), chunk(1, 100, 15, 2, 2)]).len(), 2);
    }
}
