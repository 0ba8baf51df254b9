//! One block into the bucket: intent, files, a look at what arrived, meta.json, commit.
//!
//! A kill at any point leaves a state from which the next start goes on. Before meta.json is there, the block does not exist
//! for anyone; meta.json is only ever created, so it is written once; the catalogue's entries are named after the block, so
//! they are written once, too.

use super::health;
use super::local::{self, Bad};
use super::meta::{self, Hashes};
use super::stage::{File, StageError, Staged};
use args::HashFunc;
use args::files::hex;
use args::state::SkipReason;
use bucket::catalogue::{self, Producer, Stage};
use bucket::{Bucket, Kind, block};
use futures::{StreamExt as _, TryStreamExt as _};
use model::world::World;
use model::{BlockId, Labels, protection};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tsdb::disk::Disk;
use tsdb::meta::BlockMeta;

/// Bytes that are hashed at a time.
const HASH_PART: usize = 256 << 10;

/// Takes blocks from one data directory to one bucket.
#[derive(Clone)]
pub(super) struct Shipper {
    pub(super) bucket: Bucket,
    pub(super) catalogue: Producer,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) data: PathBuf,
    /// Written into meta.json: who made the block.
    pub(super) source: &'static str,
    pub(super) hash: HashFunc,
    /// Files at the same time.
    pub(super) concurrency: usize,
    pub(super) world: World,
}

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shipped {
    /// It is there now; so many bytes were sent.
    Sent { bytes: u64 },
    /// It was there before.
    WasThere,
    /// Prometheus has deleted or compacted it meanwhile.
    Gone,
    /// It can't be uploaded.
    Bad(Bad),
}

