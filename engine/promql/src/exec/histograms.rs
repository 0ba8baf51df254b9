//! Functions of histograms: numbers of native ones, quantiles and fractions of both kinds.

use super::QueryError;
use super::annotations::{Annotations, ForcedSteps};
use super::budget::Holder;
use super::column::{Column, ScalarColumn, SeriesColumn};
use super::eval::{Exec, Held, Sink};
use super::merge::Merged;
use crate::functions::classic::parse_bound;
use crate::functions::math::kahan;
use crate::histogram::{
    ClassicBucket, NanNote, all_buckets, classic_fraction, classic_quantile, native_fraction, native_quantile,
};
use crate::parse::{FunctionId, Span};
use crate::plan::{Grid, Node};
use hashbrown::HashMap;
use model::labels::{BUCKET_LABEL, METRIC_NAME};
use model::number::format_g;
use model::{FloatHistogram, Labels};
use std::collections::BTreeMap;

/// The number that a quantile (its index) makes of a histogram at a step.
type HistogramFn<'f> = dyn FnMut(usize, usize, &Labels, Histogram<'_>, &mut Annotations) -> f64 + 'f;

/// Series of one classic histogram, or a native one, or (by mistake) both.
struct Group {
    labels: Labels,
    /// Bound and series, by bound.
    classic: Vec<(f64, usize)>,
    native: Option<usize>,
}

