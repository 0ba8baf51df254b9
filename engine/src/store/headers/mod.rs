//! Index-headers: one file per block on the local disk (`<data-dir>/<ULID>/index-header`, in Thanos's format), fetched by
//! ranged reads, mapped at first use, closed when idle; bounded in number and bytes of open ones.
//!
//! A file that is damaged is fetched again. Fetching happens once, however many requests wait for it, and goes on when they
//! have left, so that it is there when they come back.

use super::Trouble;
use super::blocks::Block;
use super::ranges::File;
use bucket::Bucket;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared as Joined};
use model::BlockId;
use model::world::World;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tsdb::disk::Disk;
use tsdb::header::{self, HEADER_FILE, Reader};
use tsdb::index::{HEADER_LEN, TOC_LEN};

/// An index up to this many bytes is fetched by one read.
const WHOLE: u64 = 1 << 20;
/// Of a larger one, this many bytes at its end come with the first read: the table of contents, and often all of the table.
const TAIL: u64 = 256 << 10;
/// Most bytes that are fetched at once, as [`header::build`] asks for them.
const PART: u64 = 16 << 20;

/// What is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Index-headers that are open at the same time.
    pub open: usize,
    /// Bytes of them.
    pub open_bytes: u64,
    /// How long one stays open after its last use.
    pub idle: Duration,
    /// Index-headers that are fetched at the same time.
    pub fetches: usize,
    /// Longest time that fetching one may take.
    pub deadline: Duration,
}

/// What has happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Opened.
    pub loads: AtomicU64,
    /// Could not be opened or fetched.
    pub failed: AtomicU64,
    /// Closed.
    pub unloads: AtomicU64,
    /// Fetched from the bucket.
    pub fetched: AtomicU64,
    /// Found damaged on the local disk, and fetched again.
    pub rebuilt: AtomicU64,
    /// Time spent on opening and fetching, in microseconds.
    pub load_us: AtomicU64,
}

type Loading = Joined<BoxFuture<'static, Result<Arc<Reader>, Trouble>>>;

/// The pool of index-headers; clones share it.
#[derive(Clone)]
pub struct Headers {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    world: World,
    limits: Limits,
    open: Mutex<Open>,
    loading: Mutex<HashMap<BlockId, Loading>>,
    gate: Arc<Semaphore>,
    counts: Counts,
}

/// Open index-headers, and the order in which they were used.
#[derive(Default)]
struct Open {
    headers: HashMap<BlockId, Used>,
    by_use: BTreeMap<u64, BlockId>,
    uses: u64,
    bytes: u64,
}

struct Used {
    reader: Arc<Reader>,
    order: u64,
    at: Duration,
}

impl Open {
    fn get(&mut self, id: BlockId, now: Duration) -> Option<Arc<Reader>> {
        let used = self.headers.get_mut(&id)?;
        self.uses += 1;
        self.by_use.remove(&used.order);
        self.by_use.insert(self.uses, id);
        (used.order, used.at) = (self.uses, now);
        Some(Arc::clone(&used.reader))
    }

    fn remove(&mut self, id: BlockId) -> bool {
        let Some(used) = self.headers.remove(&id) else { return false };
        self.by_use.remove(&used.order);
        self.bytes = self.bytes.saturating_sub(used.reader.size());
        true
    }

    fn insert(&mut self, id: BlockId, reader: Arc<Reader>, now: Duration, limits: &Limits) -> u64 {
        self.remove(id);
        self.uses += 1;
        self.bytes += reader.size();
        self.by_use.insert(self.uses, id);
        self.headers.insert(id, Used { reader, order: self.uses, at: now });
        let mut closed = 0;
        // The newest always stays: it is in use.
        while self.headers.len() > 1 && (self.headers.len() > limits.open || self.bytes > limits.open_bytes) {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(oldest);
            closed += 1;
        }
        closed
    }

    fn close_idle(&mut self, now: Duration, idle: Duration) -> u64 {
        let mut closed = 0;
        while let Some((_, oldest)) = self.by_use.first_key_value() {
            let oldest = *oldest;
            let is_idle = self.headers.get(&oldest).is_none_or(|used| now.saturating_sub(used.at) >= idle);
            if !is_idle {
                break;
            }
            self.remove(oldest);
            closed += 1;
        }
        closed
    }
}

