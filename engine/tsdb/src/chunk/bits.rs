//! Reading and writing single bits, most significant first.

use super::error::Place;
use bytes::Bytes;
use std::ops::Deref;

/// Reads bits from a chunk, eight bytes at a time.
///
/// Reading never fails: behind the last byte come zeros, without end. Whoever reads asks [`BitReader::overrun`] at least once per
/// sample, before believing what was read; so the loops that decode have one check per sample and not one per bit.
///
/// `window` holds the next `left` bits at its top. A refill may put bits below them that are not yet counted in `left`; they are
/// the true next bits of the stream, so reading the same byte again later changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<D = Bytes> {
    data: D,
    pos: usize,
    window: u64,
    left: u32,
}

impl<D: Deref<Target = [u8]>> BitReader<D> {
    /// Starts at byte `pos` of `data`.
    pub(crate) fn new(data: D, pos: usize) -> Self {
        Self { data, pos, window: 0, left: 0 }
    }

    /// Where reading is, in bits from the start of the data; behind the end after an overrun.
    #[inline(always)]
    pub(crate) fn position(&self) -> usize {
        self.pos.saturating_mul(8).saturating_sub(self.left as usize)
    }

    /// The same, for errors.
    #[inline(always)]
    pub(crate) fn place(&self) -> Place {
        Place { bit: self.position(), length: self.data.len() }
    }

    /// The size of the data in bytes.
    pub(crate) fn length(&self) -> usize {
        self.data.len()
    }

