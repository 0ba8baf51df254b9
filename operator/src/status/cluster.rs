//! Status of a MonitoringCluster.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim as Claim, Pod};
use kube::ResourceExt as _;
use serde_json::Value;

use super::conditions::{Conditions, find, shorten};
use super::pods::{self, Trouble};
use super::{bucket, compaction, configuration, history};
use crate::api::{
    Addresses, ComponentStatus, ConditionStatus, Criticality, MonitoringClusterStatus, ObjectStorageStatus, RemoteMode,
    RemoteStoreStatus, RemoteStoresStatus, Summary, Versions,
};
use crate::cluster::{ConditionType as C, Problem, Reason, ValidCluster, ValidObjectStorage};
use crate::desired::{Object, names};
use crate::observe::{Fault, FaultKind, Observed};

pub(super) const PROMETHEUS: &str = names::PROMETHEUS;
const QUERY: &str = "query";
const STORE: &str = names::STORE;
const COMPACT: &str = names::COMPACT;

/// What is known at the end of a reconciliation.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What was seen.
    pub observed: &'a Observed,
    /// What came of the wish.
    pub valid: Result<&'a ValidCluster, &'a [Problem]>,
    /// The objects that should exist; empty where the wish can't be carried out.
    pub wanted: &'a [Object],
    /// What failed on the way.
    pub faults: &'a [Fault],
    /// What has just been found about the links, by name.
    pub remotes: &'a BTreeMap<String, RemoteStoreStatus>,
    /// Now.
    pub now: Timestamp,
}

/// A workload as it is beside what it should be.
#[derive(Clone, Debug, Default)]
struct Workload {
    component: String,
    desired: i32,
    ready: i32,
    updated: i32,
    /// Its controller has seen the newest template, and no pod of an older one is left.
    settled: bool,
    exists: bool,
    version: Option<String>,
    trouble: Option<Trouble>,
    message: Option<String>,
    /// It only waits for what another condition tells about: the bucket, or room for the compactor's work.
    waits: bool,
}

/// The status.
#[must_use]
pub fn monitoring_cluster(facts: &Facts<'_>) -> MonitoringClusterStatus {
    let cluster = &facts.observed.cluster;
    let previous = cluster.status.clone().unwrap_or_default();
    let workloads = workloads(facts);
    let prometheus = workloads.iter().find(|workload| workload.component == PROMETHEUS);
    let configuration = configuration::status(facts, prometheus.map_or(0, |w| w.desired));
    let links = count_links(facts);

    let mut conditions = Conditions::default();
    storage(facts, &mut conditions);
    let parts: Vec<bucket::Part<'_>> = states(facts, PROMETHEUS).chain(states(facts, STORE)).collect();
    let desired = |components: &[&str]| {
        let of = workloads.iter().filter(|w| components.contains(&w.component.as_str()));
        of.filter_map(|w| usize::try_from(w.desired).ok()).sum()
    };
    let files = facts.valid.ok().and_then(|valid| valid.object_storage.as_ref()).map(ValidObjectStorage::hash);
    let seen = bucket::Seen {
        wanted: files.as_deref().unwrap_or_default(),
        parts: &parts,
        total: desired(&[PROMETHEUS, STORE]),
        now: facts.now,
    };
    if files.is_some() {
        bucket::judge(&seen, &mut conditions);
    }
    let gateways: Vec<history::Part<'_>> = gateways(facts).collect();
    let gateways = history::Seen { parts: &gateways, total: desired(&[STORE]), now: facts.now };
    if gateways.total > 0 {
        history::judge(&gateways, &mut conditions);
    }
    let compactor = workloads.iter().find(|w| w.component == COMPACT);
    let identity =
        names::compactor(&cluster.spec.cluster_name, &cluster.namespace().unwrap_or_default(), &cluster.name_any());
    let compacts = compaction::Seen {
        identity: &identity,
        wanted: files.as_deref(),
        part: states(facts, COMPACT).next(),
        trouble: compactor.and_then(|w| w.trouble.as_ref()),
        now: facts.now,
    };
    if compactor.is_some() {
        compaction::judge(&compacts, &mut conditions);
    }
    configuration::judge(facts, configuration.as_ref(), &mut conditions);
    remote_stores(facts, &links, &mut conditions);
    from_problems(facts, &mut conditions);
    available(&workloads, &mut conditions);
    stalled(facts, &workloads, &mut conditions);
    reconciling(facts, &workloads, &previous, &mut conditions);
    if cluster.spec.paused {
        conditions.yes(
            C::Paused,
            Reason::PausedBySpec,
            "Nothing is written but this status. Set spec.paused: false to go on.",
        );
    }
    let object_storage = cluster
        .spec
        .object_storage
        .as_ref()
        .map(|_| bucket::status(&seen, &conditions, previous.object_storage.as_ref()));
    ready(&workloads, object_storage.as_ref(), &mut conditions);
    let phase = phase(&workloads, &conditions);

    let components = together(&workloads).iter().map(|workload| component(facts, workload)).collect();
    let history = (gateways.total > 0).then(|| history::status(&gateways, &conditions, previous.history.as_ref()));
    let compacted = compactor.map(|_| compaction::status(&compacts, &conditions, previous.compaction.as_ref()));
    let valid = facts.valid.ok();
    MonitoringClusterStatus {
        observed_generation: cluster.metadata.generation,
        phase: Some(phase),
        conditions: conditions.finish(&previous.conditions, cluster.metadata.generation, facts.now),
        components,
        summary: Some(Summary {
            prometheus: prometheus.map_or_else(|| "0/0".to_owned(), |p| format!("{}/{}", p.ready, p.desired)),
            remotes: (links.total > 0).then(|| format!("{}/{}", links.ready, links.total)),
        }),
        configuration: configuration.or(previous.configuration),
        object_storage,
        history,
        compaction: compacted,
        remote_stores: (links.total > 0).then_some(links),
        addresses: Some(addresses(facts)),
        versions: Some(Versions {
            operator: facts.observed.defaults.operator_version.clone(),
            current: valid.map_or_else(
                || previous.versions.map(|versions| versions.current).unwrap_or_default(),
                |valid| valid.engine_version.clone(),
            ),
        }),
    }
}

