//! Pod template patches: what is protected is refused before anything is merged.

use serde_json::{Map, Value};

use crate::api::{MonitoringClusterSpec, PodTemplatePatch};

use super::problem::{ConditionType, Problem, Reason};

/// Labels that selectors and discovery rely on.
const LABELS: &[&str] = &[
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/managed-by",
    "panoptes.dev/shard",
    "thanos-store-api",
];
/// Fields of our own containers that have a field of their own, or that others rely on.
const CONTAINER_FIELDS: &[(&str, &str)] = &[
    ("args", "use extraArgs"),
    ("command", "it is fixed"),
    ("image", "use the part's image"),
    ("ports", "they are fixed"),
];
/// Fields of a pod template's metadata and spec that are fixed.
const POD_FIELDS: &[&str] = &["serviceAccountName", "serviceAccount", "restartPolicy", "hostname", "subdomain"];

pub(super) fn check(spec: &MonitoringClusterSpec, problems: &mut Vec<Problem>) {
    let parts: [(&str, Option<&PodTemplatePatch>, &[&str]); 4] = [
        (
            "spec.prometheus.podTemplate",
            spec.prometheus.pod_template.as_ref(),
            &["prometheus", "sidecar", "init-config"],
        ),
        ("spec.querier.podTemplate", spec.querier.pod_template.as_ref(), &["query"]),
        ("spec.kubeStateMetrics.podTemplate", spec.kube_state_metrics.pod_template.as_ref(), &["kube-state-metrics"]),
        ("spec.nodeExporter.podTemplate", spec.node_exporter.pod_template.as_ref(), &["node-exporter"]),
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
        one(patch, own, &mut reject);
    }
}

fn one(patch: &Map<String, Value>, own: &[&str], reject: &mut dyn FnMut(&str, String)) {
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
    for label in object(metadata.get("labels")).unwrap_or_else(|| empty.clone()).keys() {
        if LABELS.contains(&label.as_str()) {
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
            if list == "volumes" || !own.contains(&name) {
                continue;
            }
            for (key, instead) in CONTAINER_FIELDS.iter().filter(|(key, _)| item.get(*key).is_some()) {
                reject(
                    &format!(".spec.{list}[{name}]"),
                    format!("{key:?} of a container of ours is protected: {instead}"),
                );
            }
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
