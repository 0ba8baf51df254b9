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
    touched: ByType,
    fetched: ByType,
    touched_bytes: ByType,
    fetched_bytes: ByType,
    blocks: Histogram,
    series: Histogram,
    all: Histogram,
    sent: Histogram,
    series_refetches: Counter,
    chunk_refetches: Counter,
    empty: Counter,
    lazy: Counter,
    lazy_groups: Family<Reason, Counter>,
    /// Requests that have their turn.
    pub in_flight: Gauge,
    /// Requests that are being answered, or wait for their turn.
    pub pending: Gauge,
    turns: Counter,
    gate: [Histogram; 2],
    merge: Histogram,
    requested: Histogram,
    chunks: Histogram,
}

type ByType = Family<DataType, Histogram, fn() -> Histogram>;

/// Thanos's buckets of numbers of items, and of bytes.
fn items() -> Histogram {
    Histogram::new(exponential_buckets(200.0, 2.0, 15))
}

fn bytes() -> Histogram {
    Histogram::new(exponential_buckets(1024.0, 2.0, 15))
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
        let counter = |name: &str, help: &str| registry.register(name, help, Counter::default());
        let time = |name: &str, help: &str| registry.register(name, help, seconds());
        let by_type = |name: &str, help: &str, histogram: fn() -> Histogram| -> ByType {
            let name = format!("thanos_bucket_store_series_data_{name}");
            registry.register(&name, help, Family::new_with_constructor(histogram))
        };
        Self {
            touched: by_type("touched", "Items that a Series request looked at", items),
            fetched: by_type("fetched", "Items that a Series request read", items),
            touched_bytes: by_type("size_touched_bytes", "Bytes of what a Series request looked at", bytes),
            fetched_bytes: by_type("size_fetched_bytes", "Bytes that a Series request read", bytes),
            blocks: registry.register(
                "thanos_bucket_store_series_blocks_queried",
                "Blocks that a Series request read",
                Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            ),
            series: registry.register(
                "thanos_bucket_store_series_result_series",
                "Series that a Series request gave",
                Histogram::new(exponential_buckets(100.0, 2.0, 15)),
            ),
            all: time(
                "thanos_bucket_store_series_get_all_duration_seconds",
                "How long a Series request looked for its series",
            ),
            merge: time(
                "thanos_bucket_store_series_merge_duration_seconds",
                "How long a Series request merged, read chunks and sent",
            ),
            requested: registry.register(
                "thanos_store_server_series_requested",
                "Series that a Series request gave",
                Histogram::new(exponential_buckets(1.0, 10.0, 7)),
            ),
            chunks: registry.register(
                "thanos_store_server_chunks_requested",
                "Chunks that a Series request gave",
                Histogram::new([1.0, 100.0, 1e3, 1e4, 1e5, 1e7, 1e8, 1e9]),
            ),
            pending: registry.register(
                "thanos_store_server_pending_series_requests",
                "Series requests that are being answered or wait for their turn",
                Gauge::default(),
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
            turns: counter("thanos_bucket_store_series_gate_queries", "Series requests that got their turn"),
            // Thanos's alert reads the first name, its store has the second one.
            gate: ["gate", "gate_queries"].map(|gate| {
                time(
                    &format!("thanos_bucket_store_series_{gate}_duration_seconds"),
                    "How long Series requests waited for their turn",
                )
            }),
        }
    }

    /// A request got its turn.
    pub fn turn(&self, waited: Duration) {
        self.turns.inc();
        self.gate.iter().for_each(|gate| gate.observe(waited.as_secs_f64()));
    }

    /// A request has ended: it `looked` for series so long, of all the time that it took.
    pub fn ended(&self, stats: &Stats, looked: Duration, took: Duration) {
        let n = |c: &AtomicU64| c.load(Relaxed);
        for (data_type, counts) in [("postings", &stats.postings), ("series", &stats.entries), ("chunks", &stats.data)]
        {
            let Counts { touched, touched_bytes, fetched, fetched_bytes, .. } = counts;
            let label = DataType { data_type };
            self.touched.get_or_create(&label).observe(n(touched) as f64);
            self.fetched.get_or_create(&label).observe(n(fetched) as f64);
            self.touched_bytes.get_or_create(&label).observe(n(touched_bytes) as f64);
            self.fetched_bytes.get_or_create(&label).observe(n(fetched_bytes) as f64);
        }
        self.blocks.observe(n(&stats.blocks) as f64);
        self.series.observe(n(&stats.series) as f64);
        self.sent.observe(n(&stats.chunk_bytes) as f64);
        self.all.observe(looked.as_secs_f64());
        self.merge.observe(took.saturating_sub(looked).as_secs_f64());
        self.requested.observe(n(&stats.series) as f64);
        self.chunks.observe(n(&stats.chunks) as f64);
        self.series_refetches.inc_by(n(&stats.entry_refetches));
        self.chunk_refetches.inc_by(n(&stats.chunk_refetches));
        self.empty.inc_by(n(&stats.empty));
        self.lazy.inc_by(n(&stats.lazy_blocks));
        self.lazy_groups.get_or_create(&Reason { reason: "postings_size" }).inc_by(n(&stats.lazy_size));
        self.lazy_groups.get_or_create(&Reason { reason: "keys_limit" }).inc_by(n(&stats.lazy_keys));
    }
}
