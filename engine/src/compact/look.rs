//! What is in the bucket, as the planner is told it: the listing, and what is known better.

use super::effects::Marked;
use super::share::Share;
use super::{Fault, PRODUCER, foreign, producer};
use bucket::catalogue::{Reader, State};
use bucket::fetch::{Fetcher, Reason, View};
use bucket::{Bucket, Kind, block, mark};
use model::{BlockId, protection};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::meta::MAX_META_BYTES;
use tsdb::plan::{self, Snapshot};

/// Looks at one bucket again and again, during one tenure.
pub(super) struct Look {
    bucket: Bucket,
    fetcher: Fetcher,
    pub(super) catalogue: Reader,
    /// What this tenure wrote: a listing may not show it yet.
    made: BTreeMap<BlockId, Arc<BlockMeta>>,
    /// What this tenure deleted: a listing may still show it.
    deleted: BTreeSet<BlockId>,
    /// What this tenure announced, and has not seen committed or cleared away: it may be there whatever became of the upload, and a
    /// listing may not show it yet.
    announced: Announced,
    /// Marks for deletion that this tenure set.
    marked: Marked,
    share: Share,
    /// When the lease began, ms.
    since_ms: i64,
}

/// Blocks that were announced, also while they are being sent.
pub(super) type Announced = Arc<Mutex<BTreeSet<BlockId>>>;

/// So long after it was made (ms), a block that a compactor announced and did not commit is forgotten: no request for it is under
/// way any more, and if it was one of another scope, that may not exist any more.
pub(super) const FORGOTTEN: i64 = 4 * 86_400_000;
/// So long (ms) a listing may lag behind our own marks.
const LAG: i64 = 3_600_000;

/// What was seen.
pub(super) struct Seen {
    /// As the planner takes it.
    pub(super) snapshot: Arc<Snapshot>,
    /// Bytes of blocks, where they are known.
    pub(super) bytes: BTreeMap<BlockId, u64>,
    /// Uploads of our own that broke off, of which something is left that is garbage, and whether they are forgotten.
    pub(super) broken_off: BTreeMap<BlockId, bool>,
    /// Announced blocks that are forgotten, and of which nothing is left.
    pub(super) dead: BTreeSet<BlockId>,
    /// Blocks whose meta.json is damaged, of which nothing more is known.
    pub(super) broken: Vec<(BlockId, String)>,
    /// Blocks of ours that were never committed, and look whole.
    pub(super) uncommitted: Vec<Arc<BlockMeta>>,
    /// Why nothing is to be deleted.
    pub(super) foreign: Option<String>,
    /// What could not be read.
    pub(super) errors: Vec<bucket::Error>,
    /// All blocks of the bucket, of others' shares, too.
    pub(super) there: BTreeSet<BlockId>,
}

impl Look {
    pub(super) fn new(bucket: Bucket, metas: usize, share: Share, since_ms: i64) -> Self {
        Self {
            announced: Announced::default(),
            marked: Marked::default(),
            share,
            fetcher: Fetcher::new(bucket.clone()).trusting(metas),
            catalogue: Reader::new(bucket.clone()),
            bucket,
            made: BTreeMap::new(),
            deleted: BTreeSet::new(),
            since_ms,
        }
    }

    /// A block of ours was committed.
    pub(super) fn made(&mut self, meta: BlockMeta) {
        self.announced.lock().remove(&meta.id);
        self.made.insert(meta.id, Arc::new(meta));
    }

    /// Where whoever sends a block puts its id before.
    pub(super) fn announced(&self) -> Announced {
        Arc::clone(&self.announced)
    }

    /// Where whoever marks a block for deletion says so.
    pub(super) fn marked(&self) -> Marked {
        Arc::clone(&self.marked)
    }

    /// What is left of an upload of ours was cleared away.
    pub(super) fn cleared(&mut self, id: BlockId) {
        self.announced.lock().remove(&id);
    }

    /// A block was deleted.
    pub(super) fn deleted(&mut self, id: BlockId) {
        self.made.remove(&id);
        self.deleted.insert(id);
    }

