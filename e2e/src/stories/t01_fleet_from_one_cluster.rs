//! T01: from ops, `count by (cluster) (up)` gives exactly the three clusters, each with the count that its own Prometheus gives.

use std::collections::BTreeMap;

use super::world::{CHANGE, World, eventually, now};
use super::{Story, Thing};
use crate::cluster::{FLEET, OPS};
use crate::fleet::Stack;

pub(super) const STORY: Story = Story {
    name: "t01_fleet_from_one_cluster",
    changes: &[],
    needs: &[Thing::OpsPods, Thing::OpsLinks, Thing::Prod, Thing::Staging],
    run,
};

fn run(_: &World) -> anyhow::Result<()> {
    // Targets may still be appearing; both sides are asked about the same moment.
    eventually("the counts of ops and of each cluster to be equal", CHANGE, || {
        let at = format!("&time={:.3}", now() - 15.0);
        let mut own = BTreeMap::new();
        for cluster in FLEET {
            let result = Stack::of(cluster).query_prometheus(0, "count(up)", &at)?;
            let count = result[0]["value"][1].as_str().and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
            own.insert(cluster.name.to_owned(), count);
        }
        let seen = Stack::of(OPS).up_by_cluster(&at)?;
        anyhow::ensure!(seen == own && own.values().all(|n| *n > 0), "ops sees {seen:?}, the clusters say {own:?}");
        Ok(())
    })
}
