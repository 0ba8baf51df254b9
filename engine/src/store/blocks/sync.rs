//! Keeps the set like the bucket: the catalogue every minute, the whole bucket every quarter of an hour, and at once when a
//! request met a block that is gone.
//!
//! A pass that fails changes nothing: what was served is served on.

use super::filters::{self, Candidate, Policy, States};
use super::memory;
use super::served::{Missing, Served};
use super::{Block, Edition, Entry, Home, Set};
use crate::server::point::Point;
use crate::storage::{InUse, Storage, web};
use crate::store::metrics::Metrics;
use args::HeaderStrategy;
use args::state::{self, SkipReason, SkippedBlock};
use bucket::fetch::{Depth, Fetcher, Reason, View};
use futures::StreamExt as _;
use model::BlockId;
use model::Labels;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tsdb::BlockMeta;

/// First delay after a pass that failed; doubled up to the interval.
const RETRY: Duration = Duration::from_secs(5);
/// How soon after a start from the catalogue alone the whole bucket is listed: marks are known from then on.
const FIRST_LISTING: Duration = Duration::from_secs(60);
/// Least time between two passes for blocks that are gone: queries must not become listings.
const SCOUT_PAUSE: Duration = Duration::from_secs(1);
/// A block may have samples up to so many ms after the time of its id: clocks differ.
const SKEW: i64 = 3_600_000;

/// How the set is kept.
pub(crate) struct Options {
    /// Oldest and newest time that is served.
    pub(crate) window: (Point, Point),
    /// What else decides; its window is replaced at each pass.
    pub(crate) policy: Policy,
    /// How often the catalogue is read.
    pub(crate) catalogue: Duration,
    /// How often the whole bucket is listed.
    pub(crate) listing: Duration,
    /// When index-headers are fetched.
    pub(crate) headers: HeaderStrategy,
    /// How many at the same time.
    pub(crate) header_concurrency: usize,
    /// Files meta.json and marks that are read at the same time.
    pub(crate) meta_concurrency: usize,
    /// Where the metas are remembered for the next start; nothing is kept on disk without.
    pub(crate) memory: Option<std::path::PathBuf>,
}

/// What is known of the passes; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Status {
    inner: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    source: &'static str,
    states: States,
    last_sync_ms: Option<i64>,
    failing_since_ms: Option<i64>,
    error: Option<String>,
    metas: Vec<Arc<BlockMeta>>,
}

impl Status {
    /// The list of blocks, all of the bucket or those that are served.
    pub(crate) fn list(&self, set: &Set, view: web::View) -> web::Listing {
        let known = self.inner.lock();
        let served: Option<HashSet<BlockId>> =
            (view == web::View::Loaded).then(|| set.snapshot().blocks().map(|b| b.id).collect());
        let is_asked = |m: &&Arc<BlockMeta>| served.as_ref().is_none_or(|served| served.contains(&m.id));
        let metas = known.metas.iter().filter(is_asked).cloned().collect();
        web::Listing { metas, refreshed_ms: known.last_sync_ms, error: known.error.clone() }
    }

    /// The section of the state document.
    pub(crate) fn state(&self, set: &Set) -> state::Blocks {
        let served = set.snapshot();
        let broken = served.blocks().filter_map(|b| b.wrong().map(|why| (b.id, why)));
        let absent = served.missing.iter().map(|m| (m.id, m.reason.clone()));
        let (mut missing, mut missing_blocks) = (0, Vec::new());
        for (id, message) in absent.chain(broken) {
            missing += 1;
            if missing_blocks.len() < state::MAX_SKIPPED {
                let reason = SkipReason::Damaged;
                missing_blocks.push(SkippedBlock { block: id.to_string(), reason, message });
            }
        }
        let known = self.inner.lock();
        let range = served.range();
        let expected = (served.len() + served.missing.len()) as u64;
        state::Blocks {
            loaded: expected.saturating_sub(missing),
            expected,
            missing,
            missing_blocks,
            min_time_ms: range.map(|r| r.0),
            max_time_ms: range.map(|r| r.1),
            source: known.source.to_owned(),
            last_sync_ms: known.last_sync_ms,
            failing_since_ms: known.failing_since_ms,
            error: known.error.clone(),
        }
    }

    /// How many blocks went where at the last pass.
    pub(crate) fn states(&self) -> States {
        self.inner.lock().states
    }

