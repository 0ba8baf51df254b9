//! T21: the tutorial's Secret, one JSON key, is taken by reference; while it is missing or broken a condition names the key and all
//! else runs; a rotated one is picked up without a restart and without losing data.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::world::{BLOCK, Bucket, CHANGE, READY, SHORT_BLOCKS, World, eventually, no_restarts, same_pods};
use super::{Story, Thing};
use crate::blocks::{Held, held, local, same};
use crate::cluster::LAB;
use crate::fleet::{CREDENTIALS, CREDENTIALS_KEY, Stack};

pub(super) const STORY: Story = Story { name: "t21_secret", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t21")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let bucket = sandbox.bucket(&["one"])?;
    sandbox.apply(json!({"objectStorage": bucket.spec(), "prometheus": {"extraArgs": SHORT_BLOCKS}}))?;

    // Missing: it waits, says for what, and all that needs no bucket runs.
    let missing = stack.wait_reason(&object, "ObjectStorageReady", "False", &["SecretMissing"], CHANGE)?;
    anyhow::ensure!(missing.message.contains(CREDENTIALS), "it doesn't name the Secret: {}", missing.message);
    stack.wait_condition(&object, "Available", READY)?;
    let pods = eventually("Prometheus with its sidecar", READY, || {
        let pods = stack.pods("prometheus")?;
        anyhow::ensure!(pods.len() == 1 && pods[0].ready == (2, 2), "Prometheus is not 2/2: {pods:?}");
        Ok(pods)
    })?;

    bucket.put("not JSON")?;
    let broken = stack.wait_reason(&object, "ObjectStorageReady", "False", &["SecretInvalid"], CHANGE)?;
    anyhow::ensure!(broken.message.contains(CREDENTIALS_KEY), "it doesn't name the key: {}", broken.message);

    bucket.put_key("one")?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    stack.wait_ready(&object, CHANGE)?;
    more_blocks(&bucket, 0)?;

    // Rotated: for a moment both keys open the bucket, then the old one no longer does.
    bucket.allow(&["one", "two"], &[])?;
    let first = in_use(stack)?.context("the sidecar uses no configuration")?;
    bucket.put_key("two")?;
    eventually("the sidecar to use and verify the new key", CHANGE, || {
        let now = in_use(stack)?;
        anyhow::ensure!(now.as_ref().is_some_and(|now| *now != first), "it uses {now:?}, before {first}");
        Ok(())
    })?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    bucket.allow(&["two"], &[])?;
    more_blocks(&bucket, count(&bucket)?)?;

    // Withdrawn before there is a new one: blocks wait, and are not lost.
    bucket.allow(&["three"], &[])?;
    bucket.put_key("four")?;
    stack.wait_reason(&object, "ObjectStorageReady", "False", &["AccessDenied"], CHANGE)?;
    let before = count(&bucket)?;
    eventually("a block that waits", BLOCK, || {
        let status = stack.json(&["get", &object])?["status"]["objectStorage"].clone();
        anyhow::ensure!(status["pending"].as_i64().is_some_and(|pending| pending > 0), "it says {status}");
        Ok(())
    })?;
    anyhow::ensure!(count(&bucket)? == before, "something was uploaded with a key that opens nothing");
    bucket.put_key("three")?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    let blocks = more_blocks(&bucket, before + 1)?;

    let number = |meta: &Value, field: &str| meta[field].as_i64().with_context(|| format!("no {field} in {meta}"));
    let (first, last) = (blocks.first().context("no block")?, blocks.last().context("no block")?);
    let mut all = Held::default();
    for meta in &blocks {
        let part = held(&bucket.server, &bucket.name, meta["ulid"].as_str().context("no ulid")?)?;
        all = Held { samples: all.samples + part.samples, sum: all.sum + part.sum };
    }
    same(all, local(stack, 0, number(first, "minTime")?, number(last, "maxTime")?)?).context("data was lost")?;

    let after = stack.pods("prometheus")?;
    same_pods(&pods, &after)?;
    no_restarts(&after)
}

/// Hash of the bucket's configuration that the sidecar has verified.
fn in_use(stack: &Stack) -> anyhow::Result<Option<String>> {
    let state = stack.get_pod(&format!("{}-prometheus-0", stack.name), 10902, "/-/state")?;
    let found = &state["bucket"];
    let verified = found["checkedAtMs"].is_i64() && found["error"].is_null();
    Ok(found["configuration"].as_str().filter(|_| verified).map(str::to_owned))
}

fn count(bucket: &Bucket) -> anyhow::Result<usize> {
    Ok(bucket.blocks()?.values().map(Vec::len).sum())
}

/// Waits until there are more than so many blocks; gives all.
fn more_blocks(bucket: &Bucket, than: usize) -> anyhow::Result<Vec<Value>> {
    eventually("another block in the bucket", BLOCK, || {
        let blocks: Vec<Value> = bucket.blocks()?.into_values().flatten().collect();
        anyhow::ensure!(blocks.len() > than, "there are {}", blocks.len());
        Ok(blocks)
    })
}