impl Headers {
    /// Index-headers under `dir`.
    pub fn new(dir: PathBuf, disk: Arc<dyn Disk>, world: World, limits: Limits) -> Self {
        let gate = Arc::new(Semaphore::new(limits.fetches.max(1)));
        let shared = Shared {
            dir,
            disk,
            world,
            limits,
            open: Mutex::default(),
            loading: Mutex::default(),
            gate,
            counts: Counts::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The index-header of a block.
    pub async fn get(&self, block: &Arc<Block>) -> Result<Arc<Reader>, Trouble> {
        let shared = &self.shared;
        if let Some(reader) = shared.open.lock().get(block.id, shared.world.clock.elapsed()) {
            return Ok(reader);
        }
        let loading = {
            let mut loading = shared.loading.lock();
            match loading.get(&block.id) {
                Some(joined) => joined.clone(),
                None => {
                    let task = tokio::spawn(Arc::clone(shared).load(Arc::clone(block)));
                    let joined = async move {
                        task.await
                            .unwrap_or_else(|e| Err(Trouble::Unavailable(format!("fetching an index-header: {e}"))))
                    };
                    let joined = joined.boxed().shared();
                    loading.insert(block.id, joined.clone());
                    joined
                }
            }
        };
        loading.await
    }

    /// Makes sure that the file is there, without opening it for good.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn fetch(&self, block: &Arc<Block>) -> Result<(), Trouble> {
        let path = self.shared.path(block.id);
        let disk = Arc::clone(&self.shared.disk);
        let there = blocking(move || disk.exists(&path)).await?;
        if there { Ok(()) } else { self.get(block).await.map(drop) }
    }

    /// Closes those that nobody used for a while.
    pub fn close_idle(&self) {
        let shared = &self.shared;
        let closed = shared.open.lock().close_idle(shared.world.clock.elapsed(), shared.limits.idle);
        shared.counts.unloads.fetch_add(closed, Ordering::Relaxed);
    }

    /// Removes the folders of blocks that are not to be kept, and what was left half written.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn sweep(&self, keep: impl Fn(BlockId) -> bool + Send + 'static) -> Result<(), Trouble> {
        let (shared, busy) = (Arc::clone(&self.shared), self.shared.loading.lock().keys().copied().collect::<Vec<_>>());
        blocking(move || {
            for entry in shared.disk.list(&shared.dir)? {
                let Some(id) = entry.name.parse::<BlockId>().ok().filter(|_| entry.is_dir) else { continue };
                if !keep(id) && !busy.contains(&id) {
                    if shared.open.lock().remove(id) {
                        shared.counts.unloads.fetch_add(1, Ordering::Relaxed);
                    }
                    shared.disk.remove_dir(&shared.dir.join(id.to_string()))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// How many are open, and their bytes.
    pub fn open(&self) -> (usize, u64) {
        let open = self.shared.open.lock();
        (open.headers.len(), open.bytes)
    }

    /// What has happened.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> tsdb::Result<T> + Send + 'static) -> Result<T, Trouble> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(e) => Err(Trouble::Unavailable(format!("work on a file ended: {e}"))),
    }
}

/// Takes a block out of those that are being loaded, however that ends.
struct Done<'a> {
    shared: &'a Shared,
    id: BlockId,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.shared.loading.lock().remove(&self.id);
    }
}

impl Shared {
    fn path(&self, id: BlockId) -> PathBuf {
        self.dir.join(id.to_string()).join(HEADER_FILE)
    }

    async fn load(self: Arc<Self>, block: Arc<Block>) -> Result<Arc<Reader>, Trouble> {
        // Goes last: whoever comes from then on finds it open, or tries anew.
        let _done = Done { shared: &self, id: block.id };
        let begin = self.world.clock.elapsed();
        let outcome = match tokio::time::timeout(self.limits.deadline, self.open_or_fetch(&block)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::Unavailable(format!(
                "the index-header of block {} was not there within {:?}",
                block.id, self.limits.deadline
            ))),
        };
        let now = self.world.clock.elapsed();
        let took = u64::try_from(now.saturating_sub(begin).as_micros()).unwrap_or(u64::MAX);
        self.counts.load_us.fetch_add(took, Ordering::Relaxed);
        match &outcome {
            Ok(reader) => {
                let closed = self.open.lock().insert(block.id, Arc::clone(reader), now, &self.limits);
                self.counts.loads.fetch_add(1, Ordering::Relaxed);
                self.counts.unloads.fetch_add(closed, Ordering::Relaxed);
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(block = %block.id, %error, "an index-header can't be had");
            }
        }
        outcome
    }

    async fn open_or_fetch(self: &Arc<Self>, block: &Arc<Block>) -> Result<Arc<Reader>, Trouble> {
        let path = self.path(block.id);
        match self.open_file(&path).await {
            Ok(reader) => return Ok(reader),
            Err(e) if e.is_not_found() => {}
            Err(error) if matches!(error.kind, tsdb::ErrorKind::Io(_)) => return Err(error.into()),
            // Whatever is wrong with the copy, another one can be had.
            Err(error) => {
                self.counts.rebuilt.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(block = %block.id, %error, "an index-header on disk is fetched again");
                let (disk, path) = (Arc::clone(&self.disk), path.clone());
                blocking(move || disk.remove_file(&path)).await?;
            }
        }
        let _turn = Arc::clone(&self.gate).acquire_owned().await;
        self.fetch(block, &path).await?;
        self.counts.fetched.fetch_add(1, Ordering::Relaxed);
        Ok(self.open_file(&path).await?)
    }

    async fn open_file(&self, path: &Path) -> tsdb::Result<Arc<Reader>> {
        let (disk, path) = (Arc::clone(&self.disk), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let bytes = disk.open(&path)?;
            Reader::open(path.display().to_string(), bytes).map(Arc::new)
        });
        opened.await.unwrap_or_else(|e| Err(tsdb::Error::refused(HEADER_FILE, "open", e.to_string())))
    }

