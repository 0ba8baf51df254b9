//! What a query is run with: limits, features, times, and the way to stop it.

use super::budget::ProcessBudget;
use crate::parse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Settings of the engine; the same for all queries of a service. Feature flags have Prometheus's meaning.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How far an instant selector looks back, milliseconds.
    pub lookback_ms: i64,
    /// Samples that a query may hold at once; 0 = unlimited. A histogram counts as its size in 16-byte units.
    pub max_samples: u64,
    /// Bytes that a query may hold at once (decoded samples, columns, groups); 0 = unlimited. These are counted as they are
    /// really held: a query that is near the limit may be refused with many threads and pass with one. What
    /// [`EngineOptions::max_samples`] refuses does not depend on threads.
    pub max_bytes: u64,
    /// Step of subqueries that don't name one, milliseconds.
    pub default_subquery_step_ms: i64,
    /// `promql-delayed-name-removal`: `__name__` is dropped at the end of the query.
    pub delayed_name_removal: bool,
    /// `use-start-timestamps`: counters' start times take part in `rate` and friends.
    pub start_timestamps: bool,
    /// `type-and-unit-labels`: `__type__` and `__unit__` belong to the name.
    pub type_and_unit_labels: bool,
    /// `promql-per-step-stats`: whoever asks for all statistics gets samples by step.
    pub per_step_stats: bool,
    /// What the parser accepts.
    pub parser: parse::Options,
    /// Bytes that all queries of the process may hold together; `None` = only each query's own limit counts.
    pub process: Option<Arc<ProcessBudget>>,
    /// Threads that decode and compute windows beside the caller's.
    pub helpers: Helpers,
    /// Which rewrites of the plan are on.
    pub rewrites: Rewrites,
    /// Labels that the source takes off its series (replica labels); `None` = unknown. Matchers on such labels can be
    /// asked of the source only, so that rewrites leave them where they are.
    pub dropped_labels: Option<Vec<String>>,
    /// Which series `limit_ratio` takes.
    pub ratio_hash: RatioHash,
    /// Count the samples that steps look at ([`super::QueryStats::steps`]): some of the time of a query.
    pub count_samples: bool,
}

/// Whose hash of label sets decides what `limit_ratio` takes: the released binaries of both lay labels out differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RatioHash {
    /// As Thanos's querier does: the default.
    #[default]
    Thanos,
    /// As Prometheus does.
    Prometheus,
}

/// Rewrites of the plan. Each keeps every value, every error and every warning; a test compares plans with and without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrites {
    /// Arithmetic of numbers is done once, when planning.
    pub fold_constants: bool,
    /// Matchers of one side of a binary operator are put on the other side where they can't change the answer.
    pub propagate_matchers: bool,
    /// Selects of which one covers the other are fetched once; the source must be able to open a select repeatedly.
    pub merge_selects: bool,
    /// Equal subtrees are evaluated once, if what they give fits into memory.
    pub share_subtrees: bool,
    /// Sources are told which labels matter above a select.
    pub projection: bool,
}

impl Rewrites {
    /// All on: the default.
    pub const ALL: Self = Self {
        fold_constants: true,
        propagate_matchers: true,
        merge_selects: true,
        share_subtrees: true,
        projection: true,
    };
    /// All off.
    pub const NONE: Self = Self {
        fold_constants: false,
        propagate_matchers: false,
        merge_selects: false,
        share_subtrees: false,
        projection: false,
    };
}

/// Threads that running queries of a process may borrow beside their own; clones share them. Answers do not depend on
/// how many a query gets, not in a single bit, nor does what is refused for its samples.
#[derive(Clone, Debug, Default)]
pub struct Helpers(Arc<(AtomicUsize, usize)>);

impl Helpers {
    /// `n` threads beside the callers'; 0 = every query runs on its caller's thread alone.
    pub fn new(n: usize) -> Self {
        Self(Arc::new((AtomicUsize::new(n), n)))
    }

    /// True if there may be some, now or later.
    pub(super) fn any(&self) -> bool {
        self.0.1 > 0
    }

    /// Takes up to `most` of those that are free.
    pub(super) fn borrow(&self, most: usize) -> Borrowed<'_> {
        let mut taken = 0;
        let _ = self.0.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            taken = free.min(most);
            Some(free - taken)
        });
        Borrowed { from: self, count: taken }
    }
}

/// Borrowed threads; they are free again when this is dropped.
pub(super) struct Borrowed<'h> {
    from: &'h Helpers,
    pub(super) count: usize,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.from.0.0.fetch_add(self.count, Ordering::Relaxed);
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lookback_ms: 300_000,
            max_samples: 50_000_000,
            max_bytes: 1 << 30,
            default_subquery_step_ms: 60_000,
            delayed_name_removal: false,
            start_timestamps: false,
            type_and_unit_labels: false,
            per_step_stats: false,
            parser: parse::Options::default(),
            process: None,
            helpers: Helpers::default(),
            rewrites: Rewrites::ALL,
            dropped_labels: None,
            ratio_hash: RatioHash::Thanos,
            count_samples: false,
        }
    }
}

/// At which times a query is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Once, at this time (milliseconds).
    Instant(i64),
    /// At `start`, `start + step` … up to `end`, all milliseconds; `step` > 0.
    Range {
        /// First time.
        start: i64,
        /// No time is later.
        end: i64,
        /// Distance.
        step: i64,
    },
}

/// Stops a running query from another thread. The evaluation looks at it at least once per series and every few
/// thousand samples. The deadline's timer lives with the caller, who calls [`Stop::expire`].
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// A token that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// The caller has lost interest.
    pub fn cancel(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// The deadline has passed.
    pub fn expire(&self) {
        self.0.store(2, Ordering::Relaxed);
    }

    /// An error if the query must stop.
    pub fn check(&self) -> Result<(), super::QueryError> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            1 => Err(super::QueryError::Canceled),
            _ => Err(super::QueryError::Timeout),
        }
    }
}