/// The workloads that should exist, or where the wish is no good, those that do.
fn workloads(facts: &Facts<'_>) -> Vec<Workload> {
    let live = &facts.observed.live;
    let mut found: BTreeMap<(String, String), Workload> = BTreeMap::new();
    for object in
        facts.wanted.iter().filter(|object| matches!(object.kind(), "StatefulSet" | "Deployment" | "DaemonSet"))
    {
        let text = |pointer: &str| object.0.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let replicas = object.0.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        let workload = Workload {
            component: text("/metadata/labels/app.kubernetes.io~1component").unwrap_or_default(),
            desired: i32::try_from(replicas).unwrap_or(0),
            version: text("/spec/template/spec/containers/0/image").and_then(|image| tag(&image)),
            ..Workload::default()
        };
        found.insert((object.kind().to_owned(), object.name().to_owned()), workload);
    }
    let known = facts.valid.is_ok();
    let mut each =
        |kind: &str, name: &str, labels: &BTreeMap<String, String>, counts: [Option<i32>; 4], current: bool| {
            let key = (kind.to_owned(), name.to_owned());
            if known && !found.contains_key(&key) {
                return; // being removed
            }
            let workload = found.entry(key).or_default();
            let [desired, total, ready, updated] = counts.map(|count| count.unwrap_or(0));
            if workload.component.is_empty() {
                workload.component = labels.get("app.kubernetes.io/component").cloned().unwrap_or_default();
                workload.desired = desired;
            }
            if kind == "DaemonSet" {
                workload.desired = desired;
            }
            workload.exists = true;
            workload.ready = ready;
            workload.updated = updated.min(total);
            workload.settled = current && updated >= workload.desired && total <= workload.desired;
        };
    for (name, set) in &live.stateful_sets {
        let status = set.status.clone().unwrap_or_default();
        let desired = set.spec.as_ref().and_then(|spec| spec.replicas);
        let counts = [desired, Some(status.replicas), status.ready_replicas, status.updated_replicas];
        each("StatefulSet", name, set.labels(), counts, status.observed_generation >= set.metadata.generation);
    }
    for (name, deployment) in &live.deployments {
        let status = deployment.status.clone().unwrap_or_default();
        let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        let counts = [desired, status.replicas, status.ready_replicas, status.updated_replicas];
        each(
            "Deployment",
            name,
            deployment.labels(),
            counts,
            status.observed_generation >= deployment.metadata.generation,
        );
    }
    for (name, set) in &live.daemon_sets {
        let status = set.status.clone().unwrap_or_default();
        let counts = [
            Some(status.desired_number_scheduled),
            Some(status.current_number_scheduled),
            Some(status.number_ready),
            status.updated_number_scheduled,
        ];
        let current = status.observed_generation.is_some() && status.observed_generation >= set.metadata.generation;
        each("DaemonSet", name, set.labels(), counts, current);
    }
    for ((_, name), workload) in &mut found {
        workload.waits = workload.exists
            && match workload.component.as_str() {
                STORE => waits_for_bucket(facts, name),
                // One that answers runs, and says itself why it is not ready.
                COMPACT => states(facts, COMPACT).any(|(_, state)| !state.ready),
                _ => false,
            };
    }
    // The store gateway of a link is told with the link.
    let mut all: Vec<Workload> = found.into_values().filter(|w| !names::is_remote(&w.component)).collect();
    all.sort_by(|a, b| rank(&a.component).cmp(&rank(&b.component)).then_with(|| a.component.cmp(&b.component)));
    for workload in &mut all {
        let troubles: Vec<Trouble> =
            pods_of(facts, &workload.component).filter_map(|pod| pods::trouble(pod, facts.now)).collect();
        workload.trouble = troubles.iter().max().cloned().or_else(|| refused_pods(facts, &workload.component));
        workload.message = workload.trouble.as_ref().map(|trouble| match troubles.len() {
            0 | 1 => trouble.message.clone(),
            more => format!("{} ({} more pods aren't ready)", trouble.message, more - 1),
        });
    }
    all
}

