//! The holder's side: many entries become one snapshot, and the catalogue forgets blocks that are gone.
//!
//! In an order that a kill at any point leaves readable: the next snapshot, each producer's list of folded blocks, and only
//! then the entries go. A reader in between counts an entry that the snapshot has folded no more.

use super::{
    COMMIT, COVERED, Folded, INTENT, MAX_ENTRY, MAX_SNAPSHOT, Name, ROOT, Reader, Snapshot, State, broken, folded_path,
    snapshot_path,
};
use crate::error::{Advice, Kind};
use crate::lease::{Error, Lease};
use crate::{Bucket, block, document};
use futures::{StreamExt as _, TryStreamExt as _};
use model::BlockId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tsdb::BlockMeta;

/// Blocks that a producer is told of as folded: the newest. Two years of blocks of two hours.
const TOLD: usize = 10_000;
/// Ids that a snapshot goes on to call folded, for readers that missed some snapshots.
const REMEMBERED: usize = 10_000;
/// Objects that are asked for, or deleted, at the same time.
const CONCURRENCY: usize = 16;

/// What a folding did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folding {
    /// Entries that went.
    pub entries: usize,
    /// Blocks that the catalogue tells of no more, since they are gone.
    pub gone: usize,
}

#[derive(Default)]
struct Names {
    snapshots: BTreeSet<u64>,
    /// Commits, intents of the same blocks, covered ones: by producer.
    entries: BTreeMap<String, BTreeMap<BlockId, Vec<&'static str>>>,
    lists: BTreeMap<String, BTreeSet<u64>>,
}

/// Folds, if the catalogue tells of blocks that are gone, or has at least `least` entries to fold. `there` tells of blocks that
/// were seen in the bucket: all others that the catalogue tells of are asked for. `dead` are announced blocks of uploads that
/// broke off and were cleared away: their entries go, too.
///
/// # Errors
/// When the lease is lost, or as the store says; what was begun is finished by the next folding.
pub async fn fold(
    bucket: &Bucket,
    reader: &mut Reader,
    lease: &Lease,
    there: &(dyn Fn(&BlockId) -> bool + Sync),
    dead: &BTreeSet<BlockId>,
    least: usize,
) -> Result<Folding, Error> {
    let mut names = list(bucket).await?;
    // Read after it was listed: every entry of the list is told, or was folded before.
    let State::Blocks(mut told) = reader.read().await? else { return Ok(Folding::default()) };
    if reader.snapshot_number() != names.snapshots.last().copied() {
        // Two listings that disagree: what the newer snapshot has folded must not be forgotten.
        return Ok(Folding::default());
    }
    let previous = reader.folded();
    let gone = gone(bucket, &told, there).await?;
    told.retain(|id, _| !gone.contains(id));
    for of_producer in names.entries.values_mut() {
        of_producer.retain(|id, kinds| {
            told.contains_key(id)
                || gone.contains(id)
                || previous.contains(id)
                || dead.contains(id)
                || kinds.contains(&COVERED)
        });
    }
    names.entries.retain(|_, of_producer| !of_producer.is_empty());
    let entries: usize = names.entries.values().flat_map(BTreeMap::values).map(Vec::len).sum();
    if gone.is_empty() && entries < least.max(1) {
        return Ok(Folding::default());
    }
    let ids: BTreeSet<BlockId> = names.entries.values().flat_map(|e| e.keys().copied()).chain(gone.clone()).collect();
    if !write_snapshot(bucket, lease, &names, told, &ids, &previous).await? {
        return Ok(Folding::default());
    }
    for (producer, of_producer) in &names.entries {
        if !write_list(bucket, lease, producer, names.lists.get(producer), of_producer.keys().copied()).await? {
            return Ok(Folding::default());
        }
    }
    let mut paths: Vec<String> = Vec::new();
    for (producer, of_producer) in &names.entries {
        for (id, kinds) in of_producer {
            paths.extend(kinds.iter().map(|kind| format!("{ROOT}{producer}/{id}.{kind}")));
        }
        let lists = names.lists.get(producer).into_iter().flatten();
        paths.extend(lists.map(|number| folded_path(producer, *number)));
    }
    // The last one stays: somebody may be about to read it.
    paths.extend(names.snapshots.iter().rev().skip(1).map(|number| snapshot_path(*number)));
    delete(bucket, lease, paths).await?;
    Ok(Folding { entries, gone: gone.len() })
}

