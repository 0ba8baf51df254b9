//! One block into the bucket: intent, files, a look at what arrived, meta.json, commit.
//!
//! A kill at any point leaves a state from which the next start goes on. Before meta.json is there, the block does not exist
//! for anyone; meta.json is only ever created, so it is written once; the catalogue's entries are named after the block, so
//! they are written once, too.

use super::health;
use super::local::{self, Bad};
use super::meta::{self, Hashes};
use super::stage::{File, StageError, Staged};
use crate::storage::hash::sha256;
use args::HashFunc;
use args::state::SkipReason;
use bucket::catalogue::{self, Producer};
use bucket::{Bucket, Kind, block};
use futures::{StreamExt as _, TryStreamExt as _};
use model::world::World;
use model::{BlockId, Labels, protection};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tsdb::disk::Disk;
use tsdb::meta::BlockMeta;

/// An upload that takes longer (ms) may have been cleared away meanwhile.
const LONG_MS: i64 = 3_600_000;

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
    /// See [`super::blocking`].
    pub(super) inline: bool,
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
    /// Takes one block there. With `look`, the bucket is looked at first, and what has arrived whole is not sent again.
    pub(super) async fn ship(&self, id: BlockId, labels: &Labels, look: bool) -> Result<Shipped, Failure> {
        let (disk, data, hash) = (Arc::clone(&self.disk), self.data.clone(), self.hash);
        let prepared = match super::blocking(self.inline, move || prepare(&disk, &data, id, hash)).await? {
            Ok(prepared) => prepared,
            Err(StageError::Gone) => return Ok(Shipped::Gone),
            Err(StageError::Bad(bad)) => return Ok(Shipped::Bad(bad)),
            Err(StageError::Disk(e)) => return Err(e.into()),
        };
        let (clock, files) = (&self.world.clock, &prepared.staged.files);
        let begin = clock.now_ms();
        let mut there = BTreeMap::new();
        if look && !protection::off("upload-once") {
            there = self.sizes(id).await?;
            if there.contains_key(block::META) {
                let ours = self.meta(&prepared, labels);
                let (shipped, meta) = self.same(&ours).await?;
                if let Some(meta) = meta {
                    // Killed before its second look: what was cleared away until then is sent once more.
                    self.send(id, &prepared.staged, |f| there.get(&f.rel_path) != Some(&f.size)).await?;
                    self.catalogue.commit(&meta).await?;
                }
                return Ok(shipped);
            }
        }
        let sizes: Vec<(String, u64)> = files.iter().map(|f| (f.rel_path.clone(), f.size)).collect();
        // Also on a retry: whether the first one has arrived is not known.
        let announced = sizes.iter().map(|(path, size)| catalogue::File { path: path.clone(), size: *size }).collect();
        self.catalogue.intent(id, announced).await?;
        if protection::off("upload-meta-last") {
            self.bucket.create(&block::object(id, block::META), self.meta(&prepared, labels).write()?).await?;
        }
        let bytes = self.send(id, &prepared.staged, |f| there.get(&f.rel_path) != Some(&f.size)).await?;
        // What the store says that it has, and not only that it said "ok". What is not whole is sent again by the next try.
        block::check_uploaded(&self.bucket, id, &sizes).await?;
        let ours = self.meta(&prepared, labels);
        let path = block::object(id, block::META);
        let written = if protection::off("upload-once") {
            self.bucket.put(&path, ours.write()?).await
        } else {
            self.bucket.create(&path, ours.write()?).await
        };
        match written {
            Ok(_) => {}
            Err(e) if e.kind == Kind::Exists => return self.compare(&ours).await,
            Err(e) => return Err(e.into()),
        }
        // A compactor that does not know of this upload clears it away when nothing was written for days: what it took between the
        // look above and meta.json is sent once more.
        let mut more = 0;
        if (look || clock.now_ms().saturating_sub(begin) > LONG_MS) && !protection::off("second-look") {
            let there = self.sizes(id).await?;
            more = self.send(id, &prepared.staged, |f| there.get(&f.rel_path) != Some(&f.size)).await?;
        }
        self.catalogue.commit(&ours).await?;
        Ok(Shipped::Sent { bytes: bytes.saturating_add(more) })
    }

    fn meta(&self, prepared: &Prepared, labels: &Labels) -> BlockMeta {
        let now = self.world.clock.now_ms();
        meta::for_bucket(&prepared.meta, labels, self.source, &prepared.staged.files, &prepared.hashes, now)
    }

    /// There is a meta.json of this block. If it is of this block indeed, the block is there, and the catalogue should say so.
    async fn compare(&self, ours: &BlockMeta) -> Result<Shipped, Failure> {
        let (shipped, meta) = self.same(ours).await?;
        if let Some(meta) = meta {
            self.catalogue.commit(&meta).await?;
        }
        Ok(shipped)
    }

    /// What that meta.json means, and itself, if it is of this block.
    async fn same(&self, ours: &BlockMeta) -> Result<(Shipped, Option<BlockMeta>), Failure> {
        let path = block::object(ours.id, block::META);
        let there = self.bucket.get(&path, tsdb::meta::MAX_META_BYTES).await?;
        let bad = |what: String| {
            let message = format!(
                "the bucket has a different block of the same id ({what} in {path}): find out who wrote it before you remove either"
            );
            Ok((Shipped::Bad(Bad { reason: SkipReason::Conflict, message }), None))
        };
        let there = match BlockMeta::read(&path, &there.bytes) {
            Ok(meta) => meta,
            Err(e) => return bad(e.to_string()),
        };
        match meta::difference(ours, &there) {
            Some(what) => bad(what),
            None => Ok((Shipped::WasThere, Some(there))),
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
                    let (bucket, disk) = (self.bucket.clone(), Arc::clone(&self.disk));
                    async move { bucket.upload_file(&object, &*disk, &file).await }
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
    health::check(&**disk, &staged)?;
    let mut hashes = Hashes::new();
    if hash == HashFunc::Sha256 {
        for file in &staged.files {
            hashes.insert(
                file.rel_path.clone(),
                sha256(&**disk, &staged.dir().join(&file.rel_path)).map_err(StageError::Disk)?,
            );
        }
    }
    Ok(Prepared { staged, meta, hashes })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use args::files::hex;
    use async_trait::async_trait;
    use bucket::catalogue::Stage;
    use bucket::layers::around::Around;
    use bucket::store::{Condition, Source, Store};
    use bucket::{Memory, Options, Version};
    use bytes::Bytes;
    use sha2::{Digest as _, Sha256};
    use std::sync::atomic::{AtomicU32, Ordering};
    use tsdb::chunk::{Encoding, XorEncoder};
    use tsdb::disk::RealDisk;
    use tsdb::segment::NewChunk;

    /// A store that accepts an upload and keeps half of it, so many times, that refuses so many intents, and where what was sent is
    /// cleared away right before so many meta.json.
    #[derive(Debug)]
    struct Lying {
        inner: Memory,
        halves: AtomicU32,
        refusals: Arc<AtomicU32>,
        clears: AtomicU32,
    }

    #[async_trait]
    impl Around for Lying {
        fn inner(&self) -> &dyn Store {
            &self.inner
        }
        async fn put(&self, path: &str, body: Bytes, condition: Condition) -> bucket::Result<Version> {
            if path.ends_with(".intent") && self.refusals.load(Ordering::SeqCst) > 0 {
                self.refusals.fetch_sub(1, Ordering::SeqCst);
                return Err(bucket::Error::new(Kind::Denied, bucket::Operation::Upload, path, "not yet"));
            }
            if path.ends_with(block::META) && self.clears.load(Ordering::SeqCst) > 0 {
                self.clears.fetch_sub(1, Ordering::SeqCst);
                let (id, _) = block::parse(path).unwrap();
                self.inner.delete(&block::object(id, block::INDEX)).await?;
                self.inner.delete(&block::object(id, "chunks/000001")).await?;
            }
            self.inner.put(path, body, condition).await
        }
        async fn upload(&self, path: &str, source: Arc<dyn Source>) -> bucket::Result<Version> {
            let size = usize::try_from(source.size()).unwrap();
            let left = self.halves.load(Ordering::SeqCst);
            let kept = if left > 0 { size / 2 } else { size };
            self.halves.store(left.saturating_sub(1), Ordering::SeqCst);
            self.inner.put(path, source.read(0, kept).unwrap(), Condition::None).await
        }
    }

    pub(in crate::sidecar::upload) fn block(data: &Path) -> BlockId {
        block_on(&RealDisk, data)
    }

    fn block_on(disk: &dyn Disk, data: &Path) -> BlockId {
        let meta = BlockMeta::new(BlockId::from_parts(1_700_000_000_000, 7), 0, 7_200_000);
        let id = meta.id;
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "x")]);
        let mut encoder = XorEncoder::default();
        for t in 0..100 {
            encoder.append(t * 15_000, 1.0).unwrap();
        }
        let bytes = encoder.bytes();
        let chunk = NewChunk { encoding: Encoding::Xor, data: &bytes, min_time: 0, max_time: 99 * 15_000 };
        let mut writer = tsdb::block::Writer::create(disk, data, meta).unwrap();
        for symbol in ["__name__", "job", "up", "x"] {
            writer.add_symbol(symbol).unwrap();
        }
        writer.add_series(&labels, &[chunk]).unwrap();
        writer.finish().unwrap();
        id
    }

    pub(in crate::sidecar::upload) fn shipper(data: &Path, halves: u32) -> (Shipper, Arc<AtomicU32>) {
        shipper_over(data, halves, 0)
    }

    fn shipper_over(data: &Path, halves: u32, clears: u32) -> (Shipper, Arc<AtomicU32>) {
        let world = World::real();
        let inner = Memory::new(Arc::clone(&world.clock));
        let refusals = Arc::new(AtomicU32::new(0));
        let clears = AtomicU32::new(clears);
        let store = Arc::new(Lying { inner, halves: AtomicU32::new(halves), refusals: Arc::clone(&refusals), clears });
        let bucket = Bucket::over(store, "test", Options::new(world.clone()));
        let catalogue = Producer::new(bucket.clone(), "sidecar-x").unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let data = data.to_owned();
        let (source, hash, concurrency, inline) = ("sidecar", HashFunc::None, 4, false);
        let shipper = Shipper { bucket, catalogue, disk, data, source, hash, concurrency, world, inline };
        (shipper, refusals)
    }

    pub(in crate::sidecar::upload) fn labels() -> Labels {
        Labels::from_pairs([("cluster", "ops")])
    }

    #[tokio::test]
    async fn a_block_goes_there_once() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let (shipper, _) = shipper(data.path(), 0);
        assert!(matches!(shipper.ship(id, &labels(), false).await.unwrap(), Shipped::Sent { bytes } if bytes > 200));
        assert_eq!(shipper.catalogue.own().await.unwrap(), BTreeMap::from([(id, Stage::Commit)]));
        let path = block::object(id, block::META);
        let first = shipper.bucket.get(&path, 1 << 20).await.unwrap().bytes;
        // Again as if nothing was known, and as after a restart.
        for look in [false, true] {
            assert_eq!(shipper.ship(id, &labels(), look).await.unwrap(), Shipped::WasThere);
        }
        assert_eq!(shipper.bucket.get(&path, 1 << 20).await.unwrap().bytes, first);
        assert_eq!(shipper.ship(BlockId::from_parts(9, 9), &labels(), false).await.unwrap(), Shipped::Gone);
        assert!(std::fs::read_dir(data.path().join("thanos/upload")).unwrap().next().is_none(), "no links are left");
    }

    #[tokio::test]
    async fn block_files_are_read_through_the_disk() {
        let disk = tsdb::disk::MemoryDisk::new();
        let data = Path::new("/data");
        disk.create_dir(data).unwrap();
        let id = block_on(&disk, data);
        let (shipper, _) = shipper(data, 0);
        let shipper = Shipper { disk: Arc::new(disk.clone()), hash: HashFunc::Sha256, ..shipper };
        assert!(matches!(shipper.ship(id, &labels(), false).await.unwrap(), Shipped::Sent { .. }));
        for file in ["index", "chunks/000001"] {
            let there = shipper.bucket.get(&block::object(id, file), 1 << 20).await.unwrap().bytes;
            assert_eq!(there, disk.open(&data.join(id.to_string()).join(file)).unwrap());
            let meta = shipper.bucket.get(&block::object(id, block::META), 1 << 20).await.unwrap().bytes;
            let digest = hex(&Sha256::digest(&there));
            assert!(String::from_utf8_lossy(&meta).contains(&digest), "{file}");
        }
        // Larger than what is hashed at a time.
        let bytes = [b"ab".repeat(crate::storage::hash::PART), b"c".to_vec()].concat();
        tsdb::disk::replace(&disk, Path::new("/data/large"), &bytes).unwrap();
        assert_eq!(sha256(&disk, Path::new("/data/large")).unwrap(), hex(&Sha256::digest(&bytes)));
    }

    #[tokio::test]
    async fn what_the_store_has_cut_short_is_noticed_and_sent_again() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let (shipper, _) = shipper(data.path(), 1);
        let failure = shipper.ship(id, &labels(), false).await.unwrap_err();
        assert!(matches!(&failure, Failure::Bucket(e) if e.kind == Kind::Corrupt && e.path.contains("chunks/000001")));
        assert!(!shipper.bucket.exists(&block::object(id, block::META)).await.unwrap());
        // The next try looks, and sends only what is not whole.
        let Shipped::Sent { bytes } = shipper.ship(id, &labels(), true).await.unwrap() else {
            panic!("it must be sent")
        };
        let size = |name: &str| std::fs::metadata(data.path().join(id.to_string()).join(name)).unwrap().len();
        assert_eq!(bytes, size("chunks/000001"));
    }

    /// A compactor that did not know of this upload, since it was away for days, cleared it away while it went on.
    #[tokio::test]
    async fn what_was_cleared_away_under_a_resumed_upload_is_sent_once_more() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let (shipper, _) = shipper_over(data.path(), 0, 1);
        let Shipped::Sent { bytes } = shipper.ship(id, &labels(), true).await.unwrap() else { panic!("it is sent") };
        let size = |name: &str| std::fs::metadata(data.path().join(id.to_string()).join(name)).unwrap().len();
        assert_eq!(bytes, 2 * (size("chunks/000001") + size("index")), "PANOPTES_BREAK=second-look");
        for file in ["index", "chunks/000001", block::META] {
            assert!(shipper.bucket.exists(&block::object(id, file)).await.unwrap(), "{file} is missing");
        }
        assert_eq!(shipper.catalogue.own().await.unwrap(), BTreeMap::from([(id, Stage::Commit)]));
    }

    /// Killed right after meta.json, with its files cleared away before: the next start sends them before it says that it is done.
    #[tokio::test]
    async fn a_block_is_called_done_when_all_of_it_is_there() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let (shipper, _) = shipper(data.path(), 0);
        shipper.ship(id, &labels(), false).await.unwrap();
        let commit = shipper.catalogue.commit_path(id);
        for path in [block::object(id, block::INDEX), block::object(id, "chunks/000001"), commit] {
            shipper.bucket.delete(&path).await.unwrap();
        }
        assert_eq!(shipper.ship(id, &labels(), true).await.unwrap(), Shipped::WasThere);
        for file in ["index", "chunks/000001"] {
            assert!(shipper.bucket.exists(&block::object(id, file)).await.unwrap(), "{file} is missing");
        }
        assert_eq!(shipper.catalogue.own().await.unwrap(), BTreeMap::from([(id, Stage::Commit)]));
    }

    #[tokio::test]
    async fn damage_is_found_before_anything_is_sent() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let path = data.path().join(id.to_string()).join("chunks/000001");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (shipper, _) = shipper(data.path(), 0);
        let Shipped::Bad(bad) = shipper.ship(id, &labels(), false).await.unwrap() else { panic!("it is damaged") };
        assert!(bad.reason == SkipReason::Damaged && bad.message.contains("chunks/000001"), "{bad:?}");
        assert!(shipper.catalogue.own().await.unwrap().is_empty());
    }
}
