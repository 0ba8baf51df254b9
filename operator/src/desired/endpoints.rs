//! What queriers read: their own parts, the links to other clusters, and the links' certificates, spread over Secrets that
//! are declared in the pod template from the start. A new link, or a thousand, never change a template.

use std::collections::BTreeMap;

use args::endpoints::{ClientConfig, Endpoint, Endpoints, TlsConfig};
use args::files::{ENDPOINT_SLOTS, ENDPOINTS, LINKS};
use args::links::{self, Link, Links, Probe};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::{Criticality, RemoteMode};
use crate::cluster::{ConditionType, Problem, Reason, ValidCluster, ValidLink};

use super::{Object, hash, meta, names, objstore, slots, store, store_api};

/// The Secrets.
pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let files = files(cluster);
    let (placed, _) = spread(&files);
    let mut data: Vec<Map<String, Value>> = vec![Map::new(); ENDPOINT_SLOTS];
    for (name, slot) in &placed {
        data[*slot].insert((*name).to_owned(), Value::from(STANDARD.encode(&files[*name])));
    }
    names::endpoint_slots(&cluster.name)
        .into_iter()
        .zip(data)
        .enumerate()
        .filter(|(slot, (_, data))| *slot == 0 || !data.is_empty())
        .map(|(_, (name, data))| objstore::secret(cluster, meta::QUERY, &name, data))
        .collect()
}

fn spread(files: &BTreeMap<String, Vec<u8>>) -> (BTreeMap<&str, usize>, Vec<&str>) {
    slots::spread(files.iter().map(|(name, bytes)| (name.as_str(), bytes.len())), ENDPOINT_SLOTS)
}

pub(super) fn too_large(cluster: &ValidCluster) -> Option<Problem> {
    let files = files(cluster);
    let (_, left) = spread(&files);
    (!left.is_empty()).then(|| {
        Problem::new(
            ConditionType::RemoteStoresReady,
            Reason::ConfigTooLarge,
            "spec",
            format!(
                "{} files of {} links don't fit into {ENDPOINT_SLOTS} Secrets; queriers keep the last links that did. \
                 Share certificates between links.",
                left.len(),
                cluster.links.len()
            ),
        )
    })
}

/// Every file that queriers read, by name.
fn files(cluster: &ValidCluster) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    files.insert(ENDPOINTS.to_owned(), yaml(&own_parts(cluster)));
    files.insert(LINKS.to_owned(), yaml(&links(cluster)));
    for tls in cluster.links.iter().filter_map(|link| link.tls.as_ref()) {
        let pair = tls.client.iter().flat_map(|(cert, key)| [cert, key]);
        for bytes in tls.ca.iter().chain(pair) {
            files.insert(file_name(bytes), bytes.clone());
        }
    }
    for token in cluster.links.iter().filter_map(|link| link.token.as_ref()) {
        files.insert(token_file(token), token.clone());
    }
    files
}

/// Certificates are named by content: each is stored once, and a new one never replaces one that is in use.
fn file_name(bytes: &[u8]) -> String {
    format!("{}.pem", &hash(bytes)[..32])
}

/// The same for tokens.
fn token_file(bytes: &[u8]) -> String {
    format!("{}.token", &hash(bytes)[..32])
}

/// All that serve the StoreAPI, by one name; and the stores once more by names of their own. What is known by a name is missed
/// when the name has nobody behind it, and the first one always has somebody: Prometheus.
fn own_parts(cluster: &ValidCluster) -> Endpoints {
    let names = std::iter::once(store_api::name(cluster)).chain(store::expected(cluster));
    let address = |name: String| format!("dnssrv+_grpc._tcp.{name}.{}.svc", cluster.namespace);
    Endpoints {
        default_client_config: None,
        endpoints: names.map(|name| Endpoint { address: address(name), ..Endpoint::default() }).collect(),
    }
}

/// The links with the revision of their content.
pub(super) fn links(cluster: &ValidCluster) -> Links {
    let mut document = Links {
        format: links::FORMAT,
        revision: String::new(),
        cluster_label: cluster.spec.cluster_label.clone(),
        cluster_name: cluster.spec.cluster_name.clone(),
        files: Vec::new(),
        links: cluster.links.iter().map(link).collect(),
    };
    let mut files: Vec<String> = document
        .links
        .iter()
        .filter_map(|link| link.client.tls_config.as_ref())
        .flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file])
        .chain(document.links.iter().map(|link| &link.bearer_token_file))
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    files.sort();
    files.dedup();
    document.files = files;
    document.revision = hash(&yaml(&document))[..16].to_owned();
    document
}

fn link(link: &ValidLink) -> Link {
    let spec = &link.remote.spec;
    let client = match &link.tls {
        None => ClientConfig::default(),
        Some(tls) => {
            let name = |bytes: Option<&Vec<u8>>| bytes.map(|bytes| file_name(bytes)).unwrap_or_default();
            ClientConfig {
                tls_config: Some(TlsConfig {
                    enabled: None,
                    insecure_skip_verify: tls.insecure_skip_verify,
                    cert_file: name(tls.client.as_ref().map(|(cert, _)| cert)),
                    key_file: name(tls.client.as_ref().map(|(_, key)| key)),
                    ca_file: name(tls.ca.as_ref()),
                    min_version: String::new(),
                }),
                server_name: tls.server_name.clone(),
                compression: String::new(),
            }
        }
    };
    Link {
        namespace: link.remote.namespace().unwrap_or_default(),
        name: link.remote.name_any(),
        cluster: spec.cluster_name.clone(),
        address: link.address.clone(),
        expected: 0,
        client,
        bearer_token_file: link.token.as_ref().map(|token| token_file(token)).unwrap_or_default(),
        mode: match spec.mode {
            RemoteMode::Active => links::LinkMode::Active,
            RemoteMode::ProbeOnly => links::LinkMode::ProbeOnly,
            RemoteMode::Drained => links::LinkMode::Drained,
        },
        criticality: match spec.criticality {
            Criticality::Optional => links::Criticality::Optional,
            Criticality::Required => links::Criticality::Required,
        },
        probe: Probe { interval_ms: link.probe_interval_ms, timeout_ms: link.probe_timeout_ms, ..Probe::default() },
        rejected: link.rejected.clone(),
    }
}

/// JSON is YAML too: what can't be written pretty is still right.
fn yaml<T: Serialize>(document: &T) -> Vec<u8> {
    serde_saphyr::to_string(document).or_else(|_| serde_json::to_string(document)).unwrap_or_default().into_bytes()
}
