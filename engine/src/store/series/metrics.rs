//! Metrics of the read path, under Thanos's names.

use super::spec::{Counts, Stats};
use crate::server::metrics::Metrics as Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DataType {
    data_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    touched: Family<DataType, Counter>,
    fetched: Family<DataType, Counter>,
    touched_bytes: Family<DataType, Counter>,
    fetched_bytes: Family<DataType, Counter>,
    blocks: Histogram,
    series: Histogram,
    all: Histogram,
    sent: Histogram,
    series_refetches: Counter,
    chunk_refetches: Counter,
    empty: Counter,
    lazy: Counter,
    lazy_groups: Family<Reason, Counter>,
    /// Requests that are being answered.
    pub in_flight: Gauge,
    gate: Histogram,
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0])
}

impl Metrics {
    /// Registers them; `concurrency` is how many requests are answered at the same time.
    pub fn new(registry: &Registry, concurrency: u64) -> Self {
        let most = registry.register(
            "thanos_bucket_store_series_gate_queries_max",
            "Series requests that are answered at the same time at most",
            Gauge::<i64>::default(),
        );
        most.set(i64::try_from(concurrency).unwrap_or(i64::MAX));
        let family = |name: &str, help: &str| registry.register(name, help, Family::default());
        let counter = |name: &str, help: &str| registry.register(name, help, Counter::default());
        Self {
            touched: family("thanos_bucket_store_series_data_touched", "Items that Series requests looked at"),
            fetched: family("thanos_bucket_store_series_data_fetched", "Items that Series requests read"),
            touched_bytes: family(
                "thanos_bucket_store_series_data_size_touched_bytes",
                "Bytes of what Series requests looked at",
            ),
            fetched_bytes: family(
                "thanos_bucket_store_series_data_size_fetched_bytes",
                "Bytes that Series requests read",
            ),
            blocks: registry.register(
                "thanos_bucket_store_series_blocks_queried",
                "Blocks that a Series request read",
                Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            ),
            series: registry.register(
                "thanos_bucket_store_series_result_series",
                "Series that a Series request gave",
                Histogram::new(exponential_buckets(1.0, 10.0, 7)),
            ),
            all: registry.register(
                "thanos_bucket_store_series_get_all_duration_seconds",
                "How long a Series request took",
                seconds(),
            ),
            sent: registry.register(
                "thanos_bucket_store_sent_chunk_size_bytes",
                "Bytes of the chunks that a Series request gave",
                Histogram::new(exponential_buckets(1024.0, 8.0, 9)),
            ),
            series_refetches: counter(
                "thanos_bucket_store_series_refetches",
                "Series entries that were longer than expected and read again",
            ),
            chunk_refetches: counter(
                "thanos_bucket_store_chunk_refetches",
                "Chunks that were longer than expected and read again",
            ),
            empty: counter("thanos_bucket_store_empty_postings", "Blocks in which no series matched"),
            lazy: counter(
                "thanos_bucket_store_lazy_expanded_postings",
                "Blocks some of whose postings were not read, as the series cost less",
            ),
            lazy_groups: registry.register(
                "thanos_bucket_store_lazy_expanded_posting_groups",
                "Groups of postings that were not read, as the series cost less",
                Family::default(),
            ),
            in_flight: registry.register(
                "thanos_bucket_store_series_gate_queries_in_flight",
                "Series requests that are being answered",
                Gauge::default(),
            ),
            gate: registry.register(
                "thanos_bucket_store_series_gate_duration_seconds",
                "How long Series requests waited for their turn",
                seconds(),
            ),
        }
    }

    /// A request got its turn.
    pub fn turn(&self, waited: Duration) {
        self.gate.observe(waited.as_secs_f64());
    }

    /// A request has ended.
    pub fn ended(&self, stats: &Stats, took: Duration) {
        let n = |c: &AtomicU64| c.load(Relaxed);
        for (data_type, counts) in [("postings", &stats.postings), ("series", &stats.entries), ("chunks", &stats.data)]
        {
            let Counts { touched, touched_bytes, fetched, fetched_bytes, .. } = counts;
            let label = DataType { data_type };
            self.touched.get_or_create(&label).inc_by(n(touched));
            self.fetched.get_or_create(&label).inc_by(n(fetched));
            self.touched_bytes.get_or_create(&label).inc_by(n(touched_bytes));
            self.fetched_bytes.get_or_create(&label).inc_by(n(fetched_bytes));
        }
        self.blocks.observe(n(&stats.blocks) as f64);
        self.series.observe(n(&stats.series) as f64);
        self.sent.observe(n(&stats.chunk_bytes) as f64);
        self.all.observe(took.as_secs_f64());
        self.series_refetches.inc_by(n(&stats.entry_refetches));
        self.chunk_refetches.inc_by(n(&stats.chunk_refetches));
        self.empty.inc_by(n(&stats.empty));
        self.lazy.inc_by(n(&stats.lazy_blocks));
        self.lazy_groups.get_or_create(&Reason { reason: "postings_size" }).inc_by(n(&stats.lazy_size));
        self.lazy_groups.get_or_create(&Reason { reason: "keys_limit" }).inc_by(n(&stats.lazy_keys));
    }
}
