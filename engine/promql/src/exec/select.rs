//! Reading series: instant selectors and the samples under range selectors.

use super::budget::{Cost, Holder};
use super::column::{Column, Point, SeriesColumn, histogram_cost, histograms_cost};
use super::dense;
use super::eval::{Exec, Sink};
use super::source::{Entry, Samples, SeriesSet};
use super::{QueryError, Stop};
use crate::functions::rate::{interpolate, interpolate_histogram};
use crate::functions::window::{Falls, Note, Notes, Slider, Window, samples_of};
use crate::histogram::detect_reset;
use crate::parse::{RangeMode, Span};
use crate::plan::{Grid, Node, RangeArg, Selector};
use model::histogram::ResetHint;
use model::sample::is_stale;
use model::{FloatHistogram, Labels};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A series that is about to be read.
pub(super) struct Head {
    pub(super) labels: Labels,
    pub(super) drop_name: bool,
}

/// In which form samples are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All.
    WithStale,
    /// Without stale markers.
    Plain,
    /// The same, histograms as rows where their source can do that.
    Rows,
}

/// What is taken from a sample of an instant selector.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// Its value.
    Value,
    /// Its time, in seconds.
    Time,
    /// The time when its counting began, in seconds.
    Start,
}

impl<'q> Exec<'q> {
    /// Opens the select of a use.
    pub(super) fn open(&self, select: usize) -> Result<Box<dyn SeriesSet<'q> + 'q>, QueryError> {
        let request = self.uses.get(select).ok_or_else(|| super::eval::unexpected("an unknown select"))?;
        self.shared.source.select(request)
    }

    /// True if a series passes what its select does not filter.
    pub(super) fn is_wanted(&self, select: usize, labels: &Labels) -> bool {
        self.narrow.get(select).is_none_or(|n| n.iter().all(|m| m.matches_labels(labels)))
    }

    /// Calls `f` with each series of a select and its samples.
    pub(super) fn read(
        &self,
        selector: &Selector,
        form: Form,
        f: &mut dyn FnMut(Labels, &mut Samples) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        // Start times, and what is left of histograms for their statistics, are not in rows.
        let wants_rows = form == Form::Rows && !selector.stats && !self.options.start_timestamps;
        let mut samples = Samples { wants_rows, ..Samples::default() };
        let keep_stale = form == Form::WithStale;
        if let Some(slice) = &self.slice {
            for entry in slice.take() {
                self.read_one(entry, selector, keep_stale, &mut samples, f)?;
            }
            return Ok(());
        }
        let mut set = self.open(selector.select)?;
        while let Some(entry) = set.next_series()? {
            if self.is_wanted(selector.select, &entry.labels) {
                self.read_one(entry, selector, keep_stale, &mut samples, f)?;
            }
        }
        for warning in set.warnings() {
            self.notes.borrow_mut().add_source_warning(warning);
        }
        Ok(())
    }

    fn read_one(
        &self,
        entry: Entry<'_>,
        selector: &Selector,
        keep_stale: bool,
        samples: &mut Samples,
        f: &mut dyn FnMut(Labels, &mut Samples) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        self.stop.check()?;
        samples.clear();
        // What a sample takes at least; what they really take is known afterwards.
        let (samples_expected, words) = (entry.data.samples().unwrap_or(0), entry.data.words());
        let expected = Cost {
            samples: samples_expected.saturating_add(words / 2),
            bytes: samples_expected.saturating_mul(16).saturating_add(words.saturating_mul(8)),
        };
        self.hold(Holder::Samples, expected)?;
        entry.data.decode(samples)?;
        self.release(Holder::Samples, expected);
        if !samples.times.is_empty() {
            // Rows tell nothing of what stands beside them.
            samples.settle();
        }
        self.counters.series.fetch_add(1, Ordering::Relaxed);
        self.counters.samples.fetch_add(samples.len() as u64, Ordering::Relaxed);
        if selector.stats {
            keep_stats(samples);
        }
        if !keep_stale {
            drop_stale(samples);
        }
        if !self.options.start_timestamps {
            samples.float_starts.clear();
            samples.histogram_starts.clear();
        }
        if samples.is_empty() {
            return Ok(());
        }
        let floats = samples.times.len() as u64;
        let mut cost = Cost { samples: floats, bytes: floats * 16 };
        for (_, h) in &samples.histograms {
            cost += histogram_cost(h);
        }
        let (rows, words) = samples.table.words();
        cost += histograms_cost(rows, words);
        self.hold(Holder::Samples, cost)?;
        f(entry.labels, samples)?;
        self.release(Holder::Samples, cost);
        Ok(())
    }

