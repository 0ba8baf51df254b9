//! What a query is run with: limits, features, times, and the way to stop it.

use crate::parse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Settings of the engine; the same for all queries of a service. Feature flags have Prometheus's meaning.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How far an instant selector looks back, milliseconds.
    pub lookback_ms: i64,
    /// Samples that a query may hold at once; 0 = unlimited. A histogram counts as its size in 16-byte units.
    pub max_samples: u64,
    /// Bytes that a query may hold at once (decoded samples, columns, groups); 0 = unlimited.
    pub max_bytes: u64,
    /// Step of subqueries that don't name one, milliseconds.
    pub default_subquery_step_ms: i64,
    /// `promql-delayed-name-removal`: `__name__` is dropped at the end of the query.
    pub delayed_name_removal: bool,
    /// `use-start-timestamps`: counters' start times take part in `rate` and friends.
    pub start_timestamps: bool,
    /// `type-and-unit-labels`: `__type__` and `__unit__` belong to the name.
    pub type_and_unit_labels: bool,
    /// What the parser accepts.
    pub parser: parse::Options,
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
            parser: parse::Options::default(),
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
