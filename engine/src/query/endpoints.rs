//! The set of stores, kept in step with files and DNS; the truth about each for `/-/state` and `/api/v1/stores`.

use super::address::{self, Address, Dns, Found, Place, Scheme};
use super::retry::Backoff;
use super::shown::{link_state, shown};
use super::store::{self, Question, Relation, Store};
use super::wanted::{Loader, Source, Wanted};
use super::warning::held_by;
use crate::server::metrics::Metrics;
use args::QueryArgs;
use args::links::Probe;
use args::state::{self, ErrorClass, StoreError};
use model::Labels;
use model::world::World;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Pause before a failed look-up is tried again for the first time, and for the last before it goes on regularly.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// See [`FIRST_RETRY`].
const LAST_RETRY: Duration = Duration::from_secs(5);

/// No name is looked up more often than this because of the TTL of its records.
const LEAST_TTL: Duration = Duration::from_secs(1);

/// One entry of the files or flags, with the stores behind it.
struct Entry {
    source: Mutex<Arc<Source>>,
    cluster_label: String,
    resolved: Mutex<Resolved>,
    /// The first look-up and the first probes are over, whatever they gave.
    settled: AtomicBool,
}

#[derive(Default)]
struct Resolved {
    stores: Vec<(Arc<Store>, Task)>,
    /// Stores of an entry that this one replaces: in use until this one has settled, so that an edit costs no data.
    previous: Vec<(Arc<Store>, Task)>,
    /// Stores that have left while more are expected than there are, the latest first: what they would be asked for is missing.
    gone: Vec<Arc<Store>>,
    error: Option<StoreError>,
    /// Why targets of its name could not be looked up that had no store before either.
    lost: Vec<String>,
    tried: bool,
}

impl Entry {
    fn source(&self) -> Arc<Source> {
        Arc::clone(&self.source.lock())
    }

    /// The stores in use.
    fn stores(&self) -> Vec<Arc<Store>> {
        let resolved = self.resolved.lock();
        let list = if resolved.previous.is_empty() { &resolved.stores } else { &resolved.previous };
        list.iter().map(|(s, _)| Arc::clone(s)).collect()
    }

    /// How many stores should be there beside those that are.
    fn lacking(&self) -> usize {
        let expected = if model::protection::off("expected-told") { 0 } else { self.source().expected };
        expected.saturating_sub(self.resolved.lock().stores.len())
    }

    /// The stores that have left and should not have, and how many more lack of which nothing is known.
    fn gone(&self) -> (Vec<Arc<Store>>, usize) {
        let lacking = self.lacking();
        if lacking == 0 {
            return (Vec::new(), 0);
        }
        let (there, gone) = {
            let resolved = self.resolved.lock();
            let there: Vec<Arc<Store>> = resolved.stores.iter().map(|(s, _)| Arc::clone(s)).collect();
            (there, resolved.gone.clone())
        };
        let sets = |s: &Store| s.truth().info.map(|i| i.label_sets.clone()).filter(|sets| !sets.is_empty());
        // One that has come back at another address is known by what it offers.
        let back = |g: &Arc<Store>| sets(g).is_some_and(|mine| there.iter().any(|s| sets(s).as_ref() == Some(&mine)));
        let gone: Vec<Arc<Store>> = gone.into_iter().filter(|g| !back(g)).take(lacking).collect();
        let unknown = lacking - gone.len();
        (gone, unknown)
    }

    /// Takes over what decides about use, which needs no new connection.
    fn adopt(&self, source: &Arc<Source>) {
        *self.source.lock() = Arc::clone(source);
        let resolved = self.resolved.lock();
        for (store, _) in resolved.stores.iter().chain(&resolved.previous) {
            store.adopt(Arc::clone(source));
        }
    }

