//! Extra flags: one that the operator sets itself is refused, and so is one of ours that does not exist, because the part
//! would not start.

use clap::Args as _;

use crate::api::MonitoringClusterSpec;

use super::compaction::Compaction;
use super::problem::Problem;

/// Flags of Prometheus that the operator sets.
const PROMETHEUS: &[&str] = &[
    "config.file",
    "storage.tsdb.path",
    "storage.tsdb.retention.time",
    "storage.tsdb.retention.size",
    "storage.tsdb.retention",
    "web.enable-lifecycle",
    "web.route-prefix",
    "web.listen-address",
    "web.config.file",
    "log.level",
    "storage.tsdb.delay-compact-file.path",
    "agent",
    "storage.agent.path",
];
/// More of them, where the length of blocks is what keeps Prometheus from compacting.
const BLOCK_DURATION: &[&str] = &["storage.tsdb.min-block-duration", "storage.tsdb.max-block-duration"];
/// Flags of kube-state-metrics that the operator sets.
const KUBE_STATE_METRICS: &[&str] =
    &["port", "telemetry-port", "host", "telemetry-host", "resources", "kubeconfig", "apiserver"];
/// Flags of node-exporter that the operator sets.
const NODE_EXPORTER: &[&str] = &["web.listen-address", "path.rootfs", "path.procfs", "path.sysfs", "web.config.file"];
/// Flags of our sidecar that the operator sets, or that would take its ports away.
const SIDECAR: &[&str] = &[
    "http-address",
    "grpc-address",
    "prometheus.url",
    "tsdb.path",
    "reloader.config-file",
    "reloader.last-good-file",
    "reloader.config-envsubst-file",
    "reloader.rule-dir",
    "reloader.once",
    "objstore.config",
    "objstore.config-file",
    "shipper.meta-file-name",
    "shipper.ignore-unequal-block-size",
    "log.level",
];
/// Flags of our querier that the operator sets, or that would take its ports away.
const QUERIER: &[&str] = &[
    "http-address",
    "grpc-address",
    "endpoint.dir",
    "query.cluster-label",
    "grpc-server-tls-cert",
    "grpc-server-tls-key",
    "grpc-server-tls-client-ca",
    "log.level",
];

/// Flags of our store gateway that the operator sets, or that would take its ports away.
const STORE: &[&str] = &[
    "http-address",
    "grpc-address",
    "data-dir",
    "objstore.config",
    "objstore.config-file",
    "min-time",
    "max-time",
    "cache.disk-size",
    "store.index-header-max-disk-size",
    "log.level",
];
/// Flags of our compactor that the operator sets, or that would take its port away.
const COMPACT: &[&str] = &[
    "http-address",
    "grpc-address",
    "data-dir",
    "objstore.config",
    "objstore.config-file",
    "wait",
    "consistency-delay",
    "delete-delay",
    "retention.resolution-raw",
    "retention.resolution-5m",
    "retention.resolution-1h",
    "retention.external-label",
    "downsampling.disable",
    "downsample.concurrency",
    "compact.concurrency",
    "log.level",
];
/// More of them, where replicas become one.
const DEDUP: &[&str] = &["compact.enable-vertical-compaction", "deduplication.replica-label", "deduplication.func"];
/// More of them, where the blocks are divided among shards.
const SELECTOR: &[&str] = &["selector.relabel-config", "selector.relabel-config-file"];

pub(super) fn check(spec: &MonitoringClusterSpec, compaction: Compaction, problems: &mut Vec<Problem>) {
    let prometheus = ("spec.prometheus.extraArgs", spec.prometheus.extra_args.as_slice());
    managed(prometheus, PROMETHEUS, problems);
    if compaction == Compaction::Off {
        managed(prometheus, BLOCK_DURATION, problems);
    }
    managed(("spec.kubeStateMetrics.extraArgs", &spec.kube_state_metrics.extra_args), KUBE_STATE_METRICS, problems);
    managed(("spec.nodeExporter.extraArgs", &spec.node_exporter.extra_args), NODE_EXPORTER, problems);
    let sidecar = ("spec.sidecar.extraArgs", spec.sidecar.extra_args.as_slice());
    if managed(sidecar, SIDECAR, problems) && spec.sidecar.image.is_none() && spec.version.is_none() {
        parses(sidecar, args::SidecarArgs::augment_args(clap::Command::new("sidecar")), problems);
    }
    let querier = ("spec.querier.extraArgs", spec.querier.extra_args.as_slice());
    if managed(querier, QUERIER, problems) && spec.querier.image.is_none() && spec.version.is_none() {
        parses(querier, args::QueryArgs::augment_args(clap::Command::new("query")), problems);
    }
    let gateway = &spec.store_gateway;
    let store = ("spec.storeGateway.extraArgs", gateway.extra_args.as_slice());
    let selector = if gateway.shards > 1 { SELECTOR } else { &[] };
    let ours = managed(store, STORE, problems) & managed(store, selector, problems);
    if ours && gateway.image.is_none() && spec.version.is_none() {
        parses(store, args::StoreArgs::augment_args(clap::Command::new("store")), problems);
    }
    let compact = ("spec.compactor.extraArgs", spec.compactor.extra_args.as_slice());
    let dedup = if spec.compactor.vertical_dedup { DEDUP } else { &[] };
    let ours = managed(compact, COMPACT, problems) & managed(compact, dedup, problems);
    if ours && spec.compactor.image.is_none() && spec.version.is_none() {
        parses(compact, args::CompactArgs::augment_args(clap::Command::new("compact")), problems);
    }
}

/// Refuses what the operator sets itself; true if nothing was refused.
fn managed((field, extra): (&str, &[String]), managed: &[&str], problems: &mut Vec<Problem>) -> bool {
    let before = problems.len();
    for arg in extra {
        let Some(body) = arg.strip_prefix("--") else {
            problems.push(Problem::invalid(
                field,
                format!("{arg:?} does not start with --: write each flag and its value as one item, --name=value"),
            ));
            continue;
        };
        let name = body.split_once('=').map_or(body, |(name, _)| name);
        let name = name.strip_prefix("no-").unwrap_or(name);
        if managed.contains(&name) {
            problems.push(Problem::invalid(field, format!("--{name} is set by the operator: remove it")));
        }
    }
    problems.len() == before
}

/// Our own parts: the flags must parse.
fn parses((field, extra): (&str, &[String]), command: clap::Command, problems: &mut Vec<Problem>) {
    let command = command.no_binary_name(true).disable_help_flag(true);
    let said = match args::normalize(extra.iter().cloned(), &command) {
        Err(refused) => refused,
        Ok(argv) => match command.try_get_matches_from(argv) {
            Ok(_) => return,
            Err(error) => {
                let text = error.to_string();
                text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        },
    };
    problems.push(Problem::invalid(field, said));
}
