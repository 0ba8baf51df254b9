//! T14: the compactor merges the bucket's blocks and answers stay the same; a second one on the same bucket stands by and takes over
//! when the first one is gone; and one that is killed while it works leaves nothing behind that matters.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::world::{Bucket, CHANGE, READY, World, eventually};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::compaction::merging::{Seeds, merges};
use crate::compaction::{attentive, idle, quick};
use crate::fleet::Stack;
use crate::{memory, run as commands, say};

pub(super) const STORY: Story = Story { name: "t14_compaction", changes: &[], needs: &[Thing::Lab], run };

/// How often it is killed. The kubelet waits ten seconds before the second new start, twenty before the third.
const KILLS: usize = 3;

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t14")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    let spec = |compactor| {
        json!({
            "objectStorage": bucket.spec(), "prometheus": {"replicas": 0}, "storeGateway": attentive(),
            "compactor": compactor,
        })
    };
    sandbox.apply(spec(json!({"enabled": false})))?;
    stack.wait_ready(&object, READY)?;
    merges(stack, &bucket)?;
    killed(stack, &bucket)?;

    // A second cluster on the same bucket: refused, until the first one gives up.
    let second = world.sandbox(LAB, "t14b")?;
    bucket.shared_with(&second).put_key("one")?;
    let mut small = spec(quick());
    (small["storeGateway"], small["prometheus"]) = (json!({"enabled": false}), json!({}));
    second.apply(small)?;
    let (other, holder) = (&second.stack, "compact-t14.t14.t14-compact-0");
    let said = other.wait_reason(&other.object(), "CompactionHealthy", "True", &["StandingBy"], READY)?;
    anyhow::ensure!(said.message.contains(holder), "it doesn't name {holder}: {}", said.message);
    other.wait_ready(&other.object(), READY)?;
    let status = other.json(&["get", &other.object()])?["status"]["compaction"].take();
    anyhow::ensure!(status["holder"] == holder, "it says {status}");
    stack.wait_reason(&object, "CompactionHealthy", "True", &["UpToDate", "Compacting"], CHANGE)?;
    stack.patch(&json!({"compactor": {"enabled": false}}))?;
    other.wait_reason(&other.object(), "CompactionHealthy", "True", &["UpToDate", "Compacting"], CHANGE).map(|_| ())
}

/// Kills the compactor again and again while there is work; in the end all is merged, and every sample is there.
fn killed(stack: &Stack, bucket: &Bucket) -> anyhow::Result<()> {
    let pod = format!("{}-compact-0", stack.name);
    stack.patch(&json!({"compactor": {"enabled": false}}))?;
    eventually("the end of the compactor", CHANGE, || {
        let left = stack.pods("compact")?;
        anyhow::ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })?;
    let seeds = Seeds::put(stack, bucket, "kill_me", 60, 10)?;
    let before = eventually("every sample in the answers", CHANGE, || seeds.answer(stack))?;
    stack.patch(&json!({"compactor": quick()}))?;
    stack.patch(&json!({"compactor": {"enabled": true}}))?;
    let announced = || -> anyhow::Result<usize> {
        let names = bucket.server.names(&bucket.name)?;
        Ok(names.iter().filter(|name| name.contains("/compact-all/") && name.ends_with(".intent")).count())
    };
    let (mut seen, mut kills) = (announced()?, 0);
    let start = Instant::now();
    while kills < KILLS && start.elapsed() < CHANGE {
        let now = announced()?;
        if now > seen
            && let Some(process) = memory::process(&LAB, "compact", &pod)
        {
            // It has just announced a block: it is about to send it, has sent it, or marks its sources.
            commands::output("kill", &["-9", &process.to_string()])?;
            kills += 1;
            say::step(&format!("  t14: the compactor was killed {kills} times"));
        }
        seen = now;
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::ensure!(kills > 0, "it announced no block while we looked");
    seeds.merged(bucket)?;
    let healthy = ["UpToDate", "Compacting"];
    stack.wait_reason(&stack.object(), "CompactionHealthy", "True", &healthy, CHANGE)?;
    idle(stack)?;
    let after = eventually("every sample in the answers again", CHANGE, || seeds.answer(stack))?;
    anyhow::ensure!(before == after, "the answers differ");
    let restarts = stack.pods("compact")?.first().context("no compactor")?.restarts;
    anyhow::ensure!(restarts >= 1, "it was never restarted");
    Ok(())
}
