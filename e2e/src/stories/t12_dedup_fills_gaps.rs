//! T12: either Prometheus is gone for a minute, at different times, and then both restart one after the other. Each replica's own
//! series shows its gap; the deduplicated one has none over two scrape intervals, and the rate of a counter stays true.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::http;
use testkit::metrics_source::MetricsSource;

use super::world::{CHANGE, READY, Undo, World, eventually, host, now};
use super::{Story, Thing};
use crate::cluster::OPS;
use crate::fleet::Stack;

pub(super) const STORY: Story = Story { name: "t12_dedup_fills_gaps", changes: &[Thing::OpsPods], needs: &[], run };

/// The fleet scrapes every 10 s.
const INTERVAL: f64 = 10.0;
const AWAY: Duration = Duration::from_secs(60);
const PER_SECOND: f64 = 100.0;

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let page = MetricsSource::start_at(host(&OPS)?)?;
    page.declare("story_total", "counter");
    page.set_growing("story_total", PER_SECOND);
    let jobs = json!([{"job_name": "story", "static_configs": [{"targets": [page.address()]}]}]).to_string();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "story", "namespace": "monitoring"},
                     "data": {"jobs.yaml": jobs}});
    OPS.apply(&map.to_string())?;
    let undo = Undo(ops.clone(), json!({"scrape": {"additional": null}}));
    ops.patch(&json!({"scrape": {"additional": [{"configMapRef": {"name": "story", "key": "jobs.yaml"}}]}}))?;
    for replica in [0, 1] {
        eventually("both replicas to scrape the story's counter", CHANGE, || {
            let found = ops.query_prometheus(replica, "story_total", "")?;
            anyhow::ensure!(found[0].is_object(), "replica {replica} has none");
            Ok(())
        })?;
    }
    // So that a rate over 40 s has all of its window.
    pause(Duration::from_secs(45));
    let start = now();
    for replica in [0, 1] {
        away(&ops, replica)?;
        pause(Duration::from_secs(15));
    }
    let restart = now();
    ops.kubectl(&["rollout", "restart", "statefulset/ops-prometheus"])?;
    ops.kubectl(&["rollout", "status", "statefulset/ops-prometheus", "--timeout=180s"])?;
    ops.wait_ready(&ops.object(), READY)?;
    pause(Duration::from_secs(15));
    let end = now() - INTERVAL;

    for replica in [0, 1] {
        let expression = format!("timestamp(story_total{{prometheus_replica=\"ops-prometheus-{replica}\"}})");
        let answer = ops.get_query(&range(&expression, start, restart, "&dedup=false"))?;
        let gap = largest_gap(&answer).with_context(|| expression.clone())?;
        anyhow::ensure!(
            gap > AWAY.as_secs_f64() * 0.8,
            "replica {replica} was away, but its largest gap is {gap:.1} s"
        );
    }
    let gap = largest_gap(&ops.get_query(&range("timestamp(story_total)", start, end, ""))?).context("deduplicated")?;
    anyhow::ensure!(gap <= 2.0 * INTERVAL, "the deduplicated series has a gap of {gap:.1} s");
    // The counter itself: between any two samples it grows as it does in truth.
    let whole = format!("{:.0}s", end - start);
    let samples = values(&ops.get_query(&instant(&format!("story_total[{whole}]"), end))?).context("samples")?;
    for pair in samples.windows(2) {
        let slope = (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0);
        anyhow::ensure!((slope / PER_SECOND - 1.0).abs() < 0.01, "it grows by {slope} a second between {pair:?}");
    }
    // The rate over all that happened is the true one. (Over a short window that begins or ends where a replica took over,
    // PromQL's own extrapolation guesses low; it must still never be negative.)
    let rate = &ops.get_query(&instant(&format!("rate(story_total[{whole}])"), end))?["data"]["result"][0]["value"][1];
    let rate: f64 = rate.as_str().and_then(|r| r.parse().ok()).context("no rate")?;
    anyhow::ensure!((rate / PER_SECOND - 1.0).abs() < 0.01, "the rate over all is {rate}");
    let rates = values(&ops.get_query(&range("rate(story_total[40s])", start, end, ""))?).context("the rate")?;
    anyhow::ensure!(rates.len() as f64 >= (end - start).floor(), "the rate has only {} points", rates.len());
    for (time, rate) in rates {
        anyhow::ensure!(rate > 0.0 && rate < PER_SECOND * 1.01, "a rate of {rate} at {time}");
    }

    drop(undo);
    ops.kubectl(&["delete", "configmap", "story"])?;
    ops.wait_ready(&ops.object(), READY)
}

/// Ends a pod and lets no new one run for a minute.
fn away(ops: &Stack, replica: usize) -> anyhow::Result<()> {
    struct Uncordon;
    impl Drop for Uncordon {
        fn drop(&mut self) {
            let _ = OPS.kubectl(&["uncordon", &OPS.node_name()]);
        }
    }
    let uncordon = Uncordon;
    OPS.kubectl(&["cordon", &OPS.node_name()])?;
    ops.kubectl(&["delete", "pod", &format!("ops-prometheus-{replica}"), "--grace-period=1"])?;
    pause(AWAY);
    drop(uncordon);
    let pod = format!("pod/ops-prometheus-{replica}");
    eventually("the pod to be back", READY, || ops.kubectl(&["wait", &pod, "--for=condition=Ready", "--timeout=10s"]))?;
    Ok(())
}

fn pause(time: Duration) {
    let start = Instant::now();
    std::thread::sleep(time.saturating_sub(start.elapsed()));
}

fn range(expression: &str, start: f64, end: f64, more: &str) -> String {
    format!("/api/v1/query_range?query={}&start={start:.0}&end={end:.0}&step=1{more}", http::encode(expression))
}

fn instant(expression: &str, time: f64) -> String {
    format!("/api/v1/query?query={}&time={time:.0}", http::encode(expression))
}

fn values(answer: &Value) -> anyhow::Result<Vec<(f64, f64)>> {
    let rows = answer["data"]["result"].as_array().context("not a matrix")?;
    anyhow::ensure!(rows.len() == 1, "one series was expected: {answer}");
    let point = |p: &Value| Some((p[0].as_f64()?, p[1].as_str()?.parse().ok()?));
    Ok(rows[0]["values"].as_array().into_iter().flatten().filter_map(point).collect())
}

/// The largest distance between two samples of a series whose values are its samples' own times.
fn largest_gap(answer: &Value) -> anyhow::Result<f64> {
    let mut times: Vec<f64> = values(answer)?.into_iter().map(|(_, sample)| sample).collect();
    times.dedup();
    anyhow::ensure!(times.len() > 2, "only {} samples", times.len());
    Ok(times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max))
}
