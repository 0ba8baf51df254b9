//! Ranges of files of blocks.

use super::Trouble;
use arc_swap::ArcSwapOption;
use bucket::{Bucket, block};
use bytes::Bytes;
use model::BlockId;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Reads ranges; clones share it.
#[derive(Clone)]
pub struct Ranges {
    shared: Arc<Shared>,
}

struct Shared {
    bucket: ArcSwapOption<Bucket>,
}

impl Ranges {
    /// Reads nothing until there is a bucket.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { bucket: ArcSwapOption::empty() }) }
    }

    /// Reads from this bucket from now on.
    pub fn use_bucket(&self, bucket: Bucket) {
        self.shared.bucket.store(Some(Arc::new(bucket)));
    }

    /// The bucket in use.
    ///
    /// # Errors
    /// [`Trouble::Unavailable`] before there was a good configuration.
    pub fn bucket(&self) -> Result<Arc<Bucket>, Trouble> {
        self.shared.bucket.load_full().ok_or_else(|| Trouble::Unavailable("no object storage is configured yet".into()))
    }

    /// Ranges of a file (bytes from its start), in the order given. What lies close together is read as one. The results may
    /// be slices of larger buffers: copy what is kept longer than a request.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn read(
        &self,
        id: BlockId,
        file: File,
        ranges: &[Range<u64>],
        budget: &Budget,
    ) -> Result<Vec<Bytes>, Trouble> {
        let bucket = self.bucket()?;
        budget.take(ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum())?;
        let parts = bucket.get_ranges(&file.object(id), ranges).await?;
        budget.requests.fetch_add(1, Ordering::Relaxed);
        Ok(parts)
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}
