//! What a query holds in memory at once, in samples (as Prometheus counts) and in bytes (as they are). Queries of one
//! process share a second account.

use super::{EngineOptions, QueryError};
use model::protection;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Series with their chunks, as they were fetched.
    Fetched,
    /// Samples that are decoded at the moment, of one series per thread.
    Samples,
    /// Series on their way from the threads that decoded them.
    Slices,
    /// Groups of aggregations, a few numbers per step each.
    Groups,
    /// Candidates of `topk`, `bottomk`, `quantile`, `count_values`.
    Ranking,
    /// The held side and the output of joins.
    Join,
    /// Whole inputs of functions that need all series at once: `sort`, `histogram_quantile`, `info`, …
    Input,
    /// Numbers per step: `time()`, `scalar(…)`, parameters.
    Scalars,
    /// The answer.
    Answer,
}

impl Holder {
    const ALL: [Self; 9] = [
        Self::Fetched,
        Self::Samples,
        Self::Slices,
        Self::Groups,
        Self::Ranking,
        Self::Join,
        Self::Input,
        Self::Scalars,
        Self::Answer,
    ];
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetched => "series and chunks as they were fetched",
            Self::Samples => "decoded samples",
            Self::Slices => "series between threads",
            Self::Groups => "groups of aggregations",
            Self::Ranking => "candidates of rankings",
            Self::Join => "joins",
            Self::Input => "inputs that are needed whole",
            Self::Scalars => "numbers per step",
            Self::Answer => "the answer",
        })
    }
}

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`EngineOptions::max_bytes`].
    Query,
    /// [`ProcessBudget`].
    Process,
}

/// When it was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// While series are fetched.
    Fetch,
    /// Before anything was read: the estimate is already too much.
    Estimate,
    /// While evaluating.
    Evaluation,
}

/// A byte limit that a query would exceed (HTTP 422, `execution`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Overrun {
    /// Whose limit.
    pub limit: Limit,
    /// The limit, bytes.
    pub max: u64,
    /// What would be held, bytes.
    pub bytes: u64,
    /// When.
    pub phase: Phase,
    /// What most of the query's bytes are held for.
    pub largest: Holder,
    /// How many those are.
    pub largest_bytes: u64,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max, bytes, largest, largest_bytes, .. } = self;
        let whose = match self.limit {
            Limit::Query => "one query may hold",
            Limit::Process => "all queries of the process together may hold",
        };
        let phase = match self.phase {
            Phase::Fetch => "while series are fetched",
            Phase::Estimate => "by the estimate before the evaluation",
            Phase::Evaluation => "in query execution",
        };
        write!(
            f,
            "query processing would hold {bytes} bytes {phase}, more than the {max} bytes that {whose}; most of them for \
             {largest} ({largest_bytes} bytes): select fewer series, or use a larger step or a shorter range"
        )
    }
}

/// Bytes that all queries of a process may hold together.
pub struct ProcessBudget {
    max: u64,
    held: AtomicU64,
    freed: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for ProcessBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessBudget").field("max", &self.max).field("held", &self.held).finish_non_exhaustive()
    }
}

impl ProcessBudget {
    /// `max` bytes; 0 = unlimited.
    pub fn new(max: u64) -> Self {
        Self::signalling(max, || ())
    }

    /// The same; `freed` is called whenever a query has given back all that it held.
    pub fn signalling(max: u64, freed: impl Fn() + Send + Sync + 'static) -> Self {
        Self { max, held: AtomicU64::new(0), freed: Box::new(freed) }
    }

    /// The limit; 0 = unlimited.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Bytes that running queries hold now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that are left.
    pub fn free(&self) -> u64 {
        if self.max == 0 { u64::MAX } else { self.max.saturating_sub(self.held()) }
    }

    /// Takes `bytes` if they are free, or if nobody holds anything: one query may always begin.
    fn reserve(&self, bytes: u64) -> bool {
        let fits = |held: u64| {
            let more = held.saturating_add(bytes);
            (self.max == 0 || held == 0 || more <= self.max).then_some(more)
        };
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn add(&self, bytes: u64) -> u64 {
        self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)
    }

    fn subtract(&self, bytes: u64) {
        // Never below zero, whatever the callers do.
        let _ = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |v| Some(v.saturating_sub(bytes)));
    }
}

/// Samples and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) samples: u64,
    pub(super) bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// The account of one query: what it holds in memory from the first series that is fetched to the last byte of its
/// answer. All its threads book on it.
#[derive(Debug)]
pub struct Account {
    max: Cost,
    samples: AtomicU64,
    bytes: AtomicU64,
    by_holder: [AtomicU64; Holder::ALL.len()],
    peak_samples: AtomicU64,
    peak_bytes: AtomicU64,
    process: Option<Arc<ProcessBudget>>,
    /// What the process holds for this query even while it needs less.
    reserved: u64,
    overrun: OnceLock<Box<Overrun>>,
}

