//! What a query answers.

use super::annotations::Annotations;
use super::column::{Column, SeriesColumn};
use crate::plan::Grid;
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples read from the source.
    pub samples_read: u64,
    /// Series read from the source.
    pub series_read: u64,
    /// Most samples held at once.
    pub peak_samples: u64,
    /// Most bytes held at once.
    pub peak_bytes: u64,
    /// Samples by step, if [`super::EngineOptions::count_samples`] asks for them.
    pub steps: Option<StepSamples>,
}

/// The samples that each step looks at, as Prometheus's query statistics count them: a histogram as its size in units of 16
/// bytes, a window as all that it holds, a step as if it were a query of its own, whatever is evaluated once for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepSamples {
    /// Time of the first step, milliseconds.
    pub start: i64,
    /// From one to the next, milliseconds.
    pub step: i64,
    /// `totalQueryableSamplesPerStep`: samples that steps look at.
    pub queryable: Vec<u64>,
    /// `samplesReadPerStep`: the same, without those that the window of the step before has, too.
    pub read: Vec<u64>,
}

impl StepSamples {
    /// Counts by time, milliseconds.
    pub fn by_time<'a>(&self, counts: &'a [u64]) -> impl Iterator<Item = (i64, u64)> + use<'a> {
        let Self { start, step, .. } = *self;
        counts.iter().enumerate().map(move |(i, n)| (start.saturating_add(step.saturating_mul(i as i64)), *n))
    }
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
    Matrix(Matrix),
}

/// The series of a matrix. They stay in the engine's columns, half as large as points, until each is looked at.
#[derive(Clone, Debug)]
pub struct Matrix(Rows);

#[derive(Clone, Debug)]
enum Rows {
    Points(Vec<Series>),
    Columns(Grid, Vec<SeriesColumn>),
}

impl Matrix {
    pub(super) fn of_columns(grid: Grid, columns: Vec<SeriesColumn>) -> Self {
        Self(Rows::Columns(grid, columns))
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        match &self.0 {
            Rows::Points(all) => all.len(),
            Rows::Columns(_, all) => all.len(),
        }
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `len` series.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.0 {
            Rows::Points(all) => all.truncate(len),
            Rows::Columns(_, all) => all.truncate(len),
        }
    }

    /// The series, made one by one.
    pub fn iter(&self) -> impl Iterator<Item = Series> + '_ {
        let (points, columns) = match &self.0 {
            Rows::Points(all) => (all.as_slice(), None),
            Rows::Columns(grid, all) => ([].as_slice(), Some((grid, all))),
        };
        let columns = columns.into_iter().flat_map(|(grid, all)| all.iter().map(|s| s.points(grid)));
        points.iter().cloned().chain(columns)
    }

    /// The series, made one by one; each is dropped when the next is made.
    pub fn into_series(self) -> impl Iterator<Item = Series> + Send {
        let (points, columns) = match self.0 {
            Rows::Points(all) => (all, None),
            Rows::Columns(grid, all) => (Vec::new(), Some((grid, all))),
        };
        let columns = columns.into_iter().flat_map(|(grid, all)| all.into_iter().map(move |s| s.points(&grid)));
        points.into_iter().chain(columns)
    }
}

impl From<Vec<Series>> for Matrix {
    fn from(all: Vec<Series>) -> Self {
        Self(Rows::Points(all))
    }
}

impl PartialEq for Matrix {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl SeriesColumn {
    /// The values with their times.
    pub(super) fn points(&self, grid: &Grid) -> Series {
        let Column { floats, present, .. } = &self.column;
        let float = |i: usize| Some((grid.time(i), *floats.get(i)?));
        let floats = if present.is_all(grid.len) {
            floats.iter().enumerate().map(|(i, v)| (grid.time(i), *v)).collect()
        } else {
            present.iter().filter_map(float).collect()
        };
        let histograms = self.column.iter_histograms().map(|(i, h)| (grid.time(i), h.clone())).collect();
        Series { labels: self.labels.clone(), floats, histograms }
    }
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
