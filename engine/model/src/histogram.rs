//! Native histograms as PromQL computes with them.

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

/// A native histogram with float counts. Bucket values are absolute (not deltas), in the order of the spans.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FloatHistogram {
    /// See [`ResetHint`].
    pub reset_hint: ResetHint,
    /// Resolution: −4…8 exponential, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket on either side of zero.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Sum of all observations.
    pub sum: f64,
    /// Spans of the positive buckets.
    pub positive_spans: Vec<Span>,
    /// Spans of the negative buckets.
    pub negative_spans: Vec<Span>,
    /// Counts of the positive buckets.
    pub positive_buckets: Vec<f64>,
    /// Counts of the negative buckets.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of custom buckets, ascending, without +Inf; empty for exponential schemas.
    pub custom_values: Vec<f64>,
}

impl FloatHistogram {
    /// True if the bucket bounds are given by [`FloatHistogram::custom_values`].
    pub fn has_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }
}
