//! T08: a store gateway needs little disk, and what it has there can be deleted: with its pod the cache goes, and a new pod gives the
//! same answers. How long that takes and what it needs is told.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::http;

use super::world::{CHANGE, READY, World, eventually, now};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::{Pod, Stack};
use crate::made::{self, SPAN_MS, Wish, block_of};
use crate::say;

pub(super) const STORY: Story = Story { name: "t08_cache_is_disposable", changes: &[], needs: &[Thing::Lab], run };

/// A day of blocks.
const BLOCKS: i64 = 12;
const SERIES: usize = 1_000;

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t08")?;
    let stack = &sandbox.stack;
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    let first = block_of((now() * 1000.0) as i64) - 7 * 86_400_000;
    let dir = tempfile::tempdir()?;
    let mut bytes = 0;
    for n in 0..BLOCKS {
        let wish = Wish {
            cluster: "t08",
            replica: "t08-prometheus-0",
            metric: "scattered",
            prefix: "s",
            series: SERIES,
            start_ms: first + n * SPAN_MS,
            span_ms: SPAN_MS,
            value: made::scattered,
        };
        let block = made::own(dir.path(), &wish, 8)?;
        bytes += made::upload(&bucket.server, &bucket.name, &block)?.1;
        std::fs::remove_dir_all(block)?;
    }
    // The blocks are to stay as they are.
    sandbox.apply(json!({"objectStorage": bucket.spec(), "compactor": {"enabled": false}}))?;
    stack.wait_ready(&stack.object(), READY)?;
    stack.wait_reason(&stack.object(), "HistoryReady", "True", &["AllBlocksServed"], CHANGE)?;

    let before = eventually("the answers", CHANGE, || answers(stack, first))?;
    let old = only_pod(stack)?;
    let disk = used(&LAB.empty_dir(&old.uid, "data"))?;

    let start = Instant::now();
    stack.kubectl(&["delete", "pod", &old.name, "--wait=false"])?;
    eventually("an answer that misses it", CHANGE, || {
        let answer =
            stack.get_query(&format!("/api/v1/query?query=count(scattered)&time={}", (first + SPAN_MS) / 1000))?;
        anyhow::ensure!(answer["warnings"].to_string().contains("no answer from store"), "it says {answer}");
        Ok(())
    })?;
    let new = eventually("another pod, ready", READY, || {
        let pod = only_pod(stack)?;
        anyhow::ensure!(pod.uid != old.uid && pod.ready == (1, 1), "it is {pod:?}");
        Ok(pod)
    })?;
    let ready = start.elapsed().as_secs_f64();
    anyhow::ensure!(!LAB.empty_dir(&old.uid, "data").exists(), "the old cache is still there");
    let empty = used(&LAB.empty_dir(&new.uid, "data"))?;
    // The querier follows the new address.
    let after = eventually("the same answers", CHANGE, || {
        let after = answers(stack, first)?;
        anyhow::ensure!(after == before, "they are {after:?}, before {before:?}");
        Ok(after)
    })?;
    let again = used(&LAB.empty_dir(&new.uid, "data"))?;
    say::step(&format!(
        "  t08: bucket {} KB in {BLOCKS} blocks; the store's disk {} KB after {} queries; a new pod without cache was ready after \
         {ready:.1} s with {} KB, {} KB after the same queries",
        bytes / 1000,
        disk / 1000,
        after.len(),
        empty / 1000,
        again / 1000
    ));
    anyhow::ensure!(disk * 4 < bytes && again * 4 < bytes, "{disk} and {again} bytes of {bytes} are on its disk");
    Ok(())
}

fn only_pod(stack: &Stack) -> anyhow::Result<Pod> {
    let mut pods = stack.pods("store")?;
    anyhow::ensure!(pods.len() == 1, "store gateways: {pods:?}");
    pods.pop().context("no pod")
}

/// Answers to questions about some of the series, checked against what was written.
fn answers(stack: &Stack, first: i64) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for n in 0..BLOCKS {
        let end = first + (n + 1) * SPAN_MS - made::STEP_MS;
        let query = http::encode("sort(sum_over_time(scattered{instance=~\"s-0000.\"}[10m]))");
        let path = format!("/api/v1/query?query={query}&time={}", end / 1000);
        let mut answer = stack.get_query(&path)?;
        anyhow::ensure!(answer["warnings"].as_array().is_none_or(Vec::is_empty), "it warns: {}", answer["warnings"]);
        let answer = answer["data"]["result"].take();
        let rows = answer.as_array().context("not a vector")?;
        anyhow::ensure!(rows.len() == 10, "{} of 10 series in block {n}", rows.len());
        for row in rows {
            let series: usize = row["metric"]["instance"]
                .as_str()
                .and_then(|instance| instance.strip_prefix("s-"))
                .context("no instance")?
                .parse()?;
            let found: f64 = row["value"][1].as_str().context("no value")?.parse()?;
            let wanted: f64 = (440..480).map(|sample| made::scattered(series, sample)).sum();
            anyhow::ensure!((found - wanted).abs() <= wanted.abs() * 1e-12, "series {series}: {found}, not {wanted}");
        }
        all.push(answer);
    }
    Ok(all)
}

/// Bytes that a folder takes on disk.
fn used(dir: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        // A file may go while we look.
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() { used(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(sum)
}
