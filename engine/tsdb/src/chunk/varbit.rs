//! The variable-length numbers of histogram chunks, and the zero thresholds and custom bounds built on them.
//!
//! A number is written as a prefix of ones that says its width, and its low bits. The widths differ from the usual
//! power-of-two ones because Prometheus tuned them to the differences seen in histogram buckets.

use super::bits::{BitReader, BitWriter};
use std::ops::Deref;

/// Width of the number after 0, 1, … 8 ones.
const WIDTHS: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

/// A number of `width` bits (1…64) as it is stored for signed values: the range reaches one further up than down.
#[inline(always)]
pub(crate) fn sign_extend(bits: u64, width: u32) -> i64 {
    // One less is an ordinary two's complement number.
    let shift = 64 - width;
    ((bits.wrapping_sub(1) << shift) as i64 >> shift).wrapping_add(1)
}

/// Whether `v` fits a slot of `width` bits (see [`sign_extend`]).
pub(crate) fn fits(v: i64, width: u32) -> bool {
    width >= 64 || (-((1i64 << (width - 1)) - 1) <= v && v <= 1i64 << (width - 1))
}

#[inline(always)]
fn width<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> u32 {
    WIDTHS.get(r.ones(8) as usize).copied().unwrap_or(64)
}

#[inline]
pub(crate) fn read_int<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> i64 {
    match width(r) {
        0 => 0,
        w => sign_extend(r.take(w), w),
    }
}

#[inline]
pub(crate) fn read_uint<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> u64 {
    let w = width(r);
    r.take(w)
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
pub(crate) fn read_zero_threshold<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> f64 {
    match r.take(8) {
        0 => 0.0,
        255 => f64::from_bits(r.take(64)),
        // 0.5 · 2^(b−243); never subnormal, so the exponent field can be set directly.
        b => f64::from_bits((b + 1023 - 244) << 52),
    }
}

pub(crate) fn write_zero_threshold(w: &mut BitWriter, threshold: f64) {
    let bits = threshold.to_bits();
    let (mantissa, exponent) = (bits & ((1 << 52) - 1), bits >> 52);
    let byte = exponent.wrapping_sub(1023 - 244);
    if threshold == 0.0 {
        w.write(0, 8);
    } else if mantissa == 0 && (1..=254).contains(&byte) {
        w.write(byte, 8);
    } else {
        w.write(255, 8);
        w.write(bits, 64);
    }
}

/// Custom bounds with at most three decimals are whole thousandths plus one; others are a zero and the float.
pub(crate) fn read_custom_bound<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> f64 {
    match read_uint(r) {
        0 => f64::from_bits(r.take(64)),
        n => (n - 1) as f64 / 1000.0,
    }
}

pub(crate) fn write_custom_bound(w: &mut BitWriter, bound: f64) {
    let thousand = bound * 1000.0;
    if (0.0..=33_554_430.0).contains(&thousand) && thousand.round() / 1000.0 == bound {
        write_uint(w, thousand.round() as u64 + 1);
    } else {
        write_uint(w, 0);
        w.write(bound.to_bits(), 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_of_every_width_have_the_documented_size() {
        // (value, bits) at both ends of each range of Prometheus's signed encoding.
        let sizes = [(0, 1), (4, 5), (-3, 5), (5, 9), (-4, 9), (32, 9), (-31, 9), (33, 13), (256, 13), (2048, 17)];
        let large = [(131_072, 24), (-131_071, 24), (16_777_216, 32), (1 << 55, 64), (i64::MAX, 72), (i64::MIN, 72)];
        for (v, bits) in sizes.into_iter().chain(large) {
            let mut w = BitWriter::head(&[]);
            write_int(&mut w, v);
            let mut r = BitReader::new(w.finish(&[]), 0);
            assert_eq!(read_int(&mut r), v);
            assert_eq!(r.position(), bits, "{v}");
        }
    }

    proptest! {
        #[test]
        fn numbers_round_trip(v in any::<i64>(), shift in 0u32..64) {
            let v = v >> shift;
            let mut w = BitWriter::head(&[]);
            write_int(&mut w, v);
            write_uint(&mut w, v as u64);
            let mut r = BitReader::new(w.finish(&[]), 0);
            prop_assert_eq!(read_int(&mut r), v);
            prop_assert_eq!(read_uint(&mut r), v as u64);
        }

        #[test]
        fn thresholds_and_bounds_round_trip(v in any::<f64>(), exp in -300i32..20, milli in 0u32..40_000_000) {
            // The sign of zero is lost, as in Prometheus.
            for x in [v + 0.0, 2f64.powi(exp), 0.0, f64::from(milli) / 1000.0, f64::INFINITY] {
                let mut w = BitWriter::head(&[]);
                write_zero_threshold(&mut w, x);
                write_custom_bound(&mut w, x);
                let mut r = BitReader::new(w.finish(&[]), 0);
                prop_assert_eq!(read_zero_threshold(&mut r).to_bits(), x.to_bits());
                prop_assert_eq!(read_custom_bound(&mut r).to_bits(), x.to_bits());
            }
        }
    }

    #[test]
    fn the_default_zero_threshold_is_one_byte() {
        let mut w = BitWriter::head(&[]);
        write_zero_threshold(&mut w, 2f64.powi(-128));
        assert_eq!(w.finish(&[]).as_ref(), [116]);
    }
}
