//! What the evaluation reads from: series of samples, in the order of their labels.

use super::error::QueryError;
use model::histogram::rows::Table;
use model::{FloatHistogram, Labels, Matcher};
use std::sync::Arc;

/// One select of a query. A plan lists all of them before anything is evaluated (see [`super::Plan::selects`]), so
/// that the async side can fetch them concurrently.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// Index in [`super::Plan::selects`]. Several uses may share one select: each asks with its own matchers, times
    /// and hints, which lie within those of the list; a source may answer with more than the use's matchers and times
    /// ask for. A select that no answer needs is not asked for.
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
    /// Labels whose values matter above the select, sorted; `None` = all. Others may be left out by a source that
    /// still gives each series by itself.
    pub projection: Option<Vec<String>>,
}

/// Where samples come from. Asked on a CPU thread; it may block on a channel that an async side fills.
pub trait Source: Sync {
    /// Opens the series of one select.
    fn select<'s>(&'s self, request: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError>;

    /// True if a select may be opened more than once. Then an evaluation that would hold too much goes through the
    /// data again, a part of the steps at a time.
    fn repeatable(&self) -> bool {
        false
    }

    /// How many series a select has, if that is known before it is opened: hopeless queries are refused at once.
    fn series(&self, _request: &SelectRequest) -> Option<u64> {
        None
    }
}

/// Series sorted by labels, each at most once.
pub trait SeriesSet<'s> {
    /// The next series, or `None` behind the last.
    fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError>;

    /// What the user should know about the answer (a store that did not answer); asked after the last series.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// A series whose samples are not decoded yet.
pub struct Entry<'s> {
    /// Its labels.
    pub labels: Labels,
    /// Its samples.
    pub data: Box<dyn Encoded + 's>,
}

/// The samples of one series as they came. They are decoded on any of the threads that evaluate the query.
pub trait Encoded: Send {
    /// Decodes into `out`, which is empty: times strictly ascending. Samples outside the request's range are allowed
    /// and ignored. Called at most once.
    fn decode(&self, out: &mut Samples) -> Result<(), QueryError>;

    /// How many samples it has at most, if that is known: memory for them is asked for before they are decoded.
    fn samples(&self) -> Option<u64> {
        None
    }

    /// Words of eight bytes that the spans, buckets and bounds of its histograms take at most, as far as that is known:
    /// asked for as well.
    fn words(&self) -> u64 {
        0
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
    /// Histograms as rows, without staleness markers: a source may put them here instead, all of a series, if `wants_rows`
    /// says so.
    pub table: Table,
    /// Whoever reads understands rows.
    pub wants_rows: bool,
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
        self.table.clear();
    }

    /// Turns rows into histograms, before others are appended or somebody reads who knows no rows.
    pub fn settle(&mut self) {
        self.histograms.extend(self.table.histograms().map(|(t, h)| (t, Arc::new(h))));
        self.table.clear();
    }

    /// Number of samples of both kinds.
    pub fn len(&self) -> usize {
        self.times.len() + self.histograms.len() + self.table.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{EngineOptions, Plan, Stop, Times};

    /// Announces much, and must not be decoded for it.
    #[derive(Clone, Copy)]
    struct Bomb {
        samples: u64,
        words: u64,
    }

    struct Set(Option<Bomb>);

    impl Encoded for Bomb {
        fn decode(&self, _: &mut Samples) -> Result<(), QueryError> {
            panic!("decoded")
        }
        fn samples(&self) -> Option<u64> {
            Some(self.samples)
        }
        fn words(&self) -> u64 {
            self.words
        }
    }

    impl Source for Bomb {
        fn select<'s>(&'s self, _: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
            Ok(Box::new(Set(Some(*self))))
        }
    }

    impl<'s> SeriesSet<'s> for Set {
        fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
            Ok(self.0.take().map(|bomb| Entry { labels: Labels::empty(), data: Box::new(bomb) }))
        }
    }

    #[test]
    fn memory_is_asked_for_before_anything_is_decoded() {
        let options = EngineOptions { max_bytes: 1 << 20, ..EngineOptions::default() };
        let plan = Plan::new("count(m)", Times::Instant(0), &options).unwrap();
        for bomb in [
            Bomb { samples: 1 << 16, words: 1 },
            Bomb { samples: 1, words: 1 << 17 },
            Bomb { samples: u64::MAX, words: u64::MAX },
        ] {
            let e = plan.execute(&bomb, &Stop::new()).unwrap_err();
            assert!(matches!(e, QueryError::TooManyBytes(_) | QueryError::TooManySamples), "{e}");
        }
    }
}
