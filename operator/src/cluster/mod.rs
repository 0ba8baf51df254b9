//! The validated truth: a wish that was judged against the world. Judging is the only step that can fail, and it
//! reports everything at once. What is only partly wrong (a missing Secret, a broken rule file) is left out and told;
//! the rest goes on.

mod arguments;
mod certificates;
mod compaction;
mod compactor;
mod kept;
mod link;
mod object_storage;
mod pod_template;
mod problem;
mod rule_file;
mod scrape;
mod secrets;
mod store;
mod template;
mod volume;

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;

use crate::api::{
    ExposeStoreApi, ExposeType, MonitoringCluster, MonitoringClusterSpec, Quantity, RejectedObject, duration_millis,
};
use crate::desired::configuration::Configuration;
use crate::desired::{configuration, images::Images, meta, names};
use crate::observe::Observed;

pub use certificates::ServerCertificates;
pub use compaction::Compaction;
pub use compactor::ValidCompactor;
pub use link::{ValidBucket, ValidLink, ValidLinkTls};
pub use object_storage::ValidObjectStorage;
pub use problem::{ConditionType, Problem, Reason};
pub use scrape::AdditionalJob;
pub use store::ValidShard;
pub use volume::Volume;

/// A wish that can be carried out. Building objects from it can't fail.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidCluster {
    /// `metadata.name`: the prefix of all children.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`, for owner references.
    pub uid: String,
    /// The spec, every relation in it checked.
    pub spec: MonitoringClusterSpec,
    /// Version of the engine that this object is pinned to.
    pub engine_version: String,
    /// Version of Prometheus, as `3.14.0`.
    pub prometheus_version: String,
    /// Image references, mirror and overrides applied.
    pub images: Images,
    /// Where Prometheus keeps its data.
    pub volume: Volume,
    /// Bytes that a Prometheus may fill.
    pub retention_bytes: u64,
    /// The bucket, if there is one and its Secret is good.
    pub object_storage: Option<ValidObjectStorage>,
    /// The bucket's files as they were rendered before, while the Secret of a bucket is not good.
    pub object_storage_before: Option<ValidObjectStorage>,
    /// The shards of the store gateways; none where none runs.
    pub store: Vec<ValidShard>,
    /// The compactor; none where none runs.
    pub compactor: Option<ValidCompactor>,
    /// What keeps Prometheus from compacting a block before it is uploaded.
    pub compaction: Compaction,
    /// Raw scrape configurations that parsed, or that ran before.
    pub additional_jobs: Vec<AdditionalJob>,
    /// Rule files that parsed, or that ran before, by file name; without the built-in ones.
    pub rule_files: BTreeMap<String, String>,
    /// The configuration of Prometheus: last good and next.
    pub configuration: Configuration,
    /// The exposed port, if it is wanted and its certificates are good.
    pub expose: Option<ValidExpose>,
    /// Whether node-exporter runs: wanted, and allowed by the namespace's pod security.
    pub node_exporter: bool,
    /// The links to other clusters that can be dialled, by name of the RemoteStore.
    pub links: Vec<ValidLink>,
    /// What is wrong with the RemoteStores, by name.
    pub link_problems: BTreeMap<String, Vec<Problem>>,
    /// What was left out or is risky.
    pub problems: Vec<Problem>,
    /// Objects whose newest content is not in the configuration.
    pub rejected: Vec<RejectedObject>,
}

impl ValidCluster {
    /// Components of the links that can't be carried out as they are wished for. What runs for them stays as it is, until
    /// the RemoteStore is corrected or deleted: a cache is not fetched anew because of a typo.
    #[must_use]
    pub fn parked(&self) -> BTreeSet<String> {
        let used = |name: &str| self.links.iter().any(|link| link.remote.name_any() == name);
        self.link_problems.keys().filter(|name| !used(name)).map(|name| names::remote_component(name)).collect()
    }
}

/// A port that leads out of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidExpose {
    /// The spec; its type is not None.
    pub spec: ExposeStoreApi,
    /// Its certificates; absent only with `allowPlaintext`.
    pub certificates: Option<ServerCertificates>,
}

