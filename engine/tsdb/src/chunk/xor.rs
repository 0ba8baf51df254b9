//! XOR chunks: floats. Times are stored as differences of differences, values as the XOR with the previous value.

use super::bits::{BitReader, BitWriter, Truncated};
use super::varbit::{fits, sign_extend};
use super::{ChunkError, Encoding, ErrorKind};
use bytes::Bytes;

/// The window of significant bits that a XOR-coded value shares with its predecessor.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    leading: u32,
    trailing: u32,
}

/// Why one value could not be read.
pub(crate) enum XorFault {
    Truncated,
    Corrupt(&'static str),
}

impl From<Truncated> for XorFault {
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}

/// Reads the successor of `value`.
#[inline]
pub(crate) fn read_xor(r: &mut BitReader, value: &mut f64, window: &mut Window) -> Result<(), XorFault> {
    if !r.bit()? {
        return Ok(());
    }
    if r.bit()? {
        let leading = r.read(5)? as u32;
        let significant = match r.read(6)? as u32 {
            0 => 64,
            n => n,
        };
        let Some(trailing) = 64u32.checked_sub(leading + significant) else {
            return Err(XorFault::Corrupt("a value has more than 64 significant bits"));
        };
        *window = Window { leading, trailing };
    }
    let bits = r.read(64 - window.leading - window.trailing)?;
    *value = f64::from_bits(value.to_bits() ^ (bits << window.trailing));
    Ok(())
}

/// Writes `value` as the successor of `previous`; `window` is `None` until the first difference is written.
pub(crate) fn write_xor(w: &mut BitWriter, previous: f64, value: f64, window: &mut Option<Window>) {
    let delta = previous.to_bits() ^ value.to_bits();
    if delta == 0 {
        w.write(0, 1);
        return;
    }
    // Five bits hold the number of leading zeros.
    let (leading, trailing) = (delta.leading_zeros().min(31), delta.trailing_zeros());
    if let Some(o) = window
        && leading >= o.leading
        && trailing >= o.trailing
    {
        w.write(0b10, 2);
        w.write(delta >> o.trailing, 64 - o.leading - o.trailing);
        return;
    }
    let significant = 64 - leading - trailing;
    w.write(0b11, 2);
    w.write(u64::from(leading), 5);
    // 64 does not fit into six bits and is written as 0.
    w.write(u64::from(significant & 63), 6);
    w.write(delta >> trailing, significant);
    *window = Some(Window { leading, trailing });
}

/// The samples of a XOR chunk: time in milliseconds since the epoch, value.
#[derive(Debug, Clone)]
pub struct XorIter {
    r: BitReader,
    total: u16,
    read: u16,
    t: i64,
    delta: u64,
    value: f64,
    window: Window,
    failed: bool,
}

impl XorIter {
    /// Opens a chunk; fails if it has no head. Prefer [`super::decode`], which counts.
    pub fn new(data: Bytes) -> Result<Self, ChunkError> {
        let Some(total) = super::announced_samples(&data) else {
            let kind = ErrorKind::Corrupt("it is shorter than its head of 2 bytes");
            return Err(ChunkError { encoding: Encoding::Xor, offset: 0, length: data.len(), kind });
        };
        let r = BitReader::new(data, 2);
        Ok(Self { r, total, read: 0, t: 0, delta: 0, value: 0.0, window: Window::default(), failed: false })
    }

    /// Samples that the head announces.
    pub fn announced(&self) -> u16 {
        self.total
    }

    #[inline]
    fn step(&mut self) -> Result<(), XorFault> {
        match self.read {
            0 => {
                let raw = read_uvarint(&mut self.r)?;
                // Zigzag: the sign is the lowest bit.
                self.t = (raw >> 1) as i64 ^ -((raw & 1) as i64);
                self.value = f64::from_bits(self.r.read(64)?);
                return Ok(());
            }
            1 => self.delta = read_uvarint(&mut self.r)?,
            _ => {
                let width = match self.r.ones(4)? {
                    0 => 0,
                    1 => 14,
                    2 => 17,
                    3 => 20,
                    _ => 64,
                };
                if width > 0 {
                    let dod = sign_extend(self.r.read(width)?, width);
                    self.delta = self.delta.wrapping_add_signed(dod);
                }
            }
        }
        self.t = self.t.wrapping_add(self.delta as i64);
        read_xor(&mut self.r, &mut self.value, &mut self.window)
    }
}

impl Iterator for XorIter {
    type Item = Result<(i64, f64), ChunkError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.read == self.total {
            return None;
        }
        match self.step() {
            Ok(()) => {
                self.read += 1;
                Some(Ok((self.t, self.value)))
            }
            Err(fault) => {
                self.failed = true;
                Some(Err(error(Encoding::Xor, &self.r, fault, self.read, self.total)))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.total - self.read)))
    }
}

