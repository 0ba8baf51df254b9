//! The reader's side: one listing, then only what is new.

use super::{COMMIT, Commit, INTENT, Intent, MAX_ENTRY, MAX_SNAPSHOT, Name, ROOT, SNAPSHOT, Snapshot, snapshot_path};
use crate::error::{Error, Kind};
use crate::{Bucket, Result, document};
use futures::{StreamExt as _, TryStreamExt as _};
use model::BlockId;
use model::protection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tsdb::BlockMeta;

/// How often a listing is taken again because an entry was folded between listing and reading.
const ATTEMPTS: u32 = 3;
/// Entries read at the same time.
const CONCURRENCY: usize = 16;

/// What the catalogue says.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// There is none: nobody of ours ever wrote here.
    Absent,
    /// It can't be used, for this reason: list the bucket.
    Unusable(String),
    /// All blocks that our producers committed and nobody deleted.
    Blocks(BTreeMap<BlockId, Arc<BlockMeta>>),
}

/// Reads the catalogue, again and again. Entries never change, so each is read once.
#[derive(Debug)]
pub struct Reader {
    bucket: Bucket,
    snapshot: Option<Folded>,
    commits: BTreeMap<(String, BlockId), Arc<BlockMeta>>,
    intents: BTreeMap<(String, BlockId), Option<Arc<Intent>>>,
}

#[derive(Debug)]
struct Folded {
    number: u64,
    blocks: BTreeMap<BlockId, Arc<BlockMeta>>,
    folded: BTreeSet<BlockId>,
}

/// Why one reading ended early.
enum Stop {
    Error(Error),
    Unusable(String),
    /// An entry went between listing and reading, or since the last reading.
    Moved,
}

impl Reader {
    /// A reader that has read nothing yet.
    pub fn new(bucket: Bucket) -> Self {
        Self { bucket, snapshot: None, commits: BTreeMap::new(), intents: BTreeMap::new() }
    }

    /// Goes on with the same bucket, opened with other credentials.
    pub(crate) fn use_bucket(&mut self, bucket: Bucket) {
        self.bucket = bucket;
    }

