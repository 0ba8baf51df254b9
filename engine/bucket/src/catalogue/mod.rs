//! What should be in the bucket, told by those who write it.
//!
//! ```text
//! panoptes/v1/catalogue/<producer>/<ULID>.intent    before the first byte of a block is sent
//! panoptes/v1/catalogue/<producer>/<ULID>.commit    after its meta.json was written
//! panoptes/v1/catalogue/snapshot-<20 digits>        many commits folded into one document
//! ```
//!
//! Producers only create, each object once, so no object is ever hot and a repeated step changes nothing. Folding is left to
//! the holder of the lease (it writes the next snapshot, then deletes the entries that it folded); reading one works already.
//! A reader that meets a format that it doesn't know, or damage, says so, and its caller lists the bucket instead.

mod producer;
mod reader;

pub use producer::{Producer, Stage};
pub use reader::{Reader, State};

use crate::error::{Error, Kind, Operation};
use model::BlockId;
use serde::{Deserialize, Serialize};
use tsdb::BlockMeta;

/// Where all of it lies.
pub const ROOT: &str = "panoptes/v1/catalogue/";
/// What the names of snapshots begin with.
const SNAPSHOT: &str = "snapshot-";
const INTENT: &str = "intent";
const COMMIT: &str = "commit";
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

/// Many commits in one document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number, as in its name; the highest one counts.
    pub number: u64,
    /// When, in ms since the epoch, by the holder's clock.
    pub time_ms: i64,
    /// Who wrote it.
    pub holder: String,
    /// The epoch of its lease.
    pub epoch: u64,
    /// The metas of all blocks that were committed and are still there.
    pub blocks: Vec<BlockMeta>,
    /// Blocks whose entries count no more, though they may still be there.
    pub folded: Vec<BlockId>,
}

/// The name of a snapshot.
pub fn snapshot_path(number: u64) -> String {
    format!("{ROOT}{SNAPSHOT}{number:020}")
}

/// What a name under [`ROOT`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    Snapshot(u64),
    Intent(&'a str, BlockId),
    Commit(&'a str, BlockId),
}

impl<'a> Name<'a> {
    /// None for what we don't know; a reader passes over it.
    fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?;
        match rest.split_once('/') {
            None => rest.strip_prefix(SNAPSHOT)?.parse().ok().map(Self::Snapshot),
            Some((producer, name)) => {
                let (id, kind) = name.split_once('.')?;
                let id = id.parse().ok()?;
                match kind {
                    INTENT => Some(Self::Intent(producer, id)),
                    COMMIT => Some(Self::Commit(producer, id)),
                    _ => None,
                }
            }
        }
    }
}

fn broken(path: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Corrupt, Operation::Get, path, what.to_string())
}
