//! All blocks of a bucket: their metas, their marks, and what is not a whole block, with the reason.
//!
//! [`Fetcher::sync`] lists the whole bucket, so it sees what foreign writers did: one request per 1000 objects, and one per
//! `meta.json` or mark that is new. [`Fetcher::refresh`] reads the catalogue only, and adds what our own producers committed
//! since; where the catalogue can't tell (absent, unknown format, damaged, or it misses blocks that are there), it lists.
//! [`Fetcher::look`] is for those who choose how closely to look.

use crate::catalogue::{Reader, State};
use crate::error::Error;
use crate::store::{Entry, Meta, Version};
use crate::{Bucket, Result, block, mark};
use futures::{StreamExt as _, TryStreamExt as _};
use model::BlockId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::marks::{DeletionMark, Mark, NoCompactMark, NoDownsampleMark};
use tsdb::meta::MAX_META_BYTES;

/// Objects read at the same time.
const CONCURRENCY: usize = 16;

/// The marks of a block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    /// It will be deleted.
    pub deletion: Option<DeletionMark>,
    /// It is not to be compacted.
    pub no_compact: Option<NoCompactMark>,
    /// It is not to be downsampled.
    pub no_downsample: Option<NoDownsampleMark>,
    /// Marks that are damaged and count as none.
    pub broken: Vec<String>,
}

/// A block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Its meta.json.
    pub meta: Arc<BlockMeta>,
    /// Its marks, as of the last listing.
    pub marks: Marks,
    /// Bytes of all its objects; 0 while only the catalogue told of it.
    pub bytes: u64,
    /// Bytes of its index as the last listing told; `None` while only the catalogue told of it.
    pub index_bytes: Option<u64>,
    /// Files that meta.json names and that are missing or have another size.
    pub problems: Vec<String>,
}

impl Block {
    /// A block of which only its meta.json is known.
    fn told(meta: Arc<BlockMeta>) -> Self {
        Self { meta, marks: Marks::default(), bytes: 0, index_bytes: None, problems: Vec::new() }
    }
}

/// Why there are objects under a block's name, and no block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No meta.json: an upload that runs, or one that never ended.
    NoMeta,
    /// An upload that broke off and was cleared away: its id is closed for some days (see [`block::closed`]).
    Closed,
    /// A meta.json that can't be read: what is wrong with it.
    BrokenMeta(String),
}

/// Objects under a block's name that are no block.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// Why.
    pub reason: Reason,
    /// How many objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest of them was written, in ms, by the store's clock.
    pub newest_ms: i64,
    /// Its marks.
    pub marks: Marks,
}

impl Partial {
    /// One whose objects were not listed.
    fn unlisted(reason: Reason) -> Self {
        Self { reason, objects: 0, bytes: 0, newest_ms: 0, marks: Marks::default() }
    }
}

/// What a bucket holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Whole blocks.
    pub blocks: BTreeMap<BlockId, Block>,
    /// What is no block.
    pub partial: BTreeMap<BlockId, Partial>,
    /// Of the blocks that are not in this view, those whose meta.json is there and can't be read now, and why: readers go on
    /// with what they know of them, or name them as missing.
    pub unread: BTreeMap<BlockId, String>,
    /// What could not be read: the view is incomplete, and nobody may delete because of it.
    pub errors: Vec<Error>,
    /// Whether the catalogue tells of every block that is there; if so, a refresh sees all new ones of our producers.
    pub catalogue_complete: bool,
    /// Why the catalogue could not be used, if so.
    pub catalogue_problem: Option<String>,
    /// Whether every object was listed once: before that, no marks are known.
    pub listed: bool,
}

/// How closely [`Fetcher::look`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At the catalogue: one request, and one per block that is new. The first look, and one where the catalogue told of all
    /// blocks and can't any more, is deeper.
    Catalogue,
    /// At the catalogue and at which blocks there are: one request per 1000 blocks, and one per block that nobody told of.
    Names,
    /// At every object: one request per 1000 objects, and one per `meta.json` or mark that is new.
    Objects,
}

