//! Numbers about the operator itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a reconciliation ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok`, `stalled` or `retry`.
    pub result: &'static str,
}

/// What was done to objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Write {
    /// `apply`, `delete`, `recreate`, `status` or `mark`.
    pub action: &'static str,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Failed {
    /// The verb.
    pub verb: &'static str,
    /// The plural with its group.
    pub resource: String,
}

/// The numbers.
#[derive(Debug)]
pub struct Metrics {
    /// Reconciliations of a namespace, by outcome.
    pub reconciles: Family<Outcome, Counter>,
    /// Seconds that they took.
    pub seconds: Histogram,
    /// Writes to the API server; none while nothing changes.
    pub writes: Family<Write, Counter>,
    /// Calls that failed.
    pub failed: Family<Failed, Counter>,
    /// 1 while this replica leads.
    pub leading: Gauge,
    /// Namespaces that are looked after.
    pub namespaces: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            writes: Family::default(),
            failed: Family::default(),
            leading: Gauge::default(),
            namespaces: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("panoptes_operator");
        registry.register("reconciles", "Reconciliations of a namespace", self.reconciles.clone());
        registry.register("reconcile_duration_seconds", "How long they took", self.seconds.clone());
        registry.register("writes", "Writes to the API server", self.writes.clone());
        registry.register("failed_calls", "Calls to the API server that failed", self.failed.clone());
        registry.register("leading", "1 while this replica leads", self.leading.clone());
        registry.register("namespaces", "Namespaces that are looked after", self.namespaces.clone());
    }

    pub(super) fn wrote(&self, action: &'static str, times: usize) {
        if times > 0 {
            self.writes.get_or_create(&Write { action }).inc_by(u64::try_from(times).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn failed(&self, fault: &crate::observe::Fault) {
        self.failed.get_or_create(&Failed { verb: fault.verb, resource: fault.resource.clone() }).inc();
    }
}
