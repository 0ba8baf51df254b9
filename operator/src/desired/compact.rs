//! The compactor: a StatefulSet of one pod, so that the old pod has ended before a new one begins. That there is one writer is what
//! the lease in the bucket makes sure of; the StatefulSet only spares the new one from waiting.

use args::{CompactArgs, Millis, Switch};
use serde_json::{Value, json};

use crate::api::ObjectStorage;
use crate::cluster::{ValidCluster, ValidCompactor};

use super::profile::{self, Sized};
use super::{Object, meta, names, objstore, pod, prometheus};

/// Where the blocks lie that are worked on.
pub(crate) const DATA_DIR: &str = "/var/panoptes/compact";
/// The variable by which a part knows its name.
const POD_NAME: &str = "POD_NAME";

pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let (Some(valid), Some(bucket)) = (&cluster.compactor, &cluster.spec.object_storage) else { return Vec::new() };
    let name = names::compact(&cluster.name);
    let ports = json!([pod::service_port("http", args::HTTP_PORT)]);
    vec![
        pod::service_account(cluster, meta::COMPACT, &name),
        pod::service(
            cluster,
            meta::COMPACT,
            &names::headless(&name),
            json!({"type": "ClusterIP", "clusterIP": "None", "ports": ports}),
        ),
        set(cluster, valid, bucket, &name),
    ]
}

fn set(cluster: &ValidCluster, valid: &ValidCompactor, bucket: &ObjectStorage, name: &str) -> Object {
    let spec = &cluster.spec.compactor;
    let mut volumes = objstore::volumes_of(bucket, &names::objstore(&cluster.name));
    let claims = pod::data(cluster, meta::COMPACT, &valid.storage, &mut volumes);
    let pod_spec = json!({
        "serviceAccountName": name,
        // It stops within 10 s, and gives the lease back.
        "terminationGracePeriodSeconds": 30,
        "containers": [container(cluster, valid, bucket)],
        "volumes": volumes,
    });
    let template = pod::template(cluster, meta::COMPACT, &[], "compact", pod_spec, spec.pod_template.as_ref());
    let mut set = json!({
        "replicas": 1,
        "serviceName": names::headless(name),
        "updateStrategy": {"type": "RollingUpdate"},
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": meta::selector(cluster, meta::COMPACT)},
        "template": template,
    });
    if !claims.is_empty() {
        set["volumeClaimTemplates"] = json!(claims);
        // nothing but copies: whatever the policy for data says, nobody misses it
        set["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    }
    Object(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": meta::metadata(cluster, meta::COMPACT, name),
        "spec": set,
    }))
}

fn container(cluster: &ValidCluster, valid: &ValidCompactor, bucket: &ObjectStorage) -> Value {
    let spec = &cluster.spec.compactor;
    let mut mounts = objstore::mounts_of(bucket, false);
    mounts.push(prometheus::mount(pod::DATA_VOLUME, DATA_DIR, false));
    let holder = names::compactor(&cluster.spec.cluster_name, &cluster.namespace, &cluster.name);
    json!({
        "name": "compact",
        "image": cluster.images.compactor,
        "args": pod::command("compact", flags(cluster, valid).render(), &spec.extra_args),
        "env": [{"name": POD_NAME, "value": holder}],
        "ports": [pod::container_port("http", args::HTTP_PORT)],
        "readinessProbe": pod::probe("/-/ready", "http", 5, 3),
        "livenessProbe": pod::probe("/-/healthy", "http", 10, 6),
        "resources": profile::resources(cluster.spec.profile, Sized::Compactor, spec.resources.as_ref()),
        "volumeMounts": mounts,
    })
}

fn flags(cluster: &ValidCluster, valid: &ValidCompactor) -> CompactArgs {
    let spec = &cluster.spec.compactor;
    let at_once = u64::try_from(spec.concurrency).unwrap_or(1).max(1);
    let mut flags = CompactArgs {
        data_dir: DATA_DIR.to_owned(),
        objstore_config_file: objstore::config_path(),
        wait: Switch(true),
        consistency_delay: Millis(valid.consistency_delay_ms),
        delete_delay: Millis(valid.delete_delay_ms),
        retention_raw: Millis(valid.raw_ms),
        retention_5m: Millis(valid.five_minutes_ms),
        retention_1h: Millis(valid.one_hour_ms),
        downsampling_disable: Switch(!spec.downsampling),
        downsample_concurrency: at_once,
        compact_concurrency: at_once,
        ..CompactArgs::default()
    };
    if spec.vertical_dedup {
        flags.vertical = Switch(true);
        // Samples of two replicas in one series would look like resets: one replica is followed at a time.
        "penalty".clone_into(&mut flags.dedup_func);
        flags.replica_labels = vec![cluster.spec.replica_label.clone()];
    }
    if [valid.raw_ms, valid.five_minutes_ms, valid.one_hour_ms].iter().any(|kept| *kept > 0) {
        // Whoever holds the lease of a shared bucket: what it keeps says nothing about the data of other clusters.
        flags.retention_labels = vec![format!("{}={}", cluster.spec.cluster_label, cluster.spec.cluster_name)];
    }
    flags.server.log_level = prometheus::log_level(spec.log_level);
    flags
}
