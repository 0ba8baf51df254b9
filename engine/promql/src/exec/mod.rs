//! Evaluation: a [`Plan`] is made from the text, its selects are fetched, then it is executed against a [`Source`].
//!
//! Everything here is synchronous and runs on a CPU thread; the async side knows all selects beforehand
//! ([`Plan::selects`]) and may fill the source while the evaluation already reads from it.

mod aggregate;
pub mod analyze;
pub mod annotations;
mod best;
pub(crate) mod binary;
pub mod budget;
pub(crate) mod calendar;
pub(crate) mod column;
mod dense;
pub mod error;
mod eval;
mod histograms;
mod info;
mod join;
pub mod memory;
mod merge;
pub mod options;
mod range;
mod rank;
pub mod result;
mod rows;
mod select;
mod shared;
mod slices;
pub mod source;
mod special;
mod tally;

pub use analyze::{Explained, Measured};
pub use annotations::Annotations;
pub use budget::{Account, Holder, Limit, Overrun, Phase, ProcessBudget};
pub use error::QueryError;
pub use options::{EngineOptions, Helpers, RatioHash, Rewrites, Stop, Times};
pub use result::{Matrix, QueryResult, QueryStats, QueryValue, Series, StepSamples, VectorSample};
pub use source::{Encoded, Entry, Samples, SelectHints, SelectRequest, SeriesSet, Source};

use crate::functions::window::Falls;
use crate::parse::{Expr, ValueType, parse_expr};
use crate::plan::{Kind, Planned, RangeArg, build};
use analyze::Meter;
use budget::Cost;
use column::SeriesColumn;
use eval::{Counters, Exec, Shared, without_metadata};
use merge::Merged;
use model::sample::Value;
use model::world::Clock;
use select::Form;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tally::Tally;

/// A query that is ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    query: String,
    times: Times,
    options: EngineOptions,
    value_type: ValueType,
    planned: Planned,
}

impl Plan {
    /// Parses and plans `query`.
    pub fn new(query: &str, times: Times, options: &EngineOptions) -> Result<Self, QueryError> {
        let expr = parse_expr(query, &options.parser)?;
        Self::from_expr(query, &expr, times, options)
    }

    /// Plans a tree that was parsed before; `query` is its text, to which positions refer.
    pub fn from_expr(query: &str, expr: &Expr, times: Times, options: &EngineOptions) -> Result<Self, QueryError> {
        let planned = build(query, expr, times, options)?;
        let options = options.clone();
        Ok(Self { query: query.to_owned(), times, options, value_type: expr.value_type(), planned })
    }

    /// The text.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// When it is evaluated.
    pub fn times(&self) -> Times {
        self.times
    }

    /// All that will be selected, in the order of the text; `id` is the index.
    pub fn selects(&self) -> &[SelectRequest] {
        &self.planned.selects
    }

    /// What each selector asks of the select that its `id` names: several may share one.
    pub fn uses(&self) -> &[SelectRequest] {
        &self.planned.uses
    }

    /// The type of the expression; a range query answers with a matrix whatever it is.
    pub fn value_type(&self) -> ValueType {
        self.value_type
    }

    /// Runs it. May be called more than once.
    pub fn execute(&self, source: &dyn Source, stop: &Stop) -> Result<QueryResult, QueryError> {
        self.run(source, stop, &Account::new(&self.options), None)
    }

    /// Runs it on an account that holds already what was fetched for it.
    pub fn execute_on(&self, source: &dyn Source, stop: &Stop, account: &Account) -> Result<QueryResult, QueryError> {
        self.run(source, stop, account, None)
    }

    /// What the query will do.
    pub fn explain(&self) -> Explained {
        analyze::explain(&self.planned, None)
    }

    /// Runs it and tells what each node did.
    pub fn analyze(
        &self,
        source: &dyn Source,
        stop: &Stop,
        account: &Account,
        clock: &dyn Clock,
    ) -> Result<(QueryResult, Explained), QueryError> {
        let meter = Meter::new(clock, self.planned.nodes);
        let result = self.run(source, stop, account, Some(&meter))?;
        Ok((result, analyze::explain(&self.planned, Some(&meter))))
    }

    fn run(
        &self,
        source: &dyn Source,
        stop: &Stop,
        budget: &Account,
        meter: Option<&Meter<'_>>,
    ) -> Result<QueryResult, QueryError> {
        let (counters, distinct) = (Counters::default(), Mutex::default());
        let exec = Exec::of(Shared {
            source,
            uses: &self.planned.uses,
            narrow: &self.planned.narrow,
            stop,
            options: &self.options,
            budget,
            counters: &counters,
            meter,
            distinct: &distinct,
        });
        self.foresee(&exec)?;
        if self.options.count_samples {
            exec.tally.replace(Some(Arc::new(Tally::new(&self.planned.grid))));
        }
        let value = self.evaluate(&exec)?;
        let stats = QueryStats {
            samples_read: counters.samples.load(Ordering::Relaxed),
            series_read: counters.series.load(Ordering::Relaxed),
            peak_samples: budget.peak_samples(),
            peak_bytes: budget.peak_bytes(),
            steps: exec.tally().map(|t| t.counts()),
        };
        Ok(QueryResult { value, annotations: exec.notes.into_inner(), stats })
    }

