//! What changes a bucket beside new blocks: marks and deletions. Whoever acts asks the lease, and looks once more at what it
//! acts on, since the listing that the plan was made of may be old.

use super::{Fault, foreign};
use bucket::lease::Lease;
use bucket::{Bucket, Kind, block, mark};
use futures::TryStreamExt as _;
use model::{BlockId, protection};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::marks::{DeletionMark, NoCompactMark, NoDownsampleMark};
use tsdb::meta::MAX_META_BYTES;
use tsdb::plan::{self, Settings, Snapshot, Why};

/// Why something was not done although it was planned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Done.
    Yes,
    /// Not any more: what it was planned for has changed.
    Moot(String),
}

/// Changes one bucket as long as a lease is held.
#[derive(Clone)]
pub(super) struct Effects {
    pub(super) bucket: Bucket,
    pub(super) lease: Lease,
    /// The marks for deletion that this tenure set: a listing may not show them yet.
    pub(super) marked: Marked,
}

/// Marks for deletion, by block.
pub(super) type Marked = Arc<Mutex<BTreeMap<BlockId, DeletionMark>>>;

impl Effects {
    fn seconds(&self) -> i64 {
        self.bucket.world().clock.now_ms().div_euclid(1000)
    }

    /// Marks a block for deletion, for a reason of a plan.
    pub(super) async fn condemn(&self, id: BlockId, why: &Why, snapshot: &Snapshot) -> Result<Done, Fault> {
        let holders = match why {
            Why::Superseded { by } => vec![*by],
            Why::Retention { .. } => coarser(id, snapshot),
            _ => Vec::new(),
        };
        for by in holders {
            if let Some(missing) = self.successor(id, by, snapshot).await? {
                return Ok(Done::Moot(missing));
            }
        }
        self.mark_for_deletion(id, &plan::deletion_details(why)).await
    }

    /// Marks a block for deletion in these words.
    pub(super) async fn mark_for_deletion(&self, id: BlockId, details: &str) -> Result<Done, Fault> {
        let record = self.lease.record();
        let mark = foreign::mark(id, self.seconds(), details, &record.holder, record.epoch);
        self.lease.confirm().await?;
        if !mark::create(&self.bucket, &mark).await?
            && let mark::Found::Broken(what) = mark::read::<DeletionMark>(&self.bucket, id).await?
        {
            return Ok(Done::Moot(format!("{what}; remove it")));
        }
        self.marked.lock().insert(id, mark);
        Ok(Done::Yes)
    }

    /// Marks a block as not to be compacted.
    pub(super) async fn no_compact(&self, id: BlockId, reason: &str, what: &str) -> Result<(), Fault> {
        self.lease.confirm().await?;
        mark::create(&self.bucket, &NoCompactMark::new(id, self.seconds(), reason, what)).await?;
        Ok(())
    }

    /// Marks a block as not to be downsampled.
    pub(super) async fn no_downsample(&self, id: BlockId, reason: &str, what: &str) -> Result<(), Fault> {
        self.lease.confirm().await?;
        mark::create(&self.bucket, &NoDownsampleMark::new(id, self.seconds(), reason, what)).await?;
        Ok(())
    }

    /// Deletes what a plan says. The mark is read again: somebody may have taken it back.
    pub(super) async fn delete(
        &self,
        id: BlockId,
        why: &Why,
        snapshot: &Snapshot,
        settings: &Settings,
    ) -> Result<Done, Fault> {
        let delay = settings.delete_delay;
        match why {
            Why::MarkIsOld { details, .. } => {
                if let Some(moot) = self.mark_stands(id, delay).await? {
                    return Ok(Done::Moot(moot));
                }
                let superseded = details == plan::SOURCE_OF_COMPACTED || details == plan::OUTDATED;
                let by = superseded.then(|| covering(id, snapshot)).flatten();
                if let Some(by) = by
                    && let Some(missing) = self.successor(id, by, snapshot).await?
                {
                    return Ok(Done::Moot(missing));
                }
            }
            Why::DeletionBrokeOff => {
                if let Some(moot) = self.mark_stands(id, delay).await? {
                    return Ok(Done::Moot(moot));
                }
            }
            _ => return self.remove_partial(id, settings.partial_age).await,
        }
        self.remove(id).await
    }

