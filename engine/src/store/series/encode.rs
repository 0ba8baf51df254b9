//! Answers as bytes: SeriesResponse messages that are written once, each behind gRPC's prefix, many of them in one piece of
//! memory; large chunks are slices of what was read.
//!
//! Writing the wire format here, and not through structures, saves an allocation per label and a walk over all of them for
//! each length. The tests read it back with the generated types.

use crate::server::FRAME_MAX;
use bytes::{Buf as _, BufMut as _, Bytes};
use model::Labels;
use std::ops::Deref;

/// A chunk of at least this many bytes is passed on as a slice; a smaller one is cheaper to copy than a frame of HTTP/2.
const SLICE: usize = 4 << 10;
/// gRPC's prefix of a message: a flag and four bytes of length.
const PREFIX: usize = 5;
/// Before a message with a batch: the prefix, the field and its length.
const BATCH: usize = PREFIX + 1 + 5;
/// Bytes of messages that are passed on together, about.
pub const TOGETHER: usize = 256 << 10;

/// Field numbers of AggrChunk.
pub const RAW: u8 = 3;

/// The bytes of a chunk.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// A part of what was read.
    Part(&'a [u8], &'a Bytes),
    /// A slice of it.
    Slice(Bytes),
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Part(part, _) => part,
            Self::Slice(bytes) => bytes,
        }
    }
}

impl PartialEq for Data<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Data<'_> {
    /// As a slice of what was read.
    pub fn slice(&self) -> Bytes {
        match self {
            Self::Part(part, of) => of.slice_ref(part),
            Self::Slice(bytes) => bytes.clone(),
        }
    }
}

/// A chunk of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot<'a> {
    /// The field of AggrChunk: 3 raw, 4 count, 5 sum, 6 min, 7 max, 8 counter.
    pub field: u8,
    /// The StoreAPI's number of its encoding.
    pub encoding: i32,
    /// Its bytes.
    pub data: Data<'a>,
}

/// Chunks of the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggr<'a> {
    /// Time of the first sample in ms.
    pub min_t: i64,
    /// Time of the last sample in ms.
    pub max_t: i64,
    /// Its slots, by field number: mostly one.
    pub first: Option<Slot<'a>>,
    /// The others.
    pub rest: Vec<Slot<'a>>,
}

impl<'a> Aggr<'a> {
    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.first.iter().chain(&self.rest)
    }
}

/// Whole messages, ready to be sent, each behind its prefix: pieces in order.
#[derive(Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
    /// Memory that is counted for it.
    room: Room,
}

/// Memory that is counted until this is dropped.
pub type Room = Option<Box<dyn Send>>;

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.pieces)
    }
}

impl Frame {
    /// The pieces, and the memory that is counted for them until they are sent.
    pub fn pieces(self) -> (Vec<Bytes>, Room) {
        (self.pieces, self.room)
    }

    /// With memory that is counted for it.
    #[must_use]
    pub fn with(self, room: impl Send + 'static) -> Self {
        Self { room: Some(Box::new(room)), ..self }
    }

    /// One message, which is given in pieces.
    pub fn joined(mut pieces: Vec<Bytes>) -> Self {
        let length = pieces.iter().map(Bytes::len).sum();
        pieces.insert(0, Bytes::copy_from_slice(&prefix(length)));
        Self { pieces, room: None }
    }

    /// One message.
    pub fn of(message: &impl prost::Message) -> Self {
        let mut all = Vec::with_capacity(PREFIX + message.encoded_len());
        all.extend_from_slice(&prefix(message.encoded_len()));
        message.encode_raw(&mut all);
        Self { pieces: vec![all.into()], room: None }
    }

    /// The messages, read.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn messages<M: prost::Message + Default>(&self) -> Result<Vec<M>, prost::DecodeError> {
        let mut all = Bytes::from(self.pieces.concat());
        let mut out = Vec::new();
        while all.len() >= PREFIX {
            all.advance(1);
            let length = usize::try_from(all.get_u32()).unwrap_or(usize::MAX).min(all.len());
            out.push(M::decode(all.split_to(length))?);
        }
        Ok(out)
    }
}

