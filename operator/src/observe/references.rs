//! Which Secrets and ConfigMaps a wish names. Nothing else is ever read.

use std::collections::BTreeSet;

use kube::ResourceExt as _;

use crate::api::{MonitoringCluster, RemoteStore};
use crate::desired::names;

/// Names of objects in the wish's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps, beside those of the rule selector.
    pub config_maps: BTreeSet<String>,
}

/// What a MonitoringCluster and its RemoteStores name, and the generated objects that hold what ran before.
#[must_use]
pub fn references(cluster: &MonitoringCluster, remotes: &[RemoteStore]) -> References {
    let mut found = References::default();
    let spec = &cluster.spec;
    if let Some(storage) = &spec.object_storage {
        found.secrets.extend(storage.secrets());
    }
    for scrape in &spec.scrape.additional {
        found.secrets.extend(scrape.secret_ref.as_ref().map(|key| key.name.clone()));
        found.config_maps.extend(scrape.config_map_ref.as_ref().map(|key| key.name.clone()));
    }
    if let Some(tls) = spec.expose.store_api.as_ref().and_then(|expose| expose.tls.as_ref()) {
        found.secrets.insert(tls.secret_ref.name.clone());
        found.secrets.extend(tls.client_ca_secret_ref.as_ref().map(|ca| ca.name.clone()));
    }
    for tls in remotes.iter().filter_map(|remote| remote.spec.tls.as_ref()) {
        found.secrets.extend(tls.ca_secret_ref.as_ref().map(|ca| ca.name.clone()));
        found.secrets.extend(tls.client_secret_ref.as_ref().map(|client| client.name.clone()));
    }
    for auth in remotes.iter().filter_map(|remote| remote.spec.auth.as_ref()) {
        found.secrets.insert(auth.bearer_token_secret_ref.name.clone());
    }
    // Our own, for what ran before.
    let name = cluster.name_any();
    for remote in remotes {
        if let Some(bucket) = &remote.spec.bucket_ref {
            found.secrets.extend(bucket.secrets());
            found.secrets.insert(names::remote_objstore(&names::remote(&name, &remote.name_any())));
        }
    }
    found.secrets.extend(names::configuration_slots(&name));
    found.config_maps.extend(names::rule_slots(&name));
    if spec.object_storage.is_some() {
        found.secrets.insert(names::objstore(&name));
    }
    if remotes.iter().any(|remote| remote.spec.tls.is_some() || remote.spec.auth.is_some()) {
        found.secrets.extend(names::endpoint_slots(&name));
    }
    found
}
