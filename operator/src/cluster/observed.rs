//! What was found in the world before judging a wish, and what has to be looked up for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{MonitoringCluster, RemoteStore};
use crate::desired::names;

/// The world, as far as judging one MonitoringCluster needs it. Filled by `observe`, read by `validate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Version of this operator: the engine version of objects that have none yet.
    pub operator_version: String,
    /// Repository of the engine's image, without tag, when not the default one.
    pub engine_image: Option<String>,
    /// Secrets of the object's namespace, by name: those that [`References`] asks for.
    pub secrets: BTreeMap<String, Found>,
    /// ConfigMaps of the object's namespace, by name: those that [`References`] asks for.
    pub config_maps: BTreeMap<String, Found>,
    /// ConfigMaps that the rule selector selects: name and text keys.
    pub rule_config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Hashes of the Prometheus configurations that at least one replica reported as loaded.
    pub loaded_configurations: BTreeSet<String>,
    /// The claim template of the Prometheus StatefulSet that exists already, if one does.
    pub prometheus_claim: Option<Claim>,
    /// The level that the namespace's label `pod-security.kubernetes.io/enforce` names.
    pub pod_security: Option<String>,
}

/// The volume of an existing StatefulSet; it can't be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// An emptyDir: no claim template.
    Ephemeral,
    /// A claim template.
    Volume {
        /// `resources.requests.storage`.
        size: String,
        /// `storageClassName`.
        class: Option<String>,
    },
}

/// An object that was looked up by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is there, with these keys (decoded).
    Present(BTreeMap<String, Vec<u8>>),
    /// It isn't there.
    Missing,
    /// The operator may not read it.
    Forbidden,
}

/// Names that have to be looked up to judge a wish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Secrets of the object's namespace.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps of the object's namespace.
    pub config_maps: BTreeSet<String>,
}

impl References {
    /// What judging this MonitoringCluster needs.
    #[must_use]
    pub fn of_cluster(cluster: &MonitoringCluster) -> Self {
        let mut refs = Self::default();
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        refs.secrets.extend(names::configuration_slots(name));
        if let Some(storage) = &cluster.spec.object_storage {
            if let Some(key) = storage.gcs.as_ref().and_then(|gcs| gcs.credentials_secret_ref.as_ref()) {
                refs.secrets.insert(key.name.clone());
            }
            if let Some(key) = &storage.secret_ref {
                refs.secrets.insert(key.name.clone());
            }
        }
        for additional in &cluster.spec.scrape.additional {
            if let Some(key) = &additional.secret_ref {
                refs.secrets.insert(key.name.clone());
            }
            if let Some(key) = &additional.config_map_ref {
                refs.config_maps.insert(key.name.clone());
            }
        }
        if let Some(tls) = cluster.spec.expose.store_api.as_ref().and_then(|expose| expose.tls.as_ref()) {
            refs.secrets.insert(tls.secret_ref.name.clone());
            if let Some(ca) = &tls.client_ca_secret_ref {
                refs.secrets.insert(ca.name.clone());
            }
        }
        refs
    }

    /// What judging this RemoteStore needs.
    #[must_use]
    pub fn of_link(link: &RemoteStore) -> Self {
        let mut refs = Self::default();
        if let Some(tls) = &link.spec.tls {
            refs.secrets.extend(tls.ca_secret_ref.iter().map(|r| r.name.clone()));
            refs.secrets.extend(tls.client_secret_ref.iter().map(|r| r.name.clone()));
        }
        refs
    }

    /// Both together.
    pub fn extend(&mut self, other: Self) {
        self.secrets.extend(other.secrets);
        self.config_maps.extend(other.config_maps);
    }
}

/// Why a key of a referenced object can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Object,
    Key,
    Forbidden,
}

/// The bytes of one key.
pub(crate) fn key<'a>(objects: &'a BTreeMap<String, Found>, name: &str, key: &str) -> Result<&'a [u8], Absent> {
    match objects.get(name) {
        Some(Found::Present(data)) => data.get(key).map(Vec::as_slice).ok_or(Absent::Key),
        Some(Found::Forbidden) => Err(Absent::Forbidden),
        Some(Found::Missing) | None => Err(Absent::Object),
    }
}

/// The sentence and the next step for a missing right in a namespace.
#[must_use]
pub fn grant_command(namespace: &str) -> String {
    format!("grant it with: panoptes operator rbac -n {namespace} | kubectl apply -f -")
}
