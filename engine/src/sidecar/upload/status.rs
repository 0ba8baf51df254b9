//! What the upload tells of itself: the section of the state document, Thanos's shipper metrics and ours.

use super::plan::Plan;
use crate::server::metrics::Metrics;
use args::state::{self, SkipReason, Upload};
use model::world::Clock;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Shared by the uploader and whoever asks.
#[derive(Clone)]
pub(super) struct Status {
    clock: Arc<dyn Clock>,
    inner: Arc<Mutex<Inner>>,
    pub(super) metrics: Arc<ShipperMetrics>,
}

#[derive(Default)]
struct Inner {
    upload: Upload,
    oldest_end: Option<i64>,
    /// Bad blocks that have been logged.
    told: BTreeSet<(String, SkipReason)>,
}

/// Counters with Thanos's names, and gauges of what waits.
pub(super) struct ShipperMetrics {
    pub(super) syncs: Counter,
    pub(super) sync_failures: Counter,
    pub(super) uploads: Counter,
    pub(super) upload_failures: Counter,
    pub(super) corrupted: Counter,
    pub(super) compacted_done: Gauge,
    pub(super) bytes: Counter,
    pending: Gauge,
    skipped: Gauge,
    lag: Gauge<f64, AtomicU64>,
}

impl ShipperMetrics {
    fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        let gauge = |name: &str, help: &str| metrics.register(name, help, Gauge::<i64>::default());
        Self {
            syncs: counter("thanos_shipper_dir_syncs", "Total number of dir syncs"),
            sync_failures: counter("thanos_shipper_dir_sync_failures", "Total number of failed dir syncs"),
            uploads: counter("thanos_shipper_uploads", "Total number of uploaded blocks"),
            upload_failures: counter("thanos_shipper_upload_failures", "Total number of block upload failures"),
            corrupted: counter("thanos_shipper_corrupted_blocks", "Total number of corrupted blocks"),
            compacted_done: gauge(
                "thanos_shipper_upload_compacted_done",
                "If 1 it means shipper uploaded all compacted blocks from the filesystem",
            ),
            bytes: counter("panoptes_upload_bytes", "Bytes of block files that were sent to the bucket"),
            pending: gauge("panoptes_upload_pending_blocks", "Local blocks that wait for their upload"),
            skipped: gauge("panoptes_upload_skipped_blocks", "Local blocks that are left out until someone acts"),
            lag: metrics.register(
                "panoptes_upload_lag_seconds",
                "Age of the end of the oldest block that waits for its upload, 0 if none waits",
                Gauge::default(),
            ),
        }
    }
}

impl Status {
    pub(super) fn new(clock: Arc<dyn Clock>, metrics: &Metrics) -> Self {
        Self { clock, inner: Arc::default(), metrics: Arc::new(ShipperMetrics::new(metrics)) }
    }

    /// The section, as of now.
    pub(super) fn get(&self) -> Upload {
        let inner = self.inner.lock();
        let lag_ms = inner.oldest_end.map(|end| self.clock.now_ms().saturating_sub(end).max(0));
        Upload { lag_ms, ..inner.upload.clone() }
    }

    /// What waits and what is left out.
    pub(super) fn planned(&self, plan: &Plan) {
        let mut inner = self.inner.lock();
        inner.oldest_end = plan.oldest_end;
        inner.upload.pending = plan.next.len() as u64;
        inner.upload.skipped = plan.skipped.len() as u64;
        let told: BTreeSet<_> = plan.skipped.iter().map(|s| (s.block.clone(), s.reason)).collect();
        for skipped in plan.skipped.iter().filter(|s| !inner.told.contains(&(s.block.clone(), s.reason))) {
            tracing::error!(block = skipped.block, reason = ?skipped.reason, problem = skipped.message, "block is left out");
            self.metrics.corrupted.inc_by(u64::from(is_damage(skipped.reason)));
        }
        inner.told = told;
        inner.upload.skipped_blocks = plan.skipped.iter().take(state::MAX_SKIPPED).cloned().collect();
        let lag_ms = plan.oldest_end.map_or(0, |end| self.clock.now_ms().saturating_sub(end).max(0));
        self.metrics.lag.set(lag_ms as f64 / 1000.0);
        self.metrics.pending.set(i64::try_from(plan.next.len()).unwrap_or(i64::MAX));
        self.metrics.skipped.set(i64::try_from(plan.skipped.len()).unwrap_or(i64::MAX));
    }

    /// How long Prometheus keeps blocks.
    pub(super) fn retention(&self, ms: Option<i64>) {
        self.inner.lock().upload.retention_ms = ms;
    }

    /// Why nothing is uploaded at all; true if that is news.
    pub(super) fn refused(&self, why: Option<String>) -> bool {
        let mut inner = self.inner.lock();
        let news = inner.upload.refused != why;
        inner.upload.refused = why;
        news
    }

    /// A block has arrived.
    pub(super) fn uploaded(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.upload.uploaded += 1;
        inner.upload.last_upload_ms = Some(self.clock.now_ms());
        self.metrics.uploads.inc();
        self.metrics.bytes.inc_by(bytes);
    }

    /// A pass has ended: why it failed, if so.
    pub(super) fn passed(&self, error: Option<String>) {
        let mut inner = self.inner.lock();
        match error {
            None => {
                self.metrics.syncs.inc();
                (inner.upload.failing_since_ms, inner.upload.error) = (None, None);
            }
            Some(error) => {
                self.metrics.sync_failures.inc();
                let now = self.clock.now_ms();
                inner.upload.failing_since_ms.get_or_insert(now);
                inner.upload.error = Some(error);
            }
        }
    }
}

/// True if the block itself is broken, as opposed to one that does not fit in.
fn is_damage(reason: SkipReason) -> bool {
    matches!(reason, SkipReason::BadMeta | SkipReason::MissingFile | SkipReason::Damaged)
}
