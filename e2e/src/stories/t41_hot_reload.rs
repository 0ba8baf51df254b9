//! T41: a changed scrape job (in a ConfigMap, and in the object) and a changed rule reach all replicas without a restart; what is
//! invalid is refused, the old one stays, and a condition says so.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::world::{CHANGE, World, eventually, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::Stack;
use crate::say;

pub(super) const STORY: Story =
    Story { name: "t41_hot_reload", changes: &[Thing::Tutorial], needs: &[Thing::Lab], run };

/// The goal; the tutorial's own worst case is 4 min.
const LIMIT: Duration = Duration::from_secs(90);

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let pods = stack.pods("prometheus")?;
    map(&stack, "story-jobs", &json!({}), "jobs.yaml", &job("first"))?;
    map(&stack, "story-rules", &rule_labels(&stack)?, "story.yaml", &rule("StoryFirst"))?;
    stack.patch(&json!({"scrape": {"additional": [{"configMapRef": {"name": "story-jobs", "key": "jobs.yaml"}}]}}))?;
    told("through the object", || everywhere(&stack, "job_name: first", "StoryFirst"))?;
    map(&stack, "story-jobs", &json!({}), "jobs.yaml", &job("second"))?;
    map(&stack, "story-rules", &rule_labels(&stack)?, "story.yaml", &rule("StorySecond"))?;
    told("through the ConfigMaps", || everywhere(&stack, "job_name: second", "StorySecond"))?;
    stack.wait_ready(&stack.object(), CHANGE)?;

    // Prometheus itself has to refuse this one: the YAML is fine, the duration isn't.
    let broken = json!([{"job_name": "third", "scrape_interval": "often"}]).to_string();
    map(&stack, "story-jobs", &json!({}), "jobs.yaml", &broken)?;
    let reasons = ["ReloadFailed", "RejectedObjects"];
    let refused = stack.wait_reason(&stack.object(), "ConfigurationApplied", "False", &reasons, CHANGE)?;
    anyhow::ensure!(
        refused.message.contains("story-jobs") || refused.message.contains("often"),
        "it doesn't say what: {}",
        refused.message
    );
    for replica in 0..3 {
        let config = stack.get_prometheus(replica, "/api/v1/status/config")?;
        anyhow::ensure!(
            !config["data"]["yaml"].as_str().context("no configuration")?.contains("third"),
            "it is in use"
        );
        let last = stack.query_prometheus(replica, "prometheus_config_last_reload_successful", "")?;
        anyhow::ensure!(
            last.as_array().into_iter().flatten().all(|r| r["value"][1] == "1"),
            "a Prometheus fails to reload: {last}"
        );
    }
    stack.patch(&json!({"scrape": {"additional": null}}))?;
    stack.kubectl(&["delete", "configmap", "story-jobs", "story-rules"])?;
    stack.wait_ready(&stack.object(), CHANGE)?;
    same_pods(&pods, &stack.pods("prometheus")?)
}

fn told(how: &str, arrive: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let start = Instant::now();
    arrive()?;
    say::step(&format!("       t41: a change {how} is loaded everywhere after {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

fn everywhere(stack: &Stack, config: &str, rule: &str) -> anyhow::Result<()> {
    eventually(&format!("`{config}` and {rule} in all replicas"), LIMIT, || {
        for replica in 0..3 {
            let loaded = stack.get_prometheus(replica, "/api/v1/status/config")?;
            let text = loaded["data"]["yaml"].as_str().context("no configuration")?;
            anyhow::ensure!(text.contains(config), "replica {replica} has no `{config}`");
            let rules = stack.get_prometheus(replica, "/api/v1/rules")?.to_string();
            anyhow::ensure!(rules.contains(rule), "replica {replica} has no rule {rule}");
        }
        Ok(())
    })
}

/// The labels by which the object chooses rule ConfigMaps.
fn rule_labels(stack: &Stack) -> anyhow::Result<Value> {
    Ok(stack.json(&["get", &stack.object()])?["spec"]["rules"]["configMapSelector"]["matchLabels"].take())
}

fn map(stack: &Stack, name: &str, labels: &Value, key: &str, content: &str) -> anyhow::Result<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": stack.namespace, "labels": labels},
        "data": {key: content},
    });
    LAB.apply(&map.to_string()).map(|_| ())
}

fn job(name: &str) -> String {
    json!([{"job_name": name, "static_configs": [{"targets": ["127.0.0.1:9090"]}]}]).to_string()
}

fn rule(name: &str) -> String {
    json!({"groups": [{"name": "story", "rules": [{"alert": name, "expr": "vector(0) > 1"}]}]}).to_string()
}
