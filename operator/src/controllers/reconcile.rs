//! One reconciliation of a namespace: observe, validate, desire, apply, tell.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use args::files::LINKS;
use args::links::Links;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use kube_runtime::events::EventType;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::Context;
use super::poll::Poll;
use super::watch::Interest;
use crate::api::{MonitoringCluster, MonitoringClusterStatus, RemoteStore, RemoteStoreStatus};
use crate::apply::{self, Applier, Owner, Report};
use crate::cluster::{self, Problem, ValidCluster, ValidLink};
use crate::desired;
use crate::observe::{Assignment, Fault, FaultKind, Gathered, Observed, assign, call, gather, references};
use crate::status::{self, Facts, Gateway, Happening, Link, Restless};

/// Our field manager for statuses.
const STATUS_MANAGER: &str = "panoptes-operator-status";

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// The namespace holds nothing of ours.
    Gone,
    /// All is as it should be, or on its way.
    Settled,
    /// Only a change from outside helps.
    Stalled,
    /// A right is missing: its granting can't be watched.
    Forbidden,
    /// Asking again may help.
    Retry,
}

/// What an actor remembers. All of it can be lost.
pub(super) struct Memory {
    pub(super) poll: Poll,
    interest: Arc<Mutex<Interest>>,
    appliers: BTreeMap<String, Applier>,
    restless: BTreeMap<String, Restless>,
}

impl Memory {
    pub(super) fn new(interest: Arc<Mutex<Interest>>) -> Self {
        Self { poll: Poll::default(), interest, appliers: BTreeMap::new(), restless: BTreeMap::new() }
    }
}

/// Reconciles everything of ours in a namespace.
pub(super) async fn namespace(context: &Context, namespace: &str, memory: &mut Memory) -> End {
    match Box::pin(try_namespace(context, namespace, memory)).await {
        Ok(end) => end,
        Err(fault) => {
            context.metrics.failed(&fault);
            tracing::warn!(namespace, %fault, "reconciling failed");
            if fault.kind == FaultKind::Forbidden { End::Forbidden } else { End::Retry }
        }
    }
}

async fn try_namespace(context: &Context, namespace: &str, memory: &mut Memory) -> Result<End, Fault> {
    let client = &context.client;
    let (clusters, remotes) =
        tokio::try_join!(list::<MonitoringCluster>(context, namespace), list::<RemoteStore>(context, namespace),)?;
    if clusters.is_empty() && remotes.is_empty() {
        sweep(context, namespace).await?;
        return Ok(End::Gone);
    }
    let alive: Vec<MonitoringCluster> =
        clusters.iter().filter(|cluster| cluster.metadata.deletion_timestamp.is_none()).cloned().collect();
    if alive.len() < clusters.len() || alive.is_empty() {
        sweep(context, namespace).await?;
    }
    let names: Vec<String> = alive.iter().map(ResourceExt::name_any).collect();
    memory.appliers.retain(|name, _| names.contains(name));
    let mut of: BTreeMap<String, Vec<RemoteStore>> = BTreeMap::new();
    let mut interest = Interest::default();
    let now = now(context);
    for remote in &remotes {
        match assign(remote, &names) {
            Assignment::To(name) => of.entry(name).or_default().push(remote.clone()),
            why => {
                let next = status::unassigned(remote, &why, now);
                tell_remote(context, remote, next, memory).await?;
            }
        }
    }
    let mut end = Settled::default();
    let mut targets = BTreeMap::new();
    for cluster in alive {
        let mine = of.remove(&cluster.name_any()).unwrap_or_default();
        let named = references(&cluster, &mine);
        interest.names.extend(named.secrets.into_iter().chain(named.config_maps));
        interest.selectors.push(cluster.spec.rules.config_map_selector.clone());
        // Before the first look: what is made right after it must wake us.
        memory.interest.lock().add(&interest);
        let states = memory.poll.states(memory.poll.targets.keys());
        let seen = Box::pin(gather(client, cluster, mine, states, context.defaults.clone())).await;
        interest.names.extend(seen.observed.config_maps.keys().cloned());
        end.note(Box::pin(one(context, seen, memory, &mut targets)).await?);
    }
    *memory.interest.lock() = interest;
    memory.poll.targets = targets;
    Ok(end.0)
}

/// The worst end.
struct Settled(End);

impl Default for Settled {
    fn default() -> Self {
        Self(End::Settled)
    }
}

impl Settled {
    fn note(&mut self, end: End) {
        self.0 = self.0.max(end);
    }
}

