//! Prometheus with its sidecar: StatefulSet, Services, account, budget.

use args::{SidecarArgs, Switch};
use serde_json::{Value, json};

use crate::api::{DeletionPolicy, LogLevel, duration_millis};
use crate::cluster::{Compaction, ValidCluster};

use super::configuration::{RULES_DIR, SHARED_DIR, SHARED_RULES_DIR, retention_in_file};
use super::profile::{self, Sized};
use super::{Object, meta, names, objstore, pod};

/// ClusterRole of the installation: find targets, and ask kubelets for metrics.
const ROLE: &str = "panoptes-prometheus";
pub(crate) const CONFIG_DIR: &str = "/etc/prometheus/config";
pub(crate) const DATA_DIR: &str = "/prometheus";
/// In the data directory: the blocks that the sidecar has uploaded, in a form that Prometheus reads too.
const SHIPPED_FILE: &str = "thanos.shipper.json";
/// How long a server may replay its log at start.
const STARTUP_MILLIS: i64 = 60 * 60_000;
/// Seconds between two start-up probes.
const STARTUP_PERIOD: i64 = 5;

/// Wanted pods.
pub(super) fn replicas(cluster: &ValidCluster) -> i32 {
    profile::replicas(cluster.spec.profile, cluster.spec.prometheus.replicas)
}

pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let part = meta::PROMETHEUS;
    let name = names::prometheus(&cluster.name);
    let ports = json!([
        pod::service_port("web", args::PROMETHEUS_PORT),
        pod::service_port("http", args::HTTP_PORT),
        pod::service_port("grpc", args::GRPC_PORT),
    ]);
    let mut objects = vec![
        pod::service_account(cluster, part, &name),
        pod::cluster_role_binding(cluster, part, &name, ROLE),
        pod::service(
            cluster,
            part,
            &names::headless(&name),
            json!({"type": "ClusterIP", "clusterIP": "None", "publishNotReadyAddresses": true, "ports": ports}),
        ),
        pod::service(cluster, part, &name, json!({"type": "ClusterIP", "ports": ports})),
    ];
    objects.extend(pod::disruption_budget(cluster, part, &name, replicas(cluster)));
    objects.push(stateful_set(cluster, &name));
    objects
}

fn stateful_set(cluster: &ValidCluster, name: &str) -> Object {
    let part = meta::PROMETHEUS;
    let mut volumes = vec![
        json!({"name": "config", "projected": {"defaultMode": 0o440, "sources": config_sources(cluster)}}),
        json!({"name": "config-shared", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
        json!({"name": "rules", "projected": {"defaultMode": 0o440, "sources": rule_sources(cluster)}}),
    ];
    volumes.extend(objstore::volumes(cluster));
    let claims = pod::data(cluster, part, &cluster.volume, &mut volumes);
    let mut spec = json!({
        "serviceAccountName": name,
        // service discovery asks the API server
        "automountServiceAccountToken": true,
        "terminationGracePeriodSeconds": 600,
        "initContainers": [init_config(cluster)],
        "containers": [prometheus(cluster), sidecar(cluster)],
        "volumes": volumes,
    });
    if let Value::Object(spec) = &mut spec {
        spec.extend(pod::placement(cluster, part));
    }
    let template = pod::template(
        cluster,
        part,
        &[meta::STORE_API],
        "prometheus",
        spec,
        cluster.spec.prometheus.pod_template.as_ref(),
    );
    let when_deleted = match cluster.spec.deletion_policy {
        DeletionPolicy::Retain => "Retain",
        DeletionPolicy::Delete => "Delete",
    };
    let mut set = json!({
        "replicas": replicas(cluster),
        "serviceName": names::headless(name),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": meta::selector(cluster, part)},
        "template": template,
    });
    if cluster.spec.object_storage.is_some() {
        // time for a restarted server to show that it stays, before the next one with blocks of its own goes
        set["minReadySeconds"] = json!(30);
    }
    if !claims.is_empty() {
        set["volumeClaimTemplates"] = json!(claims);
        set["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": when_deleted, "whenScaled": "Retain"});
    }
    Object(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": meta::metadata(cluster, part, name),
        "spec": set,
    }))
}

/// The first slot must be there, so that no pod starts without a configuration; the others may come later.
fn config_sources(cluster: &ValidCluster) -> Vec<Value> {
    names::configuration_slots(&cluster.name)
        .into_iter()
        .enumerate()
        .map(|(slot, name)| json!({"secret": {"name": name, "optional": slot > 0}}))
        .collect()
}

fn rule_sources(cluster: &ValidCluster) -> Vec<Value> {
    names::rule_slots(&cluster.name)
        .into_iter()
        .map(|name| json!({"configMap": {"name": name, "optional": true}}))
        .collect()
}

fn pod_name() -> Value {
    json!([{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}])
}

pub(super) fn mount(name: &str, path: &str, read_only: bool) -> Value {
    if read_only {
        json!({"name": name, "mountPath": path, "readOnly": true})
    } else {
        json!({"name": name, "mountPath": path})
    }
}

fn data_mount(read_only: bool) -> Value {
    let mut mount = mount(pod::DATA_VOLUME, DATA_DIR, read_only);
    mount["subPath"] = json!("prometheus-db");
    mount
}

