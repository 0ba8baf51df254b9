//! T38 without the UI page: the stores API shows a link healthy, with its label set and times, and the RemoteStore's status says the
//! same.

use anyhow::Context as _;
use serde_json::Value;

use super::world::{CHANGE, LINKED, World, eventually};
use super::{Story, Thing};
use crate::cluster::OPS;
use crate::fleet::Stack;

pub(super) const STORY: Story = Story {
    name: "t38_part_stores_api",
    changes: &[],
    needs: &[Thing::OpsPods, Thing::OpsLinks, Thing::Prod, Thing::Staging],
    run,
};

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    for cluster in LINKED {
        eventually("stores API and status to say the same", CHANGE, || {
            let stores = ops.get_query("/api/v1/stores")?;
            let mut all =
                stores["data"].as_object().context("no stores")?.values().filter_map(Value::as_array).flatten();
            let has =
                |s: &&Value| s["labelSets"].as_array().is_some_and(|l| l.iter().any(|l| l["cluster"] == cluster.name));
            let store = all.find(has).with_context(|| format!("no store of {}", cluster.name))?;
            anyhow::ensure!(store["lastError"].is_null(), "{store}");
            let (oldest, newest) = (store["minTime"].as_i64(), store["maxTime"].as_i64());
            anyhow::ensure!(oldest.is_some() && oldest < newest, "times: {store}");

            let link = ops.json(&["get", &format!("rstore/{}", cluster.name)])?["status"].take();
            anyhow::ensure!(link["phase"] == "Healthy", "phase: {}", link["phase"]);
            let address = link["endpoints"][0]["address"].as_str().unwrap_or_default();
            anyhow::ensure!(store["name"] == address, "the store is {}, the status says {address}", store["name"]);
            let sets = link["labelSets"].as_array().context("no label sets in the status")?;
            anyhow::ensure!(sets.iter().any(|l| l["cluster"] == cluster.name), "label sets: {sets:?}");
            anyhow::ensure!(link["timeRange"]["min"].is_string(), "time range: {}", link["timeRange"]);
            let queriers = link["queriers"].as_str().unwrap_or_default();
            let (seen, of) = queriers.split_once('/').context("no queriers in the status")?;
            anyhow::ensure!(seen == of && seen != "0", "queriers: {queriers}");
            Ok(())
        })?;
    }
    Ok(())
}
