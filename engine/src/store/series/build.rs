//! From what was read of the segments to the frames of a window. Sans-IO; work for the CPU.

use super::encode::{Aggr, Data, Frame, Framer, RAW, Slot, TOGETHER};
use super::merge::Window;
use super::spec::{Aggregates, Spec, add};
use crate::store::select::chunks::{Found, Place, Read, reads, take};
use crate::store::select::parts::Loaded;
use bytes::Bytes;
use model::Labels;
use std::collections::BTreeMap;
use std::ops::Range;
use tsdb::chunk::Encoding;
use tsdb::chunk::aggregate::{Aggregate, Container};

/// A window whose chunks are being read, and then made into frames, one after the other: what waits to be sent is what was
/// read, and not its copy.
#[derive(Debug)]
pub struct Reading {
    window: Window,
    /// What to read.
    pub reads: Vec<Read>,
    /// For each chunk, which read it is in.
    read_of: Vec<u32>,
    loaded: Vec<Loaded>,
    taken: Vec<Option<Taken>>,
    /// Bytes of the chunks that were read alone.
    longer: usize,
    /// The next series, and its first chunk.
    next: (usize, usize),
    /// Bytes of chunks that have not been sent yet, about.
    left: usize,
    sent: usize,
    /// The first chunk of each cursor that could not be read, and how many.
    damage: BTreeMap<u32, (String, u64)>,
}

/// Where a chunk lies: the read, its part, and the place in it.
#[derive(Clone, Copy, Debug)]
struct Taken {
    encoding: Encoding,
    read: u32,
    part: u32,
    start: u32,
    length: u32,
}

impl Taken {
    fn new(encoding: Encoding, read: u32, loaded: &Loaded, part: usize, data: &[u8]) -> Option<Self> {
        let of = loaded.part(part)?;
        let start = (data.as_ptr() as usize).checked_sub(of.as_ptr() as usize)?;
        let number = |n: usize| u32::try_from(n).ok();
        Some(Self { encoding, read, part: number(part)?, start: number(start)?, length: number(data.len())? })
    }

    fn data<'a>(&self, loaded: &'a [Loaded]) -> Option<Data<'a>> {
        let of = loaded.get(self.read as usize)?.part(self.part as usize)?;
        let start = self.start as usize;
        Some(Data::Part(of.get(start..start + self.length as usize)?, of))
    }
}

impl Reading {
    /// Of a window, and what was found damaged on the way to it.
    pub fn new(window: Window, damage: Vec<(u32, String, u64)>) -> Self {
        let (reads, read_of) = reads(&window.chunks);
        Self {
            window,
            reads,
            read_of,
            loaded: Vec::new(),
            taken: Vec::new(),
            longer: 0,
            next: (0, 0),
            left: 0,
            sent: 0,
            damage: damage.into_iter().map(|(number, text, count)| (number, (text, count))).collect(),
        }
    }

    /// Takes what was read, in the order of [`Reading::reads`].
    pub fn feed(&mut self, loaded: Vec<Loaded>) {
        self.loaded = loaded;
        self.taken = vec![None; self.window.chunks.len()];
    }

    /// The place of a chunk by its number.
    pub fn place(&self, chunk: usize) -> Option<(u32, Place)> {
        self.window.chunks.get(chunk).copied()
    }

    /// Takes the chunks out of what was read; gives the numbers and ranges of those that are longer than what was read of
    /// them.
    pub fn take(&mut self, spec: &Spec) -> Vec<(usize, Range<u64>)> {
        let mut longer = Vec::new();
        let (mut segment, mut name) = (u32::MAX, String::new());
        for (i, ((number, place), read)) in self.window.chunks.iter().zip(&self.read_of).enumerate() {
            if i % 256 == 0 && spec.stop.is_set() {
                break;
            }
            let Some(loaded) = self.loaded.get(*read as usize) else { continue };
            if place.segment != segment {
                (segment, name) = (place.segment, segment_name(place.segment));
            }
            match take(&name, loaded, place) {
                Ok(Found::Whole(encoding, part, data)) => {
                    if let Some(taken) = self.taken.get_mut(i) {
                        self.left += data.len();
                        *taken = Taken::new(encoding, *read, loaded, part, data);
                    }
                }
                Ok(Found::Longer(range)) => longer.push((i, range)),
                Err(error) => {
                    self.damage.entry(*number).or_insert_with(|| (error.to_string(), 0)).1 += 1;
                }
            }
        }
        // Nobody asks for them again.
        self.read_of = Vec::new();
        longer
    }

    /// Takes a chunk that was read alone.
    pub fn take_one(&mut self, chunk: usize, range: Range<u64>, bytes: Bytes) {
        let Some((number, place)) = self.place(chunk) else { return };
        let loaded = Loaded::new(std::slice::from_ref(&range), vec![bytes]);
        let read = u32::try_from(self.loaded.len()).unwrap_or(u32::MAX);
        let name = segment_name(place.segment);
        let text = match take(&name, &loaded, &place) {
            Ok(Found::Whole(encoding, part, data)) => {
                if let Some(taken) = self.taken.get_mut(chunk) {
                    self.longer += data.len();
                    self.left += data.len();
                    *taken = Taken::new(encoding, read, &loaded, part, data);
                }
                self.loaded.push(loaded);
                return;
            }
            Ok(Found::Longer(_)) => {
                format!("{name}: chunk at byte {}: it ends behind the end of its segment", place.start)
            }
            Err(error) => error.to_string(),
        };
        self.damage.entry(number).or_insert_with(|| (text, 0)).1 += 1;
    }

