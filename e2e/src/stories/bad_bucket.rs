//! A bucket that is missing, credentials that open nothing, a right that is missing: told for what it is, and nothing restarts.

use serde_json::json;
use testkit::gcs::Right;

use super::world::{CHANGE, READY, World, no_restarts};
use super::{Story, Thing};
use crate::cluster::LAB;

pub(super) const STORY: Story = Story { name: "bad_bucket", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "badbucket")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let bucket = sandbox.bucket(&["one"])?;
    bucket.server.drop_bucket(&bucket.name)?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(),
        // so that it is always the sidecar who says what is wrong
        "storeGateway": {"enabled": false},
        "sidecar": {"extraArgs": ["--objstore.check-interval=3s"]},
    }))?;
    let says = |reason: &str, parts: &[&str]| {
        let said = stack.wait_reason(&object, "ObjectStorageReady", "False", &[reason], READY)?;
        anyhow::ensure!(parts.iter().all(|part| said.message.contains(part)), "not {parts:?} in: {}", said.message);
        let ready = stack.wait_reason(&object, "Ready", "False", &[reason], CHANGE)?;
        anyhow::ensure!(ready.message == said.message, "Ready says {}", ready.message);
        Ok(())
    };
    let well = || stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE).map(|_| ());
    let pod = format!("{}-prometheus-0", stack.name);

    says("BucketMissing", &[&pod, &bucket.name])?;
    bucket.server.make_bucket(&bucket.name)?;
    well()?;
    stack.wait_ready(&object, CHANGE)?;

    for (right, name) in [(Right::Create, "create"), (Right::List, "list"), (Right::Get, "get")] {
        bucket.allow(&["one"], &[right])?;
        says("AccessDenied", &[&pod, &bucket.name, &format!("right storage.objects.{name}")])?;
        bucket.allow(&["one"], &[])?;
        well()?;
    }
    // The tutorial's roles lack it, and a sidecar needs it for nothing.
    bucket.allow(&["one"], &[Right::Delete])?;
    bucket.put_key("two")?;
    says("AccessDenied", &[&pod])?;
    bucket.put_key("one")?;
    well()?;
    stack.wait_ready(&object, CHANGE)?;
    no_restarts(&stack.pods("prometheus")?)
}
