//! Native histograms: what they are, and arithmetic on them with Prometheus's rules.

mod accumulator;
mod buckets;
mod compare;
pub mod rows;

pub use accumulator::{Accumulator, Added, Incompatible};
pub use buckets::{
    Bucket, all_buckets, all_buckets_reversed, bound, bucket, build, custom, expand, exponential_bound, indexes,
    negative, positive, push_index, target_index, text, zero,
};
pub use compare::{detect_reset, equals};

/// A run of consecutive buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Gap to the end of the previous span, in buckets; for the first span the index of its first bucket.
    pub offset: i32,
    /// Number of consecutive buckets.
    pub length: u32,
}

/// What is known about a counter reset between a histogram and its predecessor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ResetHint {
    /// Must be found out by comparing.
    #[default]
    Unknown,
    /// This histogram starts after a reset.
    Reset,
    /// Known not to be a reset.
    NotReset,
    /// A gauge histogram: resets have no meaning.
    Gauge,
}

/// The schema number of histograms with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// A native histogram. Bucket values are absolute counts (not deltas), in the order of the spans.
///
/// `V` is the type of all counts: `f64` ([`FloatHistogram`]) or `u64` ([`IntHistogram`]).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram<V> {
    /// See [`ResetHint`].
    pub reset_hint: ResetHint,
    /// Resolution: −4…8 exponential, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket on either side of zero.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: V,
    /// All observations.
    pub count: V,
    /// Sum of all observations.
    pub sum: f64,
    /// Spans of the positive buckets.
    pub positive_spans: Vec<Span>,
    /// Spans of the negative buckets.
    pub negative_spans: Vec<Span>,
    /// Counts of the positive buckets.
    pub positive_buckets: Vec<V>,
    /// Counts of the negative buckets.
    pub negative_buckets: Vec<V>,
    /// Upper bounds of custom buckets, ascending, without +Inf; empty for exponential schemas.
    pub custom_values: Vec<f64>,
}

/// A native histogram with float counts: what PromQL computes with.
pub type FloatHistogram = Histogram<f64>;

/// A native histogram with integer counts, as scraped and as most chunks store it. Prometheus keeps the differences between
/// neighbouring buckets; here they are added up (modulo 2^64, so that no chunk loses anything).
pub type IntHistogram = Histogram<u64>;

impl<V> Histogram<V> {
    /// True if the bucket bounds are given by [`Histogram::custom_values`].
    pub fn has_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }
}
