//! What a range function sees: the samples of one series in one window.

use crate::exec::column::SeriesColumn;
use crate::exec::{Annotations, Samples};
use crate::parse::{RangeMode, Span};
use model::histogram::ResetHint;
use model::labels::METRIC_NAME;
use model::{FloatHistogram, Labels};
use std::sync::Arc;

/// A function's value for a window.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

impl From<FloatHistogram> for Value {
    fn from(h: FloatHistogram) -> Self {
        Self::Histogram(Arc::new(h))
    }
}

/// The samples of one series in one window, by columns; times ascend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    /// The evaluation time, milliseconds.
    pub(crate) t: i64,
    /// The window's start; samples at this time are outside (but see [`RangeMode`]).
    pub(crate) start: i64,
    /// The window's end; samples at this time are inside.
    pub(crate) end: i64,
    pub(crate) mode: RangeMode,
    pub(crate) times: &'a [i64],
    pub(crate) floats: &'a [f64],
    pub(crate) histograms: &'a [(i64, Arc<FloatHistogram>)],
    /// Start times of `floats`; empty if they are unknown or unused.
    pub(crate) float_starts: &'a [i64],
    /// Start times of `histograms`.
    pub(crate) histogram_starts: &'a [i64],
    /// The values of the window just before a fall, if falls were asked for.
    pub(crate) peaks: &'a [f64],
}

impl Window<'_> {
    /// The window's width in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        (self.end - self.start) as f64 / 1000.0
    }

    /// True if there are floats and histograms.
    pub(crate) fn is_mixed(&self) -> bool {
        !self.floats.is_empty() && !self.histograms.is_empty()
    }
}

/// Where a range function puts what it has to tell about one series. Each kind is told once per series.
pub(crate) struct Notes<'a> {
    annotations: &'a mut Annotations,
    labels: Labels,
    span: Span,
    told: u32,
}

/// The kinds of notes on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    MixedFloatsHistograms,
    MixedExponentialCustom,
    NotCounter,
    NotGauge,
    IgnoredHistograms,
    ReconciledAddition,
    ReconciledSubtraction,
    ReconciledAggregation,
    ResetCollision,
}

impl<'a> Notes<'a> {
    pub(crate) fn new(annotations: &'a mut Annotations, labels: &Labels, span: Span) -> Self {
        Self { annotations, labels: labels.clone(), span, told: 0 }
    }

    pub(crate) fn tell(&mut self, note: Note) {
        let bit = 1 << note as u32;
        if self.told & bit != 0 {
            return;
        }
        self.told |= bit;
        let (name, span) = (self.labels.value(METRIC_NAME), self.span);
        match note {
            Note::MixedFloatsHistograms => self.annotations.mixed_floats_histograms(name, span),
            Note::MixedExponentialCustom => self.annotations.mixed_exponential_custom(name, span),
            Note::NotCounter => self.annotations.histogram_not_counter(name, span),
            Note::NotGauge => self.annotations.histogram_not_gauge(name, span),
            Note::IgnoredHistograms => self.annotations.histograms_ignored_in_mixed_range(name, span),
            Note::ReconciledAddition => self.annotations.mismatched_custom_buckets("addition", span),
            Note::ReconciledSubtraction => self.annotations.mismatched_custom_buckets("subtraction", span),
            Note::ReconciledAggregation => self.annotations.mismatched_custom_buckets("aggregation", span),
            Note::ResetCollision => self.annotations.reset_collision("aggregation", span),
        }
    }

    /// Start times that overlap; the occurrences are counted.
    pub(crate) fn start_overlap(&mut self) {
        self.annotations.start_time_overlap(self.labels.value(METRIC_NAME), 1, self.span);
    }

    /// A quantile outside 0…1, blamed on `span`.
    pub(crate) fn invalid_quantile(&mut self, q: f64, span: Span) {
        self.annotations.invalid_quantile(q, span);
    }
}

/// Two indexes that follow a window over ascending times.
#[derive(Default)]
struct Cursor {
    from: usize,
    to: usize,
}

impl Cursor {
    /// Moves to the samples in `(after, until]`. Both bounds never go back between calls.
    fn advance(&mut self, len: usize, time: impl Fn(usize) -> i64, after: i64, until: i64) {
        while self.to < len && time(self.to) <= until {
            self.to += 1;
        }
        while self.from < self.to && time(self.from) <= after {
            self.from += 1;
        }
    }
}

/// Where floats fall, found once per series: windows overlap, and most of them have no fall at all.
#[derive(Default)]
pub(crate) struct Falls {
    /// Indexes of the lower values.
    at: Vec<usize>,
    /// The values before them.
    peaks: Vec<f64>,
}

impl Falls {
    pub(crate) fn find(&mut self, floats: &[f64]) {
        self.at.clear();
        self.peaks.clear();
        for (i, pair) in floats.windows(2).enumerate() {
            if let [before, after] = pair
                && after < before
            {
                self.at.push(i + 1);
                self.peaks.push(*before);
            }
        }
    }
}

impl Falls {
    /// Goes through them window by window.
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk { falls: self, cursor: Cursor::default() }
    }
}