    /// Fetches what makes up the header: one read for a small index; for others the end, then what is before it.
    async fn fetch(self: &Arc<Self>, block: &Block, path: &Path) -> Result<(), Trouble> {
        let bucket = block.home.ranges.bucket()?;
        let object = File::Index.object(block.id);
        let size = match block.index_bytes {
            0 => bucket.head(&object).await?.size,
            size => size,
        };
        let have = match self.first(&bucket, &object, size).await {
            // What was told of its size is not so: ask.
            Err(Trouble::Damaged(_)) if block.index_bytes > 0 => {
                let told = bucket.head(&object).await?.size;
                if told != size {
                    return Err(Trouble::Damaged(format!("{object} has {told} bytes, meta.json says {size}")));
                }
                self.first(&bucket, &object, size).await?
            }
            have => have?,
        };
        let (disk, path, handle) = (Arc::clone(&self.disk), path.to_owned(), tokio::runtime::Handle::current());
        let deadline = self.limits.deadline;
        blocking(move || {
            if let Some(dir) = path.parent() {
                disk.create_dir(dir)?;
            }
            let failed = Mutex::new(None);
            let built = header::build(&*disk, &path, &object, size, |range| {
                if let Some(bytes) = have.iter().find_map(|(at, bytes)| cut(*at, bytes, &range)) {
                    return Ok(bytes);
                }
                // Whoever waits for this thread gives up, but the thread does not end with that.
                let read = async { tokio::time::timeout(deadline, bucket.get_range(&object, range.clone())).await };
                let late = |_| tsdb::Error::refused(&object, "fetch", format!("no answer within {deadline:?}"));
                handle.block_on(read).map_err(late)?.map_err(|e| {
                    let shown = e.to_string();
                    *failed.lock() = Some(e);
                    tsdb::Error::refused(&object, "fetch", shown)
                })
            });
            Ok((built, failed.into_inner()))
        })
        .await
        .and_then(|(built, failed)| match (built, failed) {
            (_, Some(error)) => Err(error.into()),
            (built, None) => Ok(built?),
        })
    }

    /// What is fetched before the rest is known: pieces of the index, with where they begin.
    async fn first(&self, bucket: &Bucket, object: &str, size: u64) -> Result<Vec<(u64, Bytes)>, Trouble> {
        if size <= WHOLE {
            return Ok(vec![(0, bucket.get_range(object, 0..size).await?)]);
        }
        let at = size.saturating_sub(TAIL);
        let tail = bucket.get_range(object, at..size).await?;
        let end = usize::try_from(size - at).unwrap_or(0);
        let toc = tail.get(end.saturating_sub(TOC_LEN)..).unwrap_or_default();
        let toc = tsdb::index::Toc::read(object, toc, size)?;
        // Begin and symbols are one read; the table may be in the tail, or its begin is fetched when it is asked for.
        let symbols = toc.series.max(HEADER_LEN as u64).min(PART);
        let head = bucket.get_range(object, 0..symbols).await?;
        let mut have = vec![(0, head), (at, tail)];
        if toc.postings_table < at && size - toc.postings_table <= PART {
            let before = bucket.get_range(object, toc.postings_table..at).await?;
            if let (Some((_, tail)), true) = (have.pop(), before.len() as u64 == at - toc.postings_table) {
                let mut table = Vec::with_capacity(before.len() + tail.len());
                table.extend_from_slice(&before);
                table.extend_from_slice(&tail);
                have.push((toc.postings_table, table.into()));
            }
        }
        Ok(have)
    }
}

/// `range` out of bytes that begin at `at`, if all of it is there.
fn cut(at: u64, bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let from = usize::try_from(range.start.checked_sub(at)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(at)?).ok()?;
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}

#[cfg(test)]
mod tests;
