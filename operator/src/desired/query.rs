//! The querier: Deployment, Services, account, budget.

use args::{Millis, QueryArgs};
use serde_json::{Value, json};

use crate::api::ExposeType;
use crate::cluster::ValidCluster;

use super::profile::{self, Sized};
use super::{Object, meta, names, pod, prometheus};

pub(crate) const ENDPOINTS_DIR: &str = "/etc/panoptes/endpoints";
pub(crate) const TLS_DIR: &str = "/etc/panoptes/grpc-tls";
pub(crate) const CLIENT_CA_DIR: &str = "/etc/panoptes/grpc-client-ca";
/// The volume with the exposed port's certificate.
pub(crate) const TLS_VOLUME: &str = "grpc-tls";
/// The volume that says whose client certificates are accepted.
pub(crate) const CLIENT_CA_VOLUME: &str = "grpc-client-ca";

/// Wanted pods.
pub(super) fn replicas(cluster: &ValidCluster) -> i32 {
    profile::replicas(cluster.spec.profile, cluster.spec.querier.replicas)
}

pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let part = meta::QUERY;
    let name = names::query(&cluster.name);
    let ports = json!([pod::service_port("http", args::HTTP_PORT), pod::service_port("grpc", args::GRPC_PORT)]);
    let mut objects = vec![
        pod::service_account(cluster, part, &name),
        pod::service(cluster, part, &name, json!({"type": "ClusterIP", "ports": ports})),
    ];
    objects.extend(exposed(cluster));
    objects.extend(pod::disruption_budget(cluster, part, &name, replicas(cluster)));
    objects.push(deployment(cluster, &name));
    objects
}

/// The way out of the cluster: the gRPC port, nothing else.
fn exposed(cluster: &ValidCluster) -> Option<Object> {
    let expose = &cluster.expose.as_ref()?.spec;
    let mut port = pod::service_port("grpc", args::GRPC_PORT);
    port["port"] = json!(expose.port);
    port["appProtocol"] = json!("kubernetes.io/h2c");
    if cluster.expose.as_ref().is_some_and(|expose| expose.certificates.is_some()) {
        port["appProtocol"] = json!("grpc");
    }
    if let Some(number) = expose.node_port {
        port["nodePort"] = json!(number);
    }
    let kind = match expose.type_ {
        ExposeType::None => return None,
        ExposeType::NodePort => "NodePort",
        ExposeType::LoadBalancer => "LoadBalancer",
    };
    let mut spec = json!({"type": kind, "ports": [port]});
    if expose.type_ == ExposeType::LoadBalancer && !expose.source_ranges.is_empty() {
        spec["loadBalancerSourceRanges"] = json!(expose.source_ranges);
    }
    let Object(mut service) = pod::service(cluster, meta::QUERY, &names::query_exposed(&cluster.name), spec);
    for (key, value) in &expose.annotations {
        service["metadata"]["annotations"][key] = json!(value);
    }
    Some(Object(service))
}

fn deployment(cluster: &ValidCluster, name: &str) -> Object {
    let part = meta::QUERY;
    let spec = &cluster.spec.querier;
    let mut flags = QueryArgs {
        endpoints_dir: ENDPOINTS_DIR.to_owned(),
        replica_labels: vec![cluster.spec.replica_label.clone()],
        cluster_label: cluster.spec.cluster_label.clone(),
        ..QueryArgs::default()
    };
    // A restarted Prometheus has another address, and must not be missed for longer than its restart takes.
    if !spec.extra_args.iter().any(|arg| arg.starts_with("--store.sd-dns-interval")) {
        flags.dns_interval = Millis(5_000);
    }
    flags.server.log_level = prometheus::log_level(spec.log_level);
    let sources: Vec<Value> = names::endpoint_slots(&cluster.name)
        .into_iter()
        .map(|name| json!({"secret": {"name": name, "optional": true}}))
        .collect();
    let mut volumes = vec![json!({"name": "endpoints", "projected": {"defaultMode": 0o440, "sources": sources}})];
    let mut mounts = vec![json!({"name": "endpoints", "mountPath": ENDPOINTS_DIR, "readOnly": true})];
    if let Some(certificates) = cluster.expose.as_ref().and_then(|expose| expose.certificates.as_ref()) {
        flags.server.grpc_tls_cert = format!("{TLS_DIR}/tls.crt");
        flags.server.grpc_tls_key = format!("{TLS_DIR}/tls.key");
        volumes.push(json!({"name": TLS_VOLUME, "secret": {"secretName": certificates.server, "defaultMode": 0o440}}));
        mounts.push(json!({"name": TLS_VOLUME, "mountPath": TLS_DIR, "readOnly": true}));
        if let Some(ca) = &certificates.client_ca {
            flags.server.grpc_tls_client_ca = format!("{CLIENT_CA_DIR}/ca.crt");
            let items = json!([{"key": "ca.crt", "path": "ca.crt"}]);
            volumes.push(json!({
                "name": CLIENT_CA_VOLUME, "secret": {"secretName": ca, "items": items, "defaultMode": 0o440},
            }));
            mounts.push(json!({"name": CLIENT_CA_VOLUME, "mountPath": CLIENT_CA_DIR, "readOnly": true}));
        }
    }
    let container = json!({
        "name": "query",
        "image": cluster.images.querier,
        "args": pod::command("query", flags.render(), &spec.extra_args),
        "ports": [pod::container_port("http", args::HTTP_PORT), pod::container_port("grpc", args::GRPC_PORT)],
        "readinessProbe": pod::probe("/-/ready", "http", 5, 3),
        "livenessProbe": pod::probe("/-/healthy", "http", 10, 6),
        "resources": profile::resources(cluster.spec.profile, Sized::Querier, spec.resources.as_ref()),
        "volumeMounts": mounts,
    });
    let mut pod_spec = json!({
        "serviceAccountName": name,
        // longer than a query may take, so that a roll-out cuts none
        "terminationGracePeriodSeconds": 130,
        "containers": [container],
        "volumes": volumes,
    });
    if let Value::Object(pod_spec) = &mut pod_spec {
        pod_spec.extend(pod::placement(cluster, part));
    }
    let template = pod::template(cluster, part, &[], "query", pod_spec, spec.pod_template.as_ref());
    Object(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta::metadata(cluster, part, name),
        "spec": {
            "replicas": replicas(cluster),
            "revisionHistoryLimit": 5,
            // a new one first: the number of those that answer never falls
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": meta::selector(cluster, part)},
            "template": template,
        },
    }))
}
