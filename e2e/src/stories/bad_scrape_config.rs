//! A scrape configuration that Prometheus refuses is told; then the pod is deleted and comes back on the last good one.

use anyhow::Context as _;
use serde_json::json;

use super::world::{CHANGE, READY, World, eventually, no_restarts};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::Stack;

pub(super) const STORY: Story = Story { name: "bad_scrape_config", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "badconfig")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    sandbox.apply(json!({}))?;
    stack.wait_ready(&object, READY)?;
    let good = loaded(stack)?;
    let bad =
        json!([{"job_name": "bad", "static_configs": [{"targets": ["a:1"]}], "scrape_interval": "often"}]).to_string();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "jobs", "namespace": "badconfig"},
                     "data": {"jobs.yaml": bad}});
    LAB.apply(&map.to_string())?;
    stack.patch(&json!({"scrape": {
        "jobs": ["self"], "additional": [{"configMapRef": {"name": "jobs", "key": "jobs.yaml"}}]}}))?;
    // Only Prometheus itself can refuse this one: our own check knows the names of fields, not their values.
    let reasons = ["ReloadFailed"];
    let told = stack.wait_reason(&object, "ConfigurationApplied", "False", &reasons, CHANGE)?;
    anyhow::ensure!(told.message.contains("often"), "it doesn't say what: {}", told.message);

    let before = stack.pods("prometheus")?;
    let name = format!("{}-prometheus-0", stack.name);
    stack.kubectl(&["delete", "pod", &name, "--timeout=60s"])?;
    let back = eventually("the pod to be back on the last good configuration", READY, || {
        let pods = stack.pods("prometheus")?;
        anyhow::ensure!(pods.len() == 1 && pods[0].ready == (2, 2) && pods[0].uid != before[0].uid, "{pods:?}");
        Ok(pods)
    })?;
    no_restarts(&back)?;
    anyhow::ensure!(
        loaded(stack)? == good,
        "after its restart Prometheus has another configuration than the last good one"
    );
    eventually("the refusal to be told again", CHANGE, || {
        let still = stack.wait_reason(&object, "ConfigurationApplied", "False", &reasons, CHANGE)?;
        anyhow::ensure!(still.message.contains("often"), "the condition says {}", still.message);
        Ok(())
    })?;

    stack.patch(&json!({"scrape": {"additional": null}}))?;
    stack.wait_ready(&object, CHANGE)
}

/// The configuration that Prometheus has loaded.
fn loaded(stack: &Stack) -> anyhow::Result<String> {
    let answer = stack.get_prometheus(0, "/api/v1/status/config")?;
    Ok(answer["data"]["yaml"].as_str().context("no configuration")?.to_owned())
}
