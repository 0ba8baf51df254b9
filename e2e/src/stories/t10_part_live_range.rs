//! T10 over clusters: a live range of each, asked of ops, is what that cluster's own Prometheus answers: the same series, the
//! same values at the same times, none twice. (`t10_range_over_history` is the row itself.)

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;
use testkit::http;

use super::world::{CHANGE, LINKED, World, eventually, labels, now};
use super::{Story, Thing};
use crate::cluster::OPS;
use crate::fleet::Stack;

pub(super) const STORY: Story = Story {
    name: "t10_part_live_range",
    changes: &[],
    needs: &[Thing::OpsPods, Thing::OpsLinks, Thing::Prod, Thing::Staging],
    run,
};

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    for cluster in LINKED {
        for inner in ["up", "process_cpu_seconds_total", "rate(prometheus_tsdb_head_samples_appended_total[30s])"] {
            eventually(&format!("{inner} of {} to be equal on both paths", cluster.name), CHANGE, || {
                let end = (now() - 20.0).floor();
                let range = |query: &str| {
                    let query = http::encode(query);
                    format!("/api/v1/query_range?query={query}&start={}&end={end}&step=5", end - 60.0)
                };
                let here = format!("cluster=\"{}\"", cluster.name);
                let there = match inner.split_once('[') {
                    Some((head, tail)) => format!("{head}{{{here}}}[{tail}"),
                    None => format!("{inner}{{{here}}}"),
                };
                let fleet = matrix(&ops.get_query(&range(&there))?)?;
                let own = matrix(&Stack::of(cluster).get_prometheus(0, &range(inner))?)?;
                anyhow::ensure!(!own.is_empty(), "no series yet");
                anyhow::ensure!(fleet == own, "ops says {fleet:?}, {} says {own:?}", cluster.name);
                // A step of 5 s over 60 s, both ends included.
                let longest = own.values().map(Vec::len).max().unwrap_or_default();
                anyhow::ensure!(longest == 13, "the longest series has {longest} points of 13");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Points by labels; external labels are known to one side only.
pub(super) fn matrix(answer: &Value) -> anyhow::Result<BTreeMap<String, Vec<(u64, String)>>> {
    let mut series = BTreeMap::new();
    for row in answer["data"]["result"].as_array().context("not a matrix")? {
        let mut points = Vec::new();
        for point in row["values"].as_array().into_iter().flatten() {
            let time = point[0].as_f64().unwrap_or_default();
            points.push(((time * 1000.0) as u64, point[1].as_str().unwrap_or_default().to_owned()));
        }
        anyhow::ensure!(points.windows(2).all(|w| w[0].0 < w[1].0), "a time comes twice: {points:?}");
        let key = labels(row, &["cluster", "prometheus_replica"]);
        anyhow::ensure!(series.insert(key.clone(), points).is_none(), "{key} comes twice");
    }
    Ok(series)
}
