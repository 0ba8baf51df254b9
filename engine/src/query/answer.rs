//! The merged answer of all stores.

use super::budget::Budget;
use super::buffers::{Call, Grant};
use super::call::Message;
use super::fanout::{Failed, Select};
use super::merge::{Merge, Step};
use super::push::Bound;
use super::series::Series;
use super::store::Store;
use super::warning::{self, Warning, held_by};
use crate::storeapi::wire::Shard;
use model::Labels;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// One store's part.
pub(super) struct Input {
    from: mpsc::Receiver<Message>,
    memory: Arc<Call>,
    series: VecDeque<Series>,
    /// The memory of `series`.
    held: Option<Grant>,
    /// Something has come from it.
    heard: bool,
    name: String,
    strict: bool,
    /// What of the request's range it has data of.
    range: (i64, i64),
    /// The request's.
    asked: (i64, i64),
}

impl Input {
    pub(super) fn new(from: mpsc::Receiver<Message>, memory: Arc<Call>, store: &Store, asked: (i64, i64)) -> Self {
        let (name, strict, range) = (store.name(), store.source().strict, held_by(store, asked));
        Self { from, memory, series: VecDeque::new(), held: None, heard: false, name, strict, range, asked }
    }

    fn lost(&self, reason: &str) -> Warning {
        Warning::no_answer(&self.name, reason, Some(self.range))
    }
}

/// The merged answer of all stores.
pub struct SeriesStream {
    merge: Merge,
    inputs: Vec<Input>,
    warnings: Vec<Warning>,
    failed: Vec<Warning>,
    shard: Option<Arc<Shard>>,
    bounds: Vec<Bound>,
    partial: bool,
    limit: Option<usize>,
    given: usize,
    tasks: JoinSet<()>,
}

impl Drop for SeriesStream {
    fn drop(&mut self) {
        if model::protection::off("cancel") {
            self.tasks.detach_all();
        }
    }
}

impl SeriesStream {
    pub(super) fn new(
        inputs: Vec<Input>,
        warnings: Vec<Warning>,
        failed: Vec<Warning>,
        select: &Select,
        tasks: JoinSet<()>,
    ) -> Self {
        Self {
            merge: Merge::new(inputs.len()),
            inputs,
            warnings,
            failed,
            shard: select.shard.clone(),
            bounds: select.bounds.clone(),
            partial: select.terms.partial,
            limit: select.limit,
            given: 0,
            tasks,
        }
    }

    /// The next series, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Series>, Failed> {
        if self.limit.is_some_and(|l| self.given >= l) {
            return Ok(None);
        }
        loop {
            if !self.failed.is_empty() {
                return Err(self.settle().await);
            }
            match self.merge.step() {
                // Not every store can tell shares apart.
                Step::Series(s) if self.shard.as_ref().is_some_and(|shard| !shard.has_labels(&s.labels)) => {}
                Step::Series(s) => {
                    if let Some(breach) = self.bounds.iter().find_map(|b| b.breach(&s.labels)) {
                        return Err(Failed(breach));
                    }
                    self.given += 1;
                    return Ok(Some(s));
                }
                Step::Done => return Ok(None),
                Step::Need(i) => self.pull(i).await?,
            }
        }
    }

    /// What is missing from what was given so far.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// True if there may be more than the limit allowed.
    pub fn truncated(&self) -> bool {
        self.limit.is_some_and(|l| self.given >= l)
    }

    async fn pull(&mut self, i: usize) -> Result<(), Failed> {
        let Some(input) = self.inputs.get_mut(i) else {
            self.merge.close(i);
            return Ok(());
        };
        loop {
            if let Some(s) = input.series.pop_front() {
                match self.merge.feed(i, s) {
                    Ok(()) => return Ok(()),
                    Err(e) => {
                        let lost = input.lost(&format!("it is left out: {e}"));
                        input.from.close();
                        input.series.clear();
                        input.held = None;
                        self.merge.close(i);
                        let said = if self.partial && !input.strict { &mut self.warnings } else { &mut self.failed };
                        warning::push(said, lost);
                        return Ok(());
                    }
                }
            }
            input.held = None;
            let message = match input.from.try_recv() {
                Ok(message) => Some(message),
                Err(_) => {
                    input.memory.need();
                    let message = input.from.recv().await;
                    input.memory.idle();
                    message
                }
            };
            input.heard = true;
            let (said, fatal) = match message {
                Some(Message::Place(store)) => {
                    (input.name, input.range) = (store.name(), held_by(&store, input.asked));
                    continue;
                }
                Some(Message::Series(series, held)) => {
                    (input.series, input.held) = (series.into(), held);
                    continue;
                }
                None => {
                    self.merge.close(i);
                    return Ok(());
                }
                Some(Message::Warning(w)) => (Warning::of_store(&input.name, &w, Some(input.range)), false),
                Some(Message::Failed(r)) => (input.lost(&r), input.strict),
                Some(Message::Full(full)) => return Err(full),
            };
            if fatal || !self.partial {
                warning::push(&mut self.failed, said);
                return Ok(());
            }
            warning::push(&mut self.warnings, said);
        }
    }

    /// The request has failed. Who has not been heard of yet is waited for, as long as the answer would have waited: so that
    /// the failure names all who are missing.
    async fn settle(&mut self) -> Failed {
        for input in self.inputs.iter_mut().filter(|i| !i.heard) {
            input.memory.need();
            if let Some(Message::Failed(r)) = input.from.recv().await
                && (input.strict || !self.partial)
            {
                let lost = input.lost(&r);
                warning::push(&mut self.failed, lost);
            }
        }
        Failed::of(std::mem::take(&mut self.failed))
    }
}

/// All label sets and chunks of a stream, as far as a budget of bytes allows.
pub async fn collect(stream: &mut SeriesStream, budget: &Budget) -> Result<Vec<Series>, Failed> {
    let mut all = Vec::new();
    while let Some(s) = stream.next().await? {
        budget.take(s.cost())?;
        all.push(s);
    }
    Ok(all)
}

/// The label sets of a stream.
pub async fn collect_labels(stream: &mut SeriesStream, budget: &Budget) -> Result<Vec<Labels>, Failed> {
    let mut all = Vec::new();
    while let Some(s) = stream.next().await? {
        budget.take(s.labels.packed_len() + size_of::<Labels>())?;
        all.push(s.labels);
    }
    Ok(all)
}
