//! T32: cluster name, intervals and a distinct replica label are in each Prometheus's loaded configuration; changing the name is
//! refused and nothing is made anew.

use anyhow::Context as _;
use serde_json::json;

use super::world::World;
use super::{Story, Thing};

pub(super) const STORY: Story =
    Story { name: "t32_name_and_intervals", changes: &[], needs: &[Thing::Lab, Thing::Tutorial], run };

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let spec = stack.json(&["get", &stack.object()])?["spec"].take();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    for replica in 0..3 {
        let answer = stack.get_prometheus(replica, "/api/v1/status/config")?;
        let config = answer["data"]["yaml"].as_str().context("no configuration")?;
        let wanted = [
            format!("cluster: {}", text(&spec["clusterName"])),
            format!("prometheus_replica: {}-prometheus-{replica}", stack.name),
            format!("scrape_interval: {}", text(&spec["scrape"]["interval"])),
            format!("evaluation_interval: {}", text(&spec["scrape"]["evaluationInterval"])),
        ];
        let global = config.split("scrape_configs:").next().unwrap_or_default();
        for line in wanted {
            anyhow::ensure!(global.contains(&line), "replica {replica} has no `{line}`:\n{global}");
        }
    }
    let claims = stack.kubectl(&["get", "persistentvolumeclaims", "-o", "jsonpath={.items[*].metadata.uid}"])?;
    let refused = stack.patch(&json!({"clusterName": "another"})).err().context("a new clusterName was accepted")?;
    anyhow::ensure!(format!("{refused:#}").contains("clusterName"), "it is refused without a reason: {refused:#}");
    let after = stack.kubectl(&["get", "persistentvolumeclaims", "-o", "jsonpath={.items[*].metadata.uid}"])?;
    anyhow::ensure!(claims == after, "volumes were made anew");
    Ok(())
}
