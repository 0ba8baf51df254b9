//! What ran before, read back from our own objects: when a Secret vanishes for a moment or a file gets a typo, the last
//! good content stays in effect instead of being taken away.

use std::collections::BTreeMap;

use args::files::LINKS;
use args::links::{Link, Links};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;

use crate::api::{ExposeTls, RemoteStore};
use crate::desired::{names, query};
use crate::observe::{Found, Observed};

use super::certificates::ServerCertificates;
use super::link::ValidLinkTls;
use super::object_storage::ValidObjectStorage;

/// The rule files as Prometheus has them, by name.
pub(super) fn rule_files(observed: &Observed) -> BTreeMap<&str, &str> {
    let slots = names::rule_slots(&observed.cluster.name_any());
    let maps = slots.iter().filter_map(|slot| observed.config_maps.get(slot)).filter_map(Found::<ConfigMap>::present);
    maps.flat_map(|map| map.data.iter().flatten()).map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

/// A bucket as it was rendered into the Secret of this name.
pub(super) fn bucket(observed: &Observed, secret: &str) -> Option<ValidObjectStorage> {
    let secret = observed.secrets.get(secret)?.present()?;
    let files: BTreeMap<_, _> = files(secret).map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
    (!files.is_empty()).then_some(ValidObjectStorage { files })
}

/// The Secrets that the queriers' pods mount. Never less than what is wished for: where client certificates are wanted and
/// none were asked for before, there is nothing to keep.
pub(super) fn server_certificates(tls: &ExposeTls, observed: &Observed) -> Option<ServerCertificates> {
    let deployment = observed.live.deployments.get(&names::query(&observed.cluster.name_any()))?;
    let volumes = deployment.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    let mounted = |name: &str| {
        let volume = volumes.iter().find(|volume| volume.name == name)?;
        volume.secret.as_ref()?.secret_name.clone()
    };
    let kept = ServerCertificates { server: mounted(query::TLS_VOLUME)?, client_ca: mounted(query::CLIENT_CA_VOLUME) };
    (tls.client_ca_secret_ref.is_none() || kept.client_ca.is_some()).then_some(kept)
}

/// The files that queriers have, and what they are told about a link.
fn link<'a>(remote: &RemoteStore, observed: &'a Observed) -> Option<(BTreeMap<&'a str, &'a [u8]>, Link)> {
    let slots = names::endpoint_slots(&observed.cluster.name_any());
    let secrets = slots.iter().filter_map(|slot| observed.secrets.get(slot)).filter_map(Found::present);
    let files: BTreeMap<&str, &[u8]> = secrets.flat_map(files).collect();
    let document: Links = serde_saphyr::from_str(std::str::from_utf8(files.get(LINKS)?).ok()?).ok()?;
    let (namespace, name) = (remote.namespace().unwrap_or_default(), remote.name_any());
    let link = document.links.into_iter().find(|link| link.namespace == namespace && link.name == name)?;
    Some((files, link))
}

/// The token that queriers send over a link.
pub(super) fn link_token(remote: &RemoteStore, observed: &Observed) -> Option<Vec<u8>> {
    let (files, link) = link(remote, observed)?;
    files.get(link.bearer_token_file.as_str()).map(|bytes| bytes.to_vec())
}

/// The certificates that queriers use for a link.
pub(super) fn link_tls(remote: &RemoteStore, observed: &Observed) -> Option<ValidLinkTls> {
    let (files, link) = link(remote, observed)?;
    let tls = link.client.tls_config?;
    let file = |name: &str| files.get(name).map(|bytes| bytes.to_vec());
    Some(ValidLinkTls {
        server_name: link.client.server_name,
        insecure_skip_verify: tls.insecure_skip_verify,
        ca: file(&tls.ca_file),
        client: file(&tls.cert_file).zip(file(&tls.key_file)),
    })
}

fn files(secret: &Secret) -> impl Iterator<Item = (&str, &[u8])> {
    secret.data.iter().flatten().map(|(name, bytes)| (name.as_str(), bytes.0.as_slice()))
}
