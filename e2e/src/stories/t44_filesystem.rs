//! T44 with a volume as the bucket (T04, T07, T14, T15 and T16 there): blocks arrive whole in the claim that all parts mount, and are served from there
//! when every Prometheus is gone; the compactor works in it, too.

use serde_json::json;

use super::world::{CHANGE, READY, World};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::compaction::{attentive, whole_life};

pub(super) const STORY: Story = Story { name: "t44_filesystem", changes: &[], needs: &[Thing::Lab], run };

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
        "storeGateway": attentive(),
        "compactor": {"enabled": false},
    }))?;
    stack.wait_ready(&object, READY)?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    whole_life(stack, &LAB.volume_of(&stack.namespace, "history")?)
}
