//! T16: data of an hour is made of 5-minute data that spans 10 days, and of nothing shorter; long ranges that are read from it are as
//! those from raw data; and without a word in the spec all is kept.

use super::world::{World, no_restarts};
use super::{Story, Thing};
use crate::compaction::{archive, coarser};

pub(super) const STORY: Story = Story { name: "t16_an_hour", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let (sandbox, bucket) = archive(world, "t16")?;
    coarser::an_hour(&sandbox.stack, &bucket)?;
    no_restarts(&sandbox.stack.pods("compact")?)
}
