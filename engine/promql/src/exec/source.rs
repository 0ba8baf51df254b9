//! What the evaluation reads from: series of samples, in the order of their labels.

use super::error::QueryError;
use model::{FloatHistogram, Labels, Matcher};
use std::sync::Arc;

/// One select of a query. A plan lists all of them before anything is evaluated (see [`super::Plan::selects`]), so
/// that the async side can fetch them concurrently.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// Index in [`super::Plan::selects`]; the evaluation asks with the very same request, at most
    /// once per select (not at all if the answer turns out not to need it).
    pub id: usize,
    /// All conditions; a series must pass each.
    pub matchers: Vec<Matcher>,
    /// First time needed, milliseconds, inclusive.
    pub mint: i64,
    /// Last time needed, milliseconds, inclusive.
    pub maxt: i64,
    /// What the samples are for; only a hint.
    pub hints: SelectHints,
}

/// What the samples of a select are for, as Prometheus's `storage.SelectHints`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectHints {
    /// Step of the evaluation, milliseconds; 0 in an instant query outside subqueries.
    pub step_ms: i64,
    /// Window of a range selector, milliseconds; 0 for an instant selector.
    pub range_ms: i64,
    /// Name of the nearest enclosing function or aggregation; empty if there is none before a binary operator.
    pub func: String,
    /// Labels of the directly enclosing aggregation.
    pub grouping: Vec<String>,
    /// True if `grouping` is of `by`, false for `without` (and without any grouping).
    pub by: bool,
}

/// Where samples come from. Called on a CPU thread; it may block on a channel that an async side fills.
pub trait Source {
    /// Opens the series of one select.
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesSet + '_>, QueryError>;
}

/// Series sorted by labels, each at most once.
pub trait SeriesSet {
    /// Moves to the next series and returns its labels, or `None` behind the last.
    fn next_series(&mut self) -> Result<Option<Labels>, QueryError>;

    /// Decodes the current series' samples into `out`, which the caller has cleared: times strictly ascending.
    /// Samples outside `[mint, maxt]` of the request are allowed and ignored. Called at most once per series.
    fn read_samples(&mut self, out: &mut Samples) -> Result<(), QueryError>;

    /// What the user should know about the answer (a store that did not answer); asked after the last series.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Decoded samples of one series, floats and histograms apart, by columns. One buffer serves a whole select.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Times of the floats, milliseconds, ascending.
    pub times: Vec<i64>,
    /// Values of the floats.
    pub floats: Vec<f64>,
    /// Histograms with their times, ascending.
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
    /// Start times of the floats (when the counter began), milliseconds, 0 = unknown. Empty, or as long as `times`.
    pub float_starts: Vec<i64>,
    /// Start times of the histograms. Empty, or as long as `histograms`.
    pub histogram_starts: Vec<i64>,
}

impl Samples {
    /// Appends a float.
    pub fn push(&mut self, t: i64, v: f64) {
        self.times.push(t);
        self.floats.push(v);
    }

    /// Appends a histogram.
    pub fn push_histogram(&mut self, t: i64, h: Arc<FloatHistogram>) {
        self.histograms.push((t, h));
    }

    /// Drops all samples, keeps the memory.
    pub fn clear(&mut self) {
        self.times.clear();
        self.floats.clear();
        self.histograms.clear();
        self.float_starts.clear();
        self.histogram_starts.clear();
    }

    /// Number of samples of both kinds.
    pub fn len(&self) -> usize {
        self.times.len() + self.histograms.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
