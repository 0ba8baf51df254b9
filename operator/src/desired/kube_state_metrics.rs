//! kube-state-metrics: Deployment, account, right to list.

use serde_json::{Value, json};

use crate::cluster::ValidCluster;

use super::profile::{self, Sized};
use super::{Object, meta, names, pod};

/// ClusterRole of the installation: list and watch what [`RESOURCES`] names.
const ROLE: &str = "panoptes-kube-state-metrics";
/// What it lists. Secrets are left out: their names are of no use here, and listing them is listing their contents.
pub(crate) const RESOURCES: &[&str] = &[
    "configmaps",
    "cronjobs",
    "daemonsets",
    "deployments",
    "endpointslices",
    "horizontalpodautoscalers",
    "ingresses",
    "jobs",
    "leases",
    "limitranges",
    "namespaces",
    "networkpolicies",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "poddisruptionbudgets",
    "pods",
    "replicasets",
    "replicationcontrollers",
    "resourcequotas",
    "services",
    "statefulsets",
    "storageclasses",
    "volumeattachments",
];

pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let spec = &cluster.spec.kube_state_metrics;
    if !spec.enabled {
        return Vec::new();
    }
    let part = meta::KUBE_STATE_METRICS;
    let name = names::kube_state_metrics(&cluster.name);
    let args = [
        vec![
            "--port=8080".to_owned(),
            "--telemetry-port=8081".to_owned(),
            format!("--resources={}", RESOURCES.join(",")),
        ],
        spec.extra_args.clone(),
    ]
    .concat();
    let container = json!({
        "name": "kube-state-metrics",
        "image": cluster.images.kube_state_metrics,
        "args": args,
        "ports": [pod::container_port("http", 8080), pod::container_port("telemetry", 8081)],
        "readinessProbe": pod::probe("/readyz", "telemetry", 10, 3),
        "livenessProbe": pod::probe("/livez", "http", 10, 6),
        "resources": profile::resources(cluster.spec.profile, Sized::KubeStateMetrics, spec.resources.as_ref()),
    });
    let pod_spec: Value = json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": true,
        "containers": [container],
    });
    let template = pod::template(cluster, part, &[], "kube-state-metrics", pod_spec, spec.pod_template.as_ref());
    let deployment = Object(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta::metadata(cluster, part, &name),
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 5,
            // two at a time would give every series twice
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": meta::selector(cluster, part)},
            "template": template,
        },
    }));
    vec![pod::service_account(cluster, part, &name), pod::cluster_role_binding(cluster, part, &name, ROLE), deployment]
}
