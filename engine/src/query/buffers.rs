//! Memory for what stores send before it is merged: one limit for the whole process, so that it does not grow with the
//! number of stores.
//!
//! A message is let in only when its bytes are granted. Half of them are for reading ahead of the merge: there a message
//! waits in the order of asking, and a request has at most its share. The other half is kept for messages that a merge
//! waits for, so that slow readers of other requests do not hold it up. Should that half be used up, too, one request at
//! a time may overdraw, by as much as the limit, until it ends: there is always one that can finish, and never more than
//! twice the limit is held.

use crate::server::RECEIVE_MAX;
use crate::server::metrics::Metrics;
use args::QueryArgs;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The memory of the process; clones share it.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    limit: usize,
    ahead: usize,
    free: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    kept_bytes: usize,
    overdraft: Arc<Semaphore>,
    held: Gauge,
    waits: Counter,
}

/// Bytes can't be granted, however long one waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No message may be so large.
    #[error("it announced a message of {bytes} bytes, and no message may have more than {RECEIVE_MAX}")]
    Announced {
        /// The size in front of it.
        bytes: usize,
    },
    /// One message is larger than everything.
    #[error(
        "it sent a message of {bytes} bytes, and answers of stores may hold {limit} together: raise --query.buffer-bytes"
    )]
    Message {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The messages that one request needs at the same time, one of each store, are.
    #[error(
        "its message of {bytes} bytes does not fit beside the {held} bytes of this request's other stores, and answers \
         of stores may hold {limit} together: raise --query.buffer-bytes, or ask fewer stores at once"
    )]
    Request {
        /// Size of the message.
        bytes: usize,
        /// What the request holds.
        held: usize,
        /// The limit.
        limit: usize,
    },
}

/// The limit where none is asked for (0), bytes.
const LIMIT: u64 = 256 << 20;
/// The part of a container's memory that it may be then: with an overdraft a quarter, which the accounts of the
/// queries leave free ([`super::admission`]).
const PART: u64 = 8;
/// It is no less than this, bytes.
const LEAST: u64 = 1 << 20;

/// The limit that was asked for, or that fits a container of so many bytes.
fn limit_of(asked: u64, container: Option<u64>) -> u64 {
    match (asked, container) {
        (0, Some(bytes)) => (bytes / PART).clamp(LEAST, LIMIT),
        (0, None) => LIMIT,
        (asked, _) => asked,
    }
}

impl Buffers {
    /// As the flags say, in this container.
    pub fn in_container(args: &QueryArgs, metrics: &Metrics) -> Self {
        let limit = limit_of(args.buffer_bytes, crate::server::memory::limit());
        Self::new(limit, args.buffer_bytes_per_request, metrics)
    }

    /// At most `limit` bytes, of which one request reads ahead at most `ahead`; 0 is no limit.
    pub fn new(limit: u64, ahead: u64, metrics: &Metrics) -> Self {
        let bytes = |n: u64| match usize::try_from(n).unwrap_or(usize::MAX) {
            0 => Semaphore::MAX_PERMITS,
            n => n.min(Semaphore::MAX_PERMITS),
        };
        let limit = bytes(limit);
        let most: Gauge = metrics.register(
            "panoptes_query_buffer_limit_bytes",
            "Bytes that answers of stores may hold before they are merged, all requests together",
            Gauge::default(),
        );
        most.set(i64::try_from(limit).unwrap_or(i64::MAX));
        let kept = limit / 2;
        Self(Arc::new(Whole {
            limit,
            ahead: bytes(ahead).min(limit - kept),
            free: Arc::new(Semaphore::new(limit - kept)),
            kept: Arc::new(Semaphore::new(kept)),
            kept_bytes: kept,
            overdraft: Arc::new(Semaphore::new(1)),
            held: metrics.register(
                "panoptes_query_buffered_bytes",
                "Bytes that answers of stores hold before they are merged, all requests together",
                Gauge::default(),
            ),
            waits: metrics.register(
                "panoptes_query_buffer_waits",
                "Messages of stores that had to wait for free bytes",
                Counter::default(),
            ),
        }))
    }

