//! All that goes wrong between the processes of a simulation and their bucket.

use super::hostile::Stale;
use super::judge::Judge;
use super::rivals::Told;
use super::site::Dice;
use async_trait::async_trait;
use bucket::layers::around::Around;
use bucket::layers::faults::{Faults, Plan};
use bucket::store::{Condition, Page, Source, Store};
use bucket::{Kind, Meta, Object, Operation, Version};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::goal::Rng;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Oldest listing.
pub(super) const STALE: Duration = Duration::from_secs(30 * 60);
/// Longest time that a request hangs; a change's sender gives up after half of it.
const HANG: Duration = Duration::from_secs(4 * 60);

/// The switches of all faults.
#[derive(Clone)]
pub(super) struct Weather {
    plan: Plan,
    /// One request in so many hangs; one change in so many is the last one of its process.
    hangs: usize,
    kills: usize,
    plans: Arc<Mutex<Vec<Faults>>>,
    stale: Arc<Mutex<Duration>>,
    pub(super) freezes: Arc<AtomicUsize>,
    calm: Arc<AtomicBool>,
}

impl Weather {
    pub(super) fn wild(rng: &mut Rng) -> Self {
        let share = |rng: &mut Rng, most: usize| rng.below(most) as f64 / 1000.0;
        let plan = Plan {
            fails: share(rng, 60),
            throttles: share(rng, 60),
            loses_answer: share(rng, 20),
            cuts: share(rng, 20),
            ..Plan::default()
        };
        Self {
            plan,
            hangs: [0, 100, 30][rng.below(3)],
            kills: [0, 60, 20][rng.below(3)],
            plans: Arc::default(),
            stale: Arc::new(Mutex::new(STALE * rng.below(3) as u32 / 2)),
            freezes: Arc::new(AtomicUsize::new([0, 200, 60][rng.below(3)])),
            calm: Arc::default(),
        }
    }

    /// All faults end.
    pub(super) fn calm(&self) {
        self.plans.lock().iter().for_each(|f| f.set(Plan::default()));
        *self.stale.lock() = Duration::ZERO;
        self.freezes.store(0, Ordering::SeqCst);
        self.calm.store(true, Ordering::SeqCst);
    }

    /// The way of one process to the bucket, and what tells it that it is killed.
    pub(super) fn way(&self, judge: Judge, rng: &mut Rng, told: &Arc<Told>) -> Wild {
        let seen = Mutex::new((Rng(rng.next_u64()), None, BTreeMap::new()));
        let stale = Stale { inner: Arc::new(judge), longest: Arc::clone(&self.stale), seen };
        let dice = Arc::new(Dice(AtomicU64::new(rng.next_u64())));
        let faults = Faults::new(Arc::new(stale) as Arc<dyn Store>, dice, self.plan.clone());
        self.plans.lock().push(faults.clone());
        let rng = Arc::new(Mutex::new(Rng(rng.next_u64())));
        Wild { inner: Arc::new(faults), rng, weather: self.clone(), killed: Arc::default(), told: Arc::clone(told) }
    }
}

/// Requests that hang, and processes that are killed at a request.
#[derive(Clone)]
pub(super) struct Wild {
    inner: Arc<dyn Store>,
    rng: Arc<Mutex<Rng>>,
    weather: Weather,
    /// The process is killed, and has to start again.
    pub(super) killed: Arc<Notify>,
    told: Arc<Told>,
}

impl std::fmt::Debug for Wild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a wild bucket")
    }
}

impl Wild {
    fn happens(&self, one_in: usize) -> bool {
        one_in > 0 && !self.weather.calm.load(Ordering::SeqCst) && self.rng.lock().one_in(one_in)
    }

    async fn hang(&self) {
        let ms = self.rng.lock().below(HANG.as_millis() as usize) as u64;
        sleep(Duration::from_millis(ms)).await;
    }

    async fn read<T>(&self, request: impl Future<Output = bucket::Result<T>>) -> bucket::Result<T> {
        if self.happens(self.weather.hangs) {
            self.hang().await;
        }
        request.await
    }

    /// A change, made when nobody waits for it any more, too.
    async fn change<T: Send + 'static>(
        &self,
        path: &str,
        request: impl Future<Output = bucket::Result<T>> + Send + 'static,
    ) -> bucket::Result<T> {
        if self.happens(self.weather.kills) {
            // It was never sent, was done, or is still under way.
            let how = self.rng.lock().below(3);
            match how {
                0 => {}
                1 => drop(request.await),
                _ => {
                    let wild = self.clone();
                    tokio::spawn(async move {
                        wild.hang().await;
                        drop(request.await);
                    });
                }
            }
            self.told.kills.fetch_add(1, Ordering::SeqCst);
            self.killed.notify_one();
            return std::future::pending().await;
        }
        if !self.happens(self.weather.hangs) {
            return request.await;
        }
        self.told.hangs.fetch_add(1, Ordering::SeqCst);
        let wild = self.clone();
        let late = tokio::spawn(async move {
            wild.hang().await;
            request.await
        });
        let limit = HANG.mul_f64(0.5);
        let gave_up = || {
            let error = bucket::Error::new(Kind::Unavailable, Operation::Upload, path, "no answer in time");
            bucket::Error { uncertain: true, ..error }
        };
        tokio::time::timeout(limit, late).await.map_err(|_| gave_up())?.map_err(|_| gave_up())?
    }
}

#[async_trait]
impl Around for Wild {
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
        self.change(path, async move { inner.put(&at, body, condition).await }).await
    }
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> bucket::Result<Version> {
        let (inner, at) = (Arc::clone(&self.inner), path.to_owned());
        self.change(path, async move { inner.upload(&at, source).await }).await
    }
    async fn delete(&self, path: &str) -> bucket::Result<()> {
        let (inner, at) = (Arc::clone(&self.inner), path.to_owned());
        self.change(path, async move { inner.delete(&at).await }).await
    }
}