/// In the order of importance.
fn rank(component: &str) -> usize {
    [PROMETHEUS, QUERY, STORE, COMPACT].iter().position(|known| *known == component).unwrap_or(9)
}

fn tag(image: &str) -> Option<String> {
    let name = image.rsplit('/').next()?;
    let name = name.split('@').next()?;
    name.split_once(':').map(|(_, tag)| shorten(tag.to_owned(), 64))
}

fn pods_of<'a>(facts: &Facts<'a>, component: &'a str) -> impl Iterator<Item = &'a Pod> {
    facts
        .observed
        .live
        .pods
        .values()
        .filter(move |pod| pod.labels().get("app.kubernetes.io/component").is_some_and(|of| of == component))
}

/// Pods that a Deployment could not even make.
fn refused_pods(facts: &Facts<'_>, component: &str) -> Option<Trouble> {
    let of =
        |labels: &BTreeMap<String, String>| labels.get("app.kubernetes.io/component").is_some_and(|c| c == component);
    let deployment = facts.observed.live.deployments.values().find(|deployment| of(deployment.labels()))?;
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let why = failure.message.clone().unwrap_or_default();
    let reason = if why.contains("exceeded quota") { Reason::QuotaExceeded } else { Reason::AdmissionRefused };
    let message = shorten(format!("Pods of {} can't be made: {why}", deployment.name_any()), 900);
    Some(Trouble { stalled: true, reason, message })
}

/// Shards of one part as one.
fn together(workloads: &[Workload]) -> Vec<Workload> {
    let mut parts: Vec<Workload> = Vec::new();
    for workload in workloads {
        match parts.iter_mut().find(|part| part.component == workload.component) {
            None => parts.push(workload.clone()),
            Some(part) => {
                part.desired += workload.desired;
                part.ready += workload.ready;
                part.updated += workload.updated;
                part.settled &= workload.settled;
                part.exists &= workload.exists;
            }
        }
    }
    parts
}

fn component(facts: &Facts<'_>, workload: &Workload) -> ComponentStatus {
    let healthy = workload.settled && workload.ready >= workload.desired;
    let state = match workload {
        _ if healthy => "Ready",
        w if w.ready == 0 && w.desired > 0 && w.trouble.as_ref().is_some_and(|trouble| trouble.stalled) => "Down",
        w if !w.settled || !w.exists => "Progressing",
        _ => "Degraded",
    };
    let restart = pods_of(facts, &workload.component).filter_map(pods::last_restart).max_by(|a, b| a.time.cmp(&b.time));
    ComponentStatus {
        name: workload.component.clone(),
        state: state.to_owned(),
        ready: workload.ready,
        desired: workload.desired,
        updated: workload.updated,
        version: workload.version.clone(),
        message: workload.message.clone().filter(|_| !healthy),
        last_restart: restart,
    }
}

