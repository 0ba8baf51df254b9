//! Samples: a time in milliseconds since the epoch and a value.

use crate::histogram::FloatHistogram;
use std::sync::Arc;

/// Bits of the NaN that marks a series as gone stale (Prometheus `value.StaleNaN`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;
/// Bits of the NaN that calculations produce (Prometheus `value.NormalNaN`).
pub const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// True if `v` is the staleness marker. A histogram is stale if its sum is.
pub fn is_stale(v: f64) -> bool {
    v.to_bits() == STALE_NAN_BITS
}

/// The staleness marker.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// A sample's value. Histograms are shared, since they are large and mostly passed on.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A float, a counter's or a gauge's value.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

impl Value {
    /// True if this is a staleness marker.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Float(v) => is_stale(*v),
            Self::Histogram(h) => is_stale(h.sum),
        }
    }
}

/// One sample of a series.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub t: i64,
    /// The value.
    pub v: Value,
}
