//! A block of last week in ops's bucket: what only the store gateway can answer.

use anyhow::Context as _;
use serde_json::Value;
use testkit::{http, wait};

use super::READY;
use crate::cluster::OPS;
use crate::fleet::{Stack, bucket_of};
use crate::made::{self, SPAN_MS, Wish, block_of};

/// Targets that were up then.
const TARGETS: usize = 7;
const WEEK_MS: i64 = 7 * 86_400_000;

/// What was told about last week.
#[derive(Debug)]
pub(super) struct Told {
    /// The time that was asked for.
    pub(super) at: String,
    /// The querier's answer.
    pub(super) querier: String,
    /// That of a Prometheus itself.
    pub(super) prometheus: String,
}

/// Puts the block into the bucket, unless there is one from an earlier run.
pub(super) fn archive() -> anyhow::Result<()> {
    if find()?.is_some() {
        return Ok(());
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let start_ms = block_of(i64::try_from(now)? - WEEK_MS);
    let (cluster, replica, span_ms) = ("ops", "ops-prometheus-0", SPAN_MS);
    let (metric, prefix, series) = ("up", "web", TARGETS);
    let wish = Wish { cluster, replica, metric, prefix, series, start_ms, span_ms, value: |_, _| 1.0 };
    let dir = tempfile::tempdir()?;
    made::upload(&OPS.buckets(), &bucket_of(&OPS), &made::own(dir.path(), &wish, 1)?).map(|_| ())
}

/// The middle of the block's time, ms since the epoch, if it is there.
fn find() -> anyhow::Result<Option<i64>> {
    let (server, bucket) = (OPS.buckets(), bucket_of(&OPS));
    for name in server.names(&bucket)?.iter().filter(|name| name.ends_with("/meta.json")) {
        let meta: Value = serde_json::from_slice(&server.object(&bucket, name)?)?;
        if meta["thanos"]["source"] == "e2e" {
            return Ok(Some(meta["minTime"].as_i64().context("a meta without minTime")? + SPAN_MS / 2));
        }
    }
    Ok(None)
}

/// Asks the querier, until it answers, and a Prometheus.
pub(super) fn ask(ops: &Stack) -> anyhow::Result<Told> {
    let seconds = find()?.context("last week's block is gone")? / 1000;
    let path = format!("/api/v1/query?query={}&time={seconds}", http::encode("count by (cluster) (up)"));
    let count = |answer: &Value| answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
    let querier = wait::until("last week in the answer", READY, std::time::Duration::from_millis(500), || {
        let answer = ops.get_query(&path)?;
        let row = &answer["data"]["result"][0];
        let right = row["metric"]["cluster"] == "ops" && count(&answer) == Some(TARGETS.to_string());
        anyhow::ensure!(right, "the querier says {answer}");
        count(&answer).context("no count")
    })?;
    let own = count(&ops.get_prometheus(0, &path)?);
    anyhow::ensure!(own.is_none(), "Prometheus knows of last week: {own:?}");
    let at =
        crate::run::output("date", &["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M UTC"])?.trim().to_owned();
    Ok(Told { at, querier, prometheus: "nothing".to_owned() })
}
