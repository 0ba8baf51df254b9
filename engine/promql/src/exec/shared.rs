//! Subtrees that occur more than once are evaluated once and kept, as long as that fits into memory.

use super::QueryError;
use super::annotations::Annotations;
use super::budget::{Cost, Holder};
use super::column::SeriesColumn;
use super::eval::{Exec, Sink};
use super::tally::Tally;
use crate::parse::Span;
use crate::plan::{Grid, Shared};
use std::rc::Rc;
use std::sync::Arc;

/// The part of the budget that kept subtrees may fill, each: one in this many.
const SHARE: u64 = 8;

/// What a subtree gave.
pub(super) struct Kept {
    series: Vec<SeriesColumn>,
    /// What it told.
    notes: Annotations,
    /// Where it stood.
    span: Span,
    cost: Cost,
    /// What it looked at.
    tally: Option<Arc<Tally>>,
}

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_shared(&self, shared: &Shared, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let known = self.kept.borrow().get(&shared.id).cloned();
        match known {
            None => self.stream_and_keep(shared, grid, sink),
            // It was too much to keep.
            Some(None) => self.stream(&shared.node, grid, sink),
            Some(Some(kept)) => {
                self.notes.borrow_mut().merge(kept.notes.clone().moved(kept.span, shared.node.span));
                if let (Some(outer), Some(again)) = (self.tally(), &kept.tally) {
                    outer.merge(again);
                }
                if shared.left > 0 {
                    return kept.series.iter().try_for_each(|s| sink(s.clone()));
                }
                self.kept.borrow_mut().remove(&shared.id);
                self.budget.release(Holder::Input, kept.cost);
                match Rc::try_unwrap(kept) {
                    Ok(kept) => kept.series.into_iter().try_for_each(sink),
                    Err(kept) => kept.series.iter().try_for_each(|s| sink(s.clone())),
                }
            }
        }
    }

    fn stream_and_keep(&self, shared: &Shared, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let cap = self.budget.share(SHARE).unwrap_or(u64::MAX);
        let before = self.notes.take();
        let mut series: Option<Vec<SeriesColumn>> = Some(Vec::new());
        let mut cost = Cost::default();
        let mut keep = |s: SeriesColumn| {
            if let Some(kept) = &mut series {
                let more = s.cost();
                cost += more;
                self.budget.hold(Holder::Input, more)?;
                if cost.bytes > cap {
                    self.budget.release(Holder::Input, std::mem::take(&mut cost));
                    series = None;
                } else {
                    kept.push(s.clone());
                }
            }
            sink(s)
        };
        let mut tally = None;
        let result = self.apart(
            grid,
            || self.stream(&shared.node, grid, &mut keep),
            |outer, own| {
                outer.merge(&own);
                tally = Some(own);
            },
        );
        let told = self.notes.replace(before);
        self.notes.borrow_mut().merge(told.clone());
        let span = shared.node.span;
        let kept = series.map(|series| Rc::new(Kept { series, notes: told, span, cost, tally }));
        self.kept.borrow_mut().insert(shared.id, kept);
        result
    }
}