    /// Looks at the whole bucket.
    pub(super) async fn look(&mut self) -> Result<Seen, Fault> {
        // The catalogue first: what it tells of must be in the listing that follows.
        // Where it can't be read whole, nothing is known of announced blocks either: a committed one would look abandoned.
        let (told, intents, is_known) = match self.catalogue.read().await? {
            State::Blocks(told) => (told, self.catalogue.intents().await?, true),
            State::Absent => (BTreeMap::new(), Vec::new(), true),
            State::Unusable(why) => {
                tracing::warn!(why, "the catalogue can't be used: uploads that broke off stay until it can");
                (BTreeMap::new(), Vec::new(), protection::off("unusable-catalogue"))
            }
        };
        let mut view = self.fetcher.sync().await?;
        let now = self.bucket.world().clock.now_ms();
        let there: BTreeSet<BlockId> = view.blocks.keys().copied().collect();
        let (unreadable, errors) = blamed(&view);
        view.errors = errors;
        view.blocks.retain(|id, block| !self.deleted.contains(id) && self.share.has(&block.meta, now));
        let mut snapshot = view.snapshot();
        let mut broken = Vec::new();
        for (id, what) in unreadable {
            if let Some(block) = snapshot.blocks.get_mut(&id) {
                block.problems.push(what);
            } else if let Some(partial) = snapshot.partial.get_mut(&id) {
                partial.claimed = true;
                broken.push((id, what));
            }
        }
        let hidden: Vec<_> = told.iter().chain(&self.made).filter(|(id, _)| !view.blocks.contains_key(id)).collect();
        for (id, meta) in hidden {
            let is_known = self.deleted.contains(id) || snapshot.blocks.contains_key(id);
            if is_known || !self.share.has(meta, now) || protection::off("own-writes") {
                continue;
            }
            let mut block = plan::Block::new(Arc::clone(meta));
            match ask(&self.bucket, *id).await? {
                Asked::There(_) => self.ask_marks(&mut block).await?,
                Asked::Broken(what) => block.problems.push(what),
                Asked::Gone => continue,
            }
            snapshot.partial.remove(id);
            snapshot.blocks.insert(*id, block);
        }
        // Of a block that the catalogue does not know and whose meta.json is damaged nothing more can be said.
        let damaged = view.partial.iter().filter(|(id, _)| snapshot.partial.contains_key(id));
        broken.extend(damaged.filter_map(|(id, partial)| match &partial.reason {
            Reason::BrokenMeta(what) => Some((*id, what.clone())),
            Reason::NoMeta | Reason::Closed => None,
        }));
        let ours = producer(&self.bucket, &self.share.scope)?;
        let sent: Vec<BlockId> = {
            let mut announced = self.announced.lock();
            announced.retain(|id| !told.contains_key(id) && !self.made.contains_key(id));
            announced.iter().copied().collect()
        };
        for id in &sent {
            if !snapshot.blocks.contains_key(id)
                && !protection::off("own-writes")
                && let Asked::There(meta) = ask(&self.bucket, *id).await?
            {
                snapshot.partial.remove(id);
                let mut block = plan::Block::new(*meta);
                self.ask_marks(&mut block).await?;
                snapshot.blocks.insert(*id, block);
            }
        }
        self.apply_marked(&mut snapshot, now);
        let age = |id: BlockId| now.saturating_sub(i64::try_from(id.time_ms()).unwrap_or(i64::MAX));
        let (mut broken_off, mut dead) = (BTreeMap::new(), BTreeSet::new());
        // Whoever announced what nobody knows of may go on with it.
        snapshot.partial.values_mut().for_each(|partial| partial.claimed |= !is_known);
        for (by, intent) in &intents {
            let id = intent.block;
            let forgotten = by.starts_with(PRODUCER) && age(id) >= FORGOTTEN;
            let Some(partial) = snapshot.partial.get_mut(&id) else {
                if forgotten && !there.contains(&id) {
                    dead.insert(id);
                }
                continue;
            };
            // Another producer may go on with it at any time, however long it was away, and is the one to end it; a compactor goes
            // on with nothing.
            partial.claimed = true;
            let is_closed = view.partial.get(&id).is_some_and(|p| p.reason == Reason::Closed && p.objects <= 1);
            // Who announced it held the lease before, or failed: nobody is at it now.
            if forgotten || (by == ours.name() && !is_closed) {
                broken_off.insert(id, forgotten);
            }
        }
        // Nobody's any more: the catalogue was deleted by hand, or folded what was dead.
        let announced: BTreeSet<BlockId> = intents.iter().map(|(_, intent)| intent.block).collect();
        let is_closed = |id: &BlockId| view.partial.get(id).is_some_and(|p| p.reason == Reason::Closed);
        for (id, partial) in snapshot.partial.iter_mut().filter(|(id, _)| is_closed(id) && !announced.contains(id)) {
            partial.claimed = true;
            if age(*id) >= FORGOTTEN {
                broken_off.insert(*id, true);
            }
        }
        // Announced by us, never committed, and its meta.json is there: it was killed right then, or it came behind our
        // clearing away (see `effects`).
        let mut uncommitted = Vec::new();
        let announced = intents.iter().filter(|(by, _)| by == ours.name()).map(|(_, intent)| intent.block);
        let announced: BTreeSet<BlockId> = announced.chain(sent.iter().copied()).collect();
        for id in announced {
            if told.contains_key(&id) || self.made.contains_key(&id) {
                continue;
            }
            match snapshot.blocks.get(&id) {
                Some(block) if block.problems.is_empty() => uncommitted.push(Arc::clone(&block.meta)),
                Some(_) => {
                    broken_off.insert(id, age(id) >= FORGOTTEN);
                    snapshot.blocks.remove(&id);
                }
                None => {}
            }
        }
        let mut known: BTreeSet<BlockId> =
            told.keys().chain(self.made.keys()).copied().chain(intents.iter().map(|(_, i)| i.block)).collect();
        known.extend(&sent);
        let mut foreign = foreign::sign(&view, &known, self.since_ms);
        if foreign.is_some() && !protection::off("catalogue-again") {
            // Another scope, or our predecessor as far as old listings go, may have made it after the catalogue was read above.
            if let State::Blocks(told) = self.catalogue.read().await? {
                known.extend(told.keys());
            }
            known.extend(self.catalogue.intents().await?.iter().map(|(_, intent)| intent.block));
            foreign = foreign::sign(&view, &known, self.since_ms);
        }
        let bytes = view.blocks.iter().filter(|(_, b)| b.bytes > 0).map(|(id, b)| (*id, b.bytes)).collect();
        let errors = view.errors;
        Ok(Seen { snapshot: Arc::new(snapshot), bytes, broken_off, dead, broken, uncommitted, foreign, errors, there })
    }
}