/// Keeps a view of a bucket up to date.
#[derive(Debug)]
pub struct Fetcher {
    bucket: Bucket,
    reader: Reader,
    /// Takes a committed meta for the one in the bucket if both have the same length.
    trusting: bool,
    concurrency: usize,
    metas: BTreeMap<BlockId, (Version, u64, i64, Cached)>,
    marks: BTreeMap<String, (Version, u64, i64, Marks)>,
    view: Option<View>,
    /// Blocks that the catalogue told of when it was read last.
    told: BTreeSet<BlockId>,
    /// Blocks whose meta.json was found missing, whatever the catalogue tells; until the next full listing.
    dead: BTreeSet<BlockId>,
    /// Blocks whose meta.json is to be asked for again.
    doubted: BTreeSet<BlockId>,
}

/// What a meta.json was.
#[derive(Debug, Clone)]
enum Cached {
    Meta(Arc<BlockMeta>),
    Broken(String),
    Closed,
}

impl Cached {
    /// Why it is no block; none if it is one.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Meta(_) => None,
            Self::Broken(why) => Some(Reason::BrokenMeta(why.clone())),
            Self::Closed => Some(Reason::Closed),
        }
    }
}

/// The objects of one block in a listing.
#[derive(Default)]
struct Listed {
    meta: Option<Meta>,
    marks: Vec<Meta>,
    /// Hashes of relative names, and bytes.
    sizes: Vec<(u64, u64)>,
    newest_ms: i64,
}

type Told = BTreeMap<BlockId, Arc<BlockMeta>>;

impl Fetcher {
    /// A fetcher that has seen nothing yet.
    pub fn new(bucket: Bucket) -> Self {
        let reader = Reader::new(bucket.clone());
        Self {
            bucket,
            reader,
            trusting: false,
            concurrency: CONCURRENCY,
            metas: BTreeMap::new(),
            marks: BTreeMap::new(),
            view: None,
            told: BTreeSet::new(),
            dead: BTreeSet::new(),
            doubted: BTreeSet::new(),
        }
    }

    /// For readers of blocks: a meta that was committed to the catalogue, under a checksum, is not read a second time from the
    /// block's own `meta.json`, as long as that has the same length. `concurrency` files are read at the same time.
    #[must_use]
    pub fn trusting(self, concurrency: usize) -> Self {
        Self { trusting: true, concurrency: concurrency.max(1), ..self }
    }

    /// Goes on with the same bucket, opened with other credentials.
    pub fn use_bucket(&mut self, bucket: Bucket) {
        self.reader.use_bucket(bucket.clone());
        self.bucket = bucket;
    }

    /// What was read from `meta.json` before, by a run that kept it: it is read again only if a listing shows another version.
    pub fn remember(&mut self, meta: Arc<BlockMeta>, listed: (Version, u64, i64)) {
        let (version, size, modified) = listed;
        self.metas.insert(meta.id, (version, size, modified, Cached::Meta(meta)));
    }

    /// What [`remember`](Self::remember) takes.
    pub fn remembered(&self) -> impl Iterator<Item = (&Arc<BlockMeta>, (&Version, u64, i64))> {
        self.metas.values().filter_map(|(version, size, modified, cached)| match cached {
            Cached::Meta(meta) => Some((meta, (version, *size, *modified))),
            Cached::Broken(_) | Cached::Closed => None,
        })
    }

    /// What was remembered, as long as the bucket can't be asked; none if that is nothing.
    pub fn recall(&self) -> Option<View> {
        let metas = self.metas.iter().filter_map(|(id, (.., cached))| match cached {
            Cached::Meta(meta) => Some((*id, Block::told(Arc::clone(meta)))),
            Cached::Broken(_) | Cached::Closed => None,
        });
        let view = View { blocks: metas.collect(), ..View::default() };
        (!view.blocks.is_empty()).then_some(view)
    }

    /// An object of these blocks was not found: the next look at names or objects asks for their meta.json.
    pub fn doubt(&mut self, ids: impl IntoIterator<Item = BlockId>) {
        for id in ids {
            self.metas.remove(&id);
            self.doubted.insert(id);
        }
    }

