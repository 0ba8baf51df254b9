//! Flags of `panoptes compact`.

use crate::ServerArgs;
use crate::flag::{List, Millis, Size, Switch, flags};

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
        /// Make no coarser copies.
        downsampling_disable: Switch = "downsampling.disable", "false", since "0.1.0";
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
        /// How samples of replicas become one series: empty for each sample once, penalty to follow one replica at a time, as
        /// queriers do.
        dedup_func: String = "deduplication.func", "", since "0.1.0";
        /// The index of a compacted block is not to exceed this.
        max_index_size: Size = "compact.block-max-index-size", "64GB", since "0.1.0";
        /// Highest level of compaction: 1 is 2h, 2 is 8h, 3 is 2d, 4 is 14d.
        max_level: u64 = "debug.max-compaction-level", "4", since "0.1.0";
        /// Don't serve the list of blocks at /api/v1/blocks.
        web_disable: Switch = "web.disable", "false", since "0.1.0";
        /// External label by which the list of blocks is grouped.
        web_label: String = "bucket-web-label", "", since "0.1.0";
    }
}