    /// An instant selector.
    #[inline(never)]
    pub(super) fn stream_instant(
        &self,
        selector: &Selector,
        span: Span,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let smoothed = selector.mode == RangeMode::Smoothed;
        let form = if smoothed { Form::Plain } else { Form::WithStale };
        self.read(selector, form, &mut |labels, samples| {
            let column = if smoothed {
                let mut notes = self.notes.borrow_mut();
                let mut notes = Notes::new(&mut notes, &labels, span);
                smoothed_column(samples, selector, grid, self.options.lookback_ms, &mut notes)
            } else {
                let lookback = self.options.lookback_ms;
                dense::newest(samples, selector, grid, lookback)
                    .unwrap_or_else(|| instant_column(samples, selector, grid, lookback, Take::Value))
            };
            if column.is_empty() {
                return Ok(());
            }
            // As in Prometheus, what smoothing looks at is not counted.
            if !smoothed {
                self.tally_values(&column, grid);
            }
            sink(SeriesColumn { labels, drop_name: false, column })
        })
    }

    /// Calls `f` with each series of a range vector and its samples; windows are laid by the caller.
    pub(super) fn read_range(
        &self,
        arg: &RangeArg,
        grid: &Grid,
        form: Form,
        f: &mut dyn FnMut(Head, &mut Samples) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let tally = self.tally();
        match arg {
            RangeArg::Selector { selector, .. } => self.read(selector, form, &mut |labels, samples| {
                if let Some(tally) = &tally {
                    self.tally_windows(tally, arg, grid, samples);
                }
                f(Head { labels, drop_name: false }, samples)
            }),
            RangeArg::Subquery(s) => {
                let inner = s.grid(grid);
                let mut f = |head: Head, samples: &mut Samples| {
                    if let Some(tally) = &tally {
                        self.tally_windows(tally, arg, grid, samples);
                    }
                    f(head, samples)
                };
                self.within(s, grid, || self.subquery_series(&s.child, &inner, &mut f))
            }
        }
    }

    fn subquery_series(
        &self,
        child: &Node,
        inner: &Grid,
        f: &mut dyn FnMut(Head, &mut Samples) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let mut samples = Samples::default();
        if child.value_type == crate::parse::ValueType::Scalar {
            return Err(super::eval::unexpected("a subquery of a scalar"));
        }
        self.stream(child, inner, &mut |series| {
            samples_of(&series, inner, &mut samples);
            let cost = series.cost();
            self.hold(Holder::Samples, cost)?;
            f(Head { labels: series.labels, drop_name: series.drop_name }, &mut samples)?;
            self.release(Holder::Samples, cost);
            Ok(())
        })
    }

    /// A slider over the windows of `arg`.
    pub(super) fn slider<'a>(&self, arg: &RangeArg, samples: &'a Samples, falls: &'a Falls) -> Slider<'a> {
        Slider::new(samples, falls, arg.range(), arg.mode(), self.options.lookback_ms)
    }

