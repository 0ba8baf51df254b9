//! XOR chunks: floats. Times are stored as differences of differences, values as the XOR with the previous value.

use super::bits::{BitReader, BitWriter};
use super::error::{ChunkError, EncodeError, Fault, Section, no_head};
use super::varbit::{fits, sign_extend};
use super::{Columns, Encoding};
use bytes::Bytes;
use std::ops::Deref;

/// The bits of a XOR that are written: those that a value shares with its predecessor's window are left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    leading: u32,
    trailing: u32,
}

impl Window {
    /// What a reader assumes before it has read one.
    pub(crate) const WHOLE: Self = Self { leading: 0, trailing: 0 };
    /// What a writer begins with: nothing fits into it.
    pub(crate) const NONE: Self = Self { leading: 65, trailing: 65 };

    /// Reads a new window.
    #[inline(always)]
    pub(crate) fn read<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Result<Self, Fault> {
        let both = r.take(11) as u32;
        let (leading, significant) = (both >> 6, both & 63);
        // 64 does not fit into six bits and is written as 0.
        let significant = if significant == 0 { 64 } else { significant };
        match 64u32.checked_sub(leading + significant) {
            Some(trailing) => Ok(Self { leading, trailing }),
            None => Err(Fault::Corrupt("a value has more than 64 significant bits")),
        }
    }

    /// Reads a XOR that lies in this window.
    #[inline(always)]
    pub(crate) fn read_xor<D: Deref<Target = [u8]>>(self, r: &mut BitReader<D>) -> u64 {
        r.take(64 - self.leading - self.trailing) << self.trailing
    }

    /// Writes a XOR that is not 0, behind one of two prefixes (bits, their number): for this window, if it fits, or for a new
    /// one, which is then kept.
    pub(crate) fn write(&mut self, w: &mut BitWriter, xor: u64, same: (u64, u32), new: (u64, u32)) {
        // Five bits hold the number of leading zeros.
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        if leading >= self.leading && trailing >= self.trailing {
            w.write(same.0, same.1);
        } else {
            *self = Self { leading, trailing };
            w.write(new.0, new.1);
            w.write(u64::from(leading), 5);
            w.write(u64::from(64 - leading - trailing) & 63, 6);
        }
        w.write(xor >> self.trailing, 64 - self.leading - self.trailing);
    }
}

/// Reads the successor of the value with the bits `value`.
#[inline(always)]
pub(crate) fn read_xor<D: Deref<Target = [u8]>>(
    r: &mut BitReader<D>,
    value: &mut u64,
    window: &mut Window,
) -> Result<(), Fault> {
    if r.bit() {
        if r.bit() {
            *window = Window::read(r)?;
        }
        *value ^= window.read_xor(r);
    }
    Ok(())
}

/// Writes `value` as the successor of `previous`.
pub(crate) fn write_xor(w: &mut BitWriter, previous: f64, value: f64, window: &mut Window) {
    match previous.to_bits() ^ value.to_bits() {
        0 => w.write(0, 1),
        xor => window.write(w, xor, (0b10, 2), (0b11, 2)),
    }
}

/// What is known while a chunk is read.
#[derive(Debug, Clone)]
struct State {
    t: i64,
    delta: u64,
    value: u64,
    window: Window,
}

/// Widths of a difference of differences after 0…3 ones; after 4 it is 64.
const WIDTHS: [u32; 4] = [0, 14, 17, 20];

impl State {
    const START: Self = Self { t: 0, delta: 0, value: 0, window: Window::WHOLE };

    /// Reads sample 0 or 1.
    #[inline(never)]
    fn first<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>, index: u16) -> Result<(), Fault> {
        const LONG: Fault = Fault::Corrupt("a variable-length time has more than 64 bits");
        if index == 0 {
            self.t = r.varint().ok_or(LONG)?;
            self.value = r.take(64);
        } else {
            self.delta = r.uvarint().ok_or(LONG)?;
            self.t = self.t.wrapping_add(self.delta as i64);
            read_xor(r, &mut self.value, &mut self.window)?;
        }
        if r.overrun() { Err(Fault::Truncated) } else { Ok(()) }
    }

    /// Reads any further sample: the hot path of all queries. One refill covers the time (at most 24 bits, or 4 and the rare 64) and the two bits that say
    /// how the value is stored.
    #[inline(always)]
    fn next<D: Deref<Target = [u8]>>(&mut self, r: &mut BitReader<D>) -> Result<(), Fault> {
        r.refill();
        if r.peek() >> 63 == 0 {
            r.skip(1);
        } else {
            let ones = r.peek().leading_ones();
            let change = match WIDTHS.get(ones as usize) {
                Some(width) => {
                    r.skip(ones + 1);
                    sign_extend(r.take(*width), *width)
                }
                None => {
                    r.skip(4);
                    r.take(64) as i64
                }
            };
            self.delta = self.delta.wrapping_add_signed(change);
        }
        self.t = self.t.wrapping_add(self.delta as i64);
        read_xor(r, &mut self.value, &mut self.window)?;
        if r.overrun() { Err(Fault::Truncated) } else { Ok(()) }
    }
}

