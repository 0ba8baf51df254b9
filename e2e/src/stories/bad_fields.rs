//! Unknown fields and wrong types are refused at admission, and the answer names the field.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::world::World;
use super::{Story, Thing};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "bad_fields", changes: &[], needs: &[Thing::Lab], run };

fn run(_: &World) -> anyhow::Result<()> {
    let cluster = |spec: Value| ("MonitoringCluster", spec);
    let link = |spec: Value| ("RemoteStore", spec);
    for ((kind, spec), named) in [
        (cluster(json!({"clusterName": "a", "retentoin": {"local": "6h"}})), "retentoin"),
        (cluster(json!({"clusterName": "a", "prometheus": {"replicas": "two"}})), "spec.prometheus.replicas"),
        (cluster(json!({"clusterName": "a", "scrape": {"interval": "often"}})), "spec.scrape.interval"),
        (cluster(json!({})), "clusterName"),
        (cluster(json!({"clusterName": "a", "expose": {"storeAPI": {"type": "NodePort"}}})), "allowPlaintext"),
        (cluster(json!({"clusterName": "a", "objectStorage": {}})), "objectStorage"),
        (
            link(json!({"clusterName": "a", "address": "b:1", "serviceRef": {"name": "c"}})),
            "exactly one of address, serviceRef and bucketRef",
        ),
        (link(json!({"clusterName": "a", "address": "b:1", "mode": "Sometimes"})), "spec.mode"),
        (link(json!({"clusterName": "a", "address": "b:1", "tls": {"mode": "Mutual"}})), "clientSecretRef"),
    ] {
        let object = json!({"apiVersion": "panoptes.dev/v1alpha1", "kind": kind,
                            "metadata": {"name": "bad", "namespace": "default"}, "spec": spec});
        let refused = LAB.apply(&object.to_string()).err().with_context(|| format!("{object} was accepted"))?;
        let said = format!("{refused:#}");
        anyhow::ensure!(said.contains(named), "{object} is refused, but {named} isn't named: {said}");
    }
    Ok(())
}
