//! Start times: when a counter began to count, a time beside each sample in the newer encodings.
//!
//! One byte in the head says whether the first sample has one (top bit) and from which sample on (low seven bits, 0: never)
//! each sample carries the distance of its predecessor's time to its own start time, the first one as it is, the further ones as
//! the change of that distance. Sample 127 carries one in any case, because a later number would not fit into the byte.

use super::bits::{BitReader, BitWriter};
use super::error::Fault;
use super::varbit::{read_int, write_int};
use std::ops::Deref;

const FIRST_KNOWN: u8 = 0x80;
const LAST_CHANGE: u16 = 0x7f;

/// The start times of one chunk while it is read or written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StartTimes {
    /// The head's byte.
    pub(crate) head: u8,
    /// The last sample's start time; 0: none.
    pub(crate) st: i64,
    diff: i64,
}

impl StartTimes {
    pub(crate) fn new(head: u8) -> Self {
        Self { head, ..Self::default() }
    }

    fn changes_from(&self) -> u16 {
        u16::from(self.head & !FIRST_KNOWN)
    }

    /// Reads that of the first sample, whose time is `t`.
    pub(crate) fn first<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>, t: i64) -> Result<(), Fault> {
        if self.head & FIRST_KNOWN != 0 {
            self.diff = r.varint().ok_or(Fault::Corrupt("a start time has more than 64 bits"))?;
            self.st = t.wrapping_sub(self.diff);
        }
        Ok(())
    }

    /// Reads that of sample `index` (from 1); `before` is its predecessor's time.
    #[inline(always)]
    pub(crate) fn next<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>, index: u16, before: i64) {
        let from = self.changes_from();
        if from > 0 && index >= from {
            let read = read_int(r);
            self.diff = if index == from { read } else { self.diff.wrapping_add(read) };
            self.st = before.wrapping_sub(self.diff);
        }
    }

    /// Writes that of sample `index`.
    pub(crate) fn write(&mut self, w: &mut BitWriter, index: u16, st: i64, t: i64, before: i64) {
        let diff = before.wrapping_sub(st);
        if index == 0 {
            if st != 0 {
                self.head = FIRST_KNOWN;
                w.varint(t.wrapping_sub(st));
            }
        } else if self.changes_from() > 0 {
            write_int(w, diff.wrapping_sub(self.diff));
            self.diff = diff;
        } else if st != self.st || index == LAST_CHANGE {
            // At most 127: at that number the branch above takes over.
            self.head |= index as u8;
            write_int(w, diff);
            self.diff = diff;
        }
        self.st = st;
    }
}