    /// Deletes what is left of an upload of our own that broke off, unless it is a block after all. What the catalogue calls
    /// committed is none, whatever it lacks. First the id is closed, so that nobody's meta.json comes late; it stays closed until
    /// it is `forgotten`.
    pub(super) async fn clear(&self, id: BlockId, forgotten: bool) -> Result<Done, Fault> {
        let path = block::object(id, block::META);
        match self.bucket.get(&path, MAX_META_BYTES).await {
            Err(e) if e.is_not_found() => {
                if !forgotten && !protection::off("closed-ids") {
                    self.lease.confirm().await?;
                    match self.bucket.create(&path, block::closed(id)).await {
                        Ok(_) => {}
                        Err(e) if e.kind == Kind::Exists => return Ok(Done::Moot(format!("{id} is a block by now"))),
                        Err(e) => return Err(e.into()),
                    }
                }
                return self.empty(id, forgotten).await;
            }
            Ok(object) if block::is_closed(&object.bytes) => return self.empty(id, forgotten).await,
            Err(e) if e.kind == Kind::TooLarge => return Ok(Done::Moot(e.to_string())),
            Err(e) => return Err(e.into()),
            Ok(object) => match BlockMeta::read(&path, &object.bytes) {
                Ok(meta) if self.is_whole(&meta).await? => return Ok(Done::Moot(format!("{id} is a block by now"))),
                Ok(_)
                    if self
                        .bucket
                        .exists(&super::producer(&self.bucket, &self.lease.record().scope)?.commit_path(id))
                        .await? =>
                {
                    return Ok(Done::Moot(format!("{id} was committed, and lacks files")));
                }
                Ok(_) => {}
                // It was a block: what it holds is not ours to throw away.
                Err(e) => {
                    let what = format!("{e}; write a good meta.json, or delete the block by hand");
                    return Ok(Done::Moot(what));
                }
            },
        }
        self.remove(id).await
    }

    /// Deletes all objects of an id that is no block; meta.json, last, only `with_meta`.
    async fn empty(&self, id: BlockId, with_meta: bool) -> Result<Done, Fault> {
        let meta = block::object(id, block::META);
        let mut all: Vec<bucket::Meta> = self.bucket.list(&block::directory(id)).try_collect().await?;
        all.sort_by_key(|o| o.path == meta);
        for object in all.iter().filter(|o| with_meta || o.path != meta) {
            self.lease.check()?;
            self.bucket.delete(&object.path).await?;
        }
        Ok(Done::Yes)
    }

    /// Deletes what is left of an upload that broke off: all of it was written at least `age` (ms) ago, and there is no
    /// meta.json. Its producer may wake up at any time: the index goes first, and one look for meta.json is before each delete.
    async fn remove_partial(&self, id: BlockId, age: i64) -> Result<Done, Fault> {
        self.lease.confirm().await?;
        let (meta, mark) = (block::object(id, block::META), block::object(id, block::DELETION_MARK));
        let mut all: Vec<bucket::Meta> = self.bucket.list(&block::directory(id)).try_collect().await?;
        let now = self.bucket.world().clock.now_ms();
        if let Some(new) = all.iter().find(|o| age > 0 && now.saturating_sub(o.modified_ms) <= age) {
            return Ok(Done::Moot(format!("{} was written not long ago", new.path)));
        }
        let index = block::object(id, block::INDEX);
        all.sort_by_key(|o| (o.path == mark, o.path != index));
        for object in all {
            if object.path == meta || self.bucket.exists(&meta).await? {
                return Ok(Done::Moot(format!("{id} is a block by now")));
            }
            self.lease.check()?;
            self.bucket.delete(&object.path).await?;
        }
        Ok(Done::Yes)
    }

    /// What has become of a source of a new block since it was looked at; none if nothing has.
    pub(super) async fn changed(&self, id: BlockId) -> Result<Option<String>, Fault> {
        if !matches!(mark::read::<DeletionMark>(&self.bucket, id).await?, mark::Found::None) {
            return Ok(Some(format!("{id} was marked for deletion meanwhile")));
        }
        if !matches!(mark::read::<NoCompactMark>(&self.bucket, id).await?, mark::Found::None) {
            return Ok(Some(format!("{id} was marked no-compact meanwhile")));
        }
        let there = self.bucket.exists(&block::object(id, block::META)).await?;
        Ok((!there).then(|| format!("{id} is gone meanwhile")))
    }