impl Look {
    /// The marks of a block that the listing does not show: where they are broken or can't be understood, it is left alone.
    async fn ask_marks(&self, block: &mut plan::Block) -> Result<(), Fault> {
        let id = block.meta.id;
        block.marks.deletion = known(mark::read(&self.bucket, id).await, &mut block.problems)?;
        block.marks.no_compact = known(mark::read(&self.bucket, id).await, &mut block.problems)?;
        block.marks.no_downsample = known(mark::read(&self.bucket, id).await, &mut block.problems)?;
        Ok(())
    }

    /// Our own marks: a listing may not show them yet.
    fn apply_marked(&self, snapshot: &mut Snapshot, now: i64) {
        self.marked.lock().retain(|id, mark| {
            if let Some(block) = snapshot.blocks.get_mut(id) {
                block.marks.deletion.get_or_insert_with(|| mark.clone());
            }
            now.saturating_sub(mark.deletion_time.saturating_mul(1000)) < LAG
        });
    }
}

fn known<M>(found: bucket::Result<mark::Found<M>>, problems: &mut Vec<String>) -> Result<Option<M>, Fault> {
    match found {
        Ok(mark::Found::Mark(mark)) => Ok(Some(mark)),
        // A broken one counts as none, as in a listing.
        Ok(mark::Found::None | mark::Found::Broken(_)) => Ok(None),
        Err(e) if e.kind == Kind::Corrupt => {
            problems.push(e.to_string());
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// What can't be read for good is the fault of its block, and no reason to stop: by block. The rest is.
fn blamed(view: &View) -> (BTreeMap<BlockId, String>, Vec<bucket::Error>) {
    let (mut blamed, mut errors) = (BTreeMap::new(), Vec::new());
    for error in &view.errors {
        match block::parse(&error.path) {
            Some((id, _)) if error.kind == Kind::Corrupt => {
                blamed.insert(id, error.to_string());
            }
            _ => errors.push(error.clone()),
        }
    }
    (blamed, errors)
}

/// What a block's meta.json itself says of it.
enum Asked {
    There(Box<BlockMeta>),
    Broken(String),
    Gone,
}

async fn ask(bucket: &Bucket, id: BlockId) -> Result<Asked, Fault> {
    let path = block::object(id, block::META);
    match bucket.get(&path, MAX_META_BYTES).await {
        Ok(object) => Ok(match BlockMeta::read(&path, &object.bytes) {
            Ok(meta) if meta.id == id => Asked::There(Box::new(meta)),
            Ok(meta) => Asked::Broken(format!("{path} says that it is block {}", meta.id)),
            Err(e) => Asked::Broken(e.to_string()),
        }),
        Err(e) if e.is_not_found() => Ok(Asked::Gone),
        Err(e) if e.kind == Kind::TooLarge => Ok(Asked::Broken(e.to_string())),
        Err(e) => Err(e.into()),
    }
}