    /// Refuses what can't be answered within the limits: an answer as wide as its select.
    fn foresee(&self, exec: &Exec<'_>) -> Result<(), QueryError> {
        let (root, grid) = (&self.planned.root, &self.planned.grid);
        let series = match root.first_selector().and_then(|s| self.planned.uses.get(s.select)) {
            // Comparisons and gaps may leave series out; with a step or two it is not worth a thought.
            Some(request) if root.sliced && grid.len > 16 => exec.source.series(request).unwrap_or(1),
            _ => 1,
        };
        // Half of the steps have a value, by and large.
        let bytes = series.saturating_mul(grid.len as u64).saturating_mul(9) / 2;
        exec.budget.foresee(Holder::Answer, bytes)
    }

    fn evaluate(&self, exec: &Exec<'_>) -> Result<QueryValue, QueryError> {
        let (root, grid) = (&self.planned.root, &self.planned.grid);
        let instant = matches!(self.times, Times::Instant(_));
        let unwrapped = match &root.kind {
            Kind::Invariant(n) => n,
            _ => root,
        };
        match (&unwrapped.kind, self.value_type) {
            (Kind::Text(s), _) => return Ok(QueryValue::String(grid.start, s.clone())),
            (Kind::Bytes(b), _) => {
                return Ok(QueryValue::String(grid.start, String::from_utf8_lossy(b).into_owned()));
            }
            (Kind::Range(arg), _) => return self.raw_matrix(exec, arg),
            (_, ValueType::Scalar) => {
                let column = exec.scalar(root, grid)?;
                if instant {
                    return Ok(QueryValue::Scalar(grid.start, column.first()));
                }
                let floats: Vec<_> = (0..grid.len).map(|i| (grid.time(i), column.at(i))).collect();
                let series = Series { floats, ..Series::default() };
                let series = if grid.len == 0 { Vec::new() } else { vec![series] };
                return Ok(QueryValue::Matrix(series.into()));
            }
            _ => {}
        }
        // The answer stays on the account until that is closed.
        let held = exec.collect(root, grid, Holder::Answer)?;
        let mut series = self.with_final_names(held.keep())?;
        if instant {
            let t = grid.start;
            let sample = |s: SeriesColumn| {
                let value = match (s.column.float(0), s.column.histogram(0)) {
                    (Some(v), _) => Value::Float(v),
                    (None, Some(h)) => Value::Histogram(h.clone()),
                    (None, None) => return None,
                };
                Some(VectorSample { labels: s.labels, t, value })
            };
            return Ok(QueryValue::Vector(series.into_iter().filter_map(sample).collect()));
        }
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(QueryValue::Matrix(Matrix::of_columns(*grid, series)))
    }

    /// Drops the names that were marked for the end of the query.
    fn with_final_names(&self, series: Vec<SeriesColumn>) -> Result<Vec<SeriesColumn>, QueryError> {
        if !self.options.delayed_name_removal {
            return Ok(series);
        }
        let mut merged = Merged::default();
        for mut s in series {
            if s.drop_name {
                s.labels = without_metadata(&s.labels);
            }
            merged.add(s)?;
        }
        Ok(merged.finish().collect())
    }

    /// A range vector as an answer: its samples with their own times.
    fn raw_matrix(&self, exec: &Exec<'_>, arg: &RangeArg) -> Result<QueryValue, QueryError> {
        let grid = &self.planned.grid;
        let mut all: Vec<Series> = Vec::new();
        if let RangeArg::Subquery(s) = arg {
            // Its points are the answer; nothing is forgotten about their resets, as it is below a function.
            let inner = s.grid(grid);
            let series = exec.answered(s, grid, || Ok(exec.collect(&s.child, &inner, Holder::Answer)?.keep()))?;
            let mut series = self.with_final_names(series)?;
            series.sort_by(|a, b| a.labels.cmp(&b.labels));
            return Ok(QueryValue::Matrix(Matrix::of_columns(inner, series)));
        }
        exec.read_range(arg, grid, Form::Plain, &mut |head, samples| {
            let falls = Falls::default();
            let window = exec.slider(arg, samples, &falls).at(grid.start, arg.reference(grid.start));
            let mut series = Series { labels: head.labels, floats: Vec::new(), histograms: window.histograms.to_vec() };
            series.floats = range::raw_floats(&window)?;
            if !series.floats.is_empty() || !series.histograms.is_empty() {
                let samples = (series.floats.len() + series.histograms.len()) as u64;
                exec.budget.hold(Holder::Answer, Cost { samples, bytes: samples * 16 })?;
                all.push(series);
            }
            Ok(())
        })?;
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(QueryValue::Matrix(all.into()))
    }
}