/// Falls by windows of which neither bound goes back.
pub(crate) struct Walk<'a> {
    falls: &'a Falls,
    cursor: Cursor,
}

impl<'a> Walk<'a> {
    /// The values before the falls among the samples `from..to`. A fall belongs to a window if both values do.
    pub(crate) fn within(&mut self, from: usize, to: usize) -> &'a [f64] {
        let Falls { at, peaks } = self.falls;
        if at.is_empty() {
            return &[];
        }
        let index = |i: usize| at.get(i).map_or(i64::MAX, |at| *at as i64);
        self.cursor.advance(at.len(), index, from as i64, to as i64 - 1);
        peaks.get(self.cursor.from..self.cursor.to).unwrap_or_default()
    }
}

/// Slides windows over the samples of a series.
pub(crate) struct Slider<'a> {
    samples: &'a Samples,
    falls: Walk<'a>,
    floats: Cursor,
    histograms: Cursor,
    range: i64,
    mode: RangeMode,
    lookback: i64,
}

impl<'a> Slider<'a> {
    pub(crate) fn new(samples: &'a Samples, falls: &'a Falls, range: i64, mode: RangeMode, lookback: i64) -> Self {
        let [floats, histograms] = Default::default();
        Self { samples, falls: falls.walk(), floats, histograms, range, mode, lookback }
    }

    /// The window ending at `end` has the samples after the first of these times, up to the second.
    pub(crate) fn bounds(&self, end: i64) -> (i64, i64) {
        let start = end.saturating_sub(self.range);
        match self.mode {
            RangeMode::Plain => (start, end),
            RangeMode::Anchored => (start.saturating_sub(self.lookback), end),
            RangeMode::Smoothed => (start.saturating_sub(self.lookback), end.saturating_add(self.lookback)),
        }
    }

    /// The window that ends at `end`, evaluated at `t`; ends never go back.
    pub(crate) fn at(&mut self, t: i64, end: i64) -> Window<'a> {
        let start = end.saturating_sub(self.range);
        let (after, until) = self.bounds(end);
        let s = self.samples;
        self.floats.advance(s.times.len(), |i| s.times.get(i).copied().unwrap_or(i64::MAX), after, until);
        let time = |i: usize| s.histograms.get(i).map_or(i64::MAX, |h| h.0);
        self.histograms.advance(s.histograms.len(), time, after, until);
        let (f, h) = (self.floats.from..self.floats.to, self.histograms.from..self.histograms.to);
        let peaks = self.falls.within(f.start, f.end);
        Window {
            t,
            start,
            end,
            mode: self.mode,
            times: s.times.get(f.clone()).unwrap_or_default(),
            floats: s.floats.get(f.clone()).unwrap_or_default(),
            histograms: s.histograms.get(h.clone()).unwrap_or_default(),
            float_starts: s.float_starts.get(f).unwrap_or_default(),
            histogram_starts: s.histogram_starts.get(h).unwrap_or_default(),
            peaks,
        }
    }
}

/// The values of a subquery's inner series as samples. What the histograms say about resets no longer holds: the
/// inner steps may skip or repeat samples.
pub(crate) fn samples_of(series: &SeriesColumn, grid: &crate::plan::Grid, out: &mut Samples) {
    out.clear();
    for i in series.column.present.iter() {
        if let Some(v) = series.column.float(i) {
            out.push(grid.time(i), v);
        }
    }
    for (i, h) in series.column.iter_histograms() {
        let h = match h.reset_hint {
            ResetHint::Unknown | ResetHint::Gauge => h.clone(),
            ResetHint::Reset | ResetHint::NotReset => {
                let mut copy = FloatHistogram::clone(h);
                copy.reset_hint = ResetHint::Unknown;
                Arc::new(copy)
            }
        };
        out.push_histogram(grid.time(i), h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_open_on_the_left() {
        let mut s = Samples::default();
        for t in [0, 10, 20, 30] {
            s.push(t, t as f64);
        }
        let falls = Falls::default();
        let mut slider = Slider::new(&s, &falls, 20, RangeMode::Plain, 100);
        assert_eq!(slider.at(20, 20).times, [10, 20]);
        assert_eq!(slider.at(25, 25).times, [10, 20]);
        assert_eq!(slider.at(30, 30).times, [20, 30]);
        assert!(slider.at(60, 60).times.is_empty());
    }

    #[test]
    fn falls_follow_the_window() {
        let mut s = Samples::default();
        for (t, v) in [(0, 1.0), (10, 5.0), (20, 2.0), (30, 3.0), (40, 1.0), (50, 9.0)] {
            s.push(t, v);
        }
        let mut falls = Falls::default();
        falls.find(&s.floats);
        let mut slider = Slider::new(&s, &falls, 30, RangeMode::Plain, 0);
        let mut peaks = |t| slider.at(t, t).peaks.to_vec();
        assert!(peaks(10).is_empty());
        assert_eq!(peaks(20), [5.0]);
        assert_eq!(peaks(30), [5.0]);
        assert_eq!(peaks(40), [3.0], "the value before the first fall is outside");
        assert_eq!(peaks(60), [3.0; 0], "and so is that before the second");
    }
}