/// State documents of a component's pods, by pod.
pub(super) fn states<'a>(
    facts: &Facts<'a>,
    component: &'a str,
) -> impl Iterator<Item = (&'a str, &'a args::state::State)> {
    pods_of(facts, component).filter_map(move |pod| {
        let name = pod.metadata.name.as_deref()?;
        Some((name, facts.observed.states.get(name)?.as_ref().ok()?))
    })
}

/// The store gateways, with what they say.
fn gateways<'a>(facts: &Facts<'a>) -> impl Iterator<Item = history::Part<'a>> {
    let pods = &facts.observed.live.pods;
    states(facts, STORE).map(|(pod, state)| {
        let shard = pods.get(pod).and_then(|pod| pod.labels().get("panoptes.dev/shard"));
        history::Part { pod, shard: shard.map(String::as_str).unwrap_or_default(), state }
    })
}

/// Whether it is the bucket that keeps the pods of a StatefulSet from being ready: one of them says so itself, or there is
/// no good Secret that they could start with. Of a pod that says nothing, nothing is known.
fn waits_for_bucket(facts: &Facts<'_>, set: &str) -> bool {
    let Ok(valid) = facts.valid else { return false };
    let Some(files) = valid.object_storage.as_ref().or(valid.object_storage_before.as_ref()) else { return true };
    let wanted = &files.hash();
    let of = |pod: &str| pod.rsplit_once('-').is_some_and(|(name, _)| name == set);
    let parts: Vec<bucket::Part<'_>> = states(facts, STORE).filter(|(pod, _)| of(pod)).collect();
    bucket::wrong(&bucket::Seen { wanted, parts: &parts, total: parts.len(), now: facts.now }).is_some()
}

fn available(workloads: &[Workload], conditions: &mut Conditions) {
    let down = |workload: &&Workload| {
        let serves = workload.exists && (workload.desired == 0 || workload.ready > 0);
        // The compactor serves nobody.
        !serves && !workload.waits && workload.component != COMPACT
    };
    let Some(first) = workloads.iter().find(down) else {
        let waits = workloads.iter().find(|w| w.component == STORE && w.waits && w.desired > 0 && w.ready == 0);
        let message = match waits {
            Some(part) => {
                format!("Every other part has a replica that serves; {} waits for the bucket.", part.component)
            }
            None => "Every part has a replica that serves.".to_owned(),
        };
        return conditions.yes(C::Available, Reason::AllAvailable, message);
    };
    let reason = match first.component.as_str() {
        PROMETHEUS => Reason::PrometheusDown,
        QUERY => Reason::QuerierDown,
        STORE => Reason::StoreDown,
        "kube-state-metrics" => Reason::KubeStateMetricsDown,
        _ => Reason::NodeExporterDown,
    };
    let why = first.message.clone().unwrap_or_else(|| "Its pods are not there yet.".to_owned());
    conditions.no(C::Available, reason, format!("No replica of {} serves. {why}", first.component));
}

fn storage(facts: &Facts<'_>, conditions: &mut Conditions) {
    // The claims of a link's cache are told with the link.
    let component = |claim: &Claim| claim.labels().get("app.kubernetes.io/component").cloned().unwrap_or_default();
    let claims: Vec<(&String, &Claim)> =
        facts.observed.live.claims.iter().filter(|(_, claim)| !names::is_remote(&component(claim))).collect();
    let phase = |claim: &Claim| {
        claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".to_owned())
    };
    let mut pending: Vec<_> = claims.iter().filter(|(_, claim)| phase(claim) != "Bound").collect();
    pending.sort_by_key(|(_, claim)| rank(&component(claim)));
    match pending.first() {
        Some((name, claim)) => {
            let (what, field) = match component(claim).as_str() {
                STORE => ("Claim of a cache", "spec.storeGateway.cache.storageClassName"),
                COMPACT => ("Claim of the compactor", "spec.compactor.storage.storageClassName"),
                _ => ("Claim", "spec.storage.storageClassName"),
            };
            let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
            let class = class.map_or_else(|| "the default class".to_owned(), |class| format!("class {class}"));
            let message = format!(
                "{what} {name} ({} of {}) is {}: no volume of {class} yet. See kubectl describe pvc {name}; the class is \
                 {field}.",
                pending.len(),
                claims.len(),
                phase(claim),
            );
            conditions.no(C::StorageReady, Reason::PVCPending, message);
        }
        None if claims.is_empty() => {
            conditions.yes(C::StorageReady, Reason::NotUsed, "No part uses a persistent volume.");
        }
        None => conditions.yes(C::StorageReady, Reason::Bound, format!("All {} claims are bound.", claims.len())),
    }
}