    /// The part of one request.
    pub fn share(&self) -> Arc<Share> {
        Arc::new(Share {
            whole: Arc::clone(&self.0),
            ahead: Arc::new(Semaphore::new(self.0.ahead)),
            held: AtomicUsize::new(0),
            overdraft: Mutex::new(None),
        })
    }
}

/// What one request holds of it.
#[derive(Debug)]
pub struct Share {
    whole: Arc<Whole>,
    ahead: Arc<Semaphore>,
    held: AtomicUsize,
    /// It may overdraw, until it ends.
    overdraft: Mutex<Option<OwnedSemaphorePermit>>,
}

/// Bytes in use; given back when dropped.
#[derive(Debug)]
pub struct Grant {
    share: Arc<Share>,
    bytes: usize,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.share.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.share.whole.held.dec_by(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}

impl Grant {
    /// Counts what decoding has added. That is known too late to wait for it.
    pub fn grow(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.share.count(bytes);
    }
}

impl Share {
    fn count(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.whole.held.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn grant(self: &Arc<Self>, bytes: usize, permits: [Option<OwnedSemaphorePermit>; 2]) -> Grant {
        self.count(bytes);
        Grant { share: Arc::clone(self), bytes, _permits: permits }
    }

    /// Bytes to read ahead, if they are free.
    fn try_ahead(self: &Arc<Self>, bytes: usize) -> Option<Grant> {
        let many = u32::try_from(bytes).ok()?;
        let mine = Arc::clone(&self.ahead).try_acquire_many_owned(many).ok()?;
        let whole = Arc::clone(&self.whole.free).try_acquire_many_owned(many).ok()?;
        Some(self.grant(bytes, [Some(mine), Some(whole)]))
    }

    /// Bytes to read ahead, once they are free; for ever if there are never so many.
    async fn ahead(self: &Arc<Self>, bytes: usize) -> Grant {
        let acquire = async |of: &Arc<Semaphore>| {
            let many = u32::try_from(bytes).ok()?;
            Arc::clone(of).acquire_many_owned(many).await.ok()
        };
        if bytes <= self.whole.ahead
            && let Some(mine) = acquire(&self.ahead).await
            && let Some(whole) = acquire(&self.whole.free).await
        {
            return self.grant(bytes, [Some(mine), Some(whole)]);
        }
        std::future::pending().await
    }

    /// Bytes that the request can't go on without.
    async fn needed(self: &Arc<Self>, bytes: usize) -> Result<Grant, Refused> {
        let limit = self.whole.limit;
        let held = self.held.load(Ordering::Relaxed);
        if held.saturating_add(bytes) > limit {
            return Err(Refused::Request { bytes, held, limit });
        }
        let Ok(many) = u32::try_from(bytes) else { return Err(Refused::Message { bytes, limit }) };
        if self.overdraft.lock().is_some() {
            return Ok(self.grant(bytes, [None, None]));
        }
        // What can never be had from there must not stand in that queue: it would collect all that becomes free.
        let kept = async {
            if bytes > self.whole.kept_bytes {
                return std::future::pending().await;
            }
            Arc::clone(&self.whole.kept).acquire_many_owned(many).await
        };
        let overdraft = Arc::clone(&self.whole.overdraft).acquire_owned();
        tokio::select! {
            biased;
            Ok(permit) = kept => Ok(self.grant(bytes, [Some(permit), None])),
            Ok(permit) = overdraft => {
                self.overdraft.lock().get_or_insert(permit);
                Ok(self.grant(bytes, [None, None]))
            }
            else => Err(Refused::Message { bytes, limit }),
        }
    }
}

/// One call to a store within a request.
#[derive(Debug)]
pub struct Call {
    share: Arc<Share>,
    needed: AtomicBool,
    wake: Notify,
    waiting: AtomicBool,
    has_waited: AtomicBool,
    grants: Mutex<VecDeque<Grant>>,
}

impl Call {
    /// A call that reads ahead until [`Call::need`] says otherwise.
    pub fn new(share: &Arc<Share>) -> Arc<Self> {
        Arc::new(Self {
            share: Arc::clone(share),
            needed: AtomicBool::new(false),
            wake: Notify::new(),
            waiting: AtomicBool::new(false),
            has_waited: AtomicBool::new(false),
            grants: Mutex::default(),
        })
    }

