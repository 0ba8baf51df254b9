//! A kubelet looks for changes of mounted Secrets and ConfigMaps once a minute or so, and at once when the pod itself
//! changes. So each pod carries the hash of what it mounts as an annotation.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt as _;
use serde_json::Value;

use crate::desired::{Object, hash};
use crate::observe::{Found, Observed};

/// The annotation.
pub const FILES_ANNOTATION: &str = "panoptes.dev/files";

/// A pod whose annotation is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Hash over the Secrets and ConfigMaps that it mounts.
    pub hash: String,
}

/// The pods whose mounted files have changed since they were last marked.
#[must_use]
pub fn marks(observed: &Observed, wanted: &[Object]) -> Vec<Mark> {
    let mut contents: BTreeMap<(&str, String), String> = BTreeMap::new();
    for (name, secret) in &observed.secrets {
        if let Found::Present(secret) = secret {
            let text = serde_json::to_vec(&secret.data).unwrap_or_default();
            contents.insert(("Secret", name.clone()), hash(&text));
        }
    }
    // What is desired wins over what was seen: it has just been written.
    for object in wanted.iter().filter(|object| matches!(object.kind(), "Secret" | "ConfigMap")) {
        let data =
            ["data", "binaryData", "stringData"].map(|field| object.0.get(field).unwrap_or(&Value::Null).to_string());
        contents.insert(
            (if object.kind() == "Secret" { "Secret" } else { "ConfigMap" }, object.name().to_owned()),
            hash(data.concat().as_bytes()),
        );
    }
    let mut marks = Vec::new();
    for (name, pod) in &observed.live.pods {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let sources = sources(pod);
        let known: Vec<String> = sources
            .into_iter()
            .filter_map(|source| contents.get(&source).map(|content| format!("{}/{}={content}", source.0, source.1)))
            .collect();
        if known.is_empty() {
            continue;
        }
        let hash = hash(known.join("\n").as_bytes())[..16].to_owned();
        if pod.annotations().get(FILES_ANNOTATION) != Some(&hash) {
            marks.push(Mark { pod: name.clone(), uid: pod.uid().unwrap_or_default(), hash });
        }
    }
    marks
}

/// The Secrets and ConfigMaps that a pod mounts.
fn sources(pod: &Pod) -> BTreeSet<(&'static str, String)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut found = BTreeSet::new();
    for volume in volumes {
        let Volume { secret, config_map, projected, .. } = volume;
        found.extend(secret.iter().filter_map(|s| Some(("Secret", s.secret_name.clone()?))));
        found.extend(config_map.iter().map(|c| ("ConfigMap", c.name.clone())));
        for source in projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            found.extend(source.secret.iter().map(|s| ("Secret", s.name.clone())));
            found.extend(source.config_map.iter().map(|c| ("ConfigMap", c.name.clone())));
        }
    }
    found
}
