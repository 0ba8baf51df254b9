//! Index-headers: one file per block on the local disk (`<data-dir>/index-headers/<ULID>-<edition>`, in Thanos's format), fetched
//! by ranged reads, mapped at first use, closed when idle. Open ones are bounded in number and bytes, files in bytes: those not
//! used for longest are removed, and fetched again when they are needed. Who holds one goes on.
//!
//! A file that is damaged is fetched again. Fetching happens once, however many requests wait for it, and goes on when they
//! have left, so that it is there when they come back.

mod fetch;
mod recent;

use super::Trouble;
use super::blocks::{Block, Edition};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared as Joined};
use model::BlockId;
use model::world::World;
use parking_lot::Mutex;
use recent::Recent;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tsdb::disk::Disk;
use tsdb::header::{HEADER_FILE, Reader};

/// The folder of files, in the data directory.
const FOLDER: &str = "index-headers";

/// What is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Index-headers that are open at the same time.
    pub open: usize,
    /// Bytes of them.
    pub open_bytes: u64,
    /// Bytes of files on disk; 0 is no limit. One file may be larger.
    pub disk_bytes: u64,
    /// How long one stays open after its last use.
    pub idle: Duration,
    /// Index-headers that are fetched at the same time.
    pub fetches: usize,
    /// Longest time that fetching one may take, waiting for its turn not counted.
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
    /// Removed from the local disk to make room.
    pub evicted: AtomicU64,
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
    known: Mutex<Known>,
    loading: Mutex<HashMap<Edition, Loading>>,
    gate: Semaphore,
    /// Mebibytes that fetching may hold.
    room: Semaphore,
    counts: Counts,
}

/// Open index-headers, and files.
#[derive(Default)]
struct Known {
    open: Recent<Arc<Reader>>,
    files: Recent<()>,
}

impl Known {
    fn get(&mut self, edition: &Edition, now: Duration) -> Option<Arc<Reader>> {
        let reader = self.open.get(edition, now).map(Arc::clone)?;
        self.files.get(edition, now);
        Some(reader)
    }

    /// Closes what is too much. The newest always stays: it is in use.
    fn close_most(&mut self, limits: &Limits) -> u64 {
        let mut closed = 0;
        while self.open.len() > 1 && (self.open.len() > limits.open || self.open.bytes() > limits.open_bytes) {
            let Some((oldest, _)) = self.open.oldest() else { break };
            self.open.remove(&oldest);
            closed += 1;
        }
        closed
    }

    fn close_idle(&mut self, now: Duration, idle: Duration) -> u64 {
        let mut closed = 0;
        while let Some((oldest, at)) = self.open.oldest() {
            if now.saturating_sub(at) < idle {
                break;
            }
            self.open.remove(&oldest);
            closed += 1;
        }
        closed
    }

    /// Takes files off the list until what is left fits; they are to be removed.
    fn shrink(&mut self, most: u64) -> Vec<Edition> {
        let mut gone = Vec::new();
        while most > 0 && self.files.len() > 1 && self.files.bytes() > most {
            let Some((oldest, _)) = self.files.oldest() else { break };
            self.files.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }
}

impl Headers {
    /// Index-headers under `dir`.
    pub fn new(dir: PathBuf, disk: Arc<dyn Disk>, world: World, limits: Limits) -> Self {
        let shared = Shared {
            dir,
            disk,
            world,
            limits,
            known: Mutex::default(),
            loading: Mutex::default(),
            gate: Semaphore::new(limits.fetches.max(1)),
            room: fetch::room(),
            counts: Counts::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Learns which files there are already, and removes what is none: call it once, before anything else.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn scan(&self) -> Result<(), Trouble> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let (now, folder) = (shared.world.clock.elapsed(), shared.dir.join(FOLDER));
            shared.disk.create_dir(&folder)?;
            for file in shared.disk.list(&folder)? {
                match edition_of(&file.name) {
                    Some(edition) => shared.known.lock().files.insert(edition, (), file.size, now),
                    None => shared.disk.remove_file(&folder.join(&file.name))?,
                }
            }
            // Folders of blocks, as Thanos and earlier versions have them.
            for entry in shared.disk.list(&shared.dir)? {
                if entry.is_dir && entry.name.parse::<BlockId>().is_ok() {
                    shared.disk.remove_dir(&shared.dir.join(&entry.name))?;
                }
            }
            let gone = shared.known.lock().shrink(shared.limits.disk_bytes);
            shared.remove(&gone)
        })
        .await
    }

    /// The index-header of a block.
    pub async fn get(&self, block: &Arc<Block>) -> Result<Arc<Reader>, Trouble> {
        let (shared, edition) = (&self.shared, block.edition());
        if let Some(reader) = shared.known.lock().get(&edition, shared.world.clock.elapsed()) {
            return Ok(reader);
        }
        let loading = {
            let mut loading = shared.loading.lock();
            match loading.get(&edition) {
                Some(joined) => joined.clone(),
                None => {
                    let task = tokio::spawn(Arc::clone(shared).load(Arc::clone(block)));
                    let joined = async move {
                        task.await
                            .unwrap_or_else(|e| Err(Trouble::Unavailable(format!("fetching an index-header: {e}"))))
                    };
                    let joined = joined.boxed().shared();
                    loading.insert(edition, joined.clone());
                    joined
                }
            }
        };
        loading.await
    }

