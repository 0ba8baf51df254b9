//! A bucket in memory, blocks in it, and what a reader finds.

use super::super::look::FORGOTTEN;
use super::super::pass::Tenure;
use super::super::share::{ALL as SCOPE, Share};
use super::super::{Compactor, Fault, Options};
use crate::server::Context;
use async_trait::async_trait;
use bucket::layers::around::Around;
use bucket::lease::{Attempt, Contender, Lease};
use bucket::store::{Condition, Page, Source, Store};
use bucket::{Bucket, Kind, Memory, Meta, Object, Operation, Version, block};
use bytes::Bytes;
use futures::FutureExt as _;
use model::world::{Clock, Entropy, World};
use model::{BlockId, Labels};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tsdb::block::{Block, Writer};
use tsdb::chunk::aggregate::{Aggregate, Container};
use tsdb::chunk::{Columns, Encoding, XorEncoder, floats};
use tsdb::disk::{Disk, MemoryDisk};
use tsdb::meta::{BlockMeta, File, Thanos, UploadTime};
use tsdb::plan::Settings;
use tsdb::segment::NewChunk;
use tsdb::series::Blocks;

pub(super) const HOUR: i64 = 3_600_000;
pub(super) const DAY: i64 = 24 * HOUR;
/// The begin of all blocks: the begin of a window of each width.
pub(super) const T0: i64 = 1_000 * 14 * DAY;
/// How long leases last.
pub(super) const TTL: Duration = Duration::from_secs(60);

/// Series by labels (those of the block included) and samples: bits of the value by time.
pub(super) type Samples = BTreeMap<Labels, BTreeMap<i64, u64>>;

/// The windows of five minutes of which 5m blocks tell, by series.
pub(super) type Windows = BTreeMap<Labels, BTreeSet<i64>>;

/// All objects of a bucket.
pub(super) type Objects = BTreeMap<String, Bytes>;

/// A clock that a test moves.
pub(super) struct Hands(AtomicI64);

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_ms().unsigned_abs())
    }
}

/// Seeded.
pub(super) struct Dice(pub(super) AtomicU64);