    /// Reads what is new and tells the whole.
    ///
    /// # Errors
    /// As the store says. Damage and unknown formats are no error but [`State::Unusable`].
    pub async fn read(&mut self) -> Result<State> {
        if protection::off("catalogue-read") {
            return Ok(State::Unusable("it is not read: PANOPTES_BREAK".to_owned()));
        }
        for _ in 0..ATTEMPTS {
            match self.once().await {
                Ok(state) => return Ok(state),
                Err(Stop::Moved) => {}
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Unusable(why)) => return Ok(State::Unusable(why)),
            }
        }
        // Whatever was known, the next reading begins with what is there then.
        *self = Self::new(self.bucket.clone());
        Ok(State::Unusable(format!("its entries changed during {ATTEMPTS} readings")))
    }

    /// The blocks that are announced and not committed, by producer, as of the last reading.
    ///
    /// # Errors
    /// As the store says.
    pub async fn intents(&mut self) -> Result<Vec<(String, Arc<Intent>)>> {
        let committed: BTreeSet<BlockId> = self.commits.keys().map(|(_, id)| *id).collect();
        let folded = self.snapshot.as_ref();
        let mut out = Vec::new();
        for ((producer, id), known) in &mut self.intents {
            if committed.contains(id) || folded.is_some_and(|s| s.folded.contains(id)) {
                continue;
            }
            if known.is_none() {
                let path = format!("{ROOT}{producer}/{id}.{INTENT}");
                *known = match self.bucket.get(&path, MAX_ENTRY).await {
                    Ok(object) => document::read(INTENT, &object.bytes).ok().map(Arc::new),
                    Err(e) if matches!(e.kind, Kind::NotFound | Kind::TooLarge | Kind::Corrupt) => None,
                    Err(e) => return Err(e),
                };
            }
            out.extend(known.clone().map(|intent| (producer.clone(), intent)));
        }
        Ok(out)
    }

    /// The number of the snapshot that was read last.
    pub(super) fn snapshot_number(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|s| s.number)
    }

    /// The blocks that the newest snapshot calls folded, as of the last reading.
    pub(super) fn folded(&self) -> BTreeSet<BlockId> {
        self.snapshot.as_ref().map(|s| s.folded.clone()).unwrap_or_default()
    }

    async fn once(&mut self) -> std::result::Result<State, Stop> {
        let mut newest = None;
        let (mut commits, mut intents, mut covered) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut names = self.bucket.list(ROOT);
        while let Some(meta) = names.try_next().await.map_err(Stop::Error)? {
            match Name::parse(&meta.path) {
                Some(Name::Snapshot(number)) => newest = newest.max(Some(number)),
                Some(Name::Commit(producer, id)) => {
                    commits.insert((producer.to_owned(), id));
                }
                Some(Name::Intent(producer, id)) => {
                    intents.insert((producer.to_owned(), id));
                }
                Some(Name::Covered(producer, id)) => {
                    covered.insert((producer.to_owned(), id));
                }
                Some(Name::Folded(_)) => {}
                None if meta.path.starts_with(&format!("{ROOT}{SNAPSHOT}")) => {
                    return Err(Stop::Unusable(format!("{} has a name that is not known", meta.path)));
                }
                None => {}
            }
        }
        drop(names);
        intents.retain(|key| !covered.contains(key));
        if newest.is_none() && commits.is_empty() && intents.is_empty() && self.snapshot.is_none() {
            *self = Self::new(self.bucket.clone());
            return Ok(State::Absent);
        }
        self.read_snapshot(newest).await?;
        // An entry goes only after a snapshot tells of its block. One that went without: folded while the names were listed,
        // a stale listing, or somebody deleted it. Whether its block is still there, the catalogue can't tell.
        let told =
            |id: &BlockId| self.snapshot.as_ref().is_some_and(|s| s.folded.contains(id) || s.blocks.contains_key(id));
        if self.commits.keys().any(|key| !commits.contains(key) && !told(&key.1)) {
            return Err(Stop::Moved);
        }
        self.intents.retain(|key, _| intents.contains(key));
        for key in intents {
            self.intents.entry(key).or_insert(None);
        }
        self.commits.retain(|key, _| commits.contains(key));
        let snapshot = self.snapshot.as_ref().filter(|_| !protection::off("catalogue-folded"));
        let folded = |id: &BlockId| snapshot.is_some_and(|s| s.folded.contains(id));
        let new: Vec<(String, BlockId)> =
            commits.into_iter().filter(|key| !self.commits.contains_key(key) && !folded(&key.1)).collect();
        let bucket = self.bucket.clone();
        let mut reads = futures::stream::iter(new)
            .map(|key| {
                let bucket = bucket.clone();
                async move {
                    let path = format!("{ROOT}{}/{}.{COMMIT}", key.0, key.1);
                    let commit: Commit = read(&bucket, &path, MAX_ENTRY, |b| document::read(COMMIT, b)).await?;
                    if commit.meta.id != key.1 {
                        return Err(Stop::Unusable(format!("{path} is about another block, {}", commit.meta.id)));
                    }
                    commit.meta.check(&path).map_err(|e| Stop::Unusable(e.to_string()))?;
                    Ok((key, Arc::new(commit.meta)))
                }
            })
            .buffer_unordered(CONCURRENCY);
        while let Some(read) = reads.next().await {
            let (key, meta) = read?;
            self.commits.insert(key, meta);
        }
        drop(reads);
        let mut blocks = self.snapshot.as_ref().map(|s| s.blocks.clone()).unwrap_or_default();
        blocks.extend(self.commits.iter().filter(|((_, id), _)| !folded(id)).map(|((_, id), m)| (*id, Arc::clone(m))));
        Ok(State::Blocks(blocks))
    }

    async fn read_snapshot(&mut self, newest: Option<u64>) -> std::result::Result<(), Stop> {
        let Some(number) = newest else {
            return match self.snapshot.take() {
                // Somebody removed the catalogue, or the listing is stale: don't take it for an empty bucket.
                Some(had) => Err(Stop::Unusable(format!("snapshot {} is gone", had.number))),
                None => Ok(()),
            };
        };
        match &self.snapshot {
            Some(had) if had.number >= number => return Ok(()),
            _ => {}
        }
        let path = snapshot_path(number);
        let snapshot: Snapshot =
            read(&self.bucket, &path, MAX_SNAPSHOT, |b| document::read_many("snapshot", b)).await?;
        if snapshot.number != number {
            return Err(Stop::Unusable(format!("{path} calls itself number {}", snapshot.number)));
        }
        for meta in &snapshot.blocks {
            meta.check(&path).map_err(|e| Stop::Unusable(format!("block {}: {e}", meta.id)))?;
        }
        self.snapshot = Some(Folded {
            number,
            blocks: snapshot.blocks.into_iter().map(|m| (m.id, m)).collect(),
            folded: snapshot.folded.into_iter().collect(),
        });
        Ok(())
    }
}

/// Reads and decodes an object of the catalogue.
async fn read<T>(
    bucket: &Bucket,
    path: &str,
    max: u64,
    decode: impl FnOnce(&[u8]) -> std::result::Result<T, document::Unreadable>,
) -> std::result::Result<T, Stop> {
    match bucket.get(path, max).await {
        Ok(object) => decode(&object.bytes).map_err(|e| Stop::Unusable(format!("{path}: {e}"))),
        Err(e) if e.is_not_found() => Err(Stop::Moved),
        // One bad object must not hide all blocks.
        Err(e) if matches!(e.kind, Kind::TooLarge | Kind::Corrupt) => Err(Stop::Unusable(format!("{path}: {e}"))),
        Err(e) => Err(Stop::Error(e)),
    }
}