    /// Notes that the first round is over, once it is.
    fn settle(&self) -> bool {
        let mut resolved = self.resolved.lock();
        let over = resolved.tried && resolved.stores.iter().all(|(s, _)| s.truth().last_check_ms.is_some());
        if over && !self.settled.swap(true, Ordering::SeqCst) {
            resolved.previous.clear();
            return true;
        }
        false
    }
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);
impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All stores.
pub struct Endpoints {
    world: World,
    dns: Arc<dyn Dns>,
    cluster_label: String,
    own_probe: Probe,
    dns_interval: Duration,
    unlisted_after: Duration,
    wanted: Mutex<Wanted>,
    entries: Mutex<Vec<(Arc<Entry>, Task)>>,
    loaded: AtomicBool,
    changed: Notify,
    lookups: Counter,
    failed_lookups: Counter,
    duplicates: Counter,
    known_duplicates: Mutex<BTreeSet<String>>,
}

/// A store to be asked, or why one can't be.
pub enum Asked {
    /// Ask it, at one of these places.
    Store(Vec<Arc<Store>>),
    /// It is missed.
    Missing {
        /// What warnings call it.
        name: String,
        /// Why.
        reason: String,
        /// The answer must then fail.
        strict: bool,
        /// What it would have been asked for, milliseconds since the epoch.
        range: (i64, i64),
    },
}

impl Endpoints {
    /// An empty set.
    pub fn new(args: &QueryArgs, world: World, dns: Arc<dyn Dns>, metrics: &Metrics) -> Arc<Self> {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Arc::new(Self {
            world,
            dns,
            cluster_label: args.cluster_label.clone(),
            own_probe: Probe { interval_ms: args.info_interval.0, timeout_ms: args.info_timeout.0, ..Probe::default() },
            dns_interval: args.dns_interval.duration().max(Duration::from_millis(100)),
            unlisted_after: args.unhealthy_timeout.duration(),
            wanted: Mutex::default(),
            entries: Mutex::default(),
            loaded: AtomicBool::new(false),
            changed: Notify::new(),
            lookups: counter("thanos_query_endpoints_dns_lookups", "The number of DNS lookups resolutions attempts"),
            failed_lookups: counter("thanos_query_endpoints_dns_failures", "The number of DNS lookup failures"),
            duplicates: counter(
                "thanos_query_duplicated_endpoint_addresses",
                "The number of times a duplicated endpoint addresses is detected from the different configs in query",
            ),
            known_duplicates: Mutex::default(),
        })
    }

    /// Follows the files until dropped.
    pub async fn follow(self: Arc<Self>, mut loader: Loader, every: Duration) {
        loop {
            let read = tokio::task::spawn_blocking(move || {
                let wanted = loader.load();
                (loader, wanted)
            });
            match read.await {
                Ok((back, wanted)) => {
                    loader = back;
                    self.apply(wanted);
                }
                Err(error) => {
                    tracing::error!(%error, "reading the endpoint files failed, they are no longer followed");
                    return;
                }
            }
            tokio::time::sleep(every.max(Duration::from_millis(50))).await;
        }
    }

