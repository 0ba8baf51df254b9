//! Joins of two vectors: partners are found once per query by their labels, values are combined by columns.

use super::QueryError;
use super::binary::{Operator, Outcome, StepNotes, changes_metric};
use super::column::{Bits, Point, SeriesColumn};
use super::eval::{Exec, Sink, is_metadata, unexpected};
use super::merge::{Merged, same_labels};
use crate::functions::window::Value;
use crate::parse::{BinaryOp, MatchCard, VectorMatching};
use crate::plan::{Binary, Grid};
use hashbrown::{HashMap, HashSet};
use model::Labels;
use model::labels::{LabelsBuilder, METRIC_NAME};
use std::cell::{Cell, RefCell};

/// Both sides, each series with the number of its match group.
struct Sides {
    left: Vec<SeriesColumn>,
    right: Vec<SeriesColumn>,
    left_groups: Vec<usize>,
    right_groups: Vec<usize>,
    groups: usize,
}

/// The labels that decide who matches whom.
fn match_labels(labels: &Labels, m: &VectorMatching) -> Labels {
    let named = |n: &str| m.labels.iter().any(|x| x == n);
    if m.on { labels.filter(named) } else { labels.filter(|n| n != METRIC_NAME && !named(n)) }
}

impl Sides {
    fn new(left: Vec<SeriesColumn>, right: Vec<SeriesColumn>, m: &VectorMatching) -> Self {
        let mut numbers: HashMap<Labels, usize> = HashMap::new();
        let mut number = |s: &SeriesColumn| {
            let next = numbers.len();
            *numbers.entry(match_labels(&s.labels, m)).or_insert(next)
        };
        let left_groups = left.iter().map(&mut number).collect();
        let right_groups = right.iter().map(&mut number).collect();
        Self { left, right, left_groups, right_groups, groups: numbers.len() }
    }
}

/// For each group the steps at which any of its series has a value.
fn occupied(series: &[SeriesColumn], numbers: &[usize], groups: usize, len: usize) -> Vec<Bits> {
    let mut bits = vec![Bits::none(len); groups];
    for (s, n) in series.iter().zip(numbers) {
        if let Some(b) = bits.get_mut(*n) {
            b.or(&s.column.occupied());
        }
    }
    bits
}

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_join(
        &self,
        operator: Operator,
        b: &Binary,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let matching = b.matching.as_ref().ok_or_else(|| unexpected("a join without matching"))?;
        let mut left = self.collect(&b.lhs, grid)?;
        let mut right = self.collect(&b.rhs, grid)?;
        let sides = Sides::new(left.take(), right.take(), matching);
        let mut out = Merged::default();
        if operator.op.is_set() {
            set_operation(operator.op, sides, grid.len, &mut out)?;
        } else {
            let join = Join { exec: self, operator, matching, len: grid.len, notes: RefCell::default() };
            join.run(sides, &mut out)?;
            join.notes.borrow().tell(&operator, &mut self.notes.borrow_mut());
        }
        drop((left, right));
        for series in out.finish() {
            sink(series)?;
        }
        Ok(())
    }
}

fn set_operation(op: BinaryOp, sides: Sides, len: usize, out: &mut Merged) -> Result<(), QueryError> {
    if op == BinaryOp::Or {
        let present = occupied(&sides.left, &sides.left_groups, sides.groups, len);
        for s in sides.left {
            out.add(s)?;
        }
        for (mut s, n) in sides.right.into_iter().zip(&sides.right_groups) {
            if let Some(left) = present.get(*n) {
                let mut keep = Bits::all(len);
                keep.and_not(left);
                s.column.retain(&keep);
            }
            if !s.column.is_empty() {
                out.add(s)?;
            }
        }
        return Ok(());
    }
    let present = occupied(&sides.right, &sides.right_groups, sides.groups, len);
    for (mut s, n) in sides.left.into_iter().zip(&sides.left_groups) {
        if let Some(right) = present.get(*n) {
            if op == BinaryOp::And {
                s.column.retain(right);
            } else {
                let mut keep = Bits::all(len);
                keep.and_not(right);
                s.column.retain(&keep);
            }
        }
        if !s.column.is_empty() {
            out.add(s)?;
        }
    }
    Ok(())
}

struct Join<'j, 'q> {
    exec: &'j Exec<'q>,
    operator: Operator,
    matching: &'j VectorMatching,
    len: usize,
    notes: RefCell<StepNotes>,
}

