//! A [`Source`] in memory, for tests and for the runner of Prometheus's test language.

use super::{Encoded, Entry, QueryError, Samples, SelectRequest, SeriesSet, Source};
use model::histogram::ResetHint;
use model::histogram::rows::{Layout, ROW_HEAD, Table};
use model::sample::{Value, is_stale};
use model::{FloatHistogram, Labels};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Series by labels. Samples of a series must be appended in the order of time; an equal time replaces the last one.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    series: BTreeMap<Labels, Vec<Point>>,
}

#[derive(Clone, Debug)]
struct Point {
    t: i64,
    start: i64,
    value: Value,
}

impl MemorySource {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.series.clear();
    }

    /// Appends a float at `t` (milliseconds).
    pub fn push(&mut self, labels: &Labels, t: i64, v: f64) {
        self.push_value(labels, t, 0, Value::Float(v));
    }

    /// Appends a histogram at `t` (milliseconds).
    pub fn push_histogram(&mut self, labels: &Labels, t: i64, h: Arc<FloatHistogram>) {
        self.push_value(labels, t, 0, Value::Histogram(h));
    }

    /// Appends a value whose counting began at `start` (milliseconds, 0 = unknown).
    pub fn push_value(&mut self, labels: &Labels, t: i64, start: i64, value: Value) {
        let points = self.series.entry(labels.clone()).or_default();
        let at = points.partition_point(|p| p.t < t);
        let point = Point { t, start, value };
        match points.get_mut(at) {
            Some(p) if p.t == t => *p = point,
            _ => points.insert(at, point),
        }
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// True if there is no series.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

impl Source for MemorySource {
    fn select<'s>(&'s self, request: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
        let matches = |labels: &Labels| request.matchers.iter().all(|m| m.matches_labels(labels));
        let found: Vec<_> = self.series.iter().filter(|(labels, _)| matches(labels)).collect();
        Ok(Box::new(MemorySet { found: found.into_iter(), range: (request.mint, request.maxt) }))
    }

    fn repeatable(&self) -> bool {
        true
    }
}

struct MemorySet<'a> {
    found: std::vec::IntoIter<(&'a Labels, &'a Vec<Point>)>,
    range: (i64, i64),
}

impl<'a> SeriesSet<'a> for MemorySet<'a> {
    fn next_series(&mut self) -> Result<Option<Entry<'a>>, QueryError> {
        // A store leaves out series without a sample in the time range, and so does this one.
        for (labels, points) in self.found.by_ref() {
            let from = points.partition_point(|p| p.t < self.range.0);
            let to = points.partition_point(|p| p.t <= self.range.1);
            match points.get(from..to) {
                Some(points) if !points.is_empty() => {
                    return Ok(Some(Entry { labels: labels.clone(), data: Box::new(MemoryPoints(points)) }));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

struct MemoryPoints<'a>(&'a [Point]);

impl MemoryPoints<'_> {
    /// As rows, if that can be done, as a source does it that reads chunks.
    fn rows(&self, table: &mut Table) -> bool {
        for p in self.0 {
            let Value::Histogram(h) = &p.value else { return false };
            let gauge = matches!(h.reset_hint, ResetHint::Gauge | ResetHint::Reset);
            let layout = Layout {
                schema: h.schema,
                zero_threshold: h.zero_threshold,
                positive_spans: h.positive_spans.clone(),
                negative_spans: h.negative_spans.clone(),
                custom_values: h.custom_values.clone(),
            };
            if is_stale(h.sum) {
                continue;
            }
            let buckets = h.positive_buckets.len() + h.negative_buckets.len();
            if gauge || p.start != 0 || table.begin(layout) != ROW_HEAD + buckets {
                return false;
            }
            let counts = h.positive_buckets.iter().chain(&h.negative_buckets);
            table.open().extend([h.count, h.zero_count, h.sum].iter().chain(counts));
            table.keep(p.t, h.reset_hint);
        }
        true
    }
}

impl Encoded for MemoryPoints<'_> {
    fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
        let with_starts = self.0.iter().any(|p| p.start != 0);
        if out.wants_rows && self.rows(&mut out.table) {
            return Ok(());
        }
        out.table.clear();
        for p in self.0 {
            match &p.value {
                Value::Float(v) => {
                    out.push(p.t, *v);
                    if with_starts {
                        out.float_starts.push(p.start);
                    }
                }
                Value::Histogram(h) => {
                    out.push_histogram(p.t, h.clone());
                    if with_starts {
                        out.histogram_starts.push(p.start);
                    }
                }
            }
        }
        Ok(())
    }
}
