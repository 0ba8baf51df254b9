//! Aggregate chunks: Thanos's container of a downsampled series' chunks (encoding 0xff).
//!
//! Five entries in a fixed order, each a length and, if that is not 0, one byte for the encoding (which the length leaves out) and
//! so many bytes. Of floats all five are XOR chunks; of histograms the count is one, sum and counter are float histogram chunks,
//! and minimum and maximum are absent.

use super::Encoding;
use super::error::{ChunkError, ErrorKind, Section};
use bytes::{BufMut as _, Bytes, BytesMut};

/// What is aggregated over a window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Aggregate {
    /// Number of samples.
    Count,
    /// Their sum.
    Sum,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The running total of a counter, resets taken out.
    Counter,
}

impl Aggregate {
    /// All, in the order of the container.
    pub const ALL: [Self; 5] = [Self::Count, Self::Sum, Self::Min, Self::Max, Self::Counter];

    /// Thanos's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Counter => "counter",
        }
    }
}

/// The chunks in a container; no bytes are copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    chunks: [Option<(Encoding, Bytes)>; 5],
}

impl Container {
    /// Finds the chunks in a container's bytes, without opening them. Bytes behind the fifth entry are ignored, as Thanos does.
    pub fn parse(data: &Bytes) -> Result<Self, ChunkError> {
        let mut out = Self::default();
        let mut rest = data.clone();
        for (aggregate, slot) in Aggregate::ALL.into_iter().zip(&mut out.chunks) {
            let fail = |rest: &Bytes, kind| ChunkError {
                encoding: Encoding::Aggregate,
                section: Section::Aggregate(aggregate.name()),
                bit: (data.len() - rest.len()).saturating_mul(8),
                length: data.len(),
                kind,
            };
            let (length, bytes) = uvarint(&rest).map_err(|kind| fail(&rest, kind))?;
            rest = rest.slice(bytes..);
            if length == 0 {
                continue;
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (Some(encoding), Some(end)) = (rest.first().copied(), length.checked_add(1)) else {
                return Err(fail(&rest, ErrorKind::Truncated));
            };
            if end > rest.len() {
                return Err(fail(&rest, ErrorKind::Truncated));
            }
            *slot = Some((Encoding::from_prometheus(encoding), rest.split_to(end).slice(1..)));
        }
        Ok(out)
    }

    /// A container of these chunks. Thanos can't read one whose counter is absent; always set that.
    pub fn set(&mut self, aggregate: Aggregate, encoding: Encoding, data: Bytes) {
        if let Some(slot) = self.chunks.get_mut(aggregate as usize) {
            *slot = Some((encoding, data));
        }
    }

    /// The chunk of one aggregate, if it is there.
    pub fn get(&self, aggregate: Aggregate) -> Option<&(Encoding, Bytes)> {
        self.chunks.get(aggregate as usize)?.as_ref()
    }

    /// The chunks that are there.
    pub fn iter(&self) -> impl Iterator<Item = (Aggregate, Encoding, &Bytes)> {
        Aggregate::ALL.into_iter().zip(&self.chunks).filter_map(|(a, c)| c.as_ref().map(|(e, data)| (a, *e, data)))
    }

    /// The container's bytes.
    pub fn bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        for chunk in &self.chunks {
            match chunk {
                // An empty chunk can't be told from an absent one.
                Some((encoding, data)) if !data.is_empty() => {
                    put_uvarint(&mut out, data.len() as u64);
                    out.put_u8(encoding.to_prometheus());
                    out.put_slice(data);
                }
                _ => out.put_u8(0),
            }
        }
        out.freeze()
    }
}

/// The first entry of a container, `Some(None)` if it is absent. The bytes may go on behind it.
pub(super) fn first(data: &[u8]) -> Option<Option<(Encoding, &[u8])>> {
    let (length, bytes) = uvarint(data).ok()?;
    let (encoding, rest) = data.get(bytes..).unwrap_or_default().split_first().unzip();
    if length == 0 {
        return Some(None);
    }
    Some(Some((Encoding::from_prometheus(*encoding?), rest?)))
}

/// A length, and the number of bytes that it takes.
fn uvarint(data: &[u8]) -> Result<(u64, usize), ErrorKind> {
    let mut value = 0u64;
    for (i, byte) in data.iter().enumerate() {
        if i == 9 && *byte > 1 {
            return Err(ErrorKind::Corrupt("a length has more than 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return Ok((value, i + 1));
        }
    }
    Err(ErrorKind::Truncated)
}

fn put_uvarint(out: &mut BytesMut, mut v: u64) {
    while v >= 0x80 {
        out.put_u8((v & 0x7f) as u8 | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn containers_round_trip(chunks in prop::array::uniform5(prop::option::of((any::<u8>(), prop::collection::vec(any::<u8>(), 1..300))))) {
            let mut c = Container::default();
            for (a, chunk) in Aggregate::ALL.into_iter().zip(&chunks) {
                if let Some((encoding, data)) = chunk {
                    c.set(a, Encoding::from_prometheus(*encoding), data.clone().into());
                }
            }
            prop_assert_eq!(Container::parse(&c.bytes()).unwrap(), c);
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..60)) {
            let data = Bytes::from(data);
            if let Ok(c) = Container::parse(&data) {
                prop_assert!(data.starts_with(&c.bytes()) || c.iter().next().is_none() || data.len() > c.bytes().len());
            }
        }
    }

    #[test]
    fn the_layout_is_thanoss() {
        let mut c = Container::default();
        c.set(Aggregate::Count, Encoding::Xor, Bytes::from_static(&[0, 1, 7]));
        c.set(Aggregate::Counter, Encoding::FloatHistogram, Bytes::from_static(&[9]));
        assert_eq!(c.bytes().as_ref(), [3, 1, 0, 1, 7, 0, 0, 0, 1, 3, 9]);
        assert_eq!(crate::chunk::announced_samples(Encoding::Aggregate, &c.bytes()), Some(1));
        assert_eq!(crate::chunk::announced_samples(Encoding::Aggregate, &[0, 0, 0, 0, 0]), Some(0));
    }

    #[test]
    fn errors_name_the_aggregate() {
        let error = Container::parse(&Bytes::from_static(&[1, 1, 5, 0, 4, 1])).unwrap_err();
        assert_eq!(error.to_string(), "aggregate chunk, aggregate min, bit 40 of 48: it ends early");
        let error = Container::parse(&Bytes::from_static(&[0xff; 20])).unwrap_err();
        assert!(error.to_string().contains("aggregate count, bit 0 of 160: corrupt: a length"), "{error}");
    }
}
