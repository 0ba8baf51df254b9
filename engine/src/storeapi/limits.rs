//! Limits on one request, counted on what is sent.

use super::frames::SAMPLES_PER_CHUNK;
use crate::server::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::Status;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// A server's limits per request.
#[derive(Clone, Debug)]
pub struct Limits {
    series: Option<u64>,
    samples: Option<u64>,
    dropped: Family<Reason, Counter>,
}

/// What one request has used.
#[derive(Debug)]
pub struct Used<'a> {
    limits: &'a Limits,
    series: u64,
    chunks: u64,
}

impl Limits {
    /// Limits of series and samples per request; 0 is none.
    pub fn new(series: u64, samples: u64, metrics: &Metrics) -> Self {
        let dropped = metrics.register(
            "thanos_store_selects_dropped",
            "Requests refused because they touch more than a limit allows",
            Family::default(),
        );
        Self { series: Some(series).filter(|n| *n > 0), samples: Some(samples).filter(|n| *n > 0), dropped }
    }

    /// Starts counting a request.
    pub fn start(&self) -> Used<'_> {
        Used { limits: self, series: 0, chunks: 0 }
    }

    fn refuse(&self, reason: &'static str, what: &str, limit: u64, flag: &str) -> Status {
        self.dropped.get_or_create(&Reason { reason }).inc();
        // Thanos answers Aborted or Unknown here; a caller of ours can tell this one from a broken store.
        Status::resource_exhausted(format!(
            "the request touches more than {limit} {what}: narrow it, or raise --store.limits.{flag}"
        ))
    }
}

impl Used<'_> {
    /// Counts one series with its chunks.
    pub fn add(&mut self, chunks: usize) -> Result<(), Status> {
        self.series += 1;
        self.chunks += chunks as u64;
        if let Some(limit) = self.limits.series
            && self.series > limit
        {
            return Err(self.limits.refuse("series", "series", limit, "request-series"));
        }
        if let Some(limit) = self.limits.samples
            && self.chunks.saturating_mul(SAMPLES_PER_CHUNK) > limit
        {
            return Err(self.limits.refuse("chunks", "samples (a chunk counts as 120)", limit, "request-samples"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ready::Readiness;

    #[test]
    fn counts_series_and_samples() {
        let metrics = Metrics::new("sidecar", Readiness::default());
        let limits = Limits::new(2, 1000, &metrics);
        let mut used = limits.start();
        assert!(used.add(4).is_ok() && used.add(4).is_ok());
        assert!(used.add(0).unwrap_err().message().contains("2 series"));
        let mut used = limits.start();
        assert!(used.add(9).unwrap_err().message().contains("--store.limits.request-samples"));
        let text = metrics.render().unwrap();
        assert!(text.contains("thanos_store_selects_dropped_total{reason=\"series\"} 1"), "{text}");
        let none = Limits::new(0, 0, &Metrics::new("sidecar", Readiness::default()));
        assert!(none.start().add(1 << 40).is_ok());
    }
}