/// Judges a wish against the world.
///
/// # Errors
/// All problems at once, those that alone would not stop it as well, where one of them makes carrying out senseless.
/// Then nothing may be changed until a person corrects the object.
pub fn validate(cluster: &MonitoringCluster, observed: &Observed) -> Result<ValidCluster, Vec<Problem>> {
    let spec = &cluster.spec;
    let mut problems = Vec::new();
    let mut rejected = Vec::new();
    let name = cluster.name_any();

    check_durations(spec, &mut problems);
    check_names(&name, spec, &mut problems);
    pod_template::check(spec, &mut problems);
    let prometheus_version = prometheus_version(spec, &mut problems);
    let compaction = Compaction::choose(spec.object_storage.is_some(), &prometheus_version);
    arguments::check(spec, compaction, &mut problems);
    let engine_version = spec
        .version
        .clone()
        .or_else(|| Some(cluster.status.as_ref()?.versions.as_ref()?.current.clone()).filter(|v| !v.is_empty()))
        .unwrap_or_else(|| observed.defaults.operator_version.clone());
    let volume = volume::of_prometheus(&name, spec, observed, &mut problems);
    let store = store::check(&name, spec, observed, &mut problems);
    let compactor = compactor::check(&name, spec, observed, &mut problems);
    let retention_bytes = retention_bytes(spec, &volume, &mut problems);

    let before = spec.object_storage.as_ref().and_then(|_| kept::bucket(observed, &names::objstore(&name)));
    let object_storage = object_storage::check(spec.object_storage.as_ref(), observed, before.is_some(), &mut problems);
    let object_storage_before = before.filter(|_| object_storage.is_none());
    let stored = configuration::decode(&name, &observed.secrets);
    let additional_jobs = scrape::check(spec, observed, &stored, &mut rejected);
    let rule_files = rule_file::check(observed, &mut rejected);
    let expose = expose(spec.expose.store_api.as_ref(), observed, &mut problems);
    let node_exporter = node_exporter(spec, observed, &mut problems);
    let (links, link_problems) = link::check(cluster, observed);
    if !rejected.is_empty() {
        problems.push(rejected_problem(&rejected));
    }

    let mut valid = ValidCluster {
        namespace: cluster.namespace().unwrap_or_default(),
        uid: cluster.uid().unwrap_or_default(),
        spec: spec.clone(),
        images: Images::new(spec, &observed.defaults, &engine_version, &prometheus_version),
        engine_version,
        prometheus_version,
        volume,
        retention_bytes,
        object_storage,
        object_storage_before,
        store,
        compactor,
        compaction,
        additional_jobs,
        rule_files,
        configuration: Configuration::default(),
        expose,
        node_exporter,
        links,
        link_problems,
        problems,
        rejected,
        name,
    };
    let wanted = configuration::render(&valid);
    let safe = configuration::render_safe(&valid);
    match Configuration::choose(wanted, safe, stored, &observed.loaded) {
        Ok(chosen) => valid.configuration = chosen,
        Err((kept, problem)) => {
            valid.configuration = kept;
            valid.problems.push(problem);
        }
    }
    for problem in crate::desired::too_large(&valid) {
        valid.problems.push(problem);
    }
    valid.problems.sort();
    let fatal = |problem: &Problem| {
        problem.condition == ConditionType::Stalled
            && matches!(problem.reason, Reason::InvalidSpec | Reason::PodTemplateRejected)
    };
    if valid.problems.iter().any(fatal) { Err(valid.problems) } else { Ok(valid) }
}

fn check_durations(spec: &MonitoringClusterSpec, problems: &mut Vec<Problem>) {
    let mut millis = |field: &str, text: &str| {
        let found = duration_millis(text);
        if found.is_none() {
            let message = format!("{text:?} is no duration: write it as 30s, 5m or 1h30m");
            problems.push(Problem::invalid(field, message));
        }
        found
    };
    let interval = millis("spec.scrape.interval", &spec.scrape.interval);
    let timeout = millis("spec.scrape.timeout", &spec.scrape.timeout);
    let evaluation = millis("spec.scrape.evaluationInterval", &spec.scrape.evaluation_interval);
    let local = millis("spec.retention.local", &spec.retention.local);
    let startup = spec.prometheus.maximum_startup.as_ref().map(|t| millis("spec.prometheus.maximumStartup", t));
    if interval == Some(0) || evaluation == Some(0) || timeout == Some(0) {
        problems
            .push(Problem::invalid("spec.scrape", "interval, timeout and evaluationInterval must be longer than 0"));
    }
    if let (Some(interval), Some(timeout)) = (interval, timeout)
        && timeout > interval
    {
        problems.push(Problem::invalid(
            "spec.scrape.timeout",
            format!(
                "the scrape timeout ({}) is longer than the interval ({}): shorten the timeout",
                spec.scrape.timeout, spec.scrape.interval
            ),
        ));
    }
    if local.is_some_and(|local| local < 6 * 3_600_000) {
        problems.push(Problem::invalid(
            "spec.retention.local",
            format!("{} is too short: Prometheus needs at least 6h to hand its data on", spec.retention.local),
        ));
    }
    if let Some(Some(startup)) = startup
        && startup < 60_000
    {
        problems.push(Problem::invalid("spec.prometheus.maximumStartup", "it must be at least 1m"));
    }
}