async fn list(bucket: &Bucket) -> Result<Names, Error> {
    let mut names = Names::default();
    let mut all = bucket.list(ROOT);
    while let Some(meta) = all.try_next().await? {
        let mut entry = |producer: &str, id, kind| {
            names.entries.entry(producer.to_owned()).or_default().entry(id).or_default().push(kind);
        };
        match Name::parse(&meta.path) {
            Some(Name::Snapshot(number)) => drop(names.snapshots.insert(number)),
            Some(Name::Commit(producer, id)) => entry(producer, id, COMMIT),
            Some(Name::Intent(producer, id)) => entry(producer, id, INTENT),
            Some(Name::Covered(producer, id)) => entry(producer, id, COVERED),
            Some(Name::Folded(number)) => {
                let rest = meta.path.strip_prefix(ROOT).and_then(|rest| rest.split_once('/'));
                if let Some((producer, _)) = rest {
                    names.lists.entry(producer.to_owned()).or_default().insert(number);
                }
            }
            None => {}
        }
    }
    Ok(names)
}

/// The blocks that the catalogue tells of and that have no meta.json. Each is asked for: a listing may be stale.
async fn gone(
    bucket: &Bucket,
    told: &BTreeMap<BlockId, Arc<BlockMeta>>,
    there: &(dyn Fn(&BlockId) -> bool + Sync),
) -> Result<BTreeSet<BlockId>, Error> {
    let doubted: Vec<BlockId> = told.keys().filter(|id| !there(id)).copied().collect();
    let mut asked = futures::stream::iter(doubted)
        .map(|id| async move { (id, bucket.exists(&block::object(id, block::META)).await) })
        .buffer_unordered(CONCURRENCY);
    let mut gone = BTreeSet::new();
    while let Some((id, exists)) = asked.next().await {
        if !exists? {
            gone.insert(id);
        }
    }
    Ok(gone)
}

/// False if there is one of this number: the listing was behind, and folding has to wait.
async fn write_snapshot(
    bucket: &Bucket,
    lease: &Lease,
    names: &Names,
    told: BTreeMap<BlockId, Arc<BlockMeta>>,
    ids: &BTreeSet<BlockId>,
    previous: &BTreeSet<BlockId>,
) -> Result<bool, Error> {
    let number = names.snapshots.last().map_or(1, |n| n.saturating_add(1));
    let mut folded: Vec<BlockId> = previous.iter().rev().take(REMEMBERED).copied().collect();
    folded.extend(ids.iter().copied());
    folded.sort_unstable();
    folded.dedup();
    let snapshot = Snapshot {
        number,
        time_ms: bucket.world().clock.now_ms(),
        holder: lease.record().holder.clone(),
        epoch: lease.record().epoch,
        blocks: told.into_values().collect(),
        folded,
    };
    let path = snapshot_path(number);
    let bytes = document::write("snapshot", &snapshot).map_err(|e| broken(&path, e))?;
    if bytes.len() as u64 > MAX_SNAPSHOT {
        tracing::error!(bytes = bytes.len(), "the catalogue is too large to be folded: split the bucket");
        return Ok(false);
    }
    lease.confirm().await?;
    match bucket.create(&path, bytes).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind == Kind::Exists => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn write_list(
    bucket: &Bucket,
    lease: &Lease,
    producer: &str,
    lists: Option<&BTreeSet<u64>>,
    new: impl Iterator<Item = BlockId>,
) -> Result<bool, Error> {
    let newest = lists.and_then(|l| l.last().copied());
    let mut all: BTreeSet<BlockId> = new.collect();
    if let Some(number) = newest {
        let path = folded_path(producer, number);
        let before = match bucket.get(&path, MAX_ENTRY).await {
            Ok(object) => document::read::<Folded>("folded", &object.bytes).map_err(|e| broken(&path, e)),
            Err(e) => Err(e),
        };
        match before {
            Ok(before) => all.extend(before.blocks),
            // Its producer can't read it either, and looks into the bucket before it sends something again.
            Err(error) if error.advice() == Advice::Skip => {
                tracing::warn!(%error, producer, "a list of folded blocks can't be read; the next one goes without it");
            }
            Err(e) => return Err(e.into()),
        }
    }
    let blocks: Vec<BlockId> = all.into_iter().rev().take(TOLD).collect();
    let path = folded_path(producer, newest.map_or(1, |n| n.saturating_add(1)));
    let bytes = document::write("folded", &Folded { blocks }).map_err(|e| broken(&path, e))?;
    lease.check()?;
    match bucket.create(&path, bytes).await {
        Ok(_) => Ok(true),
        // Another scope folds, too: it is left to the next time.
        Err(e) if e.kind == Kind::Exists => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn delete(bucket: &Bucket, lease: &Lease, paths: Vec<String>) -> Result<(), Error> {
    let mut deleted = futures::stream::iter(paths)
        .map(|path| async move {
            lease.check()?;
            Ok::<_, Error>(bucket.delete(&path).await?)
        })
        .buffer_unordered(CONCURRENCY);
    while deleted.try_next().await?.is_some() {}
    Ok(())
}
