//! The evaluation proper. Series are pushed through a tree of operators one at a time; only operators that need
//! all series at once (joins, sorting, ranking) hold them.

use super::analyze::Meter;
use super::annotations::Annotations;
use super::budget::{Account, Cost, Holder};
use super::column::{Column, ScalarColumn, SeriesColumn};
use super::merge::{Merged, same_labels};
use super::options::{EngineOptions, Stop};
use super::shared::Kept;
use super::source::Entry;
use super::tally::Tally;
use super::{QueryError, SelectRequest, Source};
use crate::functions::elementwise::{round, unary};
use crate::functions::math::{max, min};
use crate::histogram::scale;
use crate::parse::{FunctionId, ValueType};
use crate::plan::{Call, Grid, Kind, Node};
use hashbrown::{HashMap, HashSet};
use model::labels::METRIC_NAME;
use model::{Labels, Matcher};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

/// Where an operator pushes its series. Each series has at least one value.
pub(super) type Sink<'s> = dyn FnMut(SeriesColumn) -> Result<(), QueryError> + 's;

/// What is done with a whole vector: its steps, the number of the first of them, the vector, and where results go.
pub(super) type Whole<'f, 'q> = dyn FnMut(&Grid, usize, Held<'_, 'q>, &mut Sink<'_>) -> Result<(), QueryError> + 'f;

/// What all threads of a running query share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'q> {
    pub(super) source: &'q dyn Source,
    /// What each selector asks for.
    pub(super) uses: &'q [SelectRequest],
    /// What the select of each use does not filter.
    pub(super) narrow: &'q [Vec<Matcher>],
    pub(super) stop: &'q Stop,
    pub(super) options: &'q EngineOptions,
    pub(super) budget: &'q Account,
    pub(super) counters: &'q Counters,
    pub(super) meter: Option<&'q Meter<'q>>,
    /// Labels that were seen by nodes which must not give any twice.
    pub(super) distinct: &'q Mutex<HashSet<(usize, Labels)>>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) series: AtomicU64,
    pub(super) samples: AtomicU64,
}

/// A running query, on one thread.
pub(super) struct Exec<'q> {
    pub(super) shared: Shared<'q>,
    pub(super) notes: RefCell<Annotations>,
    /// The part of a select that this evaluation is about; without it all is read from the source.
    pub(super) slice: Option<RefCell<Vec<Entry<'q>>>>,
    /// What the evaluation of the part holds.
    pub(super) own: Cell<Own>,
    /// Subtrees that are used again.
    pub(super) kept: RefCell<HashMap<usize, Option<Rc<Kept>>>>,
    /// Counts what is looked at, if somebody wants that.
    pub(super) tally: RefCell<Option<Arc<Tally>>>,
}

/// Samples that a slice holds, and held at most. They count when it is its turn, so that what is too much does not depend on
/// how many slices are evaluated at the same time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    samples: u64,
    pub(super) peak: u64,
}

impl<'q> std::ops::Deref for Exec<'q> {
    type Target = Shared<'q>;
    fn deref(&self) -> &Shared<'q> {
        &self.shared
    }
}

/// Series that are held at once; they count against the limit until they are dropped.
pub(super) struct Held<'e, 'q> {
    exec: &'e Exec<'q>,
    holder: Holder,
    cost: Cost,
    pub(super) series: Vec<SeriesColumn>,
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        self.exec.budget.release(self.holder, self.cost);
    }
}

impl Held<'_, '_> {
    /// The series, which stay counted as long as the account is open.
    pub(super) fn keep(mut self) -> Vec<SeriesColumn> {
        self.cost = Cost::default();
        self.take()
    }

    /// The series, which from here on are the caller's to count.
    pub(super) fn take(&mut self) -> Vec<SeriesColumn> {
        std::mem::take(&mut self.series)
    }
}