/// Why it could not be tried to the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The bucket.
    #[error("{0}")]
    Bucket(#[from] bucket::Error),
    /// The disk.
    #[error("{0}")]
    Disk(#[from] tsdb::Error),
    /// A task of ours ended early.
    #[error("the upload was interrupted: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A block that is ready to go.
struct Prepared {
    staged: Staged,
    meta: BlockMeta,
    hashes: Hashes,
}

impl Shipper {
    /// Takes one block there. `before` is what the catalogue knows of it; where it knows of an attempt, or `look` is set, the
    /// bucket is looked at first, and what has arrived whole is not sent again.
    pub(super) async fn ship(
        &self,
        id: BlockId,
        labels: &Labels,
        before: Option<Stage>,
        look: bool,
    ) -> Result<Shipped, Failure> {
        let (disk, data, hash) = (Arc::clone(&self.disk), self.data.clone(), self.hash);
        let prepared = match tokio::task::spawn_blocking(move || prepare(&disk, &data, id, hash)).await? {
            Ok(prepared) => prepared,
            Err(StageError::Gone) => return Ok(Shipped::Gone),
            Err(StageError::Bad(bad)) => return Ok(Shipped::Bad(bad)),
            Err(StageError::Disk(e)) => return Err(e.into()),
        };
        let files = &prepared.staged.files;
        let mut there = BTreeMap::new();
        if look || before.is_some() {
            there = self.sizes(id).await?;
            if there.contains_key(block::META) {
                let ours = self.meta(&prepared, labels);
                return self.compare(&ours).await;
            }
        }
        let sizes: Vec<(String, u64)> = files.iter().map(|f| (f.rel_path.clone(), f.size)).collect();
        if before.is_none() {
            let files = sizes.iter().map(|(path, size)| catalogue::File { path: path.clone(), size: *size }).collect();
            self.catalogue.intent(id, files).await?;
        }
        if protection::off("upload-meta-last") {
            self.bucket.create(&block::object(id, block::META), self.meta(&prepared, labels).write()?).await?;
        }
        let bytes = self.send(id, &prepared.staged, |f| there.get(&f.rel_path) != Some(&f.size)).await?;
        // What the store says that it has, and not only that it said "ok". What is not whole is sent again by the next try.
        block::check_uploaded(&self.bucket, id, &sizes).await?;
        let ours = self.meta(&prepared, labels);
        match self.bucket.create(&block::object(id, block::META), ours.write()?).await {
            Ok(_) => {}
            Err(e) if e.kind == Kind::Exists => return self.compare(&ours).await,
            Err(e) => return Err(e.into()),
        }
        self.catalogue.commit(&ours).await?;
        Ok(Shipped::Sent { bytes })
    }

    fn meta(&self, prepared: &Prepared, labels: &Labels) -> BlockMeta {
        let now = self.world.clock.now_ms();
        meta::for_bucket(&prepared.meta, labels, self.source, &prepared.staged.files, &prepared.hashes, now)
    }

    /// There is a meta.json of this block. If it is of this block indeed, the block is there, and the catalogue should say so.
    async fn compare(&self, ours: &BlockMeta) -> Result<Shipped, Failure> {
        let path = block::object(ours.id, block::META);
        let there = self.bucket.get(&path, tsdb::meta::MAX_META_BYTES).await?;
        let bad = |what: String| {
            let message = format!(
                "the bucket has a different block of the same id ({what} in {path}): find out who wrote it before you remove either"
            );
            Ok(Shipped::Bad(Bad { reason: SkipReason::Conflict, message }))
        };
        let there = match BlockMeta::read(&path, &there.bytes) {
            Ok(meta) => meta,
            Err(e) => return bad(e.to_string()),
        };
        match meta::difference(ours, &there) {
            Some(what) => bad(what),
            None => {
                self.catalogue.commit(&there).await?;
                Ok(Shipped::WasThere)
            }
        }
    }

    /// Sizes of the objects of a block, by path within it.
    async fn sizes(&self, id: BlockId) -> Result<BTreeMap<String, u64>, Failure> {
        let prefix = block::directory(id);
        let (mut sizes, mut all) = (BTreeMap::new(), self.bucket.list(&prefix));
        while let Some(object) = all.try_next().await? {
            if let Some(name) = object.path.strip_prefix(&prefix) {
                sizes.insert(name.to_owned(), object.size);
            }
        }
        Ok(sizes)
    }

    /// Sends the files that are wanted, several at a time, the index last. Gives the bytes sent.
    async fn send(&self, id: BlockId, staged: &Staged, wanted: impl Fn(&File) -> bool) -> Result<u64, Failure> {
        let mut bytes = 0u64;
        let (segments, index): (Vec<&File>, Vec<&File>) =
            staged.files.iter().filter(|f| wanted(f)).partition(|f| f.rel_path.starts_with(block::CHUNKS));
        for group in [segments, index] {
            let group: Vec<(String, PathBuf)> =
                group.into_iter().map(|f| (block::object(id, &f.rel_path), staged.dir().join(&f.rel_path))).collect();
            let mut sent = futures::stream::iter(group)
                .map(|(object, file)| {
                    let bucket = self.bucket.clone();
                    async move { bucket.upload_file(&object, &file).await }
                })
                .buffer_unordered(self.concurrency);
            while let Some(uploaded) = sent.try_next().await? {
                bytes = bytes.saturating_add(uploaded.size);
            }
        }
        Ok(bytes)
    }
}

/// Links the block's files, checks its health, hashes. Blocks.
fn prepare(disk: &Arc<dyn Disk>, data: &Path, id: BlockId, hash: HashFunc) -> Result<Prepared, StageError> {
    let staged = Staged::new(disk, data, id)?;
    let meta = local::read_meta(&**disk, staged.dir(), id).map_err(StageError::Bad)?;
    if let Some(bad) = health::check(&**disk, &staged) {
        return Err(StageError::Bad(bad));
    }
    let mut hashes = Hashes::new();
    if hash == HashFunc::Sha256 {
        for file in &staged.files {
            hashes.insert(file.rel_path.clone(), sha256(&staged.dir().join(&file.rel_path))?);
        }
    }
    Ok(Prepared { staged, meta, hashes })
}

/// SHA-256 of a file, read in parts, in hex.
fn sha256(path: &Path) -> Result<String, StageError> {
    let refused = |e| StageError::Disk(tsdb::Error::io(path.display(), "read", e));
    let mut file = std::fs::File::open(path).map_err(refused)?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; HASH_PART]);
    loop {
        match file.read(&mut part).map_err(refused)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(part.get(..n).unwrap_or_default()),
        }
    }
}