    /// Lists the whole bucket.
    ///
    /// # Errors
    /// When it can't be listed. A block that can't be read is an item of the view.
    pub async fn sync(&mut self) -> Result<View> {
        self.look(Depth::Objects).await.cloned()
    }

    /// Adds what our producers committed since the last call, takes away what was folded as deleted; lists the whole bucket where the catalogue can't tell.
    ///
    /// # Errors
    /// As the store says.
    pub async fn refresh(&mut self) -> Result<View> {
        let is_complete = self.view.as_ref().is_some_and(|v| v.catalogue_complete);
        self.look(if is_complete { Depth::Catalogue } else { Depth::Objects }).await.cloned()
    }

    /// Looks at the bucket and tells the whole.
    ///
    /// # Errors
    /// As the store says; what was known stays known.
    pub async fn look(&mut self, depth: Depth) -> Result<&View> {
        match depth {
            Depth::Objects => self.objects().await?,
            Depth::Names => {
                let told = self.tell().await?;
                self.names(told.unwrap_or_default()).await?;
            }
            Depth::Catalogue => match (self.tell().await?, &self.view) {
                (Some(told), None) => self.names(told).await?,
                (Some(told), Some(_)) => self.add(told),
                (None, Some(view)) if !view.catalogue_complete => {}
                (None, _) => self.objects().await?,
            },
        }
        Ok(self.view.get_or_insert_default())
    }

    /// What the catalogue tells, if it can.
    async fn tell(&mut self) -> Result<Option<Told>> {
        Ok(match self.reader.read().await? {
            State::Blocks(told) => Some(told),
            State::Absent | State::Unusable(_) => None,
        })
    }

    async fn objects(&mut self) -> Result<()> {
        let committed = if self.trusting { self.tell().await?.unwrap_or_default() } else { Told::new() };
        let mut listed: BTreeMap<BlockId, Listed> = BTreeMap::new();
        let mut names = self.bucket.list("");
        while let Some(meta) = names.try_next().await? {
            let Some((id, relative)) = block::parse(&meta.path) else { continue };
            let (hash, relative) = (name_hash(relative), relative.to_owned());
            let entry = listed.entry(id).or_default();
            entry.newest_ms = entry.newest_ms.max(meta.modified_ms);
            entry.sizes.push((hash, meta.size));
            match relative.as_str() {
                block::META => entry.meta = Some(meta),
                block::DELETION_MARK | block::NO_COMPACT_MARK | block::NO_DOWNSAMPLE_MARK => entry.marks.push(meta),
                _ => {}
            }
        }
        drop(names);
        let mut view = View { listed: true, ..View::default() };
        let is_there = |id: &BlockId| listed.get(id).is_some_and(|l| l.meta.is_some());
        // Told of before the bucket was listed, and not there: the catalogue is behind.
        let dead = committed.keys().filter(|id| !is_there(id)).copied().collect();
        self.trust(&listed, committed);
        self.read_metas(&listed, &mut view).await;
        self.read_marks(&listed, &mut view).await;
        for (id, found) in &listed {
            let marks = self.marks_of(found);
            let bytes = found.sizes.iter().map(|(_, size)| size).sum();
            match self.metas.get(id).map(|(.., cached)| cached) {
                Some(Cached::Meta(meta)) => {
                    let problems = problems(meta, &found.sizes);
                    let index = name_hash(block::INDEX);
                    let index_bytes = found.sizes.iter().find(|(name, _)| *name == index).map(|(_, size)| *size);
                    let meta = Arc::clone(meta);
                    view.blocks.insert(*id, Block { meta, marks, bytes, index_bytes, problems });
                }
                // A meta.json that could not be read now is neither a block nor a partial one.
                None if found.meta.is_some() => {}
                other => {
                    let reason = other.and_then(Cached::reason).unwrap_or(Reason::NoMeta);
                    let (objects, newest_ms) = (found.sizes.len() as u64, found.newest_ms);
                    view.partial.insert(*id, Partial { reason, objects, bytes, newest_ms, marks });
                }
            }
        }
        match self.reader.read().await? {
            State::Absent => {}
            State::Unusable(why) => view.catalogue_problem = Some(why),
            State::Blocks(blocks) => {
                self.told = blocks.keys().copied().collect();
                // What could not be read now may be a block or a mark that only a listing finds again.
                view.catalogue_complete =
                    view.errors.is_empty() && view.blocks.keys().all(|id| blocks.contains_key(id));
                // A meta.json has no checksum; what was committed has one.
                for (id, block) in &mut view.blocks {
                    if blocks.get(id).is_some_and(|committed| {
                        !Arc::ptr_eq(&block.meta, committed) && !block.meta.tells_the_same(committed)
                    }) && !model::protection::off("meta-committed")
                    {
                        block.problems.push("meta.json is not the one that was committed to the catalogue".to_owned());
                    }
                }
                if let Some(id) = blocks.keys().find(|id| !view.blocks.contains_key(id)) {
                    view.catalogue_complete = false;
                    view.catalogue_problem = Some(format!("it tells of block {id}, which is not in the bucket"));
                }
            }
        }
        self.dead = dead;
        self.doubted.clear();
        self.view = Some(view);
        Ok(())
    }