/// Output series that may become equal, joined and held until all are there; they count against the limit.
pub(super) struct Gathered<'e, 'q> {
    exec: &'e Exec<'q>,
    merged: Merged,
    cost: Cost,
}

impl Gathered<'_, '_> {
    pub(super) fn add(&mut self, series: SeriesColumn) -> Result<(), QueryError> {
        let cost = series.cost();
        self.cost += cost;
        self.exec.budget.hold(Holder::Input, cost)?;
        self.merged.add(series)
    }

    /// Passes all on.
    pub(super) fn pass(mut self, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        std::mem::take(&mut self.merged).finish().try_for_each(sink)
    }
}

impl Drop for Gathered<'_, '_> {
    fn drop(&mut self) {
        self.exec.budget.release(Holder::Input, self.cost);
    }
}

impl<'q> Exec<'q> {
    /// A place for output series that may become equal.
    pub(super) fn gather(&self) -> Gathered<'_, 'q> {
        Gathered { exec: self, merged: Merged::default(), cost: Cost::default() }
    }

    /// An evaluation that reads from the source.
    pub(super) fn of(shared: Shared<'q>) -> Self {
        Self {
            shared,
            notes: RefCell::default(),
            slice: None,
            own: Cell::default(),
            kept: RefCell::default(),
            tally: RefCell::default(),
        }
    }

    /// Counts what is held of series that are read.
    pub(super) fn hold(&self, holder: Holder, cost: Cost) -> Result<(), QueryError> {
        if self.slice.is_none() {
            return self.budget.hold(holder, cost);
        }
        let Own { samples, peak } = self.own.get();
        let samples = samples.saturating_add(cost.samples);
        self.own.set(Own { samples, peak: peak.max(samples) });
        self.budget.check_alone(samples)?;
        self.budget.hold(holder, Cost { samples: 0, ..cost })
    }

    /// Counts what is held no longer.
    pub(super) fn release(&self, holder: Holder, cost: Cost) {
        if self.slice.is_none() {
            return self.budget.release(holder, cost);
        }
        let own = self.own.get();
        self.own.set(Own { samples: own.samples.saturating_sub(cost.samples), ..own });
        self.budget.release(holder, Cost { samples: 0, ..cost });
    }

    /// An evaluation of a part of a select.
    pub(super) fn of_slice(&self, slice: Vec<Entry<'q>>) -> Self {
        Self { slice: Some(RefCell::new(slice)), tally: self.tally.clone(), ..Self::of(self.shared) }
    }

    /// All series of a vector.
    pub(super) fn collect(&self, node: &Node, grid: &Grid, holder: Holder) -> Result<Held<'_, 'q>, QueryError> {
        let mut held = Held { exec: self, holder, cost: Cost::default(), series: Vec::new() };
        self.stream(node, grid, &mut |series| {
            let cost = series.cost();
            held.cost += cost;
            held.series.push(series);
            self.budget.hold(holder, cost)
        })?;
        Ok(held)
    }

    /// All series of a vector, or `None` when they are more than half of what may be held and can be read again in
    /// parts.
    fn collect_within_half(
        &self,
        node: &Node,
        grid: &Grid,
        holder: Holder,
    ) -> Result<Option<Held<'_, 'q>>, QueryError> {
        let cap = match self.budget.share(2) {
            Some(cap) if self.source.repeatable() && grid.len > 1 => cap,
            _ => return self.collect(node, grid, holder).map(Some),
        };
        let before = self.notes.take();
        let mut held = Held { exec: self, holder, cost: Cost::default(), series: Vec::new() };
        let too_much = Cell::new(false);
        let attempt = || {
            self.stream(node, grid, &mut |series| {
                let cost = series.cost();
                held.cost += cost;
                held.series.push(series);
                self.budget.hold(holder, cost)?;
                too_much.set(held.cost.bytes > cap);
                // Ends the evaluation; nobody sees this error.
                if too_much.get() { Err(QueryError::Canceled) } else { Ok(()) }
            })
        };
        let result = self.apart(grid, attempt, |outer, own| {
            if !too_much.get() {
                outer.merge(&own);
            }
        });
        let too_much = too_much.get();
        let notes = self.notes.replace(before);
        if too_much {
            self.kept.borrow_mut().clear();
            return Ok(None);
        }
        self.notes.borrow_mut().merge(notes);
        result.map(|()| Some(held))
    }

