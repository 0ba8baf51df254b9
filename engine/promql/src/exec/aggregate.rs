//! Aggregations that need one pass: a few numbers per group and step, whatever the number of series.

use super::QueryError;
use super::budget::{Cost, Holder};
use super::column::{Bits, Column, SeriesColumn};
use super::eval::{Exec, Sink};
use super::rows::{RowSums, Rows};
use crate::functions::math::kahan;
use crate::functions::over_time::{HistogramMean, Mean};
use crate::parse::AggregateOp;
use crate::plan::{Aggregate, Grid, Node};
use hashbrown::HashMap;
use model::Labels;
use model::labels::METRIC_NAME;

/// Which group a series belongs to.
pub(super) struct Grouping<'a> {
    names: &'a [String],
    without: bool,
    index: HashMap<Labels, usize>,
    /// The labels of each group, in the order of their first series.
    pub(super) labels: Vec<Labels>,
    /// Times that a group was looked for.
    pub(super) matched: u64,
}

impl<'a> Grouping<'a> {
    pub(super) fn new(names: &'a [String], without: bool) -> Self {
        Self { names, without, index: HashMap::new(), labels: Vec::new(), matched: 0 }
    }

    /// The labels that a group with this series has.
    pub(super) fn key(&self, labels: &Labels) -> Labels {
        let named = |n: &str| self.names.iter().any(|x| x == n);
        if self.without {
            labels.filter(|n| n != METRIC_NAME && !named(n))
        } else if self.names.is_empty() {
            Labels::empty()
        } else {
            labels.filter(named)
        }
    }