    /// When a pass last succeeded, in ms since the epoch.
    pub(crate) fn last_sync_ms(&self) -> Option<i64> {
        self.inner.lock().last_sync_ms
    }
}

/// Keeps a set.
pub(crate) struct Syncer {
    /// The set.
    pub(crate) set: Set,
    /// What its blocks share.
    pub(crate) home: Arc<Home>,
    /// The bucket.
    pub(crate) storage: Storage,
    /// How.
    pub(crate) options: Options,
    /// What is told of it.
    pub(crate) status: Status,
    /// What is counted.
    pub(crate) metrics: Metrics,
}

/// A bucket that is followed.
struct Followed {
    in_use: Arc<InUse>,
    fetcher: Fetcher,
    /// When the next passes are due, by the monotonic clock.
    catalogue_at: Duration,
    listing_at: Duration,
    failures: u32,
    /// Passes in a row that could not read some meta.json or mark.
    unread: u32,
    /// What is kept of each meta, as long as it is the same one.
    entries: BTreeMap<BlockId, (Arc<BlockMeta>, Arc<Entry>)>,
    /// Blocks in which something could not be read while they were served, with the hash of their meta.json.
    damaged: BTreeMap<BlockId, u64>,
}

/// What a pass does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pass {
    Listing,
    Catalogue,
    /// Blocks are gone.
    Scout,
}

/// A block of which nothing is known but its id: that has the time when it was made.
fn unlabelled(id: BlockId, reason: String, strict: bool) -> Missing {
    let max_t = i64::try_from(id.time_ms()).map_or(i64::MAX, |t| t.saturating_add(SKEW));
    Missing { id, external: None, min_t: i64::MIN, max_t, reason, strict }
}

