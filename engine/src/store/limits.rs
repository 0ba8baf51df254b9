//! What requests may take: series, samples and bytes per request, memory of the process, places at the same time. What is
//! refused is told with the limit, its value and its flag.

use super::Trouble;
use crate::server::metrics::Metrics;
use crate::storeapi::frames::SAMPLES_PER_CHUNK;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// One permit of the memory for chunks stands for so many bytes.
const UNIT: u64 = 64 << 10;

/// How long a request waits for memory for its first chunks.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request that takes more than it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Series.
    #[error("the request touches more than {0} series: narrow it, or raise --store.limits.request-series")]
    Series(u64),
    /// Samples.
    #[error(
        "the request touches more than {0} samples (a chunk counts as 120): narrow it, or raise --store.limits.request-samples"
    )]
    Samples(u64),
    /// Bytes read.
    #[error("the request reads more than {0} bytes: narrow it, or raise --store.grpc.downloaded-bytes-limit")]
    Bytes(u64),
    /// Memory of the process.
    #[error(
        "all requests together hold {0} bytes of postings, series and chunks, and this one needs more: narrow it, ask again later, or \
         raise --chunk-pool-size and the memory of the store"
    )]
    Memory(u64),
}

impl Refused {
    /// The `reason` label of metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Series(_) => "series",
            Self::Samples(_) => "chunks",
            Self::Bytes(_) => "bytes",
            Self::Memory(_) => "memory",
        }
    }
}

impl TryFrom<Trouble> for Refused {
    type Error = Trouble;

