//! The bucket of a simulation: it writes down every change, and judges each in the moment in which it is made, whoever sent it and
//! whenever: blocks become visible whole and with the samples of their sources, stay as they are, and go only when their mark is
//! old, no store serves them, and other visible whole blocks hold all that they hold.

use super::site::{self, Objects, Samples, Windows};
use async_trait::async_trait;
use bucket::layers::around::Around;
use bucket::store::{Condition, Source, Store};
use bucket::{Memory, Version, block, lease};
use bytes::Bytes;
use model::BlockId;
use model::world::Clock;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;
use tsdb::marks::DeletionMark;
use tsdb::meta::BlockMeta;

/// Where blocks of level 1 came from: the cluster, and their time.
pub(super) type Origins = BTreeMap<BlockId, (String, (i64, i64))>;

/// What was written down.
#[derive(Default)]
pub(super) struct Book {
    /// All changes in their order, with time and author.
    pub(super) log: Vec<String>,
    /// The first law that was broken.
    pub(super) broken: Option<String>,
    /// What each store serves.
    pub(super) served: BTreeMap<usize, BTreeSet<BlockId>>,
    /// The blocks with a good meta.json, and whether they were seen to hold what their sources hold.
    pub(super) visible: BTreeMap<BlockId, (Arc<BlockMeta>, bool)>,
    /// The blocks that were committed, and in which tenure.
    pub(super) committed: BTreeMap<BlockId, Tenure>,
}

/// Who held the lease, and its epoch.
pub(super) type Tenure = (String, u64);

/// The bucket as one process reaches it.
#[derive(Clone)]
pub(super) struct Judge {
    pub(super) memory: Memory,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) begin: Instant,
    /// Who comes this way.
    pub(super) name: String,
    /// From mark to deletion, ms.
    pub(super) delay: i64,
    /// How long raw data is kept, ms; 0 for ever.
    pub(super) raw: i64,
    pub(super) samples: Arc<Samples>,
    pub(super) origins: Arc<Origins>,
    pub(super) book: Arc<Mutex<Book>>,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} judged", self.name)
    }
}

/// The level 1 blocks whose samples a block holds.
pub(super) fn sources(meta: &BlockMeta) -> BTreeSet<BlockId> {
    match meta.compaction.sources.as_slice() {
        [] => [meta.id].into(),
        sources => sources.iter().copied().collect(),
    }
}

impl Judge {
    fn tell(&self, what: &str, path: &str, verdict: Result<(), String>) {
        let at = self.begin.elapsed();
        let mut book = self.book.lock();
        book.log.push(format!("{at:?} {} {what} {path}", self.name));
        if let Err(why) = verdict {
            let first = || format!("{why} ({} {what} {path}, after {at:?})", self.name);
            book.broken.get_or_insert_with(first);
        }
    }

    /// The meta.json of a block that readers see.
    fn visible(&self, id: BlockId) -> Option<Arc<BlockMeta>> {
        self.book.lock().visible.get(&id).map(|(meta, _)| Arc::clone(meta))
    }

    /// The tenure of who comes this way, if it has the lease.
    fn tenure(&self) -> Option<Tenure> {
        let bytes = self.memory.peek(&lease::lease_path("all"))?;
        let record: lease::Record = bucket::document::read("lease", &bytes).ok()?;
        (!record.released && record.holder == self.name).then_some((record.holder, record.epoch))
    }

    /// A block of a compactor was committed: from now on its own tenure knows of it, however old listings are.
    fn committed(&self, path: &str) {
        let name = path.strip_prefix(bucket::catalogue::ROOT).and_then(|rest| rest.strip_suffix(".commit"));
        let id = name.and_then(|name| name.rsplit('/').next()?.parse::<BlockId>().ok());
        if let Some((id, tenure)) = id.and_then(|id| Some((id, self.tenure()?))) {
            self.book.lock().committed.insert(id, tenure);
        }
    }