pub(crate) fn error(encoding: Encoding, r: &BitReader, fault: XorFault, sample: u16, total: u16) -> ChunkError {
    let kind = match fault {
        XorFault::Truncated => ErrorKind::Truncated { sample, total },
        XorFault::Corrupt(what) => ErrorKind::Corrupt(what),
    };
    ChunkError { encoding, offset: r.offset(), length: r.length(), kind }
}

fn read_uvarint(r: &mut BitReader) -> Result<u64, XorFault> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = r.read(8)?;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(XorFault::Corrupt("a variable-length number has more than 64 bits"))
}

fn write_uvarint(w: &mut BitWriter, mut v: u64) {
    while v >= 0x80 {
        w.write(v & 0x7f | 0x80, 8);
        v >>= 7;
    }
    w.write(v, 8);
}

/// Builds a XOR chunk.
#[derive(Debug)]
pub struct XorEncoder {
    w: BitWriter,
    count: u16,
    first: i64,
    t: i64,
    delta: u64,
    value: f64,
    window: Option<Window>,
}

impl Default for XorEncoder {
    fn default() -> Self {
        Self { w: BitWriter::head(&[0, 0]), count: 0, first: 0, t: 0, delta: 0, value: 0.0, window: None }
    }
}

impl XorEncoder {
    /// Appends a sample; false, and nothing is written, if the chunk has 65,535 samples already. Times should not go back.
    #[must_use]
    pub fn append(&mut self, t: i64, value: f64) -> bool {
        let Some(count) = self.count.checked_add(1) else { return false };
        let delta = t.wrapping_sub(self.t) as u64;
        match self.count {
            0 => {
                self.first = t;
                write_uvarint(&mut self.w, ((t << 1) ^ (t >> 63)) as u64);
                self.w.write(value.to_bits(), 64);
            }
            1 => {
                write_uvarint(&mut self.w, delta);
                write_xor(&mut self.w, self.value, value, &mut self.window);
            }
            _ => {
                let dod = delta.wrapping_sub(self.delta) as i64;
                match dod {
                    0 => self.w.write(0, 1),
                    d if fits(d, 14) => {
                        self.w.write(0b10, 2);
                        self.w.write(d as u64, 14);
                    }
                    d if fits(d, 17) => {
                        self.w.write(0b110, 3);
                        self.w.write(d as u64, 17);
                    }
                    d if fits(d, 20) => {
                        self.w.write(0b1110, 4);
                        self.w.write(d as u64, 20);
                    }
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
        self.w.set_count(count);
        true
    }

    /// Samples so far.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Times of the first and the last sample, in milliseconds since the epoch.
    pub fn range(&self) -> (i64, i64) {
        (self.first, self.t)
    }

    /// The chunk's bytes.
    pub fn finish(self) -> Bytes {
        self.w.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(samples: &[(i64, f64)]) -> Bytes {
        let mut e = XorEncoder::default();
        for (t, v) in samples {
            assert!(e.append(*t, *v));
        }
        e.finish()
    }

    fn bits(samples: &[(i64, f64)]) -> Vec<(i64, u64)> {
        samples.iter().map(|(t, v)| (*t, v.to_bits())).collect()
    }

    fn decode(data: Bytes) -> Result<Vec<(i64, f64)>, ChunkError> {
        XorIter::new(data)?.collect()
    }

    proptest! {
        #[test]
        fn round_trips(start in any::<i32>(), steps in prop::collection::vec((0i64..1 << 40, any::<f64>(), 0u8..4), 0..300)) {
            let mut t = i64::from(start);
            let samples: Vec<(i64, f64)> = steps.iter().map(|(d, v, kind)| {
                // Steady scrapes, jitter, jumps; repeated and whole values.
                t += match kind { 0 => 15_000, 1 => 15_000 + d % 2000 - 1000, 2 => 0, _ => *d };
                (t, if *kind == 3 { *v } else { (d % 100) as f64 })
            }).collect();
            prop_assert_eq!(bits(&decode(encode(&samples)).unwrap()), bits(&samples));
        }

        #[test]
        fn a_cut_chunk_is_an_error(n in 2usize..100, cut in 2usize..50) {
            let samples: Vec<(i64, f64)> = (0..n).map(|i| (i as i64 * 1000, (i as f64).sqrt())).collect();
            let whole = encode(&samples);
            let cut = whole.slice(..cut.min(whole.len() - 1));
            let error = decode(cut).unwrap_err();
            prop_assert!(matches!(error.kind, ErrorKind::Truncated { .. }), "{}", error);
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
        write_uvarint(&mut w, 0);
        w.write(0, 64);
        write_uvarint(&mut w, 1);
        w.write(0b11, 2);
        w.write(31, 5);
        w.write(63, 6);
        w.write(u64::MAX, 64);
        let error = decode(w.finish()).unwrap_err();
        assert!(
            error.to_string().contains("XOR chunk, byte 14") && error.to_string().contains("significant"),
            "{error}"
        );
        assert!(decode(Bytes::from_static(&[1])).is_err());
        assert!(
            decode(Bytes::from_static(&[0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]))
                .is_err()
        );
    }
}
