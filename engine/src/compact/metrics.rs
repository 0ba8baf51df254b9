//! What a compactor counts, under Thanos's names.

use crate::server::metrics::Metrics as Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// A resolution in ms, as Thanos writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfResolution {
    pub(super) resolution: String,
}

/// Which mark, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfMark {
    pub(super) marker: &'static str,
    pub(super) reason: &'static str,
}

/// Buckets of durations, in seconds; Thanos's.
const BUCKETS: [f64; 9] = [0.01, 1.0, 10.0, 100.0, 300.0, 600.0, 1000.0, 2000.0, 5000.0];
const LONG: [f64; 9] = [60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 86_400.0];

/// All of them.
pub(super) struct Metrics {
    pub(super) halted: Gauge,
    pub(super) lease: Gauge,
    pub(super) held: Gauge,
    pub(super) iterations: Counter,
    pub(super) retries: Counter,
    pub(super) syncs: Counter,
    pub(super) sync_failures: Counter,
    pub(super) sync_duration: Histogram,
    pub(super) partial_deletions: Counter,
    pub(super) cleaned: Counter,
    pub(super) cleanup_failures: Counter,
    pub(super) cleanup_loops: Counter,
    pub(super) marked: Family<OfMark, Counter>,
    pub(super) garbage_blocks: Counter,
    pub(super) garbage_runs: Counter,
    pub(super) compactions: Family<OfResolution, Counter>,
    pub(super) vertical: Family<OfResolution, Counter>,
    pub(super) runs_started: Family<OfResolution, Counter>,
    pub(super) runs_completed: Family<OfResolution, Counter>,
    pub(super) failures: Family<OfResolution, Counter>,
    pub(super) downsampled: Family<OfResolution, Counter>,
    pub(super) downsample_failures: Family<OfResolution, Counter>,
    pub(super) downsample_duration: Family<OfResolution, Histogram>,
    pub(super) todo_compactions: Gauge,
    pub(super) todo_blocks: Gauge,
    pub(super) todo_downsamplings: Gauge,
    pub(super) todo_deletions: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| registry.register(name, help, Counter::default());
        let gauge = |name: &str, help: &str| registry.register(name, help, Gauge::<i64>::default());
        let by_resolution =
            |name: &str, help: &str| registry.register(name, help, Family::<OfResolution, Counter>::default());
        let durations = Family::new_with_constructor((|| Histogram::new(LONG)) as fn() -> Histogram);
        Self {
            halted: gauge("thanos_compact_halted", "Set to 1 if deletions stopped because of another compactor"),
            lease: gauge("panoptes_compact_lease_held", "Whether this compactor has the lease on the bucket"),
            held: gauge("panoptes_compact_held", "Blocks and streams that are left alone until someone acts"),
            iterations: counter("thanos_compact_iterations", "Passes that ended well"),
            retries: counter("thanos_compact_retries", "Passes that failed and are repeated"),
            syncs: counter("thanos_blocks_meta_syncs", "Looks at the blocks of the bucket"),
            sync_failures: counter("thanos_blocks_meta_sync_failures", "Looks that failed"),
            sync_duration: registry.register(
                "thanos_blocks_meta_sync_duration_seconds",
                "Duration of a look at the blocks of the bucket",
                Histogram::new(BUCKETS),
            ),
            partial_deletions: counter(
                "thanos_compact_aborted_partial_uploads_deletion_attempts",
                "Uploads that broke off and were cleared away",
            ),
            cleaned: counter("thanos_compact_blocks_cleaned", "Blocks that were deleted"),
            cleanup_failures: counter("thanos_compact_block_cleanup_failures", "Blocks whose deletion failed"),
            cleanup_loops: counter("thanos_compact_block_cleanup_loops", "Rounds of deletions"),
            marked: registry.register("thanos_compact_blocks_marked", "Blocks that were marked", Family::default()),
            garbage_blocks: counter(
                "thanos_compact_garbage_collected_blocks",
                "Blocks that were marked since another one holds their data",
            ),
            garbage_runs: counter("thanos_compact_garbage_collection", "Rounds of garbage collection"),
            compactions: by_resolution("thanos_compact_group_compactions", "Compactions that made a block"),
            vertical: by_resolution("thanos_compact_group_vertical_compactions", "Compactions of blocks that overlap"),
            runs_started: by_resolution("thanos_compact_group_compaction_runs_started", "Compactions that began"),
            runs_completed: by_resolution(
                "thanos_compact_group_compaction_runs_completed",
                "Compactions that ended well",
            ),
            failures: by_resolution("thanos_compact_group_compactions_failures", "Compactions that failed"),
            downsampled: by_resolution(
                "thanos_compact_downsample",
                "Blocks that were downsampled, by their resolution",
            ),
            downsample_failures: by_resolution("thanos_compact_downsample_failures", "Downsamplings that failed"),
            downsample_duration: registry.register(
                "thanos_compact_downsample_duration_seconds",
                "Duration of the downsampling of a block",
                durations,
            ),
            todo_compactions: gauge("thanos_compact_todo_compactions", "Compactions that are to be done"),
            todo_blocks: gauge("thanos_compact_todo_compaction_blocks", "Blocks that are to be compacted"),
            todo_downsamplings: gauge("thanos_compact_todo_downsample_blocks", "Blocks that are to be downsampled"),
            todo_deletions: gauge("thanos_compact_todo_deletion_blocks", "Blocks that are to be marked for deletion"),
        }
    }
}

/// The label of a resolution in ms.
pub(super) fn resolution(ms: i64) -> OfResolution {
    OfResolution { resolution: ms.to_string() }
}
