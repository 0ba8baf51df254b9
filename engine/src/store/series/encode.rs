//! Answers as bytes: SeriesResponse messages whose labels are written once and whose chunks are slices of what was read.
//!
//! Writing the wire format here, and not through structures, saves an allocation per label and a walk over all of them for
//! each length. The tests read it back with the generated types.

use crate::server::FRAME_MAX;
use bytes::{BufMut as _, Bytes, BytesMut};
use model::Labels;

/// A chunk of at least this many bytes is passed on as a slice; a smaller one is cheaper to copy.
const SLICE: usize = 512;

/// Field numbers of AggrChunk.
pub const RAW: u8 = 3;

/// A chunk of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The field of AggrChunk: 3 raw, 4 count, 5 sum, 6 min, 7 max, 8 counter.
    pub field: u8,
    /// The StoreAPI's number of its encoding.
    pub encoding: i32,
    /// Its bytes.
    pub data: Bytes,
}

/// Chunks of the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggr {
    /// Time of the first sample in ms.
    pub min_t: i64,
    /// Time of the last sample in ms.
    pub max_t: i64,
    /// Its slots, by field number.
    pub slots: Vec<Slot>,
}

/// A message, ready to be sent: its pieces in order.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
    /// Bytes of all pieces.
    pub length: usize,
}

impl Frame {
    /// The pieces.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// A message in pieces.
    pub fn joined(pieces: Vec<Bytes>) -> Self {
        Self { length: pieces.iter().map(Bytes::len).sum(), pieces }
    }

    /// A frame of one message.
    pub fn of(message: &impl prost::Message) -> Self {
        let bytes = Bytes::from(message.encode_to_vec());
        Self { length: bytes.len(), pieces: vec![bytes] }
    }
}

/// Collects series and gives frames.
#[derive(Debug)]
pub struct Framer {
    batch: usize,
    /// Written since the last piece.
    open: BytesMut,
    pieces: Vec<Bytes>,
    length: usize,
    series: usize,
    /// Frames that are full.
    full: Vec<Frame>,
}

impl Framer {
    /// With at most `batch` series in a message; 1 means that each is sent on its own.
    pub fn new(batch: usize) -> Self {
        let open = BytesMut::new();
        Self { batch: batch.max(1), open, pieces: Vec::new(), length: 0, series: 0, full: Vec::new() }
    }