impl Entropy for Dice {
    fn next_u64(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Where and when it all happens.
pub(super) struct Site {
    pub(super) world: World,
    hands: Arc<Hands>,
    pub(super) memory: Memory,
    pub(super) disk: MemoryDisk,
    pub(super) settings: Settings,
    /// Of all blocks that were put in.
    pub(super) samples: Samples,
    /// Work runs where it stands, on no other thread: cheaper.
    pub(super) inline: bool,
    made: u64,
}

impl Site {
    pub(super) fn new(settings: Settings) -> Self {
        let hands = Arc::new(Hands(AtomicI64::new(T0 + 100 * DAY)));
        let world = World { clock: hands.clone(), entropy: Arc::new(Dice(AtomicU64::new(7))) };
        let memory = Memory::new(hands.clone());
        Self {
            world,
            hands,
            memory,
            disk: MemoryDisk::new(),
            settings,
            samples: Samples::new(),
            inline: false,
            made: 0,
        }
    }

    /// The same bucket in a world of its own.
    pub(super) fn copy(&self) -> Self {
        let mut copy = Self::new(self.settings.clone());
        for (path, bytes) in self.memory.snapshot() {
            let put = copy.memory.put(&path, bytes, Condition::None).now_or_never();
            put.unwrap().unwrap();
        }
        (copy.samples, copy.inline, copy.made) = (self.samples.clone(), self.inline, self.made);
        copy
    }

    pub(super) fn pass_time(&self, ms: i64) {
        self.hands.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// The bucket over another store, as with its own connections.
    pub(super) fn bucket(&self, store: impl Into<Arc<dyn Store>>) -> Bucket {
        Bucket::over(store.into(), "test", bucket::Options::new(self.world.clone()))
    }

    pub(super) fn own_bucket(&self) -> Bucket {
        self.bucket(self.memory.clone())
    }

    pub(super) fn compactor(&self, name: &str, disk: Arc<dyn Disk>) -> Compactor {
        let context = Context::new("compact", self.world.clone());
        let options = Options {
            name: name.to_owned(),
            lease: TTL,
            compactions: 2,
            downsamplings: 1,
            fetches: 2,
            files: 2,
            metas: 8,
            dedup: tsdb::series::Dedup::Merge,
            hash: args::HashFunc::None,
            cleanup: Duration::from_secs(300),
            count: Duration::ZERO,
            wanted: |_| true,
            inline: self.inline,
            told: None,
            free: |_| None,
        };
        Compactor::new(disk, Path::new("/data").to_owned(), (self.settings.clone(), Share::all()), options, &context)
    }

    /// The lease, waited for.
    pub(super) async fn lease(&self, bucket: &Bucket, name: &str) -> Lease {
        let mut contender = Contender::new(bucket.clone(), SCOPE, "", name, TTL);
        for _ in 0..3 {
            match contender.attempt().await.unwrap() {
                Attempt::Held(lease) => return lease,
                Attempt::StandBy(_, left) => self.pass_time(left.as_millis() as i64),
            }
        }
        panic!("no lease");
    }

    /// One pass of a compactor of its own, which gives its lease back if it can.
    pub(super) async fn pass(&self, bucket: &Bucket, disk: Arc<dyn Disk>) -> Result<(), Fault> {
        let compactor = self.compactor("one", disk);
        let mut contender = Contender::new(bucket.clone(), SCOPE, "", "one", TTL);
        let lease = loop {
            match contender.attempt().await? {
                Attempt::Held(lease) => break lease,
                Attempt::StandBy(_, left) => {
                    // Whichever clock this site goes by.
                    self.pass_time(left.as_millis() as i64);
                    tokio::time::sleep(left).await;
                }
            }
        };
        let outcome = Tenure::new(&compactor, bucket, &lease).pass(&compactor).await;
        lease.release().await;
        outcome
    }

    /// Puts a block as a sidecar does, committed to the catalogue: `begin` and `width` in ms after [`T0`].
    pub(super) async fn block(&mut self, begin: i64, width: i64, labels: &[(&str, &str)]) -> BlockId {
        let (disk, dir) = self.made(begin, width, labels);
        send(&self.own_bucket(), &disk, &dir).await.id
    }

    /// Makes a block on a disk of its own; its samples are asked for from now on.
    pub(super) fn made(&mut self, begin: i64, width: i64, labels: &[(&str, &str)]) -> (MemoryDisk, PathBuf) {
        self.made += 1;
        let id = BlockId::from_parts((T0 + begin).unsigned_abs() + self.made, u128::from(self.made));
        let mut meta = BlockMeta::new(id, T0 + begin, T0 + begin + width);
        let external: BTreeMap<String, String> =
            labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let uploaded = UploadTime::from_ms(T0 + begin + width);
        meta.thanos =
            Some(Thanos { labels: external, source: "sidecar".into(), upload_time: uploaded, ..Thanos::default() });
        let disk = MemoryDisk::new();
        write(&disk, meta);
        let dir = Path::new("/b").join(id.to_string());
        add(&mut self.samples, &Block::open(&disk, &dir).unwrap());
        (disk, dir)
    }

    /// Names of all objects under a prefix.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.memory.snapshot().into_keys().filter(|k| k.starts_with(prefix)).collect()
    }

    /// The blocks with a good meta.json, and whether they are marked for deletion.
    pub(super) fn blocks(&self) -> BTreeMap<BlockId, (BlockMeta, bool)> {
        blocks(&self.memory.snapshot())
    }

    /// Whether a reader finds every sample that was put in, in whole blocks; and, if all is `done`, each once, and no garbage.
    pub(super) fn verify(&self, done: bool) -> Result<(), String> {
        let all = self.memory.snapshot();
        let blocks = blocks(&all);
        let (found, coarse) = content(&all, |_| true)?;
        for (series, samples) in &self.samples {
            let got = found.get(series);
            if got == Some(samples) {
                continue;
            }
            // Dropped by retention: then the coarser copy tells of it. Samples are ten minutes apart, so each has its window.
            let told = |t: &i64| coarse.get(series).is_some_and(|all| all.contains(&t.div_euclid(300_000)));
            let missing = samples.iter().filter(|(t, v)| got.and_then(|g| g.get(*t)) != Some(*v));
            let lost: Vec<i64> =
                missing.map(|(t, _)| *t).filter(|t| self.settings.retention.raw == 0 || !told(t)).collect();
            if !lost.is_empty() {
                return Err(format!("lost: {} of {} samples of {series}", lost.len(), samples.len()));
            }
        }
        if let Some(other) = found.keys().find(|s| !self.samples.contains_key(*s)) {
            return Err(format!("made up: {other}"));
        }
        if !done {
            return Ok(());
        }
        let live: Vec<&BlockMeta> = blocks.values().filter(|(_, marked)| !marked).map(|(m, _)| m).collect();
        for (i, a) in live.iter().enumerate() {
            for b in live.iter().skip(i + 1) {
                let same = (a.resolution(), a.labels()) == (b.resolution(), b.labels());
                if same && a.min_time < b.max_time && b.min_time < a.max_time {
                    return Err(format!("duplicated: {} and {} overlap", a.id, b.id));
                }
            }
        }
        // An id is closed for some days after its upload was cleared away.
        let now = self.world.clock.now_ms();
        let closed = |id: &BlockId, path: &str, bytes: &[u8]| {
            path.ends_with(block::META) && block::is_closed(bytes) && now - (id.time_ms() as i64) < FORGOTTEN + DAY
        };
        let named = all.iter().filter_map(|(path, bytes)| block::parse(path).map(|(id, _)| (id, path, bytes)));
        let ids: BTreeSet<BlockId> =
            named.filter(|(id, path, bytes)| !closed(id, path, bytes)).map(|(id, ..)| id).collect();
        match ids.iter().find(|id| !blocks.contains_key(id)) {
            Some(id) => Err(format!("garbage: {:?}", self.names(&block::directory(*id)))),
            None => Ok(()),
        }
    }
}

/// The blocks of a bucket that have a good meta.json, and whether they are marked for deletion.
pub(super) fn blocks(all: &Objects) -> BTreeMap<BlockId, (BlockMeta, bool)> {
    let metas = all.iter().filter_map(|(path, bytes)| {
        let (id, block::META) = block::parse(path)? else { return None };
        let marked = all.contains_key(&block::object(id, block::DELETION_MARK));
        Some((id, (BlockMeta::read(path, bytes).ok()?, marked)))
    });
    metas.collect()
}

/// Whether all files of a block are there, as large as its meta.json says.
pub(super) fn whole(all: &Objects, meta: &BlockMeta) -> Result<(), String> {
    for file in meta.thanos.iter().flat_map(|t| &t.files) {
        let path = block::object(meta.id, &file.rel_path);
        let bytes = all.get(&path).ok_or_else(|| format!("a visible block lacks a file: {path}"))?;
        if file.size_bytes > 0 && file.size_bytes != bytes.len() as u64 {
            return Err(format!("a visible block has a short file: {path}"));
        }
    }
    Ok(())
}

/// What one block holds; of raw ones samples, of those of five minutes windows.
type Content = Arc<(Samples, Windows)>;

thread_local! {
    /// What was decoded before, with all bytes that it was decoded of: most blocks are verified again and again.
    static DECODED: RefCell<BTreeMap<BlockId, (Vec<Bytes>, Content)>> = const { RefCell::new(BTreeMap::new()) };
}
/// Blocks that are remembered.
const REMEMBERED: usize = 256;

fn decoded(all: &Objects, meta: &BlockMeta) -> Result<Content, String> {
    whole(all, meta)?;
    let files = || meta.thanos.iter().flat_map(|t| &t.files);
    let paths = files().map(|f| f.rel_path.as_str()).chain([block::META]);
    let bytes: Vec<Bytes> = paths.map(|f| all[&block::object(meta.id, f)].clone()).collect();
    let known = DECODED.with_borrow(|d| d.get(&meta.id).filter(|(b, _)| *b == bytes).map(|(_, c)| Arc::clone(c)));
    if let Some(content) = known {
        return Ok(content);
    }
    let disk = MemoryDisk::new();
    let dir = Path::new("/b").join(meta.id.to_string());
    disk.create_dir(&dir.join("chunks")).unwrap();
    for file in files() {
        tsdb::disk::replace(&disk, &dir.join(&file.rel_path), &all[&block::object(meta.id, &file.rel_path)]).unwrap();
    }
    let block = Block::open(&disk, &dir).map_err(|e| format!("a visible block can't be opened: {e}"))?;
    let (mut samples, mut coarse) = (Samples::new(), Windows::new());
    match meta.resolution() {
        0 => add(&mut samples, &block),
        300_000 => windows(&mut coarse, &block),
        _ => {}
    }
    let content = Arc::new((samples, coarse));
    DECODED.with_borrow_mut(|decoded| {
        if decoded.len() >= REMEMBERED {
            decoded.clear();
        }
        decoded.insert(meta.id, (bytes, Arc::clone(&content)));
    });
    Ok(content)
}

/// The samples of blocks, and the windows of five minutes that coarser blocks tell of; an error if one lacks a file.
pub(super) fn content(all: &Objects, wanted: impl Fn(&BlockId) -> bool) -> Result<(Samples, Windows), String> {
    let (mut found, mut coarse) = (Samples::new(), Windows::new());
    for (_, (meta, _)) in blocks(all).iter().filter(|(id, _)| wanted(id)) {
        let content = decoded(all, meta)?;
        for (series, samples) in &content.0 {
            let to = found.entry(series.clone()).or_default();
            for (t, v) in samples {
                let before = to.insert(*t, *v);
                assert!(before.is_none_or(|b| b == *v), "altered: {series} at {t}");
            }
        }
        for (series, windows) in &content.1 {
            coarse.entry(series.clone()).or_default().extend(windows);
        }
    }
    Ok((found, coarse))
}

/// The id that a block's folder is named after.
pub(super) fn id(dir: &Path) -> BlockId {
    dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).unwrap()
}

/// Does something to each, half of them on another thread; in their order, or the first failure.
pub(super) fn on_two_cores<T: Sync, R: Send>(
    all: &[T],
    one: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let some = || {
        let mut done = Vec::new();
        while let Some((n, each)) = Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|n| Some((n, all.get(n)?))) {
            if failed.load(Ordering::SeqCst) {
                break;
            }
            let result = one(each);
            failed.fetch_or(result.is_err(), Ordering::SeqCst);
            done.push((n, result));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let other = scope.spawn(some);
        let mut done = some();
        done.extend(other.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        done
    });
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The settings of most tests: defaults without a consistency delay.
pub(super) fn raw() -> Settings {
    Settings { consistency_delay: 0, ..Settings::default() }
}

/// Writes a block of three series with a sample every ten minutes; the value tells time and series.
fn write(disk: &MemoryDisk, meta: BlockMeta) {
    let parent = Path::new("/b");
    disk.create_dir(parent).unwrap();
    let (begin, end) = (meta.min_time, meta.max_time);
    let mut writer = Writer::create(disk, parent, meta).unwrap();
    for symbol in ["__name__", "a", "b", "c", "up"] {
        writer.add_symbol(symbol).unwrap();
    }
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        let mut encoder = XorEncoder::default();
        let mut t = begin;
        while t < end {
            encoder.append(t, (t - T0) as f64 / 1e3 + n as f64 / 4.0).unwrap();
            t += 600_000;
        }
        let data = encoder.bytes();
        let chunk = NewChunk { encoding: Encoding::Xor, data: &data, min_time: begin, max_time: t - 600_000 };
        writer.add_series(&Labels::from_pairs([("__name__", "up"), (name, "a")]), &[chunk]).unwrap();
    }
    writer.finish().unwrap();
}

/// Puts a block that lies on a disk into a bucket, as producers do.
pub(super) async fn send(bucket: &Bucket, disk: &MemoryDisk, dir: &Path) -> BlockMeta {
    let mut meta = tsdb::block::read_meta(disk, dir).unwrap();
    let producer = bucket::catalogue::Producer::new(bucket.clone(), "sidecar-x").unwrap();
    let mut files: Vec<String> =
        disk.list(&dir.join("chunks")).unwrap().into_iter().map(|e| format!("chunks/{}", e.name)).collect();
    files.push("index".to_owned());
    producer.intent(meta.id, Vec::new()).await.unwrap();
    let listed = files.iter().map(|f| File::new(f, disk.size(&dir.join(f)).unwrap()));
    meta.thanos.as_mut().unwrap().files = listed.chain([File::new("meta.json", 0)]).collect();
    for file in files {
        let bytes = disk.read(&dir.join(&file), u64::MAX).unwrap();
        bucket.put(&block::object(meta.id, &file), bytes).await.unwrap();
    }
    bucket.create(&block::object(meta.id, block::META), meta.write().unwrap()).await.unwrap();
    producer.commit(&meta).await.unwrap();
    meta
}

fn labels(block: &Block, labels: &Labels) -> Labels {
    block.meta().labels().iter().fold(labels.clone(), |all, (name, value)| all.with(name, value))
}

/// Adds the samples of a raw block.
fn add(to: &mut Samples, block: &Block) {
    for series in Blocks::all(block).unwrap() {
        let series = series.unwrap();
        let samples = to.entry(labels(block, &series.labels)).or_default();
        for chunk in &series.chunks {
            let mut columns = Columns::default();
            floats(chunk.encoding, &chunk.data, &mut columns).unwrap();
            for (t, v) in columns.times.iter().zip(&columns.values) {
                let before = samples.insert(*t, v.to_bits());
                assert!(before.is_none_or(|b| b == v.to_bits()), "altered: {} at {t}", series.labels);
            }
        }
    }
}

/// Adds the windows of which a 5m block tells that there was one sample.
fn windows(to: &mut Windows, block: &Block) {
    for series in Blocks::all(block).unwrap() {
        let series = series.unwrap();
        let all = to.entry(labels(block, &series.labels)).or_default();
        for chunk in &series.chunks {
            let container = Container::parse(&chunk.data).unwrap();
            let (encoding, data) = container.get(Aggregate::Count).unwrap();
            let mut columns = Columns::default();
            floats(*encoding, data, &mut columns).unwrap();
            assert!(
                columns.values.iter().all(|n| *n == 1.0),
                "a window counts more samples than it has: {}",
                series.labels
            );
            all.extend(columns.times.iter().map(|t| t.div_euclid(300_000)));
        }
    }
}

/// How a process ends at a change of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The change is never sent.
    Before,
    /// It is made, and nobody hears of it.
    After,
}

