//! XOR2 chunks: floats with start times. Time and value share one prefix, and staleness markers take a prefix of their own
//! instead of breaking the run of values: the value before the marker stays the base of the XOR.
//!
//! Prefixes from the third sample on: `0` steady time, same value; `10` steady time, other value; `110` and `1110` a time that is
//! off by up to 13 and 20 bits (so that prefix and number fill whole bytes), `11110` by 64; `11111` steady time, stale.

use super::bits::{BitReader, BitWriter};
use super::error::{ChunkError, EncodeError, Fault, Section, no_head};
use super::start_time::StartTimes;
use super::xor::Window;
use super::{Columns, Encoding};
use bytes::Bytes;
use model::sample::{STALE_NAN_BITS, is_stale};
use std::ops::Deref;

#[derive(Debug, Clone)]
struct State {
    t: i64,
    delta: u64,
    /// The sample's value, and the last one that is no staleness marker.
    value: u64,
    base: u64,
    window: Window,
    starts: StartTimes,
}

impl State {
    fn new(head: u8) -> Self {
        Self { t: 0, delta: 0, value: 0, base: 0, window: Window::WHOLE, starts: StartTimes::new(head) }
    }

    /// Reads sample `index`, from 2 on.
    #[inline(always)]
    fn next<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>, index: u16) -> Result<(), Fault> {
        let before = self.t;
        r.refill();
        match r.ones(5) {
            0 => {
                self.tick(0);
                self.value = self.base;
            }
            1 => {
                self.tick(0);
                let new_window = r.bit();
                self.changed(r, new_window)?;
            }
            5 => {
                self.tick(0);
                self.value = STALE_NAN_BITS;
            }
            n => {
                let width = match n {
                    2 => 13,
                    3 => 20,
                    _ => 64,
                };
                let shift = 64 - width;
                self.tick((r.take(width) << shift) as i64 >> shift);
                self.any(r)?;
            }
        }
        self.starts.next(r, index, before);
        if r.overrun() { Err(Fault::Truncated) } else { Ok(()) }
    }

    #[inline(always)]
    fn tick(&mut self, change: i64) {
        self.delta = self.delta.wrapping_add_signed(change);
        self.t = self.t.wrapping_add(self.delta as i64);
    }

    /// Reads sample 0 or 1.
    #[inline(never)]
    fn first<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>, index: u16) -> Result<(), Fault> {
        const LONG: Fault = Fault::Corrupt("a variable-length time has more than 64 bits");
        if index == 0 {
            self.t = r.varint().ok_or(LONG)?;
            self.value = r.take(64);
            if self.value != STALE_NAN_BITS {
                self.base = self.value;
            }
            self.starts.first(r, self.t)?;
        } else {
            let before = self.t;
            self.delta = r.uvarint().ok_or(LONG)?;
            self.tick(0);
            self.any(r)?;
            self.starts.next(r, index, before);
        }
        if r.overrun() { Err(Fault::Truncated) } else { Ok(()) }
    }

    /// A value behind a time that is not steady: `0` the same, `10` and `110` another, `111` stale.
    #[inline(always)]
    fn any<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>) -> Result<(), Fault> {
        match r.ones(3) {
            0 => self.value = self.base,
            3 => self.value = STALE_NAN_BITS,
            n => self.changed(r, n == 2)?,
        }
        Ok(())
    }

    #[inline(always)]
    fn changed<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>, new_window: bool) -> Result<(), Fault> {
        if new_window {
            self.window = Window::read(r)?;
        }
        self.base ^= self.window.read_xor(r);
        self.value = self.base;
        Ok(())
    }
}

fn head(data: &[u8]) -> Result<(u16, State), ChunkError> {
    let Some([a, b, starts]) = data.first_chunk() else { return Err(no_head(Encoding::Xor2, data)) };
    Ok((u16::from_be_bytes([*a, *b]), State::new(*starts)))
}

/// The samples of a XOR2 chunk: time in milliseconds since the epoch, value.
#[derive(Debug, Clone)]
pub struct Xor2Iter {
    r: BitReader,
    total: u16,
    read: u16,
    state: State,
}

impl Xor2Iter {
    /// Opens a chunk; fails if it has no head. Prefer [`super::decode`], which counts.
    pub fn new(data: Bytes) -> Result<Self, ChunkError> {
        let (total, state) = head(&data)?;
        Ok(Self { r: BitReader::new(data, 3), total, read: 0, state })
    }

    /// When the counter of the sample just read began, in milliseconds since the epoch; 0: not known.
    pub fn start_time(&self) -> i64 {
        self.state.starts.st
    }
}

impl Iterator for Xor2Iter {
    type Item = Result<(i64, f64), ChunkError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.read == self.total {
            return None;
        }
        let (state, r) = (&mut self.state, &mut self.r);
        match if self.read < 2 { state.first(r, self.read) } else { state.next(r, self.read) } {
            Ok(()) => {
                self.read += 1;
                Some(Ok((self.state.t, f64::from_bits(self.state.value))))
            }
            Err(fault) => {
                let section = Section::Sample { index: self.read, total: self.total };
                self.read = self.total;
                Some(Err(fault.at(Encoding::Xor2, section, self.r.place())))
            }
        }
    }
}