fn count_links(facts: &Facts<'_>) -> RemoteStoresStatus {
    let mut count = RemoteStoresStatus::default();
    for remote in &facts.observed.remotes {
        let Some(status) = facts.remotes.get(&remote.name_any()) else { continue };
        count.total += 1;
        let is = |about, value| find(&status.conditions, about).is_some_and(|c| c.status == value);
        if is(C::Ready, ConditionStatus::True) {
            count.ready += 1;
        }
        match status.phase.as_deref() {
            Some("Degraded") => count.degraded += 1,
            Some("Drained") => count.drained += 1,
            _ => {}
        }
        if is(C::LabelsUnique, ConditionStatus::False) {
            count.conflicts += 1;
        }
    }
    count
}

fn remote_stores(facts: &Facts<'_>, links: &RemoteStoresStatus, conditions: &mut Conditions) {
    if links.total == 0 {
        return conditions.yes(C::RemoteStoresReady, Reason::NotUsed, "There are no RemoteStores.");
    }
    let mut worst: Option<(u8, Reason, String)> = None;
    for remote in &facts.observed.remotes {
        let name = remote.name_any();
        let Some(status) = facts.remotes.get(&name) else { continue };
        let of = |about| find(&status.conditions, about).filter(|c| c.status != ConditionStatus::True);
        if remote.spec.mode == RemoteMode::Drained {
            continue;
        }
        let required = remote.spec.criticality == Criticality::Required;
        let found = match (of(C::LabelsUnique).filter(|c| c.status == ConditionStatus::False), of(C::Ready)) {
            (_, Some(ready)) if required => (3, Reason::RequiredDown, &ready.message),
            (Some(conflict), _) => (2, Reason::LabelConflict, &conflict.message),
            (_, Some(ready)) => (1, Reason::OptionalDown, &ready.message),
            _ => continue,
        };
        if worst.as_ref().is_none_or(|worst| found.0 > worst.0) {
            worst = Some((found.0, found.1, format!("RemoteStore {name}: {}", found.2)));
        }
    }
    match worst {
        Some((_, reason, message)) => conditions.no(C::RemoteStoresReady, reason, message),
        None => conditions.yes(
            C::RemoteStoresReady,
            Reason::AllReady,
            format!("All {} RemoteStores that are in use are ready.", links.total - links.drained),
        ),
    }
}

/// What validation found is said under the condition that it names, unless something worse was said there already.
fn from_problems(facts: &Facts<'_>, conditions: &mut Conditions) {
    let problems = match facts.valid {
        Ok(valid) => valid.problems.as_slice(),
        Err(problems) => problems,
    };
    let about = |what: C| -> Vec<&Problem> { problems.iter().filter(|problem| problem.condition == what).collect() };
    let join = |of: &[&Problem]| of.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join(" ");
    let warnings = about(C::Warning);
    if !warnings.is_empty() {
        conditions.yes(C::Warning, Reason::RiskySettings, join(&warnings));
    }
    for what in [C::ObjectStorageReady, C::RemoteStoresReady, C::CertificatesValid, C::StorageReady] {
        let found = about(what);
        if let Some(first) = found.first() {
            conditions.no(what, first.reason, join(&found));
        }
    }
    let rejected = about(C::ConfigurationApplied);
    let refused = conditions.get(C::ConfigurationApplied).is_some_and(|(_, reason, _)| reason == Reason::ReloadFailed);
    if let Some(first) = rejected.first().filter(|_| !refused) {
        conditions.no(C::ConfigurationApplied, first.reason, join(&rejected));
    }
}