impl Join<'_, '_> {
    fn run(&self, sides: Sides, out: &mut Merged) -> Result<(), QueryError> {
        let swapped = self.matching.card == MatchCard::OneToMany;
        let Sides { left, right, left_groups, right_groups, groups } = sides;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let (many_groups, one_groups) = if swapped { (right_groups, left_groups) } else { (left_groups, right_groups) };
        let mut partner: Vec<Option<usize>> = vec![None; groups];
        let mut unique = self.matching.fill_left.is_none() && self.matching.fill_right.is_none();
        for (i, g) in one_groups.iter().enumerate() {
            if let Some(slot) = partner.get_mut(*g) {
                unique &= slot.is_none();
                *slot = Some(i);
            }
        }
        if self.matching.card == MatchCard::OneToOne {
            let mut seen = vec![false; groups];
            for g in &many_groups {
                if let Some(s) = seen.get_mut(*g) {
                    unique &= !*s;
                    *s = true;
                }
            }
        }
        if unique {
            self.by_columns(&many, &one, &many_groups, &partner, out)
        } else {
            self.by_steps(&many, &one, &many_groups, &one_groups, groups, out)
        }
    }

    /// Each group has at most one series on the "one" side: whole columns are combined.
    fn by_columns(
        &self,
        many: &[SeriesColumn],
        one: &[SeriesColumn],
        many_groups: &[usize],
        partner: &[Option<usize>],
        out: &mut Merged,
    ) -> Result<(), QueryError> {
        let swapped = self.matching.card == MatchCard::OneToMany;
        // Where series of one group made the same labels, also if the comparison did not hold.
        let mut matched: HashMap<(usize, Labels), Bits> = HashMap::new();
        for (m, group) in many.iter().zip(many_groups) {
            self.exec.stop.check()?;
            let Some(o) = partner.get(*group).copied().flatten().and_then(|i| one.get(i)) else { continue };
            let (a, b) = if swapped { (o, m) } else { (m, o) };
            let (column, fits) = self.operator.columns(&a.column, &b.column, &mut self.notes.borrow_mut());
            let labels = self.result_labels(&m.labels, &o.labels);
            if self.matching.card != MatchCard::OneToOne {
                let before = matched.entry((*group, labels.clone())).or_insert_with(|| Bits::none(self.len));
                if before.intersects(&fits) {
                    return Err(ambiguous_grouping());
                }
                before.or(&fits);
            }
            if !column.is_empty() {
                out.add(SeriesColumn { labels, drop_name: self.operator.return_bool, column })?;
            }
        }
        Ok(())
    }