impl Account {
    /// An account with the limits of the options that reserves nothing.
    pub fn new(options: &EngineOptions) -> Self {
        let max = Cost { samples: options.max_samples, bytes: options.max_bytes };
        Self {
            max,
            samples: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            by_holder: Default::default(),
            peak_samples: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            process: options.process.clone(),
            reserved: 0,
            overrun: OnceLock::new(),
        }
    }

    /// The same, if `bytes` can be set aside for it in the process's budget now; otherwise the query should wait.
    pub fn reserving(options: &EngineOptions, bytes: u64) -> Option<Self> {
        let process = options.process.as_ref();
        process.is_none_or(|p| p.reserve(bytes)).then(|| {
            let mut account = Self::new(options);
            account.reserved = bytes;
            account
        })
    }

    /// Counts fetched series; they stay counted as long as the account lives, or until they are given back.
    pub fn fetch(&self, bytes: u64) -> Result<(), QueryError> {
        self.book(Holder::Fetched, Cost { samples: 0, bytes }, Phase::Fetch)
    }

    /// Counts fetched series that were dropped.
    pub fn give_back(&self, bytes: u64) {
        self.release(Holder::Fetched, Cost { samples: 0, bytes });
    }

    /// Gives back all that was fetched: the evaluation is over.
    pub fn give_back_fetched(&self) {
        self.give_back(self.by_holder.get(Holder::Fetched as usize).map_or(0, |b| b.load(Ordering::Relaxed)));
    }

    /// The first overrun, if there was one.
    pub fn overrun(&self) -> Option<&Overrun> {
        self.overrun.get().map(|o| &**o)
    }

    /// Counts what is now held; fails if it is too much.
    pub(super) fn hold(&self, holder: Holder, cost: Cost) -> Result<(), QueryError> {
        self.book(holder, cost, Phase::Evaluation)
    }

    /// Fails if `samples` beside those that are held are too many; they are not held afterwards.
    pub(super) fn pass(&self, samples: u64) -> Result<(), QueryError> {
        let all = self.samples.load(Ordering::Relaxed).saturating_add(samples);
        self.peak_samples.fetch_max(all, Ordering::Relaxed);
        self.check_alone(all)
    }

    /// Fails if so many samples are too many whatever else is held.
    pub(super) fn check_alone(&self, samples: u64) -> Result<(), QueryError> {
        let most = if protection::off("query-budget") { 0 } else { self.max.samples };
        if most > 0 && samples > most { Err(QueryError::TooManySamples) } else { Ok(()) }
    }

    fn book(&self, holder: Holder, cost: Cost, phase: Phase) -> Result<(), QueryError> {
        let samples = self.samples.fetch_add(cost.samples, Ordering::Relaxed).saturating_add(cost.samples);
        let before = self.bytes.fetch_add(cost.bytes, Ordering::Relaxed);
        let bytes = before.saturating_add(cost.bytes);
        if let Some(h) = self.by_holder.get(holder as usize) {
            h.fetch_add(cost.bytes, Ordering::Relaxed);
        }
        self.peak_samples.fetch_max(samples, Ordering::Relaxed);
        self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        let process = self.process.as_ref().map(|p| (p, p.add(self.charged(bytes) - self.charged(before))));
        if protection::off("query-budget") {
            return Ok(());
        }
        if self.max.samples > 0 && samples > self.max.samples {
            return Err(QueryError::TooManySamples);
        }
        if self.max.bytes > 0 && bytes > self.max.bytes {
            return Err(self.refuse(Limit::Query, self.max.bytes, bytes, phase));
        }
        match process {
            Some((p, held)) if p.max > 0 && held > p.max && bytes > self.reserved => {
                Err(self.refuse(Limit::Process, p.max, held, phase))
            }
            _ => Ok(()),
        }
    }

    /// What the process is charged for `bytes` of this query.
    fn charged(&self, bytes: u64) -> u64 {
        bytes.max(self.reserved)
    }

    /// Fails if `bytes` for `holder` are more than the query or the process may hold, without holding them.
    pub(super) fn foresee(&self, holder: Holder, bytes: u64) -> Result<(), QueryError> {
        if protection::off("query-estimate") {
            return Ok(());
        }
        let refuse = |limit, max| {
            let phase = Phase::Estimate;
            Err(QueryError::TooManyBytes(Box::new(Overrun {
                limit,
                max,
                bytes,
                phase,
                largest: holder,
                largest_bytes: bytes,
            })))
        };
        let held = self.bytes.load(Ordering::Relaxed);
        let all = held.saturating_add(bytes);
        if self.max.bytes > 0 && all > self.max.bytes {
            return refuse(Limit::Query, self.max.bytes);
        }
        match &self.process {
            Some(p) if self.charged(all) - self.charged(held) > p.free() => refuse(Limit::Process, p.max),
            _ => Ok(()),
        }
    }