    /// Brings a new list into use; entries that did not change keep their stores and connections.
    fn apply(self: &Arc<Self>, wanted: Wanted) {
        let first = !self.loaded.load(Ordering::SeqCst);
        // No lock is held while another is taken: see `ask`.
        let (same, old_error) = {
            let current = self.wanted.lock();
            (*current == wanted, current.error.clone())
        };
        if same && !first {
            return;
        }
        if let Some(error) = wanted.error.as_ref().filter(|e| old_error.as_ref() != Some(*e)) {
            tracing::warn!(%error, "an endpoint file is not in use");
        }
        let label = wanted.cluster_label.clone().unwrap_or_else(|| self.cluster_label.clone());
        // Held until the new list is complete: nobody may see a part of it, or none.
        let mut entries = self.entries.lock();
        let mut old = std::mem::take(&mut *entries);
        let mut new = Vec::with_capacity(wanted.sources.len());
        for source in &wanted.sources {
            let source = Arc::new(source.clone());
            let alike =
                |e: &Entry, f: fn(&Source, &Source) -> bool| e.cluster_label == label && f(&e.source(), &source);
            if let Some(i) = old.iter().position(|(e, _)| alike(e, Source::same_connection)) {
                let kept = old.swap_remove(i);
                kept.0.adopt(&source);
                new.push(kept);
                continue;
            }
            let mut resolved = Resolved::default();
            if let Some(i) = old.iter().position(|(e, _)| alike(e, Source::same_store)) {
                let (replaced, _task) = old.swap_remove(i);
                replaced.adopt(&source);
                let mut theirs = replaced.resolved.lock();
                resolved.previous = std::mem::take(&mut theirs.previous);
                if resolved.previous.is_empty() {
                    resolved.previous = std::mem::take(&mut theirs.stores);
                }
            }
            let entry = Arc::new(Entry {
                source: Mutex::new(source),
                cluster_label: label.clone(),
                resolved: Mutex::new(resolved),
                settled: AtomicBool::new(false),
            });
            let task = tokio::spawn(Arc::clone(self).follow_entry(Arc::clone(&entry)));
            new.push((entry, Task(task)));
        }
        tracing::info!(entries = new.len(), revision = wanted.revision.as_deref(), "the endpoints have changed");
        *entries = new;
        drop(entries);
        *self.wanted.lock() = wanted;
        self.loaded.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Follows the DNS name of one entry.
    async fn follow_entry(self: Arc<Self>, entry: Arc<Entry>) {
        let parsed = Address::parse(&entry.source().address);
        let mut retry = Backoff::new(FIRST_RETRY, self.dns_interval.min(LAST_RETRY));
        loop {
            let found = match &parsed {
                Ok(address) => {
                    let by_name = address.host.parse::<std::net::IpAddr>().is_err();
                    if by_name {
                        self.lookups.inc();
                    }
                    let found = address::resolve(address, self.dns.as_ref()).await;
                    if found.as_ref().map_or(true, |f| !f.lost.is_empty()) {
                        self.failed_lookups.inc();
                    }
                    let one = address.scheme == Scheme::Static && !entry.source().group;
                    found.map(|f| Found { places: if one { one_of(&entry, f.places) } else { f.places }, ..f })
                }
                Err(e) => Err(e.to_string()),
            };
            let failed = found.as_ref().map_or(true, |f| !f.lost.is_empty())
                || entry.stores().iter().any(|s| !s.truth().healthy);
            let regular = self.regular_pause(found.as_ref().ok().and_then(|f| f.ttl));
            self.take_places(&entry, found);
            let pause = if failed { retry.next(self.world.entropy.as_ref()) } else { retry.reset(regular) };
            tokio::time::sleep(pause).await;
        }
    }

    /// When a name is looked up again: as soon as its records have run out, and at the interval at the latest.
    fn regular_pause(&self, ttl: Option<Duration>) -> Duration {
        let ttl = ttl.filter(|_| !model::protection::off("dns-ttl"));
        ttl.map_or(self.dns_interval, |ttl| ttl.max(LEAST_TTL).min(self.dns_interval))
    }

    fn take_places(self: &Arc<Self>, entry: &Arc<Entry>, found: Result<Found, String>) {
        {
            let mut resolved = entry.resolved.lock();
            resolved.tried = true;
            let now = self.world.clock.now_ms();
            let error = |class, message| Some(StoreError { class, message, time_ms: now });
            match found {
                // A failed look-up keeps what an earlier one gave.
                Err(message) => resolved.error = error(ErrorClass::Dns, message),
                Ok(Found { places, lost, .. }) => {
                    resolved.error = None;
                    let mut old = std::mem::take(&mut resolved.stores);
                    resolved.lost.clear();
                    for (target, why) in lost {
                        let known = old.extract_if(.., |(s, _)| s.place.authority == target).collect::<Vec<_>>();
                        if known.is_empty() {
                            resolved.lost.push(why);
                        }
                        resolved.stores.extend(known);
                    }
                    for place in places {
                        if let Some(i) = old.iter().position(|(s, _)| s.place == place) {
                            resolved.stores.push(old.swap_remove(i));
                            continue;
                        }
                        match Store::new(place, entry.source(), entry.cluster_label.clone()) {
                            Ok(store) => resolved.stores.push(self.watched(entry, store)),
                            Err(message) => resolved.error = error(ErrorClass::TlsHandshake, message),
                        }
                    }
                    self.note_gone(&entry.source(), &mut resolved, old);
                }
            }
        }
        entry.settle();
        self.changed.notify_waiters();
    }

    /// Remembers the stores that have left, where more are expected than there are.
    fn note_gone(&self, source: &Source, resolved: &mut Resolved, left: Vec<(Arc<Store>, Task)>) {
        let lacking = source.expected.saturating_sub(resolved.stores.len());
        for (store, task) in left {
            // Its probes end first: none may find it well again.
            drop(task);
            let found = resolved.stores.len();
            let reason = format!(
                "it has left {}, behind which {} stores should be; {found} are",
                source.address, source.expected
            );
            store.vanish(reason, self.world.clock.now_ms());
            resolved.gone.insert(0, store);
        }
        let there: BTreeSet<Place> = resolved.stores.iter().map(|(s, _)| s.place.clone()).collect();
        resolved.gone.retain(|g| !there.contains(&g.place));
        resolved.gone.truncate(lacking);
    }

    /// A store whose probes have begun.
    fn watched(self: &Arc<Self>, entry: &Arc<Entry>, store: Store) -> (Arc<Store>, Task) {
        let store = Arc::new(store);
        let (me, of) = (Arc::clone(self), Arc::downgrade(entry));
        let done = move || {
            if of.upgrade().is_some_and(|entry| entry.settle()) {
                me.changed.notify_waiters();
            }
        };
        let watch = store::watch(Arc::clone(&store), self.world.clone(), self.own_probe, done);
        (store, Task(tokio::spawn(watch)))
    }

    /// Returns once every entry has been looked up and every store asked once, with whatever result; at the latest
    /// after `most`.
    pub async fn settled(&self, most: Duration) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let done = self.loaded.load(Ordering::SeqCst)
                    && self.entries.lock().iter().all(|(e, _)| e.settled.load(Ordering::SeqCst));
                if done {
                    return;
                }
                // A wake-up may fall between the check and the wait.
                let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
            }
        };
        if tokio::time::timeout(most, wait).await.is_err() {
            tracing::warn!("not every endpoint could be asked within {most:?}; serving without waiting longer");
        }
    }

    /// The stores to ask for a request, in a stable order (own stores first, by their labels), and those missed.
    pub fn ask(&self, question: &Question<'_>) -> Vec<Asked> {
        // Before `entries` is locked: nobody may wait for `wanted` while holding it.
        let label = self.label();
        let mut stores: Vec<(bool, Option<Labels>, Vec<Arc<Store>>)> = Vec::new();
        let mut missing = Vec::new();
        let (mut seen, mut twice) = (BTreeMap::new(), BTreeSet::new());
        let entries: Vec<Arc<Entry>> = self.entries.lock().iter().map(|(e, _)| Arc::clone(e)).collect();
        let all = (question.mint, question.maxt);
        let own: Vec<Arc<Store>> =
            entries.iter().filter(|e| e.source().link.is_none()).flat_map(|e| e.stores()).collect();
        let counting = counting(&own);
        let live: BTreeSet<String> = entries.iter().flat_map(|e| e.stores()).map(|s| s.place.address.clone()).collect();
        for entry in entries {
            let source = entry.source();
            let of_entry = entry.stores();
            let (gone, unknown) = entry.gone();
            let (mut asked, mut lost) = (Vec::new(), Vec::new());
            // An address that was left may be another store's by now.
            let gone_now: Vec<&Arc<Store>> = gone.iter().filter(|g| !live.contains(&g.place.address)).collect();
            for store in of_entry.iter().chain(gone_now.iter().copied()) {
                let here = of_entry.iter().any(|s| Arc::ptr_eq(s, store));
                if here && source.link.is_none() {
                    // Names that share a store are no mistake.
                    let known = seen.insert(store.place.address.clone(), discovered(&source));
                    if known.is_some_and(|by_name| !(by_name && discovered(&source))) {
                        twice.insert(store.place.address.clone());
                    }
                    if counting.get(&store.place.address).is_some_and(|s| !Arc::ptr_eq(s, store)) {
                        continue;
                    }
                }
                match store.relation(question) {
                    Relation::Irrelevant => {}
                    Relation::Ask => asked.push(Arc::clone(store)),
                    Relation::Missing(reason) => lost.push(Asked::Missing {
                        name: store.name(),
                        reason,
                        strict: source.strict,
                        range: held_by(store, all),
                    }),
                }
            }
            let first = |s: &Arc<Store>| s.truth().info.and_then(|i| i.label_sets.first().cloned());
            if source.group {
                // All are the same store: one is enough, and what answers comes first.
                asked.sort_by_key(|s| !s.truth().healthy);
                lost.truncate(usize::from(asked.is_empty()));
                let set = asked.first().and_then(first);
                stores.extend((!asked.is_empty()).then_some((false, set, asked)));
            } else {
                stores.extend(asked.into_iter().map(|s| (source.link.is_some(), first(&s), vec![s])));
            }
            missing.append(&mut lost);
            let unfound =
                entry.resolved.lock().lost.first().cloned().filter(|_| !model::protection::off("target-missed"));
            let lacks = of_entry.is_empty() && gone.is_empty() || (unknown > 0 || unfound.is_some()) && !source.group;
            if lacks && wants(&source, question, &label) {
                let resolved = entry.resolved.lock();
                if !resolved.tried {
                    continue;
                }
                let known = match source.expected {
                    0 => "it has no addresses".to_owned(),
                    n => format!("{n} stores should be behind it, and {} are", resolved.stores.len()),
                };
                let reason = unfound.or_else(|| resolved.error.as_ref().map(|e| e.message.clone())).unwrap_or(known);
                let name = match &source.link {
                    Some(l) => format!("{} (link {}, cluster {})", source.address, l.name, l.cluster),
                    None => source.address.clone(),
                };
                missing.push(Asked::Missing { name, reason, strict: source.strict, range: all });
            }
        }
        self.note_duplicates(twice);
        let place = |s: &(bool, Option<Labels>, Vec<Arc<Store>>)| s.2.first().map(|s| s.place.clone());
        stores.sort_by(|a, b| (a.0, &a.1, place(a)).cmp(&(b.0, &b.1, place(b))));
        stores.into_iter().map(|s| Asked::Store(s.2)).chain(missing).collect()
    }

    /// Counts addresses that are listed twice, each once as long as it is. Those that are gone are forgotten.
    fn note_duplicates(&self, twice: BTreeSet<String>) {
        let mut known = self.known_duplicates.lock();
        if *known != twice {
            self.duplicates.inc_by(twice.difference(&known).count() as u64);
            *known = twice;
        }
    }

    /// True if nothing is configured at all.
    pub fn is_empty(&self) -> bool {
        self.entries.lock().is_empty()
    }

    /// Name of the cluster label.
    pub fn label(&self) -> String {
        self.wanted.lock().cluster_label.clone().unwrap_or_else(|| self.cluster_label.clone())
    }

    /// All stores that are shown, own ones first, in the order of their entries; one that is behind several names, once.
    pub fn stores(&self) -> Vec<Arc<Store>> {
        let now = self.world.clock.now_ms();
        let entries = self.entries.lock();
        let all = entries
            .iter()
            .flat_map(|(e, _)| e.resolved.lock().stores.iter().map(|(s, _)| Arc::clone(s)).collect::<Vec<_>>());
        let (links, own): (Vec<_>, Vec<_>) =
            all.filter(|s| s.listed(now, self.unlisted_after)).partition(|s| s.source().link.is_some());
        let counting = counting(&own);
        let counts = |s: &Arc<Store>| counting.get(&s.place.address).is_some_and(|c| Arc::ptr_eq(c, s));
        own.iter().filter(|s| counts(s)).cloned().chain(links).collect()
    }

    /// What this querier advertises: label sets and time range of all stores in use.
    pub fn advertised(&self) -> (Vec<Labels>, i64, i64) {
        let (mut sets, mut min, mut max) = (Vec::new(), i64::MAX, i64::MIN);
        for store in self.stores().iter().filter(|s| s.used()) {
            let Some(info) = store.truth().info else { continue };
            sets.extend(info.label_sets.iter().cloned());
            if info.unlabelled || info.label_sets.is_empty() {
                sets.push(Labels::empty());
            }
            min = min.min(info.min_time);
            max = max.max(info.max_time);
        }
        sets.sort();
        sets.dedup();
        (sets, min, max)
    }

    /// The section of the state document.
    pub fn state(&self) -> state::Endpoints {
        let now = self.world.clock.now_ms();
        let (revision, error) = {
            let wanted = self.wanted.lock();
            (wanted.revision.clone(), wanted.error.clone())
        };
        let (mut stores, mut links, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        let owners = self.owners();
        for (entry, _) in self.entries.lock().iter() {
            let (source, of_entry) = (entry.source(), entry.stores());
            let error = entry.resolved.lock().error.clone();
            match &source.link {
                None => {
                    let listed = of_entry.iter().filter(|s| s.listed(now, self.unlisted_after));
                    let gone = entry.gone().0;
                    let all = listed.chain(&gone).filter(|s| seen.insert(s.place.address.clone()));
                    stores.extend(all.map(|s| shown(s)));
                    if of_entry.is_empty() && error.is_some() {
                        stores.push(state::Store { address: source.address.clone(), error, ..Default::default() });
                    }
                }
                Some(link) => {
                    let with_gone: Vec<Arc<Store>> = of_entry.into_iter().chain(entry.gone().0).collect();
                    links.push(link_state(link, &with_gone, error, &owners, now));
                }
            }
        }
        state::Endpoints { revision, error, stores, links }
    }

    /// Who offers which label set, among the healthy.
    fn owners(&self) -> BTreeMap<Labels, Vec<String>> {
        let mut owners: BTreeMap<Labels, Vec<String>> = BTreeMap::new();
        for store in self.stores() {
            let truth = store.truth();
            let Some(info) = truth.info.filter(|_| truth.healthy) else { continue };
            let name = match &store.source().link {
                Some(l) => format!("link {}/{}", l.namespace, l.name),
                None => format!("store {}", store.place.address),
            };
            for set in &info.label_sets {
                let names = owners.entry(set.clone()).or_default();
                if !names.contains(&name) {
                    names.push(name.clone());
                }
            }
        }
        owners
    }
}

