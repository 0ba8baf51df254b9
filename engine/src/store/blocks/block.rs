//! One block that is served: a few dozen bytes of what meta.json says, and the way to its bytes.

use super::Home;
use super::entry::Entry;
use super::learnt::{Damage, Learnt};
use crate::store::Trouble;
use crate::store::ranges::{Budget, File};
use bytes::Bytes;
use model::{BlockId, Labels};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::header::Reader;

/// Which bytes a block's id stands for. In another bucket, or written anew, a block of the same id is another edition: nothing
/// that is kept of the one is given for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edition {
    /// The block's id.
    pub id: BlockId,
    /// Stands for the bucket; 0 before there is one.
    pub bucket: u32,
    /// Stands for what meta.json says of the content.
    pub content: u64,
}

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
    /// Bytes of its index, or 0 where meta.json does not tell.
    pub index_bytes: u64,
    /// Bytes of its segments from number 1 on; empty where meta.json does not tell.
    pub segments: Box<[u64]>,
    /// Hash of its meta.json.
    pub(super) hash: u64,
    pub(super) bucket: u32,
    content: u64,
    pub(in crate::store) home: Arc<Home>,
    /// What was learnt of it while it was served: of most blocks nothing.
    learnt: Mutex<Option<Box<Learnt>>>,
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
            bucket: home.ranges.in_use(),
            home,
            hash: entry.hash,
            content: entry.content,
            learnt: Mutex::default(),
        }
    }

    /// Which bytes it stands for.
    pub fn edition(&self) -> Edition {
        Edition { id: self.id, bucket: self.bucket, content: self.content }
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
        let now = self.home.world.clock.elapsed();
        if let Some(reason) = self.learnt.lock().as_ref().and_then(|l| l.shut(now)) {
            return Err(Trouble::Damaged(reason.to_owned()));
        }
        let got = self.home.headers.get(self).await;
        match &got {
            Ok(_) => self.forget(Damage::is_of_header),
            Err(Trouble::Damaged(reason)) => self.learn(|l, now| l.damage(reason, true, now)),
            Err(_) => {}
        }
        got
    }

    /// Fetches its index-header to the local disk, if it is not there yet and there is room.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn prefetch(self: &Arc<Self>) -> Result<(), Trouble> {
        if self.trouble().is_some() {
            return Ok(());
        }
        let got = self.home.headers.fetch(self).await;
        if let Err(Trouble::Damaged(reason)) = &got {
            self.learn(|l, now| l.damage(reason, true, now));
        }
        got
    }

    /// Ranges of its index, in the order given; see [`crate::store::ranges::Ranges::read`].
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn index(&self, ranges: &[Range<u64>], budget: &Budget) -> Result<Vec<Bytes>, Trouble> {
        let size = self.index_size().await?;
        self.home.ranges.read(self.edition(), (File::Index, size), ranges, budget).await
    }

    /// How many bytes may be brought near ahead of their use; 0 without a disk that keeps them.
    pub fn near(&self) -> u64 {
        self.home.ranges.near()
    }

    /// Brings ranges of its index near; see [`crate::store::ranges::Ranges::ahead`].
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn index_ahead(&self, ranges: &[Range<u64>], budget: &Budget) -> Result<(), Trouble> {
        let size = self.index_size().await?;
        self.home.ranges.ahead(self.edition(), (File::Index, size), ranges, budget).await
    }

    /// Bytes of its index.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(in crate::store) async fn index_size(&self) -> Result<u64, Trouble> {
        self.size(File::Index, self.index_bytes).await
    }

    /// Ranges of its segment file with this number, from 1, in the order given. A range that goes on behind the end of the
    /// file gives what there is: where the last chunk of a file ends is not known before it is read.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn segment(&self, number: u32, ranges: &[Range<u64>], budget: &Budget) -> Result<Vec<Bytes>, Trouble> {
        let (file, clipped) = self.clipped(number, ranges).await?;
        self.home.ranges.read(self.edition(), file, &clipped, budget).await
    }

    /// Brings ranges of a segment file near, as [`Block::segment`] reads them.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn segment_ahead(&self, number: u32, ranges: &[Range<u64>], budget: &Budget) -> Result<(), Trouble> {
        let (file, clipped) = self.clipped(number, ranges).await?;
        self.home.ranges.ahead(self.edition(), file, &clipped, budget).await
    }

    /// A segment file, its size, and what of the ranges lies in it.
    async fn clipped(&self, number: u32, ranges: &[Range<u64>]) -> Result<((File, u64), Vec<Range<u64>>), Trouble> {
        let (file, told) = (File::Segment(number), self.segments.get((number as usize).saturating_sub(1)));
        let size = self.size(file, told.copied().unwrap_or(0)).await?;
        let clip = |r: &Range<u64>| r.start.min(size)..r.end.min(size);
        Ok(((file, size), ranges.iter().map(clip).collect()))
    }

    /// Bytes of a file: as meta.json tells, or else as the bucket was asked once.
    async fn size(&self, file: File, told: u64) -> Result<u64, Trouble> {
        let known = || self.learnt.lock().as_ref().and_then(|l| l.sizes.get(&file).copied());
        if let Some(size) = Some(told).filter(|n| *n > 0).or_else(known) {
            return Ok(size);
        }
        let size = self.home.ranges.size(self.edition(), file).await?;
        self.learn(|l, _| l.sizes.insert(file, size));
        Ok(size)
    }

    /// The cache of postings and series that all blocks share.
    pub fn cache(&self) -> &crate::store::cache::IndexCache {
        &self.home.cache
    }

    /// An object of it is not in the bucket: it is listed as missing with this reason, and left alone for a while.
    pub fn damaged(&self, reason: &str) {
        self.learn(|l, now| l.damage(reason, false, now));
    }

    /// A part of it can't be read: it is listed, and whatever else it has is served.
    pub fn flawed(&self, reason: &str) {
        self.learn(|l, now| l.flaw(reason, now));
    }

    /// All its objects are there, as a listing tells: it may be used again once its time has come.
    pub(super) fn listed(&self) {
        let now = self.home.world.clock.elapsed();
        self.forget(|damage| damage.retry_at <= now);
    }

    fn learn<T>(&self, what: impl FnOnce(&mut Learnt, std::time::Duration) -> T) {
        let now = self.home.world.clock.elapsed();
        let mut learnt = self.learnt.lock();
        let learnt = learnt.get_or_insert_default();
        let is_news = learnt.wrong(now).is_none();
        what(learnt, now);
        if let Some(reason) = learnt.wrong(now).filter(|_| is_news) {
            tracing::warn!(block = %self.id, reason, "a block is damaged: its data is missing in answers");
        }
    }

    fn forget(&self, is_over: impl FnOnce(&Damage) -> bool) {
        if let Some(learnt) = self.learnt.lock().as_mut() {
            learnt.damage.take_if(|damage| is_over(damage));
        }
    }

    /// Why all of its data is missing in answers, if it is.
    pub fn trouble(&self) -> Option<String> {
        self.learnt.lock().as_ref().and_then(|l| l.damage.as_ref()).map(|d| d.reason.clone())
    }

    /// What is wrong with it, all of it or a part.
    pub fn wrong(&self) -> Option<String> {
        let now = self.home.world.clock.elapsed();
        self.learnt.lock().as_ref().and_then(|l| l.wrong(now)).map(str::to_owned)
    }

    /// True if it is known to be damaged, and is not to be tried yet.
    pub(super) fn is_shut(&self) -> bool {
        let now = self.home.world.clock.elapsed();
        self.learnt.lock().as_ref().is_some_and(|l| l.shut(now).is_some())
    }
}
