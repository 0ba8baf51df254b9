//! All blocks of a bucket: their metas, their marks, and what is not a whole block, with the reason.
//!
//! [`Fetcher::sync`] lists the whole bucket, so it sees what foreign writers did: one request per 1000 objects, and one per
//! `meta.json` or mark that is new. [`Fetcher::refresh`] reads the catalogue only, and adds what our own producers committed
//! since; where the catalogue can't tell (absent, unknown format, damaged, or it misses blocks that are there), it lists.

use crate::catalogue::{Reader, State};
use crate::error::Error;
use crate::store::{Meta, Version};
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
    /// Files that meta.json names and that are missing or have another size.
    pub problems: Vec<String>,
}

/// Why there are objects under a block's name, and no block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No meta.json: an upload that runs, or one that never ended.
    NoMeta,
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

/// What a bucket holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Whole blocks.
    pub blocks: BTreeMap<BlockId, Block>,
    /// What is no block.
    pub partial: BTreeMap<BlockId, Partial>,
    /// What could not be read: the view is incomplete, and nobody may delete because of it.
    pub errors: Vec<Error>,
    /// Whether the catalogue tells of every block that is there; if so, a refresh sees all new ones of our producers.
    pub catalogue_complete: bool,
    /// Why the catalogue could not be used, if so.
    pub catalogue_problem: Option<String>,
}

/// Keeps a view of a bucket up to date.
#[derive(Debug)]
pub struct Fetcher {
    bucket: Bucket,
    reader: Reader,
    metas: BTreeMap<BlockId, (Version, u64, i64, Cached)>,
    marks: BTreeMap<String, (Version, u64, i64, Marks)>,
    view: Option<View>,
    /// Blocks that the catalogue told of when it was read last.
    told: BTreeSet<BlockId>,
}

/// What a meta.json was.
#[derive(Debug, Clone)]
enum Cached {
    Meta(Arc<BlockMeta>),
    Broken(String),
}

/// The objects of one block in a listing.
#[derive(Default)]
struct Listed {
    meta: Option<Meta>,
    marks: Vec<Meta>,
    sizes: BTreeMap<String, u64>,
    newest_ms: i64,
}

impl Fetcher {
    /// A fetcher that has seen nothing yet.
    pub fn new(bucket: Bucket) -> Self {
        let reader = Reader::new(bucket.clone());
        Self { bucket, reader, metas: BTreeMap::new(), marks: BTreeMap::new(), view: None, told: BTreeSet::new() }
    }

    /// Lists the whole bucket.
    ///
    /// # Errors
    /// When it can't be listed. A block that can't be read is an item of the view.
    pub async fn sync(&mut self) -> Result<View> {
        let mut listed: BTreeMap<BlockId, Listed> = BTreeMap::new();
        let mut names = self.bucket.list("");
        while let Some(meta) = names.try_next().await? {
            let Some((id, relative)) = block::parse(&meta.path) else { continue };
            let relative = relative.to_owned();
            let entry = listed.entry(id).or_default();
            entry.newest_ms = entry.newest_ms.max(meta.modified_ms);
            entry.sizes.insert(relative.clone(), meta.size);
            match relative.as_str() {
                block::META => entry.meta = Some(meta),
                block::DELETION_MARK | block::NO_COMPACT_MARK | block::NO_DOWNSAMPLE_MARK => entry.marks.push(meta),
                _ => {}
            }
        }
        drop(names);
        let mut view = View::default();
        self.read_metas(&listed, &mut view).await;
        self.read_marks(&listed, &mut view).await;
        for (id, found) in &listed {
            let marks = self.marks_of(found);
            let bytes = found.sizes.values().sum();
            match self.metas.get(id).map(|(.., cached)| cached) {
                Some(Cached::Meta(meta)) => {
                    let problems = problems(meta, &found.sizes);
                    view.blocks.insert(*id, Block { meta: Arc::clone(meta), marks, bytes, problems });
                }
                // A meta.json that could not be read now is neither a block nor a partial one.
                None if found.meta.is_some() => {}
                other => {
                    let reason = match other {
                        Some(Cached::Broken(why)) => Reason::BrokenMeta(why.clone()),
                        _ => Reason::NoMeta,
                    };
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
                    if blocks.get(id).is_some_and(|committed| !block.meta.tells_the_same(committed))
                        && !model::protection::off("meta-committed")
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
        self.view = Some(view.clone());
        Ok(view)
    }

    /// Adds what our producers committed since the last call, takes away what was folded as deleted; lists the whole bucket where the catalogue can't tell.
    ///
    /// # Errors
    /// As the store says.
    pub async fn refresh(&mut self) -> Result<View> {
        let Some(mut view) = self.view.take().filter(|v| v.catalogue_complete) else {
            return self.sync().await;
        };
        let State::Blocks(blocks) = self.reader.read().await? else {
            return self.sync().await;
        };
        let told: BTreeSet<BlockId> = blocks.keys().copied().collect();
        // What it told of and tells no more was deleted.
        view.blocks.retain(|id, _| told.contains(id) || !self.told.contains(id));
        self.told = told;
        for (id, meta) in blocks {
            view.partial.remove(&id);
            view.blocks.entry(id).or_insert_with(|| Block {
                meta,
                marks: Marks::default(),
                bytes: 0,
                problems: Vec::new(),
            });
        }
        self.view = Some(view.clone());
        Ok(view)
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
                async move {
                    let got = bucket.get(&meta.path, MAX_META_BYTES).await;
                    (id, meta, got)
                }
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((id, meta, got)) = reads.next().await {
            let cached = match got {
                Ok(object) => match BlockMeta::read(&meta.path, &object.bytes) {
                    Ok(read) if read.id == id => Cached::Meta(Arc::new(read)),
                    Ok(read) => Cached::Broken(format!("{} says that it is block {}", meta.path, read.id)),
                    Err(e) => Cached::Broken(e.to_string()),
                },
                Err(e) if e.kind == crate::Kind::TooLarge => Cached::Broken(e.to_string()),
                // Also one that is gone: it was listed, so what is true now is not known.
                Err(e) => {
                    view.errors.push(e);
                    continue;
                }
            };
            self.metas.insert(id, (meta.version, meta.size, meta.modified_ms, cached));
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
            .buffer_unordered(CONCURRENCY);
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

fn problems(meta: &BlockMeta, sizes: &BTreeMap<String, u64>) -> Vec<String> {
    let files = meta.thanos.iter().flat_map(|t| &t.files).filter(|f| f.rel_path != block::META);
    files
        .filter_map(|file| match sizes.get(&file.rel_path) {
            None => Some(format!("{} is missing", file.rel_path)),
            Some(size) if file.size_bytes != 0 && *size != file.size_bytes => {
                Some(format!("{} has {size} bytes, meta.json says {}", file.rel_path, file.size_bytes))
            }
            Some(_) => None,
        })
        .collect()
}