/// The API server checks names too; a definition that is older than this operator may not.
fn check_names(name: &str, spec: &MonitoringClusterSpec, problems: &mut Vec<Problem>) {
    if name.len() > 32 {
        problems
            .push(Problem::invalid("metadata.name", "it is longer than 32 characters: its parts' names start with it"));
    }
    for reserved in [&spec.cluster_label, &spec.replica_label] {
        if spec.external_labels.contains_key(reserved) {
            problems.push(Problem::invalid(
                "spec.externalLabels",
                format!("{reserved:?} is set by the operator: remove it from the external labels"),
            ));
        }
    }
    let expanded = spec.external_labels.iter().find(|(_, value)| value.contains('$'));
    if let Some((label, value)) = expanded {
        // $(X) stops the reloader, and Prometheus itself replaces $X and ${X}.
        problems.push(Problem::invalid(
            "spec.externalLabels",
            format!(
                "the value {value:?} of {label:?} holds a '$', which Prometheus would replace: write the value itself"
            ),
        ));
    }
    for label in spec.external_labels.keys() {
        let mut chars = label.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            problems.push(Problem::invalid("spec.externalLabels", format!("{label:?} is no label name")));
        }
    }
    for label in spec.common_metadata.labels.keys().filter(|label| meta::is_protected(label)) {
        problems.push(Problem::warning(
            "spec.commonMetadata.labels",
            format!("The label {label:?} is set by the operator, because selectors rely on it. Remove it there."),
        ));
    }
    if let Some(service) = &spec.store_api.service_name {
        let taken = [
            names::prometheus(name),
            names::headless(&names::prometheus(name)),
            names::query(name),
            names::query_exposed(name),
            names::headless(&names::store(name)),
            names::headless(&names::compact(name)),
            names::kube_state_metrics(name),
        ];
        if taken.contains(service) {
            problems.push(Problem::invalid(
                "spec.storeAPI.serviceName",
                format!("{service:?} is the name of another Service of this object: take another one"),
            ));
        }
    }
}

fn prometheus_version(spec: &MonitoringClusterSpec, problems: &mut Vec<Problem>) -> String {
    let Some(wanted) = &spec.prometheus_version else {
        return crate::desired::images::PROMETHEUS_VERSION.to_owned();
    };
    let major = wanted.split('.').next().and_then(|part| part.parse::<u32>().ok());
    if major.is_none_or(|major| major < 3) {
        problems.push(Problem::invalid(
            "spec.prometheusVersion",
            format!("{wanted} is too old: Prometheus 3.0.0 or newer is needed"),
        ));
    }
    wanted.clone()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size, checked to be positive")]
fn retention_bytes(spec: &MonitoringClusterSpec, volume: &Volume, problems: &mut Vec<Problem>) -> u64 {
    let whole = Quantity::Text(volume.size().to_owned()).value().unwrap_or(0.0).max(0.0);
    match &spec.retention.local_size {
        None => (whole * 0.85) as u64,
        Some(size) => match size.value() {
            Some(bytes) if bytes >= 1.0 && bytes <= whole => bytes as u64,
            Some(bytes) if bytes > whole => {
                problems.push(Problem::invalid(
                    "spec.retention.localSize",
                    format!("{size} is more than the volume holds ({}): lower it", volume.size()),
                ));
                0
            }
            _ => {
                problems
                    .push(Problem::invalid("spec.retention.localSize", format!("{size} is no size: write it as 40Gi")));
                0
            }
        },
    }
}

fn expose(spec: Option<&ExposeStoreApi>, observed: &Observed, problems: &mut Vec<Problem>) -> Option<ValidExpose> {
    let spec = spec.filter(|spec| spec.type_ != ExposeType::None)?;
    let Some(tls) = &spec.tls else {
        if spec.allow_plaintext {
            problems.push(Problem::warning(
                "spec.expose.storeAPI.allowPlaintext",
                "The StoreAPI is exposed in plaintext: everybody who reaches the port can read all series. Set tls.",
            ));
            return Some(ValidExpose { spec: spec.clone(), certificates: None });
        }
        problems.push(Problem::invalid("spec.expose.storeAPI", "tls is missing: set it, or allowPlaintext: true"));
        return None;
    };
    let certificates = certificates::server(tls, observed, problems)?;
    if certificates.client_ca.is_none() {
        problems.push(Problem::warning(
            "spec.expose.storeAPI.tls",
            "The StoreAPI is exposed without client certificates: everybody who reaches the port can read all series. \
             Set tls.clientCASecretRef.",
        ));
    }
    Some(ValidExpose { spec: spec.clone(), certificates: Some(certificates) })
}

fn node_exporter(spec: &MonitoringClusterSpec, observed: &Observed, problems: &mut Vec<Problem>) -> bool {
    if !spec.node_exporter.enabled {
        return false;
    }
    let level = observed.namespace_labels.get("pod-security.kubernetes.io/enforce").map(String::as_str);
    if !matches!(level, Some("restricted" | "baseline")) {
        return true;
    }
    problems.push(Problem::warning(
        "spec.nodeExporter",
        format!(
            "node-exporter needs host namespaces, which this namespace forbids (pod-security.kubernetes.io/enforce={}); \
             it is left out. Label the namespace privileged, or set nodeExporter.enabled: false.",
            level.unwrap_or_default()
        ),
    ));
    false
}

fn rejected_problem(rejected: &[RejectedObject]) -> Problem {
    let first = &rejected[0];
    let more = match rejected.len() - 1 {
        0 => String::new(),
        more => format!(" ({more} more in status.configuration.rejected)"),
    };
    Problem::new(
        ConditionType::ConfigurationApplied,
        Reason::RejectedObjects,
        "spec",
        format!("{} {} is refused: {}.{more} Correct it; the rest is in effect.", first.kind, first.name, first.reason),
    )
}
