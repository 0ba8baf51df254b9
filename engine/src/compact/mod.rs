//! The compactor: blocks of a bucket become fewer and coarser, and what is too old goes.
//!
//! ```text
//! lease ─▶ pass:  look at the bucket ─▶ plan (pure, tsdb::plan) ─▶ its laws ─▶ do each item ─▶ look again, until nothing is left
//!                                                                  │
//!          work/: fetch ─▶ check ─▶ compact or downsample ─▶ check ─▶ send (intent, files, meta.json, commit)
//!          effects: mark, delete: each asks the lease, and looks at the bucket again, before it acts
//! ```
//!
//! Nothing is remembered but what the bucket says: a compactor that was killed at any point is followed by one that looks, and
//! goes on. One bad block costs one block: it is marked, with the reason, and the others go on.

mod effects;
mod foreign;
mod item;
mod look;
mod metrics;
mod once;
mod pass;
mod progress;
mod run;
mod share;
mod space;
mod tenure;
#[cfg(test)]
mod tests;

pub(crate) use once::{Once, alone, once};
pub(crate) use run::retention_labels;
pub use run::run;
pub(crate) use share::Share;

use crate::server::Context;
use args::HashFunc;
use bucket::Bucket;
use model::world::World;
use progress::Progress;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tsdb::disk::Disk;
use tsdb::plan::{Item, Settings};
use tsdb::series::Dedup;

/// What a compactor needs to work.
#[derive(Clone)]
struct Compactor {
    disk: Arc<dyn Disk>,
    /// Its folder: all of it can be deleted while it does not run.
    dir: PathBuf,
    settings: Settings,
    /// Which blocks are its own.
    share: Share,
    options: Options,
    world: World,
    progress: Progress,
    /// Held while something works on the disk: also by work that was given up and has not noticed.
    busy: Arc<tokio::sync::RwLock<()>>,
    /// When this process held the lease first, ms since the epoch: what another program has compacted since then counts.
    since: Arc<std::sync::OnceLock<i64>>,
    /// Bytes of disk that work under way may still take.
    reserved: Arc<std::sync::atomic::AtomicU64>,
}

impl Compactor {
    /// A compactor that has done nothing yet, with its folder in `dir` of `disk`.
    fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        (settings, share): (Settings, Share),
        options: Options,
        context: &Context,
    ) -> Self {
        Self {
            disk,
            dir,
            settings,
            share,
            options,
            world: context.world.clone(),
            progress: Progress::new(context),
            busy: Arc::default(),
            since: Arc::default(),
            reserved: Arc::default(),
        }
    }
}

/// How it works.
#[derive(Clone, Debug)]
struct Options {
    /// Who it is, for people.
    name: String,
    /// How long its lease lasts.
    lease: Duration,
    /// Compactions at the same time.
    compactions: usize,
    /// Blocks that are downsampled at the same time.
    downsamplings: usize,
    /// Blocks of one compaction that are fetched at the same time.
    fetches: usize,
    /// Files of a block that are sent at the same time.
    files: usize,
    /// Files meta.json and marks that are read at the same time.
    metas: usize,
    /// What becomes of samples of chunks that overlap.
    dedup: Dedup,
    /// Hash of the files of new blocks.
    hash: HashFunc,
    /// How often marked blocks are deleted, and how often what is to be done is counted, beside other work; never if zero.
    cleanup: Duration,
    count: Duration,
    /// Which kinds of work are done.
    wanted: fn(&Item) -> bool,
    /// Work runs in the async threads: for simulations, which must go the same way each time.
    inline: bool,
    /// Who is told of each item that was done or failed.
    told: Option<tokio::sync::mpsc::UnboundedSender<String>>,
    /// Free bytes of the disk where the folder lies; none if it can't be told.
    free: fn(&std::path::Path) -> Option<u64>,
}

/// Why work ended early.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// The lease is lost: nothing must be done any more.
    #[error("the lease is lost: {0}")]
    Lost(String),
    /// The bucket: another time.
    #[error("{0}")]
    Bucket(bucket::Error),
    /// The disk of this machine.
    #[error("{0}")]
    Disk(#[from] tsdb::Error),
    /// So many bytes of disk are needed, and so many are free.
    #[error("the work needs {needed} bytes of disk under --data-dir, {free} are free; make room, it goes on then")]
    Space {
        /// Needed.
        needed: u64,
        /// Free.
        free: u64,
    },
    /// One block is to blame. It is to be marked with this reason of [`tsdb::marks::reason`].
    #[error("block {block}: {what}")]
    Block {
        /// The block.
        block: model::BlockId,
        /// For programs.
        reason: &'static str,
        /// For people.
        what: String,
    },
    /// It can't be done, and no single block is to blame; or it is a mistake of ours.
    #[error("{0}")]
    Held(String),
}

impl From<bucket::Error> for Fault {
    fn from(e: bucket::Error) -> Self {
        Self::Bucket(e)
    }
}

impl From<bucket::lease::Error> for Fault {
    fn from(e: bucket::lease::Error) -> Self {
        match e {
            bucket::lease::Error::Lost(why) => Self::Lost(why),
            bucket::lease::Error::Bucket(e) => Self::Bucket(e),
        }
    }
}

impl Fault {
    /// Whether it may pass without anybody's doing.
    fn waits(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Bucket(_) | Self::Disk(_) | Self::Space { .. })
    }

    /// Whether nothing else is to be tried in this pass.
    fn ends_pass(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Bucket(e) => e.advice() == bucket::Advice::Stop,
            Self::Block { .. } => model::protection::off("quarantine"),
            _ => false,
        }
    }
}

/// How the names of compactors begin in the catalogue.
const PRODUCER: &str = "compact-";

/// The name under which the compactors of a scope tell the catalogue of their blocks.
fn producer(bucket: &Bucket, scope: &str) -> bucket::Result<bucket::catalogue::Producer> {
    bucket::catalogue::Producer::new(bucket.clone(), &format!("{PRODUCER}{scope}"))
}
