//! What should be in the bucket, told by those who write it.
//!
//! ```text
//! panoptes/v1/catalogue/<producer>/<ULID>.intent    before the first byte of a block is sent
//! panoptes/v1/catalogue/<producer>/<ULID>.commit    after its meta.json was written
//! panoptes/v1/catalogue/<producer>/<ULID>.covered   instead: its data is in another block of the bucket
//! panoptes/v1/catalogue/snapshot-<20 digits>        many commits folded into one document
//! panoptes/v1/catalogue/<producer>/folded-<20 digits>   the blocks of this producer that were folded, so that it knows them
//! ```
//!
//! Producers only create, each object once, so no object is ever hot and a repeated step changes nothing. The holder of the lease
//! folds: it writes the next snapshot and each producer's list, then deletes the entries that it folded ([`fold`]). The list is the
//! producer's because a sidecar can't hold a snapshot of everybody's blocks.
//! A reader that meets a format that it doesn't know, or damage, says so, and its caller lists the bucket instead.

mod fold;
mod producer;
mod reader;
mod snapshot;

pub use fold::{Folding, fold};
pub use producer::{Producer, Stage};
pub use reader::{Reader, State};
pub use snapshot::{Snapshot, snapshot_path};

use crate::error::{Error, Kind, Operation};
use model::BlockId;
use serde::{Deserialize, Serialize};
use tsdb::BlockMeta;

/// Where all of it lies.
pub const ROOT: &str = "panoptes/v1/catalogue/";
/// What the names of snapshots begin with.
const SNAPSHOT: &str = "snapshot-";
/// What the names of producers' lists of folded blocks begin with.
const FOLDED: &str = "folded-";
const INTENT: &str = "intent";
const COMMIT: &str = "commit";
const COVERED: &str = "covered";
/// Largest entry that is read, in bytes: a commit holds one meta.json.
const MAX_ENTRY: u64 = tsdb::meta::MAX_META_BYTES + (1 << 16);
/// Largest snapshot that is read, in bytes.
const MAX_SNAPSHOT: u64 = 256 << 20;

/// A file of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative name, as in `chunks/000001`.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// What a producer is about to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The block.
    pub block: BlockId,
    /// When, in ms since the epoch, by the producer's clock.
    pub time_ms: i64,
    /// Tells this writer from all others.
    pub writer: String,
    /// All its files but `meta.json`.
    pub files: Vec<File>,
}

/// A block that is whole in the bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// When, in ms since the epoch, by the producer's clock.
    pub time_ms: i64,
    /// Tells this writer from all others.
    pub writer: String,
    /// Its meta.json.
    pub meta: BlockMeta,
}

/// A block that need not be written: it went into another one before its producer told that it was whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The block.
    pub block: BlockId,
    /// The block of the bucket that was made of it.
    pub within: BlockId,
}

/// The blocks of a producer whose entries were folded: those that its disk may still hold. The one with the highest number
/// counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// Their ids.
    pub blocks: Vec<BlockId>,
}

/// The name of a producer's list of folded blocks.
pub fn folded_path(producer: &str, number: u64) -> String {
    format!("{ROOT}{producer}/{FOLDED}{number:020}")
}

/// What a name under [`ROOT`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    Snapshot(u64),
    Intent(&'a str, BlockId),
    Commit(&'a str, BlockId),
    Covered(&'a str, BlockId),
    Folded(u64),
}

impl<'a> Name<'a> {
    /// None for what we don't know; a reader passes over it.
    fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        match rest.split_once('/') {
            None => rest.strip_prefix(SNAPSHOT)?.parse().ok().map(Self::Snapshot),
            Some((_, name)) if name.starts_with(FOLDED) => name.strip_prefix(FOLDED)?.parse().ok().map(Self::Folded),
            Some((producer, name)) => {
                let (id, kind) = name.split_once('.')?;
                let id = id.parse().ok()?;
                match kind {
                    INTENT => Some(Self::Intent(producer, id)),
                    COMMIT => Some(Self::Commit(producer, id)),
                    COVERED => Some(Self::Covered(producer, id)),
                    _ => None,
                }
            }
        }
    }
}

fn broken(path: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Corrupt, Operation::Get, path, what.to_string())
}