/// A way to the bucket that breaks at the change of a number, for ever.
#[derive(Debug, Clone)]
pub(super) struct Breaking {
    inner: Memory,
    at: u64,
    ends: Ends,
    changes: Arc<AtomicU64>,
}

impl Breaking {
    pub(super) fn new(inner: Memory, at: u64, ends: Ends) -> Self {
        Self { inner, at, ends, changes: Arc::default() }
    }

    /// Changes that were tried.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn broken(&self) -> bucket::Error {
        bucket::Error::new(Kind::Denied, Operation::Upload, "", "the process has ended")
    }

    fn read(&self) -> bucket::Result<()> {
        if self.changes() > self.at { Err(self.broken()) } else { Ok(()) }
    }

    /// Whether the change may be made, and its answer be heard.
    fn change(&self) -> (bool, bool) {
        let number = self.changes.fetch_add(1, Ordering::SeqCst);
        (number < self.at || (number == self.at && self.ends == Ends::After), number < self.at)
    }
}

impl From<Breaking> for Arc<dyn Store> {
    fn from(store: Breaking) -> Self {
        Arc::new(store)
    }
}

macro_rules! changing {
    ($self:ident, $call:expr) => {{
        let (made, heard) = $self.change();
        if !made {
            return Err($self.broken());
        }
        let answer = $call.await;
        if heard { answer } else { Err($self.broken()) }
    }};
}

#[async_trait]
impl Around for Breaking {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> bucket::Result<Object> {
        self.read()?;
        self.inner.get(path, range, max).await
    }
    async fn head(&self, path: &str) -> bucket::Result<Meta> {
        self.read()?;
        self.inner.head(path).await
    }
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> bucket::Result<Page> {
        self.read()?;
        self.inner.list(prefix, one_level, token).await
    }
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> bucket::Result<Version> {
        changing!(self, self.inner.put(path, body, condition))
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> bucket::Result<Version> {
        changing!(self, self.inner.upload(path, source))
    }
    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> bucket::Result<Version> {
        changing!(self, self.inner.complete_parts(path, id, parts))
    }
    async fn delete(&self, path: &str) -> bucket::Result<()> {
        changing!(self, self.inner.delete(path))
    }
}