/// What gRPC puts before a message, which is not packed.
fn prefix(length: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// Collects series and gives frames.
#[derive(Debug)]
pub struct Framer {
    batch: usize,
    /// Bytes that a frame is expected to take.
    expected: usize,
    /// Written since the last piece.
    open: Vec<u8>,
    pieces: Vec<Bytes>,
    /// Where the message begins that is being written: in `open`, its head left free there...
    begin: usize,
    /// ... or, if it holds slices, before this piece, without a head.
    first: Option<usize>,
    /// Bytes of this message, without its head, and of the frame.
    length: usize,
    all: usize,
    series: usize,
}

impl Framer {
    /// With at most `batch` series in a message; 1 means that each is sent on its own. A frame is expected to take `expected`
    /// bytes.
    pub fn new(batch: usize, expected: usize) -> Self {
        Self {
            batch: batch.max(1),
            expected: expected.min(TOGETHER + TOGETHER / 4),
            open: Vec::new(),
            pieces: Vec::new(),
            begin: 0,
            first: None,
            length: 0,
            all: 0,
            series: 0,
        }
    }

    /// Adds a series; one that is too large for a message goes in parts.
    pub fn push(&mut self, labels: &Labels, chunks: &[Aggr<'_>]) {
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

    fn part(&mut self, labels: &Labels, chunks: &[Aggr<'_>], bytes: usize) {
        if self.series > 0 && self.length + bytes > FRAME_MAX {
            self.flush();
        }
        if self.series == 0 {
            if self.open.capacity() == 0 {
                self.open.reserve(self.expected);
            }
            self.begin = self.open.len();
            self.open.resize(self.begin + self.head(), 0);
        }
        // Series is field 1 of both SeriesResponse and SeriesBatch.
        self.length += field_len(bytes);
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
            for slot in chunk.slots() {
                self.key(slot.field, slot_len(slot));
                self.number(1, slot.encoding as u64);
                if !slot.data.is_empty() {
                    self.key(2, slot.data.len());
                    self.data(&slot.data);
                }
            }
        }
        self.series += 1;
        if self.series >= self.batch || self.length >= FRAME_MAX {
            self.flush();
        }
    }

    /// Bytes that are left free for the head of a message.
    fn head(&self) -> usize {
        if self.batch > 1 { BATCH } else { PREFIX }
    }

    /// Ends the message that is being written.
    pub fn flush(&mut self) {
        if self.series == 0 {
            return;
        }
        self.series = 0;
        let length = std::mem::take(&mut self.length);
        let (mut head, mut used) = ([0; BATCH], PREFIX);
        let mut whole = length;
        if self.batch > 1 {
            let mut rest = head.get_mut(PREFIX..).unwrap_or_default();
            rest.put_u8(4 << 3 | 2);
            put_varint(&mut rest, length as u64);
            used = BATCH - rest.len();
            whole += used - PREFIX;
        }
        if let Some(place) = head.get_mut(..PREFIX) {
            place.copy_from_slice(&prefix(whole));
        }
        let head = head.get(..used).unwrap_or_default();
        self.all += PREFIX + whole;
        match self.first.take() {
            Some(first) => self.pieces.insert(first.min(self.pieces.len()), Bytes::copy_from_slice(head)),
            None => {
                // What was left free and is not needed closes up.
                let free = self.begin..self.begin + self.head();
                drop(self.open.splice(free, head.iter().copied()));
            }
        }
    }

    /// What was written, if it is much: a message may have fewer series than it might.
    pub fn full(&mut self) -> Option<Frame> {
        if self.all + self.length >= TOGETHER { self.take() } else { None }
    }

    /// What was written; the last message ends.
    pub fn take(&mut self) -> Option<Frame> {
        self.flush();
        self.cut();
        self.all = 0;
        let pieces = std::mem::take(&mut self.pieces);
        (!pieces.is_empty()).then_some(Frame { pieces, room: None })
    }

    /// What is open becomes a piece.
    fn cut(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(std::mem::take(&mut self.open).into());
        }
    }

    fn key(&mut self, field: u8, length: usize) {
        self.open.push(field << 3 | 2);
        put_varint(&mut self.open, length as u64);
    }

    fn number(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.open.push(field << 3);
            put_varint(&mut self.open, value);
        }
    }

    fn text(&mut self, field: u8, text: &[u8]) {
        self.key(field, text.len());
        self.open.extend_from_slice(text);
    }

    fn data(&mut self, data: &Data<'_>) {
        if data.len() < SLICE {
            self.open.extend_from_slice(data);
            return;
        }
        if self.first.is_none() {
            let message = self.open.split_off(self.begin);
            self.cut();
            self.first = Some(self.pieces.len());
            self.open = message.get(self.head()..).unwrap_or_default().to_vec();
        }
        self.cut();
        self.pieces.push(data.slice());
    }
}

fn put_varint(out: &mut impl bytes::BufMut, mut v: u64) {
    while v >= 0x80 {
        out.put_u8((v & 0x7f) as u8 | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
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

fn slot_len(slot: &Slot<'_>) -> usize {
    let data = if slot.data.is_empty() { 0 } else { field_len(slot.data.len()) };
    number_len(slot.encoding as u64) + data
}

fn aggr_len(chunk: &Aggr<'_>) -> usize {
    let slots: usize = chunk.slots().map(|s| field_len(slot_len(s))).sum();
    number_len(chunk.min_t as u64) + number_len(chunk.max_t as u64) + slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use proto::thanos::{Series, SeriesResponse, series_response};

    /// The messages of a frame: their bytes, and the series in each.
    fn read(frame: &Frame) -> Vec<(usize, Vec<Series>)> {
        let messages: Vec<SeriesResponse> = frame.messages().unwrap();
        let total: usize = messages.iter().map(|m| PREFIX + m.encoded_len()).sum();
        assert_eq!(total, frame.pieces.iter().map(Bytes::len).sum::<usize>());
        let series = |m: SeriesResponse| match m.result.unwrap() {
            series_response::Result::Series(s) => vec![s],
            series_response::Result::Batch(b) => b.series,
            other => panic!("{other:?}"),
        };
        messages.into_iter().map(|m| (m.encoded_len(), series(m))).collect()
    }

    fn wire(labels: &Labels, chunks: &[Aggr<'_>]) -> Series {
        let chunk = |s: &Slot<'_>| proto::thanos::Chunk { r#type: s.encoding, data: s.data.slice(), hash: 0 };
        let of = |a: &Aggr<'_>| {
            let slot = |n| a.slots().find(|s| s.field == n).map(chunk);
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

    fn slot() -> impl Strategy<Value = Slot<'static>> {
        let data = prop_oneof![0..5usize, 500..520usize, Just(20_000)].prop_map(|n| Bytes::from(vec![9; n]));
        (3u8..9, 0i32..7, data).prop_map(|(field, encoding, data)| Slot { field, encoding, data: Data::Slice(data) })
    }

    fn aggr() -> impl Strategy<Value = Aggr<'static>> {
        let slots = prop::collection::btree_map(3u8..9, slot(), 0..6)
            .prop_map(|m| m.into_iter().map(|(field, s)| Slot { field, ..s }));
        (any::<i64>(), any::<i64>(), slots).prop_map(|(min_t, max_t, mut slots)| Aggr {
            min_t,
            max_t,
            first: slots.next(),
            rest: slots.collect(),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_back_as_the_generated_types(
            all in prop::collection::vec((prop::collection::btree_map("[a-z]{1,9}", "[a-zé]{1,200}", 0..9), prop::collection::vec(aggr(), 0..30)), 0..12),
            batch in 0usize..5,
        ) {
            let all: Vec<(Labels, Vec<Aggr<'_>>)> = all.into_iter().map(|(l, c)| (Labels::from_pairs(l), c)).collect();
            let mut framer = Framer::new(batch, 1000);
            let mut frames = Vec::new();
            for (labels, chunks) in &all {
                framer.push(labels, chunks);
                frames.extend(framer.full());
            }
            frames.extend(framer.take());
            let messages: Vec<(usize, Vec<Series>)> = frames.iter().flat_map(read).collect();
            prop_assert!(messages.iter().all(|(size, series)| *size <= FRAME_MAX + 200_000 && series.len() <= batch.max(1)));
            // None is much larger than it has to be: a series has up to 30 times 5 slots of 20 kB.
            let total = |f: &Frame| f.pieces.iter().map(Bytes::len).sum::<usize>();
            prop_assert!(frames.iter().all(|f| total(f) <= TOGETHER + 30 * 5 * 20_100));
            let mut found: Vec<Series> = Vec::new();
            for s in messages.into_iter().flat_map(|(_, series)| series) {
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
    fn large_chunks_are_slices_and_small_messages_go_together() {
        let labels = Labels::from_pairs([("a", "1")]);
        let chunk = |data: &Bytes| Aggr {
            min_t: 1,
            max_t: 2,
            first: Some(Slot { field: RAW, encoding: 0, data: Data::Slice(data.clone()) }),
            rest: Vec::new(),
        };
        let (large, small) = (Bytes::from(vec![1; 4096]), Bytes::from(vec![1; 300]));
        for batch in [1, 64] {
            let mut framer = Framer::new(batch, 0);
            (0..10).for_each(|_| framer.push(&labels, &[chunk(&small)]));
            framer.push(&labels, &[chunk(&large), chunk(&small)]);
            (0..10).for_each(|_| framer.push(&labels, &[chunk(&small)]));
            let frame = framer.take().unwrap();
            assert_eq!(read(&frame).len(), if batch == 1 { 21 } else { 1 });
            let (pieces, _) = frame.pieces();
            assert!(pieces.len() <= 5 && pieces.iter().any(|p| p.as_ptr() == large.as_ptr()), "{}", pieces.len());
        }
        // A huge series goes in parts below the size of a frame.
        let mut framer = Framer::new(64, 0);
        framer.push(&labels, &vec![chunk(&Bytes::from(vec![1; 100_000])); 50]);
        let messages = read(&framer.take().unwrap());
        assert!(messages.len() >= 5 && messages.iter().all(|(size, _)| *size <= FRAME_MAX + 100));
    }
}
