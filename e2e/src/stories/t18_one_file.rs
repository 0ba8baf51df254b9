//! T18: `kubectl apply` of one file, with the namespace absent and with it present; nothing else is fetched.

use std::time::Duration;

use super::world::{TUTORIAL_BUCKET, World};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::{bucket, examples};

pub(super) const STORY: Story = Story { name: "t18_one_file", changes: &[Thing::Tutorial], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    // The object first: with the namespace goes the binding that lets the operator look at it.
    let _ = LAB.kubectl(&["-n", "monitoring", "delete", "moncl", "--all", "--timeout=60s"]);
    LAB.kubectl(&["delete", "namespace", "monitoring", "--ignore-not-found", "--timeout=120s"])?;
    LAB.recycle_volumes()?;
    let file = examples().join("tutorial.yaml").display().to_string();
    LAB.kubectl(&["apply", "-f", &file])?;
    LAB.kubectl(&["get", "namespace", "monitoring"])?;
    let again = LAB.kubectl(&["apply", "-f", &file])?;
    anyhow::ensure!(!again.contains("created"), "the second apply made something: {again}");
    // The one thing that the tutorial has people bring themselves.
    bucket(&LAB, TUTORIAL_BUCKET)?;
    let stack = world.tutorial()?;
    stack.wait_condition(&stack.object(), "Ready", Duration::from_secs(60))?;
    Ok(())
}
