//! Flags of `panoptes compact`.

use crate::flag::{List, Millis, Size, Switch, flags};
use crate::{HashFunc, ServerArgs};

flags! {
    /// The compactor: blocks of a bucket become fewer and coarser, and what is too old goes.
    pub struct CompactArgs {
        [server: ServerArgs]
        /// Where blocks lie while they are worked on. All of it can be deleted.
        data_dir: String = "data-dir", "./data", since "0.1.0";
        /// The bucket, as YAML: the object storage configuration of Thanos.
        objstore_config: String = "objstore.config", "", since "0.1.0";
        /// The same in a file, re-read when it changes: new credentials need no restart.
        objstore_config_file: String = "objstore.config-file", "", since "0.1.0";
        /// How often the rights on the bucket (to list, read, create, overwrite and delete) are checked. They are also checked
        /// at start and after each change of the configuration. (Thanos has no such check.)
        objstore_check_interval: Millis = "objstore.check-interval", "5m", since "0.1.0";
        /// Don't end after one pass, but go on for ever.
        wait: Switch = "wait", "false", since "0.1.0";
        /// Time between two passes.
        wait_interval: Millis = "wait-interval", "5m", since "0.1.0";
        /// How long the lease on the bucket lasts without being renewed: so long nothing happens after a compactor has been
        /// killed. It is renewed every quarter of it. (Thanos has no lease.)
        lease_duration: Millis = "lease.duration", "1m", since "0.1.0";
        /// Youngest age of a block of others that is looked at; for stores whose listings lag behind.
        consistency_delay: Millis = "consistency-delay", "30m", since "0.1.0";
        /// From the mark to the deletion of a block.
        delete_delay: Millis = "delete-delay", "2d", since "0.1.0";
        /// How long raw data is kept; 0d: for ever. Nothing goes before it has a coarser copy.
        retention_raw: Millis = "retention.resolution-raw", "0s", since "0.1.0";
        /// How long 5m data is kept; 0d: for ever.
        retention_5m: Millis = "retention.resolution-5m", "0s", since "0.1.0";
        /// How long 1h data is kept; 0d: for ever.
        retention_1h: Millis = "retention.resolution-1h", "0s", since "0.1.0";
        /// Expire only blocks that carry all of these external labels, as NAME=VALUE; others are kept, whoever holds the lease.
        /// None given: every block, as Thanos. May be given several times.
        retention_labels: List = "retention.external-label", "", since "0.1.0";
        /// Make no coarser copies.
        downsampling_disable: Switch = "downsampling.disable", "false", since "0.1.0";
        /// While a pass goes on, how often blocks whose delay is over and uploads that broke off are deleted beside the other
        /// work; 0s: only between two rounds of work.
        cleanup_interval: Millis = "compact.cleanup-interval", "5m", since "0.1.0";
        /// While a pass goes on, how often what there is to do is counted anew; 0s: only at its begin and its end.
        progress_interval: Millis = "compact.progress-interval", "5m", since "0.1.0";
        /// Which blocks are worked on, as YAML: Prometheus's relabel configuration (keep, drop, hashmod) over the external
        /// labels, without those of replicas; not __block_id, which changes when blocks are compacted. Compactors of disjoint shards work side by side; of two whose
        /// shards meet in a stream, the second waits with it.
        selector: String = "selector.relabel-config", "", since "0.1.0";
        /// The same in a file, read at start.
        selector_file: String = "selector.relabel-config-file", "", since "0.1.0";
        /// Oldest data to work on: RFC 3339 or a duration before now, as -2w. Blocks that end before it are left alone, also those
        /// that were marked for deletion when they leave it. Two compactors with the same streams never work side by side,
        /// whatever their times.
        min_time: String = "min-time", "0000-01-01T00:00:00Z", since "0.1.0";
        /// Newest data to work on, in the same form. Blocks that begin after it are left alone.
        max_time: String = "max-time", "9999-12-31T23:59:59Z", since "0.1.0";
        /// Hash of the files of new blocks that their meta.json tells: empty or SHA256.
        hash_func: HashFunc = "hash-func", "", since "0.1.0";
        /// Blocks that are downsampled at the same time.
        downsample_concurrency: u64 = "downsample.concurrency", "1", since "0.1.0";
        /// Compactions at the same time.
        compact_concurrency: u64 = "compact.concurrency", "1", since "0.1.0";
        /// Blocks of one compaction that are fetched at the same time.
        fetch_concurrency: u64 = "compact.blocks-fetch-concurrency", "1", since "0.1.0";
        /// Files of a block that are sent at the same time.
        block_files_concurrency: u64 = "block-files-concurrency", "1", since "0.1.0";
        /// Files meta.json and marks that are read at the same time.
        meta_concurrency: u64 = "block-meta-fetch-concurrency", "32", since "0.1.0";
        /// Merge blocks that overlap.
        vertical: Switch = "compact.enable-vertical-compaction", "false", since "0.1.0";
        /// External labels that tell replicas apart: their blocks are merged. May be given several times.
        replica_labels: List = "deduplication.replica-label", "", since "0.1.0";
        /// How samples of blocks that overlap become one series. Empty: all of them, each time once; for replicas that hold
        /// identical samples (receivers), since nobody can tell them apart any more, and interleaved counters look as if they
        /// fell. penalty, as Thanos, for pairs of Prometheus: one replica is followed at a time, samples of the others are lost
        /// for ever, also where blocks of one replica overlap (those that came out of order), and holes may be left; needs a
        /// replica label.
        dedup_func: String = "deduplication.func", "", since "0.1.0";
        /// The index of a compacted block is not to exceed this.
        max_index_size: Size = "compact.block-max-index-size", "64GB", since "0.1.0";
        /// Blocks with chunks that are out of order never hold up others here: they are put in order where that loses nothing,
        /// and marked else, whatever this says.
        skip_out_of_order: Switch = "compact.skip-block-with-out-of-order-chunks", "false", since "0.1.0";
        /// False can't be had: nothing halts here, one bad block costs one block. Leave it out.
        halt_on_error: Switch = "debug.halt-on-error", "true", since "0.1.0";
        /// True can't be had: a block whose index is malformed is marked and left alone. Leave it out.
        accept_malformed_index: Switch = "debug.accept-malformed-index", "false", since "0.1.0";
        /// Highest level of compaction: 1 is 2h, 2 is 8h, 3 is 2d, 4 is 14d.
        max_level: u64 = "debug.max-compaction-level", "4", since "0.1.0";
        /// Don't serve the list of blocks at /api/v1/blocks.
        web_disable: Switch = "web.disable", "false", since "0.1.0";
        /// External label by which the list of blocks is grouped.
        web_label: String = "bucket-web-label", "", since "0.1.0";
    }
}
