//! What will soon be read comes from the bucket onto the disk in long reads, without being held in memory: who reads it then,
//! piece by piece, finds it there. What does not come in time, or can't be kept, is read when it is wanted.

use super::page::{PAGE, Pages};
use super::{Budget, File, Key, Ranges, Shared, Trouble, merge};
use crate::store::blocks::Edition;
use bucket::{Bucket, Sink};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that are brought near at a time; never more than this part of the disk cache. A request may have as much of index
/// entries as well; when many push each other's pages out, that costs reads.
const MOST: u64 = 32 << 20;
const SHARE: u64 = 16;
/// A read that is not longer is made into memory, in bytes.
pub(super) const LONG: u64 = 1 << 20;
/// Bytes that are written together: what a long read holds, beside a piece of the body, for which nobody is asked. There are as
/// many as there are turns.
const PIECE: usize = 128 << 10;
/// How many times longer than a slow read one may be without a byte: who gives up makes others ask again.
const PATIENCE: u32 = 4;
/// Reads of one call that run at the same time: each keeps the disk busy.
const PARALLEL: usize = 4;

impl Ranges {
    /// How many bytes may be brought near ahead of their use; 0 without a disk that keeps them.
    pub fn near(&self) -> u64 {
        let pages = self.shared.pages.as_ref().filter(|pages| pages.is_keeping());
        Some(pages.map_or(0, |pages| MOST.min(pages.max_bytes() / SHARE))).filter(|n| *n >= LONG).unwrap_or(0)
    }

    /// Brings ranges of a file of `size` bytes near, as far as they are not there yet.
    ///
    /// # Errors
    /// [`Trouble`], if the bucket says why they can't be had.
    pub async fn ahead(
        &self,
        edition: Edition,
        (file, size): (File, u64),
        ranges: &[Range<u64>],
        budget: &Budget,
    ) -> Result<(), Trouble> {
        self.bring(edition, (file, size), ranges, budget, 0).await
    }

    /// The same with those reads alone that are longer than `least` bytes.
    pub(super) async fn bring(
        &self,
        edition: Edition,
        (file, size): (File, u64),
        ranges: &[Range<u64>],
        budget: &Budget,
        least: u64,
    ) -> Result<(), Trouble> {
        let most = self.near();
        let Some(pages) = self.shared.pages.as_ref().filter(|_| most > 0 && size > 0) else { return Ok(()) };
        let bucket = self.bucket(&edition)?;
        let missing = merge(pages.missing(edition, file, ranges, size), most);
        // Who may not read it is told when he wants it.
        if !budget.allows(missing.iter().map(|run| run.end - run.start).sum()) {
            return Ok(());
        }
        let runs = missing.into_iter().filter(|run| run.end - run.start > least);
        // Boxed one by one, as in `fetch`.
        let mut reads: Vec<BoxFuture<'_, _>> = Vec::new();
        for run in runs {
            let key = (edition, file, run.start, run.end);
            let work = Arc::clone(&self.shared).onto_disk(bucket.clone(), Arc::clone(pages), key, size).boxed();
            let brought = self.shared.coming.join(key, work);
            reads.push(async move { brought.await.map(|bytes| budget.came(bytes)) }.boxed());
        }
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        while let Some(brought) = reads.next().await {
            brought?;
        }
        Ok(())
    }
}

impl Shared {
    /// Writes what comes to the disk; gives how many bytes came, none if it was given up. When nothing comes for longer than reads
    /// usually take, it is left to those who want it, who ask once more.
    async fn onto_disk(
        self: Arc<Self>,
        bucket: Bucket,
        pages: Arc<Pages>,
        (edition, file, start, end): Key,
        size: u64,
    ) -> Result<u64, Trouble> {
        let _turn = self.turns.acquire().await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        let path = file.object(edition.id);
        let moved = AtomicU64::new(0);
        let mut keeping =
            Keeping { pages, edition, file, size, start, written: 0, open: BytesMut::new(), moved: &moved };
        let reading = async {
            bucket.get_range_into(&path, start..end, &mut keeping).await?;
            keeping.flush(true).await;
            Ok::<_, bucket::Error>(())
        };
        let stalled = async {
            loop {
                let before = moved.load(Ordering::Relaxed);
                tokio::time::sleep(self.hedge.patience(0) * PATIENCE).await;
                if moved.load(Ordering::Relaxed) == before {
                    return;
                }
            }
        };
        tokio::select! {
            read = tokio::time::timeout(self.limits.deadline, reading) => match read {
                Ok(read) => read.map(|()| end - start).map_err(Trouble::from),
                Err(_) => Ok(0),
            },
            () = stalled => Ok(0),
        }
    }
}

/// Writes what comes to the disk, in whole pages.
struct Keeping<'a> {
    pages: Arc<Pages>,
    edition: Edition,
    file: File,
    size: u64,
    /// Where the range begins: at a page.
    start: u64,
    /// Bytes of it that were written.
    written: u64,
    /// Bytes that wait behind them.
    open: BytesMut,
    /// How often something came, or was written.
    moved: &'a AtomicU64,
}

impl Keeping<'_> {
    /// Writes the whole pages of what waits; at the end of the range, all of it.
    async fn flush(&mut self, is_end: bool) {
        let length = if is_end { self.open.len() } else { self.open.len() / PAGE as usize * PAGE as usize };
        let bytes = self.open.split_to(length).freeze();
        let (pages, edition, file, size) = (Arc::clone(&self.pages), self.edition, self.file, self.size);
        let at = self.start + self.written;
        self.written += length as u64;
        // What is not written is read again.
        let _ = tokio::task::spawn_blocking(move || pages.write(edition, file, size, at, &bytes)).await;
        // A slow disk is not a read that hangs.
        self.moved.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Sink for Keeping<'_> {
    async fn take(&mut self, before: u64, bytes: Bytes) {
        if before != self.written + self.open.len() as u64 {
            // Another attempt.
            self.open.clear();
            self.written = 0;
        }
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.open.extend_from_slice(&bytes);
        if self.open.len() >= PIECE {
            self.flush(false).await;
        }
    }
}
