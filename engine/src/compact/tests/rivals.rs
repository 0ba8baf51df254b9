//! G04 and G05: several compactors on one bucket, frozen and thawed at any request.

use super::site::TTL;
use super::*;
use async_trait::async_trait;
use bucket::layers::around::Around;
use bucket::store::{Condition, Page, Source, Store};
use bucket::{Memory, Meta, Object, Version, lease};
use bytes::Bytes;
use model::world::{Clock, World};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::goal::{Goal, Rng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tsdb::disk::MemoryDisk;
use tsdb::plan::Retention;

/// Virtual time.
pub(super) struct Virtual(pub(super) Instant, pub(super) i64);

impl Clock for Virtual {
    fn now_ms(&self) -> i64 {
        self.1 + self.0.elapsed().as_millis() as i64
    }
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What the processes of a run did.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Changes that were begun while another one held the lease.
    pub(super) fenced_off: AtomicU64,
    /// Changes of all kinds.
    pub(super) changes: AtomicU64,
    /// Freezes, processes killed, and changes that hung.
    pub(super) freezes: AtomicU64,
    pub(super) kills: AtomicU64,
    pub(super) hangs: AtomicU64,
    /// Changes in the order in which they were made, in words.
    pub(super) log: Mutex<Vec<String>>,
}

impl Told {
    /// What happened to the block that a failure is about.
    pub(super) fn about(&self, failure: &str) -> String {
        let block = failure.split(|c: char| !c.is_ascii_alphanumeric()).find(|w| w.parse::<model::BlockId>().is_ok());
        let log = self.log.lock();
        let lines = log.iter().filter(|line| block.is_some_and(|b| line.contains(b)) || line.contains("/lease/"));
        let lines: Vec<&String> = lines.collect();
        let about = lines.iter().map(|l| format!("\n  {l}"));
        about.collect::<Vec<_>>().concat()
    }
}

/// The way of one process to the bucket. When the process is frozen, a request that it was about to send lands when it thaws.
#[derive(Clone)]
pub(super) struct Freezing {
    /// Where the lease is looked at.
    pub(super) memory: Memory,
    pub(super) inner: Arc<dyn Store>,
    pub(super) name: &'static str,
    pub(super) state: Arc<Mutex<(Rng, Instant)>>,
    /// One request in so many is the last one before a freeze; of at most this length.
    pub(super) share: Arc<AtomicUsize>,
    pub(super) longest: Duration,
    pub(super) told: Arc<Told>,
    pub(super) begin: Instant,
}

impl std::fmt::Debug for Freezing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} freezing", self.name)
    }
}

impl From<Freezing> for Arc<dyn Store> {
    fn from(store: Freezing) -> Self {
        Arc::new(store)
    }
}

impl Freezing {
    fn holder(&self) -> Option<String> {
        let all = self.memory.snapshot();
        let bytes = all.get(&lease::lease_path("all"))?;
        let record: lease::Record = bucket::document::read("lease", bytes).ok()?;
        (!record.released).then_some(record.holder)
    }

    fn log(&self, what: &str, path: &str, done: bool) {
        let failed = if done { "" } else { " (refused)" };
        self.told.log.lock().push(format!("{:?} {} {what} {path}{failed}", self.begin.elapsed(), self.name));
    }

    async fn pass(&self, changes: Option<&str>) {
        if let Some(path) = changes.filter(|path| !path.starts_with(lease::ROOT)) {
            self.told.changes.fetch_add(1, Ordering::SeqCst);
            if self.holder().as_deref() != Some(self.name) {
                self.told.fenced_off.fetch_add(1, Ordering::SeqCst);
                self.log("begins without the lease", path, true);
            }
        }
        // Frozen in the same moment: it is under way, as the request that was the last one.
        loop {
            let until = self.state.lock().1;
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep_until(until).await;
        }
        let until = {
            let mut state = self.state.lock();
            let share = self.share.load(Ordering::SeqCst);
            let freeze = share > 0 && state.0.below(share) == 0;
            if freeze {
                self.told.freezes.fetch_add(1, Ordering::SeqCst);
                // Short ones and long ones alike.
                let most = state.0.below(self.longest.as_millis() as usize).max(1);
                state.1 = Instant::now() + Duration::from_millis(state.0.below(most) as u64 + 100);
            }
            state.1
        };
        tokio::time::sleep_until(until).await;
    }
}

