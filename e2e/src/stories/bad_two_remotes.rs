//! Two RemoteStores for one cluster: the older stays in use, the newer is told what it duplicates, and nothing is counted twice.

use serde_json::json;

use super::world::{CHANGE, Link, World, eventually, fleet_tls};
use super::{Story, Thing};
use crate::cluster::{OPS, PROD};
use crate::fleet::Stack;

pub(super) const STORY: Story =
    Story { name: "bad_two_remotes", changes: &[Thing::OpsLinks], needs: &[Thing::OpsPods, Thing::Prod], run };

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let before = ops.up_by_cluster("")?;
    ops.wait_condition("rstore/prod", "Ready", CHANGE)?;
    let since = ready_since(&ops)?;
    let spec = json!({"clusterName": "prod", "address": format!("{}:30901", PROD.node_ip()), "tls": fleet_tls("prod")});
    let again = Link::apply("prod-again", &spec)?;
    let told = ops.wait_reason(&again.object(), "LabelsUnique", "False", &["DuplicateOf"], CHANGE)?;
    anyhow::ensure!(told.message.contains("prod"), "it doesn't name the other: {}", told.message);
    eventually("the status to list the conflict", CHANGE, || {
        let found = ops.json(&["get", &again.object()])?;
        anyhow::ensure!(
            found["status"]["conflicts"][0]["name"] == "prod",
            "conflicts: {}",
            found["status"]["conflicts"]
        );
        Ok(())
    })?;
    anyhow::ensure!(ops.condition(&again.object(), "Ready")?.status == "False", "the newer one is Ready");
    anyhow::ensure!(ready_since(&ops)? == since, "the older one suffers: {}", ops.conditions("rstore/prod")?);
    let now = ops.up_by_cluster("")?;
    anyhow::ensure!(now == before, "{before:?} became {now:?}");
    Ok(())
}

/// Since when the older link is Ready, without a pause.
fn ready_since(ops: &Stack) -> anyhow::Result<String> {
    let condition = r#"jsonpath={.status.conditions[?(@.type=="Ready")]}"#;
    ops.kubectl(&["get", "rstore/prod", "-o", condition])
}
