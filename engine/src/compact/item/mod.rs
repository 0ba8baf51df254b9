//! Work on one item: fetch, check, make, check, send.

mod fetch;
mod make;
mod send;

use super::effects::{Done, Effects};
use super::look::{Announced, Seen};
use super::progress::{Step, Working};
use super::{Compactor, Fault, space};
use bucket::catalogue::Producer;
use futures::{StreamExt as _, TryStreamExt as _};
use model::{BlockId, protection};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tsdb::BlockMeta;
use tsdb::disk::Disk;
use tsdb::marks::reason;
use tsdb::plan::{self, Compaction, SOURCE_OF_COMPACTED};

/// Where fetched blocks lie, inside the compactor's folder.
const INPUTS: &str = "compact/in";
/// Where new blocks are made.
const OUTPUTS: &str = "compact/out";

/// What a deletion mark says of a block without a sample.
const EMPTY: &str = "block without samples";

/// What all items of a round share.
pub(super) struct Bench<'a> {
    pub(super) compactor: &'a Compactor,
    pub(super) effects: Effects,
    pub(super) catalogue: Producer,
    pub(super) seen: &'a Seen,
    /// Blocks that were announced: whatever becomes of their uploads, they may be there.
    pub(super) announced: Announced,
}

/// What came of an item.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// New blocks, whole in the bucket.
    pub(super) blocks: Vec<BlockMeta>,
    /// Why it was not done, if it was planned for something that has changed.
    pub(super) moot: Option<String>,
}

/// Removes what earlier runs have left, but for blocks that may be needed again: whole files of those are not fetched twice.
pub(super) fn clean(compactor: &Compactor, wanted: &dyn Fn(&BlockId) -> bool) -> tsdb::Result<()> {
    let disk = &compactor.disk;
    disk.remove_dir(&compactor.dir.join(OUTPUTS))?;
    let inputs = compactor.dir.join(INPUTS);
    disk.create_dir(&inputs)?;
    disk.create_dir(&compactor.dir.join(OUTPUTS))?;
    for entry in disk.list(&inputs)? {
        if !entry.name.parse::<BlockId>().is_ok_and(|id| wanted(&id)) {
            let path = inputs.join(&entry.name);
            if entry.is_dir { disk.remove_dir(&path)? } else { disk.remove_file(&path)? }
        }
    }
    Ok(())
}

