//! T34: a second cluster that calls itself like the first is told as a conflict and not merged in; under a name of its own it is
//! accepted.

use serde_json::json;

use super::world::{CHANGE, Link, READY, World, eventually};
use super::{Story, Thing};
use crate::cluster::{OPS, STAGING};
use crate::fleet::Stack;

pub(super) const STORY: Story =
    Story { name: "t34_own_name", changes: &[Thing::OpsLinks], needs: &[Thing::OpsPods], run };

fn run(world: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let before = ops.up_by_cluster("")?;
    for (name, cluster_name, port) in [("t34-same", "ops", 30934), ("t34-own", "t34", 30935)] {
        let sandbox = world.sandbox(STAGING, name)?;
        sandbox.apply(json!({
            "clusterName": cluster_name,
            "expose": {"storeAPI": {"type": "NodePort", "nodePort": port, "allowPlaintext": true}},
        }))?;
        sandbox.stack.wait_ready(&sandbox.stack.object(), READY)?;
        let address = format!("{}:{port}", STAGING.node_ip());
        let link = Link::apply(name, &json!({"clusterName": cluster_name, "address": address}))?;
        if cluster_name == "ops" {
            let told =
                ops.wait_reason(&link.object(), "LabelsUnique", "False", &["OverlapsLocal", "DuplicateOf"], CHANGE)?;
            anyhow::ensure!(told.message.contains("ops"), "it doesn't say which: {}", told.message);
            anyhow::ensure!(ops.condition(&link.object(), "Ready")?.status == "False", "it is Ready all the same");
            let now = ops.up_by_cluster("")?;
            anyhow::ensure!(now == before, "its series are merged in: {before:?} became {now:?}");
        } else {
            ops.wait_condition(&link.object(), "Ready", CHANGE)?;
            eventually("its series in the answer", CHANGE, || {
                let now = ops.up_by_cluster("")?;
                anyhow::ensure!(now.contains_key("t34"), "{now:?}");
                Ok(())
            })?;
        }
    }
    eventually("the answer to be as before", CHANGE, || {
        let now = ops.up_by_cluster("")?;
        anyhow::ensure!(now.keys().eq(before.keys()), "{now:?}");
        Ok(())
    })
}
