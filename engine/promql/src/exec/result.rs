//! What a query answers.

use super::annotations::Annotations;
use model::sample::{Sample, Value};
use model::{FloatHistogram, Labels};
use std::sync::Arc;

/// An answer with what the user should know about it.
#[derive(Clone, Debug)]
pub struct QueryResult {
    /// The answer.
    pub value: QueryValue,
    /// Warnings and infos; [`Annotations::strings`] prints them as the API does.
    pub annotations: Annotations,
    /// What it took.
    pub stats: QueryStats,
}

/// What a query took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples read from the source.
    pub samples_read: u64,
    /// Series read from the source.
    pub series_read: u64,
    /// Most samples held at once.
    pub peak_samples: u64,
    /// Most bytes held at once.
    pub peak_bytes: u64,
}

/// An answer, by its type.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryValue {
    /// A number at a time (milliseconds).
    Scalar(i64, f64),
    /// A text at a time (milliseconds).
    String(i64, String),
    /// One sample per series, all of the evaluation time; in evaluation order (what `sort` gave is kept).
    Vector(Vec<VectorSample>),
    /// Points over time, sorted by labels; no empty series.
    Matrix(Vec<Series>),
}

/// An element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// The series' labels.
    pub labels: Labels,
    /// Milliseconds since the epoch.
    pub t: i64,
    /// Its value.
    pub value: Value,
}

/// A series of a matrix.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Series {
    /// The series' labels.
    pub labels: Labels,
    /// Float points, ascending by time (milliseconds).
    pub floats: Vec<(i64, f64)>,
    /// Histogram points, ascending by time (milliseconds).
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}

impl Series {
    /// All points in the order of time.
    pub fn samples(&self) -> Vec<Sample> {
        let floats = self.floats.iter().map(|(t, v)| Sample { t: *t, v: Value::Float(*v) });
        let histograms = self.histograms.iter().map(|(t, h)| Sample { t: *t, v: Value::Histogram(h.clone()) });
        let mut all: Vec<Sample> = floats.chain(histograms).collect();
        all.sort_by_key(|s| s.t);
        all
    }
}
