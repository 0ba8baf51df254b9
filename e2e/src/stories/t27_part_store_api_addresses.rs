//! T27: the store-API Service's addresses are exactly those of the labelled pods, also after scaling 3→2→3, within a minute; each
//! answers the StoreAPI's Info, as the querier sees it.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::t26_part_store_api_names::{ask, service};
use super::world::{READY, World, eventually};
use super::{Story, Thing};
use crate::fleet::Stack;

pub(super) const STORY: Story =
    Story { name: "t27_part_store_api_addresses", changes: &[Thing::Tutorial], needs: &[Thing::Lab], run };

const MINUTE: Duration = Duration::from_secs(60);

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let name = format!("{}.{}.svc.cluster.local", service(&stack)?, stack.namespace);
    let stores = stack.pods("store")?.len();
    anyhow::ensure!(stores > 0, "the tutorial's stack has no store gateway");
    agree(&stack, &name, 3 + stores)?;
    for replicas in [2, 3] {
        stack.patch(&json!({"prometheus": {"replicas": replicas}}))?;
        // The minute counts from the moment at which the pods are as wished.
        eventually("the pods to be as many", READY, || {
            let pods = stack.pods("prometheus")?;
            anyhow::ensure!(pods.len() == replicas && pods.iter().all(|p| p.ready == (2, 2)), "{pods:?}");
            Ok(())
        })?;
        agree(&stack, &name, replicas + stores)?;
    }
    stack.wait_ready(&stack.object(), READY)
}

fn agree(stack: &Stack, name: &str, count: usize) -> anyhow::Result<()> {
    eventually("labelled pods, DNS and querier to agree", MINUTE, || {
        let pods = stack.pods_with("thanos-store-api=true")?;
        let mut pods: Vec<String> = pods.into_iter().map(|p| p.ip).collect();
        pods.sort();
        anyhow::ensure!(pods.len() == count, "labelled pods: {pods:?}");
        let named = ask(stack, "a", name)?;
        anyhow::ensure!(named == pods, "DNS says {named:?}, the pods are {pods:?}");
        let mut answering = healthy_stores(stack)?;
        answering.sort();
        anyhow::ensure!(answering == pods, "Info is answered by {answering:?}, the pods are {pods:?}");
        Ok(())
    })
}

/// The addresses (without ports) of the stores that answered the querier's last Info call.
fn healthy_stores(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let stores = stack.get_query("/api/v1/stores")?;
    let by_type = stores["data"].as_object().context("no stores")?;
    let healthy = by_type.values().filter_map(Value::as_array).flatten().filter(|s| s["lastError"].is_null());
    Ok(healthy.filter_map(|s| s["name"].as_str()?.split(':').next().map(str::to_owned)).collect())
}
