//! The producer's side: create, never change.

use super::{
    COMMIT, COVERED, Commit, Covered, File, Folded, INTENT, Intent, MAX_ENTRY, Name, ROOT, broken, folded_path,
};
use crate::error::{Advice, Error, Kind, Operation};
use crate::{Bucket, Result, document};
use futures::TryStreamExt as _;
use model::BlockId;
use std::collections::BTreeMap;
use tsdb::BlockMeta;

/// How far a block of a producer has come, as the catalogue tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was about to be written.
    Intent,
    /// It is whole.
    Commit,
}

/// One writer of blocks.
#[derive(Debug, Clone)]
pub struct Producer {
    bucket: Bucket,
    name: String,
    writer: String,
}

impl Producer {
    /// The producer `name`: 1 to 128 letters, digits, `-`, `_`, `.`; the same after a restart, different from all others'.
    ///
    /// # Errors
    /// `Invalid` for another name.
    pub fn new(bucket: Bucket, name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) || name.starts_with('.') {
            let what = "a producer's name has 1 to 128 letters, digits, `-`, `_`, `.`";
            return Err(Error::new(Kind::Invalid, Operation::Upload, name.escape_debug().to_string(), what));
        }
        let writer = format!("{:016x}", bucket.world().entropy.next_u64());
        Ok(Self { bucket, name: name.to_owned(), writer })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All blocks that this producer ever announced, those that were folded included: one listing, and one read where some
    /// were. A list of folded blocks that can't be read is told in the log, and its blocks are taken for unknown.
    ///
    /// # Errors
    /// As the store says.
    pub async fn own(&self) -> Result<BTreeMap<BlockId, Stage>> {
        let (mut own, mut newest) = (BTreeMap::new(), None);
        let mut names = self.bucket.list(&format!("{ROOT}{}/", self.name));
        while let Some(meta) = names.try_next().await? {
            let (id, stage) = match Name::parse(&meta.path) {
                Some(Name::Intent(_, id)) => (id, Stage::Intent),
                Some(Name::Commit(_, id) | Name::Covered(_, id)) => (id, Stage::Commit),
                Some(Name::Folded(number)) => {
                    newest = newest.max(Some(number));
                    continue;
                }
                Some(Name::Snapshot(_)) | None => continue,
            };
            own.entry(id).and_modify(|s| *s = stage.max(*s)).or_insert(stage);
        }
        drop(names);
        if let Some(number) = newest {
            let path = folded_path(&self.name, number);
            let folded = match self.bucket.get(&path, MAX_ENTRY).await {
                Ok(object) => document::read::<Folded>("folded", &object.bytes).map_err(|e| broken(&path, e)),
                Err(e) => Err(e),
            };
            match folded {
                Ok(folded) => own.extend(folded.blocks.into_iter().map(|id| (id, Stage::Commit))),
                Err(error) if error.advice() == Advice::Skip => {
                    tracing::warn!(%error, "which blocks were folded is not known; some may be sent again");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(own)
    }

    /// Announces a block before its first byte is sent. Announced before: nothing changes.
    ///
    /// # Errors
    /// As the store says.
    pub async fn intent(&self, block: BlockId, files: Vec<File>) -> Result<()> {
        let time_ms = self.bucket.world().clock.now_ms();
        let intent = Intent { block, time_ms, writer: self.writer.clone(), files };
        self.create(block, INTENT, &intent).await
    }

    /// Tells that a block is whole: its meta.json was written. Told before: nothing changes.
    ///
    /// # Errors
    /// As the store says.
    pub async fn commit(&self, meta: &BlockMeta) -> Result<()> {
        let time_ms = self.bucket.world().clock.now_ms();
        let commit = Commit { time_ms, writer: self.writer.clone(), meta: meta.clone() };
        self.create(meta.id, COMMIT, &commit).await
    }

    /// Tells that the data of a block is in another one, so that nobody asks again. Told before: nothing changes.
    ///
    /// # Errors
    /// As the store says.
    pub async fn covered(&self, block: BlockId, within: BlockId) -> Result<()> {
        self.create(block, COVERED, &Covered { block, within }).await
    }

    /// Where this producer tells that a block is whole.
    pub fn commit_path(&self, block: BlockId) -> String {
        format!("{ROOT}{}/{block}.{COMMIT}", self.name)
    }

    async fn create<T: serde::Serialize + Sync>(&self, id: BlockId, kind: &str, body: &T) -> Result<()> {
        let path = format!("{ROOT}{}/{id}.{kind}", self.name);
        let bytes = document::write(kind, body).map_err(|e| broken(&path, e))?;
        match self.bucket.create(&path, bytes).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind == Kind::Exists => Ok(()),
            Err(e) => Err(e),
        }
    }
}
