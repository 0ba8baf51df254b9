//! Series on their way from the stores to an evaluation that already reads them: what was read is dropped, so that an answer
//! needs no more memory than lies between the two. A bounded number of bytes goes ahead of the reader; then stores are held back.

use super::budget::Budget;
use super::fanout::{Failed, SeriesStream};
use super::series::Series;
use super::warning::Warning;
use parking_lot::{Condvar, Mutex};
use promql::exec::{QueryError, Stop};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Bytes that go ahead of the reader. With so many, or all, an evaluation begins.
const AHEAD: usize = 4 << 20;
/// Bytes for which it is worth to wake the reader.
const WORTH: usize = 256 << 10;
/// How long a store is held back while the reader takes nothing: the call has a place in the store that others want, and
/// its own deadline.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a reader that waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// The series of one select.
pub struct Flow {
    state: Mutex<State>,
    /// There is something for the reader.
    more: Condvar,
    /// There is room for the writer.
    room: Notify,
    /// An evaluation may begin.
    ready: Notify,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Series>,
    /// Bytes in the queue.
    bytes: usize,
    /// Series so far.
    count: u64,
    warnings: Vec<Warning>,
    ended: Option<Result<(), Failed>>,
    reader: At,
}

/// How far the reader is.
#[derive(Default, PartialEq)]
enum At {
    /// It has not begun, and may wait for another flow: nothing is held back.
    #[default]
    Before,
    /// It reads.
    Here,
    /// It wants no more.
    Gone,
}

impl Flow {
    /// An empty one.
    pub fn new(budget: Arc<Budget>) -> Self {
        let [room, ready] = Default::default();
        Self { state: Mutex::default(), more: Condvar::new(), room, ready, budget }
    }

    /// Passes a stream on to the reader, to its end or to the reader's. Only a reader that reads holds a store back, so that
    /// no query waits for a store whose places are held by others that wait.
    pub async fn fill(&self, stream: &mut SeriesStream) -> Result<(), Failed> {
        let mut patient = true;
        self.warn(stream.take_warnings());
        while let Some(series) = stream.next().await? {
            let cost = series.cost();
            self.budget.take(cost)?;
            if self.push(series, cost) {
                self.ready.notify_one();
                while patient && self.holds_back() {
                    patient = tokio::time::timeout(PATIENCE, self.room.notified()).await.is_ok();
                }
            }
            if self.state.lock().reader == At::Gone {
                return Ok(());
            }
        }
        self.warn(stream.take_warnings());
        Ok(())
    }

    /// Adds a series; true if there is no room for more.
    fn push(&self, series: Series, cost: usize) -> bool {
        let mut state = self.state.lock();
        if state.reader == At::Gone {
            self.budget.give(cost);
            return false;
        }
        let before = state.bytes;
        state.bytes += cost;
        state.count += 1;
        state.queue.push_back(series);
        if before < WORTH && state.bytes >= WORTH {
            self.more.notify_one();
        }
        state.bytes >= AHEAD
    }

    fn holds_back(&self) -> bool {
        let state = self.state.lock();
        state.reader == At::Here && state.bytes >= AHEAD
    }

    /// Tells what is missing.
    pub fn warn(&self, warnings: Vec<Warning>) {
        self.state.lock().warnings.extend(warnings);
    }

    /// Nothing comes any more. Only the first end counts.
    pub fn end(&self, outcome: Result<(), Failed>) {
        self.state.lock().ended.get_or_insert(outcome);
        self.more.notify_one();
        self.ready.notify_one();
    }

    /// Waits until an evaluation may begin.
    pub async fn begun(&self) -> Result<(), Failed> {
        loop {
            let notified = self.ready.notified();
            {
                let state = self.state.lock();
                match &state.ended {
                    Some(outcome) => return outcome.clone(),
                    None if state.bytes >= AHEAD => return Ok(()),
                    None => {}
                }
            }
            notified.await;
        }
    }

    /// Series so far.
    pub fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// What is missing, as far as is known.
    pub fn take_warnings(&self) -> Vec<Warning> {
        std::mem::take(&mut self.state.lock().warnings)
    }

    /// All that is there now, some at least, or nothing at the end; waits on a CPU thread.
    fn take(&self, stop: &Stop) -> Result<VecDeque<Series>, QueryError> {
        let mut state = self.state.lock();
        loop {
            match &state.ended {
                Some(Err(e)) => return Err(QueryError::Storage(e.0.clone())),
                ended if ended.is_some() || state.bytes >= WORTH => break,
                _ => {}
            }
            stop.check()?;
            self.more.wait_for(&mut state, LOOK);
        }
        state.bytes = 0;
        let taken = std::mem::take(&mut state.queue);
        drop(state);
        self.room.notify_one();
        Ok(taken)
    }
}

/// Ends a flow however its writer ends.
pub struct Ending(pub Arc<Flow>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Err(Failed("a select ended abnormally".to_owned())));
    }
}

