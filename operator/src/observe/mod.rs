//! Everything that one reconciliation needs to know, gathered once. All later steps are pure functions of it.

mod fault;
mod gather;
mod links;
mod references;
mod states;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};

use crate::api::{MonitoringCluster, RemoteStore};

pub use fault::{Fault, FaultKind, call};
pub(crate) use gather::CLAIMS;
pub use gather::{Gathered, gather};
pub use links::{Assignment, assign, conflicts};
pub use references::{References, references};
pub use states::{Locate, PartState, States, fetch, pod_address};

/// The world as one MonitoringCluster's reconciliation sees it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The wish.
    pub cluster: MonitoringCluster,
    /// The RemoteStores that belong to it, by name.
    pub remotes: Vec<RemoteStore>,
    /// RemoteStores that lose to an older one (or to the cluster itself) of the same cluster name: name → who wins.
    /// With `onConflict: Reject` they are kept in the links as probe-only.
    pub conflicts: BTreeMap<String, Winner>,
    /// The Secrets that [`references`] names, by name.
    pub secrets: BTreeMap<String, Found<Secret>>,
    /// The ConfigMaps that [`references`] names or its rule selector matches, by name.
    pub config_maps: BTreeMap<String, Found<ConfigMap>>,
    /// Names of the ConfigMaps (keys of `config_maps`) that carry the rules label.
    pub rule_config_maps: BTreeSet<String>,
    /// Labels of the namespace; empty where they can't be read.
    pub namespace_labels: BTreeMap<String, String>,
    /// Hashes of configurations that at least one Prometheus is known to have loaded.
    pub loaded: BTreeSet<String>,
    /// Hashes of configurations that Prometheus refused → its words.
    pub refused: BTreeMap<String, String>,
    /// Our objects as they are.
    pub live: Live,
    /// What the parts say about themselves, by pod.
    pub states: States,
    /// What an installation sets for all clusters.
    pub defaults: Defaults,
}

/// Who keeps a cluster name that two claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Winner {
    /// The MonitoringCluster itself has that name.
    Local,
    /// The older RemoteStore of this name.
    Older(String),
}

/// Something that was asked for by name.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<T> {
    /// Here it is.
    Present(T),
    /// There is none.
    Missing,
    /// The operator may not look; the API server's words.
    Forbidden(String),
}

impl<T> Found<T> {
    /// The thing, where it is there.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Missing | Self::Forbidden(_) => None,
        }
    }
}

/// Our objects as they are in the API server, by name.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// StatefulSets.
    pub stateful_sets: BTreeMap<String, StatefulSet>,
    /// Deployments.
    pub deployments: BTreeMap<String, Deployment>,
    /// DaemonSets.
    pub daemon_sets: BTreeMap<String, DaemonSet>,
    /// Services (a load balancer's address, a node port).
    pub services: BTreeMap<String, Service>,
    /// Pods.
    pub pods: BTreeMap<String, Pod>,
    /// Claims of our pods.
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
}

/// What an installation sets for all clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Image of our own parts.
    pub engine_image: String,
    /// Version of this operator.
    pub operator_version: String,
}
