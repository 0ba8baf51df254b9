//! Flags of `panoptes sidecar`.

use crate::flag::{List, Millis, Switch, flags};
use crate::{HashFunc, ServerArgs};

flags! {
    /// The sidecar: StoreAPI over one Prometheus, the reloader of its configuration and rules, the upload of its blocks.
    pub struct SidecarArgs {
        [server: ServerArgs]
        /// Where Prometheus answers.
        prometheus_url: String = "prometheus.url", "http://localhost:9090", since "0.1.0";
        /// How long to wait for Prometheus to answer at start before the sidecar gives up.
        prometheus_ready_timeout: Millis = "prometheus.ready_timeout", "10m", since "0.1.0";
        /// How often external labels and the lowest timestamp are read again.
        prometheus_get_config_interval: Millis = "prometheus.get_config_interval", "30s", since "0.1.0";
        /// Deadline of one such read.
        prometheus_get_config_timeout: Millis = "prometheus.get_config_timeout", "30s", since "0.1.0";
        /// Prometheus's data directory.
        tsdb_path: String = "tsdb.path", "./data", since "0.1.0";
        /// Where blocks are uploaded, as YAML: the object storage configuration of Thanos. Without it and without the file,
        /// nothing is uploaded.
        objstore_config: String = "objstore.config", "", since "0.1.0";
        /// The same in a file, re-read when it changes: new credentials need no restart.
        objstore_config_file: String = "objstore.config-file", "", since "0.1.0";
        /// How often the rights on the bucket are checked. They are also checked at start and after each change of the
        /// configuration. (Thanos has no such check.)
        objstore_check_interval: Millis = "objstore.check-interval", "5m", since "0.1.0";
        /// Upload blocks that Prometheus has compacted, too. Meant for taking over old data, with Prometheus's compaction off.
        shipper_upload_compacted: Switch = "shipper.upload-compacted", "false", since "0.1.0";
        /// Files of a block that are uploaded at the same time; 0 is 4.
        shipper_upload_concurrency: u64 = "shipper.upload-concurrency", "0", since "0.1.0";
        /// File in the data directory that lists the uploaded blocks; Prometheus reads it when it has
        /// --storage.tsdb.delay-compact-file.path, and compacts no block before it is in the bucket.
        shipper_meta_file_name: String = "shipper.meta-file-name", "thanos.shipper.json", since "0.1.0";
        /// Upload although Prometheus compacts by itself and does not wait for uploads. A block whose upload is late may
        /// then never reach the bucket.
        shipper_ignore_unequal_block_size: Switch = "shipper.ignore-unequal-block-size", "false", since "0.1.0";
        /// Upload compacted blocks even where the bucket has blocks of the same time. (A block that fails never holds up
        /// others, with or without this flag.)
        shipper_allow_out_of_order_uploads: Switch = "shipper.allow-out-of-order-uploads", "false", since "0.1.0";
        /// Hash of each file that is written into meta.json: SHA256, or none.
        hash_func: HashFunc = "hash-func", "", since "0.1.0";
        /// Oldest data to serve: RFC 3339 or a duration before now, as -2w.
        min_time: String = "min-time", "0000-01-01T00:00:00Z", since "0.1.0";
        /// Most series that one request may return; 0 is no limit.
        limit_series: u64 = "store.limits.request-series", "0", since "0.1.0";
        /// Most samples that one request may return (a chunk counts as 120); 0 is no limit.
        limit_samples: u64 = "store.limits.request-samples", "0", since "0.1.0";
        /// The configuration to bring into effect (plain or gzip). $(NAME) is replaced by the environment. In a split
        /// configuration the parts are this file, then the same name with the suffixes .1, .2, … joined.
        config_file: String = "reloader.config-file", "", since "0.1.0";
        /// The last configuration that Prometheus is known to have loaded, in the same form. Prometheus starts with
        /// it, and it is put back when the other one is refused.
        last_good_file: String = "reloader.last-good-file", "", since "0.1.0";
        /// Where the expanded configuration is written for Prometheus.
        config_envsubst_file: String = "reloader.config-envsubst-file", "", since "0.1.0";
        /// A directory of rule files: any change of content triggers a reload. May be repeated.
        rule_dirs: List = "reloader.rule-dir", "", since "0.1.0";
        /// A directory from which Prometheus reads the rule files (rule_files: DIR/current/*.yaml): of those that it
        /// refuses, the last content that it took stays there. Empty: it reads them from their own directories.
        rule_output_dir: String = "reloader.rule-output-dir", "", since "0.1.0";
        /// How often the files are compared with what was loaded.
        watch_interval: Millis = "reloader.watch-interval", "2s", since "0.1.0";
        /// How soon a failed reload is tried again.
        retry_interval: Millis = "reloader.retry-interval", "5s", since "0.1.0";
        /// Write the expanded configuration once and exit: what the init container does before Prometheus starts.
        once: Switch = "reloader.once", "false", since "0.1.0";
    }
}
