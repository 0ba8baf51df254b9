//! `<cr>-objstore`: the bucket's file that all parts mount.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::cluster::ValidCluster;

use super::{Object, meta, names};

pub(super) fn objects(cluster: &ValidCluster) -> Option<Object> {
    let storage = cluster.object_storage.as_ref().or(cluster.object_storage_before.as_ref())?;
    let data: Map<String, Value> =
        storage.files.iter().map(|(key, bytes)| (key.clone(), Value::from(STANDARD.encode(bytes)))).collect();
    Some(secret(cluster, meta::WHOLE, &names::objstore(&cluster.name), data))
}

/// A Secret of base64 values.
pub(super) fn secret(cluster: &ValidCluster, part: meta::Part, name: &str, data: Map<String, Value>) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta::metadata(cluster, part, name),
        "type": "Opaque",
        "data": data,
    }))
}
