//! Where the operator lacks a right, a condition gives the command that grants it; run as it is, it makes the stack come up.

use serde_json::json;

use super::world::{CHANGE, READY, Sandbox, World};
use super::{Story, Thing};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "bad_rights", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = Sandbox::without_rights(LAB, "rights")?;
    let stack = &sandbox.stack;
    sandbox.apply(json!({}))?;
    let told = stack.wait_reason(&stack.object(), "Stalled", "True", &["ForbiddenByRBAC"], CHANGE)?;
    let command = "panoptes operator rbac -n rights";
    anyhow::ensure!(told.message.contains(command), "it doesn't give the command `{command}`: {}", told.message);
    LAB.apply(&world.product.operator(&["rbac", "-n", "rights"])?)?;
    stack.wait_ready(&stack.object(), READY)
}
