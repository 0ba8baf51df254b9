//! Which bytes of a block's segments hold the chunks of a window of series.

use super::join;
use super::parts::Loaded;
use std::collections::BTreeMap;
use std::ops::Range;
use tsdb::chunk::Encoding;
use tsdb::index::ChunkMeta;
use tsdb::segment;

/// Bytes of a chunk's length, encoding and checksum, at most.
const FRAME: u64 = 5 + 1 + 4;
/// Longest chunk, in bytes: one that announces more is damaged, and is not read.
const CHUNK_MAX: u64 = 16 << 20;
/// Longest read that several chunks share, in bytes.
const READ_MAX: u64 = 16 << 20;

/// A chunk that was found in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Time of its first sample in ms.
    pub min_t: i64,
    /// Time of its last sample in ms.
    pub max_t: i64,
    /// Its segment, from 0.
    pub segment: u32,
    /// Where it begins in the segment.
    pub start: u32,
    /// Where it ends at the latest, as far as one can tell; exact where another chunk of its series follows.
    pub end: u32,
}

/// Of the chunks of an index entry, those that touch `min_t..=max_t`; a chunk without a known end gets `estimate` bytes.
pub fn places(chunks: &[ChunkMeta], min_t: i64, max_t: i64, estimate: u32, out: &mut Vec<Place>) {
    out.clear();
    for (i, chunk) in chunks.iter().enumerate() {
        if chunk.max_time < min_t || chunk.min_time > max_t {
            continue;
        }
        let (segment, start) = segment::split(chunk.reference);
        let next = chunks.get(i + 1).map(|n| segment::split(n.reference));
        let guess = start.saturating_add(estimate);
        let end = next.filter(|(s, at)| *s == segment && *at > start).map_or(guess, |(_, at)| at);
        out.push(Place { min_t: chunk.min_time, max_t: chunk.max_time, segment, start, end });
    }
}

/// A read of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The block, as the caller counts them.
    pub block: u32,
    /// Its segment, from 0.
    pub segment: u32,
    /// What to read: sorted, not overlapping.
    pub ranges: Vec<Range<u64>>,
}

/// The reads for these chunks of these blocks; with them, for each chunk, which read it is in.
pub fn reads(chunks: &[(u32, Place)]) -> (Vec<Read>, Vec<u32>) {
    let mut segments: BTreeMap<(u32, u32), Vec<Range<u64>>> = BTreeMap::new();
    for (block, place) in chunks {
        let range = u64::from(place.start)..u64::from(place.end.max(place.start.saturating_add(1)));
        segments.entry((*block, place.segment)).or_default().push(range);
    }
    let mut reads = Vec::with_capacity(segments.len());
    let mut index = BTreeMap::new();
    for ((block, segment), mut ranges) in segments {
        ranges.sort_unstable_by_key(|r| (r.start, r.end));
        // Where the next one begins, this one has ended: a guess that reaches beyond the last one only costs bytes.
        index.insert((block, segment), reads.len() as u32);
        reads.push(Read { block, segment, ranges: join(ranges, READ_MAX) });
    }
    let of = chunks.iter().map(|(b, p)| index.get(&(*b, p.segment)).copied().unwrap_or(u32::MAX)).collect();
    (reads, of)
}

/// A chunk in what was read.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// Here it is, in this part of what was read.
    Whole(Encoding, usize, &'a [u8]),
    /// It is longer than what was read of it.
    Longer(Range<u64>),
}

/// Takes a chunk out of what was read of its segment.
///
/// # Errors
/// When it is damaged.
pub fn take<'a>(file: &'a str, loaded: &'a Loaded, place: &Place) -> tsdb::Result<Found<'a>> {
    let at = u64::from(place.start);
    if at < segment::HEADER_LEN as u64 {
        let what = "a chunk would lie in the header of its segment";
        return Err(tsdb::Error::corrupt(file, "chunk", at, what));
    }
    let (part, bytes) = loaded.from(at).unwrap_or_default();
    match segment::read_chunk(file, bytes, at) {
        Ok((chunk, _)) => Ok(Found::Whole(chunk.encoding, part, chunk.data)),
        Err(error) => match whole(at, bytes).filter(|w| w.end - at > bytes.len() as u64) {
            Some(range) => Ok(Found::Longer(range)),
            None => Err(error),
        },
    }
}