    /// Whether all files of a block are there, as large as its meta.json says; where it says of none, its index and its first
    /// segment.
    pub(super) async fn is_whole(&self, meta: &BlockMeta) -> Result<bool, Fault> {
        let told = || meta.thanos.iter().flat_map(|t| &t.files).filter(|f| f.size_bytes > 0);
        if told().next().is_none() {
            let mut there = self.bucket.exists(&block::object(meta.id, block::INDEX)).await?;
            if meta.stats.num_chunks > 0 {
                there = there && self.bucket.exists(&block::object(meta.id, &block::segment(1))).await?;
            }
            return Ok(there);
        }
        for file in told() {
            match self.bucket.head(&block::object(meta.id, &file.rel_path)).await {
                Ok(there) if there.size == file.size_bytes => {}
                Ok(_) => return Ok(false),
                Err(e) if e.is_not_found() => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    /// Why the mark of a block does not call for its deletion now; none if it does.
    async fn mark_stands(&self, id: BlockId, delay: i64) -> Result<Option<String>, Fault> {
        let now = self.bucket.world().clock.now_ms();
        Ok(match mark::read::<DeletionMark>(&self.bucket, id).await? {
            mark::Found::Mark(m) if now.saturating_sub(m.deletion_time.saturating_mul(1000)) > delay => None,
            mark::Found::Mark(_) => Some(format!("{id} was marked anew")),
            mark::Found::None => Some(format!("the mark of {id} was taken back")),
            mark::Found::Broken(what) => Some(what),
        })
    }

    /// What of a block's successor is missing in the bucket; none if it is whole.
    async fn successor(&self, id: BlockId, by: BlockId, snapshot: &Snapshot) -> Result<Option<String>, Fault> {
        let path = block::object(by, block::META);
        let missing = |what: &str| Some(format!("{by}, which holds the data of {id}, {what}"));
        let there = match self.bucket.get(&path, MAX_META_BYTES).await {
            Ok(object) => BlockMeta::read(&path, &object.bytes),
            Err(e) if e.is_not_found() => return Ok(missing("is gone")),
            Err(e) => return Err(e.into()),
        };
        let Ok(meta) = there else { return Ok(missing("can't be read")) };
        if snapshot.blocks.get(&by).is_none_or(|b| b.meta.compaction.sources != meta.compaction.sources) {
            return Ok(missing("is another block by now"));
        }
        if !matches!(mark::read::<DeletionMark>(&self.bucket, by).await?, mark::Found::None) {
            return Ok(missing("is marked for deletion itself"));
        }
        Ok(if self.is_whole(&meta).await? { None } else { missing("lacks files") })
    }

    /// Deletes all objects of a block: meta.json first, the mark last; before each the lease is asked.
    async fn remove(&self, id: BlockId) -> Result<Done, Fault> {
        self.lease.confirm().await?;
        self.bucket.delete(&block::object(id, block::META)).await?;
        let all: BTreeMap<String, u64> =
            self.bucket.list(&block::directory(id)).map_ok(|meta| (meta.path, meta.size)).try_collect().await?;
        let mark = block::object(id, block::DELETION_MARK);
        for path in all.keys().filter(|path| **path != mark) {
            self.lease.check()?;
            self.bucket.delete(path).await?;
        }
        if all.contains_key(&mark) {
            self.lease.check()?;
            self.bucket.delete(&mark).await?;
        }
        Ok(Done::Yes)
    }
}

/// The sound coarser blocks that hold some of this one: what retention relies on.
fn coarser(id: BlockId, snapshot: &Snapshot) -> Vec<BlockId> {
    let Some(block) = snapshot.blocks.get(&id) else { return Vec::new() };
    let shares = |b: &&plan::Block| {
        let sources = &b.meta.compaction.sources;
        b.meta.resolution() > block.meta.resolution()
            && b.problems.is_empty()
            && b.marks.deletion.is_none()
            && (sources.contains(&id) || block.meta.compaction.sources.iter().any(|s| sources.contains(s)))
    };
    snapshot.blocks.values().filter(shares).map(|b| b.meta.id).collect()
}

/// The sound block that holds all of this one.
fn covering(id: BlockId, snapshot: &Snapshot) -> Option<BlockId> {
    let of = |b: &plan::Block| match b.meta.compaction.sources.as_slice() {
        [] => vec![b.meta.id],
        sources => sources.to_vec(),
    };
    let block = snapshot.blocks.get(&id)?;
    let wanted = of(block);
    let covers = |b: &&plan::Block| {
        let sources = of(b);
        b.meta.id != id
            && b.problems.is_empty()
            && b.marks.deletion.is_none()
            && b.meta.resolution() == block.meta.resolution()
            && b.meta.min_time <= block.meta.min_time
            && b.meta.max_time >= block.meta.max_time
            && wanted.iter().all(|s| sources.contains(s))
    };
    snapshot.blocks.values().find(covers).map(|b| b.meta.id)
}
