//! T15: data of 5 minutes is made of what spans 40 hours, and of nothing shorter; its aggregates are those of the raw samples.

use serde_json::json;

use super::world::{READY, World, no_restarts};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::compaction::{attentive, coarser, quick};

pub(super) const STORY: Story = Story { name: "t15_five_minutes", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t15")?;
    let stack = &sandbox.stack;
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(), "prometheus": {"replicas": 0}, "storeGateway": attentive(), "compactor": quick(),
    }))?;
    stack.wait_ready(&stack.object(), READY)?;
    coarser::five_minutes(stack, &bucket)?;
    no_restarts(&stack.pods("compact")?)
}