    /// Calls `f` with the window of each step.
    pub(super) fn each_window(
        &self,
        arg: &RangeArg,
        grid: &Grid,
        samples: &Samples,
        falls: &Falls,
        mut f: impl FnMut(usize, &Window<'_>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let mut slider = self.slider(arg, samples, falls);
        let stop: &Stop = self.stop;
        let mut seen = 0usize;
        for i in 0..grid.len {
            let t = grid.time(i);
            let window = slider.at(t, arg.reference(t));
            let size = window.floats.len() + window.histograms.len();
            if size == 0 {
                continue;
            }
            f(i, &window)?;
            seen += size;
            if seen > 4096 {
                stop.check()?;
                seen = 0;
            }
        }
        Ok(())
    }
}

/// Drops the buckets of histograms. What they say about resets is found out before and kept as a hint.
fn keep_stats(s: &mut Samples) {
    let mut last: Option<Arc<FloatHistogram>> = None;
    for (_, h) in &mut s.histograms {
        let hint = match (h.reset_hint, &last) {
            (ResetHint::Unknown, Some(last)) if !is_stale(h.sum) => {
                if detect_reset(h, last) {
                    ResetHint::Reset
                } else {
                    ResetHint::NotReset
                }
            }
            (hint, _) => hint,
        };
        let stats = FloatHistogram {
            reset_hint: hint,
            schema: h.schema,
            count: h.count,
            sum: h.sum,
            ..FloatHistogram::default()
        };
        let full = std::mem::replace(h, Arc::new(stats));
        if !is_stale(full.sum) {
            last = Some(full);
        }
    }
}

fn drop_stale(s: &mut Samples) {
    if s.floats.iter().any(|v| is_stale(*v)) {
        let keep: Vec<bool> = s.floats.iter().map(|v| !is_stale(*v)).collect();
        let mut flags = keep.iter().copied();
        s.times.retain(|_| flags.next().unwrap_or(true));
        let mut flags = keep.iter().copied();
        s.floats.retain(|_| flags.next().unwrap_or(true));
        let mut flags = keep.iter().copied();
        s.float_starts.retain(|_| flags.next().unwrap_or(true));
    }
    if s.histograms.iter().any(|(_, h)| is_stale(h.sum)) {
        let mut flags: Vec<bool> = s.histograms.iter().map(|(_, h)| !is_stale(h.sum)).collect();
        let mut next = flags.drain(..);
        s.histogram_starts.retain(|_| next.next().unwrap_or(true));
        drop(next);
        s.histograms.retain(|(_, h)| !is_stale(h.sum));
    }
}

/// The newest sample of each step, if it is not too old.
pub(super) fn instant_column(s: &Samples, selector: &Selector, grid: &Grid, lookback: i64, take: Take) -> Column {
    let mut column = Column::empty(grid.len);
    let (mut f, mut h) = (0usize, 0usize);
    for i in 0..grid.len {
        let reference = selector.reference(grid.time(i));
        while s.times.get(f).is_some_and(|t| *t <= reference) {
            f += 1;
        }
        while s.histograms.get(h).is_some_and(|(t, _)| *t <= reference) {
            h += 1;
        }
        let oldest = reference.saturating_sub(lookback);
        let float = f.checked_sub(1).and_then(|j| Some((*s.times.get(j)?, Point::Float(*s.floats.get(j)?))));
        let histogram = h.checked_sub(1).and_then(|j| s.histograms.get(j)).map(|(t, v)| (*t, Point::Histogram(v)));
        let newest = match (float, histogram) {
            (Some(a), Some(b)) => Some(if a.0 > b.0 { a } else { b }),
            (a, b) => a.or(b),
        };
        let Some((t, point)) = newest.filter(|(t, p)| *t > oldest && !p.is_stale()) else { continue };
        match (take, point) {
            (Take::Value, Point::Float(v)) => column.set(i, v),
            (Take::Value, Point::Histogram(v)) => column.set_histogram(i, v.clone()),
            (Take::Time, _) => column.set(i, t as f64 / 1000.0),
            (Take::Start, _) => {
                let (starts, j) = match point {
                    Point::Float(_) => (&s.float_starts, f - 1),
                    Point::Histogram(_) => (&s.histogram_starts, h - 1),
                };
                column.set(i, starts.get(j).copied().unwrap_or(0) as f64 / 1000.0);
            }
        }
    }
    column
}

/// The value at each step on the line between its neighbours within one lookback on both sides.
fn smoothed_column(s: &Samples, selector: &Selector, grid: &Grid, lookback: i64, notes: &mut Notes<'_>) -> Column {
    let mut column = Column::empty(grid.len);
    let falls = Falls::default();
    let mut slider = Slider::new(s, &falls, lookback.saturating_mul(2), RangeMode::Plain, 0);
    for i in 0..grid.len {
        let t = selector.reference(grid.time(i));
        let w = slider.at(t, t.saturating_add(lookback));
        if w.is_mixed() {
            notes.tell(Note::MixedFloatsHistograms);
            continue;
        }
        if !w.floats.is_empty() {
            let at = w.times.partition_point(|x| *x < t);
            let point = |j: usize| Some((*w.times.get(j)?, *w.floats.get(j)?));
            match (at.checked_sub(1).and_then(point), point(at)) {
                (_, Some(next)) if next.0 == t => column.set(i, next.1),
                (Some(previous), Some(next)) => column.set(i, interpolate(previous, next, t, false)),
                (Some(previous), None) => column.set(i, previous.1),
                (None, _) => {}
            }
        } else if !w.histograms.is_empty() {
            let at = w.histograms.partition_point(|(x, _)| *x < t);
            match (at.checked_sub(1).and_then(|j| w.histograms.get(j)), w.histograms.get(at)) {
                (_, Some(next)) if next.0 == t => column.set_histogram(i, next.1.clone()),
                (Some(previous), Some(next)) => {
                    if previous.1.has_custom_buckets() != next.1.has_custom_buckets() {
                        notes.tell(Note::MixedExponentialCustom);
                        continue;
                    }
                    let gauges = [previous, next].iter().all(|p| p.1.reset_hint == ResetHint::Gauge);
                    if let Some(h) = interpolate_histogram(previous, next, t, !gauges, notes) {
                        column.set_histogram(i, h.into());
                    }
                }
                (Some(previous), None) => {
                    let mut h = previous.1.clone();
                    Arc::make_mut(&mut h).reset_hint = ResetHint::Unknown;
                    column.set_histogram(i, h);
                }
                (None, _) => {}
            }
        }
    }
    column
}