/// The samples of a XOR chunk: time in milliseconds since the epoch, value.
#[derive(Debug, Clone)]
pub struct XorIter {
    r: BitReader,
    total: u16,
    read: u16,
    state: State,
}

impl XorIter {
    /// Opens a chunk; fails if it has no head. Prefer [`super::decode`], which counts.
    pub fn new(data: Bytes) -> Result<Self, ChunkError> {
        let total = announced(&data)?;
        Ok(Self { r: BitReader::new(data, 2), total, read: 0, state: State::START })
    }

    /// Samples that the head announces.
    pub fn announced(&self) -> u16 {
        self.total
    }
}

fn announced(data: &[u8]) -> Result<u16, ChunkError> {
    data.first_chunk().map(|b| u16::from_be_bytes(*b)).ok_or_else(|| no_head(Encoding::Xor, data))
}

impl Iterator for XorIter {
    type Item = Result<(i64, f64), ChunkError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.read == self.total {
            return None;
        }
        let (state, r) = (&mut self.state, &mut self.r);
        match if self.read < 2 { state.first(r, self.read) } else { state.next(r) } {
            Ok(()) => {
                self.read += 1;
                Some(Ok((self.state.t, f64::from_bits(self.state.value))))
            }
            Err(fault) => {
                let section = Section::Sample { index: self.read, total: self.total };
                // Nothing comes after an error.
                self.read = self.total;
                Some(Err(fault.at(Encoding::Xor, section, self.r.place())))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.total - self.read)))
    }
}

/// Appends all samples to `columns`: the fastest way to read a chunk. After an error those before the fault are there.
pub fn read_columns(data: &[u8], columns: &mut Columns) -> Result<(), ChunkError> {
    let total = announced(data)?;
    let mut r = BitReader::new(data, 2);
    let mut state = State::START;
    columns.fill(total, data.len(), |mut rows| {
        let fail = |index, fault: Fault, place| fault.at(Encoding::Xor, Section::Sample { index, total }, place);
        for (index, t, v) in rows.by_ref().take(2) {
            state.first(&mut r, index).map_err(|fault| fail(index, fault, r.place()))?;
            (*t, *v) = (state.t, f64::from_bits(state.value));
        }
        // Moved to where no one has looked, so that all of it stays in registers.
        let (mut r, mut state) = (r, state);
        for (index, t, v) in rows {
            state.next(&mut r).map_err(|fault| fail(index, fault, r.place()))?;
            (*t, *v) = (state.t, f64::from_bits(state.value));
        }
        Ok(())
    })
}

/// Builds a XOR chunk, byte for byte as Prometheus does.
#[derive(Debug, Clone)]
pub struct XorEncoder {
    w: BitWriter,
    count: u16,
    first: i64,
    t: i64,
    delta: u64,
    value: f64,
    window: Window,
}

impl Default for XorEncoder {
    fn default() -> Self {
        let w = BitWriter::head(&[0, 0]);
        Self { w, count: 0, first: 0, t: 0, delta: 0, value: 0.0, window: Window::NONE }
    }
}

