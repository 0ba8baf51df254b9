//! Puts the operator into a cluster, as `make install` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cluster::{Cluster, Started};
use crate::image::{self, Archive, Image};
use crate::run;

/// The product's binary, and the image made from it.
#[derive(Debug, Clone)]
pub struct Product {
    /// The static binary.
    pub binary: PathBuf,
    /// Its image.
    pub image: Archive,
}

impl Product {
    /// Makes the image, under the operator's default reference.
    ///
    /// # Errors
    /// When the binary isn't there.
    pub fn of(binary: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(binary.is_file(), "{} is not there: `make build` makes it", binary.display());
        Ok(Self { binary: binary.to_owned(), image: Image::of_panoptes(image::PANOPTES, binary).write()? })
    }

    /// What the binary prints as `panoptes operator ARGS`.
    ///
    /// # Errors
    /// When it fails.
    pub fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        run::output(&self.binary, &[&["operator"], args].concat())
    }

    /// Definitions and operator, applied; returns when the operator is available and runs this very binary.
    ///
    /// # Errors
    /// When the API server refuses something or the operator does not come up.
    pub fn install(&self, started: &Started) -> anyhow::Result<()> {
        let cluster = &started.cluster;
        cluster.apply(&self.operator(&["crds"])?).context("install the definitions")?;
        let definitions = ["crd/monitoringclusters.panoptes.dev", "crd/remotestores.panoptes.dev"];
        cluster.kubectl(&[&["wait", "--for=condition=Established", "--timeout=30s"], &definitions[..]].concat())?;
        cluster.apply(&self.operator(&["manifests", "--image", image::PANOPTES])?).context("install the operator")?;
        if started.kept && started.new_images.iter().any(|i| i == image::PANOPTES) {
            restart_ours(cluster)?;
        }
        cluster
            .kubectl(&["-n", "panoptes-system", "rollout", "status", "deployment/panoptes-operator", "--timeout=120s"])
            .context("wait for the operator")?;
        Ok(())
    }
}

/// The tag of the image is the same, its content isn't: pods that run the old one go, and have gone when this returns.
fn restart_ours(cluster: &Cluster) -> anyhow::Result<()> {
    let pods = cluster.json(&["get", "pods", "-A"])?;
    let mut going: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let uses = |list: &str| {
            pod["spec"][list].as_array().into_iter().flatten().any(|container| container["image"] == image::PANOPTES)
        };
        if uses("containers") || uses("initContainers") {
            let text = |at: &str| pod["metadata"][at].as_str().unwrap_or_default();
            going.entry(text("namespace")).or_default().push(text("name"));
        }
    }
    // What is Ready afterwards is what runs the new one: the old ones must not answer for it.
    for (namespace, names) in going {
        let delete = ["-n", namespace, "delete", "pod", "--ignore-not-found", "--timeout=120s"];
        cluster.kubectl(&[&delete[..], &names[..]].concat())?;
    }
    Ok(())
}