/// True if the stores of an entry are found by a name that may have several.
fn discovered(source: &Source) -> bool {
    source.address.contains('+')
}

/// Of several entries' stores at one address the one that counts: each asks on its own whether it is there, and one may have
/// asked at a bad moment, or in a wrong way.
fn counting(stores: &[Arc<Store>]) -> BTreeMap<String, Arc<Store>> {
    let mut counting: BTreeMap<String, Arc<Store>> = BTreeMap::new();
    for store in stores {
        match counting.get_mut(&store.place.address) {
            None => drop(counting.insert(store.place.address.clone(), Arc::clone(store))),
            Some(first) if !first.truth().up && store.truth().up && !model::protection::off("store-counts") => {
                *first = Arc::clone(store);
            }
            Some(_) => {}
        }
    }
    counting
}

/// True if an entry without any known store would have to be asked.
fn wants(source: &Source, question: &Question<'_>, label: &str) -> bool {
    question.is_about(&source.address)
        && match &source.link {
            None => true,
            Some(l) => {
                l.mode == args::links::LinkMode::Active
                    && l.rejected.is_none()
                    && question.matchers.iter().filter(|m| m.name == label).all(|m| m.matches(&l.cluster))
            }
        }
}

/// Of the places behind one name that stands for one store: the one in use while it is healthy, else the next.
fn one_of(entry: &Entry, mut places: Vec<Place>) -> Vec<Place> {
    let at = match entry.resolved.lock().stores.first() {
        None => 0,
        Some((store, _)) => {
            let truth = store.truth();
            let down = truth.last_check_ms.is_some() && !truth.healthy;
            places.iter().position(|p| *p == store.place).map_or(0, |i| if down { i + 1 } else { i })
        }
    };
    if !places.is_empty() {
        let at = at % places.len();
        places.swap(0, at);
        places.truncate(1);
    }
    places
}