    /// The index of the series' group.
    pub(super) fn group(&mut self, labels: &Labels) -> usize {
        self.matched += 1;
        if !self.without && self.names.is_empty() {
            if self.labels.is_empty() {
                self.labels.push(Labels::empty());
            }
            return 0;
        }
        let key = self.key(labels);
        if let Some(at) = self.index.get(&key) {
            return *at;
        }
        let at = self.labels.len();
        self.index.insert(key.clone(), at);
        self.labels.push(key);
        at
    }
}

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_aggregate(
        &self,
        node: &Node,
        a: &Aggregate,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        match a.op {
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                return self.stream_ranked(node, a, grid, sink);
            }
            AggregateOp::Quantile => return self.stream_quantile(node, a, grid, sink),
            AggregateOp::CountValues => return self.stream_count_values(a, grid, sink),
            _ => {}
        }
        let mut grouping = Grouping::new(&a.grouping, a.without);
        let mut groups: Vec<Group> = Vec::new();
        let mut held = Cost::default();
        let cost = Cost { samples: grid.len as u64, bytes: grid.len as u64 * 24 };
        self.stream(&a.arg, grid, &mut |mut series| {
            let at = grouping.group(&series.labels);
            if at == groups.len() {
                groups.push(Group::new(a.op, grid.len));
                held += cost;
                self.budget.hold(Holder::Groups, cost)?;
            }
            if let Some(group) = groups.get_mut(at) {
                group.drop_name |= series.drop_name;
                if let Some(rows) = series.column.rows.take() {
                    let more = group.add_rows(rows, &mut series.column);
                    held += more;
                    self.budget.hold(Holder::Groups, more)?;
                }
                self.add_to_group(group, a, &series);
            }
            Ok(())
        })?;
        self.matched(node, grouping.matched);
        for (labels, group) in grouping.labels.iter().zip(groups) {
            let drop_name = group.drop_name;
            let column = self.finish_group(group, a);
            if !column.is_empty() {
                sink(SeriesColumn { labels: labels.clone(), drop_name, column })?;
            }
        }
        self.budget.release(Holder::Groups, held);
        Ok(())
    }

    fn add_to_group(&self, group: &mut Group, a: &Aggregate, series: &SeriesColumn) {
        let masked;
        let mut column = &series.column;
        if let Some(sums) = &group.histograms
            && sums.iter().any(|s| matches!(s, HistogramSum::Incompatible))
        {
            // As in Prometheus nothing that comes later counts where histograms did not go together.
            let mut rest = column.clone();
            for (i, _) in sums.iter().enumerate().filter(|(_, s)| matches!(s, HistogramSum::Incompatible)) {
                rest.present.clear(i);
            }
            masked = rest;
            column = &masked;
        }
        match &mut group.numbers {
            Numbers::Sum { sums } if group.floats.is_all(group.len) && column.present.is_all(group.len) => {
                for ((s, c), v) in sums.iter_mut().zip(&column.floats) {
                    (*s, *c) = kahan(*v, *s, *c);
                }
            }
            Numbers::Sum { sums } => {
                for i in column.present.iter() {
                    if let (Some((s, c)), Some(v)) = (sums.get_mut(i), column.floats.get(i)) {
                        if group.floats.get(i) {
                            (*s, *c) = kahan(*v, *s, *c);
                        } else {
                            (*s, *c) = (*v, 0.0);
                        }
                    }
                }
                group.floats.or(&column.present);
            }
            Numbers::Mean { means } => {
                for i in column.present.iter() {
                    if let (Some(m), Some(v)) = (means.get_mut(i), column.floats.get(i)) {
                        if group.floats.get(i) {
                            m.add(*v);
                        } else {
                            *m = Mean::new(*v);
                        }
                        group.floats.set(i);
                    }
                }
            }
            Numbers::Extreme { values, greater } => {
                for i in column.present.iter() {
                    if let (Some(best), Some(v)) = (values.get_mut(i), column.floats.get(i)) {
                        let beats = if *greater { *best < *v } else { *best > *v };
                        if !group.floats.get(i) || beats || best.is_nan() {
                            *best = *v;
                        }
                    }
                }
                group.floats.or(&column.present);
            }
            Numbers::Count { counts } => {
                let occupied = column.occupied();
                if occupied.is_all(group.len) {
                    counts.iter_mut().for_each(|n| *n += 1.0);
                } else {
                    for i in occupied.iter() {
                        if let Some(n) = counts.get_mut(i) {
                            *n += 1.0;
                        }
                    }
                }
                group.floats.or(&occupied);
                return;
            }
            Numbers::Any => {
                group.floats.or(&column.occupied());
                return;
            }
            Numbers::Variance { moments } => {
                for i in column.present.iter() {
                    if let (Some(m), Some(v)) = (moments.get_mut(i), column.floats.get(i)) {
                        if group.floats.get(i) {
                            m.add(*v);
                        } else {
                            *m = Moments::new(*v);
                        }
                        group.floats.set(i);
                    }
                }
            }
        }
        if !column.has_histograms() {
            return;
        }
        group.settle();
        let average = match a.op {
            AggregateOp::Sum => false,
            AggregateOp::Avg => true,
            op => {
                self.notes.borrow_mut().histogram_ignored_in_aggregation(op.as_str(), a.arg.span);
                return;
            }
        };
        let len = column.len();
        let floats = &group.floats;
        let sums = group.histograms.get_or_insert_with(|| (0..len).map(|_| HistogramSum::None).collect());
        for (i, h) in column.iter_histograms() {
            let Some(slot) = sums.get_mut(i) else { continue };
            match slot {
                // What comes after a float can't be used, whatever it is.
                HistogramSum::None if floats.get(i) => *slot = HistogramSum::Late,
                HistogramSum::None => *slot = HistogramSum::Sum(Box::new(HistogramMean::new(h, average))),
                HistogramSum::Sum(sum) => {
                    let added = sum.add(h);
                    if std::mem::take(&mut sum.reconciled) {
                        self.notes.borrow_mut().mismatched_custom_buckets("aggregation", a.arg.span);
                    }
                    if added.is_err() {
                        let name = series.labels.value(METRIC_NAME);
                        self.notes.borrow_mut().mixed_exponential_custom(name, a.arg.span);
                        *slot = HistogramSum::Incompatible;
                    }
                }
                HistogramSum::Incompatible | HistogramSum::Late => {}
            }
        }
    }

    fn finish_group(&self, mut group: Group, a: &Aggregate) -> Column {
        group.settle();
        let len = group.len;
        let floats = group.numbers.finish(len, a.op);
        let mut column = Column { floats, present: group.floats, histograms: None, rows: None };
        let mut notes = self.notes.borrow_mut();
        for (i, sum) in group.histograms.into_iter().flatten().enumerate() {
            if matches!(sum, HistogramSum::None) {
                continue;
            }
            if column.present.get(i) {
                notes.mixed_floats_histograms_aggregation(a.arg.span);
                column.present.clear(i);
                continue;
            }
            if let HistogramSum::Sum(sum) = sum {
                if sum.reset_collision() {
                    notes.reset_collision("aggregation", a.arg.span);
                }
                column.set_histogram(i, sum.finish().into());
            }
        }
        column
    }
}