    /// A call whose first message is needed.
    pub fn needed(share: &Arc<Share>) -> Arc<Self> {
        let call = Self::new(share);
        call.need();
        call
    }

    /// Says that somebody waits for the next message of this call.
    pub fn need(&self) {
        self.needed.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Says that nobody waits any more.
    pub fn idle(&self) {
        self.needed.store(false, Ordering::SeqCst);
    }

    /// True while the next message waits for memory: the store is not to blame for its silence then.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// True if a message has waited for memory: how long it took says nothing of the store then.
    pub fn has_waited(&self) -> bool {
        self.has_waited.load(Ordering::SeqCst)
    }

    /// Gives back what was granted for messages that nobody will receive.
    pub fn forget(&self) {
        self.grants.lock().clear();
    }

    /// The grant of the message that was received next; `None` if it was not counted.
    pub fn received(&self) -> Option<Grant> {
        self.grants.lock().pop_front()
    }

    /// Lets a message in if that needs no waiting.
    pub(super) fn try_admit(&self, bytes: usize) -> bool {
        // One after the other: who waits already is not overtaken. What is too large is refused where that can be said.
        let granted = if self.is_waiting() || bytes > RECEIVE_MAX { None } else { self.share.try_ahead(bytes) };
        granted.is_some_and(|grant| {
            self.admitted(grant);
            true
        })
    }

    /// Lets a message in as soon as that is possible.
    pub(super) async fn admit(self: Arc<Self>, bytes: usize) -> Result<(), Refused> {
        if bytes > RECEIVE_MAX {
            return Err(Refused::Announced { bytes });
        }
        let limit = self.share.whole.limit;
        if bytes > limit {
            return Err(Refused::Message { bytes, limit });
        }
        let _waiting = Waiting::begin(&self.waiting);
        self.has_waited.store(true, Ordering::SeqCst);
        self.share.whole.waits.inc();
        let grant = tokio::select! {
            biased;
            () = self.is_needed() => self.share.needed(bytes).await?,
            grant = self.share.ahead(bytes) => grant,
        };
        self.admitted(grant);
        Ok(())
    }

    fn admitted(&self, grant: Grant) {
        // This is the message that was needed; whether the next one is, will be said.
        self.needed.store(false, Ordering::SeqCst);
        self.grants.lock().push_back(grant);
    }

    async fn is_needed(&self) {
        while !self.needed.load(Ordering::SeqCst) {
            self.wake.notified().await;
        }
    }
}

struct Waiting<'a>(&'a AtomicBool);

impl<'a> Waiting<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ready::Readiness;
    use futures::FutureExt as _;

    fn buffers(limit: u64, ahead: u64) -> Buffers {
        Buffers::new(limit, ahead, &Metrics::new("query", Readiness::default()))
    }

    fn held(b: &Buffers) -> i64 {
        b.0.held.get()
    }

    #[test]
    fn the_limit_follows_the_container() {
        for (asked, container, limit) in [
            (0, None, 256 << 20),
            (0, Some(64 << 30), 256 << 20),
            (0, Some(1 << 30), 128 << 20),
            (0, Some(256 << 20), 32 << 20),
            (0, Some(7), 1 << 20),
            (300 << 20, Some(256 << 20), 300 << 20),
        ] {
            assert_eq!(limit_of(asked, container), limit, "{asked} in {container:?}");
        }
        assert_eq!(QueryArgs::default().buffer_bytes, 0);
    }