    /// Takes what was committed for what was listed, where nothing speaks against it.
    fn trust(&mut self, listed: &BTreeMap<BlockId, Listed>, committed: Told) {
        for (id, meta) in committed {
            self.share(id, &meta);
            let Some(found) = listed.get(&id).and_then(|l| l.meta.as_ref()) else { continue };
            let is_known = self.metas.contains_key(&id) || self.doubted.contains(&id);
            if !is_known && meta.write().is_ok_and(|bytes| bytes.len() as u64 == found.size) {
                self.metas.insert(id, (found.version.clone(), found.size, found.modified_ms, Cached::Meta(meta)));
            }
        }
    }

    /// One copy in memory is enough of what the catalogue and a meta.json say alike.
    fn share(&mut self, id: BlockId, told: &Arc<BlockMeta>) {
        if let Some((.., Cached::Meta(known))) = self.metas.get_mut(&id)
            && known == told
        {
            *known = Arc::clone(told);
        }
    }

    /// Which blocks there are, by their folders alone.
    async fn names(&mut self, told: Told) -> Result<()> {
        for (id, meta) in &told {
            self.share(*id, meta);
        }
        let mut there = BTreeSet::new();
        let mut folders = self.bucket.list_dir("");
        while let Some(entry) = folders.try_next().await? {
            if let Entry::Directory(path) = entry {
                there.extend(path.trim_end_matches('/').parse::<BlockId>().ok());
            }
        }
        drop(folders);
        let is_asked = |id: &&BlockId| {
            self.doubted.contains(id)
                || !(told.contains_key(id) || matches!(self.metas.get(id), Some((.., Cached::Meta(_)))))
        };
        let wanted: Vec<BlockId> = there.iter().filter(is_asked).copied().collect();
        let mut view = self.view.clone().unwrap_or_default();
        view.errors.clear();
        view.unread.clear();
        let bucket = self.bucket.clone();
        let mut reads = futures::stream::iter(wanted)
            .map(|id| {
                let bucket = bucket.clone();
                async move { (id, read_meta(&bucket, id).await) }
            })
            .buffer_unordered(self.concurrency);
        while let Some((id, got)) = reads.next().await {
            match got {
                Ok((listed, cached)) => {
                    let (version, size, modified_ms) = listed;
                    self.dead.remove(&id);
                    self.doubted.remove(&id);
                    self.metas.insert(id, (version, size, modified_ms, cached));
                }
                // Being written, or being deleted.
                Err(e) if e.is_not_found() => {
                    self.doubted.remove(&id);
                    self.dead.insert(id);
                    self.metas.remove(&id);
                }
                Err(e) => {
                    view.unread.insert(id, e.to_string());
                    view.errors.push(e);
                }
            }
        }
        drop(reads);
        let mut blocks = BTreeMap::new();
        for id in &there {
            let old = view.blocks.remove(id);
            let meta = match (self.metas.get(id), told.get(id)) {
                _ if self.dead.contains(id) => None,
                (Some((.., Cached::Meta(meta))), _) => Some(meta),
                (Some((.., Cached::Broken(_) | Cached::Closed)), _) => None,
                (None, meta) => meta,
            };
            match (meta, self.metas.get(id)) {
                // Neither a block nor a partial one.
                _ if view.unread.contains_key(id) => {
                    view.partial.remove(id);
                }
                (Some(meta), _) => {
                    view.partial.remove(id);
                    let block = old.map(|b| Block { meta: Arc::clone(meta), ..b });
                    blocks.insert(*id, block.unwrap_or_else(|| Block::told(Arc::clone(meta))));
                }
                (None, known) => match known.and_then(|(.., cached)| cached.reason()) {
                    Some(reason) => drop(view.partial.insert(*id, Partial::unlisted(reason))),
                    None => {
                        view.partial.entry(*id).or_insert_with(|| Partial::unlisted(Reason::NoMeta));
                    }
                },
            }
        }
        view.blocks = blocks;
        view.partial.retain(|id, _| there.contains(id));
        view.catalogue_complete = view.errors.is_empty()
            && view.blocks.keys().all(|id| told.contains_key(id))
            && told.keys().all(|id| view.blocks.contains_key(id))
            && !told.is_empty();
        self.told = told.into_keys().collect();
        self.view = Some(view);
        Ok(())
    }