    /// Bits not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.data.len().saturating_mul(8).saturating_sub(self.position())
    }

    /// Whether more bits were read than there are.
    #[inline(always)]
    pub(crate) fn overrun(&self) -> bool {
        // In whole bytes first: `pos` runs at most eight bytes ahead of what is used.
        self.pos > self.data.len() && self.position() > self.data.len() * 8
    }

    /// Makes at least 56 bits available.
    #[inline(always)]
    pub(crate) fn refill(&mut self) {
        let next = match self.data.get(self.pos..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(eight) => u64::from_be_bytes(*eight),
            None => tail(&self.data, self.pos),
        };
        self.window |= next >> self.left;
        self.pos += ((63 - self.left) >> 3) as usize;
        self.left |= 56;
    }

    /// The next 64 bits, of which at least as many are real as the last refill promised and no one used since.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u64 {
        self.window
    }

    /// Passes over `n` bits that a refill promised.
    #[inline(always)]
    pub(crate) fn skip(&mut self, n: u32) {
        debug_assert!(n <= self.left && n < 64);
        self.window <<= n;
        self.left -= n;
    }

    /// The next `n` bits (at most 64) as the low bits of a number.
    #[inline(always)]
    pub(crate) fn take(&mut self, n: u32) -> u64 {
        if self.left < n {
            self.refill();
            if self.left < n {
                let high = self.take_ready(32);
                self.refill();
                return high << (n - 32) | self.take_ready(n - 32);
            }
        }
        self.take_ready(n)
    }

    /// The next `n` bits, at most as many as are available.
    #[inline(always)]
    fn take_ready(&mut self, n: u32) -> u64 {
        debug_assert!(n <= self.left && n < 64);
        // Shifted twice, since a shift by 64 (for n = 0) is none.
        let value = self.window >> 1 >> (63 - n);
        self.skip(n);
        value
    }

    /// The next bit.
    #[inline(always)]
    pub(crate) fn bit(&mut self) -> bool {
        self.take(1) == 1
    }

    /// How many ones come before a zero, at most `max` (8 or less); the zero is consumed, unless `max` is reached.
    #[inline(always)]
    pub(crate) fn ones(&mut self, max: u32) -> u32 {
        if self.left < 9 {
            self.refill();
        }
        let ones = self.window.leading_ones().min(max);
        self.skip(ones + u32::from(ones < max));
        ones
    }

    /// A number in groups of seven bits, lowest first; `None` if it has more than 64 bits.
    pub(crate) fn uvarint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(8);
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Like [`BitReader::uvarint`], with the sign in the lowest bit.
    pub(crate) fn varint(&mut self) -> Option<i64> {
        self.uvarint().map(|raw| (raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
}

/// The last bytes from `pos` on, when fewer than eight are left, and zeros. A function of its own, and not of the reader's: that can
/// stay in registers then, and refills stay small.
#[inline(never)]
fn tail(data: &[u8], pos: usize) -> u64 {
    let rest = data.get(pos..).unwrap_or_default();
    match data.last_chunk::<8>() {
        _ if rest.is_empty() => 0,
        Some(last) => u64::from_be_bytes(*last) << (64 - 8 * rest.len().min(8)),
        None => rest.iter().zip((0..8).rev()).fold(0, |n, (byte, i)| n | u64::from(*byte) << (8 * i)),
    }
}

/// Writes bits into a chunk, behind a head of whole bytes.
#[derive(Debug, Clone)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// The last bits, at the top, and how many they are (less than 64).
    window: u64,
    used: u32,
}

impl BitWriter {
    /// Begins with a head.
    pub(crate) fn head(bytes: &[u8]) -> Self {
        let mut head = Vec::with_capacity(128);
        head.extend_from_slice(bytes);
        Self { bytes: head, window: 0, used: 0 }
    }

    /// Appends the low `n` bits of `value` (n at most 64).
    #[inline]
    pub(crate) fn write(&mut self, value: u64, n: u32) {
        if n == 0 {
            return;
        }
        let top = value << (64 - n);
        self.window |= top >> self.used;
        let free = 64 - self.used;
        if n < free {
            self.used += n;
        } else {
            self.bytes.extend_from_slice(&self.window.to_be_bytes());
            // What did not fit; `free` is 64 only when nothing is left over.
            self.window = top.checked_shl(free).unwrap_or(0);
            self.used = n - free;
        }
    }

    /// See [`BitReader::uvarint`].
    pub(crate) fn uvarint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.write(v & 0x7f | 0x80, 8);
            v >>= 7;
        }
        self.write(v, 8);
    }

    /// See [`BitReader::varint`].
    pub(crate) fn varint(&mut self, v: i64) {
        self.uvarint(((v << 1) ^ (v >> 63)) as u64);
    }

    /// The size in bytes so far.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len() + self.used.div_ceil(8) as usize
    }

    /// All bytes so far, the first ones replaced by `head`.
    pub(crate) fn finish(&self, head: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(self.length());
        out.extend_from_slice(&self.bytes);
        out.extend(self.window.to_be_bytes().iter().take(self.used.div_ceil(8) as usize));
        out.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_was_written(items in prop::collection::vec((any::<u64>(), 0u32..=64), 0..200), head in 0usize..9) {
            let mut w = BitWriter::head(&vec![0; head]);
            for (v, n) in &items {
                w.write(*v, *n);
            }
            let total: usize = items.iter().map(|(_, n)| *n as usize).sum();
            let data = w.finish(&[]);
            prop_assert_eq!(data.len(), head + total.div_ceil(8));
            prop_assert_eq!(w.length(), data.len());
            let mut r = BitReader::new(data, head);
            let mut read = 0;
            for (v, n) in &items {
                let want = if *n == 64 { *v } else { v & ((1 << n) - 1) };
                prop_assert_eq!(r.take(*n), want);
                read += *n as usize;
                prop_assert_eq!(r.position(), 8 * head + read);
                prop_assert!(!r.overrun());
            }
            let left = r.remaining() as u32;
            prop_assert_eq!(r.take(left), 0);
            prop_assert!(!r.overrun());
            prop_assert_eq!(r.take(64), 0);
            prop_assert!(r.overrun());
        }

        #[test]
        fn variable_lengths_round_trip(v in any::<i64>(), shift in 0u32..64) {
            let v = v >> shift;
            let mut w = BitWriter::head(&[]);
            w.varint(v);
            w.write(1, 1);
            w.uvarint(v as u64);
            let mut r = BitReader::new(w.finish(&[]), 0);
            prop_assert_eq!(r.varint(), Some(v));
            prop_assert!(r.bit());
            prop_assert_eq!(r.uvarint(), Some(v as u64));
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        assert_eq!(BitReader::new(&[0xff; 12][..], 0).uvarint(), None);
        assert_eq!(BitReader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..], 0).uvarint(), None);
    }
}