#[async_trait]
impl Around for Freezing {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> bucket::Result<Object> {
        self.pass(None).await;
        self.inner.get(path, range, max).await
    }
    async fn head(&self, path: &str) -> bucket::Result<Meta> {
        self.pass(None).await;
        self.inner.head(path).await
    }
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> bucket::Result<Page> {
        self.pass(None).await;
        self.inner.list(prefix, one_level, token).await
    }
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> bucket::Result<Version> {
        self.pass(Some(path)).await;
        let put = self.inner.put(path, body, condition).await;
        self.log("put", path, put.is_ok());
        put
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> bucket::Result<Version> {
        self.pass(Some(path)).await;
        self.log("upload", path, true);
        self.inner.upload(path, source).await
    }
    async fn delete(&self, path: &str) -> bucket::Result<()> {
        self.pass(Some(path)).await;
        self.log("delete", path, true);
        self.inner.delete(path).await
    }
}

/// A process: nothing of it goes on while it is frozen, but for the request that was its last one.
pub(super) struct Process<F> {
    work: std::pin::Pin<Box<F>>,
    state: Arc<Mutex<(Rng, Instant)>>,
    thaws: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl<F: Future> Process<F> {
    pub(super) fn new(state: Arc<Mutex<(Rng, Instant)>>, work: F) -> Self {
        Self { work: Box::pin(work), state, thaws: None }
    }
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<F::Output> {
        let until = self.state.lock().1;
        if Instant::now() < until {
            let mut sleep = Box::pin(tokio::time::sleep_until(until));
            if sleep.as_mut().poll(cx).is_pending() {
                self.thaws = Some(sleep);
                return std::task::Poll::Pending;
            }
        }
        self.thaws = None;
        self.work.as_mut().poll(cx)
    }
}

/// A run: who, for how long, and how they are frozen.
#[derive(Clone, Copy)]
struct Race {
    names: &'static [&'static str],
    hours: u64,
    /// One request in so many is the last one before a freeze, of at most this length.
    share: usize,
    longest: Duration,
    /// Between two passes.
    pause: Duration,
    lease: Duration,
}

/// Several compactors at once. Then they thaw, and all must be done.
async fn race(mut rng: Rng, how: Race) -> Arc<Told> {
    let retention = Retention { raw: 3 * DAY, ..Retention::default() };
    let settings = Settings { retention, delete_delay: 6 * HOUR, ..raw() };
    let mut site = Site::new(settings);
    site.world =
        World { clock: Arc::new(Virtual(Instant::now(), T0 + 50 * HOUR)), entropy: Arc::clone(&site.world.entropy) };
    for n in 0..6 {
        site.block(n * 8 * HOUR, 8 * HOUR, &[("cluster", "a")]).await;
    }
    site.block(2 * DAY, 2 * HOUR, &[("cluster", "a")]).await;
    for n in 0..5 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "b")]).await;
    }
    let told = Arc::new(Told::default());
    let stop = CancellationToken::new();
    let mut all = Vec::new();
    for name in how.names.iter().copied() {
        let seed = Rng::clone(&rng);
        rng.next_u64();
        let state = Arc::new(Mutex::new((seed, Instant::now())));
        let store = Freezing {
            memory: site.memory.clone(),
            inner: site.memory.clone().into(),
            name,
            state: Arc::clone(&state),
            share: Arc::new(AtomicUsize::new(how.share)),
            longest: how.longest,
            told: Arc::clone(&told),
            begin: Instant::now(),
        };
        let mut compactor = site.compactor(name, Arc::new(MemoryDisk::new()));
        compactor.options.lease = how.lease;
        let (bucket, stop) = (site.bucket(store), stop.clone());
        all.push(Process::new(state, async move { compactor.work(&bucket, Some(how.pause), &stop).await }));
    }
    let checks = async {
        let end = Instant::now() + Duration::from_secs(how.hours * 3600);
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_secs(60 * how.hours)).await;
            site.verify(false).unwrap_or_else(|e| panic!("while they race: {e}{}", told.about(&e)));
        }
        stop.cancel();
    };
    tokio::join!(futures::future::join_all(all), checks);
    // Thawed.
    for _ in 0..4 {
        tokio::time::sleep(how.lease * 2).await;
        let outcome = site.pass(&site.own_bucket(), Arc::new(MemoryDisk::new())).await;
        outcome.unwrap_or_else(|e| panic!("healing: {e}"));
        site.verify(false).unwrap_or_else(|e| panic!("healing: {e}"));
        tokio::time::sleep(Duration::from_secs(7 * 3600)).await;
    }
    site.verify(true).unwrap_or_else(|e| panic!("healed: {e}"));
    told
}

fn runs(goal: &Goal, count: u64, how: Race) -> (u64, u64, u64) {
    let (mut freezes, mut changes, mut fenced) = (0, 0, 0);
    for n in 0..count {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let told = runtime.block_on(race(goal.rng(&format!("run {n}")), how));
        freezes += told.freezes.load(Ordering::SeqCst);
        changes += told.changes.load(Ordering::SeqCst);
        fenced += told.fenced_off.load(Ordering::SeqCst);
    }
    (freezes, changes, fenced)
}

#[test]
fn goal_g04_two_compactors_race() {
    let goal = Goal::start("G04");
    let count = goal.pick(2, 60, 2_000);
    let pause = Duration::from_secs(300);
    let how = Race { names: &["a", "b", "c"], hours: 4, share: 40, longest: TTL * 3, pause, lease: TTL };
    let (freezes, changes, fenced) = runs(&goal, count, how);
    assert!(freezes > count, "they were hardly frozen: {freezes}");
    assert_eq!(fenced, 0, "changes were begun without the lease, of {changes}");
    goal.figure(&format!(
        "{count} races of three, {freezes} freezes, {changes} changes: 0 without the lease, 0 lost, 0 doubled"
    ));
}

#[test]
fn goal_g05_zombies() {
    let goal = Goal::start("G05");
    let count = goal.pick(3, 200, 10_000);
    let (longest, lease) = (Duration::from_secs(72 * 3600), Duration::from_secs(1800));
    let how = Race { names: &["a", "b"], hours: 200, share: 50, longest, pause: Duration::from_secs(7200), lease };
    let (freezes, changes, fenced) = runs(&goal, count, how);
    assert!(freezes > count, "they were hardly frozen: {freezes}");
    assert_eq!(fenced, 0, "changes were begun without the lease, of {changes}");
    goal.figure(&format!(
        "{count} schedules, {freezes} freezes of up to 72 h, {changes} changes: 0 begun without the lease"
    ));
}
