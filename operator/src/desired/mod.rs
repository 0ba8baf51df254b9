//! The objects that a valid wish stands for. Pure, and can't fail: one part per file.

pub(crate) mod compact;
pub(crate) mod configuration;
mod endpoints;
pub(crate) mod images;
mod kube_state_metrics;
pub(crate) mod meta;
pub mod names;
mod node_exporter;
mod object;
pub(crate) mod objstore;
mod patch;
pub(crate) mod pod;
mod profile;
pub(crate) mod prometheus;
pub(crate) mod query;
mod rules;
pub(crate) mod scrape_jobs;
mod slots;
pub(crate) mod store;
mod store_api;

use sha2::{Digest as _, Sha256};

use crate::cluster::{Problem, ValidCluster};

pub use configuration::Configuration;
pub use images::Images;
pub use object::Object;

/// Everything that should exist for this cluster, in the order in which it is applied: what others mount comes first.
#[must_use]
pub fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let mut objects = Vec::new();
    objects.extend(objstore::objects(cluster));
    objects.extend(configuration::objects(cluster));
    objects.extend(rules::objects(cluster));
    objects.extend(endpoints::objects(cluster));
    objects.push(store_api::service(cluster));
    objects.extend(prometheus::objects(cluster));
    objects.extend(store::objects(cluster));
    objects.extend(compact::objects(cluster));
    objects.extend(query::objects(cluster));
    objects.extend(kube_state_metrics::objects(cluster));
    objects.extend(node_exporter::objects(cluster));
    objects
}

/// What does not fit into the slots that are declared for it.
pub(crate) fn too_large(cluster: &ValidCluster) -> Vec<Problem> {
    rules::too_large(cluster).into_iter().chain(endpoints::too_large(cluster)).collect()
}

/// Revision of the links, as a querier that has them in use reports it.
#[must_use]
pub fn links_revision(cluster: &ValidCluster) -> String {
    endpoints::links(cluster).revision
}

/// Hash over the rule files, as a sidecar whose Prometheus has loaded them reports it.
#[must_use]
pub fn rules_hash(cluster: &ValidCluster) -> String {
    rules::hash(cluster)
}

/// Lower-case hex of SHA-256: the form of every hash in status and state documents.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    args::files::hex(&Sha256::digest(bytes))
}