    /// Calls `f` with all series of a vector, at once if memory allows, otherwise for parts of the steps one after the
    /// other; `f` gets the part and the number of its first step.
    pub(super) fn with_input(
        &self,
        arg: &Node,
        (grid, first): (&Grid, usize),
        holder: Holder,
        sink: &mut Sink<'_>,
        f: &mut Whole<'_, 'q>,
    ) -> Result<(), QueryError> {
        if let Some(held) = self.collect_within_half(arg, grid, holder)? {
            return f(grid, first, held, sink);
        }
        let half = grid.len / 2;
        let mut merged = Merged::default();
        for (from, len) in [(0, half), (half, grid.len - half)] {
            let part = Grid { start: grid.time(from), len, ..*grid };
            let out = &mut |series: SeriesColumn| {
                let slot = merged.slot(&series.labels, series.drop_name, grid.len);
                for i in series.column.occupied().iter() {
                    if let Some(point) = series.column.point(i) {
                        merged.put(slot, from + i, point)?;
                    }
                }
                Ok(())
            };
            self.with_input(arg, (&part, first + from), holder, out, f)?;
        }
        merged.finish().try_for_each(sink)
    }

    /// Refuses numbers per step that can't be held.
    fn check_scalar(&self, grid: &Grid) -> Result<(), QueryError> {
        self.budget.foresee(Holder::Scalars, grid.len as u64 * 8)
    }

    /// Evaluates a scalar.
    pub(super) fn scalar(&self, node: &Node, grid: &Grid) -> Result<ScalarColumn, QueryError> {
        self.stop.check()?;
        match &node.kind {
            Kind::Number(v) => return Ok(ScalarColumn::Constant(*v)),
            Kind::Invariant(n) => {
                let value = self.once(grid, || self.scalar(n, &Grid::single(grid.start)))?;
                return Ok(ScalarColumn::Constant(value.first()));
            }
            _ => self.check_scalar(grid)?,
        }
        match &node.kind {
            Kind::Plus(n) => self.scalar(n, grid),
            Kind::Negate(n) => Ok(self.scalar(n, grid)?.map(|v| -v)),
            Kind::Binary(b) => {
                let (lhs, rhs) = (self.scalar(&b.lhs, grid)?, self.scalar(&b.rhs, grid)?);
                let f = super::binary::scalar_operation(b.op)?;
                Ok(lhs.zip(&rhs, grid.len, f))
            }
            Kind::Call(c) => self.scalar_call(c, grid),
            _ => Err(unexpected("a scalar")),
        }
    }

    fn scalar_call(&self, call: &Call, grid: &Grid) -> Result<ScalarColumn, QueryError> {
        let pair = |f: fn(f64, f64) -> f64| match call.args.as_slice() {
            [a, b] => Ok(self.scalar(a, grid)?.zip(&self.scalar(b, grid)?, grid.len, f)),
            _ => Err(unexpected("two arguments")),
        };
        match (call.func.id, call.args.as_slice()) {
            (FunctionId::Time, _) => {
                Ok(ScalarColumn::Steps((0..grid.len).map(|i| grid.time(i) as f64 / 1000.0).collect()))
            }
            (FunctionId::MinOf, _) => pair(min),
            (FunctionId::MaxOf, _) => pair(max),
            (FunctionId::Scalar, [arg]) => {
                // The only float at a step; none or several make NaN.
                let mut values = vec![f64::NAN; grid.len];
                let mut seen = vec![0u8; grid.len];
                self.stream(arg, grid, &mut |series| {
                    for i in series.column.present.iter() {
                        if let (Some(v), Some(n)) = (values.get_mut(i), seen.get_mut(i)) {
                            *n = n.saturating_add(1);
                            *v = if *n == 1 { series.column.float(i).unwrap_or(f64::NAN) } else { f64::NAN };
                        }
                    }
                    Ok(())
                })?;
                Ok(ScalarColumn::Steps(values))
            }
            _ => Err(unexpected("a scalar function")),
        }
    }

