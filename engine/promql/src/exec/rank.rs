//! Aggregations that need all series of a group at a step: rankings, quantiles, counts by value.

use super::QueryError;
use super::aggregate::Grouping;
use super::column::{Bits, Column, Point, ScalarColumn, SeriesColumn};
use super::eval::{Exec, Sink, unexpected};
use super::merge::Merged;
use crate::functions::math::{self, quantile};
use crate::histogram;
use crate::parse::AggregateOp;
use crate::plan::{Aggregate, Grid, Kind, Node};
use model::labels::Quoted;
use model::number::format_f;
use std::borrow::Cow;
use std::cmp::Ordering;

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
        let param_span = a.param.as_ref().map_or(node.span, |p| p.span);
        let mut held = self.collect(&a.arg, grid)?;
        if a.op == AggregateOp::LimitRatio {
            if param.max == 0.0 && param.min == 0.0 {
                return Ok(());
            }
            if param.any_nan {
                return Err(QueryError::execution("Ratio value is NaN"));
            }
            let mut notes = self.notes.borrow_mut();
            if param.max > 1.0 {
                notes.invalid_ratio(param.max, 1.0, param_span);
            }
            if param.min < -1.0 {
                notes.invalid_ratio(param.min, -1.0, param_span);
            }
        } else {
            if param.max < 1.0 {
                return Ok(());
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
        }
        let mut grouping = Grouping::new(&a.grouping, a.without);
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (i, series) in held.series.iter().enumerate() {
            let group = grouping.group(&series.labels);
            if group == members.len() {
                members.push(Vec::new());
            }
            if let Some(m) = members.get_mut(group) {
                m.push(i);
            }
        }
        let ranks = matches!(a.op, AggregateOp::Topk | AggregateOp::Bottomk);
        if ranks && held.series.iter().any(|s| s.column.has_histograms()) {
            self.notes.borrow_mut().histogram_ignored_in_aggregation(name, node.span);
        }
        let mut keep = vec![Bits::none(grid.len); held.series.len()];
        // The order within an instant answer.
        let mut order: Vec<usize> = Vec::new();
        let mut candidates: Vec<(f64, usize)> = Vec::new();
        for group in &members {
            for step in 0..grid.len {
                if step % 256 == 0 {
                    self.stop.check()?;
                }
                let p = param.values.at(step);
                let column = |i: usize| held.series.get(i).map(|s| &s.column);
                candidates.clear();
                match a.op {
                    AggregateOp::Topk | AggregateOp::Bottomk => {
                        let values = group.iter().filter_map(|i| Some((column(*i)?.float(step)?, *i)));
                        candidates.extend(values);
                        take_best(&mut candidates, p as i64, a.op == AggregateOp::Topk);
                    }
                    AggregateOp::Limitk => {
                        let k = usize::try_from((p as i64).max(0)).unwrap_or(usize::MAX);
                        let present = group.iter().filter(|i| column(**i).is_some_and(|c| c.point(step).is_some()));
                        candidates.extend(present.take(k).map(|i| (0.0, *i)));
                    }
                    _ => {
                        let ratio = p.clamp(-1.0, 1.0);
                        let present = group.iter().filter(|i| column(**i).is_some_and(|c| c.point(step).is_some()));
                        let chosen = present.filter(|i| held.series.get(**i).is_some_and(|s| in_ratio(s, ratio)));
                        candidates.extend(chosen.map(|i| (0.0, *i)));
                    }
                }
                for (_, i) in &candidates {
                    if let Some(bits) = keep.get_mut(*i) {
                        bits.set(step);
                    }
                    if grid.is_single() {
                        order.push(*i);
                    }
                }
            }
        }
        let mut series: Vec<Option<SeriesColumn>> = held.take().into_iter().map(Some).collect();
        if !grid.is_single() {
            order = (0..series.len()).collect();
        }
        for i in order {
            if let (Some(Some(mut s)), Some(bits)) = (series.get_mut(i).map(Option::take), keep.get(i))
                && bits.any()
            {
                s.column.retain(bits);
                sink(s)?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    pub(super) fn stream_quantile(&self, a: &Aggregate, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let (param, name) = self.param(a, grid)?;
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
        let held = self.collect(&a.arg, grid)?;
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
                    column.set(step, quantile(param.values.at(step), &mut values));
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
        let grouping = Grouping::new(&names, a.without);
        let held = self.collect(&a.arg, grid)?;
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
        for series in merged.finish() {
            sink(series)?;
        }
        Ok(())
    }
}

/// Keeps the `k` best, best first; NaN is worse than anything; of equals the earlier series.
fn take_best(candidates: &mut Vec<(f64, usize)>, k: i64, greatest: bool) {
    let k = usize::try_from(k.max(0)).unwrap_or(usize::MAX).min(candidates.len());
    let by_value = |a: &(f64, usize), b: &(f64, usize)| {
        let order = match (a.0.is_nan(), b.0.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) if greatest => b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal),
            (false, false) => a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal),
        };
        order.then(a.1.cmp(&b.1))
    };
    if k < candidates.len() && k > 0 {
        candidates.select_nth_unstable_by(k - 1, by_value);
    }
    candidates.truncate(k);
    candidates.sort_unstable_by(by_value);
}

/// A fixed share of all series, by the hash of their labels; a negative ratio takes the others.
fn in_ratio(series: &SeriesColumn, ratio: f64) -> bool {
    let at = series.labels.shard_hash(|_| true) as f64 / u64::MAX as f64;
    if ratio >= 0.0 { at < ratio } else { at >= 1.0 + ratio }
}
