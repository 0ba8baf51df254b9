//! Pod template patches: what is protected is refused before anything is merged.

use serde_json::{Map, Value};

use crate::api::{MonitoringClusterSpec, PodTemplatePatch};

use crate::desired::{compact, configuration, meta, objstore, pod, prometheus, query, store};

use super::problem::{ConditionType, Problem, Reason};

/// Fields of our own containers that have a field of their own, or that others rely on.
const CONTAINER_FIELDS: &[(&str, &str)] = &[
    ("args", "use extraArgs"),
    ("command", "it is fixed"),
    ("image", "use the part's image"),
    ("ports", "they are fixed"),
];
/// Fields of a pod template's metadata and spec that are fixed.
const POD_FIELDS: &[&str] = &["serviceAccountName", "serviceAccount", "restartPolicy", "hostname", "subdomain"];

/// What of a part is ours, so that no patch may take it away or put another thing in its place.
struct Own {
    containers: &'static [&'static str],
    volumes: &'static [&'static str],
    mounts: &'static [&'static str],
}

const PROMETHEUS: Own = Own {
    containers: &["prometheus", "sidecar", "init-config"],
    volumes: &["config", "config-shared", "rules", pod::DATA_VOLUME, objstore::CONFIG_VOLUME, objstore::BUCKET_VOLUME],
    mounts: &[
        prometheus::CONFIG_DIR,
        configuration::SHARED_DIR,
        configuration::RULES_DIR,
        prometheus::DATA_DIR,
        objstore::CONFIG_DIR,
        objstore::BUCKET_DIR,
    ],
};
const STORE: Own = Own {
    containers: &["store"],
    volumes: &[pod::DATA_VOLUME, objstore::CONFIG_VOLUME, objstore::BUCKET_VOLUME],
    mounts: &[store::DATA_DIR, objstore::CONFIG_DIR, objstore::BUCKET_DIR],
};
const COMPACT: Own = Own {
    containers: &["compact"],
    volumes: &[pod::DATA_VOLUME, objstore::CONFIG_VOLUME, objstore::BUCKET_VOLUME],
    mounts: &[compact::DATA_DIR, objstore::CONFIG_DIR, objstore::BUCKET_DIR],
};
const QUERIER: Own = Own {
    containers: &["query"],
    volumes: &["endpoints", query::TLS_VOLUME, query::CLIENT_CA_VOLUME],
    mounts: &[query::ENDPOINTS_DIR, query::TLS_DIR, query::CLIENT_CA_DIR],
};
const KUBE_STATE_METRICS: Own = Own { containers: &["kube-state-metrics"], volumes: &[], mounts: &[] };
const NODE_EXPORTER: Own = Own { containers: &["node-exporter"], volumes: &["root"], mounts: &["/host/root"] };
/// The variable that makes replicas differ: with one value for all, two would look like one.
const POD_NAME: &str = "POD_NAME";

pub(super) fn check(spec: &MonitoringClusterSpec, problems: &mut Vec<Problem>) {
    let parts = [
        ("spec.prometheus.podTemplate", spec.prometheus.pod_template.as_ref(), PROMETHEUS),
        ("spec.storeGateway.podTemplate", spec.store_gateway.pod_template.as_ref(), STORE),
        ("spec.compactor.podTemplate", spec.compactor.pod_template.as_ref(), COMPACT),
        ("spec.querier.podTemplate", spec.querier.pod_template.as_ref(), QUERIER),
        ("spec.kubeStateMetrics.podTemplate", spec.kube_state_metrics.pod_template.as_ref(), KUBE_STATE_METRICS),
        ("spec.nodeExporter.podTemplate", spec.node_exporter.pod_template.as_ref(), NODE_EXPORTER),
    ];
    for (field, patch, own) in parts {
        let Some(PodTemplatePatch(patch)) = patch else { continue };
        let mut reject = |at: &str, message: String| {
            problems.push(Problem::new(
                ConditionType::Stalled,
                Reason::PodTemplateRejected,
                format!("{field}{at}"),
                message,
            ));
        };
        one(patch, &own, &mut reject);
    }
}

