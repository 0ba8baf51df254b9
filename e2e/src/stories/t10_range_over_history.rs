//! T10: a range that begins in the bucket and ends in a Prometheus that is told to serve only what is newer comes as one continuous
//! series: sample for sample what that Prometheus itself holds, no time twice.

use anyhow::Context as _;
use serde_json::json;
use testkit::http;

use super::t10_part_live_range::matrix;
use super::world::{BLOCK, CHANGE, READY, World, eventually, no_restarts, now};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::Stack;
use crate::run;

pub(super) const STORY: Story = Story { name: "t10_range_over_history", changes: &[], needs: &[Thing::Lab], run };

/// From the begin of the story until the time from which on the sidecar serves: Prometheus scrapes before that, and the first blocks
/// end after it.
const HEAD: f64 = 120.0;
/// What is asked for of each side of it, seconds.
const BEFORE: f64 = 30.0;
const AFTER: f64 = 60.0;

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t10")?;
    let stack = &sandbox.stack;
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    let boundary = (now() + HEAD).ceil();
    let text = run::output("date", &["-u", "-d", &format!("@{boundary}"), "+%Y-%m-%dT%H:%M:%SZ"])?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(),
        "prometheus": {"replicas": 1, "extraArgs": super::world::SHORT_BLOCKS},
        "sidecar": {"extraArgs": [format!("--min-time={}", text.trim())]},
        "storeGateway": {"extraArgs": ["--sync-block-duration=10s"]},
    }))?;
    stack.wait_ready(&stack.object(), READY)?;
    // On a busy machine it may come up late.
    let (start, end) = ((boundary - BEFORE).max(now().ceil() + 10.0), boundary + AFTER);
    anyhow::ensure!(start < boundary - 10.0, "it came up only {:.0} s before the boundary", boundary - now());

    eventually("the blocks of both sides of the boundary in the store gateway", BLOCK, || {
        let (oldest, newest) = times(stack, "store")?;
        anyhow::ensure!(
            now() > end + 10.0 && oldest <= start && newest > boundary,
            "it has {oldest} to {newest}, the boundary is {boundary}"
        );
        Ok(())
    })?;
    let (live, _) = times(stack, "sidecar")?;
    anyhow::ensure!(live >= boundary, "the sidecar serves from {live} on, not from {boundary}");

    let raw = format!("[{:.0}s] @ {end}", end - start);
    let instant = |expression: &str| format!("/api/v1/query?query={}", http::encode(expression));
    let range = |expression: &str| {
        let query = http::encode(expression);
        format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=5")
    };
    let mut paths: Vec<String> = [
        "up",
        "process_cpu_seconds_total",
        "prometheus_tsdb_head_samples_appended_total",
        "prometheus_http_requests_total",
    ]
    .map(|name| instant(&format!("{name}{raw}")))
    .to_vec();
    paths.extend(["up", "rate(process_cpu_seconds_total[20s])", "sum(scrape_samples_scraped)"].map(range));
    for path in &paths {
        eventually("an answer that is Prometheus's own", CHANGE, || {
            let answer = stack.get_query(path)?;
            anyhow::ensure!(
                answer["warnings"].as_array().is_none_or(Vec::is_empty),
                "it warns: {}",
                answer["warnings"]
            );
            let (fleet, own) = (matrix(&answer)?, matrix(&stack.get_prometheus(0, path)?)?);
            anyhow::ensure!(fleet == own && !own.is_empty(), "{path}: the querier says {fleet:?}, Prometheus {own:?}");
            // Scraped every 5 s: there is something of either side of the boundary.
            let longest = own.values().map(Vec::len).max().unwrap_or_default();
            let least = ((end - start) / 5.0) as usize - 1;
            anyhow::ensure!(longest >= least, "{path}: the longest series has {longest} points");
            Ok(())
        })?;
    }
    no_restarts(&[stack.pods("prometheus")?, stack.pods("store")?].concat())
}

/// Oldest and newest data of the stores of a kind, as the querier knows them, in seconds.
fn times(stack: &Stack, kind: &str) -> anyhow::Result<(f64, f64)> {
    let stores = stack.get_query("/api/v1/stores")?;
    let all = stores["data"][kind].as_array().with_context(|| format!("no {kind} in {stores}"))?;
    let (mut oldest, mut newest) = (f64::INFINITY, f64::NEG_INFINITY);
    for store in all {
        let seconds = |field: &str| store[field].as_f64().map(|ms| ms / 1000.0).with_context(|| format!("{store}"));
        (oldest, newest) = (oldest.min(seconds("minTime")?), newest.max(seconds("maxTime")?));
    }
    Ok((oldest, newest))
}
