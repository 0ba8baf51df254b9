//! Storage: a default class, and a few volumes of type `local` per cluster (unlike `hostPath`, they take a pod's group).

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Cluster;

const COUNT: usize = 12;

/// Makes class and volumes; volumes whose claim is gone are emptied and made again.
pub(super) fn ensure(cluster: &Cluster) -> anyhow::Result<()> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
    });
    let mut items = vec![class];
    for n in 0..COUNT {
        let dir = cluster.data_dir().join("volumes").join(format!("volume-{n}"));
        fs::create_dir_all(&dir)?;
        items.push(json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("volume-{n}")},
            "spec": {
                "capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local", "local": {"path": dir},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [cluster.node_name()]}]}]}},
            },
        }));
    }
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    Ok(())
}

impl Cluster {
    /// Where the volume of a claim lies on this machine, once it is bound.
    ///
    /// # Errors
    /// While it is not bound.
    pub fn volume_of(&self, namespace: &str, claim: &str) -> anyhow::Result<PathBuf> {
        let claim = self.json(&["-n", namespace, "get", "pvc", claim])?;
        let volume = claim["spec"]["volumeName"].as_str().context("the claim is not bound")?;
        let volume = self.json(&["get", "persistentvolume", volume])?;
        Ok(PathBuf::from(local_path(&volume).context("the volume is no local one")?))
    }

    /// Empties the volumes whose claims are gone and offers them again.
    ///
    /// # Errors
    /// When the API server doesn't answer or a folder can't be emptied.
    pub fn recycle_volumes(&self) -> anyhow::Result<()> {
        let volumes = self.json(&["get", "persistentvolumes"])?;
        let mut released = Vec::new();
        for volume in volumes["items"].as_array().into_iter().flatten() {
            let phase = volume["status"]["phase"].as_str().unwrap_or_default();
            if matches!(phase, "Released" | "Failed") {
                released.extend(volume["metadata"]["name"].as_str().map(str::to_owned));
                if let Some(path) = local_path(volume).filter(|p| p.starts_with(super::DATA)) {
                    fs::remove_dir_all(path)?;
                }
            }
        }
        if released.is_empty() {
            return Ok(());
        }
        let mut args = vec!["delete", "persistentvolume", "--wait=true"];
        args.extend(released.iter().map(String::as_str));
        self.kubectl(&args)?;
        ensure(self)
    }
}

fn local_path(volume: &Value) -> Option<&str> {
    volume["spec"]["local"]["path"].as_str()
}
