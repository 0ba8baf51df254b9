//! T23, the parts that exist: kube-state-metrics and querier are available, and the status says so part by part.

use anyhow::Context as _;

use super::world::World;
use super::{Story, Thing};

pub(super) const STORY: Story =
    Story { name: "t23_part_workloads", changes: &[], needs: &[Thing::Lab, Thing::Tutorial], run };

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    for part in ["kube-state-metrics", "query"] {
        let deployment = format!("deployment/{}-{part}", stack.name);
        stack.kubectl(&["wait", &deployment, "--for=condition=Available", "--timeout=60s"])?;
    }
    let status = stack.json(&["get", &stack.object()])?["status"].take();
    for part in ["prometheus", "query", "store", "compact", "kube-state-metrics", "node-exporter"] {
        let rows = status["components"].as_array().context("no components in the status")?;
        let row = rows.iter().find(|r| r["name"] == part).with_context(|| format!("no component {part}"))?;
        anyhow::ensure!(
            row["state"] == "Ready" && row["ready"] == row["desired"] && row["desired"].as_i64() > Some(0),
            "{row}"
        );
    }
    Ok(())
}
