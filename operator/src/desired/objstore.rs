//! `<cr>-objstore`: the bucket's file that all parts mount, and the mounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::api::ObjectStorage;
use crate::cluster::{ValidCluster, ValidObjectStorage};

use super::{Object, meta, names};

/// The volume with `objstore.yml`.
pub(crate) const CONFIG_VOLUME: &str = "objstore";
/// Where it is.
pub(crate) const CONFIG_DIR: &str = "/etc/panoptes/objstore";
/// The volume that is the bucket, where a file system is one.
pub(crate) const BUCKET_VOLUME: &str = "bucket";
/// Where that is.
pub(crate) const BUCKET_DIR: &str = "/var/panoptes/bucket";

pub(super) fn objects(cluster: &ValidCluster) -> Option<Object> {
    let storage = cluster.object_storage.as_ref().or(cluster.object_storage_before.as_ref())?;
    Some(rendered(cluster, meta::WHOLE, &names::objstore(&cluster.name), storage))
}

/// What a pod that uses the bucket mounts. The Secret may come later: a part waits for it, so that a missing key is a
/// condition and no pod that can't start, and its coming rolls nothing.
pub(super) fn volumes(cluster: &ValidCluster) -> Vec<Value> {
    let Some(storage) = &cluster.spec.object_storage else { return Vec::new() };
    volumes_of(storage, &names::objstore(&cluster.name))
}

/// The same for any bucket, with the Secret that its file is in.
pub(super) fn volumes_of(storage: &ObjectStorage, secret: &str) -> Vec<Value> {
    let secret = json!({"secretName": secret, "optional": true, "defaultMode": 0o440});
    let mut volumes = vec![json!({"name": CONFIG_VOLUME, "secret": secret})];
    if let Some(filesystem) = &storage.filesystem {
        let claim = json!({"claimName": filesystem.volume_claim_name});
        volumes.push(json!({"name": BUCKET_VOLUME, "persistentVolumeClaim": claim}));
    }
    volumes
}

/// What its container mounts.
pub(super) fn mounts(cluster: &ValidCluster) -> Vec<Value> {
    cluster.spec.object_storage.as_ref().map(|storage| mounts_of(storage, false)).unwrap_or_default()
}

/// The same for any bucket; `read_only`: nothing is ever written there.
pub(super) fn mounts_of(storage: &ObjectStorage, read_only: bool) -> Vec<Value> {
    let mut mounts = vec![json!({"name": CONFIG_VOLUME, "mountPath": CONFIG_DIR, "readOnly": true})];
    if storage.filesystem.is_some() {
        let mut mount = json!({"name": BUCKET_VOLUME, "mountPath": BUCKET_DIR});
        if read_only {
            mount["readOnly"] = json!(true);
        }
        mounts.push(mount);
    }
    mounts
}

/// The flag's value in a container that mounts it; empty without a bucket.
pub(super) fn config_file(cluster: &ValidCluster) -> String {
    cluster.spec.object_storage.as_ref().map(|_| config_path()).unwrap_or_default()
}

/// Where the bucket's file is, in every container that mounts it.
pub(super) fn config_path() -> String {
    format!("{CONFIG_DIR}/{}", args::files::OBJSTORE)
}

/// A bucket's files as the Secret of this name.
pub(super) fn rendered(
    cluster: &ValidCluster,
    part: meta::Part<'_>,
    name: &str,
    storage: &ValidObjectStorage,
) -> Object {
    let data: Map<String, Value> =
        storage.files.iter().map(|(key, bytes)| (key.clone(), Value::from(STANDARD.encode(bytes)))).collect();
    secret(cluster, part, name, data)
}

/// A Secret of base64 values.
pub(super) fn secret(cluster: &ValidCluster, part: meta::Part<'_>, name: &str, data: Map<String, Value>) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta::metadata(cluster, part, name),
        "type": "Opaque",
        "data": data,
    }))
}
