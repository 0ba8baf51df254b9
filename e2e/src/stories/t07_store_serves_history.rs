//! T07: with every Prometheus gone, the range that was uploaded is answered whole, by the store gateway alone. Nobody's pod restarts:
//! history appears in the answers of the very querier that ran before.

use serde_json::json;

use super::world::{CHANGE, READY, World, eventually, no_restarts, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::history::{archived, only_history};

pub(super) const STORY: Story = Story { name: "t07_store_serves_history", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t07")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(),
        "prometheus": {"replicas": 2, "extraArgs": super::world::SHORT_BLOCKS},
    }))?;
    stack.wait_ready(&object, READY)?;
    stack.wait_reason(&object, "HistoryReady", "True", &["AllBlocksServed"], CHANGE)?;
    let queriers = stack.pods("query")?;

    let blocks = archived(stack, 2, || Ok(bucket.blocks()?.into_values().flatten().collect()))?;
    only_history(stack, &blocks)?;

    same_pods(&queriers, &stack.pods("query")?)?;
    no_restarts(&stack.pods("store")?)?;
    eventually("the blocks in the status", CHANGE, || {
        let history = stack.json(&["get", &object])?["status"]["history"].clone();
        let enough = history["blocks"].as_u64().is_some_and(|served| served >= blocks.len() as u64);
        anyhow::ensure!(enough && history["missing"] == 0 && history["synced"] == "1/1", "it says {history}");
        Ok(())
    })
}
