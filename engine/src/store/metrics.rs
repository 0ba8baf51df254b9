//! What the store gateway counts, under Thanos's names.

use super::blocks::Home;
use super::blocks::sync::Status;
use crate::server::metrics::{Metrics as Registry, counter, gauge};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Buckets of the duration of a pass, in seconds; Thanos's.
const BUCKETS: [f64; 9] = [0.01, 1.0, 10.0, 100.0, 300.0, 600.0, 1000.0, 2000.0, 5000.0];

/// What is counted at each pass.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    syncs: Counter,
    failures: Counter,
    duration: Histogram,
    loaded: Gauge,
    loads: Counter,
    load_failures: Counter,
    drops: Counter,
    last_loaded: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registry: &Registry) -> Self {
        // Nothing of it can fail; Thanos's dashboard divides it.
        let _: Counter = registry.register(
            "thanos_bucket_store_block_drop_failures",
            "Blocks that could not be let go",
            Counter::default(),
        );
        Self {
            syncs: registry.register(
                "thanos_blocks_meta_syncs",
                "Passes over the blocks of the bucket",
                Counter::default(),
            ),
            failures: registry.register("thanos_blocks_meta_sync_failures", "Passes that failed", Counter::default()),
            duration: registry.register(
                "thanos_blocks_meta_sync_duration_seconds",
                "Duration of a pass over the blocks of the bucket",
                Histogram::new(BUCKETS),
            ),
            loaded: registry.register("thanos_bucket_store_blocks_loaded", "Blocks that are served", Gauge::default()),
            loads: registry.register("thanos_bucket_store_block_loads", "Blocks that came", Counter::default()),
            load_failures: registry.register(
                "thanos_bucket_store_block_load_failures",
                "Blocks that came and can't be served",
                Counter::default(),
            ),
            drops: registry.register("thanos_bucket_store_block_drops", "Blocks that went", Counter::default()),
            last_loaded: registry.register(
                "thanos_bucket_store_blocks_last_loaded_timestamp_seconds",
                "When the set of blocks was last brought up to date",
                Gauge::default(),
            ),
        }
    }

    /// A pass has ended.
    pub(super) fn pass(&self, took: Duration, good: bool) {
        self.syncs.inc();
        self.duration.observe(took.as_secs_f64());
        if !good {
            self.failures.inc();
        }
    }

    /// Blocks came (some of them can't be served) and went.
    pub(super) fn blocks(&self, served: usize, (added, failed): (usize, usize), dropped: usize, now_ms: i64) {
        self.loaded.set(i64::try_from(served).unwrap_or(i64::MAX));
        self.loads.inc_by((added + failed) as u64);
        self.load_failures.inc_by(failed as u64);
        self.drops.inc_by(dropped as u64);
        self.last_loaded.set(now_ms / 1000);
    }
}

/// What is read when somebody looks.
pub(crate) struct Seen {
    /// Passes.
    pub(crate) status: Status,
    /// Index-headers and caches.
    pub(crate) home: Arc<Home>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut synced = encoder.encode_descriptor(
            "thanos_blocks_meta_synced",
            "Blocks of the bucket by what became of them at the last pass",
            None,
            MetricType::Gauge,
        )?;
        for (state, n) in self.status.states().named() {
            ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX)).encode(synced.encode_family(&[("state", state)])?)?;
        }
        let headers = self.home.headers.counts();
        let (open, bytes) = self.home.headers.open();
        for (name, help, value) in [
            ("lazy_load", "Index-headers that were opened", &headers.loads),
            ("lazy_load_failed", "Index-headers that could not be opened", &headers.failed),
            ("lazy_unload", "Index-headers that were closed", &headers.unloads),
            ("downloads", "Index-headers that were fetched from the bucket", &headers.fetched),
            ("evictions", "Index-headers that were removed from disk to make room", &headers.evicted),
            ("rebuilds", "Index-headers that were damaged on disk and fetched again", &headers.rebuilt),
        ] {
            let name = format!("thanos_bucket_store_indexheader_{name}");
            counter(&mut encoder, &name, help, value.load(Ordering::Relaxed))?;
        }
        gauge(&mut encoder, "panoptes_store_indexheaders_open", "Index-headers that are open", open as f64)?;
        gauge(&mut encoder, "panoptes_store_indexheaders_open_bytes", "Bytes of open index-headers", bytes as f64)?;
        let (files, bytes) = self.home.headers.files();
        gauge(&mut encoder, "panoptes_store_indexheader_files", "Index-headers on disk", files as f64)?;
        gauge(&mut encoder, "panoptes_store_indexheader_files_bytes", "Bytes of index-headers on disk", bytes as f64)?;
        counter(
            &mut encoder,
            "panoptes_store_hedged_reads",
            "Reads that were sent a second time because the first took long",
            self.home.ranges.hedged(),
        )?;
        if let Some(pages) = self.home.ranges.pages() {
            for (name, help, value) in [
                ("requests", "Pages that were asked for", &pages.requests),
                ("hits", "Pages that were on disk", &pages.hits),
                ("damaged", "Pages on disk that were damaged, and read again", &pages.damaged),
            ] {
                let name = format!("panoptes_store_page_cache_{name}");
                counter(&mut encoder, &name, help, value.load(Ordering::Relaxed))?;
            }
            gauge(&mut encoder, "panoptes_store_page_cache_pages", "Pages on disk", pages.len() as f64)?;
        }
        self.home.cache.encode(&mut encoder)
    }
}