    /// Evaluates a vector, series by series.
    pub(super) fn stream(&self, node: &Node, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        self.stop.check()?;
        if grid.len == 0 {
            return Ok(());
        }
        // As in Prometheus, where all series are there before an operator takes them, what is told while they are taken
        // comes after all that is told here.
        let before = self.notes.take();
        let above = RefCell::default();
        let mut take = |series: SeriesColumn| {
            self.notes.swap(&above);
            let taken = sink(series);
            self.notes.swap(&above);
            taken
        };
        let result = match self.meter {
            _ if node.sliced && self.slice.is_none() => self.stream_slices(node, grid, &mut take),
            Some(meter) => meter.measure(node.id, &mut take, |sink| self.stream_node(node, grid, sink)),
            None => self.stream_node(node, grid, &mut take),
        };
        let told = self.notes.replace(before);
        let mut notes = self.notes.borrow_mut();
        notes.merge(told);
        notes.merge(above.into_inner());
        result
    }

    fn stream_node(&self, node: &Node, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        match &node.kind {
            Kind::Shared(s) => self.stream_shared(s, grid, sink),
            Kind::Instant(s) => self.stream_instant(s, node.span, grid, sink),
            Kind::Invariant(n) => self.stream_invariant(n, grid, sink),
            Kind::Plus(n) => self.stream(n, grid, sink),
            Kind::Negate(n) => self.stream_negated(n, grid, sink),
            Kind::Call(c) => self.stream_call(node, c, grid, sink),
            Kind::Aggregate(a) => self.stream_aggregate(node, a, grid, sink),
            Kind::Binary(b) => self.stream_binary(node, b, grid, sink),
            Kind::Number(_) | Kind::Text(_) | Kind::Bytes(_) | Kind::Range(_) => Err(unexpected("an instant vector")),
        }
    }

    /// Counts for a node how often series were given to groups or partners, if somebody wants to know.
    pub(super) fn matched(&self, node: &Node, times: u64) {
        if let Some(meter) = self.meter {
            meter.matched(node.id, times);
        }
    }

    /// Evaluates once and repeats.
    #[inline(never)]
    fn stream_invariant(&self, node: &Node, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let mut repeat = |series: SeriesColumn| {
            let column = match (series.column.float(0), series.column.histogram(0)) {
                (Some(v), _) => Column::constant(grid.len, v),
                (None, Some(h)) => {
                    let mut c = Column::empty(grid.len);
                    c.histograms = Some(vec![Some(h.clone()); grid.len]);
                    c
                }
                (None, None) => return Ok(()),
            };
            sink(SeriesColumn { column, ..series })
        };
        self.once(grid, || self.stream(node, &Grid::single(grid.start), &mut repeat))
    }

    #[inline(never)]
    fn stream_negated(&self, node: &Node, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        self.renamed(node, grid, sink, &mut |column| {
            for v in &mut column.floats {
                *v = -*v;
            }
            for h in column.histograms.iter_mut().flatten().flatten() {
                scale(Arc::make_mut(h), -1.0);
            }
        })
    }

