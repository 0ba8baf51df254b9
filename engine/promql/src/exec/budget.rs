//! What a query holds in memory at once, in samples (as Prometheus counts) and in bytes (as they are).

use super::{EngineOptions, QueryError};
use std::cell::Cell;

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

/// The account of one query.
#[derive(Debug)]
pub(super) struct Budget {
    max: Cost,
    held: Cell<Cost>,
    peak_samples: Cell<u64>,
}

impl Budget {
    pub(super) fn new(options: &EngineOptions) -> Self {
        let max = Cost { samples: options.max_samples, bytes: options.max_bytes };
        Self { max, held: Cell::default(), peak_samples: Cell::new(0) }
    }

    /// Counts what is now held; fails if it is too much.
    pub(super) fn hold(&self, cost: Cost) -> Result<(), QueryError> {
        let mut held = self.held.get();
        held += cost;
        self.held.set(held);
        self.peak_samples.set(self.peak_samples.get().max(held.samples));
        if self.max.samples > 0 && held.samples > self.max.samples {
            return Err(QueryError::TooManySamples);
        }
        if self.max.bytes > 0 && held.bytes > self.max.bytes {
            let max = self.max.bytes;
            return Err(QueryError::execution(format!(
                "query processing would hold more than {max} bytes in query execution: select fewer series, or use a \
                 larger step or a shorter range"
            )));
        }
        Ok(())
    }

    /// Counts what is held no longer.
    pub(super) fn release(&self, cost: Cost) {
        let held = self.held.get();
        self.held.set(Cost {
            samples: held.samples.saturating_sub(cost.samples),
            bytes: held.bytes.saturating_sub(cost.bytes),
        });
    }

    /// Most samples held at once.
    pub(super) fn peak_samples(&self) -> u64 {
        self.peak_samples.get()
    }
}