impl Syncer {
    /// Keeps the set until `stop`; calls `first` when the first pass has succeeded.
    pub(crate) async fn run(self, first: impl Fn(), stop: CancellationToken) {
        let mut changes = self.storage.changes();
        let mut followed: Option<Followed> = None;
        let mut scouted = Duration::ZERO;
        loop {
            changes.borrow_and_update();
            self.follow(&mut followed).await;
            let clock = &self.home.world.clock;
            let due = followed.as_ref().map_or(Duration::MAX, |f| f.catalogue_at.min(f.listing_at));
            let wait = due.saturating_sub(clock.elapsed()).min(Duration::from_secs(3600));
            let suspicion = async {
                self.set.suspicion().await;
                tokio::time::sleep((scouted + SCOUT_PAUSE).saturating_sub(clock.elapsed())).await;
            };
            let mut pass = tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() { return };
                    continue;
                }
                () = suspicion, if followed.is_some() => Pass::Scout,
                () = tokio::time::sleep(wait) => Pass::Catalogue,
            };
            let Some(f) = &mut followed else { continue };
            if pass == Pass::Catalogue && clock.elapsed() >= f.listing_at {
                pass = Pass::Listing;
            }
            let good = tokio::select! {
                () = stop.cancelled() => return,
                good = self.pass(f, pass) => good,
            };
            if pass == Pass::Scout {
                scouted = clock.elapsed();
            }
            if good {
                first();
            } else if pass == Pass::Scout {
                // Whoever waits is told by the pass that succeeds.
                f.catalogue_at = f.catalogue_at.min(clock.elapsed() + RETRY);
            }
        }
    }

    /// Takes the bucket that is configured now.
    async fn follow(&self, followed: &mut Option<Followed>) {
        let Some(in_use) = self.storage.in_use() else { return };
        let bucket = in_use.bucket.clone();
        match followed {
            Some(f) if f.in_use.configuration == in_use.configuration => return,
            // New credentials of the same bucket: what is known stays known.
            Some(f) if f.in_use.bucket.describe() == bucket.describe() => {
                self.home.ranges.use_bucket(bucket.clone());
                f.fetcher.use_bucket(bucket);
                (f.in_use, f.catalogue_at) = (in_use, Duration::ZERO);
                return;
            }
            _ => {}
        }
        self.home.ranges.use_bucket(bucket.clone());
        let mut fetcher = Fetcher::new(bucket.clone()).trusting(self.options.meta_concurrency);
        if let Some(memory) = &self.options.memory {
            match memory::load(memory.clone(), bucket.describe().to_owned()).await {
                Ok(remembered) => {
                    for (meta, listed) in remembered {
                        fetcher.remember(meta, listed);
                    }
                }
                Err(error) => tracing::info!(%error, "what the last run knew of the bucket is read again"),
            }
        }
        *followed = Some(Followed {
            in_use,
            fetcher,
            catalogue_at: Duration::ZERO,
            listing_at: Duration::MAX,
            failures: 0,
            unread: 0,
            entries: BTreeMap::new(),
            damaged: BTreeMap::new(),
        });
    }

    /// True if there is something to serve.
    async fn pass(&self, f: &mut Followed, pass: Pass) -> bool {
        let clock = &self.home.world.clock;
        let begin = clock.elapsed();
        let suspects = self.set.suspects();
        f.fetcher.doubt(suspects.iter().map(|b| b.id));
        let depth = match pass {
            Pass::Listing => Depth::Objects,
            Pass::Catalogue if suspects.is_empty() => Depth::Catalogue,
            Pass::Catalogue | Pass::Scout => Depth::Names,
        };
        let seen = f.fetcher.look(depth).await.cloned();
        let took = clock.elapsed().saturating_sub(begin);
        let (now, now_ms) = (clock.elapsed(), clock.now_ms());
        self.metrics.pass(took, seen.is_ok());
        let view = match seen {
            Ok(view) => view,
            Err(error) => {
                f.failures = f.failures.saturating_add(1);
                let pause = RETRY.saturating_mul(1 << (f.failures - 1).min(10)).min(self.options.listing);
                f.catalogue_at = now + pause;
                // A listing that fails is not tried again before that, either.
                f.listing_at = f.listing_at.max(f.catalogue_at);
                let mut known = self.status.inner.lock();
                if known.error.is_none() {
                    tracing::warn!(%error, "the bucket can't be read; what was served is served on");
                }
                known.failing_since_ms.get_or_insert(now_ms);
                known.error = Some(error.to_string());
                drop(known);
                self.storage.doubt(error.kind == bucket::Kind::Denied);
                self.set.suspect(suspects);
                // Better than nothing at all: what the last run knew.
                return match f.fetcher.recall().filter(|_| self.set.snapshot().generation == 0) {
                    None => false,
                    Some(view) => {
                        self.apply(f, &view, &[], false, now_ms);
                        self.status.inner.lock().source = "disk";
                        true
                    }
                };
            }
        };
        f.failures = 0;
        f.catalogue_at = now + self.options.catalogue.min(self.options.listing);
        if pass == Pass::Listing || (view.listed && f.listing_at == Duration::MAX) {
            f.listing_at = now + self.options.listing;
        } else if !view.listed {
            f.listing_at = f.listing_at.min(now + self.options.listing.min(FIRST_LISTING));
        }
        if !view.errors.is_empty() {
            // What is there and can't be read now, or went while it was read, is looked at soon: only a listing finds it again.
            f.unread = f.unread.saturating_add(1);
            let pause = RETRY.saturating_mul(1 << (f.unread - 1).min(10)).min(self.options.listing);
            f.listing_at = f.listing_at.min(now + pause);
        } else {
            f.unread = 0;
        }
        let (unread, suspects): (Vec<_>, Vec<_>) = suspects.into_iter().partition(|b| view.unread.contains_key(&b.id));
        if !unread.is_empty() {
            // Whether they are there is not known yet: those who wait for them wait on.
            self.set.suspect(unread);
            f.catalogue_at = f.catalogue_at.min(now + RETRY);
        }
        let served = self.apply(f, &view, &suspects, pass == Pass::Listing, now_ms);
        if pass == Pass::Listing || view.listed && f.failures == 0 && self.status.last_sync_ms().is_none() {
            self.tidy(f, served).await;
        }
        let mut known = self.status.inner.lock();
        known.source = if view.catalogue_complete { "catalogue" } else { "listing" };
        known.last_sync_ms = Some(now_ms);
        if known.failing_since_ms.take().is_some() {
            tracing::info!("the bucket can be read again");
        }
        known.error = view.errors.first().map(|e| format!("{} of its objects can't be read: {e}", view.errors.len()));
        true
    }

    /// Leaves for the next start what is known, and takes away what is not served any more.
    async fn tidy(&self, f: &Followed, served: HashSet<Edition>) {
        let Some(memory) = &self.options.memory else { return };
        let remembered = f
            .fetcher
            .remembered()
            .map(|(meta, (version, size, modified))| (Arc::clone(meta), (version.clone(), size, modified)));
        let bucket = f.in_use.bucket.describe().to_owned();
        if let Err(error) = memory::save(memory.clone(), bucket, remembered.collect()).await {
            tracing::warn!(%error, "what is known of the bucket can't be kept for the next start");
        }
        if let Err(error) = self.home.headers.sweep(move |edition| served.contains(edition)).await {
            tracing::warn!(%error, "index-headers that are not needed any more can't be removed");
        }
    }

    /// Serves what the bucket has; `is_listed`: as all its objects tell, now.
    fn apply(
        &self,
        f: &mut Followed,
        view: &View,
        suspects: &[Arc<Block>],
        is_listed: bool,
        now_ms: i64,
    ) -> HashSet<Edition> {
        let (from, to) = self.options.window;
        let policy = Policy { window: (from.at(now_ms), to.at(now_ms)), ..self.options.policy.clone() };
        let mut entries: Vec<_> = view
            .blocks
            .values()
            .map(|b| {
                let deletion_time = b.marks.deletion.as_ref().map(|m| m.deletion_time);
                let held = (b.marks.no_compact.is_some(), b.marks.no_downsample.is_some());
                let known = f.entries.get(&b.meta.id).filter(|(meta, _)| Arc::ptr_eq(meta, &b.meta));
                let entry = known.map_or_else(|| Arc::new(Entry::new(&b.meta)), |(_, entry)| Arc::clone(entry));
                (entry, deletion_time, held, &b.problems[..])
            })
            .collect();
        let mut known: BTreeMap<_, _> = view
            .blocks
            .values()
            .zip(&entries)
            .map(|(b, e)| (e.0.id, (Arc::clone(&b.meta), Arc::clone(&e.0))))
            .collect();
        // A meta.json that can't be read now: what was known of its block is served on; one that was never read is missing.
        let mut unknown = Vec::new();
        for (id, why) in &view.unread {
            match f.entries.remove(id) {
                Some((meta, entry)) => {
                    let is_served = self.set.snapshot().blocks().any(|b| b.id == *id);
                    if is_served {
                        entries.push((Arc::clone(&entry), None, (false, false), &[]));
                    }
                    known.insert(*id, (meta, entry));
                }
                None => unknown.push((*id, why)),
            }
        }
        f.entries = known;
        let before = self.set.snapshot();
        for block in before.blocks() {
            match block.wrong() {
                Some(_) => f.damaged.insert(block.id, block.hash),
                None => f.damaged.remove(&block.id),
            };
        }
        f.damaged.retain(|id, hash| f.entries.get(id).is_some_and(|(_, entry)| entry.hash == *hash));
        let candidates = entries.iter().map(|(entry, deletion_time, held, problems)| Candidate {
            entry,
            deletion_time: *deletion_time,
            held: *held,
            problems,
            is_damaged: f.damaged.contains_key(&entry.id),
        });
        let mut decision = filters::decide(candidates, &policy, now_ms);
        for (id, partial) in &view.partial {
            match &partial.reason {
                Reason::NoMeta | Reason::Closed => decision.states.no_meta_json += 1,
                Reason::BrokenMeta(why) => {
                    decision.states.corrupted_meta_json += 1;
                    decision.missing.push(unlabelled(*id, why.clone(), false));
                }
            }
        }
        for (id, why) in unknown {
            let reason = format!("its meta.json can't be read now: {why}");
            decision.missing.push(unlabelled(id, reason, true));
        }
        decision.states.failed = view.errors.len() as u64;
        let bucket = self.home.ranges.in_use();
        let old: BTreeMap<_, _> = before.blocks().map(|b| (b.id, b)).collect();
        let mut labels: HashSet<Labels> = before.groups.iter().map(|g| g.external.clone()).collect();
        let (mut added, mut kept) = (Vec::new(), Vec::with_capacity(decision.serve.len()));
        for entry in &decision.serve {
            match old.get(&entry.id) {
                Some(block) if block.hash == entry.hash && block.bucket == bucket => {
                    // It is still there: then what was not found in it is missing from it.
                    if suspects.iter().any(|s| Arc::ptr_eq(s, block)) {
                        block.damaged("an object of the block is not in the bucket");
                    } else if is_listed {
                        block.listed();
                    }
                    kept.push(Arc::clone(block));
                }
                _ => {
                    let external = labels.get(&entry.external).cloned().unwrap_or_else(|| entry.external.clone());
                    labels.insert(external.clone());
                    let block = Arc::new(Block::of(entry, external, Arc::clone(&self.home)));
                    added.push(Arc::clone(&block));
                    kept.push(block);
                }
            }
        }
        let editions = kept.iter().map(|b| b.edition()).collect();
        let dropped = (before.len() + added.len()).saturating_sub(kept.len());
        {
            let mut known = self.status.inner.lock();
            known.states = decision.states;
            known.metas = view.blocks.values().map(|b| Arc::clone(&b.meta)).collect();
        }
        let missed: HashSet<BlockId> = before.missing.iter().map(|m| m.id).collect();
        let failed = decision.missing.iter().filter(|m| !missed.contains(&m.id)).count();
        self.metrics.blocks(kept.len(), (added.len(), failed), dropped, now_ms);
        if !added.is_empty() || dropped > 0 || before.generation == 0 {
            tracing::info!(blocks = kept.len(), added = added.len(), dropped, "blocks are served");
        } else if suspects.is_empty() && before.missing == decision.missing {
            return editions;
        }
        self.set.replace(Served::new(before.generation + 1, kept, decision.missing));
        if self.options.headers == HeaderStrategy::Eager && !added.is_empty() {
            let concurrency = self.options.header_concurrency.max(1);
            tokio::spawn(async move {
                futures::stream::iter(added)
                    .for_each_concurrent(concurrency, |block| async move {
                        if let Err(error) = block.prefetch().await {
                            tracing::debug!(block = %block.id, %error, "an index-header can't be fetched yet");
                        }
                    })
                    .await;
            });
        }
        editions
    }
}

