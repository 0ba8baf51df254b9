//! T31: through the querier every series carries the cluster label; in Prometheus itself none does.

use super::world::{LINKED, World};
use super::{Story, Thing};
use crate::cluster::OPS;
use crate::fleet::Stack;

pub(super) const STORY: Story =
    Story { name: "t31_part_cluster_label", changes: &[], needs: &[Thing::OpsPods, Thing::OpsLinks], run };

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let without = ops.query("count({__name__=~\".+\", cluster=\"\"})", "")?;
    anyhow::ensure!(without == serde_json::json!([]), "series without a cluster: {without}");
    let with = ops.query("count by (cluster) ({__name__=~\".+\"})", "")?;
    anyhow::ensure!(with.as_array().is_some_and(|rows| rows.len() == 3), "series by cluster: {with}");
    for cluster in [&[OPS][..], &LINKED].concat() {
        let local = Stack::of(cluster).query_prometheus(0, "count({cluster!=\"\"})", "")?;
        anyhow::ensure!(
            local == serde_json::json!([]),
            "{}: a local series has a cluster label: {local}",
            cluster.name
        );
    }
    Ok(())
}
