//! Flags of `panoptes sidecar`.

use crate::ServerArgs;
use crate::flag::{List, Millis, Switch, flags};

flags! {
    /// The sidecar: StoreAPI over one Prometheus, and the reloader of its configuration and rules.
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
        /// How often the files are compared with what was loaded.
        watch_interval: Millis = "reloader.watch-interval", "2s", since "0.1.0";
        /// How soon a failed reload is tried again.
        retry_interval: Millis = "reloader.retry-interval", "5s", since "0.1.0";
        /// Write the expanded configuration once and exit: what the init container does before Prometheus starts.
        once: Switch = "reloader.once", "false", since "0.1.0";
    }
}