    /// Bytes of the chunks that were read alone.
    pub fn longer(&self) -> usize {
        self.longer
    }

    /// The next messages; none at the end.
    pub fn frame(&mut self, spec: &Spec, batch: usize) -> Option<Frame> {
        let series = self.window.series.get(self.next.0..).unwrap_or_default();
        let labels: usize = series.iter().take(TOGETHER / 64).map(|(l, _)| l.packed_len() + 24).sum();
        let chunks = self.window.chunks.len().saturating_sub(self.next.1).saturating_mul(32);
        let mut framer = Framer::new(batch, self.left.saturating_add(labels).saturating_add(chunks));
        let mut aggrs: Vec<Aggr<'_>> = Vec::new();
        let (mut from, before) = (self.next.1, self.sent);
        for (labels, to) in series {
            let to = *to as usize;
            self.next = (self.next.0 + 1, to);
            aggrs.clear();
            for i in from..to {
                let (Some((number, place)), Some(Some(taken))) = (self.window.chunks.get(i), self.taken.get(i)) else {
                    continue;
                };
                let Some(data) = taken.data(&self.loaded) else { continue };
                self.left = self.left.saturating_sub(data.len());
                add(&spec.stats.data.touched, 1u64);
                add(&spec.stats.data.touched_bytes, data.len());
                match slots(taken.encoding, data, spec.aggregates) {
                    Ok((None, _)) => {}
                    Ok((first, rest)) => {
                        let chunk = Aggr { min_t: place.min_t, max_t: place.max_t, first, rest };
                        // The same chunk in two blocks: one that was compacted, and its source.
                        if aggrs.last() != Some(&chunk) {
                            aggrs.push(chunk);
                        }
                    }
                    Err(text) => {
                        let at = format!("{}: chunk at byte {}: {text}", segment_name(place.segment), place.start);
                        self.damage.entry(*number).or_insert_with(|| (at, 0)).1 += 1;
                    }
                }
            }
            from = to;
            if aggrs.is_empty() && !spec.skip_chunks {
                continue;
            }
            self.sent += 1;
            add(&spec.stats.chunks, aggrs.len());
            add(&spec.stats.chunk_bytes, aggrs.iter().flat_map(Aggr::slots).map(|s| s.data.len()).sum::<usize>());
            framer.push(labels, &aggrs);
            if let Some(full) = framer.full() {
                add(&spec.stats.series, self.sent - before);
                return Some(full);
            }
            if self.sent.is_multiple_of(256) && spec.stop.is_set() {
                break;
            }
        }
        add(&spec.stats.series, self.sent - before);
        framer.take()
    }

    /// True if all of it was given.
    pub fn is_over(&self) -> bool {
        self.next.0 >= self.window.series.len()
    }

    /// How many series were given, and the labels of the last of the window.
    pub fn end(mut self) -> (usize, Option<Labels>) {
        (self.sent, self.window.series.pop().map(|(labels, _)| labels))
    }

    /// What was found missing since this was asked last: the number of a cursor, the first damage, how many chunks.
    pub fn damage(&mut self) -> Vec<(u32, String, u64)> {
        std::mem::take(&mut self.damage).into_iter().map(|(n, (text, count))| (n, text, count)).collect()
    }
}

/// The name of a segment in its block, as errors say it.
fn segment_name(segment: u32) -> String {
    format!("{}/{}", tsdb::segment::CHUNKS_DIR, tsdb::segment::name(segment))
}

/// What of a chunk is sent: the first slot, and the others.
fn slots(encoding: Encoding, data: Data<'_>, wanted: Aggregates) -> Result<(Option<Slot<'_>>, Vec<Slot<'_>>), String> {
    match encoding {
        Encoding::Unknown(n) => Err(format!(
            "chunks of encoding {n} are not known to this version: read them with a newer one, or use Prometheus's default encodings"
        )),
        Encoding::Aggregate => {
            let container = Container::parse(&data.slice()).map_err(|e| e.to_string())?;
            let found = container.iter().filter(|(a, ..)| wanted.has(*a));
            // Fields 4 to 8, in the order of the container. What a container lacks (histograms have no minimum) is absent.
            let mut all = found.map(|(a, e, d)| match e {
                Encoding::Unknown(_) | Encoding::Aggregate => {
                    Err(format!("its aggregate {a:?} is of an encoding that none may have ({e:?})"))
                }
                plain => {
                    Ok(Slot { field: RAW + 1 + a as u8, encoding: plain.to_store_api(), data: Data::Slice(d.clone()) })
                }
            });
            let first = all.next().transpose()?;
            Ok((first, all.collect::<Result<_, String>>()?))
        }
        plain => Ok((Some(Slot { field: RAW, encoding: plain.to_store_api(), data }), Vec::new())),
    }
}

/// The aggregates in the order of their fields: what `slots` relies on.
const _: () = assert!(Aggregate::Count as u8 == 0 && Aggregate::Counter as u8 == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_of_an_encoding_that_none_may_have_is_damage() {
        let all = Aggregates::read(&[0, 1, 2, 3, 4, 5]);
        let container = |encoding: u8| Data::Slice(Bytes::from(vec![0, 0, 0, 0, 2, encoding, 1, 2]));
        let good = slots(Encoding::Aggregate, container(1), all);
        assert!(good.as_ref().is_ok_and(|(first, rest)| first.is_some() && rest.is_empty()), "{good:?}");
        for encoding in [0xff, 200] {
            let got = slots(Encoding::Aggregate, container(encoding), all);
            assert!(got.as_ref().is_err_and(|text| text.contains("encoding")), "{encoding}: {got:?}");
        }
    }
}