/// A store gateway's passes one by one, as a simulation makes them: over a bucket, with nothing kept on disk.
#[cfg(test)]
pub(crate) struct Steps {
    syncer: Syncer,
    followed: Option<Followed>,
}

#[cfg(test)]
impl Steps {
    /// Of a store that goes on serving what is marked for deletion so long (ms), and reads the catalogue and lists this often.
    pub(crate) fn new(
        bucket: bucket::Bucket,
        deletion_delay: i64,
        (catalogue, listing): (Duration, Duration),
        context: &crate::server::Context,
    ) -> Self {
        use crate::storage::selector::Selector;
        use crate::store::{cache::IndexCache, headers, ranges::Ranges};
        let world = context.world.clone();
        let limits = headers::Limits {
            open: 1,
            open_bytes: 1 << 20,
            disk_bytes: 0,
            idle: listing,
            fetches: 1,
            deadline: listing,
        };
        let all = (i64::MIN, i64::MAX);
        let syncer = Syncer {
            set: Set::default(),
            home: Arc::new(Home {
                world: world.clone(),
                headers: headers::Headers::new("/".into(), Arc::new(tsdb::disk::MemoryDisk::new()), world, limits),
                ranges: Ranges::new(),
                cache: IndexCache::new(1 << 20, 1 << 20),
            }),
            storage: Storage::over(bucket, context),
            options: Options {
                window: (Point::At(all.0), Point::At(all.1)),
                policy: Policy { window: all, selector: Selector::default(), consistency_delay: 0, deletion_delay },
                catalogue,
                listing,
                headers: HeaderStrategy::Lazy,
                header_concurrency: 1,
                meta_concurrency: 8,
                memory: None,
            },
            status: Status::default(),
            metrics: Metrics::new(&context.metrics),
        };
        Self { syncer, followed: None }
    }

    /// What is served now.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.syncer.set.snapshot()
    }

    /// What could not be read in the last pass.
    pub(crate) fn error(&self) -> Option<String> {
        self.syncer.status.inner.lock().error.clone()
    }

    /// When the next pass is due, by the monotonic clock.
    pub(crate) fn due(&self) -> Duration {
        self.followed.as_ref().map_or(Duration::ZERO, |f| f.catalogue_at.min(f.listing_at))
    }

    /// Makes the next pass; whether it could look.
    pub(crate) async fn pass(&mut self) -> bool {
        self.syncer.follow(&mut self.followed).await;
        let Some(f) = &mut self.followed else { return false };
        let is_listing = self.syncer.home.world.clock.elapsed() >= f.listing_at;
        self.syncer.pass(f, if is_listing { Pass::Listing } else { Pass::Catalogue }).await
    }

    /// Requests found that an object of these is gone: looks what has become of them.
    pub(crate) async fn scout(&mut self, gone: Vec<Arc<Block>>) -> bool {
        self.syncer.set.suspect(gone);
        let Some(f) = &mut self.followed else { return false };
        self.syncer.pass(f, Pass::Scout).await
    }
}