    /// Adds a series; one that is too large for a message goes in parts.
    pub fn push(&mut self, labels: &Labels, chunks: &[Aggr]) {
        let head: usize = labels.iter().map(|(n, v)| field_len(label_len(n, v))).sum();
        let mut rest = chunks;
        loop {
            let (mut bytes, mut count) = (head, 0);
            for chunk in rest {
                let size = field_len(aggr_len(chunk));
                if count > 0 && bytes + size > FRAME_MAX / 2 {
                    break;
                }
                bytes += size;
                count += 1;
            }
            let (part, after) = rest.split_at(count.min(rest.len()));
            self.part(labels, part, bytes);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn part(&mut self, labels: &Labels, chunks: &[Aggr], bytes: usize) {
        if self.series > 0 && self.length + bytes > FRAME_MAX {
            self.flush();
        }
        self.reserve(bytes);
        // Series is field 1 of both SeriesResponse and SeriesBatch.
        self.key(1, bytes);
        for (name, value) in labels {
            self.key(1, label_len(name, value));
            self.text(1, name.as_bytes());
            self.text(2, value.as_bytes());
        }
        for chunk in chunks {
            self.key(2, aggr_len(chunk));
            self.number(1, chunk.min_t as u64);
            self.number(2, chunk.max_t as u64);
            for slot in &chunk.slots {
                self.key(slot.field, slot_len(slot));
                self.number(1, slot.encoding as u64);
                if !slot.data.is_empty() {
                    self.key(2, slot.data.len());
                    self.slice(&slot.data);
                }
            }
        }
        self.series += 1;
        if self.series >= self.batch || self.length >= FRAME_MAX {
            self.flush();
        }
    }

    /// Ends the message that is being written.
    pub fn flush(&mut self) {
        if self.series == 0 {
            return;
        }
        if !self.open.is_empty() {
            self.pieces.push(self.open.split().freeze());
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut length = std::mem::take(&mut self.length);
        if self.batch > 1 {
            let mut key = BytesMut::with_capacity(11);
            key.put_u8(4 << 3 | 2);
            put_varint(&mut key, length as u64);
            length += key.len();
            pieces.insert(0, key.freeze());
        }
        self.series = 0;
        self.full.push(Frame { pieces, length });
    }

    /// The frames that are full.
    pub fn take(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.full)
    }

    fn reserve(&mut self, bytes: usize) {
        if self.open.capacity() - self.open.len() < bytes.min(4096) {
            self.open.reserve(bytes.clamp(64 << 10, FRAME_MAX));
        }
    }

    fn key(&mut self, field: u8, length: usize) {
        self.open.put_u8(field << 3 | 2);
        let n = put_varint(&mut self.open, length as u64);
        self.length += 1 + n;
    }

    fn number(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.open.put_u8(field << 3);
            let n = put_varint(&mut self.open, value);
            self.length += 1 + n;
        }
    }

    fn text(&mut self, field: u8, text: &[u8]) {
        self.key(field, text.len());
        self.open.extend_from_slice(text);
        self.length += text.len();
    }

    fn slice(&mut self, data: &Bytes) {
        self.length += data.len();
        if data.len() < SLICE {
            self.open.extend_from_slice(data);
            return;
        }
        self.pieces.push(self.open.split().freeze());
        self.pieces.push(data.clone());
    }
}

fn put_varint(out: &mut BytesMut, mut v: u64) -> usize {
    let mut n = 1;
    while v >= 0x80 {
        out.put_u8((v & 0x7f) as u8 | 0x80);
        v >>= 7;
        n += 1;
    }
    out.put_u8(v as u8);
    n
}

fn varint_len(v: u64) -> usize {
    // Bits in sevens; zero takes one byte, too.
    (70 - (v | 1).leading_zeros() as usize) / 7
}

/// A field with a length: key, length, content.
fn field_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

fn number_len(v: u64) -> usize {
    if v == 0 { 0 } else { 1 + varint_len(v) }
}

fn label_len(name: &str, value: &str) -> usize {
    field_len(name.len()) + field_len(value.len())
}

fn slot_len(slot: &Slot) -> usize {
    let data = if slot.data.is_empty() { 0 } else { field_len(slot.data.len()) };
    number_len(slot.encoding as u64) + data
}

fn aggr_len(chunk: &Aggr) -> usize {
    let slots: usize = chunk.slots.iter().map(|s| field_len(slot_len(s))).sum();
    number_len(chunk.min_t as u64) + number_len(chunk.max_t as u64) + slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use proto::thanos::{Series, SeriesResponse, series_response};

    fn read(frame: &Frame) -> Vec<Series> {
        let bytes: Vec<u8> = frame.pieces().iter().flat_map(|p| p.iter().copied()).collect();
        assert_eq!(bytes.len(), frame.length);
        match SeriesResponse::decode(&*bytes).unwrap().result.unwrap() {
            series_response::Result::Series(s) => vec![s],
            series_response::Result::Batch(b) => b.series,
            other => panic!("{other:?}"),
        }
    }

    fn wire(labels: &Labels, chunks: &[Aggr]) -> Series {
        let chunk = |s: &Slot| proto::thanos::Chunk { r#type: s.encoding, data: s.data.clone(), hash: 0 };
        let of = |a: &Aggr| {
            let slot = |n| a.slots.iter().find(|s| s.field == n).map(chunk);
            proto::thanos::AggrChunk {
                min_time: a.min_t,
                max_time: a.max_t,
                raw: slot(3),
                count: slot(4),
                sum: slot(5),
                min: slot(6),
                max: slot(7),
                counter: slot(8),
            }
        };
        Series { labels: proto::labels::encode(labels), chunks: chunks.iter().map(of).collect() }
    }

    fn slot() -> impl Strategy<Value = Slot> {
        let data = prop_oneof![0..5usize, 500..520usize, Just(20_000)].prop_map(|n| Bytes::from(vec![9; n]));
        (3u8..9, 0i32..7, data).prop_map(|(field, encoding, data)| Slot { field, encoding, data })
    }

    fn aggr() -> impl Strategy<Value = Aggr> {
        let slots = prop::collection::btree_map(3u8..9, slot(), 0..6)
            .prop_map(|m| m.into_iter().map(|(field, s)| Slot { field, ..s }).collect::<Vec<_>>());
        (any::<i64>(), any::<i64>(), slots).prop_map(|(min_t, max_t, slots)| Aggr { min_t, max_t, slots })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_back_as_the_generated_types(
            all in prop::collection::vec((prop::collection::btree_map("[a-z]{1,9}", "[a-zé]{1,200}", 0..9), prop::collection::vec(aggr(), 0..30)), 0..12),
            batch in 0usize..5,
        ) {
            let all: Vec<(Labels, Vec<Aggr>)> = all.into_iter().map(|(l, c)| (Labels::from_pairs(l), c)).collect();
            let mut framer = Framer::new(batch);
            for (labels, chunks) in &all {
                framer.push(labels, chunks);
            }
            framer.flush();
            let frames = framer.take();
            prop_assert!(frames.iter().all(|f| f.length <= FRAME_MAX + 200_000 && (batch > 1 || read(f).len() == 1)));
            prop_assert!(frames.iter().all(|f| read(f).len() <= batch.max(1)));
            let mut found: Vec<Series> = Vec::new();
            for s in frames.iter().flat_map(read) {
                match found.last_mut() {
                    Some(l) if l.labels == s.labels => l.chunks.extend(s.chunks),
                    _ => found.push(s),
                }
            }
            let mut want: Vec<Series> = Vec::new();
            for (l, c) in &all {
                let s = wire(l, c);
                match want.last_mut() {
                    Some(l) if l.labels == s.labels => l.chunks.extend(s.chunks),
                    _ => want.push(s),
                }
            }
            prop_assert_eq!(found, want);
        }
    }

    #[test]
    fn large_chunks_are_slices() {
        let data = Bytes::from(vec![1; 4096]);
        let slot = Slot { field: RAW, encoding: 0, data: data.clone() };
        let mut framer = Framer::new(64);
        framer.push(&Labels::from_pairs([("a", "1")]), &[Aggr { min_t: 1, max_t: 2, slots: vec![slot] }]);
        framer.flush();
        let frames = framer.take();
        assert!(frames[0].pieces().iter().any(|p| p.as_ptr() == data.as_ptr()));
        // A huge series goes in parts below the size of a frame.
        let slot = Slot { field: RAW, encoding: 0, data: Bytes::from(vec![1; 100_000]) };
        let chunks = vec![Aggr { min_t: 1, max_t: 2, slots: vec![slot] }; 50];
        framer.push(&Labels::from_pairs([("a", "1")]), &chunks);
        framer.flush();
        let frames = framer.take();
        assert!(frames.len() >= 5 && frames.iter().all(|f| f.length <= FRAME_MAX + 100));
    }
}