/// The staircase for one MonitoringCluster.
async fn one(
    context: &Context,
    mut seen: Gathered,
    memory: &mut Memory,
    targets: &mut BTreeMap<String, std::net::SocketAddr>,
) -> Result<End, Fault> {
    give_up_if_unsure(context, &seen)?;
    let owner = Owner {
        namespace: seen.observed.cluster.namespace().unwrap_or_default(),
        name: seen.observed.cluster.name_any(),
        uid: seen.observed.cluster.uid().unwrap_or_default(),
    };
    let mut valid = cluster::validate(&seen.observed.cluster, &seen.observed);
    let mut wanted = valid.as_ref().map(desired::objects).unwrap_or_default();
    let mut report = Report::default();
    if let Ok(possible) = &valid
        && !seen.observed.cluster.spec.paused
    {
        let applier = memory.appliers.entry(owner.name.clone()).or_default();
        report = applier.run(&context.client, &context.fence, &owner, &wanted, &possible.parked()).await;
        note(context, &owner, &report);
        if !report.written.is_empty() || !report.deleted.is_empty() {
            // What was just written is not what was seen before: look again, so that nothing old is told as new.
            let Observed { cluster, remotes, states, defaults, .. } = seen.observed;
            seen = Box::pin(gather(&context.client, cluster, remotes, states, defaults)).await;
            give_up_if_unsure(context, &seen)?;
            valid = cluster::validate(&seen.observed.cluster, &seen.observed);
            wanted = valid.as_ref().map(desired::objects).unwrap_or_default();
        }
        let marks = apply::marks(&seen.observed, &wanted);
        if let Err(fault) = apply::mark(&context.client, &context.fence, &owner.namespace, &marks).await {
            report.faults.push(fault);
        }
        context.metrics.wrote("mark", marks.len());
    }
    let observed = &seen.observed;
    for (name, pod) in &observed.live.pods {
        if let Some(address) = (context.locate)(pod) {
            targets.insert(name.clone(), address);
        }
    }

    let now = now(context);
    let mut remotes = BTreeMap::new();
    let told = if valid.is_err() && !observed.remotes.is_empty() { told(context, &owner).await } else { None };
    for remote in &observed.remotes {
        let next = remote_status(&seen, valid.as_ref(), told.as_ref(), remote, now);
        remotes.insert(remote.name_any(), next.clone());
        tell_remote(context, remote, next, memory).await?;
    }
    let faults: Vec<Fault> = seen.faults.iter().chain(&report.faults).cloned().collect();
    for fault in &report.faults {
        context.metrics.failed(fault);
        tracing::warn!(namespace = owner.namespace, cluster = owner.name, %fault, "not applied");
    }
    let facts = Facts {
        observed,
        valid: valid.as_ref().map_err(Vec::as_slice),
        wanted: &wanted,
        faults: &faults,
        remotes: &remotes,
        now,
    };
    let next = status::monitoring_cluster(&facts);
    tell_cluster(context, &observed.cluster, next, &report).await?;
    Ok(faults.iter().map(end_of).max().unwrap_or(End::Settled))
}

fn end_of(fault: &Fault) -> End {
    match fault.kind {
        FaultKind::Forbidden => End::Forbidden,
        FaultKind::Unavailable => End::Retry,
        _ => End::Stalled,
    }
}

/// Nothing is written on the strength of a view with holes that the next look may fill.
fn give_up_if_unsure(context: &Context, seen: &Gathered) -> Result<(), Fault> {
    for fault in &seen.faults {
        context.metrics.failed(fault);
    }
    seen.faults.iter().find(|fault| !fault.lasts()).cloned().map_or(Ok(()), Err)
}

fn remote_status(
    seen: &Gathered,
    valid: Result<&ValidCluster, &Vec<Problem>>,
    told: Option<&Links>,
    remote: &RemoteStore,
    now: Timestamp,
) -> RemoteStoreStatus {
    let observed = &seen.observed;
    let name = remote.name_any();
    let component = |pod: &str| {
        let pod = observed.live.pods.get(pod)?;
        pod.labels().get("app.kubernetes.io/component").cloned()
    };
    let states = observed
        .states
        .iter()
        .filter(|(pod, _)| component(pod).as_deref() == Some("query"))
        .map(|(pod, state)| (pod.clone(), state.clone()))
        .collect();
    let cluster = observed.cluster.name_any();
    let deployment = observed.live.deployments.get(&desired::names::query(&cluster));
    let queriers = deployment.and_then(|deployment| deployment.spec.as_ref()?.replicas).unwrap_or(0);
    let none = Vec::new();
    let valid = valid.ok();
    let dialled = valid.and_then(|valid| valid.links.iter().find(|link| link.remote.name_any() == name));
    let gateway = remote.spec.bucket_ref.as_ref().map(|_| gateway(observed, remote, dialled));
    let link = Link {
        remote,
        cluster: &cluster,
        cluster_label: &observed.cluster.spec.cluster_label,
        valid: dialled,
        gateway: gateway.as_ref(),
        problems: valid.and_then(|valid| valid.link_problems.get(&name)).unwrap_or(&none),
        winner: observed.conflicts.get(&name),
        told: told.and_then(|told| told.links.iter().find(|link| link.name == name)),
        revision: &valid
            .map(desired::links_revision)
            .or_else(|| told.map(|told| told.revision.clone()))
            .unwrap_or_default(),
        queriers: usize::try_from(queriers).unwrap_or(0),
        states: &states,
        now,
    };
    status::remote_store(&link)
}

