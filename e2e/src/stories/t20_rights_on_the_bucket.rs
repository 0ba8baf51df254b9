//! T20: the tutorial's roles (Object Creator, Object Viewer) lack the right to delete, which only the compactor needs. It names it, and
//! nobody else is less ready for that; with all rights, all is well.

use serde_json::json;
use testkit::gcs::Right;

use super::world::{CHANGE, READY, World, no_restarts, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::compaction::{attentive, quick};

pub(super) const STORY: Story = Story { name: "t20_rights_on_the_bucket", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t20")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let bucket = sandbox.bucket(&["one"])?;
    bucket.allow(&["one"], &[Right::Delete])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({"objectStorage": bucket.spec(), "storeGateway": attentive(), "compactor": quick()}))?;

    let said = stack.wait_reason(&object, "CompactionHealthy", "False", &["AccessDenied"], READY)?;
    for part in ["t20-compact-0", &bucket.name, "right storage.objects.delete"] {
        anyhow::ensure!(said.message.contains(part), "not {part:?} in: {}", said.message);
    }
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], READY)?;
    stack.wait_ready(&object, READY)?;
    let now = stack.condition(&object, "CompactionHealthy")?;
    anyhow::ensure!(now.status == "False", "all else is ready, and it says {now:?}");
    let pods = stack.pods("compact")?;

    bucket.allow(&["one"], &[])?;
    stack.wait_reason(&object, "CompactionHealthy", "True", &["UpToDate", "Compacting"], CHANGE)?;
    stack.wait_ready(&object, CHANGE)?;
    let after = stack.pods("compact")?;
    same_pods(&pods, &after)?;
    no_restarts(&after)
}
