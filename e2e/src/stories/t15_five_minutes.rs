//! T15: data of 5 minutes is made of what spans 40 hours, and of nothing shorter; its aggregates are those of the raw samples.

use super::world::{World, no_restarts};
use super::{Story, Thing};
use crate::compaction::{archive, coarser};

pub(super) const STORY: Story = Story { name: "t15_five_minutes", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let (sandbox, bucket) = archive(world, "t15")?;
    coarser::five_minutes(&sandbox.stack, &bucket)?;
    no_restarts(&sandbox.stack.pods("compact")?)
}
