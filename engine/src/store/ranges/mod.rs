//! Ranges of files of blocks: coalesced, each read once however many want it, bounded in number and time, a slow read sent a
//! second time; pages of what was read are kept on the local disk.

mod ahead;
mod flight;
mod hedge;
mod page;

pub use page::Pages;

use super::Trouble;
use super::blocks::Edition;
use arc_swap::ArcSwapOption;
use bucket::{Bucket, block};
use bytes::Bytes;
use flight::Flights;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use hedge::Hedge;
use model::BlockId;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A file of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum File {
    /// `index`.
    Index,
    /// `chunks/NNNNNN`, with this number, from 1.
    Segment(u32),
}

impl File {
    /// Its name in the bucket.
    pub fn object(self, id: BlockId) -> String {
        match self {
            Self::Index => block::object(id, block::INDEX),
            Self::Segment(number) => block::object(id, &block::segment(number)),
        }
    }
}

/// What one request may read and has read.
#[derive(Debug, Default)]
pub struct Budget {
    limit: u64,
    asked: AtomicU64,
    fetched: AtomicU64,
    requests: AtomicU64,
}

impl Budget {
    /// At most `limit` bytes; 0 is no limit.
    pub fn new(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes bytes from the budget, before they are read.
    ///
    /// # Errors
    /// [`Trouble::OverBudget`].
    pub fn take(&self, bytes: u64) -> Result<(), Trouble> {
        let asked = self.asked.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if self.limit > 0 && asked > self.limit {
            return Err(Trouble::OverBudget { limit: self.limit });
        }
        Ok(())
    }

    /// True if so many bytes more may be taken.
    fn allows(&self, bytes: u64) -> bool {
        self.limit == 0 || self.asked().saturating_add(bytes) <= self.limit
    }

    /// Counts a read of the bucket.
    fn came(&self, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were taken, from wherever they came.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Bytes that came from the bucket, those between ranges included.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Reads that were sent to the bucket.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Ranges with no more than this between them are one read, in bytes; as in Thanos.
const GAP: u64 = 512 << 10;
/// A read that was made of several ranges is not longer than this, in bytes.
const MERGED_MAX: u64 = 16 << 20;
/// Reads of one call that run at the same time.
const PARALLEL: usize = 8;

/// How reads from the bucket are bounded.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reads at the same time.
    pub concurrency: usize,
    /// Longest time of one, waiting for its turn not counted.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: 64, deadline: Duration::from_secs(60) }
    }
}

type Key = (Edition, File, u64, u64);

/// Reads ranges; clones share it.
#[derive(Clone)]
pub struct Ranges {
    shared: Arc<Shared>,
}

/// A bucket, and what stands for it in editions.
struct InUse {
    bucket: Bucket,
    mark: u32,
}

struct Shared {
    bucket: ArcSwapOption<InUse>,
    turns: Semaphore,
    limits: Limits,
    pages: Option<Arc<Pages>>,
    /// Reads that run: whoever wants the same waits for them.
    running: Flights<Key, Bytes>,
    /// What comes onto the disk.
    coming: Flights<Key, u64>,
    hedge: Hedge,
}

impl Ranges {
    /// Reads nothing until there is a bucket; keeps nothing on disk.
    pub fn new() -> Self {
        Self::with(Limits::default(), None)
    }

    /// Reads within these limits, and keeps pages on disk.
    pub fn with(limits: Limits, pages: Option<Arc<Pages>>) -> Self {
        let shared = Shared {
            bucket: ArcSwapOption::empty(),
            turns: Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            limits,
            pages,
            running: Flights::default(),
            coming: Flights::default(),
            hedge: Hedge::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads from this bucket from now on.
    pub fn use_bucket(&self, bucket: Bucket) {
        let mark = crc32c::crc32c(bucket.describe().as_bytes());
        self.shared.bucket.store(Some(Arc::new(InUse { bucket, mark })));
    }

    /// What stands for the bucket in use; 0 before there was a good configuration.
    pub fn in_use(&self) -> u32 {
        self.shared.bucket.load().as_ref().map_or(0, |used| used.mark)
    }

    /// The bucket of this edition of a block.
    ///
    /// # Errors
    /// [`Trouble::Unavailable`] before there was a good configuration, [`Trouble::Gone`] if it leads to another bucket now.
    pub fn bucket(&self, edition: &Edition) -> Result<Bucket, Trouble> {
        match self.shared.bucket.load().as_ref() {
            None => Err(Trouble::Unavailable("no object storage is configured yet".into())),
            Some(used) if used.mark != edition.bucket => {
                Err(Trouble::Gone(format!("block {} lies in a bucket that is not in use any more", edition.id)))
            }
            Some(used) => Ok(used.bucket.clone()),
        }
    }

    /// The cache on disk, if there is one.
    pub fn pages(&self) -> Option<&Pages> {
        self.shared.pages.as_deref()
    }

    /// Reads that were sent a second time because the first took too long.
    pub fn hedged(&self) -> u64 {
        self.shared.hedge.second.load(Ordering::Relaxed)
    }

    /// Ranges of a file of `size` bytes (0: not known), in the order given. What lies close together is read as one, what two
    /// requests read at the same time is read once. The results may be slices of buffers up to twice as large: copy what is kept
    /// longer than a request.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn read(
        &self,
        edition: Edition,
        (file, size): (File, u64),
        ranges: &[Range<u64>],
        budget: &Budget,
    ) -> Result<Vec<Bytes>, Trouble> {
        let bucket = self.bucket(&edition)?;
        budget.take(ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum())?;
        // Without the size, where the last page ends is not known.
        let pages = self.shared.pages.as_ref().filter(|_| size > 0 && ranges.iter().all(|r| r.end <= size));
        let Some(pages) = pages else {
            let runs = merge(ranges.iter().cloned(), MERGED_MAX);
            let parts = self.fetch(&bucket, edition, file, &runs, budget).await?;
            return cut(ranges, &parts);
        };
        // What is long comes by way of the disk, so that nobody holds what is not wanted of it.
        self.bring(edition, (file, size), ranges, budget, ahead::LONG).await?;
        let page::Had { mut parts, missing } = pages.get(edition, file, ranges, size).await;
        let missing = merge(missing, MERGED_MAX);
        if !missing.is_empty() {
            let fetched = self.fetch(&bucket, edition, file, &missing, budget).await?;
            pages.keep(edition, file, size, fetched.clone());
            // Cached pages that were fetched as part of a gap give way.
            outside(&mut parts, &missing);
            parts.extend(fetched);
            parts.sort_by_key(|(at, _)| *at);
        }
        cut(ranges, &parts)
    }

    /// Bytes of a file, as the bucket tells.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn size(&self, edition: Edition, file: File) -> Result<u64, Trouble> {
        let (bucket, path) = (self.bucket(&edition)?, file.object(edition.id));
        let _turn = self.shared.turns.acquire().await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        match tokio::time::timeout(self.shared.limits.deadline, bucket.head(&path)).await {
            Ok(meta) => Ok(meta?.size),
            Err(_) => Err(Trouble::Unavailable(format!(
                "{path}: its size did not come within {:?}",
                self.shared.limits.deadline
            ))),
        }
    }

