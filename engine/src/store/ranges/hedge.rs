//! A read that takes much longer than others is sent a second time, and the first answer is taken. At most one read in ten is.

use bucket::Bucket;
use bytes::Bytes;
use futures::future::{Either, select};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A read that took less is never sent twice.
const LEAST: Duration = Duration::from_millis(500);
/// How many times longer than others a read must take.
const FACTOR: u32 = 4;
/// Bytes per ms that a slow store sends: long reads are given the time.
const SLOW: u64 = 10_000;
/// One second read is allowed per this many.
const SHARE: u64 = 10;

/// Counts, and the time that reads take.
#[derive(Debug, Default)]
pub(super) struct Hedge {
    reads: AtomicU64,
    pub(super) second: AtomicU64,
    /// Moving mean of the time of a read, in microseconds.
    mean_us: AtomicU64,
}

impl Hedge {
    pub(super) async fn read(&self, bucket: &Bucket, path: &str, range: Range<u64>) -> bucket::Result<Bytes> {
        let clock = &bucket.world().clock;
        let begin = clock.elapsed();
        let reads = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        let first = Box::pin(bucket.get_range(path, range.clone()));
        let patience = Box::pin(tokio::time::sleep(self.patience(range.end - range.start)));
        let got = match select(first, patience).await {
            Either::Left((got, _)) => got,
            Either::Right(((), first)) if self.second.load(Ordering::Relaxed) * SHARE < reads => {
                self.second.fetch_add(1, Ordering::Relaxed);
                match select(first, Box::pin(bucket.get_range(path, range))).await {
                    Either::Left((Err(e), second)) if !e.is_answer() => second.await,
                    Either::Right((Err(e), first)) if !e.is_answer() => first.await,
                    Either::Left((got, _)) | Either::Right((got, _)) => got,
                }
            }
            Either::Right(((), first)) => first.await,
        };
        if got.is_ok() {
            let took = u64::try_from(clock.elapsed().saturating_sub(begin).as_micros()).unwrap_or(u64::MAX);
            let mean = self.mean_us.load(Ordering::Relaxed);
            // A lost update costs nothing.
            self.mean_us.store(mean - mean / 16 + took / 16, Ordering::Relaxed);
        }
        got
    }

    /// How long a read of this many bytes may take.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        let usual = Duration::from_micros(self.mean_us.load(Ordering::Relaxed)).saturating_mul(FACTOR);
        usual.max(LEAST) + Duration::from_millis(bytes / SLOW)
    }
}
