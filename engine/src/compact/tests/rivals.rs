//! G04 and G05: several compactors on one bucket, frozen and thawed at any request.

use super::crashes::block_on;
use super::judge::{Book, Judge, Origins};
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
use testkit::goal::{Goal, Rng, Size};
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
    /// Changes that were begun while another one held the lease, or by a process that stood still.
    pub(super) fenced_off: AtomicU64,
    /// Changes of all kinds.
    pub(super) changes: AtomicU64,
    /// Changes that were begun with the lease, and made when another one had it.
    pub(super) late: AtomicU64,
    /// Freezes, processes killed, and changes that hung.
    pub(super) freezes: AtomicU64,
    pub(super) kills: AtomicU64,
    pub(super) hangs: AtomicU64,
    /// Changes in the order in which they were made, in words.
    pub(super) log: Mutex<Vec<String>>,
}

impl Told {
    /// An error if changes were begun without the lease: which, and who had it.
    pub(super) fn fenced(&self) -> Result<(), String> {
        let count = self.fenced_off.load(Ordering::SeqCst);
        let log = self.log.lock();
        let lines = log.iter().filter(|l| l.contains(" begins ") || l.contains("/lease/")).map(|l| format!("\n  {l}"));
        match count {
            0 => Ok(()),
            _ => Err(format!("{count} changes were begun without the lease{}", lines.collect::<String>())),
        }
    }

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

/// When a process stands still.
pub(super) struct Ice {
    rng: Rng,
    from: Instant,
    pub(super) until: Instant,
}

impl Ice {
    pub(super) fn new(rng: Rng) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { rng, from: Instant::now(), until: Instant::now() }))
    }
}

/// The way of one process to the bucket. A change that was begun in the moment in which the process froze is made meanwhile, or when
/// it thaws, and whatever it does then: it is under way. Nothing else may be begun without the lease.
#[derive(Clone)]
pub(super) struct Freezing {
    /// Where the lease is looked at.
    pub(super) memory: Memory,
    pub(super) inner: Arc<dyn Store>,
    pub(super) name: &'static str,
    pub(super) ice: Arc<Mutex<Ice>>,
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
    fn holds(&self) -> bool {
        let record = self.memory.peek(&lease::lease_path("all"));
        let record = record.and_then(|bytes| bucket::document::read("lease", &bytes).ok());
        record.is_some_and(|record: lease::Record| !record.released && record.holder == self.name)
    }

    fn log(&self, what: &str, path: &str, how: &str) {
        self.told.log.lock().push(format!("{:?} {} {what} {path}{how}", self.begin.elapsed(), self.name));
    }

    /// A request begins; it may be the last one before a freeze. Until when its process stands still.
    fn begins(&self, change: Option<&str>) -> Instant {
        let now = Instant::now();
        let mut ice = self.ice.lock();
        if let Some(path) = change {
            self.told.changes.fetch_add(1, Ordering::SeqCst);
            let wrong = if now < ice.until && now > ice.from {
                Some("begins though it stands still")
            } else {
                (!self.holds()).then_some("begins without the lease")
            };
            if let Some(wrong) = wrong {
                self.told.fenced_off.fetch_add(1, Ordering::SeqCst);
                self.log(wrong, path, "");
            }
        }
        // Changes are few, and what matters.
        let share = self.share.load(Ordering::SeqCst).div_ceil(if change.is_some() { 6 } else { 1 });
        if now >= ice.until && share > 0 && ice.rng.below(share) == 0 {
            self.told.freezes.fetch_add(1, Ordering::SeqCst);
            // Short ones and long ones alike; a change has to be under way for longer than a lease to come late.
            let longest = self.longest.as_millis() as usize;
            let most = if change.is_some() { longest } else { ice.rng.below(longest).max(1) };
            ice.from = now;
            ice.until = now + Duration::from_millis(ice.rng.below(most) as u64 + 100);
        }
        ice.until.max(now)
    }

    /// A read, heard of when the process goes on.
    async fn read<T>(&self, request: impl Future<Output = bucket::Result<T>>) -> bucket::Result<T> {
        tokio::time::sleep_until(self.begins(None)).await;
        request.await
    }