fn prometheus(cluster: &ValidCluster) -> Value {
    let spec = &cluster.spec;
    let mut argv = vec![
        format!("--config.file={SHARED_DIR}/prometheus.yaml"),
        format!("--storage.tsdb.path={DATA_DIR}"),
        "--web.enable-lifecycle".to_owned(),
        "--web.route-prefix=/".to_owned(),
    ];
    if !retention_in_file(&cluster.prometheus_version) {
        argv.push(format!("--storage.tsdb.retention.time={}", spec.retention.local));
        argv.push(format!("--storage.tsdb.retention.size={}B", cluster.retention_bytes));
    }
    if spec.prometheus.log_level != LogLevel::Info {
        argv.push(format!("--log.level={}", spec.prometheus.log_level.as_str()));
    }
    match cluster.compaction {
        Compaction::Free => {}
        Compaction::Delayed => argv.push(format!("--storage.tsdb.delay-compact-file.path={DATA_DIR}/{SHIPPED_FILE}")),
        Compaction::Off => argv.extend(["min", "max"].map(|end| format!("--storage.tsdb.{end}-block-duration=2h"))),
    }
    argv.extend(spec.prometheus.extra_args.iter().cloned());
    let startup = spec.prometheus.maximum_startup.as_deref().and_then(duration_millis).unwrap_or(STARTUP_MILLIS);
    let failures = u32::try_from(startup / (STARTUP_PERIOD * 1000)).unwrap_or(u32::MAX).max(1);
    json!({
        "name": "prometheus",
        "image": cluster.images.prometheus,
        "args": argv,
        "ports": [pod::container_port("web", args::PROMETHEUS_PORT)],
        "startupProbe": pod::probe("/-/ready", "web", 5, failures),
        "readinessProbe": pod::probe("/-/ready", "web", 5, 3),
        "livenessProbe": pod::probe("/-/healthy", "web", 5, 6),
        "resources": profile::resources(spec.profile, Sized::Prometheus, spec.prometheus.resources.as_ref()),
        "volumeMounts": [
            mount("config-shared", SHARED_DIR, true),
            data_mount(false),
        ],
    })
}

/// What the reloader reads and writes: the same for the first rendering and for all later ones.
fn reloader() -> SidecarArgs {
    SidecarArgs {
        config_file: format!("{CONFIG_DIR}/{}", args::files::NEXT),
        last_good_file: format!("{CONFIG_DIR}/{}", args::files::LAST_GOOD),
        config_envsubst_file: format!("{SHARED_DIR}/prometheus.yaml"),
        rule_dirs: vec![RULES_DIR.to_owned()],
        rule_output_dir: SHARED_RULES_DIR.to_owned(),
        ..SidecarArgs::default()
    }
}

fn init_config(cluster: &ValidCluster) -> Value {
    let argv = SidecarArgs { once: Switch(true), ..reloader() }.render();
    json!({
        "name": "init-config",
        "image": cluster.images.sidecar,
        "args": pod::command("sidecar", argv, &[]),
        "env": pod_name(),
        "resources": profile::resources(cluster.spec.profile, Sized::Sidecar, cluster.spec.sidecar.resources.as_ref()),
        "volumeMounts": [
            mount("config", CONFIG_DIR, true),
            mount("config-shared", SHARED_DIR, false),
            mount("rules", RULES_DIR, true),
        ],
    })
}

fn sidecar(cluster: &ValidCluster) -> Value {
    let spec = &cluster.spec.sidecar;
    let mut flags = SidecarArgs {
        prometheus_url: format!("http://127.0.0.1:{}", args::PROMETHEUS_PORT),
        tsdb_path: DATA_DIR.to_owned(),
        objstore_config_file: objstore::config_file(cluster),
        shipper_meta_file_name: SHIPPED_FILE.to_owned(),
        ..reloader()
    };
    flags.server.log_level = log_level(spec.log_level);
    // Uploads hard-link blocks in the data directory, so that Prometheus can delete its own names for them meanwhile.
    let uploads = cluster.spec.object_storage.is_some();
    let mut mounts = vec![
        mount("config", CONFIG_DIR, true),
        mount("config-shared", SHARED_DIR, false),
        mount("rules", RULES_DIR, true),
        data_mount(!uploads),
    ];
    mounts.extend(objstore::mounts(cluster));
    json!({
        "name": "sidecar",
        "image": cluster.images.sidecar,
        "args": pod::command("sidecar", flags.render(), &spec.extra_args),
        "env": pod_name(),
        "ports": [pod::container_port("http", args::HTTP_PORT), pod::container_port("grpc", args::GRPC_PORT)],
        "readinessProbe": pod::probe("/-/ready", "http", 5, 3),
        "livenessProbe": pod::probe("/-/healthy", "http", 10, 6),
        "resources": profile::resources(cluster.spec.profile, Sized::Sidecar, spec.resources.as_ref()),
        "volumeMounts": mounts,
    })
}

/// The flag's level.
pub(super) fn log_level(level: LogLevel) -> args::LogLevel {
    match level {
        LogLevel::Debug => args::LogLevel::Debug,
        LogLevel::Info => args::LogLevel::Info,
        LogLevel::Warn => args::LogLevel::Warn,
        LogLevel::Error => args::LogLevel::Error,
    }
}
