//! T44 with a volume as the bucket (its T04 and T07): blocks arrive whole in the claim that all parts mount, and are served from there
//! when every Prometheus is gone.

use anyhow::Context as _;
use serde_json::json;

use super::t44_part_s3::metas;
use super::world::{CHANGE, READY, World, no_restarts};
use super::{Story, Thing};
use crate::blocks::{count, same};
use crate::cluster::LAB;
use crate::history::{archived, only_history};

pub(super) const STORY: Story = Story { name: "t44_part_filesystem", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t44fs")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    LAB.recycle_volumes()?;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "history", "namespace": stack.namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    LAB.apply(&claim.to_string())?;
    sandbox.apply(json!({
        "objectStorage": {"filesystem": {"volumeClaimName": "history"}},
        "prometheus": {"extraArgs": super::world::SHORT_BLOCKS},
    }))?;
    stack.wait_ready(&object, READY)?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    let folder = LAB.volume_of(&stack.namespace, "history")?;
    let blocks = archived(stack, 1, || metas(&folder))?;
    for block in &blocks {
        same(count(&folder.join(&block.id))?, block.held).with_context(|| format!("block {}", block.id))?;
    }
    only_history(stack, &blocks)?;
    no_restarts(&stack.pods("store")?)
}
