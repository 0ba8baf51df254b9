//! From what was read of the segments to the frames of a window. Sans-IO; work for the CPU.

use super::encode::{Aggr, Frame, Framer, RAW, Slot};
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

/// A window whose chunks are being read.
#[derive(Debug)]
pub struct Reading {
    window: Window,
    /// What to read.
    pub reads: Vec<Read>,
    /// For each chunk, which read it is in.
    read_of: Vec<u32>,
    loaded: Vec<Loaded>,
    taken: Vec<Option<(Encoding, Bytes)>>,
    /// Bytes of the chunks that were read alone.
    longer: usize,
    /// The first chunk of each cursor that could not be read, and how many.
    damage: BTreeMap<u32, (String, u64)>,
}

/// A window that is ready to be sent.
#[derive(Debug)]
pub struct Built {
    /// The messages.
    pub frames: Vec<Frame>,
    /// The labels of its last series.
    pub last: Option<Labels>,
    /// How many series it has.
    pub series: usize,
    /// What is missing: the number of a cursor, the first damage, how many chunks.
    pub damage: Vec<(u32, String, u64)>,
}

impl Reading {
    /// Of a window.
    pub fn new(window: Window) -> Self {
        let (reads, read_of) = reads(&window.chunks);
        let taken = vec![None; window.chunks.len()];
        Self { window, reads, read_of, loaded: Vec::new(), taken, longer: 0, damage: BTreeMap::new() }
    }

    /// Takes what was read, in the order of [`Reading::reads`].
    pub fn feed(&mut self, loaded: Vec<Loaded>) {
        self.loaded = loaded;
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
                Ok(Found::Whole(encoding, data)) => {
                    if let Some(taken) = self.taken.get_mut(i) {
                        *taken = Some((encoding, data));
                    }
                }
                Ok(Found::Longer(range)) => longer.push((i, range)),
                Err(error) => {
                    self.damage.entry(*number).or_insert_with(|| (error.to_string(), 0)).1 += 1;
                }
            }
        }
        longer
    }

    /// Takes a chunk that was read alone.
    pub fn take_one(&mut self, chunk: usize, range: Range<u64>, bytes: Bytes) {
        let Some((number, place)) = self.place(chunk) else { return };
        let loaded = Loaded::new(std::slice::from_ref(&range), vec![bytes]);
        let found = take(&segment_name(place.segment), &loaded, &place);
        let text = match found {
            Ok(Found::Whole(encoding, data)) => {
                if let Some(taken) = self.taken.get_mut(chunk) {
                    self.longer += data.len();
                    *taken = Some((encoding, data));
                }
                return;
            }
            Ok(Found::Longer(_)) => {
                let name = segment_name(place.segment);
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

    /// The frames.
    pub fn build(mut self, spec: &Spec, batch: usize) -> Built {
        let mut framer = Framer::new(batch);
        let (mut from, mut sent) = (0, 0);
        let mut chunks: Vec<Aggr> = Vec::new();
        for (labels, to) in &self.window.series {
            let to = *to as usize;
            chunks.clear();
            for i in from..to {
                let (Some((number, place)), Some(Some((encoding, data)))) =
                    (self.window.chunks.get(i), self.taken.get_mut(i).map(Option::take))
                else {
                    continue;
                };
                add(&spec.stats.data.touched, 1u64);
                add(&spec.stats.data.touched_bytes, data.len());
                match slots(encoding, data, spec.aggregates) {
                    Ok(slots) if slots.is_empty() => {}
                    Ok(slots) => {
                        let chunk = Aggr { min_t: place.min_t, max_t: place.max_t, slots };
                        // The same chunk in two blocks: one that was compacted, and its source.
                        if chunks.last() != Some(&chunk) {
                            chunks.push(chunk);
                        }
                    }
                    Err(text) => {
                        let at = format!("{}: chunk at byte {}: {text}", segment_name(place.segment), place.start);
                        self.damage.entry(*number).or_insert_with(|| (at, 0)).1 += 1;
                    }
                }
            }
            from = to;
            if chunks.is_empty() && !spec.skip_chunks {
                continue;
            }
            sent += 1;
            add(&spec.stats.chunks, chunks.len());
            add(&spec.stats.chunk_bytes, chunks.iter().flat_map(|c| &c.slots).map(|s| s.data.len()).sum::<usize>());
            framer.push(labels, &chunks);
            if sent % 256 == 0 && spec.stop.is_set() {
                break;
            }
        }
        framer.flush();
        add(&spec.stats.series, sent);
        let last = self.window.series.pop().map(|(l, _)| l);
        let damage = self.damage.into_iter().map(|(n, (text, count))| (n, text, count)).collect();
        Built { frames: framer.take(), last, series: sent, damage }
    }
}

/// The name of a segment in its block, as errors say it.
fn segment_name(segment: u32) -> String {
    format!("{}/{}", tsdb::segment::CHUNKS_DIR, tsdb::segment::name(segment))
}

/// What of a chunk is sent.
fn slots(encoding: Encoding, data: Bytes, wanted: Aggregates) -> Result<Vec<Slot>, String> {
    let one = |field, encoding: Encoding, data| Slot { field, encoding: encoding.to_store_api(), data };
    match encoding {
        Encoding::Unknown(n) => Err(format!(
            "chunks of encoding {n} are not known to this version: read them with a newer one, or use Prometheus's default encodings"
        )),
        Encoding::Aggregate => {
            let container = Container::parse(&data).map_err(|e| e.to_string())?;
            let found = container.iter().filter(|(a, ..)| wanted.has(*a));
            // Fields 4 to 8, in the order of the container. What a container lacks (histograms have no minimum) is absent.
            found
                .map(|(a, e, d)| match e {
                    Encoding::Unknown(_) | Encoding::Aggregate => {
                        Err(format!("its aggregate {a:?} is of an encoding that none may have ({e:?})"))
                    }
                    plain => Ok(one(RAW + 1 + a as u8, plain, d.clone())),
                })
                .collect()
        }
        plain => Ok(vec![one(RAW, plain, data)]),
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
        let container = |encoding: u8| Bytes::from(vec![0, 0, 0, 0, 2, encoding, 1, 2]);
        let good = slots(Encoding::Aggregate, container(1), all);
        assert!(good.as_ref().is_ok_and(|slots| slots.len() == 1), "{good:?}");
        for encoding in [0xff, 200] {
            let got = slots(Encoding::Aggregate, container(encoding), all);
            assert!(got.as_ref().is_err_and(|text| text.contains("encoding")), "{encoding}: {got:?}");
        }
    }
}