/// Where a chunk ends, as its first bytes tell; nothing for one that announces more than [`CHUNK_MAX`].
fn whole(at: u64, head: &[u8]) -> Option<Range<u64>> {
    let mut length = 0u64;
    for (i, byte) in head.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            let end = at + (i as u64 + 1) + length + FRAME - 5;
            return (length <= CHUNK_MAX).then_some(at..end);
        }
    }
    // So few bytes that not even the length is there.
    (head.len() < 5).then_some(at..at + FRAME + 64)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
mod tests {
    use super::*;

    fn meta(min_time: i64, segment: u32, at: u32) -> ChunkMeta {
        ChunkMeta { min_time, max_time: min_time + 9, reference: segment::reference(segment, at) }
    }

    #[test]
    fn followers_tell_the_end_and_times_choose() {
        let chunks = [meta(0, 0, 8), meta(10, 0, 108), meta(20, 1, 8), meta(30, 1, 60)];
        let mut out = Vec::new();
        places(&chunks, 9, 20, 1000, &mut out);
        let ends: Vec<_> = out.iter().map(|p| (p.segment, p.start, p.end)).collect();
        assert_eq!(ends, [(0, 8, 108), (0, 108, 1108), (1, 8, 60)]);
        places(&chunks, 100, 200, 1000, &mut out);
        assert!(out.is_empty());
        places(&chunks, i64::MIN, i64::MAX, u32::MAX, &mut out);
        assert_eq!((out.len(), out[3].end), (4, u32::MAX));
        places(&chunks, i64::MIN, i64::MAX, 1000, &mut out);
        let of = |block, p: Place| (block, p);
        let (reads, index) = reads(&[of(1, out[3]), of(0, out[0]), of(1, out[1]), of(1, out[2])]);
        assert_eq!(
            reads.iter().map(|r| (r.block, r.segment, r.ranges.len())).collect::<Vec<_>>(),
            [(0, 0, 1), (1, 0, 1), (1, 1, 1)]
        );
        assert_eq!(index, [2, 0, 1, 2]);
    }

    #[test]
    fn a_chunk_comes_whole_or_tells_its_end() {
        let mut bytes = vec![0u8; 8];
        let data = vec![7u8; 300];
        bytes.extend_from_slice(&[0xac, 0x02, 1]);
        bytes.extend_from_slice(&data);
        let mut body = vec![1u8];
        body.extend_from_slice(&data);
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        let place = Place { min_t: 0, max_t: 1, segment: 0, start: 8, end: 100 };
        let load = |to: usize| Loaded::new(&[8..to as u64], vec![bytes[8..to].to_vec().into()]);
        for short in [9, 10, 11, 100, bytes.len() - 1] {
            let Found::Longer(r) = take("f", &load(short), &place).unwrap() else { panic!("{short}") };
            assert!(r.end >= bytes.len() as u64 || short < 10, "{short} {r:?}");
        }
        let all = load(bytes.len());
        let Found::Whole(Encoding::Xor, 0, found) = take("f", &all, &place).unwrap() else { panic!() };
        assert_eq!(found, data);
        bytes[50] ^= 1;
        let load = Loaded::new(&[8..bytes.len() as u64], vec![bytes[8..].to_vec().into()]);
        assert!(take("f", &load, &place).unwrap_err().is_damage());
        // A length that has fallen over is not read.
        bytes[9..13].copy_from_slice(&[0xff, 0xff, 0x7f, 0x7f]);
        bytes[8] = 0xff;
        let load = Loaded::new(&[8..bytes.len() as u64], vec![bytes[8..].to_vec().into()]);
        assert!(take("f", &load, &place).unwrap_err().is_damage());
        assert!(take("f", &load, &Place { start: 3, ..place }).is_err());
    }
}