/// The store gateway of a link to a bucket.
fn gateway<'a>(observed: &'a Observed, remote: &RemoteStore, valid: Option<&ValidLink>) -> Gateway<'a> {
    let set = desired::names::remote(&observed.cluster.name_any(), &remote.name_any());
    let component = desired::names::remote_component(&remote.name_any());
    let of = |labels: &BTreeMap<String, String>| labels.get("app.kubernetes.io/component") == Some(&component);
    let pods = observed.live.pods.iter().filter(|(_, pod)| of(pod.labels()));
    let replicas = observed.live.stateful_sets.get(&set).and_then(|set| set.spec.as_ref()?.replicas);
    Gateway {
        wanted: valid.and_then(|link| link.bucket.as_ref()).map(|bucket| bucket.storage.hash()).unwrap_or_default(),
        pods: pods.map(|(name, pod)| (pod, observed.states.get(name).and_then(|state| state.as_ref().ok()))).collect(),
        total: usize::try_from(replicas.unwrap_or(0)).unwrap_or(0),
    }
}

/// The links as they are in use: while a wish can't be carried out, nothing is taken from the queriers.
async fn told(context: &Context, owner: &Owner) -> Option<Links> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &owner.namespace);
    for name in desired::names::endpoint_slots(&owner.name) {
        let path = format!("{}/{name}", owner.namespace);
        let Ok(Some(secret)) = call("get", "secrets", &path, api.get_opt(&name)).await else { continue };
        if let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(LINKS)) {
            return serde_saphyr::from_slice(&bytes.0).ok();
        }
    }
    None
}

async fn tell_remote(
    context: &Context,
    remote: &RemoteStore,
    next: RemoteStoreStatus,
    memory: &mut Memory,
) -> Result<(), Fault> {
    let restless = memory.restless.entry(remote.name_any()).or_default();
    let Some(next) = status::settle_remote(remote.status.as_ref(), next, restless, Instant::now()) else {
        return Ok(());
    };
    let happened = status::remote_events(remote.status.as_ref(), &next);
    write_status(context, remote, &next).await?;
    context.publish(&remote.object_ref(&()), happened).await;
    Ok(())
}

async fn tell_cluster(
    context: &Context,
    cluster: &MonitoringCluster,
    next: MonitoringClusterStatus,
    report: &Report,
) -> Result<(), Fault> {
    let previous = cluster.status.as_ref();
    let mut happened = status::cluster_events(previous, &next);
    let event = |kind, reason, note| Happening { kind, reason, note };
    if previous.is_none() && !report.created.is_empty() {
        happened.push(event(EventType::Normal, "Created", format!("{} objects were made.", report.created.len())));
    }
    if !report.corrected.is_empty() {
        let note = format!("Changed by somebody else, and set back: {}.", report.corrected.join(", "));
        happened.push(event(EventType::Normal, "DriftCorrected", note));
    }
    if !report.recreated.is_empty() {
        let note = format!("Made again because of an immutable field, pods kept: {}.", report.recreated.join(", "));
        happened.push(event(EventType::Normal, "Recreated", note));
    }
    if let Some(next) = status::settle_cluster(previous, next) {
        write_status(context, cluster, &next).await?;
    }
    context.publish(&cluster.object_ref(&()), happened).await;
    Ok(())
}

async fn write_status<K, S>(context: &Context, object: &K, status: &S) -> Result<(), Fault>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    if !context.fence.holds() {
        return Ok(());
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        // With the uid a successor of the same name is never told what was found about its predecessor.
        "metadata": {"name": name, "uid": object.uid()},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let resource = format!("{}/status.{}", K::plural(&()), crate::api::GROUP);
    let path = format!("{namespace}/{name}");
    match call("patch", &resource, &path, api.patch_status(&name, &params, &Patch::Apply(&patch))).await {
        Ok(_) => {
            context.metrics.wrote("status", 1);
            Ok(())
        }
        // Gone or replaced meanwhile: nobody is left to tell.
        Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn note(context: &Context, owner: &Owner, report: &Report) {
    let Report { written, deleted, recreated, .. } = report;
    context.metrics.wrote("apply", written.len());
    context.metrics.wrote("delete", deleted.len());
    context.metrics.wrote("recreate", recreated.len());
    if !written.is_empty() || !deleted.is_empty() {
        tracing::info!(namespace = owner.namespace, cluster = owner.name, ?written, ?deleted, "applied");
    }
}

/// When a MonitoringCluster went, what it had outside of its namespace goes at once.
async fn sweep(context: &Context, namespace: &str) -> Result<(), Fault> {
    let deleted = super::sweep_now(context).await?;
    if !deleted.is_empty() {
        tracing::info!(namespace, ?deleted, "swept");
    }
    Ok(())
}

async fn list<K>(context: &Context, namespace: &str) -> Result<Vec<K>, Fault>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let resource = format!("{}.{}", K::plural(&()), crate::api::GROUP);
    Ok(call("list", &resource, namespace, api.list(&ListParams::default())).await?.items)
}

fn now(context: &Context) -> Timestamp {
    Timestamp::from_millisecond(context.world.clock.now_ms()).unwrap_or_default()
}