    /// Takes over what the catalogue tells.
    fn add(&mut self, blocks: Told) {
        let view = self.view.get_or_insert_default();
        let told: BTreeSet<BlockId> = blocks.keys().copied().collect();
        // What it told of and tells no more was deleted.
        view.blocks.retain(|id, _| told.contains(id) || !self.told.contains(id));
        self.told = told;
        for (id, meta) in blocks {
            if !self.dead.contains(&id) && !view.unread.contains_key(&id) {
                view.partial.remove(&id);
                view.blocks.entry(id).or_insert_with(|| Block::told(meta));
            }
        }
    }

    async fn read_metas(&mut self, listed: &BTreeMap<BlockId, Listed>, view: &mut View) {
        self.metas.retain(|id, (version, size, modified, _)| {
            let meta = listed.get(id).and_then(|l| l.meta.as_ref());
            meta.is_some_and(|m| m.version == *version && m.size == *size && m.modified_ms == *modified)
        });
        let wanted: Vec<(BlockId, Meta)> = listed
            .iter()
            .filter(|(id, _)| !self.metas.contains_key(id))
            .filter_map(|(id, l)| l.meta.clone().map(|m| (*id, m)))
            .collect();
        let bucket = self.bucket.clone();
        let mut reads = futures::stream::iter(wanted)
            .map(|(id, meta)| {
                let bucket = bucket.clone();
                async move { (id, meta, read_meta(&bucket, id).await) }
            })
            .buffer_unordered(self.concurrency);
        while let Some((id, meta, got)) = reads.next().await {
            match got {
                Ok((_, cached)) => {
                    self.metas.insert(id, (meta.version, meta.size, meta.modified_ms, cached));
                }
                // Also one that is gone: it was listed, so what is true now is not known.
                Err(e) => {
                    if !e.is_not_found() {
                        view.unread.insert(id, e.to_string());
                    }
                    view.errors.push(e);
                }
            }
        }
    }