impl XorEncoder {
    /// Appends a sample. Times should not go back; the same time twice is fine.
    ///
    /// # Errors
    /// [`EncodeError::Full`] at 65,535 samples; nothing is written then.
    pub fn append(&mut self, t: i64, value: f64) -> Result<(), EncodeError> {
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
                write_xor(&mut self.w, self.value, value, &mut self.window);
            }
            _ => {
                let change = delta.wrapping_sub(self.delta) as i64;
                match change {
                    0 => self.w.write(0, 1),
                    d if fits(d, 14) => self.w.write(0b10 << 14 | d as u64 & 0x3fff, 16),
                    d if fits(d, 17) => self.w.write(0b110 << 17 | d as u64 & 0x1_ffff, 20),
                    d if fits(d, 20) => self.w.write(0b1110 << 20 | d as u64 & 0xf_ffff, 24),
                    d => {
                        self.w.write(0b1111, 4);
                        self.w.write(d as u64, 64);
                    }
                }
                write_xor(&mut self.w, self.value, value, &mut self.window);
            }
        }
        (self.t, self.value, self.count) = (t, value, count);
        self.delta = if count == 1 { 0 } else { delta };
        Ok(())
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
        self.w.finish(&self.count.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrorKind;
    use super::*;
    use proptest::prelude::*;

    fn encode(samples: &[(i64, f64)]) -> Bytes {
        let mut e = XorEncoder::default();
        for (t, v) in samples {
            e.append(*t, *v).unwrap();
        }
        e.bytes()
    }

    fn bits(samples: &[(i64, f64)]) -> Vec<(i64, u64)> {
        samples.iter().map(|(t, v)| (*t, v.to_bits())).collect()
    }

    fn decode(data: Bytes) -> Result<Vec<(i64, f64)>, ChunkError> {
        let one_by_one: Result<Vec<_>, _> = XorIter::new(data.clone())?.collect();
        let mut columns = Columns::default();
        let at_once = read_columns(&data, &mut columns);
        assert_eq!(at_once.is_err(), one_by_one.is_err());
        if let Ok(samples) = &one_by_one {
            assert_eq!(bits(samples), columns.iter().map(|(t, v)| (t, v.to_bits())).collect::<Vec<_>>());
        }
        one_by_one
    }

    proptest! {
        #[test]
        fn round_trips(start in any::<i32>(), steps in prop::collection::vec((0i64..1 << 40, any::<f64>(), 0u8..5), 0..300)) {
            let mut t = i64::from(start);
            let samples: Vec<(i64, f64)> = steps.iter().map(|(d, v, kind)| {
                // Steady scrapes, jitter, jumps; repeated and whole values.
                t += match kind { 0 | 4 => 15_000, 1 => 15_000 + d % 2000 - 1000, 2 => 0, _ => *d };
                (t, match kind { 3 => *v, 4 => 7.0, _ => (d % 100) as f64 })
            }).collect();
            prop_assert_eq!(bits(&decode(encode(&samples)).unwrap()), bits(&samples));
        }

        #[test]
        fn a_cut_chunk_is_an_error(n in 2usize..100, cut in 2usize..50) {
            let samples: Vec<(i64, f64)> = (0..n).map(|i| (i as i64 * 1000, (i as f64).sqrt())).collect();
            let whole = encode(&samples);
            let cut = whole.slice(..cut.min(whole.len() - 1));
            let length = cut.len();
            let error = decode(cut).unwrap_err();
            prop_assert_eq!(&error.kind, &ErrorKind::Truncated, "{}", &error);
            prop_assert_eq!(error.bit, 8 * length);
        }
    }

    #[test]
    fn extreme_times_and_special_values() {
        let stale = model::sample::stale_nan();
        let samples =
            [(i64::MIN, 1.0), (i64::MAX, -0.0), (i64::MIN, stale), (0, f64::NEG_INFINITY), (0, f64::MIN_POSITIVE)];
        assert_eq!(bits(&decode(encode(&samples)).unwrap()), bits(&samples));
    }

    #[test]
    fn refuses_impossible_bits() {
        // Two samples; the second value has 31 leading zeros and 63 significant bits.
        let mut w = BitWriter::head(&[0, 2]);
        w.uvarint(0);
        w.write(0, 64);
        w.uvarint(1);
        w.write(0b11, 2);
        w.write(31, 5);
        w.write(63, 6);
        w.write(u64::MAX, 64);
        let error = decode(w.finish(&[])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "XOR chunk, sample 1 of 2, bit 109 of 176: corrupt: a value has more than 64 significant bits"
        );
        assert!(decode(Bytes::from_static(&[1])).is_err());
        let long = [0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(decode(Bytes::copy_from_slice(&long)).is_err());
    }

    #[test]
    fn a_full_chunk_takes_no_more() {
        let mut e = XorEncoder::default();
        for i in 0..=u16::MAX {
            assert_eq!(e.append(i64::from(i), 1.0).is_ok(), i < u16::MAX);
        }
        assert_eq!(decode(e.bytes()).unwrap().len(), 65_535);
    }
}
