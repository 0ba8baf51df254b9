//! What a compactor must do with a bucket, whatever kind of bucket: the acceptance table's T14, T15 and T16. The blocks are of days
//! that nobody has lived through; the compactor is a real pod.

pub mod coarser;
pub mod merging;
mod shelf;

pub use shelf::{Folder, Shelf};

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::blocks::{count, same};
use crate::cluster::LAB;
use crate::fleet::Stack;
use crate::history::{archived, only_history};
use crate::made::{self, Wish};
use crate::stories::world::{Bucket, CHANGE, READY, Sandbox, World, eventually, no_restarts};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// The compactor of a story: it looks at the bucket every second, at young blocks as well, and takes over quickly.
pub fn quick() -> Value {
    json!({"consistencyDelay": "0", "extraArgs": ["--wait-interval=1s", "--lease.duration=5s", "--objstore.check-interval=3s"]})
}

/// The store gateway of a story: it sees new blocks within seconds.
pub fn attentive() -> Value {
    json!({"extraArgs": ["--sync-block-duration=5s", "--objstore.check-interval=3s"]})
}

/// A stack that has nothing but an archive: an empty bucket, a store gateway and a compactor over it.
///
/// # Errors
/// When it does not become ready.
pub fn archive(world: &World, name: &str) -> anyhow::Result<(Sandbox, Bucket)> {
    let sandbox = world.sandbox(LAB, name)?;
    let bucket = sandbox.bucket(&["one"])?;
    bucket.put_key("one")?;
    sandbox.apply(json!({
        "objectStorage": bucket.spec(), "prometheus": {"replicas": 0}, "storeGateway": attentive(), "compactor": quick(),
    }))?;
    sandbox.stack.wait_ready(&sandbox.stack.object(), READY)?;
    Ok((sandbox, bucket))
}

/// What a stack's Prometheus servers have archived into this folder is whole and served without them, and then compacted and
/// downsampled.
///
/// # Errors
/// When it isn't.
pub fn whole_life(stack: &Stack, folder: &Path) -> anyhow::Result<()> {
    let bucket = Folder(folder.to_owned());
    let blocks = archived(stack, 1, || bucket.metas())?;
    for block in &blocks {
        same(count(&folder.join(&block.id))?, block.held).with_context(|| format!("block {}", block.id))?;
    }
    only_history(stack, &blocks)?;
    merging::merges(stack, &bucket)?;
    coarser::five_minutes(stack, &bucket)?;
    coarser::an_hour(stack, &bucket)?;
    no_restarts(&[stack.pods("store")?, stack.pods("compact")?].concat())
}

/// Begin of the last whole window of a width that ended so long before now, ms since the epoch.
fn window(width: i64, before_ms: i64) -> i64 {
    let now = (crate::stories::world::now() * 1000.0) as i64 - before_ms;
    now - now.rem_euclid(width) - width
}

/// Makes a block and puts it onto the shelf.
fn add(shelf: &dyn Shelf, dir: &Path, wish: &Wish<'_>, number: u64) -> anyhow::Result<()> {
    let block = made::own(dir, wish, number)?;
    shelf.put(&block)?;
    std::fs::remove_dir_all(block)?;
    Ok(())
}

/// A whole block of the bucket, by its meta.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// Begin, ms since the epoch.
    pub min: i64,
    /// End, exclusive.
    pub max: i64,
    /// Resolution, ms.
    pub resolution: i64,
    /// Whether it is marked for deletion.
    pub marked: bool,
}

/// The whole blocks of one replica, by their times.
///
/// # Errors
/// When the bucket can't be read.
pub fn blocks(shelf: &dyn Shelf, replica: &str) -> anyhow::Result<Vec<Seen>> {
    let of = |meta: &Value| meta["thanos"]["labels"]["prometheus_replica"] == replica;
    let mut found = shelf
        .metas()?
        .iter()
        .filter(|meta| of(meta))
        .map(|meta| {
            let number = |at: &str| meta[at].as_i64().with_context(|| format!("no {at} in {meta}"));
            let id = meta["ulid"].as_str().context("no ulid")?.to_owned();
            let marked = shelf.has(&format!("{id}/deletion-mark.json"))?;
            let resolution = meta["thanos"]["downsample"]["resolution"].as_i64().unwrap_or(0);
            Ok(Seen { id, min: number("minTime")?, max: number("maxTime")?, resolution, marked })
        })
        .collect::<anyhow::Result<Vec<Seen>>>()?;
    found.sort_by_key(|block| (block.min, block.resolution, block.max));
    Ok(found)
}

/// Waits until the compactor has ended a pass after this call and says that nothing is left to do.
///
/// # Errors
/// When it does not within two minutes.
pub fn idle(stack: &Stack) -> anyhow::Result<()> {
    let pod = format!("{}-compact-0", stack.name);
    let begin = (crate::stories::world::now() * 1000.0) as i64;
    eventually("a pass of the compactor that leaves nothing to do", CHANGE, || {
        let now = stack.get_pod(&pod, 10902, "/-/state")?["compaction"].take();
        let left = ["todoCompactions", "todoDownsamplings"].iter().filter_map(|at| now[*at].as_i64()).sum::<i64>();
        let ended = now["lastPassMs"].as_i64().is_some_and(|at| at > begin);
        anyhow::ensure!(ended && left == 0 && now["doing"] == json!([]), "it says {now}");
        Ok(())
    })
}
