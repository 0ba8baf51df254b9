//! The two kinds of counts, and how each is stored.

use crate::chunk::Encoding;
use crate::chunk::bits::{BitReader, BitWriter};
use crate::chunk::error::Fault;
use crate::chunk::varbit::{read_int, read_uint, write_int, write_uint};
use crate::chunk::xor::{Window, read_xor, write_xor};
use model::histogram::ResetHint;
use std::fmt::Debug;
use std::ops::Deref;

/// A count in a histogram: `u64` or `f64`, no other.
#[expect(private_bounds, reason = "nobody outside can implement it or needs what is in it")]
pub trait Count: Codec {}
impl Count for u64 {}
impl Count for f64 {}

/// How a kind of counts is stored and compared.
pub(crate) trait Codec: Copy + Default + PartialEq + Debug + Send + Sync + 'static {
    /// A column of the chunk (the total, the zero bucket, a bucket) while it is read or written.
    type Column: Copy + Debug + Send + Sync;
    /// The encodings without and with start times.
    const ENCODINGS: [Encoding; 2];

    fn read_total<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Self::Column;
    fn read_bucket<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Self::Column;
    /// Moves a column to the next sample.
    fn read_next<D: Deref<Target = [u8]>>(r: &mut BitReader<D>, column: &mut Self::Column) -> Result<(), Fault>;
    fn write_total(w: &mut BitWriter, v: Self) -> Self::Column;
    fn write_bucket(w: &mut BitWriter, v: Self) -> Self::Column;
    fn write_next(w: &mut BitWriter, column: &mut Self::Column, v: Self);
    /// Like `write_next`, for the total and the zero bucket of a staleness marker.
    fn write_stale(w: &mut BitWriter, column: &mut Self::Column);

    /// What a column holds.
    fn held(column: &Self::Column) -> Self;
    /// The count of a bucket from its column and the count of its left neighbour.
    fn absolute(held: Self, left: Self) -> Self;
    /// The opposite of [`Codec::absolute`].
    fn relative(count: Self, left: Self) -> Self;

    /// As a float, when it is a total.
    fn total_to_float(self) -> f64;
    /// As a float, when it is a bucket.
    fn bucket_to_float(self) -> f64;
    /// Whether a total falls from `self` to `next`.
    fn total_falls(self, next: Self) -> bool;
    /// Whether a bucket falls from `self` to `next`.
    fn bucket_falls(self, next: Self) -> bool;
    fn plus(self, other: Self) -> Self;

    /// What Prometheus writes into the head of a chunk that is cut because of `found`.
    fn header_at_cut(found: ResetHint) -> ResetHint;
    /// What it writes into the head of a chunk that is begun after a full one.
    fn header_after(found: ResetHint) -> ResetHint;
}

/// A number stored as the change of its change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dod {
    value: u64,
    delta: i64,
}

impl Codec for u64 {
    type Column = Dod;
    const ENCODINGS: [Encoding; 2] = [Encoding::Histogram, Encoding::HistogramSt];

    fn read_total<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Dod {
        Dod { value: read_uint(r), delta: 0 }
    }

    fn read_bucket<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Dod {
        Dod { value: read_int(r) as u64, delta: 0 }
    }

    #[inline(always)]
    fn read_next<D: Deref<Target = [u8]>>(r: &mut BitReader<D>, column: &mut Dod) -> Result<(), Fault> {
        column.delta = column.delta.wrapping_add(read_int(r));
        column.value = column.value.wrapping_add_signed(column.delta);
        Ok(())
    }

    fn write_total(w: &mut BitWriter, value: u64) -> Dod {
        write_uint(w, value);
        Dod { value, delta: 0 }
    }

    fn write_bucket(w: &mut BitWriter, value: u64) -> Dod {
        write_int(w, value as i64);
        Dod { value, delta: 0 }
    }

    fn write_next(w: &mut BitWriter, column: &mut Dod, value: u64) {
        let delta = value.wrapping_sub(column.value) as i64;
        write_int(w, delta.wrapping_sub(column.delta));
        *column = Dod { value, delta };
    }

    fn write_stale(w: &mut BitWriter, column: &mut Dod) {
        write_int(w, 0);
        *column = Dod { value: 0, delta: 0u64.wrapping_sub(column.value) as i64 };
    }

    fn held(column: &Dod) -> u64 {
        column.value
    }

    fn absolute(held: u64, left: u64) -> u64 {
        left.wrapping_add(held)
    }

    fn relative(count: u64, left: u64) -> u64 {
        count.wrapping_sub(left)
    }

    fn total_to_float(self) -> f64 {
        self as f64
    }

    fn bucket_to_float(self) -> f64 {
        // Prometheus's buckets are signed.
        self as i64 as f64
    }

    fn total_falls(self, next: u64) -> bool {
        next < self
    }

    fn bucket_falls(self, next: u64) -> bool {
        (next as i64) < self as i64
    }

    fn plus(self, other: u64) -> u64 {
        self.wrapping_add(other)
    }

    fn header_at_cut(found: ResetHint) -> ResetHint {
        found
    }

    fn header_after(found: ResetHint) -> ResetHint {
        found
    }
}

/// A number stored as the XOR with its predecessor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Xored {
    bits: u64,
    window: Window,
}

impl Codec for f64 {
    type Column = Xored;
    const ENCODINGS: [Encoding; 2] = [Encoding::FloatHistogram, Encoding::FloatHistogramSt];

    fn read_total<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Xored {
        Xored { bits: r.take(64), window: Window::WHOLE }
    }

    fn read_bucket<D: Deref<Target = [u8]>>(r: &mut BitReader<D>) -> Xored {
        Self::read_total(r)
    }

    #[inline(always)]
    fn read_next<D: Deref<Target = [u8]>>(r: &mut BitReader<D>, column: &mut Xored) -> Result<(), Fault> {
        read_xor(r, &mut column.bits, &mut column.window)
    }

    fn write_total(w: &mut BitWriter, v: f64) -> Xored {
        w.write(v.to_bits(), 64);
        Xored { bits: v.to_bits(), window: Window::NONE }
    }

    fn write_bucket(w: &mut BitWriter, v: f64) -> Xored {
        Self::write_total(w, v)
    }

    fn write_next(w: &mut BitWriter, column: &mut Xored, v: f64) {
        write_xor(w, f64::from_bits(column.bits), v, &mut column.window);
        column.bits = v.to_bits();
    }

    fn write_stale(w: &mut BitWriter, column: &mut Xored) {
        Self::write_next(w, column, 0.0);
    }

    fn held(column: &Xored) -> f64 {
        f64::from_bits(column.bits)
    }

    fn absolute(held: f64, _left: f64) -> f64 {
        held
    }

    fn relative(count: f64, _left: f64) -> f64 {
        count
    }

    fn total_to_float(self) -> f64 {
        self
    }

    fn bucket_to_float(self) -> f64 {
        self
    }

    fn total_falls(self, next: f64) -> bool {
        next < self
    }

    fn bucket_falls(self, next: f64) -> bool {
        next < self
    }

    fn plus(self, other: f64) -> f64 {
        self + other
    }

    // For float histograms Prometheus keeps only whether there was a reset.
    fn header_at_cut(found: ResetHint) -> ResetHint {
        if found == ResetHint::Reset { ResetHint::Reset } else { ResetHint::Unknown }
    }

    fn header_after(found: ResetHint) -> ResetHint {
        if found == ResetHint::Reset { ResetHint::Reset } else { ResetHint::NotReset }
    }
}
