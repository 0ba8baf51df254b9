//! Names, labels and owners of the children.

use serde_json::{Map, Value, json};

use crate::api::GROUP;
use crate::cluster::ValidCluster;

use super::images::{KUBE_STATE_METRICS_VERSION, NODE_EXPORTER_VERSION};
use super::names;

/// The label that says who made an object.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "panoptes-operator");
/// The label that puts a pod behind the headless store-API Service, as in the tutorial.
pub(super) const STORE_API: (&str, &str) = ("thanos-store-api", "true");

/// A part: which software, in which role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    /// The software: `prometheus`, `panoptes`, …
    pub(super) name: &'static str,
    /// The role: `prometheus`, `query`, …
    pub(super) component: &'a str,
    /// Which of several StatefulSets that share the role, of a part that can be divided.
    pub(super) shard: Option<i32>,
}

pub(super) const PROMETHEUS: Part<'_> = Part { name: "prometheus", component: "prometheus", shard: Some(0) };
pub(super) const QUERY: Part<'_> = Part { name: "panoptes", component: "query", shard: None };
/// The store gateway as a whole; a StatefulSet of it has a shard.
pub(super) const STORE: Part<'_> = Part { name: "panoptes", component: names::STORE, shard: None };
pub(super) const COMPACT: Part<'_> = Part { name: "panoptes", component: names::COMPACT, shard: Some(0) };
pub(super) const KUBE_STATE_METRICS: Part<'_> =
    Part { name: "kube-state-metrics", component: "kube-state-metrics", shard: None };
pub(super) const NODE_EXPORTER: Part<'_> = Part { name: "node-exporter", component: "node-exporter", shard: None };
/// What belongs to the whole object.
pub(super) const WHOLE: Part<'_> = Part { name: "panoptes", component: "cluster", shard: None };

/// Labels of a selector. They never change: selectors are immutable.
pub(super) fn selector(cluster: &ValidCluster, part: Part<'_>) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": part.name,
        "app.kubernetes.io/instance": cluster.name,
        "app.kubernetes.io/component": part.component,
    });
    if let Some(shard) = part.shard {
        labels["panoptes.dev/shard"] = json!(shard.to_string());
    }
    labels
}

/// Labels that selectors and discovery rely on. Nobody else may set them: with the store-API label on its own pods a
/// querier would ask itself.
pub(crate) fn is_protected(label: &str) -> bool {
    const OWN: &[&str] = &["name", "instance", "component", "part-of", "managed-by"];
    label == STORE_API.0
        || label.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'))
        || label.strip_prefix("app.kubernetes.io/").is_some_and(|rest| OWN.contains(&rest))
}

/// Labels of a child: those of the selector, who made it, and the user's.
pub(super) fn labels(cluster: &ValidCluster, part: Part<'_>) -> Map<String, Value> {
    let users = cluster.spec.common_metadata.labels.iter().filter(|(label, _)| !is_protected(label));
    let mut all: Map<String, Value> = users.map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect();
    if let Value::Object(own) = selector(cluster, part) {
        all.extend(own);
    }
    all.insert("app.kubernetes.io/part-of".to_owned(), json!("panoptes"));
    all.insert(MANAGED_BY.0.to_owned(), json!(MANAGED_BY.1));
    all
}

fn version<'a>(cluster: &'a ValidCluster, part: Part<'_>) -> &'a str {
    match part.component {
        "prometheus" => &cluster.prometheus_version,
        "kube-state-metrics" => KUBE_STATE_METRICS_VERSION,
        "node-exporter" => NODE_EXPORTER_VERSION,
        _ => &cluster.engine_version,
    }
}

/// Metadata of a child in the object's namespace; it goes when the object goes.
pub(super) fn metadata(cluster: &ValidCluster, part: Part<'_>, name: &str) -> Value {
    let mut labels = labels(cluster, part);
    // Never in a template or a selector: a new version of one part must not touch the others' pods.
    labels.insert("app.kubernetes.io/version".to_owned(), json!(version(cluster, part)));
    let mut meta = json!({
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "MonitoringCluster",
            "name": cluster.name,
            "uid": cluster.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    });
    let annotations = &cluster.spec.common_metadata.annotations;
    if !annotations.is_empty() {
        meta["annotations"] = json!(annotations);
    }
    meta
}

/// Metadata of a child of the whole cluster. It can't be owned by an object in a namespace, so it says whose it is and
/// is swept when that one is gone.
pub(super) fn cluster_metadata(cluster: &ValidCluster, part: Part<'_>, name: &str) -> Value {
    let mut labels = labels(cluster, part);
    labels.insert("panoptes.dev/namespace".to_owned(), json!(cluster.namespace));
    labels.insert("panoptes.dev/name".to_owned(), json!(cluster.name));
    labels.insert("panoptes.dev/uid".to_owned(), json!(cluster.uid));
    let mut meta = json!({"name": name, "labels": labels});
    let annotations = &cluster.spec.common_metadata.annotations;
    if !annotations.is_empty() {
        meta["annotations"] = json!(annotations);
    }
    meta
}
