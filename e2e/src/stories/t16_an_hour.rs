//! T16: data of an hour is made of 5-minute data that spans 10 days, and of nothing shorter; long ranges that are read from it are as
//! those from raw data; and without a word in the spec all is kept.

use serde_json::json;

use super::world::{READY, World, no_restarts};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::compaction::{attentive, coarser, quick};

pub(super) const STORY: Story = Story { name: "t16_an_hour", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t16")?;
    let stack = &sandbox.stack;
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(), "prometheus": {"replicas": 0}, "storeGateway": attentive(), "compactor": quick(),
    }))?;
    stack.wait_ready(&stack.object(), READY)?;
    coarser::an_hour(stack, &bucket)?;
    no_restarts(&stack.pods("compact")?)
}