    /// Makes sure that the file is there, as long as there is room for more.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn fetch(&self, block: &Arc<Block>) -> Result<(), Trouble> {
        let is_enough = {
            let (known, most) = (self.shared.known.lock(), self.shared.limits.disk_bytes);
            known.files.has(&block.edition()) || most > 0 && known.files.bytes() >= most
        };
        if is_enough { Ok(()) } else { self.get(block).await.map(drop) }
    }

    /// Closes those that nobody used for a while.
    pub fn close_idle(&self) {
        let shared = &self.shared;
        let closed = shared.known.lock().close_idle(shared.world.clock.elapsed(), shared.limits.idle);
        shared.counts.unloads.fetch_add(closed, Ordering::Relaxed);
    }

    /// Removes the files of editions that are not to be kept.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn sweep(&self, keep: impl Fn(&Edition) -> bool + Send + 'static) -> Result<(), Trouble> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let gone: Vec<Edition> = {
                let (busy, mut known) = (shared.loading.lock(), shared.known.lock());
                let is_over = |e: &&Edition| !keep(e) && !busy.contains_key(e);
                let gone: Vec<Edition> = known.files.editions().filter(is_over).copied().collect();
                for edition in &gone {
                    known.files.remove(edition);
                }
                gone
            };
            shared.remove(&gone)
        })
        .await
    }

    /// How many are open, and their bytes.
    pub fn open(&self) -> (usize, u64) {
        let known = self.shared.known.lock();
        (known.open.len(), known.open.bytes())
    }

    /// How many files there are, and their bytes.
    pub fn files(&self) -> (usize, u64) {
        let known = self.shared.known.lock();
        (known.files.len(), known.files.bytes())
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

/// The name of a file.
fn file_name(edition: &Edition) -> String {
    format!("{}-{:08x}-{:016x}", edition.id, edition.bucket, edition.content)
}

/// What [`file_name`] was made of.
fn edition_of(name: &str) -> Option<Edition> {
    let (id, rest) = name.split_once('-')?;
    let (bucket, content) = rest.split_once('-')?;
    let bucket = u32::from_str_radix(bucket, 16).ok()?;
    let edition = Edition { id: id.parse().ok()?, bucket, content: u64::from_str_radix(content, 16).ok()? };
    (file_name(&edition) == name).then_some(edition)
}

/// Takes a block out of those that are being loaded, however that ends.
struct Done<'a> {
    shared: &'a Shared,
    edition: Edition,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.shared.loading.lock().remove(&self.edition);
    }
}

impl Shared {
    fn path(&self, edition: &Edition) -> PathBuf {
        self.dir.join(FOLDER).join(file_name(edition))
    }

    /// Removes files that are on no list any more, and closes them.
    fn remove(&self, gone: &[Edition]) -> tsdb::Result<()> {
        for edition in gone {
            if self.known.lock().open.remove(edition).is_some() {
                self.counts.unloads.fetch_add(1, Ordering::Relaxed);
            }
            self.disk.remove_file(&self.path(edition))?;
        }
        Ok(())
    }

    async fn load(self: Arc<Self>, block: Arc<Block>) -> Result<Arc<Reader>, Trouble> {
        let edition = block.edition();
        // Goes last: whoever comes from then on finds it open, or tries anew.
        let _done = Done { shared: &self, edition };
        let begin = self.world.clock.elapsed();
        let outcome = self.open_or_fetch(&block).await;
        let now = self.world.clock.elapsed();
        let took = u64::try_from(now.saturating_sub(begin).as_micros()).unwrap_or(u64::MAX);
        self.counts.load_us.fetch_add(took, Ordering::Relaxed);
        match &outcome {
            Ok(reader) => {
                let (closed, gone) = {
                    let mut known = self.known.lock();
                    known.open.insert(edition, Arc::clone(reader), reader.size(), now);
                    known.files.insert(edition, (), reader.size(), now);
                    (known.close_most(&self.limits), known.shrink(self.limits.disk_bytes))
                };
                self.counts.loads.fetch_add(1, Ordering::Relaxed);
                self.counts.unloads.fetch_add(closed, Ordering::Relaxed);
                self.counts.evicted.fetch_add(gone.len() as u64, Ordering::Relaxed);
                if !gone.is_empty() {
                    let shared = Arc::clone(&self);
                    if let Err(error) = blocking(move || shared.remove(&gone)).await {
                        tracing::warn!(%error, "index-headers on disk can't be removed to make room");
                    }
                }
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(block = %block.id, %error, "an index-header can't be had");
            }
        }
        outcome
    }

    async fn open_or_fetch(self: &Arc<Self>, block: &Arc<Block>) -> Result<Arc<Reader>, Trouble> {
        let path = self.path(&block.edition());
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
        let _turn = self.gate.acquire().await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        let reader = self.fetch(block, &path).await?;
        self.counts.fetched.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(reader))
    }

    async fn open_file(&self, path: &Path) -> tsdb::Result<Arc<Reader>> {
        let (disk, path) = (Arc::clone(&self.disk), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let bytes = disk.open(&path)?;
            Reader::open(path.display().to_string(), bytes).map(Arc::new)
        });
        opened.await.unwrap_or_else(|e| Err(tsdb::Error::refused(HEADER_FILE, "open", e.to_string())))
    }
}

#[cfg(test)]
mod tests;
