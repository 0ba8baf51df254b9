//! T04: the sidecar beside each Prometheus archives its blocks: per replica a block in the bucket whose labels tell cluster and
//! replica, with exactly the samples that the replica itself has of that time.

use anyhow::Context as _;
use serde_json::json;

use super::world::{BLOCK, CHANGE, READY, World, eventually, no_restarts};
use super::{Story, Thing};
use crate::blocks::{held, local, same};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "t04_sidecar_archives", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t04")?;
    let stack = &sandbox.stack;
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(),
        "prometheus": {"replicas": 2, "extraArgs": super::world::SHORT_BLOCKS},
    }))?;
    let object = stack.object();
    stack.wait_ready(&object, READY)?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    let pods = stack.pods("prometheus")?;
    anyhow::ensure!(pods.len() == 2 && pods.iter().all(|pod| pod.ready == (2, 2)), "not two pods with 2/2: {pods:?}");

    let replicas = ["t04-prometheus-0", "t04-prometheus-1"];
    let blocks = eventually("a block of each replica in the bucket", BLOCK, || {
        let blocks = bucket.blocks()?;
        let found: Vec<&str> = blocks.keys().map(String::as_str).collect();
        anyhow::ensure!(found == replicas, "there are blocks of {found:?}");
        Ok(blocks)
    })?;
    for (at, replica) in replicas.iter().enumerate() {
        for meta in &blocks[*replica] {
            anyhow::ensure!(
                meta["thanos"]["labels"]["cluster"] == "t04",
                "its labels are {}",
                meta["thanos"]["labels"]
            );
            anyhow::ensure!(meta["thanos"]["source"] == "sidecar", "its source is {}", meta["thanos"]["source"]);
            let id = meta["ulid"].as_str().context("no ulid")?;
            let (min, max) =
                (meta["minTime"].as_i64().context("no minTime")?, meta["maxTime"].as_i64().context("no maxTime")?);
            same(held(&bucket.server, &bucket.name, id)?, local(stack, at, min, max)?)
                .with_context(|| format!("block {id} of {replica}"))?;
        }
    }
    eventually("the upload in the status", CHANGE, || {
        let status = stack.json(&["get", &object])?["status"]["objectStorage"].clone();
        anyhow::ensure!(status["result"] == "Ok" && status["verified"] == "3/3", "it says {status}");
        anyhow::ensure!(status["lastUpload"].is_string() && status["skipped"] == 0, "it says {status}");
        Ok(())
    })?;
    no_restarts(&stack.pods("prometheus")?)
}
