//! Aggregations that need all series of a group at a step: rankings, quantiles, counts by value.

use super::aggregate::Grouping;
use super::best::{Best, Candidate, Offered};
use super::budget::{Cost, Holder};
use super::column::{Column, Point, ScalarColumn, SeriesColumn};
use super::eval::{Exec, Held, Sink, unexpected};
use super::merge::Merged;
use super::{QueryError, RatioHash};
use crate::functions::math::{self, quantile};
use crate::histogram;
use crate::parse::{AggregateOp, Span};
use crate::plan::{Aggregate, Grid, Kind, Node};
use model::Labels;
use model::labels::Quoted;
use model::number::format_f;
use std::borrow::Cow;

/// The parameter at all steps, with its extremes.
struct Param {
    values: ScalarColumn,
    min: f64,
    max: f64,
    any_nan: bool,
}

impl Exec<'_> {
    fn param(&self, a: &Aggregate, grid: &Grid) -> Result<(Param, &'_ str), QueryError> {
        let node = a.param.as_ref().ok_or_else(|| unexpected("an aggregation without its parameter"))?;
        let values = self.scalar(node, grid)?;
        let steps = if matches!(values, ScalarColumn::Constant(_)) { 1 } else { grid.len };
        let (mut min, mut max, mut any_nan) = (f64::MAX, f64::MIN, false);
        for i in 0..steps {
            let v = values.at(i);
            (min, max) = (math::min(min, v), math::max(max, v));
            any_nan |= v.is_nan();
        }
        if matches!(values, ScalarColumn::Constant(_)) {
            (min, max) = (values.first(), values.first());
        }
        Ok((Param { values, min, max, any_nan }, a.op.as_str()))
    }

    /// Whether a ranking goes on with this parameter: it may be an error, or ask for nothing.
    fn check_param(&self, a: &Aggregate, param: &Param, span: Span) -> Result<bool, QueryError> {
        if a.op == AggregateOp::LimitRatio {
            if param.max == 0.0 && param.min == 0.0 {
                return Ok(false);
            }
            if param.any_nan {
                return Err(QueryError::execution("Ratio value is NaN"));
            }
            let mut notes = self.notes.borrow_mut();
            if param.max > 1.0 {
                notes.invalid_ratio(param.max, 1.0, span);
            }
            if param.min < -1.0 {
                notes.invalid_ratio(param.min, -1.0, span);
            }
            return Ok(true);
        }
        if param.max < 1.0 {
            return Ok(false);
        }
        if param.any_nan {
            return Err(QueryError::execution("Parameter value is NaN"));
        }
        if param.min <= i64::MIN as f64 {
            let v = model::number::format_g(param.min);
            return Err(QueryError::execution(format!("Scalar value {v} underflows int64")));
        }
        if param.max >= i64::MAX as f64 {
            let v = model::number::format_g(param.max);
            return Err(QueryError::execution(format!("Scalar value {v} overflows int64")));
        }
        Ok(true)
    }

    /// `topk`, `bottomk`, `limitk`, `limit_ratio`: some of the input series at each step, as they are.
    #[inline(never)]
    pub(super) fn stream_ranked(
        &self,
        node: &Node,
        a: &Aggregate,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let (param, name) = self.param(a, grid)?;
        let span = a.param.as_ref().map_or(node.span, |p| p.span);
        let notes = self.notes.take();
        let goes_on = self.check_param(a, &param, span);
        let told = self.notes.replace(notes);
        if !matches!(goes_on, Ok(true)) {
            // The argument's errors and warnings come first.
            self.stream(&a.arg, grid, &mut |_| Ok(()))?;
            return goes_on.map(drop);
        }
        let result = match a.op {
            AggregateOp::Topk | AggregateOp::Bottomk => self.stream_best(node, a, &param, name, grid, sink),
            _ => self.stream_limited(node, a, &param, grid, sink),
        };
        self.notes.borrow_mut().merge(told);
        result
    }

    /// `topk` and `bottomk`: only the best values of each group and step are held.
    fn stream_best(
        &self,
        node: &Node,
        a: &Aggregate,
        param: &Param,
        name: &str,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut grouping = Grouping::new(&a.grouping, a.without);
        let mut groups: Vec<Vec<Best>> = Vec::new();
        // Series with a place somewhere, and how many places.
        let mut placed: Vec<Option<(Labels, bool, u32)>> = Vec::new();
        let mut cost = Cost::default();
        let greatest = a.op == AggregateOp::Topk;
        let mut ignored = false;
        self.stream(&a.arg, grid, &mut |series| {
            ignored |= series.column.has_histograms();
            if !series.column.present.any() {
                return Ok(());
            }
            let at = grouping.group(&series.labels);
            let mut more = Cost::default();
            if at == groups.len() {
                groups.push((0..grid.len).map(|_| Best::default()).collect());
                more.bytes += grid.len as u64 * size_of::<Best>() as u64;
            }
            let Some(steps) = groups.get_mut(at) else { return Ok(()) };
            let number = placed.len();
            let mut places = 0;
            for step in series.column.present.iter() {
                let (Some(v), Some(best)) = (series.column.floats.get(step), steps.get_mut(step)) else { continue };
                let k = usize::try_from((param.values.at(step) as i64).max(0)).unwrap_or(usize::MAX);
                match best.offer(Candidate { value: *v, series: number }, k, greatest) {
                    Offered::Refused => continue,
                    Offered::Added => more += Cost { samples: 1, bytes: size_of::<Candidate>() as u64 },
                    Offered::Replaced(out) => {
                        if let Some(slot) = placed.get_mut(out) {
                            match slot {
                                Some((_, _, left)) if *left > 1 => *left -= 1,
                                _ => *slot = None,
                            }
                        }
                    }
                }
                places += 1;
            }
            placed.push((places > 0).then_some((series.labels, series.drop_name, places)));
            cost += more;
            self.budget.hold(Holder::Ranking, more)
        })?;
        self.matched(node, grouping.matched);
        if ignored {
            self.notes.borrow_mut().histogram_ignored_in_aggregation(name, node.span);
        }
        if grid.is_single() {
            // The answer keeps the order: group by group, best first.
            for best in groups.into_iter().flatten() {
                for c in best.into_sorted(greatest) {
                    if let Some((labels, drop_name, _)) = placed.get_mut(c.series).and_then(Option::take) {
                        sink(SeriesColumn { labels, drop_name, column: Column::constant(1, c.value) })?;
                    }
                }
            }
        } else {
            let mut by_series: Vec<(usize, usize, f64)> = Vec::new();
            for steps in groups {
                for (step, best) in steps.into_iter().enumerate() {
                    by_series.extend(best.iter().map(|c| (c.series, step, c.value)));
                }
            }
            by_series.sort_unstable_by_key(|(series, step, _)| (*series, *step));
            for values in by_series.chunk_by(|a, b| a.0 == b.0) {
                let Some((number, _, _)) = values.first() else { continue };
                let Some((labels, drop_name, _)) = placed.get_mut(*number).and_then(Option::take) else { continue };
                let mut column = Column::empty(grid.len);
                for (_, step, v) in values {
                    column.set(*step, *v);
                }
                sink(SeriesColumn { labels, drop_name, column })?;
            }
        }
        self.budget.release(Holder::Ranking, cost);
        Ok(())
    }

    /// `limitk` and `limit_ratio`: each series can be judged when it comes.
    fn stream_limited(
        &self,
        node: &Node,
        a: &Aggregate,
        param: &Param,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut grouping = Grouping::new(&a.grouping, a.without);
        let mut taken: Vec<Vec<u32>> = Vec::new();
        // Of an instant answer the series come group by group, in the order of the heap that Prometheus puts them in.
        let mut instant: Vec<(Best, Vec<Option<SeriesColumn>>)> = Vec::new();
        self.stream(&a.arg, grid, &mut |mut series| {
            let at = grouping.group(&series.labels);
            if at == taken.len() {
                taken.push(vec![0; if a.op == AggregateOp::Limitk { grid.len } else { 0 }]);
                instant.push(Default::default());
            }
            let mut keep = series.column.occupied();
            if a.op == AggregateOp::Limitk {
                for step in series.column.occupied().iter() {
                    let k = (param.values.at(step) as i64).max(0);
                    match taken.get_mut(at).and_then(|t| t.get_mut(step)) {
                        Some(n) if i64::from(*n) < k => *n += 1,
                        _ => keep.clear(step),
                    }
                }
            } else {
                let hash = match self.options.ratio_hash {
                    RatioHash::Thanos => series.labels.shard_hash(|_| true),
                    RatioHash::Prometheus => series.labels.prometheus_hash(),
                };
                for step in series.column.occupied().iter() {
                    if !in_ratio(hash, param.values.at(step).clamp(-1.0, 1.0)) {
                        keep.clear(step);
                    }
                }
            }
            if !keep.any() {
                return Ok(());
            }
            series.column.retain(&keep);
            match instant.get_mut(at).filter(|_| grid.is_single()) {
                Some((heap, group)) => {
                    let value = series.column.float(0).unwrap_or_default();
                    heap.offer(Candidate { value, series: group.len() }, usize::MAX, true);
                    group.push(Some(series));
                    Ok(())
                }
                None => sink(series),
            }
        })?;
        self.matched(node, grouping.matched);
        for (heap, mut group) in instant {
            let in_order = heap.iter().filter_map(|c| group.get_mut(c.series).and_then(Option::take));
            in_order.collect::<Vec<_>>().into_iter().try_for_each(&mut *sink)?;
        }
        Ok(())
    }

    #[inline(never)]
    pub(super) fn stream_quantile(
        &self,
        node: &Node,
        a: &Aggregate,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let (param, name) = self.param(a, grid)?;
        self.with_input(&a.arg, (grid, 0), Holder::Ranking, sink, &mut |grid, first, held, sink| {
            self.quantile_at((node, a), &param, name, (grid, first), &held, sink)
        })?;
        if let Some(node) = &a.param {
            let mut notes = self.notes.borrow_mut();
            if param.any_nan {
                notes.invalid_quantile(f64::NAN, node.span);
            }
            if param.max > 1.0 {
                notes.invalid_quantile(param.max, node.span);
            }
            if param.min < 0.0 {
                notes.invalid_quantile(param.min, node.span);
            }
        }
        Ok(())
    }

    /// A part of the steps, of which `first` is the first.
    fn quantile_at(
        &self,
        (node, a): (&Node, &Aggregate),
        param: &Param,
        name: &str,
        (grid, first): (&Grid, usize),
        held: &Held<'_, '_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut grouping = Grouping::new(&a.grouping, a.without);
        let mut members: Vec<Vec<&SeriesColumn>> = Vec::new();
        for series in &held.series {
            let group = grouping.group(&series.labels);
            if group == members.len() {
                members.push(Vec::new());
            }
            if let Some(m) = members.get_mut(group) {
                m.push(series);
            }
            if series.column.has_histograms() {
                self.notes.borrow_mut().histogram_ignored_in_aggregation(name, a.arg.span);
            }
        }
        self.matched(node, grouping.matched);
        let mut values = Vec::new();
        for (labels, group) in grouping.labels.iter().zip(&members) {
            let mut column = Column::empty(grid.len);
            for step in 0..grid.len {
                if step % 256 == 0 {
                    self.stop.check()?;
                }
                values.clear();
                values.extend(group.iter().filter_map(|s| s.column.float(step)));
                if !values.is_empty() {
                    column.set(step, quantile(param.values.at(first + step), &mut values));
                }
            }
            if !column.is_empty() {
                let drop_name = group.iter().any(|s| s.drop_name);
                sink(SeriesColumn { labels: labels.clone(), drop_name, column })?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    pub(super) fn stream_count_values(
        &self,
        a: &Aggregate,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let label = match a.param.as_ref().map(|p| &p.kind) {
            Some(Kind::Text(s)) if !s.is_empty() => s,
            Some(Kind::Text(s)) => return Err(QueryError::execution(format!("invalid label name {}", Quoted(s)))),
            Some(Kind::Bytes(b)) => {
                let name = crate::parse::quote_bytes(b);
                return Err(QueryError::execution(format!("invalid label name {name}")));
            }
            _ => return Err(unexpected("count_values without a label")),
        };
        let mut names = Cow::Borrowed(&a.grouping);
        if !a.without && !names.contains(label) {
            names.to_mut().push(label.clone());
        }
        self.with_input(&a.arg, (grid, 0), Holder::Ranking, sink, &mut |grid, _, held, sink| {
            self.count_values_at(a, label, &names, grid, held, sink)
        })
    }

    fn count_values_at(
        &self,
        a: &Aggregate,
        label: &str,
        names: &[String],
        grid: &Grid,
        held: Held<'_, '_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let grouping = Grouping::new(names, a.without);
        let mut held_counts = Cost::default();
        let mut counts: Vec<Vec<f64>> = Vec::new();
        let mut merged = Merged::default();
        for series in &held.series {
            // Neighbouring steps mostly have the same value.
            let mut last: Option<(u64, usize)> = None;
            self.stop.check()?;
            for step in 0..grid.len {
                let Some(point) = series.column.point(step) else { continue };
                let slot = match (point, last) {
                    (Point::Float(v), Some((bits, slot))) if bits == v.to_bits() => slot,
                    _ => {
                        let text = match point {
                            Point::Float(v) => format_f(v),
                            Point::Histogram(h) => histogram::text(h),
                        };
                        let labels = grouping.key(&series.labels.with(label, &text));
                        merged.slot(&labels, false, grid.len)
                    }
                };
                if let Point::Float(v) = point {
                    last = Some((v.to_bits(), slot));
                }
                if counts.len() <= slot {
                    counts.resize(slot + 1, vec![0.0; grid.len]);
                    // The counts and the output column.
                    let cost = Cost { samples: grid.len as u64, bytes: grid.len as u64 * 16 + 256 };
                    held_counts += cost;
                    self.budget.hold(Holder::Ranking, cost)?;
                }
                if let Some(n) = counts.get_mut(slot).and_then(|c| c.get_mut(step)) {
                    *n += 1.0;
                }
            }
        }
        drop(held);
        for (slot, steps) in counts.iter().enumerate() {
            for (step, n) in steps.iter().enumerate().filter(|(_, n)| **n > 0.0) {
                merged.put_float(slot, step, *n)?;
            }
        }
        self.budget.release(Holder::Ranking, held_counts);
        merged.finish().try_for_each(sink)
    }
}

/// A fixed share of all series, by the hash of their labels; a negative ratio takes the others.
fn in_ratio(hash: u64, ratio: f64) -> bool {
    let at = hash as f64 / u64::MAX as f64;
    if ratio >= 0.0 { at < ratio } else { at >= 1.0 + ratio }
}