    fn refuse(&self, limit: Limit, max: u64, bytes: u64, phase: Phase) -> QueryError {
        let held = |h: Holder| self.by_holder.get(h as usize).map_or(0, |b| b.load(Ordering::Relaxed));
        let largest = Holder::ALL.into_iter().max_by_key(|h| held(*h)).unwrap_or(Holder::Samples);
        let largest_bytes = held(largest);
        let overrun = Box::new(Overrun { limit, max, bytes, phase, largest, largest_bytes });
        QueryError::TooManyBytes(self.overrun.get_or_init(|| overrun).clone())
    }

    /// Counts what is held no longer.
    pub(super) fn release(&self, holder: Holder, cost: Cost) {
        // Never below zero, whatever the callers do.
        let less = |a: &AtomicU64, by: u64| {
            a.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |v| Some(v.saturating_sub(by))).unwrap_or_default()
        };
        less(&self.samples, cost.samples);
        let before = less(&self.bytes, cost.bytes);
        if let Some(h) = self.by_holder.get(holder as usize) {
            less(h, cost.bytes);
        }
        if let Some(p) = &self.process {
            p.subtract(self.charged(before) - self.charged(before.saturating_sub(cost.bytes)));
        }
    }

    /// A part of the byte limit that an operator may fill before it chooses a thriftier way; `None` = unlimited.
    pub(super) fn share(&self, part: u64) -> Option<u64> {
        let process = self.process.as_ref().filter(|p| p.max > 0).map(|p| p.max);
        let query = Some(self.max.bytes).filter(|b| *b > 0);
        // What was fetched stays where it is.
        let fetched = self.by_holder.get(Holder::Fetched as usize).map_or(0, |b| b.load(Ordering::Relaxed));
        query.into_iter().chain(process).min().map(|b| b.saturating_sub(fetched) / part.max(1))
    }

    /// Most samples held at once.
    pub(super) fn peak_samples(&self) -> u64 {
        self.peak_samples.load(Ordering::Relaxed)
    }

    /// Most bytes held at once.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Account {
    /// What an error left behind goes back to the process.
    fn drop(&mut self) {
        if let Some(p) = &self.process {
            p.subtract(self.charged(self.bytes.load(Ordering::Relaxed)));
            (p.freed)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_bytes: u64, process: &Arc<ProcessBudget>) -> Account {
        Account::new(&EngineOptions { max_bytes, process: Some(Arc::clone(process)), ..EngineOptions::default() })
    }

    #[test]
    fn an_overrun_names_limit_phase_and_largest_holder() {
        let process = Arc::new(ProcessBudget::new(1000));
        let (a, b) = (budget(600, &process), budget(600, &process));
        let bytes = |bytes| Cost { samples: 0, bytes };
        a.hold(Holder::Join, bytes(400)).unwrap();
        a.hold(Holder::Groups, bytes(100)).unwrap();
        let Err(QueryError::TooManyBytes(e)) = a.hold(Holder::Samples, bytes(150)) else { unreachable!() };
        assert_eq!(
            (e.limit, e.phase, e.largest, e.largest_bytes),
            (Limit::Query, Phase::Evaluation, Holder::Join, 400)
        );
        a.release(Holder::Samples, bytes(150));
        b.hold(Holder::Ranking, bytes(450)).unwrap();
        let Err(QueryError::TooManyBytes(e)) = b.hold(Holder::Input, bytes(100)) else { unreachable!() };
        assert_eq!((e.limit, e.max, e.largest), (Limit::Process, 1000, Holder::Ranking));
        assert!(e.to_string().contains("all queries of the process"), "{e}");
        assert!(b.foresee(Holder::Answer, 500).is_err());
        drop((a, b));
        assert_eq!(process.held(), 0, "all goes back");
    }

    #[test]
    fn what_is_reserved_is_kept_free_and_a_query_may_always_begin() {
        let process = Arc::new(ProcessBudget::new(1000));
        let options = EngineOptions { max_bytes: 0, process: Some(Arc::clone(&process)), ..EngineOptions::default() };
        let a = Account::reserving(&options, 1200).unwrap();
        assert!(Account::reserving(&options, 1).is_none(), "one may begin with too much, a second may not");
        drop(a);
        let (a, b) = (Account::reserving(&options, 400).unwrap(), Account::reserving(&options, 400).unwrap());
        assert!(Account::reserving(&options, 400).is_none());
        a.fetch(300).unwrap();
        assert_eq!(process.held(), 800, "within what is reserved");
        a.fetch(300).unwrap();
        assert_eq!(process.held(), 1000);
        let Err(QueryError::TooManyBytes(e)) = a.fetch(1) else { unreachable!() };
        assert_eq!((e.limit, e.phase, e.largest), (Limit::Process, Phase::Fetch, Holder::Fetched));
        assert_eq!(a.overrun(), Some(&*e));
        b.fetch(400).unwrap();
        a.give_back(601);
        assert_eq!(process.held(), 800);
        drop((a, b));
        assert_eq!(process.held(), 0);
    }
}
