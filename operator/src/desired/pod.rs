//! What all pods have in common: security, placement, metadata, and the user's patch.

use serde_json::{Map, Value, json};

use crate::api::{AntiAffinity, PodTemplatePatch};
use crate::cluster::{ValidCluster, Volume};

use super::meta::{self, Part};
use super::{Object, patch};

/// The volume with a StatefulSet's own data.
pub(crate) const DATA_VOLUME: &str = "data";
/// The user and group of every pod of ours: nobody.
pub(super) const USER: i64 = 65534;

/// Security of a container that needs nothing.
pub(super) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Security of a pod that needs nothing: passes the level `restricted`.
pub(super) fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// A probe of an HTTP path on a named port.
pub(super) fn probe(path: &str, port: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
        "successThreshold": 1,
    })
}

/// A finished pod template: `spec` holds what differs between parts (containers, volumes, account).
pub(super) fn template(
    cluster: &ValidCluster,
    part: Part<'_>,
    extra_labels: &[(&str, &str)],
    default_container: &str,
    spec: Value,
    user: Option<&PodTemplatePatch>,
) -> Value {
    let mut labels = meta::labels(cluster, part);
    labels.extend(extra_labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))));
    let mut annotations: Map<String, Value> =
        cluster.spec.common_metadata.annotations.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    annotations.insert("kubectl.kubernetes.io/default-container".to_owned(), json!(default_container));

    let mut common = json!({
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        "securityContext": pod_security(),
    });
    if !cluster.spec.image_pull_secrets.is_empty() {
        common["imagePullSecrets"] = json!(cluster.spec.image_pull_secrets);
    }
    if let Some(class) = &cluster.spec.availability.priority_class_name {
        common["priorityClassName"] = json!(class);
    }
    if let (Value::Object(common), Value::Object(own)) = (&mut common, spec) {
        common.extend(own);
    }
    for list in ["containers", "initContainers"] {
        for container in common.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container["imagePullPolicy"] = json!("IfNotPresent");
            // the crash's last words reach the status
            container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
            if container.get("securityContext").is_none() {
                container["securityContext"] = container_security();
            }
        }
    }
    let mut template = json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": common});
    if let Some(PodTemplatePatch(user)) = user {
        patch::merge(&mut template, &Value::Object(user.clone()));
    }
    template
}

/// `affinity` and `topologySpreadConstraints` of a part with several replicas.
pub(super) fn placement(cluster: &ValidCluster, part: Part<'_>) -> Map<String, Value> {
    let term = json!({
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": meta::selector(cluster, part)},
    });
    let availability = &cluster.spec.availability;
    let mut fields = Map::new();
    let rule = match availability.anti_affinity {
        AntiAffinity::None => None,
        AntiAffinity::Preferred => Some(json!({
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}],
        })),
        AntiAffinity::Required => Some(json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]})),
    };
    if let Some(rule) = rule {
        fields.insert("affinity".to_owned(), json!({"podAntiAffinity": rule}));
    }
    if availability.zone_spread {
        fields.insert(
            "topologySpreadConstraints".to_owned(),
            json!([{
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": meta::selector(cluster, part)},
            }]),
        );
    }
    fields
}

/// The volume of a StatefulSet's own data: adds an emptyDir to `volumes`, or gives the template of a claim.
pub(super) fn data(cluster: &ValidCluster, part: Part<'_>, volume: &Volume, volumes: &mut Vec<Value>) -> Vec<Value> {
    let (size, class) = match volume {
        Volume::Ephemeral { limit } => {
            volumes.push(json!({"name": DATA_VOLUME, "emptyDir": {"sizeLimit": limit}}));
            return Vec::new();
        }
        Volume::Claim { size, class } => (size, class),
    };
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    if let Some(class) = class {
        spec["storageClassName"] = json!(class);
    }
    vec![json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": DATA_VOLUME, "labels": meta::selector(cluster, part)},
        "spec": spec,
    })]
}

/// One replica at a time in a node drain. A single replica gets none: it would block drains for ever.
pub(super) fn disruption_budget(cluster: &ValidCluster, part: Part<'_>, name: &str, replicas: i32) -> Option<Object> {
    (cluster.spec.availability.pdb && replicas > 1).then(|| {
        Object(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta::metadata(cluster, part, name),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": meta::selector(cluster, part)}},
        }))
    })
}

/// The account of a part.
pub(super) fn service_account(cluster: &ValidCluster, part: Part<'_>, name: &str) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta::metadata(cluster, part, name),
        "automountServiceAccountToken": false,
    }))
}

/// Binds a ClusterRole of the installation to a part's account.
pub(super) fn cluster_role_binding(cluster: &ValidCluster, part: Part<'_>, account: &str, role: &str) -> Object {
    let name = super::names::cluster_scoped(&cluster.namespace, &cluster.name, part.component);
    Object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": meta::cluster_metadata(cluster, part, &name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": cluster.namespace}],
    }))
}

/// A Service; `spec` holds type and ports.
pub(super) fn service(cluster: &ValidCluster, part: Part<'_>, name: &str, mut spec: Value) -> Object {
    if spec.get("selector").is_none() {
        spec["selector"] = meta::selector(cluster, part);
    }
    Object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta::metadata(cluster, part, name),
        "spec": spec,
    }))
}

/// A port of a Service that leads to the container port of the same name.
pub(super) fn service_port(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"})
}

/// A port of a container.
pub(super) fn container_port(name: &str, port: u16) -> Value {
    json!({"name": name, "containerPort": port, "protocol": "TCP"})
}

/// The arguments of one of our own containers: the subcommand, what we set, what the user adds.
pub(super) fn command(subcommand: &str, flags: Vec<String>, extra: &[String]) -> Vec<String> {
    [vec![subcommand.to_owned()], flags, extra.to_vec()].concat()
}
