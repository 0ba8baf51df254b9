//! Which samples a query's steps look at, counted as Prometheus counts them for its query statistics: each step as if it
//! were a query of its own, whatever is read once for all of them. Counted only where somebody asks.

use super::QueryError;
use super::budget::Holder;
use super::column::{Column, histogram_cost, histograms_cost};
use super::eval::Exec;
use super::result::StepSamples;
use super::source::Samples;
use crate::functions::window::Falls;
use crate::plan::{Grid, RangeArg, Subquery};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of an evaluation, by its steps. Threads share it.
#[derive(Debug)]
pub(super) struct Tally {
    grid: Grid,
    /// Samples of all windows and instants.
    queryable: Vec<AtomicU64>,
    /// The same, those left out that the window of the step before has, too.
    read: Vec<AtomicU64>,
}

impl Tally {
    pub(super) fn new(grid: &Grid) -> Self {
        let zeros = || (0..grid.len).map(|_| AtomicU64::new(0)).collect();
        Self { grid: *grid, queryable: zeros(), read: zeros() }
    }

    fn add(&self, t: i64, queryable: u64, read: u64) {
        // Evaluations may be about a part of the steps.
        let step = usize::try_from(t.saturating_sub(self.grid.start) / self.grid.step).unwrap_or(usize::MAX);
        if let (Some(q), Some(r)) = (self.queryable.get(step), self.read.get(step)) {
            q.fetch_add(queryable, Ordering::Relaxed);
            r.fetch_add(read, Ordering::Relaxed);
        }
    }

    /// Adds what another evaluation over the same steps, or some of them, counted.
    pub(super) fn merge(&self, part: &Self) {
        part.each(|t, queryable, read| self.add(t, queryable, read));
    }

    fn each(&self, mut f: impl FnMut(i64, u64, u64)) {
        for (i, (q, r)) in self.queryable.iter().zip(&self.read).enumerate() {
            f(self.grid.time(i), q.load(Ordering::Relaxed), r.load(Ordering::Relaxed));
        }
    }

    /// Adds what was evaluated once for all steps of `grid`: it is read at the first.
    fn repeat(&self, once: &Self, grid: &Grid) {
        once.each(|_, queryable, read| {
            for i in 0..grid.len {
                let first = i == 0 && grid.start == self.grid.start;
                self.add(grid.time(i), queryable, if first { read } else { 0 });
            }
        });
    }

    /// Adds what the steps of a subquery read: each for the first step whose window has it, if any has. What those windows
    /// hold is counted apart.
    fn inner(&self, inner: &Self, s: &Subquery, grid: &Grid) {
        inner.each(|t, _, read| {
            let t = t.saturating_add(s.offset);
            let ahead = t.saturating_sub(grid.start).max(0);
            let step = usize::try_from((ahead + grid.step - 1) / grid.step).unwrap_or(usize::MAX).min(grid.len - 1);
            if grid.len == 1 || t > grid.time(step).saturating_sub(s.range) {
                self.add(grid.time(step), 0, read);
            }
        });
    }

    /// What was counted.
    pub(super) fn counts(&self) -> StepSamples {
        let all = |counts: &[AtomicU64]| counts.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        StepSamples {
            start: self.grid.start,
            step: self.grid.step,
            queryable: all(&self.queryable),
            read: all(&self.read),
        }
    }
}

impl Exec<'_> {
    /// The counts, if somebody wants them.
    pub(super) fn tally(&self) -> Option<Arc<Tally>> {
        self.tally.borrow().clone()
    }

    /// Runs with counts of its own, over `grid`.
    pub(super) fn apart<T>(
        &self,
        grid: &Grid,
        run: impl FnOnce() -> Result<T, QueryError>,
        count: impl FnOnce(&Tally, Arc<Tally>),
    ) -> Result<T, QueryError> {
        let Some(outer) = self.tally() else { return run() };
        self.budget.foresee(Holder::Scalars, (grid.len as u64).saturating_mul(16))?;
        let own = Arc::new(Tally::new(grid));
        let before = self.tally.replace(Some(Arc::clone(&own)));
        let result = run();
        self.tally.replace(before);
        count(&outer, own);
        result
    }

    /// Runs what is evaluated once for all steps of `grid`.
    pub(super) fn once<T>(&self, grid: &Grid, run: impl FnOnce() -> Result<T, QueryError>) -> Result<T, QueryError> {
        self.apart(&Grid::single(grid.start), run, |outer, once| outer.repeat(&once, grid))
    }

    /// Runs the steps of a subquery.
    pub(super) fn within<T>(
        &self,
        s: &Subquery,
        grid: &Grid,
        run: impl FnOnce() -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        self.apart(&s.grid(grid), run, |outer, inner| outer.inner(&inner, s, grid))
    }

    /// Runs the steps of a subquery that is itself the answer.
    pub(super) fn answered<T>(
        &self,
        s: &Subquery,
        grid: &Grid,
        run: impl FnOnce() -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let count = |outer: &Tally, inner: Arc<Tally>| {
            inner.each(|_, queryable, read| outer.add(grid.end(), queryable, read));
        };
        self.apart(&s.grid(grid), run, count)
    }

    /// Counts the values of an instant selector.
    pub(super) fn tally_values(&self, column: &Column, grid: &Grid) {
        let Some(tally) = self.tally() else { return };
        column.present.iter().for_each(|i| tally.add(grid.time(i), 1, 1));
        for (i, h) in column.iter_histograms() {
            let size = histogram_cost(h).samples;
            tally.add(grid.time(i), size, size);
        }
    }

    /// Counts the windows of a range over one series.
    pub(super) fn tally_windows(&self, tally: &Tally, arg: &RangeArg, grid: &Grid, samples: &Samples) {
        let falls = Falls::default();
        let slider = self.slider(arg, samples, &falls);
        // Times of all samples, and how many there are before each, a histogram as its size.
        let mut all: Vec<(i64, u64)> = samples.times.iter().map(|t| (*t, 1)).collect();
        all.extend(samples.histograms.iter().map(|(t, h)| (*t, histogram_cost(h).samples)));
        all.extend(samples.table.sizes().map(|(t, words)| (t, histograms_cost(1, words).samples)));
        all.sort_unstable_by_key(|(t, _)| *t);
        let mut sum = 0;
        for (_, size) in &mut all {
            sum += std::mem::replace(size, sum);
        }
        let until = |t: i64| all.get(all.partition_point(|s| s.0 <= t)).map_or(sum, |s| s.1);
        for i in 0..grid.len {
            let t = grid.time(i);
            let (after, last) = slider.bounds(arg.reference(t));
            let queryable = until(last) - until(after);
            let read = match arg {
                RangeArg::Subquery(_) => 0,
                _ if t == tally.grid.start => queryable,
                RangeArg::Selector { selector, .. } if selector.at.is_some() => 0,
                RangeArg::Selector { .. } => until(last) - until(after.max(last.saturating_sub(tally.grid.step))),
            };
            tally.add(t, queryable, read);
        }
    }
}
