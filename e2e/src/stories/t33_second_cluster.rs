//! T33: the second cluster has everything except Grafana.

use super::world::{CHANGE, World};
use super::{Story, Thing};
use crate::cluster::PROD;
use crate::fleet::Stack;

pub(super) const STORY: Story = Story { name: "t33_second_cluster", changes: &[], needs: &[Thing::Prod], run };

fn run(_: &World) -> anyhow::Result<()> {
    let prod = Stack::of(PROD);
    prod.wait_ready(&prod.object(), CHANGE)?;
    let kinds = "deployments,statefulsets,daemonsets,services,configmaps,secrets";
    let all = prod.kubectl(&["get", kinds, "-o", "name"])?;
    anyhow::ensure!(!all.contains("grafana"), "there is a Grafana:\n{all}");
    for part in [
        "statefulset.apps/prod-prometheus",
        "statefulset.apps/prod-compact",
        "deployment.apps/prod-query",
        "deployment.apps/prod-kube-state-metrics",
        "daemonset.apps/prod-node-exporter",
    ] {
        anyhow::ensure!(all.contains(part), "{part} is missing:\n{all}");
    }
    Ok(())
}
