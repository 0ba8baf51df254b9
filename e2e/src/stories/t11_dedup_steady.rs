//! T11: with three replicas, every target counts once with deduplication and three times without; a gauge's sum isn't multiplied.

use anyhow::Context as _;

use super::world::{CHANGE, World, eventually, now, vector};
use super::{Story, Thing};

pub(super) const STORY: Story =
    Story { name: "t11_dedup_steady", changes: &[], needs: &[Thing::Lab, Thing::Tutorial], run };

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    eventually("every target to be counted once, or three times without deduplication", CHANGE, || {
        let at = format!("&time={:.3}", now() - 20.0);
        let by_target = "count by (job, instance) (up)";
        let with = vector(&stack.query(by_target, &format!("{at}&dedup=true"))?, &[])?;
        let without = vector(&stack.query(by_target, &format!("{at}&dedup=false"))?, &[])?;
        anyhow::ensure!(!with.is_empty() && with.values().all(|n| n == "1"), "with deduplication: {with:?}");
        anyhow::ensure!(without.len() == with.len(), "{} targets with, {} without", with.len(), without.len());
        anyhow::ensure!(without.values().all(|n| n == "3"), "without deduplication: {without:?}");
        let gauge = "sum(kube_node_status_capacity)";
        let fleet = stack.query(gauge, &at)?[0]["value"][1].as_str().map(str::to_owned).context("no gauge")?;
        let own =
            stack.query_prometheus(0, gauge, &at)?[0]["value"][1].as_str().map(str::to_owned).context("no gauge")?;
        anyhow::ensure!(fleet == own, "the querier sums {fleet}, one Prometheus {own}");
        Ok(())
    })
}