    async fn read_marks(&mut self, listed: &BTreeMap<BlockId, Listed>, view: &mut View) {
        let mut present = BTreeMap::new();
        for (id, found) in listed {
            for mark in &found.marks {
                present.insert(mark.path.as_str(), (*id, mark));
            }
        }
        self.marks.retain(|path, (version, size, modified, _)| {
            present
                .get(path.as_str())
                .is_some_and(|(_, m)| m.version == *version && m.size == *size && m.modified_ms == *modified)
        });
        let wanted: Vec<(BlockId, Meta)> = present
            .into_iter()
            .filter(|(path, _)| !self.marks.contains_key(*path))
            .map(|(_, (id, meta))| (id, meta.clone()))
            .collect();
        let bucket = self.bucket.clone();
        let mut reads = futures::stream::iter(wanted)
            .map(|(id, meta)| {
                let bucket = bucket.clone();
                async move {
                    let read = read_mark(&bucket, id, &meta.path).await;
                    (meta, read)
                }
            })
            .buffer_unordered(self.concurrency);
        while let Some((meta, read)) = reads.next().await {
            match read {
                Ok(marks) => {
                    self.marks.insert(meta.path, (meta.version, meta.size, meta.modified_ms, marks));
                }
                Err(e) => view.errors.push(e),
            }
        }
    }

    fn marks_of(&self, found: &Listed) -> Marks {
        let mut all = Marks::default();
        for (.., marks) in found.marks.iter().filter_map(|m| self.marks.get(&m.path)) {
            all.deletion = all.deletion.or_else(|| marks.deletion.clone());
            all.no_compact = all.no_compact.or_else(|| marks.no_compact.clone());
            all.no_downsample = all.no_downsample.or_else(|| marks.no_downsample.clone());
            all.broken.extend(marks.broken.iter().cloned());
        }
        all
    }
}

async fn read_mark(bucket: &Bucket, id: BlockId, path: &str) -> Result<Marks> {
    async fn one<M: Mark>(bucket: &Bucket, id: BlockId, broken: &mut Vec<String>) -> Result<Option<M>> {
        Ok(match mark::read::<M>(bucket, id).await? {
            mark::Found::None => None,
            mark::Found::Mark(mark) => Some(mark),
            mark::Found::Broken(why) => {
                broken.push(why);
                None
            }
        })
    }
    let mut marks = Marks::default();
    match crate::path::base(path) {
        block::DELETION_MARK => marks.deletion = one(bucket, id, &mut marks.broken).await?,
        block::NO_COMPACT_MARK => marks.no_compact = one(bucket, id, &mut marks.broken).await?,
        _ => marks.no_downsample = one(bucket, id, &mut marks.broken).await?,
    }
    Ok(marks)
}

/// Reads the meta.json of a block: its version, length and time, and what it is.
async fn read_meta(bucket: &Bucket, id: BlockId) -> Result<((Version, u64, i64), Cached)> {
    let path = block::object(id, block::META);
    let object = match bucket.get(&path, MAX_META_BYTES).await {
        Ok(object) => object,
        Err(e) if e.kind == crate::Kind::TooLarge => {
            return Ok(((Version::default(), 0, 0), Cached::Broken(e.to_string())));
        }
        Err(e) => return Err(e),
    };
    let cached = match BlockMeta::read(&path, &object.bytes) {
        Ok(read) if read.id == id => Cached::Meta(Arc::new(read)),
        Ok(read) => Cached::Broken(format!("{path} says that it is block {}", read.id)),
        Err(_) if block::is_closed(&object.bytes) => Cached::Closed,
        Err(e) => Cached::Broken(e.to_string()),
    };
    Ok(((object.meta.version, object.meta.size, object.meta.modified_ms), cached))
}

/// Stands for a name while a bucket is listed: hundreds of thousands of names take memory.
fn name_hash(relative: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    relative.hash(&mut hasher);
    hasher.finish()
}

fn problems(meta: &BlockMeta, sizes: &[(u64, u64)]) -> Vec<String> {
    let files = meta.thanos.iter().flat_map(|t| &t.files).filter(|f| f.rel_path != block::META);
    files
        .filter_map(|file| {
            let hash = name_hash(&file.rel_path);
            match sizes.iter().find(|(name, _)| *name == hash).map(|(_, size)| *size) {
                None => Some(format!("{} is missing", file.rel_path)),
                Some(size) if file.size_bytes != 0 && size != file.size_bytes => {
                    Some(format!("{} has {size} bytes, meta.json says {}", file.rel_path, file.size_bytes))
                }
                Some(_) => None,
            }
        })
        .collect()
}