    /// Judges what was written, after it was; `before` is what was there.
    fn written(&self, path: &str, before: Option<&Bytes>) -> Result<(), String> {
        self.committed(path);
        let Some((id, file)) = block::parse(path) else { return Ok(()) };
        let meta = self.visible(id);
        let all = if meta.is_some() || file == block::META { self.memory.snapshot() } else { Objects::new() };
        match file {
            block::META if before.is_some_and(|b| !block::is_closed(b)) => Err("meta.json is written twice".to_owned()),
            block::META => match BlockMeta::read(path, &all[path]).map(Arc::new) {
                Ok(meta) => {
                    self.book.lock().visible.insert(id, (Arc::clone(&meta), false));
                    self.new_block(&all, &meta)
                }
                // An id that is closed.
                Err(_) => Ok(()),
            },
            block::DELETION_MARK => meta.map_or(Ok(()), |meta| self.may_go(&all, &meta)),
            block::NO_COMPACT_MARK | block::NO_DOWNSAMPLE_MARK => Err("a sound block is marked".to_owned()),
            _ if meta.is_some() && before != all.get(path) => {
                Err("a file of a visible block is written over".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Judges a deletion before it is made.
    fn deleted(&self, path: &str) -> Result<(), String> {
        let Some((id, file)) = block::parse(path) else { return Ok(()) };
        let Some(meta) = self.visible(id) else { return Ok(()) };
        let all = self.memory.snapshot();
        if file != block::META {
            return Err("a visible block loses a file".to_owned());
        }
        let mark_path = block::object(id, block::DELETION_MARK);
        let mark = all.get(&mark_path).and_then(|b| serde_json::from_slice::<DeletionMark>(b).ok());
        let is_old = |m: DeletionMark| self.clock.now_ms() - m.deletion_time * 1000 > self.delay;
        if !mark.is_some_and(is_old) {
            return Err("a block goes that was not marked long ago".to_owned());
        }
        if let Some(store) = self.book.lock().served.iter().find_map(|(n, ids)| ids.contains(&id).then_some(*n)) {
            return Err(format!("a block goes that store {store} serves"));
        }
        self.may_go(&all, &meta)
    }

    /// A block that becomes visible is whole, and holds what its sources hold, no more and no less.
    fn new_block(&self, all: &Objects, meta: &BlockMeta) -> Result<(), String> {
        let own = block::directory(meta.id);
        let own: Objects =
            all.iter().filter(|(p, _)| p.starts_with(&own)).map(|(p, b)| (p.clone(), b.clone())).collect();
        let (found, coarse) = site::content(&own, |_| true)?;
        let (mut samples, mut windows) = (Samples::new(), Windows::new());
        for source in sources(meta) {
            let Some((cluster, (min, max))) = self.origins.get(&source) else {
                return Err(format!("a visible block has a source that never was, {source}"));
            };
            for (labels, all) in self.samples.iter().filter(|(l, _)| l.value("cluster") == cluster) {
                let some = || all.range(*min..*max);
                samples.entry(labels.clone()).or_default().extend(some());
                windows.entry(labels.clone()).or_default().extend(some().map(|(t, _)| t.div_euclid(300_000)));
            }
        }
        let same = match meta.resolution() {
            0 => found == samples,
            300_000 => coarse == windows,
            _ => true,
        };
        if !same {
            return Err("a visible block does not hold what its sources hold".to_owned());
        }
        let mut book = self.book.lock();
        book.visible.entry(meta.id).and_modify(|(_, verified)| *verified = true);
        // What came late from a predecessor may be there twice for a while; a tenure knows what it made itself.
        let Some(tenure) = self.tenure() else { return Ok(()) };
        let again = book.visible.values().map(|(other, _)| other).find(|other| {
            other.id != meta.id
                && book.committed.get(&other.id) == Some(&tenure)
                && (other.labels(), other.resolution(), sources(other))
                    == (meta.labels(), meta.resolution(), sources(meta))
        });
        again.map_or(Ok(()), |other| Err(format!("{}, made in this tenure, is made again", other.id)))
    }

    /// A block goes when another visible whole one of its resolution, not marked itself, holds all of it; or when it is too old and
    /// such ones of coarser resolutions do.
    fn may_go(&self, all: &Objects, meta: &BlockMeta) -> Result<(), String> {
        let wanted = sources(meta);
        let blocks: Vec<(Arc<BlockMeta>, bool)> = self.book.lock().visible.values().cloned().collect();
        let stays = |(other, verified): &&(Arc<BlockMeta>, bool)| {
            other.id != meta.id
                && other.labels() == meta.labels()
                && *verified
                && !all.contains_key(&block::object(other.id, block::DELETION_MARK))
                && site::whole(all, other).is_ok()
        };
        let others = || blocks.iter().filter(stays).map(|(m, _)| &**m);
        let holds = |other: &BlockMeta| {
            let range = other.min_time <= meta.min_time && other.max_time >= meta.max_time;
            range && other.resolution() == meta.resolution() && wanted.is_subset(&sources(other))
        };
        if others().any(holds) {
            return Ok(());
        }
        let is_old = self.raw != 0 && meta.resolution() == 0 && self.clock.now_ms() - self.raw > meta.max_time;
        if !is_old {
            return Err("a block goes, and no visible block holds its samples".to_owned());
        }
        let coarser: BTreeSet<BlockId> = others().filter(|o| o.resolution() > 0).flat_map(sources).collect();
        if !wanted.is_subset(&coarser) {
            return Err("a block goes by retention, and has no coarser copy".to_owned());
        }
        Ok(())
    }
}

#[async_trait]
impl Around for Judge {
    fn inner(&self) -> &dyn Store {
        &self.memory
    }
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> bucket::Result<Version> {
        let before = self.memory.peek(path);
        let put = self.memory.put(path, body, condition).await;
        if put.is_ok() {
            self.tell("put", path, self.written(path, before.as_ref()));
        }
        put
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> bucket::Result<Version> {
        let before = self.memory.peek(path);
        let sent = self.memory.upload(path, source).await;
        if sent.is_ok() {
            self.tell("upload", path, self.written(path, before.as_ref()));
        }
        sent
    }
    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> bucket::Result<Version> {
        let before = self.memory.peek(path);
        let sent = self.memory.complete_parts(path, id, parts).await;
        if sent.is_ok() {
            self.tell("upload", path, self.written(path, before.as_ref()));
        }
        sent
    }
    async fn delete(&self, path: &str) -> bucket::Result<()> {
        let verdict = self.deleted(path);
        let deleted = self.memory.delete(path).await;
        if let Some((id, block::META)) = block::parse(path) {
            self.book.lock().visible.remove(&id);
        }
        self.tell("delete", path, verdict);
        deleted
    }
}

mod tests {
    use super::super::site::{HOUR, Site, T0, raw};
    use super::*;

    /// What a simulation relies on: each wrong is seen, by its name.
    #[tokio::test(start_paused = true)]
    async fn every_wrong_change_is_named() {
        let mut site = Site::new(raw());
        let (disk, dir) = site.made(0, 2 * HOUR, &[("cluster", "a")]);
        let id = site::id(&dir);
        let judge = Judge {
            memory: site.memory.clone(),
            clock: Arc::clone(&site.world.clock),
            begin: Instant::now(),
            name: "one".to_owned(),
            delay: HOUR,
            raw: 0,
            samples: Arc::new(site.samples.clone()),
            origins: Arc::new([(id, ("a".to_owned(), (T0, T0 + 2 * HOUR)))].into()),
            book: Arc::default(),
        };
        let said = || judge.book.lock().broken.take().unwrap_or_default();
        let bucket = site.bucket(Arc::new(judge.clone()) as Arc<dyn Store>);
        let sent = site::send(&bucket, &disk, &dir).await;
        assert_eq!(said(), "");
        let (meta, index) = (block::object(id, block::META), block::object(id, block::INDEX));
        let good = bucket.get(&meta, 1 << 20).await.unwrap().bytes;
        let mark = serde_json::to_vec(&DeletionMark::new(id, (site.world.clock.now_ms()) / 1000, "")).unwrap();
        bucket.put(&index, "other").await.unwrap();
        assert!(said().starts_with("a file of a visible block is written over"));
        bucket.put(&meta, good.clone()).await.unwrap();
        assert!(said().starts_with("meta.json is written twice"));
        bucket.delete(&index).await.unwrap();
        assert!(said().starts_with("a visible block loses a file"));
        bucket.delete(&meta).await.unwrap();
        assert!(said().starts_with("a block goes that was not marked long ago"));
        bucket.put(&meta, good.clone()).await.unwrap();
        assert!(said().starts_with("a visible block lacks a file"));
        bucket.put(&block::object(id, block::NO_COMPACT_MARK), "{}").await.unwrap();
        assert!(said().starts_with("a sound block is marked"));
        bucket.put(&block::object(id, block::DELETION_MARK), mark).await.unwrap();
        assert!(said().starts_with("a block goes, and no visible block holds its samples"));
        site.pass_time(2 * HOUR);
        judge.book.lock().served.insert(7, [id].into());
        bucket.delete(&meta).await.unwrap();
        assert!(said().starts_with("a block goes that store 7 serves"));
        // Too old, and there is no copy.
        let old = Judge { raw: HOUR, ..judge.clone() };
        assert!(old.may_go(&site.memory.snapshot(), &sent).unwrap_err().contains("has no coarser copy"));
        // Samples that are not its sources'.
        let less = Judge { origins: Arc::new([(id, ("a".to_owned(), (T0, T0 + HOUR)))].into()), ..judge.clone() };
        site::send(&site.bucket(Arc::new(less) as Arc<dyn Store>), &disk, &dir).await;
        assert!(said().starts_with("a visible block does not hold what its sources hold"));
    }
}
