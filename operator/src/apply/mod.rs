//! Makes the world match the desired objects: server-side apply of what differs, deletion of what is ours and no longer
//! wanted. Idempotent: a second run writes nothing.

mod kinds;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use crate::desired::Object;
use crate::leader::Fence;
use crate::observe::{Fault, FaultKind, call};

pub use kinds::{KINDS, Kind};
pub use sync::{FILES_ANNOTATION, Mark, marks};

/// Our field manager for objects.
pub const MANAGER: &str = "panoptes-operator";
/// The label by which all children are found.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by=panoptes-operator";
/// How long a deleted object may take to go before it is made again.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// The MonitoringCluster whose children are handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What one run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Objects that were written, as `Kind/name`.
    pub written: Vec<String>,
    /// Those of them that did not exist.
    pub created: Vec<String>,
    /// Objects that were deleted, as `Kind/name`.
    pub deleted: Vec<String>,
    /// Workloads that were made again because of an immutable field, their pods kept.
    pub recreated: Vec<String>,
    /// Objects that somebody else had changed and that were set back, as `Kind/name`.
    pub corrected: Vec<String>,
    /// What could not be done.
    pub faults: Vec<Fault>,
}

/// Applies for one MonitoringCluster, and remembers what it applied, so that an unchanged object costs no call.
#[derive(Debug, Default)]
pub struct Applier {
    /// Kind and name → hash of what was applied, and the resourceVersion that came back.
    done: BTreeMap<(String, String), (String, String)>,
    /// Kind and name → hash for which the object was made again, at most once each.
    recreated: BTreeMap<(String, String), String>,
}

/// One of ours as it is.
#[derive(Clone, Debug)]
struct Live {
    uid: String,
    version: String,
    generation: Option<i64>,
    labels: BTreeMap<String, String>,
    /// It belongs to this owner, to nobody, or to somebody else.
    owned: Ownership,
    leaving: bool,
}

