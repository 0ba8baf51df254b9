//! Fetches what makes up an index-header: one read for a small index; for others the end, then what is before it.

use super::{Shared, blocking};
use crate::store::Trouble;
use crate::store::blocks::Block;
use crate::store::ranges::File;
use bucket::Bucket;
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tsdb::header::{self, Reader};
use tsdb::index::{HEADER_LEN, TOC_LEN};

/// An index up to this many bytes is fetched by one read.
const WHOLE: u64 = 1 << 20;
/// Of a larger one, this many bytes at its end come with the first read: the table of contents, and often all of the table.
const TAIL: u64 = 256 << 10;
/// Most bytes that are fetched at once, as [`header::build`] asks for them.
const PART: u64 = 16 << 20;
/// Mebibytes that all who fetch hold together, about, and one of them at most: symbols, table, and the part that is written.
const ROOM: u32 = 96;
const MOST: u32 = 48;

/// The memory for fetching.
pub(super) fn room() -> Semaphore {
    Semaphore::new(ROOM as usize)
}

impl Shared {
    /// Fetches the index-header of a block to `path`, and opens it. It ends when it is done or its time is over, not before: no thread goes on
    /// to write a file that another fetch begins anew.
    pub(super) async fn fetch(self: &Arc<Self>, block: &Block, path: &Path) -> Result<Reader, Trouble> {
        let bucket = block.home.ranges.bucket(&block.edition())?;
        let object = File::Index.object(block.id);
        let size = block.index_size().await?;
        let mib = u32::try_from(size.div_ceil(1 << 20)).unwrap_or(MOST).clamp(1, MOST);
        let _room = self.room.acquire_many(mib).await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        // Waiting for others is not its time.
        let (clock, begin, deadline) =
            (Arc::clone(&self.world.clock), self.world.clock.elapsed(), self.limits.deadline);
        let left = move || deadline.saturating_sub(clock.elapsed().saturating_sub(begin));
        let late = move || format!("the index-header of block {} was not there within {deadline:?}", block.id);
        let have = async {
            match first(&bucket, &object, size).await {
                // What was told of its size is not so: ask.
                Err(Trouble::Damaged(_)) if block.index_bytes > 0 => {
                    let told = bucket.head(&object).await?.size;
                    if told != size {
                        return Err(Trouble::Damaged(format!("{object} has {told} bytes, meta.json says {size}")));
                    }
                    first(&bucket, &object, size).await
                }
                have => have,
            }
        };
        let have = tokio::time::timeout(left(), have).await.map_err(|_| Trouble::Unavailable(late()))??;
        let (disk, path, handle) = (Arc::clone(&self.disk), path.to_owned(), tokio::runtime::Handle::current());
        let late = late();
        blocking(move || {
            if let Some(dir) = path.parent() {
                disk.create_dir(dir)?;
            }
            let failed = Mutex::new(None);
            let built = header::build(&*disk, &path, &object, size, |range| {
                if let Some(bytes) = have.iter().find_map(|(at, bytes)| cut(*at, bytes, &range)) {
                    return Ok(bytes);
                }
                let read = async { tokio::time::timeout(left(), bucket.get_range(&object, range.clone())).await };
                let late = |_| tsdb::Error::refused(&object, "fetch", late.clone());
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
}

/// What is fetched before the rest is known: pieces of the index, with where they begin.
async fn first(bucket: &Bucket, object: &str, size: u64) -> Result<Vec<(u64, Bytes)>, Trouble> {
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

/// `range` out of bytes that begin at `at`, if all of it is there.
fn cut(at: u64, bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let from = usize::try_from(range.start.checked_sub(at)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(at)?).ok()?;
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}