/// Appends all samples to `columns`, without start times. After an error those before the fault are there.
pub fn read_columns(data: &[u8], columns: &mut Columns) -> Result<(), ChunkError> {
    let (total, mut state) = head(data)?;
    let mut r = BitReader::new(data, 3);
    columns.fill(total, data.len(), |mut rows| {
        let fail = |index, fault: Fault, place| fault.at(Encoding::Xor2, Section::Sample { index, total }, place);
        for (index, t, v) in rows.by_ref().take(2) {
            state.first(&mut r, index).map_err(|fault| fail(index, fault, r.place()))?;
            (*t, *v) = (state.t, f64::from_bits(state.value));
        }
        // See XOR.
        let (mut r, mut state) = (r, state);
        for (index, t, v) in rows {
            state.next(&mut r, index).map_err(|fault| fail(index, fault, r.place()))?;
            (*t, *v) = (state.t, f64::from_bits(state.value));
        }
        Ok(())
    })
}

/// Builds a XOR2 chunk, byte for byte as Prometheus does.
#[derive(Debug, Clone)]
pub struct Xor2Encoder {
    w: BitWriter,
    count: u16,
    first: i64,
    t: i64,
    delta: u64,
    base: f64,
    window: Window,
    starts: StartTimes,
}

impl Default for Xor2Encoder {
    fn default() -> Self {
        Self {
            w: BitWriter::head(&[0, 0, 0]),
            count: 0,
            first: 0,
            t: 0,
            delta: 0,
            base: 0.0,
            window: Window::NONE,
            starts: StartTimes::default(),
        }
    }
}

impl Xor2Encoder {
    /// Appends a sample with its start time `st` (0: none). Times should not go back.
    ///
    /// # Errors
    /// [`EncodeError::Full`] at 65,535 samples; nothing is written then.
    pub fn append(&mut self, st: i64, t: i64, value: f64) -> Result<(), EncodeError> {
        let count = self.count.checked_add(1).ok_or(EncodeError::Full(self.count))?;
        let delta = t.wrapping_sub(self.t) as u64;
        match self.count {
            0 => {
                self.first = t;
                self.w.varint(t);
                self.w.write(value.to_bits(), 64);
            }
            1 => {
                self.w.uvarint(delta);
                self.any(value);
            }
            _ => self.joint(delta.wrapping_sub(self.delta) as i64, value),
        }
        self.starts.write(&mut self.w, self.count, st, t, self.t);
        if !is_stale(value) {
            self.base = value;
        }
        self.delta = if count == 1 { 0 } else { delta };
        (self.t, self.count) = (t, count);
        Ok(())
    }

    fn joint(&mut self, change: i64, value: f64) {
        let xor = self.base.to_bits() ^ value.to_bits();
        match change {
            0 if is_stale(value) => return self.w.write(0b11111, 5),
            0 if xor == 0 => return self.w.write(0, 1),
            0 => {
                self.w.write(0b10, 2);
                return self.window.write(&mut self.w, xor, (0, 1), (1, 1));
            }
            -0x1000..=0xfff => self.w.write(0b110 << 13 | change as u64 & 0x1fff, 16),
            -0x8_0000..=0x7_ffff => self.w.write(0b1110 << 20 | change as u64 & 0xf_ffff, 24),
            _ => {
                self.w.write(0b11110, 5);
                self.w.write(change as u64, 64);
            }
        }
        self.any(value);
    }

    fn any(&mut self, value: f64) {
        match self.base.to_bits() ^ value.to_bits() {
            _ if is_stale(value) => self.w.write(0b111, 3),
            0 => self.w.write(0, 1),
            xor => self.window.write(&mut self.w, xor, (0b10, 2), (0b110, 3)),
        }
    }

    /// Samples so far.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Size so far, in bytes.
    pub fn size(&self) -> usize {
        self.w.length()
    }

    /// Times of the first and the last sample, in milliseconds since the epoch.
    pub fn range(&self) -> (i64, i64) {
        (self.first, self.t)
    }

    /// The chunk's bytes so far; more can be appended afterwards.
    pub fn bytes(&self) -> Bytes {
        let [a, b] = self.count.to_be_bytes();
        self.w.finish(&[a, b, self.starts.head])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(steps in prop::collection::vec((0i64..1 << 40, any::<f64>(), 0u8..7), 0..300), with_st in any::<bool>()) {
            let (mut t, mut st) = (1_700_000_000_000, 0);
            let mut e = Xor2Encoder::default();
            let mut want = Vec::new();
            for (i, (d, v, kind)) in steps.iter().enumerate() {
                t += match kind { 1 => 15_000 + d % 2000 - 1000, 2 => 0, 3 => *d, _ => 15_000 };
                let v = match kind { 3 => *v, 4 => 7.0, 5 => model::sample::stale_nan(), _ => (d % 100) as f64 };
                if with_st && (*kind == 6 || i == 40) { st = t - 10_000; }
                want.push((st, t, v.to_bits()));
                e.append(st, t, v).unwrap();
            }
            let data = e.bytes();
            prop_assert_eq!(data.len(), e.size());
            let mut iter = Xor2Iter::new(data.clone()).unwrap();
            let mut read = Vec::new();
            while let Some(sample) = iter.next() {
                let (t, v) = sample.unwrap();
                read.push((iter.start_time(), t, v.to_bits()));
            }
            prop_assert_eq!(&read, &want);
            let mut columns = Columns::default();
            read_columns(&data, &mut columns).unwrap();
            prop_assert_eq!(columns.iter().map(|(t, v)| (t, v.to_bits())).collect::<Vec<_>>(),
                read.iter().map(|(_, t, v)| (*t, *v)).collect::<Vec<_>>());
        }
    }
}
