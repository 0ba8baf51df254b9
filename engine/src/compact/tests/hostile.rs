//! G06: a bucket that fails, asks to slow down, loses answers, cuts bodies, and whose listings are up to half an hour old.

use super::rivals::Virtual;
use super::*;
use async_trait::async_trait;
use bucket::Meta;
use bucket::layers::around::Around;
use bucket::layers::faults::{Faults, Plan};
use bucket::store::{Entry, Page, Store};
use model::world::World;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use testkit::goal::{Goal, Rng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tsdb::disk::MemoryDisk;

/// Listings as they were a while ago.
pub(super) struct Stale {
    pub(super) inner: Arc<dyn Store>,
    pub(super) longest: Arc<Mutex<Duration>>,
    pub(super) seen: Mutex<(Rng, Option<Instant>, BTreeMap<String, Meta>)>,
}

impl std::fmt::Debug for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stale listings")
    }
}

#[async_trait]
impl Around for Stale {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }
    async fn list(&self, prefix: &str, one_level: bool, _token: Option<String>) -> bucket::Result<Page> {
        let is_old = self.seen.lock().1.is_none_or(|until| Instant::now() >= until);
        if is_old {
            let (mut all, mut token) = (BTreeMap::new(), None);
            loop {
                let page = self.inner.list("", false, token).await?;
                for entry in page.entries {
                    if let Entry::Object(meta) = entry {
                        all.insert(meta.path.clone(), meta);
                    }
                }
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
            let mut seen = self.seen.lock();
            let longest = self.longest.lock().as_millis();
            let age = seen.0.below(longest as usize + 1) as u64;
            (seen.1, seen.2) = (Some(Instant::now() + Duration::from_millis(age)), all);
        }
        let seen = self.seen.lock();
        let (mut page, mut folders) = (Page::default(), BTreeSet::new());
        for (path, meta) in seen.2.range(prefix.to_owned()..).take_while(|(path, _)| path.starts_with(prefix)) {
            match path[prefix.len()..].find('/').filter(|_| one_level) {
                Some(at) => drop(folders.insert(path[..=prefix.len() + at].to_owned())),
                None => page.entries.push(Entry::Object(meta.clone())),
            }
        }
        page.entries.extend(folders.into_iter().map(Entry::Directory));
        Ok(page)
    }
}

/// A day of a compactor over such a bucket; requests that reached the store, and rounds of work that were compacted.
async fn day(rng: Rng, streams: usize, hours: u64, plan: Plan, longest: Duration) -> (String, u64, usize) {
    let mut site = Site::new(Settings { delete_delay: 2 * HOUR, ..raw() });
    let entropy = Arc::clone(&site.world.entropy);
    site.world = World { clock: Arc::new(Virtual(Instant::now(), T0 + 60 * HOUR)), entropy: Arc::clone(&entropy) };
    for n in 0..streams {
        let cluster = format!("c{n:02}");
        for k in 0..5 {
            site.block(k * 2 * HOUR, 2 * HOUR, &[("cluster", &cluster)]).await;
        }
    }
    let longest = Arc::new(Mutex::new(longest));
    let stale = Stale { inner: site.memory.clone().into(), longest, seen: Mutex::new((rng, None, BTreeMap::new())) };
    let store = Faults::new(Arc::new(stale) as Arc<dyn Store>, entropy, plan);
    let bucket = site.bucket(Arc::new(store.clone()) as Arc<dyn Store>);
    let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
    let stop = CancellationToken::new();
    let mut made = BTreeSet::new();
    let checks = async {
        for _ in 0..hours * 2 {
            tokio::time::sleep(Duration::from_secs(1800)).await;
            site.verify(false).unwrap_or_else(|e| panic!("under way: {e}"));
            made.extend(site.blocks().into_iter().filter(|(_, (m, _))| m.compaction.level > 1).map(|(id, _)| id));
        }
        stop.cancel();
    };
    tokio::join!(compactor.work(&bucket, Some(Duration::from_secs(600)), &stop), checks);
    site.verify(true).unwrap_or_else(|e| panic!("at the end: {e}"));
    // Reads follow writes, however old the listings are.
    assert!(made.len() <= streams, "blocks were compacted twice: {} blocks were made of {streams} streams", made.len());
    let wide = site.blocks().values().filter(|(m, marked)| !marked && m.max_time - m.min_time == 8 * HOUR).count();
    (format!("{:?}", store.calls()), store.calls().values().sum(), wide)
}

#[test]
fn goal_g06_hostile_bucket() {
    let goal = Goal::start("G06");
    let (streams, hours) = goal.pick((5, 8), (20, 24), (20, 24 * 30));
    let run = |plan: Plan, longest: Duration| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(day(goal.rng("listings"), streams, hours, plan, longest))
    };
    let (_, quiet, done) = run(Plan::default(), Duration::ZERO);
    assert_eq!(done, streams, "even a good bucket was not compacted");
    let plan = Plan { fails: 0.05, throttles: 0.05, loses_answer: 0.01, cuts: 0.01, ..Plan::default() };
    let (calls, hostile, done) = run(plan, Duration::from_secs(1800));
    assert_eq!(done, streams, "not all was compacted");
    let ratio = hostile as f64 / quiet as f64;
    assert!(ratio <= 1.5, "{hostile} requests, {quiet} over a good bucket: {calls}");
    goal.figure(&format!(
        "{streams} streams, {hours} h: all compacted, 0 lost, 0 doubled, {hostile} requests, over a good bucket {quiet} ({ratio:.2})"
    ));
}
