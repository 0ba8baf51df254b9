//! Joins of two vectors: partners are found once per query by their labels, values are combined by columns.

use super::QueryError;
use super::binary::{Operator, Outcome, StepNotes, changes_metric};
use super::budget::{Cost, Holder};
use super::column::{Bits, Point, SeriesColumn};
use super::eval::{Exec, Sink, has_type_or_unit, is_metadata, unexpected};
use super::merge::{Merged, same_labels};
use crate::functions::window::Value;
use crate::parse::{BinaryOp, MatchCard, VectorMatching};
use crate::plan::{Binary, Grid, Node};
use hashbrown::{HashMap, HashSet};
use model::Labels;
use model::labels::{LabelsBuilder, METRIC_NAME};
use std::cell::{Cell, RefCell};

/// Match groups, numbered in the order in which they come up.
#[derive(Default)]
struct Groups {
    numbers: HashMap<Labels, usize>,
    /// Times that a group was looked for.
    matched: Cell<u64>,
}

impl Groups {
    fn number(&mut self, labels: &Labels, m: &VectorMatching) -> usize {
        self.matched.update(|n| n + 1);
        let next = self.numbers.len();
        *self.numbers.entry(match_labels(labels, m)).or_insert(next)
    }

    fn find(&self, labels: &Labels, m: &VectorMatching) -> Option<usize> {
        self.matched.update(|n| n + 1);
        self.numbers.get(&match_labels(labels, m)).copied()
    }
}

/// The labels that decide who matches whom.
fn match_labels(labels: &Labels, m: &VectorMatching) -> Labels {
    let named = |n: &str| m.labels.iter().any(|x| x == n);
    if m.on { labels.filter(named) } else { labels.filter(|n| n != METRIC_NAME && !named(n)) }
}

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_join(
        &self,
        node: &Node,
        operator: Operator,
        b: &Binary,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let matching = b.matching.as_ref().ok_or_else(|| unexpected("a join without matching"))?;
        match operator.op {
            BinaryOp::Or => return self.stream_or(node, b, matching, grid, sink),
            BinaryOp::And | BinaryOp::Unless => return self.stream_and(node, b, matching, grid, sink),
            _ => {}
        }
        let join = Join { exec: self, node, operator, matching, len: grid.len, notes: RefCell::default() };
        join.run(b, grid, sink)?;
        join.notes.borrow().tell(&operator, &mut self.notes.borrow_mut());
        Ok(())
    }

    /// Evaluates `first`, then `second`, whatever is told and goes wrong in the order of the text, in which `first` is
    /// the right side if `right_first`.
    pub(super) fn both<T>(
        &self,
        right_first: bool,
        other: &Node,
        grid: &Grid,
        first: impl FnOnce() -> Result<T, QueryError>,
        second: impl FnOnce(T) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        if !right_first {
            return second(first()?);
        }
        let before = self.notes.take();
        let held = first();
        let told = self.notes.replace(before);
        match held {
            Ok(held) => second(held)?,
            Err(e) => {
                // The left side's error is the one that counts.
                self.stream(other, grid, &mut |_| Ok(()))?;
                return Err(e);
            }
        }
        self.notes.borrow_mut().merge(told);
        Ok(())
    }

    /// `and`, `unless`: of the right side only the steps with a value are held, by group.
    fn stream_and(
        &self,
        node: &Node,
        b: &Binary,
        m: &VectorMatching,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let right = || {
            let mut groups = Groups::default();
            let mut present: Vec<Bits> = Vec::new();
            let mut held = Cost::default();
            self.stream(&b.rhs, grid, &mut |s| {
                let n = groups.number(&s.labels, m);
                if n == present.len() {
                    present.push(Bits::none(grid.len));
                    let cost = Cost { samples: 0, bytes: grid.len as u64 / 8 + 128 };
                    held += cost;
                    self.budget.hold(Holder::Join, cost)?;
                }
                if let Some(bits) = present.get_mut(n) {
                    bits.or(&s.column.occupied());
                }
                Ok(())
            })?;
            Ok((groups, present, held))
        };
        self.both(true, &b.lhs, grid, right, |(groups, present, held)| {
            self.stream(&b.lhs, grid, &mut |mut s| {
                let other = groups.find(&s.labels, m).and_then(|n| present.get(n));
                match (other, b.op) {
                    (Some(bits), BinaryOp::And) => s.column.retain(bits),
                    (None, BinaryOp::And) => return Ok(()),
                    (Some(bits), _) => {
                        let mut keep = Bits::all(grid.len);
                        keep.and_not(bits);
                        s.column.retain(&keep);
                    }
                    (None, _) => {}
                }
                if s.column.is_empty() { Ok(()) } else { sink(s) }
            })?;
            self.matched(node, groups.matched.get());
            self.budget.release(Holder::Join, held);
            Ok(())
        })
    }

    /// `or`: the left side, and what the right side has where the left has nothing.
    fn stream_or(
        &self,
        node: &Node,
        b: &Binary,
        m: &VectorMatching,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut groups = Groups::default();
        let mut present: Vec<Bits> = Vec::new();
        let mut out = Merged::default();
        let mut held = Cost::default();
        let mut add = |s: SeriesColumn, held: &mut Cost| {
            let cost = s.cost();
            *held += cost;
            self.budget.hold(Holder::Join, cost)?;
            out.add(s)
        };
        self.stream(&b.lhs, grid, &mut |s| {
            let n = groups.number(&s.labels, m);
            if n == present.len() {
                present.push(Bits::none(grid.len));
            }
            if let Some(bits) = present.get_mut(n) {
                bits.or(&s.column.occupied());
            }
            add(s, &mut held)
        })?;
        self.stream(&b.rhs, grid, &mut |mut s| {
            if let Some(left) = groups.find(&s.labels, m).and_then(|n| present.get(n)) {
                let mut keep = Bits::all(grid.len);
                keep.and_not(left);
                s.column.retain(&keep);
            }
            if s.column.is_empty() { Ok(()) } else { add(s, &mut held) }
        })?;
        self.matched(node, groups.matched.get());
        self.budget.release(Holder::Join, held);
        out.finish().try_for_each(sink)
    }
}