fn stalled(facts: &Facts<'_>, workloads: &[Workload], conditions: &mut Conditions) {
    let problems = match facts.valid {
        Ok(valid) => valid.problems.as_slice(),
        Err(problems) => problems,
    };
    let spec: Vec<&Problem> = problems.iter().filter(|problem| problem.condition == C::Stalled).collect();
    if let Some(first) = spec.first() {
        let message = spec.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        return conditions.yes(C::Stalled, first.reason, message);
    }
    if let Some((reason, message)) = from_faults(facts) {
        return conditions.yes(C::Stalled, reason, message);
    }
    let trouble = workloads.iter().filter_map(|w| w.trouble.as_ref().map(|t| (t, w))).find(|(t, _)| t.stalled);
    if let Some((trouble, workload)) = trouble {
        conditions.yes(C::Stalled, trouble.reason, workload.message.clone().unwrap_or_else(|| trouble.message.clone()));
    }
}

fn from_faults(facts: &Facts<'_>) -> Option<(Reason, String)> {
    let lasting = |fault: &&Fault| fault.lasts() && fault.kind != FaultKind::NotFound;
    let faults: Vec<&Fault> = facts.faults.iter().filter(lasting).collect();
    let worst = faults.iter().min_by_key(|fault| fault.kind)?;
    let more = match faults.len() {
        1 => String::new(),
        n => format!(" ({} more calls failed)", n - 1),
    };
    let namespace = facts.observed.cluster.namespace().unwrap_or_default();
    Some(match worst.kind {
        FaultKind::Forbidden => {
            let forbidden = || faults.iter().filter(|fault| fault.kind == FaultKind::Forbidden);
            let mut rights: Vec<String> =
                forbidden().map(|fault| format!("{} {}", fault.verb, fault.resource)).collect();
            rights.sort();
            rights.dedup();
            let rest = rights.len().saturating_sub(4);
            let listed = rights[..rights.len() - rest].join(", ");
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            // What belongs to the whole Kubernetes cluster comes with the installation, the rest with a binding.
            let whole = forbidden().any(|fault| installed(&fault.resource));
            let bound = forbidden().any(|fault| !installed(&fault.resource));
            let place = if bound { format!(" in namespace {namespace}") } else { String::new() };
            let install = "panoptes operator manifests --image IMAGE | kubectl apply --server-side -f -";
            let bind = format!("panoptes operator rbac -n {namespace} | kubectl apply -f -");
            let command = match (bound, whole) {
                (true, true) => format!("{bind}; {install}"),
                (true, false) => bind,
                _ => install.to_owned(),
            };
            (Reason::ForbiddenByRBAC, format!("The operator may not {listed}{rest}{place}. Grant it: {command}"))
        }
        FaultKind::Quota => (Reason::QuotaExceeded, format!("{worst}{more}. Raise the quota.")),
        FaultKind::Admission => (Reason::AdmissionRefused, format!("{worst}{more}")),
        FaultKind::Conflict => (Reason::FieldConflict, format!("{worst}{more}")),
        FaultKind::Immutable => (Reason::ImmutableChangeRefused, format!("{worst}{more}")),
        _ => (Reason::InvalidSpec, format!("The API server refuses an object: {worst}{more}")),
    })
}

/// Whether the right to this comes with the installation, not with the binding of a namespace.
fn installed(resource: &str) -> bool {
    matches!(resource, "namespaces" | "clusterrolebindings.rbac.authorization.k8s.io")
}

fn reconciling(
    facts: &Facts<'_>,
    workloads: &[Workload],
    previous: &MonitoringClusterStatus,
    conditions: &mut Conditions,
) {
    if conditions.get(C::Stalled).is_some() || facts.observed.cluster.spec.paused {
        return;
    }
    let moves = |w: &&Workload| !w.exists || (!w.settled || w.ready < w.desired) && !w.waits;
    let moving = workloads.iter().find(moves);
    // Until a first configuration is known to be loaded, nothing has ever worked.
    let creating = previous.configuration.as_ref().is_none_or(|configuration| configuration.last_good_hash.is_none());
    let reason = if creating { Reason::Creating } else { Reason::RollingOut };
    if let Some(workload) = moving {
        let detail = workload.message.clone().map(|message| format!(" {message}.")).unwrap_or_default();
        let message =
            format!("{}: {} of {} pods are ready.{detail}", workload.component, workload.ready, workload.desired);
        conditions.yes(C::Reconciling, reason, message);
    } else if let Some((Reason::WaitingForReload, message)) =
        conditions.when(C::ConfigurationApplied, ConditionStatus::False)
    {
        conditions.yes(C::Reconciling, reason, message);
    }
}