    fn try_from(trouble: Trouble) -> Result<Self, Trouble> {
        match trouble {
            Trouble::OverBudget { limit } => Ok(Self::Bytes(limit)),
            other => Err(other),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The limits of a store.
#[derive(Clone, Debug)]
pub struct Limits {
    series: u64,
    samples: u64,
    bytes: u64,
    dropped: Family<Reason, Counter>,
}

impl Limits {
    /// Limits per request; 0 is none.
    pub fn new(series: u64, samples: u64, bytes: u64, metrics: &Metrics) -> Self {
        let dropped: Family<Reason, Counter> = metrics.register(
            "thanos_bucket_store_queries_dropped",
            "Requests refused because they touch more than a limit allows",
            Family::default(),
        );
        // All are there from the start, as Thanos's.
        for refused in [Refused::Series(0), Refused::Samples(0), Refused::Bytes(0), Refused::Memory(0)] {
            drop(dropped.get_or_create(&Reason { reason: refused.reason() }));
        }
        Self { series, samples, bytes, dropped }
    }

    /// Most bytes that a request may read; 0 is no limit.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The answer to a request that is refused.
    pub fn refuse(&self, refused: &Refused) -> Status {
        self.dropped.get_or_create(&Reason { reason: refused.reason() }).inc();
        Status::resource_exhausted(refused.to_string())
    }

    /// Starts counting a request.
    pub fn start(&self) -> Used {
        Used {
            series: self.series,
            samples: self.samples,
            used_series: AtomicU64::new(0),
            used_chunks: AtomicU64::new(0),
        }
    }
}

/// What one request has used.
#[derive(Debug)]
pub struct Used {
    series: u64,
    samples: u64,
    used_series: AtomicU64,
    used_chunks: AtomicU64,
}

impl Used {
    /// The same limits with nothing used: a request that is planned anew counts what it reads then.
    #[must_use]
    pub fn anew(&self) -> Self {
        let (series, samples) = (self.series, self.samples);
        Self { series, samples, used_series: AtomicU64::new(0), used_chunks: AtomicU64::new(0) }
    }

    /// Counts series before their entries are read, per block as Thanos does.
    ///
    /// # Errors
    /// [`Refused::Series`].
    pub fn series(&self, n: usize) -> Result<(), Refused> {
        let used = self.used_series.fetch_add(n as u64, Relaxed).saturating_add(n as u64);
        if self.series > 0 && used > self.series { Err(Refused::Series(self.series)) } else { Ok(()) }
    }

    /// Counts chunks before they are read.
    ///
    /// # Errors
    /// [`Refused::Samples`].
    pub fn chunks(&self, n: usize) -> Result<(), Refused> {
        let used = self.used_chunks.fetch_add(n as u64, Relaxed).saturating_add(n as u64);
        let over = self.samples > 0 && used.saturating_mul(SAMPLES_PER_CHUNK) > self.samples;
        if over { Err(Refused::Samples(self.samples)) } else { Ok(()) }
    }
}

/// The memory that all requests together may hold.
///
/// Half of it is for postings and index entries: a request that finds none left is refused, since what it waits for may be
/// held by one that waits for it. The other half is for chunks on their way: for that one waits, since what is held is sent.
#[derive(Clone, Debug)]
pub struct Memory {
    limit: u64,
    used: Arc<AtomicU64>,
    chunks: Arc<Semaphore>,
    units: u32,
}

impl Memory {
    /// So many bytes.
    pub fn new(limit: u64) -> Self {
        let half = (limit / 2).max(UNIT);
        let units = u32::try_from(half / UNIT).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        Self { limit: half, used: Arc::default(), chunks: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// At most `most` bytes, and at most a quarter of what the container may use.
    pub fn of_container(most: u64) -> Self {
        let limit =
            std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|s| s.trim().parse::<u64>().ok());
        Self::new(limit.map_or(most, |n| most.min(n / 4)))
    }

    /// Holds nothing yet.
    pub fn hold(&self) -> Held {
        Held { memory: self.clone(), bytes: 0 }
    }

    /// Waits for memory for chunks; what is more than there is gets all of it. As long as it holds some already (`may_wait`) a
    /// request waits until its caller has read them; others wait [`PATIENCE`]: callers that don't read may hold it all.
    ///
    /// # Errors
    /// [`Refused::Memory`].
    pub async fn chunks(&self, bytes: u64, may_wait: impl Fn() -> bool) -> Result<OwnedSemaphorePermit, Refused> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        let mut room = std::pin::pin!(Arc::clone(&self.chunks).acquire_many_owned(units));
        loop {
            match tokio::time::timeout(PATIENCE, &mut room).await {
                Ok(Ok(room)) => return Ok(room),
                Err(_) if may_wait() => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(Refused::Memory(self.used_chunks()));
                }
            }
        }
    }

    /// Bytes of chunks that are held, about.
    pub fn used_chunks(&self) -> u64 {
        u64::from(self.units).saturating_sub(self.chunks.available_permits() as u64) * UNIT
    }

    /// Bytes of postings and entries that are held.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }
}

/// Memory that a part of a request holds; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    memory: Memory,
    bytes: u64,
}

impl Held {
    /// Holds so many bytes from now on.
    ///
    /// # Errors
    /// [`Refused::Memory`] when there is not as much.
    pub fn set(&mut self, bytes: usize) -> Result<(), Refused> {
        let bytes = bytes as u64;
        if bytes <= self.bytes {
            self.memory.used.fetch_sub(self.bytes - bytes, Relaxed);
            self.bytes = bytes;
            return Ok(());
        }
        let more = bytes - self.bytes;
        let before = self.memory.used.fetch_add(more, Relaxed);
        if before.saturating_add(more) > self.memory.limit {
            self.memory.used.fetch_sub(more, Relaxed);
            return Err(Refused::Memory(before));
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ready::Readiness;

    #[test]
    fn limits_are_told_with_their_value_and_flag() {
        let metrics = Metrics::new("store", Readiness::default());
        let limits = Limits::new(3, 1000, 0, &metrics);
        let used = limits.start();
        assert!(used.series(2).is_ok() && used.series(1).is_ok() && used.chunks(8).is_ok());
        let status = limits.refuse(&used.series(1).unwrap_err());
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(
            status.message().contains("more than 3 series")
                && status.message().contains("--store.limits.request-series")
        );
        assert!(used.chunks(1).unwrap_err().to_string().contains("1000 samples"));
        let text = metrics.render().unwrap();
        assert!(text.contains("thanos_bucket_store_queries_dropped_total{reason=\"series\"} 1"), "{text}");
        let none = Limits::new(0, 0, 0, &Metrics::new("store", Readiness::default())).start();
        assert!(none.series(1 << 40).is_ok() && none.chunks(1 << 40).is_ok());
    }

    #[tokio::test]
    async fn memory_is_given_back() {
        let memory = Memory::new(2 << 20);
        let (mut a, mut b) = (memory.hold(), memory.hold());
        a.set(600 << 10).unwrap();
        assert!(matches!(b.set(600 << 10), Err(Refused::Memory(_))));
        b.set(400 << 10).unwrap();
        a.set(100).unwrap();
        b.set(900 << 10).unwrap();
        drop((a, b));
        assert_eq!(memory.used(), 0);
        // More than there is waits for all, and gets it.
        let all = memory.chunks(1 << 40, || false).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), memory.chunks(1, || false)).await.is_err());
        drop(all);
        assert!(memory.chunks(1, || false).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_nothing_does_not_wait_for_ever() {
        let memory = Memory::new(2 << 20);
        let _all = memory.chunks(1 << 20, || false).await.unwrap();
        assert_eq!(memory.chunks(1, || false).await.unwrap_err(), Refused::Memory(1 << 20));
        let waiting = tokio::time::timeout(PATIENCE * 10, memory.chunks(1, || true)).await;
        assert!(waiting.is_err(), "its own chunks are read some day");
        // They were read, and others have it all.
        let asked = AtomicU64::new(0);
        let waiting = memory.chunks(1, || asked.fetch_add(1, Relaxed) < 3);
        let waited = tokio::time::timeout(PATIENCE * 10, waiting).await.expect("it waits for ever");
        assert_eq!((waited.unwrap_err(), asked.load(Relaxed)), (Refused::Memory(1 << 20), 4));
    }
}