struct Join<'j, 'q> {
    exec: &'j Exec<'q>,
    node: &'j Node,
    operator: Operator,
    matching: &'j VectorMatching,
    len: usize,
    notes: RefCell<StepNotes>,
}

/// The series of the "one" side with their match groups.
struct One {
    series: Vec<SeriesColumn>,
    groups: Groups,
    /// The series of each group; they never have values at the same step.
    members: Vec<Vec<usize>>,
}

impl Join<'_, '_> {
    /// Holds the "one" side and streams the "many" side, unless several series of the "one" side come together in a
    /// group, or missing partners are to be filled in.
    fn run(&self, b: &Binary, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let swapped = self.matching.card == MatchCard::OneToMany;
        let (many, one) = if swapped { (&b.rhs, &b.lhs) } else { (&b.lhs, &b.rhs) };
        let hold = || self.exec.collect(one, grid, Holder::Join);
        self.exec.both(!swapped, many, grid, hold, |mut held| {
            let (mut groups, mut numbers) = (Groups::default(), Vec::with_capacity(held.series.len()));
            let mut members: Vec<Vec<usize>> = Vec::new();
            let mut occupied: Vec<Bits> = Vec::new();
            let mut apart = self.matching.fill_left.is_none() && self.matching.fill_right.is_none();
            for (i, s) in held.series.iter().enumerate() {
                let n = groups.number(&s.labels, self.matching);
                numbers.push(n);
                if n == members.len() {
                    members.push(Vec::new());
                    occupied.push(Bits::none(grid.len));
                }
                if let (Some(m), Some(before)) = (members.get_mut(n), occupied.get_mut(n)) {
                    let bits = s.column.occupied();
                    apart &= !before.intersects(&bits);
                    before.or(&bits);
                    m.push(i);
                }
            }
            drop(occupied);
            let series = held.take();
            if apart {
                return self.by_columns(many, &One { series, groups, members }, grid, sink);
            }
            let mut other = self.exec.collect(many, grid, Holder::Join)?;
            let other = other.take();
            let of_many: Vec<usize> = other.iter().map(|s| groups.number(&s.labels, self.matching)).collect();
            self.exec.matched(self.node, groups.matched.get());
            let mut out = Merged::default();
            self.by_steps(&other, &series, &of_many, &numbers, groups.numbers.len(), &mut out)?;
            drop((other, series));
            out.finish().try_for_each(&mut *sink)
        })
    }

    /// At no step a group has more than one series on the "one" side: whole columns are combined as they come.
    fn by_columns(&self, many: &Node, one: &One, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let m = self.matching;
        let one_to_one = m.card == MatchCard::OneToOne;
        let swapped = m.card == MatchCard::OneToMany;
        // Whether no two results can have equal labels, so that nothing needs to be held. Names that are dropped at the
        // end of the query still tell series apart here, but not match groups.
        let alone = many.injective
            && !self.exec.options.delayed_name_removal
            && one.members.iter().all(|g| g.len() < 2)
            && if one_to_one { !m.on && m.labels.is_empty() } else { m.include.is_empty() };
        let mut out = Merged::default();
        let mut held = Cost::default();
        // Where series of one group made the same labels, also if the comparison did not hold.
        let mut matched: HashMap<(usize, Option<Labels>), Bits> = HashMap::new();
        self.exec.stream(many, grid, &mut |s| {
            self.exec.stop.check()?;
            let Some(group) = one.groups.find(&s.labels, m) else { return Ok(()) };
            for o in one.members.get(group).into_iter().flatten().filter_map(|i| one.series.get(*i)) {
                let (a, b) = if swapped { (o, &s) } else { (&s, o) };
                let (column, fits) = self.operator.columns(&a.column, &b.column, &mut self.notes.borrow_mut());
                let labels = self.result_labels(&s.labels, &o.labels);
                let typed = has_type_or_unit(&s.labels);
                if !alone || typed {
                    let key = (group, (!one_to_one).then(|| labels.clone()));
                    let before = matched.entry(key).or_insert_with(|| Bits::none(self.len));
                    if before.intersects(&fits) {
                        return Err(if one_to_one { many_to_one() } else { ambiguous_grouping() });
                    }
                    before.or(&fits);
                }
                if column.is_empty() {
                    continue;
                }
                let result = SeriesColumn { labels, drop_name: self.operator.return_bool, column };
                if alone && !typed {
                    sink(result)?;
                } else {
                    let cost = result.cost();
                    held += cost;
                    self.exec.budget.hold(Holder::Join, cost)?;
                    out.add(result)?;
                }
            }
            Ok(())
        })?;
        self.exec.matched(self.node, one.groups.matched.get());
        self.exec.budget.release(Holder::Join, held);
        out.finish().try_for_each(sink)
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
                        return Err(many_to_one());
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

fn many_to_one() -> QueryError {
    QueryError::execution("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)")
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