    #[tokio::test]
    async fn reading_ahead_waits_and_what_is_needed_does_not() {
        let b = buffers(100, 40);
        let share = b.share();
        let (first, second) = (Call::new(&share), Call::new(&share));
        assert!(first.try_admit(30));
        assert!(!second.try_admit(30), "the request's share is 40");
        let mut waits = Box::pin(Arc::clone(&second).admit(30));
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(second.is_waiting() && !first.is_waiting());
        second.need();
        waits.await.unwrap();
        assert!(!second.is_waiting() && second.has_waited() && !first.has_waited());
        assert_eq!(held(&b), 60);
        let mut grant = second.received().unwrap();
        grant.grow(5);
        assert_eq!(held(&b), 65);
        drop(grant);
        drop(first.received());
        assert_eq!(held(&b), 0);
        // What was given back is granted to the one that waits.
        assert!(first.try_admit(40));
        let mut waits = Box::pin(Arc::clone(&first).admit(20));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(first.received());
        waits.await.unwrap();
        // A call that was given up holds nothing.
        first.forget();
        assert_eq!(held(&b), 0);
    }

    #[tokio::test]
    async fn one_request_overdraws_at_a_time_and_the_next_when_it_ends() {
        let b = buffers(100, 100);
        let full = Call::new(&b.share());
        assert!(full.try_admit(50) && !full.try_admit(1), "half is for reading ahead");
        full.need();
        Arc::clone(&full).admit(50).await.unwrap();
        // Somebody who does not go on holds everything.
        let (a, c) = (Call::needed(&b.share()), Call::needed(&b.share()));
        Arc::clone(&a).admit(60).await.unwrap();
        a.need();
        Arc::clone(&a).admit(40).await.unwrap();
        assert_eq!(held(&b), 200);
        let mut waits = Box::pin(Arc::clone(&c).admit(60));
        assert!(waits.as_mut().now_or_never().is_none(), "a second one would make it more than twice the limit");
        drop(a);
        waits.await.unwrap();
        assert_eq!(held(&b), 160);
    }

    #[tokio::test]
    async fn a_message_larger_than_what_is_kept_does_not_stand_in_the_way_of_others() {
        let b = buffers(100, 50);
        let full = Call::new(&b.share());
        assert!(full.try_admit(50), "nothing is left to read ahead");
        let a = Call::needed(&b.share());
        Arc::clone(&a).admit(60).await.unwrap();
        // The overdraft is taken; this one has to wait for it.
        let large = Call::needed(&b.share());
        let mut waits = Box::pin(Arc::clone(&large).admit(60));
        assert!(waits.as_mut().now_or_never().is_none());
        let small = Call::needed(&b.share());
        assert!(Box::pin(Arc::clone(&small).admit(10)).now_or_never().is_some(), "50 bytes are kept and free");
        drop(a);
        waits.await.unwrap();
    }

    #[tokio::test]
    async fn what_can_never_fit_is_refused_by_name() {
        let b = buffers(100, 50);
        let call = Call::needed(&b.share());
        let e = Arc::clone(&call).admit(101).await.unwrap_err();
        assert_eq!(e, Refused::Message { bytes: 101, limit: 100 });
        assert!(e.to_string().contains("message of 101 bytes") && e.to_string().contains("--query.buffer-bytes"));
        Arc::clone(&call).admit(60).await.unwrap();
        call.need();
        let e = Arc::clone(&call).admit(41).await.unwrap_err();
        assert_eq!(e, Refused::Request { bytes: 41, held: 60, limit: 100 });
        // 0 is no limit, but for a single message there is one.
        let call = Call::needed(&buffers(0, 0).share());
        assert!(call.try_admit(RECEIVE_MAX) && !call.try_admit(RECEIVE_MAX + 1));
        let e = Arc::clone(&call).admit(RECEIVE_MAX + 1).await.unwrap_err();
        assert_eq!(e, Refused::Announced { bytes: RECEIVE_MAX + 1 });
    }
}
