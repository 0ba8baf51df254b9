//! T21, the Secret's part: the tutorial's Secret is taken by reference; while it is missing or broken a condition names the key and all
//! the rest runs; a new content is picked up without a restart.

use anyhow::Context as _;
use serde_json::json;

use super::world::{CHANGE, PRIVATE_KEY, READY, World, eventually, no_restarts, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "t21_part_secret", changes: &[], needs: &[Thing::Lab], run };

const KEY: &str = "thanos-gcs-credentials.json";

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t21")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    sandbox.apply(json!({"objectStorage": {"gcs": {
        "bucket": "prometheus-long-term", "credentialsSecretRef": {"name": "thanos-gcs-credentials", "key": KEY}}}}))?;
    let missing = stack.wait_reason(&object, "ObjectStorageReady", "False", &["SecretMissing"], CHANGE)?;
    anyhow::ensure!(
        missing.message.contains("thanos-gcs-credentials"),
        "it doesn't name the Secret: {}",
        missing.message
    );
    // All that needs no bucket runs.
    stack.wait_condition(&object, "Available", READY)?;
    let pods = stack.pods("prometheus")?;
    anyhow::ensure!(pods.len() == 1 && pods[0].ready == (2, 2), "Prometheus is not 2/2: {pods:?}");

    put(world, stack, "not JSON")?;
    let broken = stack.wait_reason(&object, "ObjectStorageReady", "False", &["SecretInvalid"], CHANGE)?;
    anyhow::ensure!(broken.message.contains(KEY), "it doesn't name the key: {}", broken.message);

    put(world, stack, &key("one@p.example"))?;
    stack.wait_reason(&object, "ObjectStorageReady", "Unknown", &["NotVerified"], CHANGE)?;
    let first = rendered(stack)?;
    put(world, stack, &key("two@p.example"))?;
    eventually("the rotated Secret to be rendered", CHANGE, || {
        let second = rendered(stack)?;
        anyhow::ensure!(second != first, "the Secret for the parts is still the old one");
        Ok(())
    })?;
    stack.wait_ready(&object, CHANGE)?;
    let after = stack.pods("prometheus")?;
    same_pods(&pods, &after)?;
    no_restarts(&after)
}

fn key(account: &str) -> String {
    json!({"type": "service_account", "project_id": "p", "client_email": account, "private_key": PRIVATE_KEY})
        .to_string()
}

/// As the tutorial does it: `kubectl create secret generic NAME --from-file=FILE`.
fn put(world: &World, stack: &crate::fleet::Stack, content: &str) -> anyhow::Result<()> {
    let dir = world.product.image.file.with_extension("t21");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join(KEY);
    std::fs::write(&file, content)?;
    let from = format!("--from-file={}", file.display());
    let made = stack.kubectl(&[
        "create",
        "secret",
        "generic",
        "thanos-gcs-credentials",
        &from,
        "--dry-run=client",
        "-o",
        "yaml",
    ]);
    std::fs::remove_dir_all(&dir)?;
    LAB.apply(&made?).map(|_| ())
}

fn rendered(stack: &crate::fleet::Stack) -> anyhow::Result<String> {
    let secret = stack.json(&["get", "secret", &format!("{}-objstore", stack.name)])?;
    let data = secret["data"].as_object().context("the Secret for the parts is empty")?;
    anyhow::ensure!(data.contains_key("objstore.yml"), "no objstore.yml in it: {:?}", data.keys());
    Ok(serde_json::to_string(data)?)
}
