//! Subtrees that treat each series by itself are evaluated slice by slice: a slice is some consecutive series of the
//! select, and any thread may take it. What slices give is put together in the order of the series, so that answers,
//! annotations and errors are the same with any number of threads.

use super::QueryError;
use super::annotations::Annotations;
use super::budget::{Cost, Holder};
use super::column::SeriesColumn;
use super::eval::{Exec, Sink, unexpected};
use super::source::{Entry, SeriesSet};
use crate::plan::{Grid, Node};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Values that a slice should give at least; it depends on the plan alone, never on the number of threads.
const SLICE_VALUES: usize = 16 * 1024;
/// Fewest and most series of a slice.
const SLICE_SERIES: (usize, usize) = (1, 64);
/// Most threads that help one select.
const MOST_HELPERS: usize = 63;

/// What a slice gives.
struct Done {
    series: Vec<SeriesColumn>,
    notes: Annotations,
    cost: Cost,
    /// Samples that it held at most.
    peak_samples: u64,
}

/// Slices that wait and slices that are done, by number.
struct Yard<'s> {
    state: Mutex<State<'s>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<'s> {
    waiting: VecDeque<(usize, Vec<Entry<'s>>)>,
    done: BTreeMap<usize, Result<Done, QueryError>>,
    closed: bool,
}

impl<'s> Yard<'s> {
    fn lock(&self) -> MutexGuard<'_, State<'s>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, guard: MutexGuard<'g, State<'s>>) -> MutexGuard<'g, State<'s>> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, number: usize, done: Result<Done, QueryError>) {
        self.lock().done.insert(number, done);
        self.changed.notify_all();
    }
}

/// Sends the helpers home however the evaluation ends.
struct Close<'y, 's>(&'y Yard<'s>);

impl Drop for Close<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<'q> Exec<'q> {
    /// Evaluates a sliced node.
    #[inline(never)]
    pub(super) fn stream_slices(&self, node: &Node, grid: &Grid, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        let selector = node.first_selector().ok_or_else(|| unexpected("a slice of nothing"))?;
        let mut set = self.open(selector.select)?;
        let most = (SLICE_VALUES / grid.len.max(1)).clamp(SLICE_SERIES.0, SLICE_SERIES.1);
        let mut first = Vec::new();
        self.fill(&mut *set, selector.select, most, &mut first)?;
        let mut second = Vec::new();
        if first.len() == most {
            self.fill(&mut *set, selector.select, most, &mut second)?;
        }
        let helpers = self.options.helpers.borrow(if second.is_empty() { 0 } else { MOST_HELPERS });
        if helpers.count == 0 {
            let mut next = Some(second);
            let mut slice = first;
            // The first is evaluated even if it is empty: parameters may be wrong.
            loop {
                let done = self.slice(node, grid, slice)?;
                self.consume(done, sink)?;
                slice = next.take().unwrap_or_default();
                if slice.is_empty() {
                    self.fill(&mut *set, selector.select, most, &mut slice)?;
                }
                if slice.is_empty() {
                    break;
                }
            }
        } else {
            let more = &mut |slice: &mut Vec<Entry<'q>>| self.fill(&mut *set, selector.select, most, slice);
            self.with_helpers(helpers.count, node, grid, [first, second], more, sink)?;
        }
        drop(helpers);
        for warning in set.warnings() {
            self.notes.borrow_mut().add_source_warning(warning);
        }
        Ok(())
    }

    fn with_helpers(
        &self,
        helpers: usize,
        node: &Node,
        grid: &Grid,
        begun: [Vec<Entry<'q>>; 2],
        more: &mut dyn FnMut(&mut Vec<Entry<'q>>) -> Result<(), QueryError>,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let yard = Yard { state: Mutex::default(), changed: Condvar::new() };
        let (mut issued, mut consumed, mut ended) = (0, 0, false);
        for slice in begun {
            yard.lock().waiting.push_back((issued, slice));
            issued += 1;
        }
        // Threads get what they share by reference; notes stay with each.
        let (shared, tally) = (self.shared, self.tally());
        let help = || {
            let exec = Exec { tally: RefCell::new(tally.clone()), ..Exec::of(shared) };
            let mut state = yard.lock();
            while !state.closed {
                match state.waiting.pop_front() {
                    Some((number, slice)) => {
                        drop(state);
                        yard.put(number, exec.guarded(node, grid, slice));
                        state = yard.lock();
                    }
                    None => state = yard.wait(state),
                }
            }
        };
        std::thread::scope(|scope| {
            let _close = Close(&yard);
            for _ in 0..helpers {
                scope.spawn(help);
            }
            loop {
                // Enough ahead that nobody waits, not so much that memory fills with what is done.
                while !ended && issued - consumed < 2 * (helpers + 1) {
                    let mut slice = Vec::new();
                    more(&mut slice)?;
                    if slice.is_empty() {
                        ended = true;
                    } else {
                        yard.lock().waiting.push_back((issued, slice));
                        yard.changed.notify_one();
                        issued += 1;
                    }
                }
                if consumed == issued {
                    return Ok(());
                }
                let mut state = yard.lock();
                if let Some(done) = state.done.remove(&consumed) {
                    drop(state);
                    self.consume(done?, sink)?;
                    consumed += 1;
                } else if let Some((number, slice)) = state.waiting.pop_front() {
                    drop(state);
                    yard.put(number, self.guarded(node, grid, slice));
                } else {
                    while !state.done.contains_key(&consumed) {
                        state = yard.wait(state);
                    }
                }
            }
        })
    }

    /// Up to `most` series of a select that pass what the select does not know.
    fn fill(
        &self,
        set: &mut dyn SeriesSet<'q>,
        select: usize,
        most: usize,
        out: &mut Vec<Entry<'q>>,
    ) -> Result<(), QueryError> {
        while out.len() < most {
            match set.next_series()? {
                Some(entry) if self.is_wanted(select, &entry.labels) => out.push(entry),
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// A slice on whatever thread; a panic is an error of the query.
    fn guarded(&self, node: &Node, grid: &Grid, slice: Vec<Entry<'q>>) -> Result<Done, QueryError> {
        catch_unwind(AssertUnwindSafe(|| self.slice(node, grid, slice)))
            .unwrap_or_else(|_| Err(unexpected("a part of a select")))
    }

    fn slice(&self, node: &Node, grid: &Grid, slice: Vec<Entry<'q>>) -> Result<Done, QueryError> {
        let exec = self.of_slice(slice);
        let mut done =
            Done { series: Vec::new(), notes: Annotations::default(), cost: Cost::default(), peak_samples: 0 };
        exec.stream(node, grid, &mut |series| {
            let cost = series.cost();
            done.cost += cost;
            done.series.push(series);
            exec.hold(Holder::Slices, cost)
        })?;
        done.peak_samples = exec.own.get().peak;
        done.notes = exec.notes.into_inner();
        Ok(done)
    }

    fn consume(&self, done: Done, sink: &mut Sink<'_>) -> Result<(), QueryError> {
        self.notes.borrow_mut().merge(done.notes);
        self.budget.pass(done.peak_samples)?;
        self.budget.release(Holder::Slices, Cost { samples: 0, ..done.cost });
        done.series.into_iter().try_for_each(sink)
    }
}
