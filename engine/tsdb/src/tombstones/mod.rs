//! Tombstones: time ranges of series that were deleted but are still in the chunks. See FORMAT.md.
//!
//! Prometheus honours them. Thanos neither uploads nor reads them.

use crate::error::{Error, ErrorKind, Result};
use crate::read::{Cursor, check_crc, put_uvarint, put_varint};

/// The file's name in the folder of its block.
pub const TOMBSTONES_FILE: &str = "tombstones";
/// A file can't be larger than this.
pub const MAX_TOMBSTONES_BYTES: u64 = 256 << 20;
const MAGIC: u32 = 0x0130_BA30;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 5;
const CRC_LEN: usize = 4;

/// A deleted time range of a series, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stone {
    /// The series' reference, as postings have it.
    pub series: u64,
    /// Begin in ms.
    pub min_time: i64,
    /// End in ms.
    pub max_time: i64,
}

/// Deleted ranges, by series and time; ranges of a series neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones(Vec<Stone>);

impl Tombstones {
    /// From ranges in any order.
    pub fn new(mut stones: Vec<Stone>) -> Self {
        stones.sort_unstable();
        stones.dedup_by(|next, kept| {
            let joins = next.series == kept.series && next.min_time <= kept.max_time.saturating_add(1);
            if joins {
                kept.max_time = kept.max_time.max(next.max_time);
            }
            joins
        });
        Self(stones)
    }

    /// Reads the file's bytes; `file` is named in errors.
    ///
    /// # Errors
    /// When they are damaged, or the version is not known.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        let mut header = Cursor::new(file, "header", bytes, 0);
        let magic = header.be32()?;
        if magic != MAGIC {
            let what = format!("it begins with {magic:08x}, tombstones with {MAGIC:08x}");
            return Err(Error::corrupt(file, "header", 0, what));
        }
        let version = header.u8()?;
        if version != VERSION {
            let what = format!("version {version} of the tombstones is not known, only {VERSION}");
            return Err(Error::new(file, "header", 4, ErrorKind::Version(what)));
        }
        let content = header.take(header.left().saturating_sub(CRC_LEN))?;
        let expected = header.be32()?;
        if !model::protection::off("tombstones-crc") {
            check_crc(file, "stones", HEADER_LEN as u64, content, expected)?;
        }
        let mut cursor = Cursor::new(file, "stones", content, HEADER_LEN as u64);
        let mut stones = Vec::with_capacity(content.len() / 3);
        while cursor.left() > 0 {
            let (series, min_time, max_time) = (cursor.uvarint()?, cursor.varint()?, cursor.varint()?);
            if min_time > max_time {
                return Err(cursor.corrupt(format!("a range from {min_time} to {max_time}")));
            }
            stones.push(Stone { series, min_time, max_time });
        }
        Ok(Self::new(stones))
    }

    /// The bytes of the file.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.0.len() * 16 + CRC_LEN);
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.push(VERSION);
        for stone in &self.0 {
            put_uvarint(&mut out, stone.series);
            put_varint(&mut out, stone.min_time);
            put_varint(&mut out, stone.max_time);
        }
        let crc = crc32c::crc32c(out.get(HEADER_LEN..).unwrap_or_default());
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// All ranges, by series and time.
    pub fn stones(&self) -> &[Stone] {
        &self.0
    }

    /// The ranges of a series, by time.
    pub fn of(&self, series: u64) -> &[Stone] {
        let from = self.0.partition_point(|s| s.series < series);
        let rest = self.0.get(from..).unwrap_or_default();
        rest.get(..rest.partition_point(|s| s.series == series)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stone(series: u64, min_time: i64, max_time: i64) -> Stone {
        Stone { series, min_time, max_time }
    }

    #[test]
    fn ranges_are_joined() {
        let t =
            Tombstones::new(vec![stone(2, 5, 9), stone(1, 0, 1), stone(2, 10, 12), stone(2, 20, 30), stone(2, 1, 6)]);
        assert_eq!(t.of(2), [stone(2, 1, 12), stone(2, 20, 30)]);
        assert_eq!(t.of(1).len(), 1);
        assert!(t.of(3).is_empty());
        // As Prometheus writes an empty file.
        assert_eq!(Tombstones::default().write(), [0x01, 0x30, 0xba, 0x30, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn damage_is_told() {
        let mut bytes = Tombstones::new(vec![stone(1, 0, 1), stone(700, -5, i64::MAX)]).write();
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        let error = Tombstones::read("tombstones", &bytes).unwrap_err();
        assert!(error.to_string().starts_with("tombstones: stones at byte 5: the checksum is"), "{error}");
        assert!(matches!(Tombstones::read("t", b"\x01\x30\xba\x30\x02").unwrap_err().kind, ErrorKind::Version(_)));
        assert!(Tombstones::read("t", b"").is_err());
    }

    proptest! {
        #[test]
        fn round_trip(stones in prop::collection::vec((any::<u64>(), any::<i64>(), any::<u32>()), 0..50)) {
            let t = Tombstones::new(stones.into_iter().map(|(s, t, d)| stone(s, t, t.saturating_add(i64::from(d)))).collect());
            prop_assert_eq!(Tombstones::read("t", &t.write()).unwrap(), t);
        }
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Tombstones::read("t", &bytes);
        }
    }
}
