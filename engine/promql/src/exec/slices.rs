//! Subtrees that treat each series by itself are evaluated slice by slice: a slice is some consecutive series of the
//! select, and any thread may take it. What slices give is put together in the order of the series, so that answers,
//! annotations and errors are the same with any number of threads.

use super::QueryError;
use super::annotations::Annotations;
use super::budget::{Cost, Holder};
use super::column::SeriesColumn;
use super::eval::{Exec, Sink, unexpected};
use super::options::Borrowed;
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
    /// Helpers at work.
    helping: usize,
}

impl<'s> Yard<'s> {
    fn lock(&self) -> MutexGuard<'_, State<'s>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, guard: MutexGuard<'g, State<'s>>) -> MutexGuard<'g, State<'s>> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a slice; how many help.
    fn wait_for(&self, number: usize, slice: Vec<Entry<'s>>) -> usize {
        let mut state = self.lock();
        state.waiting.push_back((number, slice));
        state.helping
    }

    /// The next slice for a helper, who goes when there is none.
    fn take_or_leave(&self) -> Option<(usize, Vec<Entry<'s>>)> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.helping -= 1;
        }
        next
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
        self.0.lock().waiting.clear();
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
        if second.is_empty() || !self.options.helpers.any() {
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
            self.with_helpers(node, grid, [first, second], more, sink)?;
        }
        for warning in set.warnings() {
            self.notes.borrow_mut().add_source_warning(warning);
        }
        Ok(())
    }

    /// Other threads take slices as long as there are some that wait: while the source has none to give, helpers are others'.
    fn with_helpers(
        &self,
        node: &Node,
        grid: &Grid,
        begun: [Vec<Entry<'q>>; 2],
        more: &mut dyn FnMut(&mut Vec<Entry<'q>>) -> Result<(), QueryError>,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let yard = Yard { state: Mutex::default(), changed: Condvar::new() };
        let (mut issued, mut consumed, mut ended) = (0, 0, false);
        // Threads get what they share by reference; notes stay with each.
        let (shared, tally) = (self.shared, self.tally());
        let help = |_borrowed: Borrowed<'_>| {
            let exec = Exec { tally: RefCell::new(tally.clone()), ..Exec::of(shared) };
            while let Some((number, slice)) = yard.take_or_leave() {
                yard.put(number, exec.guarded(node, grid, slice));
            }
        };
        std::thread::scope(|scope| {
            let _close = Close(&yard);
            // One more slice, and a helper for it if one is free.
            let issue = |number: usize, slice: Vec<Entry<'q>>| {
                let helping = yard.wait_for(number, slice);
                if helping < MOST_HELPERS && yard.lock().waiting.len() > 1 {
                    let borrowed = self.options.helpers.borrow(1);
                    if borrowed.count > 0 {
                        yard.lock().helping += 1;
                        scope.spawn(move || help(borrowed));
                    }
                }
            };
            for slice in begun {
                issue(issued, slice);
                issued += 1;
            }
            loop {
                // Enough ahead that nobody waits, not so much that memory fills with what is done.
                while !ended && issued - consumed < 2 * (yard.lock().helping + 1) {
                    let mut slice = Vec::new();
                    more(&mut slice)?;
                    if slice.is_empty() {
                        ended = true;
                    } else {
                        issue(issued, slice);
                        issued += 1;
                    }
                }
                if consumed == issued {
                    if ended {
                        return Ok(());
                    }
                    continue;
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

#[cfg(test)]
mod tests {
    use crate::exec::{
        Encoded, EngineOptions, Entry, Helpers, Plan, QueryError, Samples, SelectRequest, SeriesSet, Source, Stop,
        Times,
    };
    use model::Labels;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const SERIES: usize = 1000;

    /// Gives some series, tells that it did, and no more until it is told to.
    struct Hangs {
        given: Sender<()>,
        go_on: Mutex<Receiver<()>>,
    }

    struct Set<'s>(&'s Hangs, usize);

    struct One;

    impl Encoded for One {
        fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
            (0..100).for_each(|t| out.push(t * 1000, t as f64));
            Ok(())
        }
    }

    impl Source for Hangs {
        fn select<'s>(&'s self, _: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
            Ok(Box::new(Set(self, 0)))
        }
    }

    impl<'s> SeriesSet<'s> for Set<'s> {
        fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
            if self.1 == SERIES {
                self.0.given.send(()).unwrap();
                self.0.go_on.lock().unwrap().recv().unwrap();
            }
            self.1 += 1;
            if self.1 > SERIES {
                return Ok(None);
            }
            let labels = Labels::from_pairs([("n", format!("{:04}", self.1))]);
            Ok(Some(Entry { labels, data: Box::new(One) }))
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the helper is a thread of its own")]
    fn helpers_are_free_while_a_source_is_silent() {
        let options = EngineOptions { helpers: Helpers::new(1), ..EngineOptions::default() };
        let times = Times::Range { start: 0, end: 100_000, step: 100 };
        let plan = Plan::new("sum(rate(m[10s]))", times, &options).unwrap();
        let ((given, silent), (tell, go_on)) = (channel(), channel());
        let query = std::thread::spawn(move || {
            plan.execute(&Hangs { given, go_on: Mutex::new(go_on) }, &Stop::new()).unwrap().stats.series_read
        });
        silent.recv().unwrap();
        // It may still be at work on the last slice.
        let free = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            options.helpers.borrow(1).count == 1
        });
        tell.send(()).unwrap();
        assert_eq!(query.join().unwrap(), SERIES as u64);
        assert!(free, "the helper waits for a store");
    }
}