impl Live {
    /// Whether writing changed it. A controller that writes the status meanwhile changes the version too, so where there
    /// is a generation, that decides.
    fn differs(&self, applied: &PartialObjectMeta<DynamicObject>) -> bool {
        match (self.generation, applied.metadata.generation) {
            (Some(before), Some(after)) => before != after || self.labels != *applied.labels(),
            _ => applied.resource_version().as_deref() != Some(&self.version),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    Ours,
    /// It carries our labels, and nobody owns it: left behind, and taken up again.
    Nobody,
    Foreign,
}

impl Applier {
    /// Makes the world match. Each object is tried on its own: what fails is told, and the rest goes on. Objects of the
    /// components in `parked` stay as they are.
    pub async fn run(
        &mut self,
        client: &Client,
        fence: &Fence,
        owner: &Owner,
        wanted: &[Object],
        parked: &BTreeSet<String>,
    ) -> Report {
        let mut report = Report::default();
        let mut live: BTreeMap<(String, String), Live> = BTreeMap::new();
        let mut listed = BTreeSet::new();
        for kind in KINDS {
            match children(client, kind, owner).await {
                Ok(found) => {
                    listed.insert(kind.kind);
                    live.extend(found.into_iter().map(|(name, one)| ((kind.kind.to_owned(), name), one)));
                }
                // An installation without any object of the kind in this place is told by the write that fails.
                Err(fault) => report.faults.push(fault),
            }
        }
        for object in wanted {
            let Some(kind) = KINDS.iter().find(|kind| kind.kind == object.kind()) else {
                tracing::error!(kind = object.kind(), "a kind that the operator doesn't know: a mistake of ours");
                continue;
            };
            if !fence.holds() {
                return report;
            }
            let key = (kind.kind.to_owned(), object.name().to_owned());
            if let Err(fault) = self.one(client, owner, kind, object, live.get(&key), &mut report).await {
                self.done.remove(&key);
                report.faults.push(fault);
            }
        }
        live.retain(|_, one| one.labels.get("app.kubernetes.io/component").is_none_or(|of| !parked.contains(of)));
        self.prune(client, fence, owner, wanted, &live, &listed, &mut report).await;
        report
    }

    async fn one(
        &mut self,
        client: &Client,
        owner: &Owner,
        kind: &Kind,
        object: &Object,
        live: Option<&Live>,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let key = (kind.kind.to_owned(), object.name().to_owned());
        let label = format!("{}/{}", kind.kind, object.name());
        let hash = crate::desired::hash(object.0.to_string().as_bytes());
        if let (Some(live), Some((applied, version))) = (live, self.done.get(&key))
            && *applied == hash
            && live.version == *version
        {
            return Ok(());
        }
        let api = api(client, kind, owner);
        let path = path(kind, owner, object.name());
        let existing = match live {
            Some(live) => Some(live.clone()),
            None => look(&api, kind, owner, object.name()).await?,
        };
        if let Some(existing) = &existing {
            if existing.leaving {
                return Err(fault(
                    FaultKind::Unavailable,
                    "patch",
                    kind,
                    &path,
                    "it is being deleted; waiting until it is gone",
                ));
            }
            if existing.owned == Ownership::Foreign {
                let message = "an object of this name exists and belongs to somebody else; rename or delete it";
                return Err(fault(FaultKind::Conflict, "patch", kind, &path, message));
            }
        }
        let applied = match apply(&api, kind, &path, object).await {
            Err(refused) if refused.kind == FaultKind::Immutable => {
                let Some(existing) = &existing else { return Err(refused) };
                if self.recreated.get(&key) == Some(&hash) {
                    return Err(refused);
                }
                self.recreated.insert(key.clone(), hash.clone());
                remove(&api, kind, &path, object.name(), &existing.uid, true).await?;
                wait_until_gone(&api, kind, &path, object.name(), &existing.uid).await?;
                let again = apply(&api, kind, &path, object).await?;
                report.recreated.push(label.clone());
                again
            }
            other => other?,
        };
        let version = applied.resource_version().unwrap_or_default();
        if existing.as_ref().is_none_or(|existing| existing.differs(&applied)) {
            report.written.push(label.clone());
            if existing.is_some() && self.done.get(&key).is_some_and(|(applied, _)| *applied == hash) {
                report.corrected.push(label.clone());
            }
        }
        if existing.is_none() {
            report.created.push(label);
        }
        self.done.insert(key, (hash, version));
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one private step of run")]
    async fn prune(
        &mut self,
        client: &Client,
        fence: &Fence,
        owner: &Owner,
        wanted: &[Object],
        live: &BTreeMap<(String, String), Live>,
        listed: &BTreeSet<&'static str>,
        report: &mut Report,
    ) {
        let keep: BTreeSet<(&str, &str)> = wanted.iter().map(|object| (object.kind(), object.name())).collect();
        for kind in KINDS.iter().filter(|kind| listed.contains(kind.kind)) {
            let surplus = live.iter().filter(|((of, name), one)| {
                of == kind.kind
                    && one.owned == Ownership::Ours
                    && !one.leaving
                    && !keep.contains(&(of.as_str(), name.as_str()))
            });
            for ((_, name), one) in surplus {
                if !fence.holds() {
                    return;
                }
                let path = path(kind, owner, name);
                match remove(&api(client, kind, owner), kind, &path, name, &one.uid, false).await {
                    Ok(()) => {
                        self.done.remove(&(kind.kind.to_owned(), name.clone()));
                        report.deleted.push(format!("{}/{name}", kind.kind));
                    }
                    Err(fault) => report.faults.push(fault),
                }
            }
        }
    }
}

/// Something of ours that belongs to the whole Kubernetes cluster.
#[derive(Clone, Debug)]
pub struct Far {
    kind: &'static Kind,
    name: String,
    uid: String,
    namespace: String,
    owner: String,
}

/// What of ours belongs to the whole Kubernetes cluster.
///
/// # Errors
/// Where it can't be listed.
pub async fn far(client: &Client) -> Result<Vec<Far>, Fault> {
    let mut found = Vec::new();
    for kind in KINDS.iter().filter(|kind| !kind.namespaced) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &kind.resource());
        let params = ListParams::default().labels(MANAGED_BY);
        for object in call("list", &kind.rbac(), "", api.list(&params)).await?.items {
            let label = |name: &str| object.labels().get(name).cloned().unwrap_or_default();
            found.push(Far {
                kind,
                name: object.name_any(),
                uid: object.uid().unwrap_or_default(),
                namespace: label("panoptes.dev/namespace"),
                owner: label("panoptes.dev/uid"),
            });
        }
    }
    Ok(found)
}

/// Deletes of it what belongs to no MonitoringCluster any more; `alive` are the uids that exist, asked for after
/// [`far`], so that a binding is never older than the list of the living. Kubernetes collects the rest itself.
///
/// # Errors
/// Where one can't be deleted.
pub async fn sweep(
    client: &Client,
    fence: &Fence,
    found: Vec<Far>,
    alive: &BTreeSet<String>,
    namespaces: &[String],
) -> Result<Vec<String>, Fault> {
    let mut deleted = Vec::new();
    for far in found {
        let in_scope = namespaces.is_empty() || namespaces.contains(&far.namespace);
        if far.owner.is_empty() || alive.contains(&far.owner) || !in_scope || !fence.holds() {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &far.kind.resource());
        remove(&api, far.kind, &far.name, &far.name, &far.uid, false).await?;
        deleted.push(format!("{}/{}", far.kind.kind, far.name));
    }
    Ok(deleted)
}

/// Writes the marks that make kubelets sync the files of pods at once. Pods that are gone meanwhile don't matter.
///
/// # Errors
/// The first write that failed; the others were tried.
pub async fn mark(client: &Client, fence: &Fence, namespace: &str, marks: &[Mark]) -> Result<(), Fault> {
    use k8s_openapi::api::core::v1::Pod;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let mut first = Ok(());
    for mark in marks {
        if !fence.holds() {
            break;
        }
        let patch = serde_json::json!({
            "metadata": {"uid": mark.uid, "annotations": {FILES_ANNOTATION: mark.hash}},
        });
        let path = format!("{namespace}/{}", mark.pod);
        let written =
            call("patch", "pods", &path, pods.patch_metadata(&mark.pod, &params, &Patch::Merge(&patch))).await;
        match written {
            Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) && first.is_ok() => {
                first = Err(fault);
            }
            _ => {}
        }
    }
    first
}

