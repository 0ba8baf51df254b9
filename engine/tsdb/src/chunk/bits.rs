//! Reading and writing single bits, most significant first.

use bytes::{BufMut, Bytes, BytesMut};

/// The stream has fewer bits left than were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

/// Reads bits from a chunk.
///
/// `window` holds the next `left` bits at its top. A refill may put bits below them that are not yet counted in `left`;
/// they are the true next bits of the stream, so reading the same byte again later changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct BitReader {
    data: Bytes,
    pos: usize,
    window: u64,
    left: u32,
}

impl BitReader {
    /// Starts at byte `pos` of `data`.
    pub(crate) fn new(data: Bytes, pos: usize) -> Self {
        Self { data, pos, window: 0, left: 0 }
    }

    /// About where reading is, in bytes from the start of the data.
    pub(crate) fn offset(&self) -> usize {
        self.pos.saturating_sub((self.left / 8) as usize)
    }

    /// The size of the data in bytes.
    pub(crate) fn length(&self) -> usize {
        self.data.len()
    }

    /// Bits not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.data.len().saturating_sub(self.pos).saturating_mul(8).saturating_add(self.left as usize)
    }

    fn refill(&mut self) {
        if let Some(eight) = self.data.get(self.pos..).and_then(|rest| rest.first_chunk::<8>()) {
            self.window |= u64::from_be_bytes(*eight) >> self.left;
            self.pos += ((63 - self.left) >> 3) as usize;
            self.left |= 56;
            return;
        }
        while self.left <= 56 {
            let Some(byte) = self.data.get(self.pos) else { return };
            self.window |= u64::from(*byte) << (56 - self.left);
            self.pos += 1;
            self.left += 8;
        }
    }

    /// The next `n` bits (at most 64) as the low bits of a number.
    #[inline]
    pub(crate) fn read(&mut self, n: u32) -> Result<u64, Truncated> {
        if n > 56 {
            let high = self.read(n - 32)?;
            return Ok(high << 32 | self.read(32)?);
        }
        if n == 0 {
            return Ok(0);
        }
        if self.left < n {
            self.refill();
            if self.left < n {
                return Err(Truncated);
            }
        }
        let value = self.window >> (64 - n);
        self.window <<= n;
        self.left -= n;
        Ok(value)
    }

    /// The next bit.
    #[inline]
    pub(crate) fn bit(&mut self) -> Result<bool, Truncated> {
        Ok(self.read(1)? == 1)
    }

    /// How many ones come before a zero, at most `max`; the zero is consumed, unless `max` is reached.
    #[inline]
    pub(crate) fn ones(&mut self, max: u32) -> Result<u32, Truncated> {
        let mut n = 0;
        while n < max && self.bit()? {
            n += 1;
        }
        Ok(n)
    }
}

/// Writes bits into a chunk.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: BytesMut,
    /// Unused low bits of the last byte.
    free: u32,
}

impl BitWriter {
    /// Appends whole bytes; only while the stream is at a byte boundary, as at a chunk's head.
    pub(crate) fn head(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), free: 0 }
    }

    /// Appends the low `n` bits of `value` (n at most 64).
    pub(crate) fn write(&mut self, value: u64, mut n: u32) {
        while n > 0 {
            if self.free == 0 {
                self.bytes.put_u8(0);
                self.free = 8;
            }
            let take = n.min(self.free);
            let piece = (value >> (n - take)) & ((1 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                // `piece` has at most 8 bits.
                *last |= (piece << (self.free - take)) as u8;
            }
            self.free -= take;
            n -= take;
        }
    }

    /// Overwrites the two bytes at the head: the number of samples.
    pub(crate) fn set_count(&mut self, count: u16) {
        if let Some(head) = self.bytes.first_chunk_mut::<2>() {
            *head = count.to_be_bytes();
        }
    }

    /// The finished chunk.
    pub(crate) fn finish(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_was_written(items in prop::collection::vec((any::<u64>(), 0u32..=64), 0..200)) {
            let mut w = BitWriter::default();
            for (v, n) in &items {
                w.write(*v, *n);
            }
            let total: usize = items.iter().map(|(_, n)| *n as usize).sum();
            let mut r = BitReader::new(w.finish(), 0);
            prop_assert_eq!(r.remaining(), total.div_ceil(8) * 8);
            for (v, n) in &items {
                let want = if *n == 64 { *v } else { v & ((1 << n) - 1) };
                prop_assert_eq!(r.read(*n), Ok(want));
            }
            prop_assert_eq!(r.read(64), Err(Truncated));
        }
    }
}