    /// The general case, step by step as Prometheus does it: several series of the "one" side may share a group as
    /// long as they take turns, and missing partners may be filled in.
    fn by_steps(
        &self,
        many: &[SeriesColumn],
        one: &[SeriesColumn],
        many_groups: &[usize],
        one_groups: &[usize],
        groups: usize,
        out: &mut Merged,
    ) -> Result<(), QueryError> {
        const FILLED: usize = usize::MAX;
        let m = self.matching;
        let (fill_one, fill_many) = (m.fill_right, m.fill_left);
        let one_to_one = m.card == MatchCard::OneToOne;
        let mut slots: HashMap<(usize, usize), usize> = HashMap::new();
        let mut current: Vec<Option<usize>> = vec![None; groups];
        let mut matched: HashSet<(usize, usize)> = HashSet::new();
        let group_matched: Vec<Cell<bool>> = vec![Cell::new(false); groups];
        for step in 0..self.len {
            if step % 64 == 0 {
                self.exec.stop.check()?;
            }
            let here = |all: &[SeriesColumn]| -> Vec<usize> {
                (0..all.len()).filter(|i| all.get(*i).is_some_and(|s| s.column.point(step).is_some())).collect()
            };
            let (many_here, one_here) = (here(many), here(one));
            let fills = fill_one.is_some() || fill_many.is_some();
            if (many_here.is_empty() && one_here.is_empty())
                || ((many_here.is_empty() || one_here.is_empty()) && !fills)
            {
                continue;
            }
            current.fill(None);
            matched.clear();
            group_matched.iter().for_each(|m| m.set(false));
            for i in &one_here {
                let Some(slot) = one_groups.get(*i).and_then(|g| current.get_mut(*g)) else { continue };
                if let Some(before) = slot.and_then(|b| one.get(b)) {
                    return Err(self.duplicate(one.get(*i).unwrap_or(before), before));
                }
                *slot = Some(*i);
            }
            let mut pair = |mi: usize, oi: usize, group: usize| -> Result<(), QueryError> {
                let (ms, os) = (many.get(mi), one.get(oi));
                let value = |s: Option<&SeriesColumn>, fill: Option<f64>| match s {
                    Some(s) => s.column.point(step).map(owned),
                    None => fill.map(Value::Float),
                };
                let (Some(mv), Some(ov)) = (value(ms, fill_many), value(os, fill_one)) else { return Ok(()) };
                let (a, b) = if m.card == MatchCard::OneToMany { (&ov, &mv) } else { (&mv, &ov) };
                let outcome = self.operator.apply(step, borrowed(a), borrowed(b), &mut self.notes.borrow_mut());
                if matches!(outcome, Outcome::Unfit) {
                    return Ok(());
                }
                let slot = match slots.get(&(mi, oi)) {
                    Some(slot) => *slot,
                    None => {
                        let key = |s: Option<&SeriesColumn>, other: Option<&SeriesColumn>| match (s, other) {
                            (Some(s), _) => s.labels.clone(),
                            (None, Some(o)) => match_labels(&o.labels, m),
                            (None, None) => Labels::empty(),
                        };
                        let labels = self.result_labels(&key(ms, os), &key(os, ms));
                        let slot = out.slot(&labels, self.operator.return_bool, self.len);
                        slots.insert((mi, oi), slot);
                        slot
                    }
                };
                if one_to_one {
                    let seen = group_matched.get(group).ok_or_else(same_labels)?;
                    if seen.replace(true) {
                        return Err(QueryError::execution(
                            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                        ));
                    }
                } else {
                    if !matched.insert((group, slot)) {
                        return Err(ambiguous_grouping());
                    }
                    if let Some(seen) = group_matched.get(group) {
                        seen.set(true);
                    }
                }
                match outcome {
                    Outcome::Value(v) => out.put(slot, step, borrowed(&v)),
                    Outcome::Filtered | Outcome::Unfit => Ok(()),
                }
            };
            for i in &many_here {
                let Some(group) = many_groups.get(*i).copied() else { continue };
                match current.get(group).copied().flatten() {
                    Some(o) => pair(*i, o, group)?,
                    None if fill_one.is_some() => pair(*i, FILLED, group)?,
                    None => {}
                }
            }
            if fill_many.is_some() {
                for i in &one_here {
                    let Some(group) = one_groups.get(*i).copied() else { continue };
                    if !group_matched.get(group).is_some_and(Cell::get) {
                        pair(FILLED, *i, group)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The labels of the result: those of the many side, without the name if the operator changes the metric.
    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let m = self.matching;
        let drop_name =
            changes_metric(self.operator.op) || (self.operator.return_bool && !self.exec.options.delayed_name_removal);
        let named = |n: &str| m.labels.iter().any(|x| x == n);
        let one_to_one = m.card == MatchCard::OneToOne;
        let kept = many.filter(|n| !(drop_name && is_metadata(n)) && (!one_to_one || named(n) == m.on));
        if m.include.is_empty() {
            return kept;
        }
        let mut b = LabelsBuilder::from(&kept);
        for name in &m.include {
            b.set(name, one.value(name));
        }
        b.build()
    }

    fn duplicate(&self, series: &SeriesColumn, before: &SeriesColumn) -> QueryError {
        let group = match_labels(&series.labels, self.matching);
        let side = if self.matching.card == MatchCard::OneToMany { "left" } else { "right" };
        QueryError::execution(format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{}, {}];\
             many-to-many matching not allowed: matching labels must be unique on one side",
            series.labels, before.labels
        ))
    }
}

fn ambiguous_grouping() -> QueryError {
    QueryError::execution("multiple matches for labels: grouping labels must ensure unique matches")
}

fn owned(p: Point<'_>) -> Value {
    match p {
        Point::Float(v) => Value::Float(v),
        Point::Histogram(h) => Value::Histogram(h.clone()),
    }
}

fn borrowed(v: &Value) -> Point<'_> {
    match v {
        Value::Float(v) => Point::Float(*v),
        Value::Histogram(h) => Point::Histogram(h),
    }
}