fn api(client: &Client, kind: &Kind, owner: &Owner) -> Api<DynamicObject> {
    if kind.namespaced {
        Api::namespaced_with(client.clone(), &owner.namespace, &kind.resource())
    } else {
        Api::all_with(client.clone(), &kind.resource())
    }
}

fn path(kind: &Kind, owner: &Owner, name: &str) -> String {
    if kind.namespaced { format!("{}/{name}", owner.namespace) } else { name.to_owned() }
}

fn fault(kind: FaultKind, verb: &'static str, of: &Kind, object: &str, message: &str) -> Fault {
    Fault { kind, verb, resource: of.rbac(), object: object.to_owned(), message: message.to_owned() }
}

/// Metadata of the owner's children of a kind, by name.
async fn children(client: &Client, kind: &Kind, owner: &Owner) -> Result<BTreeMap<String, Live>, Fault> {
    let (api, labels): (Api<PartialObjectMeta<DynamicObject>>, String) = if kind.namespaced {
        (
            Api::namespaced_with(client.clone(), &owner.namespace, &kind.resource()),
            format!("{MANAGED_BY},app.kubernetes.io/instance={}", owner.name),
        )
    } else {
        (
            Api::all_with(client.clone(), &kind.resource()),
            format!("{MANAGED_BY},panoptes.dev/namespace={},panoptes.dev/name={}", owner.namespace, owner.name),
        )
    };
    let found = call("list", &kind.rbac(), &owner.namespace, api.list(&ListParams::default().labels(&labels))).await?;
    Ok(found.items.iter().map(|object| (object.name_any(), live(kind, owner, object))).collect())
}

/// An object that the list of ours doesn't show may still exist, without our labels.
async fn look(api: &Api<DynamicObject>, kind: &Kind, owner: &Owner, name: &str) -> Result<Option<Live>, Fault> {
    let found = call("get", &kind.rbac(), &path(kind, owner, name), api.get_metadata_opt(name)).await?;
    Ok(found.map(|object| live(kind, owner, &object)))
}

fn live(kind: &Kind, owner: &Owner, object: &PartialObjectMeta<DynamicObject>) -> Live {
    let labels = object.labels();
    let managed = labels.get("app.kubernetes.io/managed-by").is_some_and(|by| by == MANAGER);
    let controller = object.owner_references().iter().find(|reference| reference.controller == Some(true));
    let owned = match controller {
        _ if !kind.namespaced => {
            // A binding of a predecessor with the same name is ours to take over: the name says whose it is.
            if managed { Ownership::Ours } else { Ownership::Foreign }
        }
        Some(reference) if reference.uid == owner.uid => Ownership::Ours,
        None if managed => Ownership::Nobody,
        _ => Ownership::Foreign,
    };
    Live {
        uid: object.uid().unwrap_or_default(),
        version: object.resource_version().unwrap_or_default(),
        generation: object.metadata.generation,
        labels: labels.clone(),
        owned,
        leaving: object.metadata.deletion_timestamp.is_some(),
    }
}

async fn apply(
    api: &Api<DynamicObject>,
    kind: &Kind,
    path: &str,
    object: &Object,
) -> Result<PartialObjectMeta<DynamicObject>, Fault> {
    // Only what is ours gets here, so a field that somebody else wrote meanwhile is taken back.
    let params = PatchParams::apply(MANAGER).force();
    let patch: Patch<&Value> = Patch::Apply(&object.0);
    call("patch", &kind.rbac(), path, api.patch_metadata(object.name(), &params, &patch)).await
}

/// Deletes exactly this object; with `orphan` its pods stay and are taken up by its successor.
async fn remove(
    api: &Api<DynamicObject>,
    kind: &Kind,
    path: &str,
    name: &str,
    uid: &str,
    orphan: bool,
) -> Result<(), Fault> {
    let policy = if orphan && kind.workload { PropagationPolicy::Orphan } else { PropagationPolicy::Background };
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match call("delete", &kind.rbac(), path, api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.kind == FaultKind::NotFound => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// Waits by uid, on the API server itself: no cache can lie here.
async fn wait_until_gone(
    api: &Api<DynamicObject>,
    kind: &Kind,
    path: &str,
    name: &str,
    uid: &str,
) -> Result<(), Fault> {
    let deadline = tokio::time::Instant::now() + GONE_WITHIN;
    loop {
        match call("get", &kind.rbac(), path, api.get_metadata_opt(name)).await? {
            Some(object) if object.uid().as_deref() == Some(uid) => {}
            _ => return Ok(()),
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(fault(
                FaultKind::Unavailable,
                "delete",
                kind,
                path,
                "it is being deleted; waiting until it is gone",
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Kind {
    /// For calls.
    pub(crate) fn resource(&self) -> ApiResource {
        let api_version =
            if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) };
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// The plural with its group, as RBAC names it.
    fn rbac(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}
