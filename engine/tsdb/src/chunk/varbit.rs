//! The variable-length numbers of histogram chunks, and the zero thresholds and custom bounds built on them.
//!
//! A number is written as a prefix of ones that says its width, and its low bits. The widths differ from the usual
//! power-of-two ones because Prometheus tuned them to the differences seen in histogram buckets.

use super::bits::{BitReader, BitWriter, Truncated};

/// Width of the number after 0, 1, … 8 ones.
const WIDTHS: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

/// A number of `width` bits as it is stored for signed values: the range reaches one further up than down.
pub(crate) fn sign_extend(bits: u64, width: u32) -> i64 {
    if width < 64 && bits > 1 << (width - 1) { bits.wrapping_sub(1 << width) as i64 } else { bits as i64 }
}

/// Whether `v` fits a slot of `width` bits (see [`sign_extend`]).
pub(crate) fn fits(v: i64, width: u32) -> bool {
    width >= 64 || (-((1i64 << (width - 1)) - 1) <= v && v <= 1i64 << (width - 1))
}

fn width(r: &mut BitReader) -> Result<u32, Truncated> {
    let ones = r.ones(8)? as usize;
    Ok(WIDTHS.get(ones).copied().unwrap_or(64))
}

pub(crate) fn read_int(r: &mut BitReader) -> Result<i64, Truncated> {
    match width(r)? {
        0 => Ok(0),
        w => Ok(sign_extend(r.read(w)?, w)),
    }
}

pub(crate) fn read_uint(r: &mut BitReader) -> Result<u64, Truncated> {
    let w = width(r)?;
    r.read(w)
}

fn write(w: &mut BitWriter, value: u64, slot: usize) {
    // `slot` ones and a zero, except that the last slot needs no zero.
    let ones = (1u64 << slot) - 1;
    if slot < 8 {
        w.write(ones << 1, slot as u32 + 1);
    } else {
        w.write(ones, 8);
    }
    w.write(value, WIDTHS.get(slot).copied().unwrap_or(64));
}

pub(crate) fn write_int(w: &mut BitWriter, v: i64) {
    let slot = if v == 0 { 0 } else { WIDTHS.iter().skip(1).position(|n| fits(v, *n)).map_or(8, |i| i + 1) };
    write(w, v as u64, slot);
}

pub(crate) fn write_uint(w: &mut BitWriter, v: u64) {
    let bits = 64 - v.leading_zeros();
    write(w, v, WIDTHS.iter().position(|n| bits <= *n).unwrap_or(8));
}

/// Zero thresholds are mostly powers of two and then take one byte: the exponent plus 243.
pub(crate) fn read_zero_threshold(r: &mut BitReader) -> Result<f64, Truncated> {
    match r.read(8)? {
        0 => Ok(0.0),
        255 => Ok(f64::from_bits(r.read(64)?)),
        // 0.5 · 2^(b−243); never subnormal, so the exponent field can be set directly.
        b => Ok(f64::from_bits((b + 1023 - 244) << 52)),
    }
}

pub(crate) fn write_zero_threshold(w: &mut BitWriter, threshold: f64) {
    let bits = threshold.to_bits();
    let (mantissa, exponent) = (bits & ((1 << 52) - 1), bits >> 52);
    let byte = exponent.wrapping_sub(1023 - 244);
    if bits == 0 {
        w.write(0, 8);
    } else if mantissa == 0 && (1..=254).contains(&byte) {
        w.write(byte, 8);
    } else {
        w.write(255, 8);
        w.write(bits, 64);
    }
}

/// Custom bounds with at most three decimals are whole thousandths plus one; others are a zero and the float.
pub(crate) fn read_custom_bound(r: &mut BitReader) -> Result<f64, Truncated> {
    match read_uint(r)? {
        0 => Ok(f64::from_bits(r.read(64)?)),
        n => Ok((n - 1) as f64 / 1000.0),
    }
}

pub(crate) fn write_custom_bound(w: &mut BitWriter, bound: f64) {
    let thousandths = (bound * 1000.0).round();
    if (0.0..=33_554_430.0).contains(&thousandths) && thousandths / 1000.0 == bound && bound.is_sign_positive() {
        write_uint(w, thousandths as u64 + 1);
    } else {
        write_uint(w, 0);
        w.write(bound.to_bits(), 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reader(w: BitWriter) -> BitReader {
        BitReader::new(w.finish(), 0)
    }

    #[test]
    fn the_edges_of_every_width_have_the_documented_size() {
        // (value, bits) at both ends of each range of Prometheus's signed encoding.
        let sizes = [(0, 1), (4, 5), (-3, 5), (5, 9), (-4, 9), (32, 9), (-31, 9), (33, 13), (256, 13), (2048, 17)];
        let large = [(131_072, 24), (-131_071, 24), (16_777_216, 32), (1 << 55, 64), (i64::MAX, 72), (i64::MIN, 72)];
        for (v, bits) in sizes.into_iter().chain(large) {
            let mut w = BitWriter::default();
            write_int(&mut w, v);
            let data = w.finish();
            assert_eq!(data.len(), usize::div_ceil(bits, 8), "{v}");
            assert_eq!(read_int(&mut BitReader::new(data, 0)), Ok(v));
        }
    }

    proptest! {
        #[test]
        fn numbers_round_trip(v in any::<i64>(), shift in 0u32..64) {
            let v = v >> shift;
            let mut w = BitWriter::default();
            write_int(&mut w, v);
            write_uint(&mut w, v as u64);
            let mut r = reader(w);
            prop_assert_eq!(read_int(&mut r), Ok(v));
            prop_assert_eq!(read_uint(&mut r), Ok(v as u64));
        }

        #[test]
        fn thresholds_and_bounds_round_trip(v in any::<f64>(), exp in -300i32..20, milli in 0u32..40_000_000) {
            for x in [v, 2f64.powi(exp), 0.0, f64::from(milli) / 1000.0, -0.0, f64::INFINITY] {
                let mut w = BitWriter::default();
                write_zero_threshold(&mut w, x);
                write_custom_bound(&mut w, x);
                let mut r = reader(w);
                prop_assert_eq!(read_zero_threshold(&mut r).map(f64::to_bits), Ok(x.to_bits()));
                prop_assert_eq!(read_custom_bound(&mut r).map(f64::to_bits), Ok(x.to_bits()));
            }
        }
    }

    #[test]
    fn the_default_zero_threshold_is_one_byte() {
        let mut w = BitWriter::default();
        write_zero_threshold(&mut w, 2f64.powi(-128));
        assert_eq!(w.finish().as_ref(), [116]);
    }
}