    /// Runs of a file, each with where it begins.
    async fn fetch(
        &self,
        bucket: &Bucket,
        edition: Edition,
        file: File,
        runs: &[Range<u64>],
        budget: &Budget,
    ) -> Result<Vec<(u64, Bytes)>, Trouble> {
        // Boxed one by one: a stream of borrowing closures is not `Send` for every lifetime.
        let reads: Vec<BoxFuture<'_, _>> =
            runs.iter().map(|run| self.run(bucket, (edition, file, run.start, run.end), budget).boxed()).collect();
        stream::iter(reads).buffered(PARALLEL).try_collect().await
    }

    /// One read, shared by all who want it now.
    async fn run(&self, bucket: &Bucket, key: Key, budget: &Budget) -> Result<(u64, Bytes), Trouble> {
        let read = Arc::clone(&self.shared).from_bucket(bucket.clone(), key).boxed();
        let bytes = self.shared.running.join(key, read).await?;
        budget.came(bytes.len() as u64);
        Ok((key.2, bytes))
    }
}

impl Shared {
    async fn from_bucket(self: Arc<Self>, bucket: Bucket, (edition, file, start, end): Key) -> Result<Bytes, Trouble> {
        let path = file.object(edition.id);
        let _turn = self.turns.acquire().await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        let read = self.hedge.read(&bucket, &path, start..end);
        let read = tokio::time::timeout(self.limits.deadline, read).await;
        let late = || {
            let what =
                format!("{path}: {} bytes at {start} did not come within {:?}", end - start, self.limits.deadline);
            Trouble::Unavailable(what)
        };
        Ok(read.map_err(|_| late())??)
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}

/// Leaves those parts that begin in none of the runs, which are sorted and don't overlap.
fn outside(parts: &mut Vec<(u64, Bytes)>, runs: &[Range<u64>]) {
    parts.retain(|(at, _)| runs.get(runs.partition_point(|run| run.end <= *at)).is_none_or(|run| !run.contains(at)));
}

/// The reads that cover all ranges, sorted, not overlapping; one that was made of several is not longer than `most`.
fn merge(ranges: impl IntoIterator<Item = Range<u64>>, most: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
    sorted.sort_by_key(|r| (r.start, r.end));
    let gap = if model::protection::off("range-merge") { 0 } else { GAP };
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match out.last_mut() {
            // What overlaps is always one read, else a range could lie in two.
            Some(last)
                if range.start < last.end || (range.start - last.end <= gap && range.end - last.start <= most) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => out.push(range),
        }
    }
    out
}

/// Ranges out of parts that are sorted by where they begin and don't overlap: a slice where one part holds all of it, and is
/// not much larger: a slice keeps all of it in memory, and who holds it counts its own bytes only.
fn cut(ranges: &[Range<u64>], parts: &[(u64, Bytes)]) -> Result<Vec<Bytes>, Trouble> {
    let short = || Trouble::Unavailable("a part of a file was read and is not there".to_owned());
    ranges
        .iter()
        .map(|range| {
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let first = parts.partition_point(|(at, _)| *at <= range.start).checked_sub(1).ok_or_else(short)?;
            let mut at = range.start;
            let mut joined = Vec::new();
            for (begin, bytes) in parts.get(first..).unwrap_or_default() {
                let from = at.checked_sub(*begin).and_then(|n| usize::try_from(n).ok()).ok_or_else(short)?;
                let to = usize::try_from(range.end - begin).unwrap_or(usize::MAX).min(bytes.len());
                if from >= to {
                    return Err(short());
                }
                if at == range.start && range.end - begin <= bytes.len() as u64 {
                    let is_most = (to - from).saturating_mul(2) >= bytes.len();
                    let copied = || Bytes::copy_from_slice(bytes.get(from..to).unwrap_or_default());
                    return Ok(if is_most { bytes.slice(from..to) } else { copied() });
                }
                joined.extend_from_slice(bytes.get(from..to).ok_or_else(short)?);
                at = begin + to as u64;
                if at == range.end {
                    return Ok(joined.into());
                }
            }
            Err(short())
        })
        .collect()
}

#[cfg(test)]
mod tests;