    async fn change<T: Send + 'static>(
        &self,
        (what, path): (&'static str, &str),
        request: impl Future<Output = bucket::Result<T>> + Send + 'static,
    ) -> bucket::Result<T> {
        let is_lease = path.starts_with(lease::ROOT);
        let (now, until) = (Instant::now(), self.begins((!is_lease).then_some(path)));
        let (way, path) = (self.clone(), path.to_owned());
        let made = async move {
            let is_late = !is_lease && !way.holds();
            let done = request.await;
            way.told.late.fetch_add(u64::from(is_late && done.is_ok()), Ordering::SeqCst);
            way.log(what, &path, if done.is_ok() { "" } else { " (refused)" });
            done
        };
        if until <= now {
            return made.await;
        }
        let lands = {
            let rng = &mut self.ice.lock().rng;
            let under_way = Duration::from_millis(rng.below((until - now).as_millis() as usize + 1) as u64);
            // Frozen right before it is sent, or after that.
            if rng.one_in(2) { until } else { now + under_way }
        };
        let late = tokio::spawn(async move {
            tokio::time::sleep_until(lands).await;
            made.await
        });
        tokio::time::sleep_until(until).await;
        late.await.unwrap()
    }
}

#[async_trait]
impl Around for Freezing {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> bucket::Result<Object> {
        self.read(self.inner.get(path, range, max)).await
    }
    async fn head(&self, path: &str) -> bucket::Result<Meta> {
        self.read(self.inner.head(path)).await
    }
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> bucket::Result<Page> {
        self.read(self.inner.list(prefix, one_level, token)).await
    }
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> bucket::Result<Version> {
        let (inner, at) = (Arc::clone(&self.inner), path.to_owned());
        self.change(("put", path), async move { inner.put(&at, body, condition).await }).await
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> bucket::Result<Version> {
        let (inner, at) = (Arc::clone(&self.inner), path.to_owned());
        self.change(("upload", path), async move { inner.upload(&at, source).await }).await
    }
    async fn delete(&self, path: &str) -> bucket::Result<()> {
        let (inner, at) = (Arc::clone(&self.inner), path.to_owned());
        self.change(("delete", path), async move { inner.delete(&at).await }).await
    }
}

/// A process: nothing of it goes on while it is frozen, but for the changes that were under way.
pub(super) struct Process<F> {
    work: std::pin::Pin<Box<F>>,
    ice: Arc<Mutex<Ice>>,
    thaws: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl<F: Future> Process<F> {
    pub(super) fn new(ice: Arc<Mutex<Ice>>, work: F) -> Self {
        Self { work: Box::pin(work), ice, thaws: None }
    }
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<F::Output> {
        let until = self.ice.lock().until;
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

/// Several compactors at once, each change judged when it is made. Then they thaw, and all must be done.
async fn race(mut rng: Rng, how: Race) -> Result<Arc<Told>, String> {
    let retention = Retention { raw: 3 * DAY, ..Retention::default() };
    let settings = Settings { retention, delete_delay: 6 * HOUR, ..raw() };
    let mut site = Site::new(settings);
    let begin = Instant::now();
    site.world = World { clock: Arc::new(Virtual(begin, T0 + 50 * HOUR)), entropy: Arc::clone(&site.world.entropy) };
    let (mut made, mut origins) = (Vec::new(), Origins::new());
    let wide = (0..6).map(|n| (n * 8 * HOUR, 8 * HOUR, "a")).chain([(2 * DAY, 2 * HOUR, "a")]);
    for (at, width, cluster) in wide.chain((0..5).map(|n| (n * 2 * HOUR, 2 * HOUR, "b"))) {
        let block = site.made(at, width, &[("cluster", cluster)]);
        origins.insert(site::id(&block.1), (cluster.to_owned(), (T0 + at, T0 + at + width)));
        made.push(block);
    }
    let book = Arc::new(Mutex::new(Book::default()));
    let judge = Judge {
        memory: site.memory.clone(),
        clock: Arc::clone(&site.world.clock),
        begin,
        name: "sidecar".to_owned(),
        delay: site.settings.delete_delay,
        raw: site.settings.retention.raw,
        samples: Arc::new(site.samples.clone()),
        origins: Arc::new(origins),
        book: Arc::clone(&book),
    };
    let sidecar = site.bucket(Arc::new(judge.clone()) as Arc<dyn Store>);
    for (disk, dir) in &made {
        site::send(&sidecar, disk, dir).await;
    }
    let told = Arc::new(Told::default());
    let stop = CancellationToken::new();
    let mut all = Vec::new();
    for name in how.names.iter().copied() {
        let ice = Ice::new(Rng(rng.next_u64()));
        let store = Freezing {
            memory: site.memory.clone(),
            inner: Arc::new(Judge { name: name.to_owned(), ..judge.clone() }),
            name,
            ice: Arc::clone(&ice),
            share: Arc::new(AtomicUsize::new(how.share)),
            longest: how.longest,
            told: Arc::clone(&told),
            begin,
        };
        let mut compactor = site.compactor(name, Arc::new(MemoryDisk::new()));
        (compactor.options.lease, compactor.options.inline) = (how.lease, true);
        let (bucket, stop) = (site.bucket(store), stop.clone());
        all.push(Process::new(ice, async move { compactor.work(&bucket, Some(how.pause), &stop).await }));
    }
    let course = async {
        tokio::time::sleep(Duration::from_secs(how.hours * 3600)).await;
        stop.cancel();
    };
    tokio::join!(futures::future::join_all(all), course);
    let about = |e: String| format!("{e}{}", told.about(&e));
    told.fenced()?;
    if let Some(why) = book.lock().broken.take() {
        return Err(about(why));
    }
    site.verify(false).map_err(|e| about(format!("after the race: {e}")))?;
    // Thawed; what was under way has arrived.
    tokio::time::sleep(how.longest).await;
    for _ in 0..4 {
        tokio::time::sleep(how.lease * 2).await;
        let outcome = site.pass(&site.own_bucket(), Arc::new(MemoryDisk::new())).await;
        outcome.map_err(|e| about(format!("healing: {e}")))?;
        tokio::time::sleep(Duration::from_secs(7 * 3600)).await;
    }
    site.verify(true).map_err(|e| about(format!("healed: {e}")))?;
    Ok(told)
}

/// Freezes, changes, and those that came late.
fn runs(goal: &Goal, count: u64, how: Race) -> (u64, u64, u64) {
    let rngs: Vec<Rng> = (0..count).map(|n| goal.rng(&format!("run {n}"))).collect();
    let all = site::on_two_cores(&rngs, |rng| {
        let told = block_on(race(rng.clone(), how))?;
        let of = |n: &AtomicU64| n.load(Ordering::SeqCst);
        Ok((of(&told.freezes), of(&told.changes), of(&told.late)))
    });
    let all = all.unwrap_or_else(|e| panic!("{e}"));
    all.into_iter().fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2))
}

#[test]
fn goal_g04_two_compactors_race() {
    let goal = Goal::start("G04");
    let count = goal.pick(4, 60, 2_000);
    let pause = Duration::from_secs(300);
    let how = Race { names: &["a", "b", "c"], hours: 4, share: 40, longest: TTL * 10, pause, lease: TTL };
    let (freezes, changes, late) = runs(&goal, count, how);
    let is_late = late > 0 || goal.size() == Size::Ci;
    assert!(freezes > count && is_late, "they were hardly frozen: {freezes} times, {late} late changes");
    goal.figure(&format!(
        "{count} races of three, {freezes} freezes, {changes} changes, {late} came when another one had the lease: 0 begun without it, 0 \
         harm"
    ));
}

#[test]
fn goal_g05_zombies() {
    let goal = Goal::start("G05");
    let count = goal.pick(4, 200, 10_000);
    let (longest, lease) = (Duration::from_secs(72 * 3600), Duration::from_secs(1800));
    let how = Race { names: &["a", "b"], hours: 200, share: 50, longest, pause: Duration::from_secs(7200), lease };
    let (freezes, changes, late) = runs(&goal, count, how);
    let is_late = late > 0 || goal.size() == Size::Ci;
    assert!(freezes > count && is_late, "they were hardly frozen: {freezes} times, {late} late changes");
    goal.figure(&format!(
        "{count} schedules, {freezes} freezes of up to 72 h, {changes} changes, {late} came when another one had the lease: 0 begun without \
         it, 0 harm"
    ));
}