    /// Maps columns of `arg` and drops the name; series that become equal are joined.
    pub(super) fn renamed(
        &self,
        arg: &Node,
        grid: &Grid,
        sink: &mut Sink<'_>,
        map: &mut dyn FnMut(&mut Column),
    ) -> Result<(), QueryError> {
        let mut joined = (!arg.injective && !self.options.delayed_name_removal).then(|| self.gather());
        self.stream(arg, grid, &mut |mut series| {
            map(&mut series.column);
            if series.column.is_empty() {
                return Ok(());
            }
            let check = !self.options.delayed_name_removal && has_type_or_unit(&series.labels);
            let series = self.without_name(series);
            match &mut joined {
                Some(m) => m.add(series),
                None => {
                    if check {
                        self.check_distinct(arg.id, &series.labels)?;
                    }
                    sink(series)
                }
            }
        })?;
        joined.map_or(Ok(()), |j| j.pass(sink))
    }

    /// Fails if a series with these labels has been given by this node before.
    pub(super) fn check_distinct(&self, node: usize, labels: &Labels) -> Result<(), QueryError> {
        let mut seen = self.distinct.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.insert((node, labels.clone())) { Ok(()) } else { Err(same_labels()) }
    }

    /// Drops the name, or marks it for dropping at the end.
    pub(super) fn without_name(&self, mut series: SeriesColumn) -> SeriesColumn {
        if !self.options.delayed_name_removal {
            series.labels = without_metadata(&series.labels);
        }
        series.drop_name = true;
        series
    }

    /// `f` of each float with its step; histograms are dropped.
    fn map_floats(
        &self,
        arg: &Node,
        grid: &Grid,
        sink: &mut Sink<'_>,
        f: &dyn Fn(usize, f64) -> f64,
    ) -> Result<(), QueryError> {
        self.renamed(arg, grid, sink, &mut |column| {
            column.histograms = None;
            for (i, v) in column.floats.iter_mut().enumerate() {
                *v = f(i, *v);
            }
        })
    }

    #[inline(never)]
    fn stream_call(&self, node: &Node, call: &Call, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let id = call.func.id;
        if call.func.arg_types.contains(&ValueType::Matrix) {
            return self.stream_range_call(node, call, grid, sink);
        }
        if let Some(f) = unary(id) {
            return match call.args.first() {
                Some(arg) => self.map_floats(arg, grid, sink, &|_, v| f(v)),
                // The calendar's default is the evaluation time.
                None => {
                    let mut column = Column::constant(grid.len, 0.0);
                    for (i, v) in column.floats.iter_mut().enumerate() {
                        *v = f((grid.time(i) / 1000) as f64);
                    }
                    sink(SeriesColumn { labels: Labels::empty(), drop_name: false, column })
                }
            };
        }
        match (id, call.args.as_slice()) {
            (FunctionId::Round, [arg, rest @ ..]) => {
                let to = rest.first().map_or(Ok(ScalarColumn::Constant(1.0)), |n| self.scalar(n, grid))?;
                let inverse = to.map(|v| 1.0 / v);
                self.map_floats(arg, grid, sink, &|i, v| round(v, inverse.at(i)))
            }
            (FunctionId::Clamp, [arg, low, high]) => {
                let (low, high) = (self.scalar(low, grid)?, self.scalar(high, grid)?);
                self.clamp(arg, &low, &high, grid, sink)
            }
            (FunctionId::ClampMin, [arg, low]) => {
                let low = self.scalar(low, grid)?;
                self.clamp(arg, &low, &ScalarColumn::Constant(f64::INFINITY), grid, sink)
            }
            (FunctionId::ClampMax, [arg, high]) => {
                let high = self.scalar(high, grid)?;
                self.clamp(arg, &ScalarColumn::Constant(f64::NEG_INFINITY), &high, grid, sink)
            }
            (FunctionId::Vector, [arg]) => {
                let v = self.scalar(arg, grid)?;
                let mut column = Column::constant(grid.len, 0.0);
                for (i, slot) in column.floats.iter_mut().enumerate() {
                    *slot = v.at(i);
                }
                sink(SeriesColumn { labels: Labels::empty(), drop_name: false, column })
            }
            (FunctionId::Timestamp | FunctionId::StartTimestamp, [arg]) => {
                self.stream_timestamp(arg, id == FunctionId::StartTimestamp, grid, sink)
            }
            (FunctionId::Absent, [arg]) => self.stream_absent(arg, grid, sink),
            (
                FunctionId::Sort | FunctionId::SortDesc | FunctionId::SortByLabel | FunctionId::SortByLabelDesc,
                [arg, rest @ ..],
            ) => self.stream_sorted(node, id, arg, rest, grid, sink),
            (FunctionId::LabelReplace | FunctionId::LabelJoin, [arg, texts @ ..]) => {
                self.stream_relabelled(id, arg, texts, grid, sink)
            }
            (FunctionId::Info, [arg, selector]) => self.stream_info(arg, selector, grid, sink),
            (
                FunctionId::HistogramAvg
                | FunctionId::HistogramCount
                | FunctionId::HistogramSum
                | FunctionId::HistogramStddev
                | FunctionId::HistogramStdvar,
                [arg],
            ) => self.stream_histogram_number(id, arg, grid, sink),
            (FunctionId::HistogramQuantile, [q, arg]) => {
                let quantiles = vec![(self.scalar(q, grid)?, q.span)];
                self.stream_quantiles((node, arg), &quantiles, None, grid, sink)
            }
            (FunctionId::HistogramQuantiles, [arg, label, qs @ ..]) => {
                let mut quantiles = Vec::with_capacity(qs.len());
                for q in qs {
                    quantiles.push((self.scalar(q, grid)?, q.span));
                }
                self.stream_quantiles((node, arg), &quantiles, Some(text(label)?), grid, sink)
            }
            (FunctionId::HistogramFraction, [low, high, arg]) => {
                let bounds = (self.scalar(low, grid)?, self.scalar(high, grid)?);
                self.stream_fraction((node, arg), &bounds, grid, sink)
            }
            _ => Err(unexpected(call.func.name)),
        }
    }

