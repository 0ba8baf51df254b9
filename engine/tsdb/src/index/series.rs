//! Series entries: labels by reference, chunks by time and place.

use super::symbols::CachedSymbols;
use crate::error::Result;
use crate::read::{Cursor, check_crc, put_uvarint, put_varint};
use model::Labels;
use model::labels::is_sorted;

/// All label names and values of one series together can't be longer than this. A few bytes in a file may name a long
/// symbol many times; real series have less than 64 KiB.
pub const MAX_LABEL_BYTES: usize = 1 << 20;

/// A chunk of a series, as its index tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkMeta {
    /// Time of its first sample in ms.
    pub min_time: i64,
    /// Time of its last sample in ms.
    pub max_time: i64,
    /// Where it lies: the number of the segment from 0 in the upper 32 bits, the place in its file in the lower.
    pub reference: u64,
}

/// A series as its entry tells it. Reused from entry to entry, so that reading many costs no allocation.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// References of names and values, in turn.
    pub symbols: Vec<(u32, u32)>,
    /// Its chunks, in the order of the entry.
    pub chunks: Vec<ChunkMeta>,
}

impl Series {
    /// Reads an entry that begins at `at` in `file`: its length, its body, its checksum. `bytes` begin with the entry and
    /// may go on behind it. Gives the entry's size in bytes.
    ///
    /// # Errors
    /// When the entry is damaged or ends early.
    pub fn read(&mut self, file: &str, bytes: &[u8], at: u64) -> Result<usize> {
        let mut cursor = Cursor::new(file, "series", bytes, at);
        let length = cursor.length()?;
        let body_at = cursor.offset();
        let body = cursor.take(length)?;
        let expected = cursor.be32()?;
        if !model::protection::off("index-crc") {
            check_crc(file, "series", at, body, expected)?;
        }
        self.read_body(Cursor::new(file, "series", body, body_at))?;
        Ok(cursor.position())
    }

    /// Reads the labels of a body; the cursor is then at its chunks.
    pub(super) fn read_labels<'c>(&mut self, mut c: Cursor<'c>) -> Result<Cursor<'c>> {
        self.symbols.clear();
        self.chunks.clear();
        let labels = c.length()?;
        // A label takes two bytes at least, a chunk three: more are announced than can be there.
        self.symbols.reserve_exact(labels.min(c.left() / 2));
        for _ in 0..labels {
            let (name, value) = (c.uvarint()?, c.uvarint()?);
            let (Ok(name), Ok(value)) = (u32::try_from(name), u32::try_from(value)) else {
                return Err(c.corrupt(format!("symbols {name} and {value}: references have 32 bits")));
            };
            self.symbols.push((name, value));
        }
        Ok(c)
    }

    fn read_body(&mut self, c: Cursor<'_>) -> Result<()> {
        let mut c = self.read_labels(c)?;
        let chunks = c.length()?;
        self.chunks.reserve_exact(chunks.min(c.left() / 3));
        let mut last: Option<ChunkMeta> = None;
        for _ in 0..chunks {
            let meta = match last {
                None => {
                    let min_time = c.varint()?;
                    let length = c.uvarint()?;
                    let max_time = later(&c, min_time, length)?;
                    ChunkMeta { min_time, max_time, reference: c.uvarint()? }
                }
                Some(l) => {
                    let gap = c.uvarint()?;
                    // Prometheus adds with wrap-around: a chunk that begins before its predecessor ends has a huge gap.
                    let min_time = l.max_time.wrapping_add(gap as i64);
                    let length = c.uvarint()?;
                    let max_time = later(&c, min_time, length)?;
                    let reference = l.reference.wrapping_add(c.varint()? as u64);
                    ChunkMeta { min_time, max_time, reference }
                }
            };
            self.chunks.push(meta);
            last = Some(meta);
        }
        if c.left() > 0 {
            return Err(c.corrupt(format!("{} bytes too many in a series", c.left())));
        }
        Ok(())
    }

    /// The labels. Ones that are out of order (a bug of Prometheus 2.8 and older) are put in order; one without a value, which
    /// is as if it was not there, is left out.
    ///
    /// # Errors
    /// When a symbol is missing, a name is there twice or is empty, or all are longer than [`MAX_LABEL_BYTES`].
    pub fn labels(&self, file: &str, at: u64, symbols: &mut CachedSymbols<'_>) -> Result<Labels> {
        let c = Cursor::new(file, "series", &[], at);
        let mut size = 0usize;
        let mut pairs = Vec::with_capacity(self.symbols.len().min(256));
        for (name, value) in &self.symbols {
            let (name, value) = (symbols.lookup(*name)?, symbols.lookup(*value)?);
            size += name.len() + value.len();
            if size > MAX_LABEL_BYTES {
                return Err(c.corrupt(format!("the labels of a series are longer than {MAX_LABEL_BYTES} bytes")));
            }
            if !value.is_empty() || model::protection::off("empty-label") {
                pairs.push((name, value));
            }
        }
        if !is_sorted(pairs.iter().copied()) {
            pairs.sort_unstable();
            if !is_sorted(pairs.iter().copied()) {
                return Err(c.corrupt("a label is there twice, or has no name"));
            }
        }
        Ok(Labels::from_sorted(pairs))
    }

    /// How many labels stand before one of a smaller name; told by the symbols, which are sorted.
    pub fn label_inversions(&self) -> usize {
        self.symbols.windows(2).filter(|w| matches!(w, [a, b] if b.0 < a.0)).count()
    }
}

/// The end of a time range of this length; one that is beyond all time is an error.
fn later(c: &Cursor<'_>, from: i64, length: u64) -> Result<i64> {
    from.checked_add_unsigned(length)
        .ok_or_else(|| c.corrupt(format!("a chunk from {from} of {length} ms: beyond the end of time")))
}

/// Appends an entry: length, body, checksum.
pub(super) fn write(out: &mut Vec<u8>, body: &mut Vec<u8>, symbols: &[(u32, u32)], chunks: &[ChunkMeta]) {
    body.clear();
    put_uvarint(body, symbols.len() as u64);
    for (name, value) in symbols {
        put_uvarint(body, u64::from(*name));
        put_uvarint(body, u64::from(*value));
    }
    put_uvarint(body, chunks.len() as u64);
    let mut last: Option<ChunkMeta> = None;
    for c in chunks {
        let length = c.max_time.wrapping_sub(c.min_time) as u64;
        match last {
            None => {
                put_varint(body, c.min_time);
                put_uvarint(body, length);
                put_uvarint(body, c.reference);
            }
            Some(l) => {
                put_uvarint(body, c.min_time.wrapping_sub(l.max_time) as u64);
                put_uvarint(body, length);
                put_varint(body, c.reference.wrapping_sub(l.reference) as i64);
            }
        }
        last = Some(*c);
    }
    put_uvarint(out, body.len() as u64);
    out.extend_from_slice(body);
    out.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
}
