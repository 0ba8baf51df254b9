//! Flags of `panoptes query`.

use crate::ServerArgs;
use crate::flag::{List, Millis, Switch, flags};
use crate::server::words;
use std::fmt;
use std::str::FromStr;

flags! {
    /// The querier: PromQL over all stores, deduplicated; itself a store.
    pub struct QueryArgs {
        [server: ServerArgs]
        /// Address of a store: host:port, dns+host:port, dnssrv+_grpc._tcp.name. May be repeated.
        endpoints: List = "endpoint", "", since "0.1.0";
        /// Address of a store whose absence must be an error even if it was never seen. May be repeated.
        strict_endpoints: List = "endpoint-strict", "", since "0.1.0";
        /// Address of a group: all that its name stands for are replicas of one store, of which one is asked at a time. May be
        /// repeated.
        endpoint_groups: List = "endpoint-group", "", since "0.1.0";
        /// The same for a group whose absence must be an error even if it was never seen. May be repeated.
        strict_endpoint_groups: List = "endpoint-group-strict", "", since "0.1.0";
        /// Thanos's YAML list of endpoints, re-read when it changes.
        sd_config_file: String = "endpoint.sd-config-file", "", since "0.1.0";
        /// Directory that holds endpoints.yaml (own parts), links.yaml (other clusters) and certificates, as the
        /// operator mounts it; re-read when it changes.
        endpoints_dir: String = "endpoint.dir", "", since "0.1.0";
        /// How often these files are compared with what is in use. (Thanos: 5m.)
        sd_reload_interval: Millis = "endpoint.sd-config-reload-interval", "2s", since "0.1.0";
        /// Deadline of one Info call.
        info_timeout: Millis = "endpoint.info-timeout", "5s", since "0.1.0";
        /// How often each endpoint is asked for its Info.
        info_interval: Millis = "endpoint.info-interval", "5s", since "0.1.0";
        /// How long an endpoint that does not answer stays listed.
        unhealthy_timeout: Millis = "store.unhealthy-timeout", "5m", since "0.1.0";
        /// How often DNS names are resolved again at least: earlier when their records have run out.
        dns_interval: Millis = "store.sd-dns-interval", "30s", since "0.1.0";
        /// How long one store may stay silent in an answer before it is left out with a warning. (Thanos: off.)
        response_timeout: Millis = "store.response-timeout", "30s", since "0.1.0";
        /// Use TLS to endpoints that have no settings of their own.
        client_tls_secure: Switch = "grpc-client-tls-secure", "false", since "0.1.0";
        /// Don't verify the server's certificate. Only for tests.
        client_tls_skip_verify: Switch = "grpc-client-tls-skip-verify", "false", since "0.1.0";
        /// PEM file with the authorities that sign server certificates; empty: the system's.
        client_tls_ca: String = "grpc-client-tls-ca", "", since "0.1.0";
        /// PEM file with this querier's client certificate.
        client_tls_cert: String = "grpc-client-tls-cert", "", since "0.1.0";
        /// PEM file with the key of that certificate.
        client_tls_key: String = "grpc-client-tls-key", "", since "0.1.0";
        /// Name to verify in the server's certificate instead of the address's host.
        client_server_name: String = "grpc-client-server-name", "", since "0.1.0";
        /// How answers of endpoints that have no settings of their own are packed: none or snappy.
        grpc_compression: String = "grpc-compression", "none", since "0.1.0";
        /// Labels that tell replicas of the same data apart; removed by deduplication. May be repeated.
        replica_labels: List = "query.replica-label", "", since "0.1.0";
        /// How replicas become one: fill leaves no gap where any has data and no fall that none had; penalty and chain are
        /// Thanos's. (Thanos: penalty.)
        deduplication_func: DedupFunc = "deduplication.func", "fill", since "0.1.0";
        /// Let queriers behind this one evaluate aggregations over series that only they have: off; exact, where the answer has
        /// the same bits; close, also sums, whose last bits depend on the order of additions, where replicas are behind one
        /// querier, and by Thanos's queriers. (Thanos: query.mode=distributed.)
        push_down: PushDown = "query.push-down", "off", since "0.1.0";
        /// Use downsampled data where a request names no resolution: up to a fifth of its step.
        auto_downsampling: Switch = "query.auto-downsampling", "false", since "0.1.0";
        /// Coarsest data of instant queries that name no resolution.
        instant_max_resolution: Millis = "query.instant.default.max_source_resolution", "0s", since "0.1.0";
        /// Look back at least one window of the coarsest data that a query may read.
        dynamic_lookback_delta: Switch = "query.dynamic-lookback-delta", "true", since "0.1.0";
        /// Label that holds the cluster's name.
        cluster_label: String = "query.cluster-label", "cluster", since "0.1.0";
        /// Longest time that a query may take.
        timeout: Millis = "query.timeout", "2m", since "0.1.0";
        /// Queries evaluated at the same time; others wait.
        max_concurrent: u64 = "query.max-concurrent", "20", since "0.1.0";
        /// Selects of one query that run at the same time.
        max_concurrent_select: u64 = "query.max-concurrent-select", "4", since "0.1.0";
        /// Most samples that one query may hold in memory.
        max_samples: u64 = "query.max-samples", "50000000", since "0.1.0";
        /// Most bytes that one query may hold: fetched series, what is computed, the answer.
        max_bytes: u64 = "query.max-bytes", "1073741824", since "0.1.0";
        /// Most bytes that all queries may hold together; further ones wait. 0 is five eighths of the
        /// container's memory beyond 96 MiB, or no limit outside of a container.
        total_bytes: u64 = "query.max-total-bytes", "0", since "0.1.0";
        /// Threads that decode and compute, all queries together; 0 is one per core.
        threads: u64 = "query.threads", "0", since "0.1.0";
        /// Most bytes that answers of stores hold before they are merged, all requests together; should others hold all
        /// of them, one request at a time may hold as much again. 0 is 256 MiB, or an eighth of the container's memory if
        /// that is less.
        buffer_bytes: u64 = "query.buffer-bytes", "0", since "0.1.0";
        /// Of these, most bytes that one request reads ahead of what it needs next; 0 is no limit.
        buffer_bytes_per_request: u64 = "query.buffer-bytes-per-request", "33554432", since "0.1.0";
        /// How far back a sample still counts as current.
        lookback_delta: Millis = "query.lookback-delta", "5m", since "0.1.0";
        /// Resolution of subqueries that name none.
        default_evaluation_interval: Millis = "query.default-evaluation-interval", "1m", since "0.1.0";
        /// Smallest step of a range query that names none.
        default_step: Millis = "query.default-step", "1s", since "0.1.0";
        /// Answer with what can be had and a warning when a store fails; otherwise fail.
        partial_response: Switch = "query.partial-response", "true", since "0.1.0";
        /// The same for rules and alerts.
        rule_partial_response: Switch = "rule.partial-response", "true", since "0.1.0";
        /// The same for targets.
        target_partial_response: Switch = "target.partial-response", "true", since "0.1.0";
        /// The same for type, help and unit of metrics.
        metadata_partial_response: Switch = "metric-metadata.partial-response", "true", since "0.1.0";
        /// The same for exemplars.
        exemplar_partial_response: Switch = "exemplar.partial-response", "true", since "0.1.0";
        /// The same for statistics of databases.
        status_partial_response: Switch = "status.partial-response", "true", since "0.1.0";
        /// Time range of label and series calls that name none; 0 is everything.
        metadata_range: Millis = "query.metadata.default-time-range", "0s", since "0.1.0";
        /// Most series that one StoreAPI request to this querier may return; 0 is no limit.
        limit_series: u64 = "store.limits.request-series", "0", since "0.1.0";
        /// Most samples that one StoreAPI request to this querier may return; 0 is no limit.
        limit_samples: u64 = "store.limits.request-samples", "0", since "0.1.0";
        /// Open xrate, xincrease and xdelta.
        x_functions: Switch = "query.enable-x-functions", "false", since "0.1.0";
        /// Name of a feature to enable, as in Prometheus: promql-experimental-functions, promql-duration-expr,
        /// promql-extended-range-selectors, promql-binop-fill-modifiers, promql-delayed-name-removal,
        /// promql-per-step-stats, use-start-timestamps, type-and-unit-labels. May be repeated.
        features: List = "enable-feature", "", since "0.1.0";
        /// Path under which the API is served, as /thanos.
        route_prefix: String = "web.route-prefix", "", since "0.1.0";
        /// Don't send CORS headers.
        disable_cors: Switch = "web.disable-cors", "false", since "0.1.0";
    }
}

words! {
    /// What queriers behind a querier may evaluate.
    PushDown {
        /// Nothing.
        Off = "off",
        /// What gives the same bits.
        Exact = "exact",
        /// And what gives the same but for last bits of sums, and the choice among replicas behind one querier.
        Close = "close",
    }
}

words! {
    /// How replicas become one series.
    DedupFunc {
        /// Stay with a replica, fill its gaps from others, keep counters from falling.
        Fill = "fill",
        /// Thanos's usual one.
        Penalty = "penalty",
        /// All samples of all replicas.
        Chain = "chain",
    }
}