impl Exec<'_> {
    /// `histogram_count`, `_sum`, `_avg`, `_stddev`, `_stdvar`.
    #[inline(never)]
    pub(super) fn stream_histogram_number(
        &self,
        id: FunctionId,
        arg: &Node,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let number = |h: &FloatHistogram| match id {
            FunctionId::HistogramCount => h.count,
            FunctionId::HistogramSum => h.sum,
            FunctionId::HistogramAvg => h.sum / h.count,
            FunctionId::HistogramStddev => variance(h).sqrt(),
            _ => variance(h),
        };
        self.renamed(arg, grid, sink, &mut |column| {
            let mut out = Column::empty(column.len());
            for (i, h) in column.iter_histograms() {
                out.set(i, number(h));
            }
            *column = out;
        })
    }

    /// Sorts the series of a vector into histograms.
    fn histogram_groups(&self, all: &[SeriesColumn], span: Span) -> Vec<Group> {
        let mut index: HashMap<Labels, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut find = |key: Labels, groups: &mut Vec<Group>| {
            *index.entry(key.clone()).or_insert_with(|| {
                groups.push(Group { labels: key, classic: Vec::new(), native: None });
                groups.len() - 1
            })
        };
        for (i, series) in all.iter().enumerate() {
            if series.column.present.any() {
                let le = series.labels.value(BUCKET_LABEL);
                match parse_bound(le) {
                    Some(bound) => {
                        let at = find(series.labels.filter(|n| n != BUCKET_LABEL), &mut groups);
                        if let Some(g) = groups.get_mut(at) {
                            g.classic.push((bound, i));
                        }
                    }
                    None => {
                        self.notes.borrow_mut().bad_bucket_label(self.told_name(&series.labels), le, span);
                    }
                }
            }
            if series.column.has_histograms() {
                let at = find(series.labels.clone(), &mut groups);
                if let Some(g) = groups.get_mut(at) {
                    g.native = Some(i);
                }
            }
        }
        for g in &mut groups {
            g.classic.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        groups
    }

    /// The name that notes on histograms name: only if names live till the end of the query.
    fn told_name<'l>(&self, labels: &'l Labels) -> &'l str {
        if self.options.delayed_name_removal { labels.value(METRIC_NAME) } else { "" }
    }

    /// Calls `f` for each histogram and step, and emits what it gives: one number for each of `names`, which are
    /// the label and quantile that tell the numbers apart, if there is more than one.
    fn each_histogram(
        &self,
        (node, arg): (&Node, &Node),
        grid: &Grid,
        names: &[Option<(&str, &ScalarColumn)>],
        sink: &mut Sink<'_>,
        f: &mut HistogramFn<'_>,
    ) -> Result<(), QueryError> {
        self.with_input(arg, (grid, 0), Holder::Input, sink, &mut |grid, first, held, sink| {
            self.matched(node, held.series.len() as u64);
            self.each_histogram_at(arg, (grid, first), held, names, sink, f)
        })
    }

    /// A part of the steps: `f` and `names` count from the first of all.
    fn each_histogram_at(
        &self,
        arg: &Node,
        (grid, first): (&Grid, usize),
        held: Held<'_, '_>,
        names: &[Option<(&str, &ScalarColumn)>],
        sink: &mut Sink<'_>,
        f: &mut HistogramFn<'_>,
    ) -> Result<(), QueryError> {
        let groups = self.histogram_groups(&held.series, arg.span);
        let mut out = Merged::default();
        let mut buckets = Vec::new();
        for (n, name) in names.iter().enumerate() {
            for group in &groups {
                self.stop.check()?;
                let series = SeriesColumn { labels: group.labels.clone(), drop_name: false, column: Column::empty(0) };
                let labels = self.without_name(series).labels;
                // The output series, with the quantile that is part of its labels.
                let mut slot: Option<(u64, usize)> = None;
                for step in 0..grid.len {
                    buckets.clear();
                    for (upper, i) in &group.classic {
                        if let Some(count) = held.series.get(*i).and_then(|s| s.column.float(step)) {
                            buckets.push(ClassicBucket { upper: *upper, count });
                        }
                    }
                    let native = group.native.and_then(|i| held.series.get(i)?.column.histogram(step));
                    let mut notes = self.notes.borrow_mut();
                    let histogram = match (native, buckets.is_empty()) {
                        (Some(_), false) => {
                            notes.mixed_classic_native(self.told_name(&group.labels), arg.span);
                            continue;
                        }
                        (Some(h), true) => Histogram::Native(h),
                        (None, false) => Histogram::Classic(&mut buckets),
                        (None, true) => continue,
                    };
                    let v = f(n, first + step, &group.labels, histogram, &mut notes);
                    let q = name.map_or(0.0, |(_, q)| q.at(first + step));
                    let at = match slot {
                        Some((bits, at)) if bits == q.to_bits() => at,
                        _ => match name {
                            Some((label, _)) => out.slot(&labels.with(label, &open_metrics_number(q)), true, grid.len),
                            None => out.slot(&labels, true, grid.len),
                        },
                    };
                    slot = Some((q.to_bits(), at));
                    out.put_float(at, step, v)?;
                }
            }
        }
        drop(held);
        out.finish().try_for_each(sink)
    }

    /// `histogram_quantile`, and `histogram_quantiles` if there is a label to tell them apart.
    #[inline(never)]
    pub(super) fn stream_quantiles(
        &self,
        (node, arg): (&Node, &Node),
        quantiles: &[(ScalarColumn, Span)],
        label: Option<&str>,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut fixed: BTreeMap<String, ForcedSteps> = BTreeMap::new();
        let names: Vec<_> = quantiles.iter().map(|(q, _)| label.map(|l| (l, q))).collect();
        self.each_histogram((node, arg), grid, &names, sink, &mut |n, step, labels, h, notes| {
            let q = quantiles.get(n).map_or(f64::NAN, |(q, _)| q.at(step));
            let metric = self.told_name(labels);
            match h {
                Histogram::Native(h) => {
                    let (v, note) = native_quantile(q, h);
                    match note {
                        Some(NanNote::Result) => notes.quantile_nan_result(metric, arg.span),
                        Some(NanNote::Skew) => notes.quantile_nan_skew(metric, arg.span),
                        None => {}
                    }
                    v
                }
                Histogram::Classic(buckets) => {
                    let (v, forced) = classic_quantile(q, buckets);
                    if let Some(f) = forced {
                        let (t, bounds) = (grid.time(step), (f.min_bound, f.max_bound));
                        match fixed.get_mut(metric) {
                            Some(all) => all.add(step, t, bounds, f.max_difference),
                            None => {
                                let first = ForcedSteps::new(step, t, bounds, f.max_difference);
                                fixed.insert(metric.to_owned(), first);
                            }
                        }
                    }
                    v
                }
            }
        })?;
        for (q, span) in quantiles {
            let steps = if matches!(q, ScalarColumn::Constant(_)) { 1 } else { grid.len };
            for v in (0..steps).map(|i| q.at(i)).filter(|v| v.is_nan() || !(0.0..=1.0).contains(v)) {
                self.notes.borrow_mut().invalid_quantile(v, *span);
            }
        }
        for (metric, steps) in &fixed {
            self.notes.borrow_mut().forced_monotonicity(metric, steps, grid.len, arg.span);
        }
        Ok(())
    }

    /// `histogram_fraction`
    #[inline(never)]
    pub(super) fn stream_fraction(
        &self,
        (node, arg): (&Node, &Node),
        bounds: &(ScalarColumn, ScalarColumn),
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        self.each_histogram((node, arg), grid, &[None], sink, &mut |_, step, labels, h, notes| {
            let (low, high) = (bounds.0.at(step), bounds.1.at(step));
            match h {
                Histogram::Native(h) => {
                    let (v, note) = native_fraction(low, high, h);
                    if note.is_some() {
                        notes.fraction_nan(self.told_name(labels), arg.span);
                    }
                    v
                }
                Histogram::Classic(buckets) => classic_fraction(low, high, buckets),
            }
        })
    }
}

/// A histogram at one step.
enum Histogram<'a> {
    Native(&'a FloatHistogram),
    Classic(&'a mut Vec<ClassicBucket>),
}

/// A number as a label value: whole numbers have a decimal point.
fn open_metrics_number(v: f64) -> String {
    let text = format_g(v);
    if v.is_finite() && !text.contains(['.', 'e']) { text + ".0" } else { text }
}

/// The variance of the observations, taken to lie in the middle of their buckets.
fn variance(h: &FloatHistogram) -> f64 {
    let mean = h.sum / h.count;
    let (mut sum, mut c) = (0.0, 0.0);
    for b in all_buckets(h).iter().filter(|b| b.count != 0.0) {
        let v = if h.has_custom_buckets() {
            (b.upper + b.lower) / 2.0
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            0.0
        } else {
            let middle = (b.upper * b.lower).sqrt();
            if b.upper < 0.0 { -middle } else { middle }
        };
        let delta = v - mean;
        (sum, c) = kahan(b.count * delta * delta, sum, c);
    }
    (sum + c) / h.count
}
