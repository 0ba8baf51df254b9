//! Gathers what [`Observed`] holds. What can't be read is told beside it; the rest goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::{Defaults, Fault, FaultKind, Found, Live, Observed, States, call, conflicts, references};
use crate::api::{MonitoringCluster, RemoteStore};
use crate::desired::names;
use crate::desired::pod::DATA_VOLUME;

/// Labels that claims of ours have, of which others may have some too.
pub(crate) const CLAIMS: &str = "app.kubernetes.io/name in (prometheus,panoptes),app.kubernetes.io/component";
/// How many calls run at once.
const AT_ONCE: usize = 8;

/// What was seen, and what could not be.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// The world.
    pub observed: Observed,
    /// What of it could not be read.
    pub faults: Vec<Fault>,
}

/// Looks at the world around one MonitoringCluster. `states` is what its parts said last.
pub async fn gather(
    client: &Client,
    cluster: MonitoringCluster,
    remotes: Vec<RemoteStore>,
    states: States,
    defaults: Defaults,
) -> Gathered {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let ours = format!("app.kubernetes.io/managed-by=panoptes-operator,app.kubernetes.io/instance={name}");
    // Claims are made from templates, which carry no more than selector labels.
    let claims = format!("app.kubernetes.io/instance={name},{CLAIMS}");
    let named = references(&cluster, &remotes);
    let rules = cluster.spec.rules.config_map_selector.to_query();

    let (stateful_sets, deployments, daemon_sets, services, pods, claims) = tokio::join!(
        list::<StatefulSet>(client, &namespace, &ours),
        list::<Deployment>(client, &namespace, &ours),
        list::<DaemonSet>(client, &namespace, &ours),
        list::<Service>(client, &namespace, &ours),
        list::<Pod>(client, &namespace, &ours),
        list::<PersistentVolumeClaim>(client, &namespace, &claims),
    );
    let mut faults = Vec::new();
    let live = Live {
        stateful_sets: keep(stateful_sets, &mut faults),
        deployments: keep(deployments, &mut faults),
        daemon_sets: keep(daemon_sets, &mut faults),
        services: keep(services, &mut faults),
        pods: keep(pods, &mut faults),
        claims: keep(claims, &mut faults).into_iter().filter(|(_, claim)| is_ours(&name, claim)).collect(),
    };

    let secrets = by_name::<Secret>(client, &namespace, named.secrets, &mut faults).await;
    let mut config_maps = by_name::<ConfigMap>(client, &namespace, named.config_maps, &mut faults).await;
    let mut rule_config_maps = BTreeSet::new();
    if !rules.is_empty() {
        for (name, map) in keep(list::<ConfigMap>(client, &namespace, &rules).await, &mut faults) {
            rule_config_maps.insert(name.clone());
            config_maps.insert(name, Found::Present(map));
        }
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace_labels = match call("get", "namespaces", &namespace, namespaces.get(&namespace)).await {
        Ok(namespace) => namespace.labels().clone(),
        Err(fault) => {
            faults.push(fault);
            BTreeMap::new()
        }
    };

    let configurations = || states.values().flatten().filter_map(|state| state.configuration.as_ref());
    let loaded = configurations().filter_map(|c| c.loaded.clone()).collect();
    let refused = states
        .values()
        .flatten()
        .filter(|state| state.prometheus.as_ref().is_none_or(|prometheus| prometheus.up))
        .filter_map(|state| state.configuration.as_ref())
        .filter(|c| c.loaded.as_ref() != Some(&c.wanted))
        .filter_map(|c| Some((c.wanted.clone(), c.error.clone()?)))
        .collect();
    let observed = Observed {
        conflicts: conflicts(&cluster, &remotes),
        cluster,
        remotes,
        secrets,
        config_maps,
        rule_config_maps,
        namespace_labels,
        loaded,
        refused,
        live,
        states,
        defaults,
    };
    Gathered { observed, faults }
}

/// Whether a claim is one that a StatefulSet of ours made, by its name: the labels are what other tools use as well.
fn is_ours(cluster: &str, claim: &PersistentVolumeClaim) -> bool {
    let label = |name: &str| claim.labels().get(name).map(String::as_str).unwrap_or_default();
    let set = match label("app.kubernetes.io/component") {
        names::PROMETHEUS => names::prometheus(cluster),
        names::STORE => match label("panoptes.dev/shard").parse() {
            Ok(shard) => names::store_shard(cluster, shard),
            Err(_) => return false,
        },
        names::COMPACT => names::compact(cluster),
        component if names::is_remote(component) => format!("{cluster}-{component}"),
        _ => return false,
    };
    let name = claim.name_any();
    let ordinal = name.strip_prefix(DATA_VOLUME).and_then(|rest| rest.strip_prefix('-')?.strip_prefix(set.as_str()));
    ordinal.and_then(|rest| rest.strip_prefix('-')).is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
}

/// The plural with its group, as RBAC names it.
pub(crate) fn resource<K: Resource<DynamicType = ()>>() -> String {
    let (plural, group) = (K::plural(&()), K::group(&()));
    if group.is_empty() { plural.into_owned() } else { format!("{plural}.{group}") }
}

async fn list<K>(client: &Client, namespace: &str, labels: &str) -> Result<BTreeMap<String, K>, Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(labels);
    let found = call("list", &resource::<K>(), namespace, api.list(&params)).await?;
    Ok(found.items.into_iter().map(|object| (object.name_any(), object)).collect())
}

fn keep<K>(found: Result<BTreeMap<String, K>, Fault>, faults: &mut Vec<Fault>) -> BTreeMap<String, K> {
    found.unwrap_or_else(|fault| {
        faults.push(fault);
        BTreeMap::new()
    })
}

async fn by_name<K>(
    client: &Client,
    namespace: &str,
    names: BTreeSet<String>,
    faults: &mut Vec<Fault>,
) -> BTreeMap<String, Found<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let resource = resource::<K>();
    let answers: Vec<(String, Result<K, Fault>)> = futures::stream::iter(names)
        .map(|name| {
            let (api, resource) = (&api, &resource);
            async move {
                let answer = call("get", resource, &format!("{namespace}/{name}"), api.get(&name)).await;
                (name, answer)
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut found = BTreeMap::new();
    for (name, answer) in answers {
        let entry = match answer {
            Ok(object) => Found::Present(object),
            Err(fault) if fault.kind == FaultKind::NotFound => Found::Missing,
            Err(fault) => {
                let entry = Found::Forbidden(fault.message.clone());
                faults.push(fault);
                entry
            }
        };
        found.insert(name, entry);
    }
    found
}
