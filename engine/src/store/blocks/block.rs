//! One block that is served: a few dozen bytes of what meta.json says, and the way to its bytes.

use super::Home;
use super::entry::Entry;
use crate::store::Trouble;
use crate::store::ranges::{Budget, File};
use bytes::Bytes;
use model::{BlockId, Labels};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tsdb::BlockMeta;
use tsdb::header::Reader;

/// First delay before a damaged block is tried again; doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// A block that is served.
pub struct Block {
    /// Its id.
    pub id: BlockId,
    /// Its external labels; blocks of one producer share them.
    pub external: Labels,
    /// Begin of its time range in ms, inclusive.
    pub min_t: i64,
    /// End of its time range in ms, exclusive.
    pub max_t: i64,
    /// Resolution in ms: 0 (raw), 300000 or 3600000.
    pub resolution: i64,
    /// Bytes of its longest series entry, or 0 where meta.json does not tell.
    pub series_max: u32,
    /// Bytes of its longest chunk, or 0 where meta.json does not tell.
    pub chunk_max: u32,
    /// Bytes of its index, or 0 where neither meta.json nor a listing has told.
    pub index_bytes: u64,
    /// Bytes of its segments from number 1 on; empty where meta.json does not tell.
    pub segments: Box<[u64]>,
    /// Hash of its meta.json.
    pub(super) hash: u64,
    pub(in crate::store) home: Arc<Home>,
    pub(in crate::store) damage: Mutex<Option<Box<Damage>>>,
}

/// What was found wrong with a block.
#[derive(Clone, Debug)]
pub(in crate::store) struct Damage {
    /// What, where.
    pub(in crate::store) reason: String,
    /// When it may be tried again, by the monotonic clock.
    pub(in crate::store) retry_at: Duration,
    /// How often it was tried.
    pub(in crate::store) tries: u32,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {} {} [{}, {})", self.id, self.external, self.min_t, self.max_t)
    }
}

impl Block {
    /// A block as its meta.json says; `external` are its external labels, shared with other blocks.
    pub fn new(meta: &BlockMeta, external: Labels, home: Arc<Home>) -> Self {
        Self::of(&Entry::new(meta), external, home)
    }

    /// A block as what is kept of its meta.json says.
    pub(super) fn of(entry: &Entry, external: Labels, home: Arc<Home>) -> Self {
        Self {
            id: entry.id,
            external,
            min_t: entry.min_t,
            max_t: entry.max_t,
            resolution: entry.resolution,
            series_max: entry.series_max,
            chunk_max: entry.chunk_max,
            index_bytes: entry.index_bytes,
            segments: entry.segments.clone(),
            home,
            hash: entry.hash,
            damage: Mutex::default(),
        }
    }

    /// True if the block may have samples of `min_t..=max_t` (ms, both inclusive).
    pub fn overlaps(&self, min_t: i64, max_t: i64) -> bool {
        self.min_t <= max_t && min_t < self.max_t
    }

    /// Its index-header: from memory, from disk, or fetched by ranged reads. Keep it no longer than one request.
    ///
    /// # Errors
    /// [`Trouble`]; a damaged one is told at once until it is time to try again.
    pub async fn header(self: &Arc<Self>) -> Result<Arc<Reader>, Trouble> {
        if let Some(damage) = self.damage.lock().as_ref()
            && damage.retry_at > self.home.world.clock.elapsed()
        {
            return Err(Trouble::Damaged(damage.reason.clone()));
        }
        let got = self.home.headers.get(self).await;
        match &got {
            Ok(_) => *self.damage.lock() = None,
            Err(Trouble::Damaged(reason)) => self.damaged(reason),
            Err(_) => {}
        }
        got
    }

    /// Fetches its index-header to the local disk, if it is not there yet.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn prefetch(self: &Arc<Self>) -> Result<(), Trouble> {
        if self.trouble().is_some() {
            return Ok(());
        }
        let got = self.home.headers.fetch(self).await;
        if let Err(Trouble::Damaged(reason)) = &got {
            self.damaged(reason);
        }
        got
    }

    /// Ranges of its index, in the order given; see [`crate::store::ranges::Ranges::read`].
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn index(&self, ranges: &[Range<u64>], budget: &Budget) -> Result<Vec<Bytes>, Trouble> {
        self.home.ranges.read(self.id, (File::Index, self.index_bytes), ranges, budget).await
    }

    /// Ranges of its segment file with this number, from 1, in the order given. A range that goes on behind the end of the
    /// file gives what there is: where the last chunk of a file ends is not known before it is read.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn segment(&self, number: u32, ranges: &[Range<u64>], budget: &Budget) -> Result<Vec<Bytes>, Trouble> {
        let (file, told) = (File::Segment(number), self.segments.get((number as usize).saturating_sub(1)));
        let size = match told.filter(|n| **n > 0) {
            Some(size) => *size,
            None => self.home.ranges.size(self.id, file).await?,
        };
        let clip = |r: &Range<u64>| r.start.min(size)..r.end.min(size);
        let clipped: Vec<Range<u64>> = ranges.iter().map(clip).collect();
        self.home.ranges.read(self.id, (file, size), &clipped, budget).await
    }

    /// The cache of postings and series that all blocks share.
    pub fn cache(&self) -> &crate::store::cache::IndexCache {
        &self.home.cache
    }

    /// Something in it is damaged: it is listed as missing with this reason, and left alone for a while.
    pub fn damaged(&self, reason: &str) {
        let mut damage = self.damage.lock();
        let tries = damage.as_ref().map_or(0, |d| d.tries);
        let pause = RETRY.saturating_mul(1 << tries.min(10)).min(RETRY_MAX);
        let retry_at = self.home.world.clock.elapsed() + pause;
        if tries == 0 {
            tracing::warn!(block = %self.id, reason, "a block is damaged: its data is missing in answers");
        }
        *damage = Some(Box::new(Damage { reason: reason.to_owned(), retry_at, tries: tries.saturating_add(1) }));
    }

    /// Why its data is missing in answers, if it is.
    pub fn trouble(&self) -> Option<String> {
        self.damage.lock().as_ref().map(|d| d.reason.clone())
    }
}