/// True if all that is wanted serves what is wanted; else the worst of what was said.
fn ready(workloads: &[Workload], bucket: Option<&ObjectStorageStatus>, conditions: &mut Conditions) {
    let no = |about| conditions.when(about, ConditionStatus::False);
    let yes = |about| conditions.when(about, ConditionStatus::True);
    let worst = yes(C::Stalled)
        .or_else(|| no(C::ConfigurationApplied).filter(|(reason, _)| *reason != Reason::WaitingForReload))
        .or_else(|| yes(C::Reconciling))
        .or_else(|| no(C::Available))
        .or_else(|| no(C::ConfigurationApplied))
        .or_else(|| no(C::StorageReady))
        .or_else(|| no(C::ObjectStorageReady).filter(|(reason, _)| *reason != Reason::NotConfigured))
        // Once it was seen well, a moment in which the parts take a new Secret into use is none of being not ready.
        .or_else(|| {
            conditions
                .when(C::ObjectStorageReady, ConditionStatus::Unknown)
                .filter(|_| bucket.is_some_and(|bucket| bucket.last_verified.is_none()))
        })
        // A block that can't be served costs that block, and is no reason to call all of it not ready.
        .or_else(|| no(C::HistoryReady).filter(|(reason, _)| *reason == Reason::SyncFailing))
        .or_else(|| no(C::CertificatesValid))
        .or_else(|| no(C::RemoteStoresReady).filter(|(reason, _)| *reason == Reason::RequiredDown));
    match worst {
        Some((reason, message)) => conditions.no(C::Ready, reason, message),
        None if workloads.is_empty() => conditions.no(C::Ready, Reason::Creating, "Nothing is there yet."),
        None => conditions.yes(C::Ready, Reason::Ready, "Everything that is wanted serves."),
    }
}

fn phase(workloads: &[Workload], conditions: &Conditions) -> String {
    if conditions.get(C::Paused).is_some() {
        return "Paused".to_owned();
    }
    if conditions.get(C::Stalled).is_some() {
        return "Failed".to_owned();
    }
    match conditions.get(C::Reconciling) {
        Some((_, Reason::Creating, _)) => return "Creating".to_owned(),
        Some(_) => {
            let moving = workloads.iter().find(|w| !w.settled || w.ready < w.desired);
            return moving.map_or_else(
                || "Updating".to_owned(),
                |w| format!("Updating ({}/{} {})", w.updated.min(w.ready), w.desired, w.component),
            );
        }
        None => {}
    }
    let ready = conditions.get(C::Ready).is_some_and(|(status, _, _)| status == ConditionStatus::True);
    if ready { "Healthy" } else { "Degraded" }.to_owned()
}

fn addresses(facts: &Facts<'_>) -> Addresses {
    let cluster = &facts.observed.cluster;
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    Addresses {
        query: Some(format!("http://{}.{namespace}.svc:{}", names::query(&name), args::HTTP_PORT)),
        store_api: exposed(facts, &names::query_exposed(&name)),
    }
}

/// Where other clusters reach the StoreAPI: the load balancer, or a node that runs a querier.
fn exposed(facts: &Facts<'_>, service: &str) -> Option<String> {
    let service = facts.observed.live.services.get(service)?;
    let spec = service.spec.as_ref()?;
    let port = spec.ports.as_ref()?.first()?;
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first());
    if spec.type_.as_deref() == Some("LoadBalancer") {
        let host = balancer.and_then(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone()))?;
        return Some(format!("{host}:{}", port.port));
    }
    let node = pods_of(facts, QUERY).filter_map(|pod| pod.status.as_ref()?.host_ip.clone()).min()?;
    Some(format!("{node}:{}", port.node_port?))
}
