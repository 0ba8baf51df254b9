//! One pass of some kinds of work, for tools: under the same lease, by the same plan and the same laws as the compactor's own.

use super::share::{ALL, Share};
use super::tenure::{End, Keeper};
use super::{Compactor, Options, space};
use crate::server::Context;
use crate::storage::part_name;
use anyhow::{bail, ensure};
use args::CompactArgs;
use bucket::Bucket;
use bucket::lease::{Attempt, Claims, Contender, Lease};
use model::Labels;
use model::world::World;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tsdb::disk::RealDisk;
use tsdb::plan::{Finding, Item, Settings};
use tsdb::series::Dedup;

/// What a tool wants done.
pub(crate) struct Once {
    /// How the bucket is kept.
    pub(crate) settings: Settings,
    /// Which items are done.
    pub(crate) wanted: fn(&Item) -> bool,
    /// Where blocks lie meanwhile; all of it can be deleted.
    pub(crate) dir: PathBuf,
    /// Blocks that are worked on, and files that are sent, at the same time.
    pub(crate) at_once: usize,
}

/// Does one pass over all blocks of a bucket; tells of each item that was done or failed, in one sentence.
///
/// # Errors
/// When the settings defeat themselves, another one has the lease (who, and what to do), or work failed; what could be done was
/// done.
pub(crate) async fn once(
    world: World,
    bucket: &Bucket,
    what: Once,
    tell: &mut dyn FnMut(String),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let refused = what.settings.check().into_iter().filter_map(|f| match f {
        Finding::Refused(what) => Some(what),
        Finding::Warning(_) => None,
    });
    let refused: Vec<String> = refused.collect();
    ensure!(refused.is_empty(), "these settings can't be used: {}", refused.join("; "));
    let defaults = CompactArgs::default();
    let context = Context::new("tools", world.clone());
    let at_once = what.at_once.clamp(1, 1024);
    let (told, mut says) = mpsc::unbounded_channel();
    let share = Share::new("", &defaults.min_time, &defaults.max_time, &what.settings.replica_labels)?;
    let options = Options {
        name: part_name("tools"),
        lease: defaults.lease_duration.duration(),
        compactions: at_once,
        downsamplings: at_once,
        fetches: 1,
        files: at_once,
        metas: 32,
        dedup: Dedup::Merge,
        hash: defaults.hash_func,
        cleanup: std::time::Duration::ZERO,
        count: std::time::Duration::ZERO,
        wanted: what.wanted,
        inline: false,
        told: Some(told),
        free: space::free,
    };
    let compactor = Compactor::new(Arc::new(RealDisk), what.dir, (what.settings, share), options, &context);
    compactor.disk.create_dir(&compactor.dir)?;
    let _lock = space::lock(&compactor.dir)?;
    let working = compactor.work(bucket, None, stop);
    tokio::pin!(working);
    let end = loop {
        tokio::select! {
            biased;
            Some(line) = says.recv() => tell(line),
            end = &mut working => break end,
        }
    };
    while let Ok(line) = says.try_recv() {
        tell(line);
    }
    for held in compactor.progress.state().held_items.iter().filter(|item| !item.waits) {
        tell(format!("left alone: {}: {}", held.what, held.why));
    }
    match end {
        End::Over if stop.is_cancelled() => bail!("interrupted; what was done is done"),
        End::Over => Ok(()),
        End::StandsBy(holder) => {
            bail!("{holder} has the lease on this bucket and does this work itself: end it first, then try again")
        }
        End::Failed(fault) => Err(fault.into()),
    }
}

/// Does something to streams as the only compactor of theirs: holds the lease on the bucket and the claims on the streams meanwhile,
/// and gives the lease back. A holder that died is waited out. `work` is dropped where it stands when the lease is lost or at `stop`,
/// and asks the lease before each change of the bucket.
///
/// # Errors
/// When another one has one of the streams (who, and what to do), the lease is lost, or the work failed.
pub(crate) async fn alone<T>(
    bucket: &Bucket,
    streams: &BTreeSet<Labels>,
    stop: &CancellationToken,
    work: impl AsyncFnOnce(&Lease) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let ttl = CompactArgs::default().lease_duration.duration();
    let mut contender = Contender::new(bucket.clone(), ALL, "", &part_name("tools"), ttl);
    let mut stood_by = None;
    let lease = loop {
        match contender.attempt().await? {
            Attempt::Held(lease) => break lease,
            Attempt::StandBy(other, _) if stood_by.is_some_and(|renewals| renewals != other.renewals) => {
                bail!("{} has the lease on this bucket: end it first, then try again", other.holder)
            }
            Attempt::StandBy(other, left) => {
                stood_by = Some(other.renewals);
                tokio::select! {
                    () = tokio::time::sleep(left.min(ttl / 4)) => {}
                    () = stop.cancelled() => bail!("interrupted"),
                }
            }
        }
    };
    let mut claims = Claims::new(bucket.clone(), lease.clone());
    let mut waits = true;
    let working = async {
        loop {
            let taken = claims.claim(streams).await?;
            let Some((stream, by)) = taken.first_key_value() else { break };
            match by.left.filter(|_| std::mem::take(&mut waits)) {
                Some(left) => tokio::time::sleep(left).await,
                None => {
                    bail!("{} compacts {stream}, for the scope {}: end it first, then try again", by.holder, by.scope)
                }
            }
        }
        work(&lease).await
    };
    let keeper = Keeper::new(&lease);
    let outcome = tokio::select! {
        outcome = working => outcome,
        why = lease.lost() => Err(anyhow::anyhow!("the lease on the bucket is lost: {why}")),
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    drop(keeper);
    lease.release().await;
    outcome
}
