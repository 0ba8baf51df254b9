//! Checked reading of numbers from foreign bytes, with errors that know where they are.

use crate::error::{Error, ErrorKind, Result};

/// A place in a section of a file.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    file: &'a str,
    section: &'static str,
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` begins in the file.
    base: u64,
}

impl<'a> Cursor<'a> {
    /// The begin of `bytes`, which lie at `base` in `file`.
    pub(crate) fn new(file: &'a str, section: &'static str, bytes: &'a [u8], base: u64) -> Self {
        Self { file, section, bytes, at: 0, base }
    }

    /// Bytes that were read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about the bytes at this place.
    #[cold]
    pub(crate) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(self.file, self.section, self.offset(), what)
    }

    /// The place in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    #[cold]
    fn truncated(&self, needed: u64) -> Error {
        let kind = ErrorKind::Truncated { needed, left: self.left() as u64 };
        Error::new(self.file, self.section, self.offset(), kind)
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(self.truncated(n as u64)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<N>) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.truncated(N as u64)),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn be32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn be64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Go's `binary.Uvarint`: base 128, least significant first, at most 64 bits.
    pub(crate) fn uvarint(&mut self) -> Result<u64> {
        match uvarint(self.bytes.get(self.at..).unwrap_or_default()) {
            Varint::Value(value, used) => {
                self.at += used;
                Ok(value)
            }
            Varint::Short => Err(self.truncated(self.left() as u64 + 1)),
            Varint::Overflow => Err(self.corrupt("a number of more than 64 bits")),
        }
    }

    /// Go's `binary.Varint`: zigzag.
    pub(crate) fn varint(&mut self) -> Result<i64> {
        let n = self.uvarint()?;
        Ok(((n >> 1) as i64) ^ -((n & 1) as i64))
    }

    /// A number that counts or measures something in memory.
    pub(crate) fn length(&mut self) -> Result<usize> {
        let n = self.uvarint()?;
        usize::try_from(n).map_err(|_e| self.truncated(n))
    }

    /// Bytes after their length.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8]> {
        let n = self.length()?;
        self.take(n)
    }
}

/// A number in base 128.
pub(crate) enum Varint {
    /// The number and its bytes.
    Value(u64, usize),
    /// The bytes end within it.
    Short,
    /// It has more than 64 bits.
    Overflow,
}

/// Reads a number at the start of `bytes`.
#[inline]
pub(crate) fn uvarint(bytes: &[u8]) -> Varint {
    let (mut value, mut shift) = (0u64, 0u32);
    for (i, &b) in bytes.iter().enumerate() {
        if shift == 63 && b > 1 {
            return Varint::Overflow;
        }
        value |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Varint::Value(value, i + 1);
        }
        shift += 7;
        if shift > 63 {
            return Varint::Overflow;
        }
    }
    Varint::Short
}

/// The content of a section that is framed as `u32 length, content, u32 CRC32-Castagnoli of the content`, at `at` in
/// `bytes`, which are those of the whole file. The checksum is verified unless `protection` is off.
pub(crate) fn framed<'a>(
    file: &'a str,
    section: &'static str,
    bytes: &'a [u8],
    at: u64,
    protection: &str,
) -> Result<Cursor<'a>> {
    let start = usize::try_from(at).ok().filter(|s| *s <= bytes.len());
    let Some(start) = start else {
        let what = format!("the section lies beyond the file's {} bytes", bytes.len());
        return Err(Error::corrupt(file, section, at, what));
    };
    let mut cursor = Cursor::new(file, section, bytes.get(start..).unwrap_or_default(), at);
    let length = cursor.be32()? as usize;
    let content = cursor.take(length)?;
    let expected = cursor.be32()?;
    if !model::protection::off(protection) {
        check_crc(file, section, at, content, expected)?;
    }
    Ok(Cursor::new(file, section, content, at.saturating_add(4)))
}

/// Verifies a checksum of bytes that begin at `offset`.
pub(crate) fn check_crc(file: &str, section: &'static str, offset: u64, content: &[u8], expected: u32) -> Result<()> {
    let found = crc32c::crc32c(content);
    if found != expected {
        return Err(Error::new(file, section, offset, ErrorKind::Checksum { expected, found }));
    }
    Ok(())
}

/// Appends a number in base 128.
pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number, zigzag in base 128.
pub(crate) fn put_varint(out: &mut Vec<u8>, n: i64) {
    put_uvarint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends bytes after their length.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_that_are_too_long_are_refused() {
        let mut c = Cursor::new("f", "s", &[0xff; 12], 100);
        let error = c.uvarint().unwrap_err();
        assert!(error.to_string().starts_with("f: s at byte 100: a number of more than 64 bits"), "{error}");
        assert!(matches!(uvarint(&[0x80, 0x80]), Varint::Short));
        let mut c = Cursor::new("f", "s", &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2], 0);
        assert!(c.uvarint().is_err());
        let mut c = Cursor::new("f", "s", &[5, 1, 2], 7);
        let error = c.sized().unwrap_err();
        assert!(error.to_string().contains("at byte 8: it ends early: 5 more bytes are announced, 2 are there"));
    }

    #[test]
    fn frames_are_checked() {
        let mut bytes = vec![9, 0, 0, 0, 2, b'h', b'i'];
        bytes.extend(crc32c::crc32c(b"hi").to_be_bytes());
        assert_eq!(framed("f", "s", &bytes, 1, "index-crc").unwrap().take(2).unwrap(), b"hi");
        bytes[5] ^= 1;
        assert!(matches!(framed("f", "s", &bytes, 1, "index-crc").err().unwrap().kind, ErrorKind::Checksum { .. }));
        assert!(framed("f", "s", &bytes, 99, "index-crc").is_err());
        assert!(framed("f", "s", &bytes, 2, "index-crc").is_err());
    }

    proptest! {
        #[test]
        fn numbers_round_trip(a: u64, b: i64, text in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            put_uvarint(&mut out, a);
            put_varint(&mut out, b);
            put_sized(&mut out, &text);
            let mut c = Cursor::new("f", "s", &out, 0);
            prop_assert_eq!(c.uvarint().unwrap(), a);
            prop_assert_eq!(c.varint().unwrap(), b);
            prop_assert_eq!(c.sized().unwrap(), &text[..]);
            prop_assert_eq!(c.left(), 0);
        }
    }
}