/// Bytes of disk that are kept for a piece of work until it has ended.
struct Room(Arc<AtomicU64>, u64);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl Bench<'_> {
    /// Bytes of a block, as far as anybody knows.
    pub(super) fn bytes(&self, id: &BlockId) -> u64 {
        let told = || {
            let block = self.seen.snapshot.blocks.get(id)?;
            Some(space::total(block.meta.thanos.as_ref()?.files.iter().map(|f| f.size_bytes)))
        };
        self.seen.bytes.get(id).copied().or_else(told).unwrap_or(0)
    }

    /// Bytes of blocks together; what meta.json tells may be anything.
    pub(super) fn bytes_of<'i>(&self, ids: impl IntoIterator<Item = &'i BlockId>) -> u64 {
        space::total(ids.into_iter().map(|id| self.bytes(id)))
    }

    fn input(&self, id: BlockId) -> PathBuf {
        self.compactor.dir.join(INPUTS).join(id.to_string())
    }

    fn new_id(&self) -> BlockId {
        let world = &self.compactor.world;
        BlockId::new(world.clock.now_ms(), &*world.entropy)
    }

    fn meta(&self, id: BlockId) -> Result<Arc<BlockMeta>, Fault> {
        let block = self.seen.snapshot.blocks.get(&id);
        block.map(|b| Arc::clone(&b.meta)).ok_or_else(|| Fault::Held(format!("block {id} is not in the bucket")))
    }

    /// Whether there is room for work on these blocks; what of them lies here already takes none.
    async fn room(&self, ids: &[BlockId], outputs: u64) -> Result<Room, Fault> {
        let bytes = self.bytes_of(ids);
        let mut here = 0u64;
        for dir in ids.iter().map(|id| self.input(*id)) {
            for folder in [dir.join(tsdb::segment::CHUNKS_DIR), dir] {
                if self.compactor.disk.exists(&folder)? {
                    here += self.compactor.disk.list(&folder)?.iter().map(|e| e.size).sum::<u64>();
                }
            }
        }
        let needed = space::needed(bytes, outputs).saturating_sub(here);
        loop {
            let taken = self.compactor.reserved.load(Ordering::SeqCst);
            let free = (self.compactor.options.free)(&self.compactor.dir);
            match space::check(needed.saturating_add(taken), free) {
                Ok(()) => {
                    self.compactor.reserved.fetch_add(needed, Ordering::SeqCst);
                    return Ok(Room(Arc::clone(&self.compactor.reserved), needed));
                }
                Err(fault) if taken == 0 => return Err(fault),
                // There may be when the others have ended.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Fetches blocks and makes new ones of them. Where one turns out damaged, it is fetched once more before it is blamed: what
    /// lay on this disk may be to blame.
    async fn make<T: Send + 'static>(
        &self,
        ids: &[BlockId],
        working: &Working,
        make: impl Fn(&dyn Disk, &[PathBuf], &Path) -> Result<T, Fault> + Clone + Send + 'static,
    ) -> Result<T, Fault> {
        for attempt in 0..2 {
            working.step(Step::Fetch);
            let folders = self.inputs(ids).await?;
            working.step(Step::Work);
            let (disk, out, make) = (Arc::clone(&self.compactor.disk), self.compactor.dir.join(OUTPUTS), make.clone());
            match blocking(self.compactor, move || make(&*disk, &folders, &out)).await {
                Err(Fault::Block { block, reason: reason::DAMAGED, what })
                    if attempt == 0 && !protection::off("second-fetch") =>
                {
                    tracing::warn!(%block, what, "a fetched block is damaged; it is fetched once more");
                    self.compactor.disk.remove_dir(&self.input(block))?;
                }
                made => return made,
            }
        }
        Err(Fault::Held("a block changes while it is read".to_owned()))
    }

    /// Fetches blocks, and checks their indexes. One that is damaged is fetched a second time before it is blamed.
    async fn inputs(&self, ids: &[BlockId]) -> Result<Vec<PathBuf>, Fault> {
        let fetched = futures::stream::iter(ids.iter().copied())
            .map(|id| async move {
                let dir = self.input(id);
                let meta = self.meta(id)?;
                for attempt in 0..2 {
                    let again = attempt > 0;
                    fetch::block(&self.effects.bucket, &self.compactor.disk, &meta, &dir, again).await?;
                    let (disk, folder, meta) = (Arc::clone(&self.compactor.disk), dir.clone(), Arc::clone(&meta));
                    match blocking(self.compactor, move || make::check_input(&*disk, &folder, &meta)).await {
                        Err(fault @ Fault::Block { reason: reason::DAMAGED, .. })
                            if again || protection::off("second-fetch") =>
                        {
                            return Err(fault);
                        }
                        Err(Fault::Block { reason: reason::DAMAGED, what, .. }) => {
                            tracing::warn!(block = %id, what, "a fetched block is damaged; it is fetched once more");
                        }
                        other => return other.map(|()| dir),
                    }
                }
                Ok(dir)
            })
            .buffered(self.compactor.options.fetches.max(1));
        fetched.try_collect().await
    }

    /// Makes one block of several.
    pub(super) async fn compact(&self, item: &Compaction, working: &Working) -> Result<Made, Fault> {
        let _room = self.room(&item.blocks, 1).await?;
        self.effects.lease.check()?;
        let metas = item.blocks.iter().map(|id| self.meta(*id)).collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<&BlockMeta> = metas.iter().map(|m| &**m).collect();
        let labels = borrowed.first().map(|m| m.labels()).unwrap_or_default();
        let labels = plan::without_replicas(&labels, &self.compactor.settings.replica_labels);
        let Some(meta) = plan::compacted(self.new_id(), &labels, &borrowed) else {
            return Err(Fault::Held("a compaction of no blocks".to_owned()));
        };
        let dedup = self.compactor.options.dedup;
        let make = move |disk: &dyn Disk, folders: &[PathBuf], out: &Path| {
            make::compact(disk, folders, out, meta.clone(), dedup)
        };
        let made = self.make(&item.blocks, working, make).await?;
        working.step(Step::Send);
        let mut result = Made::default();
        // The work took its time: what somebody wants gone meanwhile does not come back.
        for id in &item.blocks {
            if let Some(why) = self.effects.changed(*id).await? {
                result.moot = Some(why);
                return Ok(result);
            }
        }
        if let Some(written) = made {
            result.blocks.push(send::block(self, &written).await?);
            self.condemn_all(&item.blocks, SOURCE_OF_COMPACTED).await?;
        } else {
            // All are empty, and checked: nothing is lost with them.
            tracing::info!(stream = item.stream, "the blocks hold no sample");
            self.condemn_all(&item.blocks, EMPTY).await?;
        }
        Ok(result)
    }

    async fn condemn_all(&self, ids: &[BlockId], details: &str) -> Result<(), Fault> {
        for id in ids {
            if let Done::Moot(why) = self.effects.mark_for_deletion(*id, details).await? {
                tracing::info!(block = %id, why, "not marked for deletion");
            }
            self.compactor.disk.remove_dir(&self.input(*id))?;
        }
        Ok(())
    }

    /// Makes coarser copies of a block.
    pub(super) async fn downsample(&self, id: BlockId, to: &[i64], working: &Working) -> Result<Made, Fault> {
        let _room = self.room(&[id], to.len() as u64).await?;
        self.effects.lease.check()?;
        let meta = self.meta(id)?;
        let metas: Vec<BlockMeta> =
            to.iter().map(|resolution| plan::downsampled(self.new_id(), &meta, *resolution)).collect();
        let make =
            move |disk: &dyn Disk, folders: &[PathBuf], out: &Path| make::downsample(disk, folders, out, metas.clone());
        let made = self.make(&[id], working, make).await?;
        working.step(Step::Send);
        let mut result = Made::default();
        for written in &made {
            result.blocks.push(send::block(self, written).await?);
        }
        self.compactor.disk.remove_dir(&self.input(id))?;
        Ok(result)
    }
}

/// Runs what reads, decodes and writes off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    compactor: &Compactor,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let busy = Arc::clone(&compactor.busy).read_owned().await;
    if compactor.options.inline {
        return work();
    }
    let work = move || {
        let _busy = busy;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Fault::Held(format!("a mistake of ours, please report it: {e}"))),
    }
}