fn one(patch: &Map<String, Value>, own: &Own, reject: &mut dyn FnMut(&str, String)) {
    for key in patch.keys().filter(|key| !matches!(key.as_str(), "metadata" | "spec")) {
        reject("", format!("{key:?} is no field of a pod template: it takes metadata and spec"));
    }
    if let Some(directive) = directive(&Value::Object(patch.clone())) {
        reject("", format!("{directive:?} is not supported: set a field to null to remove it"));
    }
    let empty = Map::new();
    let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    for name in ["metadata", "spec"] {
        if patch.get(name).is_some_and(|value| !value.is_object()) {
            reject(&format!(".{name}"), "it is no object".to_owned());
        }
    }
    let metadata = object(patch.get("metadata")).unwrap_or_else(|| empty.clone());
    for key in metadata.keys().filter(|key| !matches!(key.as_str(), "labels" | "annotations")) {
        reject(".metadata", format!("{key:?} can't be set: only labels and annotations can"));
    }
    for list in ["labels", "annotations"] {
        if metadata.get(list).is_some_and(|value| !value.is_object()) {
            reject(&format!(".metadata.{list}"), "it is no object; ours can't be removed".to_owned());
        }
    }
    for label in object(metadata.get("labels")).unwrap_or_else(|| empty.clone()).keys() {
        if meta::is_protected(label) {
            reject(".metadata.labels", format!("{label:?} is protected: selectors rely on it"));
        }
    }
    let spec = object(patch.get("spec")).unwrap_or(empty);
    for key in POD_FIELDS.iter().filter(|key| spec.contains_key(**key)) {
        reject(".spec", format!("{key:?} is protected"));
    }
    for list in ["containers", "initContainers", "volumes"] {
        let Some(items) = spec.get(list) else { continue };
        let Some(items) = items.as_array() else {
            reject(&format!(".spec.{list}"), "it is no list".to_owned());
            continue;
        };
        for (i, item) in items.iter().enumerate() {
            let Some(name) = item.get("name").and_then(Value::as_str) else {
                reject(
                    &format!(".spec.{list}[{i}]"),
                    "it has no name, so nothing says what it is merged with".to_owned(),
                );
                continue;
            };
            if list == "volumes" {
                if own.volumes.contains(&name) {
                    reject(&format!(".spec.volumes[{name}]"), "it is a volume of ours: take another name".to_owned());
                }
                continue;
            }
            if !own.containers.contains(&name) {
                continue;
            }
            container(list, name, item, own, reject);
            for (key, instead) in CONTAINER_FIELDS.iter().filter(|(key, _)| item.get(*key).is_some()) {
                reject(
                    &format!(".spec.{list}[{name}]"),
                    format!("{key:?} of a container of ours is protected: {instead}"),
                );
            }
        }
    }
}

/// What a container of ours needs: its variable and its mounts.
fn container(list: &str, name: &str, item: &Value, own: &Own, reject: &mut dyn FnMut(&str, String)) {
    for field in ["env", "volumeMounts"] {
        if item.get(field).is_some_and(|value| !value.is_array()) {
            reject(&format!(".spec.{list}[{name}].{field}"), "it is no list; ours can't be removed".to_owned());
        }
    }
    let items = |field: &str| item.get(field).and_then(Value::as_array).into_iter().flatten();
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if items("env").any(|variable| text(variable, "name") == POD_NAME) {
        reject(&format!(".spec.{list}[{name}].env"), format!("{POD_NAME:?} is protected: it makes replicas differ"));
    }
    for mount in items("volumeMounts") {
        let path = text(mount, "mountPath");
        if own.mounts.contains(&path.trim_end_matches('/')) {
            reject(
                &format!(".spec.{list}[{name}].volumeMounts"),
                format!("{path:?} is a mount of ours: take another path"),
            );
        }
    }
}

/// A patch directive such as `$patch`, anywhere.
fn directive(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => {
            map.iter().find_map(|(key, inner)| if key.starts_with('$') { Some(key.clone()) } else { directive(inner) })
        }
        Value::Array(items) => items.iter().find_map(directive),
        _ => None,
    }
}
