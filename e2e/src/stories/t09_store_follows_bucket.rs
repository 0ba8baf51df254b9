//! T09: a block that somebody else uploads is in the answers within the sync interval, without a restart; a deletion mark takes it out
//! again. A damaged one is named and stops nothing.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use testkit::http;

use super::world::{CHANGE, READY, World, eventually, no_restarts, now, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::Stack;
use crate::made::{self, SPAN_MS, Wish, block_of};
use crate::say;

pub(super) const STORY: Story = Story { name: "t09_store_follows_bucket", changes: &[], needs: &[Thing::Lab], run };

const SYNC: Duration = Duration::from_secs(15);
/// From the store to the answer: the querier asks who has what every few seconds.
const ON_ITS_WAY: Duration = Duration::from_secs(15);

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t09")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(),
        "storeGateway": {"extraArgs": [format!("--sync-block-duration={}s", SYNC.as_secs())]},
    }))?;
    stack.wait_ready(&object, READY)?;
    stack.wait_reason(&object, "HistoryReady", "True", &["AllBlocksServed"], CHANGE)?;
    let pods = [stack.pods("store")?, stack.pods("query")?].concat();

    let start_ms = block_of((now() * 1000.0) as i64) - 30 * 86_400_000;
    let dir = tempfile::tempdir()?;
    let wish = Wish {
        cluster: "t09",
        replica: "t09-prometheus-0",
        metric: "foreign",
        prefix: "f",
        series: 20,
        start_ms,
        span_ms: SPAN_MS,
        value: |series, sample| (series * 1_000 + sample) as f64,
    };
    let block = made::foreign(dir.path(), &wish)?;
    anyhow::ensure!(sum(stack, &wish)?.is_none(), "it is there before it was uploaded");
    let start = Instant::now();
    let (id, _) = made::upload(&bucket.server, &bucket.name, &block)?;
    eventually("the stranger's block in the answers", SYNC + ON_ITS_WAY, || {
        let found = sum(stack, &wish)?;
        let wanted = (0..20).map(|series| (wish.value)(series, 479)).sum::<f64>();
        anyhow::ensure!(found == Some(wanted), "it is {found:?}, not {wanted}");
        Ok(())
    })?;
    say::step(&format!(
        "  t09: a block of promtool's was in the answers {:.1} s after its upload",
        start.elapsed().as_secs_f64()
    ));
    let status = stack.json(&["get", &object])?["status"]["history"].clone();
    anyhow::ensure!(status["missing"] == 0, "it says {status}");

    // A damaged one, of another time.
    let other = Wish { start_ms: start_ms + SPAN_MS, ..wish };
    let damaged = made::foreign(dir.path(), &other)?;
    let index = std::fs::read(damaged.join("index"))?;
    std::fs::write(damaged.join("index"), index.get(..index.len() / 2).context("a short index")?)?;
    let (bad, _) = made::upload(&bucket.server, &bucket.name, &damaged)?;
    let said = eventually("the damaged block in the condition", CHANGE, || {
        // It may take a question that touches it.
        let _ = sum(stack, &other);
        let said = stack.condition(&object, "HistoryReady")?;
        anyhow::ensure!(said.status == "False" && said.reason == "BlocksMissing", "it is {said:?}");
        Ok(said)
    })?;
    anyhow::ensure!(said.message.contains(&bad), "it doesn't name {bad}: {}", said.message);
    anyhow::ensure!(sum(stack, &wish)?.is_some(), "the good block is gone with it");
    let warned = stack.get_query(&path(&other))?;
    anyhow::ensure!(warned["warnings"].to_string().contains(&bad), "an answer that touches it says {warned}");

    // Marked long ago, by somebody else's compactor.
    for id in [&id, &bad] {
        let mark = json!({"id": id, "version": 1, "deletion_time": now() as i64 - 3 * 86_400, "details": "e2e"});
        bucket.server.put(&bucket.name, &format!("{id}/deletion-mark.json"), mark.to_string().as_bytes())?;
    }
    eventually("the marked block out of the answers", SYNC + ON_ITS_WAY, || {
        let found = sum(stack, &wish)?;
        anyhow::ensure!(found.is_none(), "it is still {found:?}");
        Ok(())
    })?;
    stack.wait_reason(&object, "HistoryReady", "True", &["AllBlocksServed"], CHANGE)?;
    let after = [stack.pods("store")?, stack.pods("query")?].concat();
    same_pods(&pods, &after)?;
    no_restarts(&after)
}

fn path(wish: &Wish<'_>) -> String {
    let at = (wish.start_ms + SPAN_MS - made::STEP_MS) / 1000;
    format!("/api/v1/query?query={}&time={at}", http::encode(&format!("sum({})", wish.metric)))
}

/// The sum over all series at the block's last sample; none if there is no series.
fn sum(stack: &Stack, wish: &Wish<'_>) -> anyhow::Result<Option<f64>> {
    let answer = stack.get_query(&path(wish))?;
    let value = &answer["data"]["result"][0]["value"][1];
    Ok(value.as_str().map(str::parse).transpose()?)
}
