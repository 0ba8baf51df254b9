//! What an installation consists of, beside the CustomResourceDefinitions.
//!
//! The operator can't grant itself what it lacks: cluster-wide it may read its own two kinds and namespaces' labels, and
//! bind the parts' ClusterRoles. Everything namespaced comes with `panoptes-namespace`, which a person binds per namespace.

use serde_json::{Value, json};

use super::SYSTEM_NAMESPACE;
use crate::api::GROUP;

/// Account of the operator, in [`SYSTEM_NAMESPACE`]; also the name of its own roles.
pub(super) const OPERATOR: &str = "panoptes-operator";
/// What the operator needs in each namespace that holds a MonitoringCluster.
pub(crate) const NAMESPACE_ROLE: &str = "panoptes-namespace";
/// What Prometheus needs to find its targets.
const PROMETHEUS_ROLE: &str = "panoptes-prometheus";
/// What kube-state-metrics reads.
const KUBE_STATE_METRICS_ROLE: &str = "panoptes-kube-state-metrics";
const RBAC: &str = "rbac.authorization.k8s.io";

/// All objects in the order in which they are applied.
pub(super) fn installation(image: &str, replicas: i32) -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": SYSTEM_NAMESPACE, "labels": {
                "app.kubernetes.io/part-of": "panoptes",
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            }},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": own(OPERATOR), "automountServiceAccountToken": false}),
        cluster_role(OPERATOR, &operator_rules()),
        cluster_role(NAMESPACE_ROLE, &namespace_rules()),
        cluster_role(PROMETHEUS_ROLE, &prometheus_rules()),
        cluster_role(KUBE_STATE_METRICS_ROLE, &kube_state_metrics_rules()),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding",
            "metadata": {"name": OPERATOR, "labels": labels()},
            "roleRef": role_ref("ClusterRole", OPERATOR), "subjects": [subject()],
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": own(OPERATOR),
            "rules": [
                rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
                rule("events.k8s.io", &["events"], &["create", "patch"]),
            ],
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": own(OPERATOR),
            "roleRef": role_ref("Role", OPERATOR), "subjects": [subject()],
        }),
        deployment(image, replicas),
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": own(OPERATOR),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector()}},
        }),
    ]
}

/// Lets the operator work in a namespace.
pub(super) fn namespace_binding(namespace: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding",
        "metadata": {"name": NAMESPACE_ROLE, "namespace": namespace, "labels": labels()},
        "roleRef": role_ref("ClusterRole", NAMESPACE_ROLE), "subjects": [subject()],
    })
}

fn operator_rules() -> Vec<Value> {
    vec![
        rule(GROUP, &["monitoringclusters", "remotestores"], &["get", "list", "watch"]),
        rule(GROUP, &["monitoringclusters/status", "remotestores/status"], &["get", "patch"]),
        // Owner references with blockOwnerDeletion need it where that admission plugin is on.
        rule(GROUP, &["monitoringclusters/finalizers"], &["update"]),
        rule("", &["namespaces"], &["get"]),
        rule(RBAC, &["clusterrolebindings"], &["get", "list", "create", "patch", "delete"]),
        json!({
            "apiGroups": [RBAC], "resources": ["clusterroles"], "verbs": ["bind"],
            "resourceNames": [PROMETHEUS_ROLE, KUBE_STATE_METRICS_ROLE],
        }),
    ]
}

fn namespace_rules() -> Vec<Value> {
    let all = ["get", "list", "watch", "create", "patch", "delete"];
    vec![
        rule("", &["secrets", "configmaps", "services", "serviceaccounts"], &all),
        rule("apps", &["statefulsets", "deployments", "daemonsets"], &all),
        rule("policy", &["poddisruptionbudgets"], &all),
        // Pods are never made or deleted by the operator; an annotation makes the kubelet sync their files at once.
        rule("", &["pods"], &["get", "list", "watch", "patch"]),
        rule("", &["persistentvolumeclaims"], &["get", "list", "watch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

fn prometheus_rules() -> Vec<Value> {
    let read = ["get", "list", "watch"];
    vec![
        rule("", &["nodes", "services", "endpoints", "pods"], &read),
        rule("discovery.k8s.io", &["endpointslices"], &read),
        rule("", &["nodes/metrics"], &["get"]),
        json!({"nonResourceURLs": ["/metrics", "/metrics/cadvisor"], "verbs": ["get"]}),
    ]
}

/// What kube-state-metrics is told to list; no Secrets.
fn kube_state_metrics_rules() -> Vec<Value> {
    let read = ["list", "watch"];
    let core = [
        "configmaps",
        "limitranges",
        "namespaces",
        "nodes",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "services",
    ];
    vec![
        rule("", &core, &read),
        rule("apps", &["daemonsets", "deployments", "replicasets", "statefulsets"], &read),
        rule("batch", &["cronjobs", "jobs"], &read),
        rule("autoscaling", &["horizontalpodautoscalers"], &read),
        rule("policy", &["poddisruptionbudgets"], &read),
        rule("discovery.k8s.io", &["endpointslices"], &read),
        rule("storage.k8s.io", &["storageclasses", "volumeattachments"], &read),
        rule("networking.k8s.io", &["ingresses", "networkpolicies"], &read),
        rule("coordination.k8s.io", &["leases"], &read),
    ]
}

fn deployment(image: &str, replicas: i32) -> Value {
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 3});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": own(OPERATOR),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector()},
            "template": {
                "metadata": {"labels": labels()},
                "spec": {
                    "serviceAccountName": OPERATOR,
                    "automountServiceAccountToken": true,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 15,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector()},
                        },
                    }]}},
                    "containers": [{
                        "name": "operator",
                        "image": image,
                        "args": ["operator", format!("--image={image}")],
                        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
                        "ports": [{"name": "http", "containerPort": 10902}],
                        "startupProbe": {
                            "httpGet": {"path": "/-/healthy", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60,
                        },
                        "livenessProbe": probe("/-/healthy"),
                        "readinessProbe": probe("/-/ready"),
                        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                    }],
                },
            },
        },
    })
}

fn cluster_role(name: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels()}, "rules": rules,
    })
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn role_ref(kind: &str, name: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": kind, "name": name})
}

fn subject() -> Value {
    json!({"kind": "ServiceAccount", "name": OPERATOR, "namespace": SYSTEM_NAMESPACE})
}

fn own(name: &str) -> Value {
    json!({"name": name, "namespace": SYSTEM_NAMESPACE, "labels": labels()})
}

fn selector() -> Value {
    json!({"app.kubernetes.io/name": "panoptes", "app.kubernetes.io/component": "operator"})
}

fn labels() -> Value {
    json!({
        "app.kubernetes.io/name": "panoptes",
        "app.kubernetes.io/component": "operator",
        "app.kubernetes.io/part-of": "panoptes",
    })
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}