/// A flow with its writer, which ends when this is dropped.
pub struct Opened {
    /// The flow.
    pub flow: Arc<Flow>,
    writer: AbortHandle,
    read: AtomicBool,
}

impl Opened {
    /// A flow that `writer` fills.
    pub fn new(flow: Arc<Flow>, writer: AbortHandle) -> Self {
        Self { flow, writer, read: AtomicBool::new(false) }
    }

    /// True at the first time: it can be read once.
    pub fn begin(&self) -> bool {
        !self.read.swap(true, Ordering::Relaxed)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// The reader's end.
pub struct Reader {
    flow: Arc<Flow>,
    stop: Stop,
    taken: VecDeque<Series>,
}

impl Reader {
    /// Reads `flow` until `stop`.
    pub fn new(flow: Arc<Flow>, stop: Stop) -> Self {
        flow.state.lock().reader = At::Here;
        Self { flow, stop, taken: VecDeque::new() }
    }

    /// The next series, or nothing at the end.
    pub fn next_series(&mut self) -> Result<Option<Held>, QueryError> {
        if self.taken.is_empty() {
            self.taken = self.flow.take(&self.stop)?;
        }
        Ok(self.taken.pop_front().map(|series| Held { series, budget: Arc::clone(&self.flow.budget) }))
    }
}

impl Drop for Reader {
    /// What was not read is given back, and nothing more is fetched.
    fn drop(&mut self) {
        let mut state = self.flow.state.lock();
        state.reader = At::Gone;
        state.bytes = 0;
        let left = std::mem::take(&mut state.queue);
        drop(state);
        self.flow.room.notify_one();
        left.iter().chain(&self.taken).for_each(|series| self.flow.budget.give(series.cost()));
    }
}

/// A series that is counted until it is dropped.
pub struct Held {
    /// The series.
    pub series: Series,
    budget: Arc<Budget>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give(self.series.cost());
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::chunk;
    use super::*;
    use model::Labels;

    fn series(i: usize, bytes: usize) -> Series {
        let labels = Labels::from_pairs([("n", format!("{i:04}"))]);
        let mut chunk = chunk(0, 0, 1, 2, 1);
        chunk.raw.iter_mut().for_each(|s| s.data = vec![0; bytes].into());
        Series { labels, chunks: vec![chunk] }
    }

    #[tokio::test]
    async fn a_reader_that_goes_gives_everything_back() {
        let budget = Arc::new(Budget::new(1 << 20));
        let flow = Arc::new(Flow::new(Arc::clone(&budget)));
        let put = |i: usize| {
            let s = series(i, 100 << 10);
            let cost = s.cost();
            budget.take(cost).unwrap();
            flow.push(s, cost);
        };
        (0..4).for_each(put);
        let mut reader = Reader::new(Arc::clone(&flow), Stop::new());
        assert!(reader.next_series().unwrap().is_some());
        (4..6).for_each(put);
        drop(reader);
        put(6);
        budget.take(1 << 20).unwrap();
    }

    #[tokio::test]
    async fn an_evaluation_begins_with_a_part_and_what_it_read_is_given_back() {
        let budget = Arc::new(Budget::new(AHEAD as u64 + (1 << 20)));
        let flow = Arc::new(Flow::new(Arc::clone(&budget)));
        let mut full = false;
        let mut count = 0;
        while !full {
            let s = series(count, 100 << 10);
            budget.take(s.cost()).unwrap();
            full = flow.push(s.clone(), s.cost());
            count += 1;
        }
        flow.begun().await.unwrap();
        assert!(budget.take(2 << 20).is_err(), "nearly all is held");
        budget.give(2 << 20);
        let mut reader = Reader::new(Arc::clone(&flow), Stop::new());
        for i in 0..count {
            assert_eq!(reader.next_series().unwrap().unwrap().series.labels.value("n"), format!("{i:04}"));
        }
        assert!(!flow.holds_back());
        budget.take(4 << 20).unwrap();
        budget.give(4 << 20);
        // Who waits for more is told of the end, of failures, and may be stopped.
        let waiting = std::thread::spawn(move || reader.next_series().map(|s| s.is_some()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        flow.end(Ok(()));
        assert!(!waiting.join().unwrap().unwrap());
        let failing = Flow::new(Arc::clone(&budget));
        failing.end(Err(Failed("gone".to_owned())));
        assert_eq!(failing.begun().await, Err(Failed("gone".to_owned())));
        let e = Reader::new(Arc::new(failing), Stop::new()).next_series().err().unwrap();
        assert!(matches!(e, QueryError::Storage(text) if text == "gone"));
        let stop = Stop::new();
        stop.cancel();
        let e = Reader::new(Arc::new(Flow::new(budget)), stop).next_series().err().unwrap();
        assert!(matches!(e, QueryError::Canceled));
    }
}