    fn clamp(
        &self,
        arg: &Node,
        low: &ScalarColumn,
        high: &ScalarColumn,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        self.renamed(arg, grid, sink, &mut |column| {
            column.histograms = None;
            for i in 0..column.len() {
                let (low, high) = (low.at(i), high.at(i));
                if high < low {
                    column.present.clear(i);
                } else if let Some(v) = column.floats.get_mut(i) {
                    *v = max(low, min(high, *v));
                }
            }
        })
    }
}

/// True if the series has more labels that go with the name than the name.
pub(super) fn has_type_or_unit(labels: &Labels) -> bool {
    labels.iter().any(|(n, _)| n != METRIC_NAME && is_metadata(n))
}

/// The labels without the name, the type and the unit.
pub(super) fn without_metadata(labels: &Labels) -> Labels {
    labels.filter(|n| !is_metadata(n))
}

/// True for the labels that are dropped together with the name.
pub(super) fn is_metadata(name: &str) -> bool {
    name.starts_with("__") && matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// The text of a string argument.
pub(super) fn text(node: &Node) -> Result<&str, QueryError> {
    match &node.kind {
        Kind::Text(s) => Ok(s),
        _ => Err(unexpected("a string")),
    }
}

/// The same of any string; what is no text in it is replaced.
pub(super) fn lossy_text(node: &Node) -> Result<Cow<'_, str>, QueryError> {
    match &node.kind {
        Kind::Text(s) => Ok(Cow::Borrowed(s)),
        Kind::Bytes(b) => Ok(String::from_utf8_lossy(b)),
        _ => Err(unexpected("a string")),
    }
}

/// The parser has checked types and arity, so that this can't happen; if it does, the query fails, not the process.
pub(super) fn unexpected(what: &str) -> QueryError {
    QueryError::Execution(format!("unexpected error: {what} can't be evaluated here"))
}
