//! T36: a RemoteStore with address and port is used within 30 s by the very same querier pods, and gone after its deletion.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::world::{LINKS, READY, Restore, World, eventually, same_pods};
use super::{Story, Thing};
use crate::cluster::OPS;
use crate::fleet::{Stack, example};
use crate::say;

pub(super) const STORY: Story =
    Story { name: "t36_remote_by_address", changes: &[Thing::OpsLinks], needs: &[Thing::OpsPods, Thing::Staging], run };

const LIMIT: Duration = Duration::from_secs(30);

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let _restore = Restore(LINKS);
    let pods = ops.pods("query")?;
    ops.kubectl(&["delete", "rstore", "staging"])?;
    eventually("staging to leave the answer and the stores", LIMIT, || {
        let (answer, stores) = (ops.up_by_cluster("")?, stores(&ops)?);
        anyhow::ensure!(!answer.contains_key("staging") && !stores.contains("staging"), "{answer:?}, {stores}");
        Ok(())
    })?;
    let start = Instant::now();
    OPS.apply(&example("remote-staging.yaml")?)?;
    eventually("staging in the answer and the stores", LIMIT, || {
        let (answer, stores) = (ops.up_by_cluster("")?, stores(&ops)?);
        anyhow::ensure!(answer.contains_key("staging") && stores.contains("staging"), "{answer:?}, {stores}");
        Ok(())
    })?;
    say::step(&format!("       t36: in the answer after {:.1} s", start.elapsed().as_secs_f64()));
    ops.wait_condition("rstore/staging", "Ready", READY)?;
    same_pods(&pods, &ops.pods("query")?)
}

fn stores(ops: &Stack) -> anyhow::Result<String> {
    let stores = ops.get_query("/api/v1/stores")?;
    Ok(stores.get("data").context("no stores")?.to_string())
}
