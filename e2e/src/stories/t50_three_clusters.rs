//! T50: three clusters, two links. Removing one leaves the other; when prod looks back at ops, nothing is counted twice and no query
//! runs in circles.

use std::time::{Duration, Instant};

use serde_json::json;

use super::world::{CHANGE, LINKS, Link, Restore, Undo, World, eventually};
use super::{Story, Thing};
use crate::cluster::{OPS, PROD};
use crate::fleet::Stack;

pub(super) const STORY: Story = Story {
    name: "t50_three_clusters",
    changes: &[Thing::OpsLinks, Thing::Prod],
    needs: &[Thing::OpsPods, Thing::Staging],
    run,
};

fn run(_: &World) -> anyhow::Result<()> {
    let (ops, prod) = (Stack::of(OPS), Stack::of(PROD));
    let links = Restore(LINKS);
    let before = ops.up_by_cluster("")?;
    anyhow::ensure!(before.keys().eq(["ops", "prod", "staging"]), "at first: {before:?}");

    // prod looks back at ops.
    ops.patch(&json!({"expose": {"storeAPI": {"type": "NodePort", "nodePort": 30950, "allowPlaintext": true}}}))?;
    let undo = Undo(ops.clone(), json!({"expose": null}));
    let back = json!({"clusterName": "ops", "address": format!("{}:30950", OPS.node_ip())});
    let back = Link::apply_in(PROD, "ops", &back)?;
    prod.wait_condition("rstore/ops", "Ready", CHANGE)?;
    eventually("prod to see itself and ops, nothing else", CHANGE, || {
        let seen = prod.up_by_cluster("")?;
        anyhow::ensure!(seen.keys().eq(["ops", "prod"]), "prod sees {seen:?}");
        Ok(())
    })?;
    eventually("the same counts from both sides, quickly", CHANGE, || {
        let start = Instant::now();
        let (from_ops, from_prod) = (ops.up_by_cluster("")?, prod.up_by_cluster("")?);
        let took = start.elapsed();
        for name in ["ops", "prod"] {
            anyhow::ensure!(
                from_ops.get(name) == from_prod.get(name),
                "ops sees {from_ops:?}, prod sees {from_prod:?}"
            );
        }
        anyhow::ensure!(from_ops.len() == 3, "ops sees {from_ops:?}");
        anyhow::ensure!(took < Duration::from_secs(3), "two queries took {took:?}");
        Ok(())
    })?;

    ops.kubectl(&["delete", "rstore", "prod"])?;
    eventually("prod to leave, staging to stay", CHANGE, || {
        let seen = ops.up_by_cluster("")?;
        anyhow::ensure!(seen.keys().eq(["ops", "staging"]), "ops sees {seen:?}");
        Ok(())
    })?;
    drop((back, undo, links));
    ops.wait_condition("rstore/prod", "Ready", CHANGE)?;
    ops.wait_ready(&ops.object(), CHANGE)
}
