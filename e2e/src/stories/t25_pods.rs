//! T25: three Prometheus pods 2/2, kube-state-metrics, a node-exporter on every schedulable node; no container restarted.

use super::world::{World, no_restarts};
use super::{Story, Thing};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "t25_pods", changes: &[], needs: &[Thing::Lab, Thing::Tutorial], run };

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let prometheus = stack.pods("prometheus")?;
    let names: Vec<&str> = prometheus.iter().map(|p| p.name.as_str()).collect();
    let wanted: Vec<String> = (0..3).map(|n| format!("{}-prometheus-{n}", stack.name)).collect();
    anyhow::ensure!(names == wanted, "Prometheus pods are {names:?}");
    anyhow::ensure!(prometheus.iter().all(|p| p.ready == (2, 2)), "not all 2/2: {prometheus:?}");
    no_restarts(&prometheus)?;

    let nodes = LAB.json(&["get", "nodes"])?;
    let schedulable =
        nodes["items"].as_array().into_iter().flatten().filter(|n| n["spec"]["unschedulable"] != true).count();
    for (part, count) in [("node-exporter", schedulable), ("kube-state-metrics", 1)] {
        let pods = stack.pods(part)?;
        anyhow::ensure!(pods.len() == count && pods.iter().all(|p| p.ready == (1, 1)), "{part}: {pods:?}");
        no_restarts(&pods)?;
    }
    let query = stack.pods("query")?;
    anyhow::ensure!(!query.is_empty() && query.iter().all(|p| p.ready == (1, 1)), "query: {query:?}");
    no_restarts(&query)
}
