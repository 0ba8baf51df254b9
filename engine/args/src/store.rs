//! Flags of `panoptes store`.

use crate::ServerArgs;
use crate::flag::{Millis, Size, Switch, flags};

flags! {
    /// The store gateway: blocks of a bucket as a store (StoreAPI).
    pub struct StoreArgs {
        [server: ServerArgs]
        /// Where index-headers, what is known of the blocks, and the disk cache lie. All of it can be deleted: it is made
        /// again, at the price of reads.
        data_dir: String = "data-dir", "./data", since "0.1.0";
        /// The bucket, as YAML: the object storage configuration of Thanos.
        objstore_config: String = "objstore.config", "", since "0.1.0";
        /// The same in a file, re-read when it changes: new credentials need no restart.
        objstore_config_file: String = "objstore.config-file", "", since "0.1.0";
        /// How often the rights on the bucket (to list and to read) are checked. They are also checked at start and after
        /// each change of the configuration. (Thanos has no such check.)
        objstore_check_interval: Millis = "objstore.check-interval", "5m", since "0.1.0";
        /// Reads from the bucket at the same time. (Thanos: no limit.)
        objstore_max_concurrency: u64 = "objstore.max-concurrency", "64", since "0.1.0";
        /// Longest time that one read from the bucket may take, tries included. (Thanos: no limit.)
        objstore_read_timeout: Millis = "objstore.read-timeout", "1m", since "0.1.0";
        /// How often the whole bucket is listed, so that blocks and marks of foreign writers are seen.
        sync_interval: Millis = "sync-block-duration", "15m", since "0.1.0";
        /// How often the catalogue is read, in which our own parts tell of their blocks: two requests, however many blocks
        /// there are. (Thanos has no catalogue.)
        catalogue_interval: Millis = "catalogue.interval", "1m", since "0.1.0";
        /// Index-headers that are built at the same time.
        header_concurrency: u64 = "block-sync-concurrency", "20", since "0.1.0";
        /// Files meta.json and marks that are read at the same time.
        meta_concurrency: u64 = "block-meta-fetch-concurrency", "32", since "0.1.0";
        /// Oldest data to serve: RFC 3339 or a duration before now, as -2w. Blocks that end before it are left out.
        min_time: String = "min-time", "0000-01-01T00:00:00Z", since "0.1.0";
        /// Newest data to serve, in the same form. Blocks that begin after it are left out.
        max_time: String = "max-time", "9999-12-31T23:59:59Z", since "0.1.0";
        /// Which blocks are served, as YAML: Prometheus's relabel configuration (keep, drop, hashmod) over the external
        /// labels and __block_id.
        selector: String = "selector.relabel-config", "", since "0.1.0";
        /// The same in a file, read at start.
        selector_file: String = "selector.relabel-config-file", "", since "0.1.0";
        /// Youngest age of a block that is served; for stores whose listings lag behind. Blocks of compactors are exempt.
        consistency_delay: Millis = "consistency-delay", "0s", since "0.1.0";
        /// How long a block that is marked for deletion is still served.
        ignore_deletion_marks_delay: Millis = "ignore-deletion-marks-delay", "1d", since "0.1.0";
        /// When index-headers are fetched: at a block's first query (lazy), or in the background as soon as the block is known
        /// (eager). Either way they are opened at their first use. (Thanos: eager, before it is ready.)
        header_strategy: crate::HeaderStrategy = "store.index-header-lazy-download-strategy", "lazy", since "0.1.0";
        /// How long an index-header stays open after its last use.
        header_idle_timeout: Millis = "store.index-header-lazy-reader-idle-timeout", "5m", since "0.1.0";
        /// Most index-headers that are open at the same time; those not used for longest are closed. (Thanos: no limit.)
        header_max_open: u64 = "store.index-header-max-open", "2000", since "0.1.0";
        /// Most bytes of open index-headers. They are mapped, so the kernel takes their memory back when it needs it.
        header_max_open_size: Size = "store.index-header-max-open-size", "1GB", since "0.1.0";
        /// Most bytes of index-headers on disk, open or not; those not used for longest are removed, and fetched again when they
        /// are needed. 0 is no limit. (Thanos: none.)
        header_max_disk_size: Size = "store.index-header-max-disk-size", "20GB", since "0.1.0";
        /// False would keep index-headers in memory only, which can't be had here: leave it out.
        cache_index_header: Switch = "cache-index-header", "true", since "0.1.0";
        /// Memory for postings and series of indexes.
        index_cache_size: Size = "index-cache-size", "250MB", since "0.1.0";
        /// The same as YAML of Thanos, of type IN-MEMORY.
        index_cache_config: String = "index-cache.config", "", since "0.1.0";
        /// That YAML in a file, read at start.
        index_cache_config_file: String = "index-cache.config-file", "", since "0.1.0";
        /// Disk space under --data-dir for what was read from indexes and chunks; 0 is none. (Thanos has no such cache.)
        disk_cache_size: Size = "cache.disk-size", "1GB", since "0.1.0";
        /// Most bytes of series and chunks that all requests together hold at the same time.
        chunk_pool_size: Size = "chunk-pool-size", "2GB", since "0.1.0";
        /// Most series that one Series request may touch; 0 is no limit.
        limit_series: u64 = "store.limits.request-series", "0", since "0.1.0";
        /// Most samples that one Series request may touch (a chunk counts as 120); 0 is no limit.
        limit_samples: u64 = "store.limits.request-samples", "0", since "0.1.0";
        /// Older name of --store.limits.request-series.
        limit_series_old: u64 = "store.grpc.touched-series-limit", "0", since "0.1.0";
        /// Older name of --store.limits.request-samples.
        limit_samples_old: u64 = "store.grpc.series-sample-limit", "0", since "0.1.0";
        /// Most bytes that one request may read, from the bucket or from caches; 0 is no limit.
        limit_bytes: Size = "store.grpc.downloaded-bytes-limit", "0B", since "0.1.0";
        /// Series requests that are answered at the same time; others wait.
        series_max_concurrency: u64 = "store.grpc.series-max-concurrency", "20", since "0.1.0";
        /// Bytes that are read for a series before its length is known, where meta.json does not tell the longest.
        estimated_series_size: Size = "debug.estimated-max-series-size", "64KB", since "0.1.0";
        /// Bytes that are read for a chunk before its length is known, where meta.json does not tell the longest.
        estimated_chunk_size: Size = "debug.estimated-max-chunk-size", "16000B", since "0.1.0";
        /// Series whose chunks are fetched together.
        series_batch_size: u64 = "debug.series-batch-size", "10000", since "0.1.0";
        /// Don't serve the list of blocks at /api/v1/blocks.
        web_disable: Switch = "web.disable", "false", since "0.1.0";
        /// External label by which the list of blocks is grouped.
        web_label: String = "bucket-web-label", "", since "0.1.0";
    }
}

impl StoreArgs {
    /// Most series per Series request, by either name of the flag; 0 is no limit.
    pub fn series_limit(&self) -> u64 {
        if self.limit_series > 0 { self.limit_series } else { self.limit_series_old }
    }

    /// Most samples per Series request, by either name of the flag; 0 is no limit.
    pub fn samples_limit(&self) -> u64 {
        if self.limit_samples > 0 { self.limit_samples } else { self.limit_samples_old }
    }
}