/// What is kept of a group.
struct Group {
    len: usize,
    /// Steps with a float (for `count` and `group`: with anything).
    floats: Bits,
    numbers: Numbers,
    histograms: Option<Vec<HistogramSum>>,
    /// Sums of histograms as rows, as long as there are no others and no floats.
    rows: Option<RowSums>,
    drop_name: bool,
}

enum HistogramSum {
    None,
    Sum(Box<HistogramMean>),
    /// Exponential and custom buckets came together.
    Incompatible,
    /// A float was there before.
    Late,
}

/// Numbers per step.
enum Numbers {
    Sum { sums: Vec<(f64, f64)> },
    Mean { means: Vec<Mean> },
    Extreme { values: Vec<f64>, greater: bool },
    Count { counts: Vec<f64> },
    Any,
    Variance { moments: Vec<Moments> },
}

impl Group {
    fn new(op: AggregateOp, len: usize) -> Self {
        let numbers = match op {
            AggregateOp::Sum => Numbers::Sum { sums: vec![(0.0, 0.0); len] },
            AggregateOp::Avg => Numbers::Mean { means: vec![Mean::new(0.0); len] },
            AggregateOp::Min => Numbers::Extreme { values: vec![0.0; len], greater: false },
            AggregateOp::Max => Numbers::Extreme { values: vec![0.0; len], greater: true },
            AggregateOp::Count => Numbers::Count { counts: vec![0.0; len] },
            AggregateOp::Stddev | AggregateOp::Stdvar => Numbers::Variance { moments: vec![Moments::new(0.0); len] },
            _ => Numbers::Any,
        };
        Self { len, floats: Bits::none(len), numbers, histograms: None, rows: None, drop_name: false }
    }
}

impl Group {
    /// Adds the rows of a series, whose column gets them as histograms where that can't be. Gives what more is held.
    fn add_rows(&mut self, rows: Box<Rows>, column: &mut Column) -> Cost {
        let rows = match &mut self.rows {
            Some(sums) => sums.add(rows),
            None if self.histograms.is_none() && !self.floats.any() => {
                let sums = RowSums::new(&rows);
                let cost = sums.cost();
                self.rows = Some(sums);
                return cost;
            }
            None => Err(rows),
        };
        match rows {
            Ok(more) => more,
            Err(rows) => {
                column.rows = Some(rows);
                column.settle();
                Cost::default()
            }
        }
    }

    /// Turns sums of rows into such of histograms.
    fn settle(&mut self) {
        if let Some(rows) = self.rows.take() {
            let mut sums: Vec<HistogramSum> = (0..self.len).map(|_| HistogramSum::None).collect();
            for (i, sum) in rows.sums() {
                if let Some(slot) = sums.get_mut(i) {
                    *slot = HistogramSum::Sum(Box::new(HistogramMean::of_sum(sum)));
                }
            }
            self.histograms = Some(sums);
        }
    }
}

impl Numbers {
    fn finish(self, len: usize, op: AggregateOp) -> Vec<f64> {
        match self {
            Self::Sum { sums } => sums.into_iter().map(|(s, c)| s + c).collect(),
            Self::Mean { means } => means.iter().map(Mean::value).collect(),
            Self::Extreme { values, .. } => values,
            Self::Count { counts } => counts,
            Self::Any => vec![1.0; len],
            Self::Variance { moments } => {
                let root = op == AggregateOp::Stddev;
                moments.iter().map(|m| if root { m.variance().sqrt() } else { m.variance() }).collect()
            }
        }
    }
}

/// Welford's running variance.
#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn new(v: f64) -> Self {
        Self { count: 1.0, mean: v, squares: if v.is_finite() { 0.0 } else { f64::NAN } }
    }

    fn add(&mut self, v: f64) {
        self.count += 1.0;
        let delta = v - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (v - self.mean);
    }

    fn variance(&self) -> f64 {
        self.squares / self.count
    }
}
