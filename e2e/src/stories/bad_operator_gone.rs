//! A namespace ends even while no operator runs: nothing of ours holds it.

use serde_json::json;

use super::world::{READY, World};
use super::{Story, Thing};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "bad_operator_gone", changes: &[Thing::Lab], needs: &[], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "gone")?;
    sandbox.apply(json!({}))?;
    sandbox.stack.wait_ready(&sandbox.stack.object(), READY)?;
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        LAB.kubectl(&["-n", "panoptes-system", "scale", "deployment/panoptes-operator", &replicas])
    };
    scale("0")?;
    let ended = LAB
        .kubectl(&[
            "-n",
            "panoptes-system",
            "wait",
            "pod",
            "--for=delete",
            "--timeout=60s",
            "-l",
            "app.kubernetes.io/component=operator",
        ])
        .and_then(|_| LAB.kubectl(&["delete", "namespace", "gone", "--timeout=90s"]));
    scale("2")?;
    LAB.kubectl(&["-n", "panoptes-system", "rollout", "status", "deployment/panoptes-operator", "--timeout=120s"])?;
    ended.map(|_| ())
}
