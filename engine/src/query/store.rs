//! One store that is asked: its channel, and the truth about it from regular Info calls.

use super::address::Place;
use super::buffers::Call;
use super::metered::Metered;
use super::retry::Backoff;
use super::wanted::Source;
use crate::server::client::{self, Target};
use crate::server::{RECEIVE_MAX, snappy, tls};
use args::endpoints::ClientConfig;
use args::links::{LinkMode, Probe};
use args::state::{ErrorClass, StoreError};
use model::world::World;
use model::{Labels, Matcher};
use parking_lot::Mutex;
use proto::info::info_client::InfoClient;
use proto::info::{InfoRequest, InfoResponse};
use proto::thanos::store_client::StoreClient;
use proto::thanos::{Aggr, SeriesRequest, series_response};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// Deadline for TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a failed probe is repeated for the first time.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest pause between failed probes.
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Bytes that an own part may send ahead of us on one call: enough for a network of less than a millisecond.
const NEAR_WINDOW: u32 = 128 << 10;
/// The same for another cluster, which may be far.
const FAR_WINDOW: u32 = 256 << 10;
/// Most label sets that are kept of one store.
const MAX_LABEL_SETS: usize = 100_000;
/// How often a link's newest sample is looked for.
const LAG_EVERY: Duration = Duration::from_secs(15);
/// How far back the newest sample is looked for at first, milliseconds.
const LAG_NEAR: i64 = 120_000;
/// How far back it is looked for, milliseconds.
const LAG_RANGE: i64 = 3_600_000;
/// In how many series.
const LAG_SERIES: i64 = 20;

/// A service of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Series and labels.
    Store,
    /// Rules and alerts.
    Rules,
    /// What is scraped.
    Targets,
    /// Type, help and unit of metrics.
    Metadata,
    /// Exemplars.
    Exemplars,
    /// Statistics of databases.
    Status,
}

/// What a store said about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// `sidecar`, `query`, …
    pub component: String,
    /// The label sets that it advertises, sorted; of a link only those of the expected cluster.
    pub label_sets: Vec<Labels>,
    /// All cluster label values that it advertises, sorted.
    pub clusters: Vec<String>,
    /// Oldest sample, milliseconds since the epoch.
    pub min_time: i64,
    /// Newest sample, milliseconds since the epoch.
    pub max_time: i64,
    /// It can leave out replica labels itself.
    pub without_replica_labels: bool,
    /// It can give a share of its series.
    pub sharding: bool,
    /// What it offers beside the StoreAPI.
    pub offers: Vec<Offer>,
    /// It is a querier: it knows the external labels of what is behind it.
    pub querier: bool,
    /// It evaluates PromQL, and how.
    pub evaluates: Option<Evaluates>,
    /// Some of its series may carry none of the label sets.
    pub unlabelled: bool,
    /// What tells all that it advertises from anything else; see [`hash_of`].
    pub advertised: u64,
}

/// A hash of label sets in their order, the same in every process.
pub(super) fn hash_of(sets: &[Labels]) -> u64 {
    let mut hash = xxhash_rust::xxh64::Xxh64::new(0);
    for set in sets {
        hash.update(&set.as_packed().len().to_le_bytes());
        hash.update(set.as_packed().as_bytes());
    }
    hash.digest()
}

/// How a querier evaluates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluates {
    /// As Thanos does.
    AsThanos,
    /// As one of ours with these settings; see [`super::push`].
    Like(String),
}

impl Info {
    /// True if it has this service.
    pub fn offers(&self, offer: Offer) -> bool {
        offer == Offer::Store || self.offers.contains(&offer)
    }
}

/// The changing part.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// The last good answer.
    pub info: Option<Arc<Info>>,
    /// The last probe was good.
    pub healthy: bool,
    /// It is to be asked; see [`Store::observe`].
    pub up: bool,
    /// Good and bad probes in a row.
    pub successes: u32,
    /// See `successes`.
    pub failures: u32,
    /// Round trip of the last good probe.
    pub latency: Option<Duration>,
    /// Time of the last probe, milliseconds since the epoch.
    pub last_check_ms: Option<i64>,
    /// Time of the last good probe, milliseconds since the epoch.
    pub last_success_ms: Option<i64>,
    /// Time of the first bad probe of the current row, milliseconds since the epoch.
    pub down_since_ms: Option<i64>,
    /// Why the last probe was bad.
    pub error: Option<StoreError>,
    /// Time of the newest sample, as far as it was looked for, milliseconds since the epoch.
    pub newest_ms: Option<i64>,
}

/// A store.
pub struct Store {
    /// Where it is.
    pub place: Place,
    /// The entry that it belongs to; what decides about its use may change.
    source: Mutex<Arc<Source>>,
    /// Name of the cluster label.
    pub cluster_label: String,
    channel: Channel,
    /// Answers are asked for packed.
    snappy: bool,
    /// What is known of its connections.
    pub connection: client::Link,
    truth: Mutex<Truth>,
    token: Mutex<Option<String>>,
    /// After how long its answers usually begin.
    usual: Mutex<Option<Duration>>,
    /// What it has sent of times that it says it has nothing of.
    outside: Mutex<Option<Outside>>,
}

/// Samples of times that a store says it has none of.
#[derive(Clone, Copy, Debug)]
struct Outside {
    /// First and last of them, milliseconds since the epoch.
    times: (i64, i64),
    /// The last good probe when they were found: blocks may have come since.
    known_ms: Option<i64>,
    /// When they were found for the last time, milliseconds since the epoch.
    found_ms: i64,
}

/// For how long what was found out about a store's times counts, milliseconds.
const REMEMBERED: i64 = 3_600_000;

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What decides which stores a request concerns.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Conditions on labels.
    pub matchers: &'a [Matcher],
    /// First time, milliseconds since the epoch, inclusive.
    pub mint: i64,
    /// Last time, milliseconds since the epoch, inclusive.
    pub maxt: i64,
    /// The service that it needs.
    pub offer: Offer,
    /// Conditions on the label `__address__`: a store must pass one of the sets, if there are any (`storeMatch[]`).
    pub only: &'a [Vec<Matcher>],
}

impl<'a> Question<'a> {
    /// About all endpoints of a service, whatever their labels and times.
    pub fn all(offer: Offer) -> Question<'a> {
        Question { matchers: &[], mint: i64::MIN, maxt: i64::MAX, offer, only: &[] }
    }

    /// True if the request wants to know of this address.
    pub fn is_about(&self, address: &str) -> bool {
        let passes = |set: &Vec<Matcher>| set.iter().filter(|m| m.name == ADDRESS).all(|m| m.matches(address));
        self.only.is_empty() || self.only.iter().any(passes)
    }
}

/// The label that `storeMatch[]` reads.
const ADDRESS: &str = "__address__";

/// How a request relates to a store.
#[derive(Debug, Clone, PartialEq)]
pub enum Relation {
    /// Nothing in it can match.
    Irrelevant,
    /// It must be asked.
    Ask,
    /// It would have to be asked, but can't be.
    Missing(String),
}

impl Store {
    /// A store that has not been asked yet.
    pub fn new(place: Place, source: Arc<Source>, cluster_label: String) -> Result<Self, String> {
        let client = &source.client;
        let snappy = match client.compression.as_str() {
            "" | "none" => false,
            snappy::NAME => true,
            other => return Err(format!("{}: compression {other:?} is neither none nor snappy", source.address)),
        };
        let target = Target {
            address: place.address.clone(),
            authority: authority(client, &place),
            tls: tls(client)?,
            server_name: client.server_name.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            window: if source.link.is_some() { FAR_WINDOW } else { NEAR_WINDOW },
        };
        let (channel, connection) = client::channel(target).map_err(|e| e.to_string())?;
        Ok(Self {
            place,
            source: Mutex::new(source),
            cluster_label,
            channel,
            snappy,
            connection,
            truth: Mutex::new(Truth::default()),
            token: Mutex::new(None),
            usual: Mutex::new(None),
            outside: Mutex::new(None),
        })
    }

    /// The entry that it belongs to.
    pub fn source(&self) -> Arc<Source> {
        Arc::clone(&self.source.lock())
    }

    /// Takes over a changed entry of the same store.
    pub fn adopt(&self, source: Arc<Source>) {
        *self.source.lock() = source;
    }

    /// What is known now.
    pub fn truth(&self) -> Truth {
        self.truth.lock().clone()
    }

    /// After how long its answers usually begin; `None` while that is unknown.
    pub fn usual(&self) -> Option<Duration> {
        *self.usual.lock()
    }

    /// Takes note of when an answer began.
    pub(super) fn began_after(&self, time: Duration) {
        let mut usual = self.usual.lock();
        *usual = Some(usual.map_or(time, |u| (u * 7 + time) / 8));
    }

    /// Takes note of the times of chunks that it has sent in a call that began when it was known to have these.
    pub(super) fn has_sent(&self, known: (i64, i64), chunks: impl Iterator<Item = (i64, i64)>, now_ms: i64) {
        for (first, last) in chunks.filter(|(first, last)| *last < known.0 || *first > known.1) {
            let known_ms = self.truth.lock().last_success_ms;
            let mut outside = self.outside.lock();
            let found = outside.unwrap_or(Outside { times: (first, last), known_ms, found_ms: now_ms });
            let times = (found.times.0.min(first), found.times.1.max(last));
            *outside = Some(Outside { times, found_ms: now_ms, ..found });
        }
    }

    /// What times it says it has data of, milliseconds since the epoch.
    pub(super) fn says_times(&self) -> (i64, i64) {
        self.truth.lock().info.as_ref().map_or((i64::MIN, i64::MAX), |i| (i.min_time, i.max_time))
    }

    /// What times it has data of: those that it says, and those that it was found to have.
    fn times(&self, info: &Info) -> (i64, i64) {
        let outside = self.outside.lock().filter(|_| !model::protection::off("found-times"));
        outside.map_or((info.min_time, info.max_time), |o| (info.min_time.min(o.times.0), info.max_time.max(o.times.1)))
    }

    /// In one sentence, that it has data of times of which it says, after that was found too, that it has none.
    pub(super) fn lies_about_times(&self) -> Option<String> {
        let truth = self.truth.lock();
        let (info, outside) = (truth.info.as_ref()?, (*self.outside.lock())?);
        (truth.last_success_ms > outside.known_ms).then(|| {
            format!(
                "it says that it has data of {} to {}, and has sent samples of {} to {}: what it has of other times may be \
                 missing",
                info.min_time, info.max_time, outside.times.0, outside.times.1
            )
        })
    }

    /// Discovery does not find it any more, though it should: it is missed from now on, wherever it would have been asked.
    pub(super) fn vanish(&self, reason: String, now_ms: i64) {
        let mut t = self.truth.lock();
        (t.up, t.healthy) = (false, false);
        t.error = Some(StoreError { class: ErrorClass::Dns, message: reason, time_ms: now_ms });
    }

    /// What warnings call it.
    pub fn name(&self) -> String {
        match &self.source().link {
            Some(l) => format!("{} (link {}, cluster {})", self.place.address, l.name, l.cluster),
            None => self.place.address.clone(),
        }
    }

    /// A StoreAPI client for one call, whose answer is let in as there is memory for it.
    pub fn client(&self, memory: &Arc<Call>) -> StoreClient<Metered> {
        StoreClient::new(self.channel(memory)).max_decoding_message_size(RECEIVE_MAX)
    }

    /// A channel for one call of any service, whose answer is let in as there is memory for it.
    pub fn channel(&self, memory: &Arc<Call>) -> Metered {
        Metered::new(self.channel.clone(), Arc::clone(memory), self.snappy)
    }

    /// A request with what this store wants to see beside its body, and the time that we wait for it.
    pub fn request<T>(&self, body: T, timeout: Duration) -> tonic::Request<T> {
        let mut request = tonic::Request::new(body);
        request.set_timeout(timeout);
        if let Some(token) = self.token.lock().as_deref()
            && let Ok(value) = format!("Bearer {token}").parse()
        {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// Why a call failed, in one sentence.
    pub fn explain(&self, status: &tonic::Status) -> String {
        self.connection.error().unwrap_or_else(|| self.connection.diagnose(status)).message
    }

    /// The matcher that every call to a link carries, so that it answers with its own cluster only.
    pub fn guard(&self) -> Option<Matcher> {
        self.source().link.as_ref().map(|l| Matcher::equal(self.cluster_label.as_str(), l.cluster.as_str()))
    }

    /// The matchers of a request to this store.
    pub fn guarded(&self, matchers: &[Matcher]) -> Vec<Matcher> {
        let mut all = matchers.to_vec();
        all.extend(self.guard().filter(|g| !matchers.contains(g)));
        all
    }

    /// True if it may give data: healthy, and of a link also in use and of the right cluster.
    pub fn used(&self) -> bool {
        let truth = self.truth.lock();
        truth.up && self.on_purpose_out().is_none() && self.wrong_cluster(&truth).is_none()
    }

    fn on_purpose_out(&self) -> Option<()> {
        let source = self.source();
        let link = source.link.as_ref()?;
        (link.mode != LinkMode::Active || link.rejected.is_some()).then_some(())
    }

    fn wrong_cluster(&self, truth: &Truth) -> Option<String> {
        let source = self.source();
        let link = source.link.as_ref()?;
        let info = truth.info.as_ref()?;
        wrong_cluster(&link.cluster, &info.clusters, &self.cluster_label)
    }

    /// Whether a request concerns this store.
    pub fn relation(&self, question: &Question<'_>) -> Relation {
        let Question { matchers, mint, maxt, offer, .. } = *question;
        if self.on_purpose_out().is_some() || !question.is_about(&self.place.address) {
            return Relation::Irrelevant;
        }
        let truth = self.truth.lock();
        if truth.info.as_ref().is_some_and(|i| !i.offers(offer)) {
            return Relation::Irrelevant;
        }
        if self.guard().is_some_and(|g| !agrees(&Labels::from_pairs([(&g.name, &g.value)]), matchers)) {
            return Relation::Irrelevant;
        }
        if let Some(reason) = self.wrong_cluster(&truth) {
            return Relation::Missing(reason);
        }
        if let Some(info) = &truth.info {
            // Nothing newer is known of a store that is down, so its end is open.
            let (min_time, max_time) = self.times(info);
            let max_time = if truth.up { max_time } else { i64::MAX };
            if min_time > maxt || max_time < mint {
                return Relation::Irrelevant;
            }
            let labelled = !info.label_sets.is_empty() && !info.unlabelled;
            if labelled && !info.label_sets.iter().any(|s| agrees(s, matchers)) {
                return Relation::Irrelevant;
            }
        }
        if truth.up {
            return Relation::Ask;
        }
        let reason = match (&truth.error, &truth.info) {
            (Some(e), _) => e.message.clone(),
            (None, _) => "it has not answered yet".to_owned(),
        };
        Relation::Missing(reason)
    }

    /// True if it is to be shown: not a discovered address that has been silent for `unlisted_after`. It is missed
    /// in answers all the same, as long as it is discovered.
    pub fn listed(&self, now_ms: i64, unlisted_after: Duration) -> bool {
        let source = self.source();
        let discovered = source.link.is_none() && source.address.contains('+');
        let limit = i64::try_from(unlisted_after.as_millis()).unwrap_or(i64::MAX);
        !discovered || self.truth.lock().down_since_ms.is_none_or(|t| now_ms.saturating_sub(t) <= limit)
    }

    /// Asks for Info once and takes note.
    pub async fn probe(&self, world: &World, timeout: Duration, thresholds: &Probe) {
        self.read_token().await;
        let started = world.clock.elapsed();
        let call = client::retrying(async || {
            let mut client = InfoClient::new(self.channel.clone()).max_decoding_message_size(RECEIVE_MAX);
            client.info(self.request(InfoRequest {}, timeout)).await
        });
        let outcome = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => self.read_info(response.into_inner()).map_err(|m| (ErrorClass::Protocol, m)),
            Ok(Err(status)) => Err((self.connection.diagnose(&status).class, self.explain(&status))),
            Err(_) => {
                // A connection that can't be made has a better reason than "no answer".
                let known = self.connection.error();
                Err(known.map_or_else(
                    || (ErrorClass::Timeout, format!("no answer to Info within {timeout:?}")),
                    |e| (e.class, e.message),
                ))
            }
        };
        let latency = world.clock.elapsed().saturating_sub(started);
        self.observe(outcome, latency, world.clock.now_ms(), thresholds);
    }

    fn observe(&self, outcome: Result<Info, (ErrorClass, String)>, latency: Duration, now: i64, thresholds: &Probe) {
        let mut t = self.truth.lock();
        t.last_check_ms = Some(now);
        match outcome {
            Ok(info) => {
                let mut outside = self.outside.lock();
                // It says so now, or it was long ago.
                let lies = |o: &Outside| o.times.0 < info.min_time || o.times.1 > info.max_time;
                *outside = outside.filter(|o| lies(o) && now.saturating_sub(o.found_ms) < REMEMBERED);
                drop(outside);
                t.info = Some(Arc::new(info));
                t.healthy = true;
                (t.successes, t.failures) = (t.successes.saturating_add(1), 0);
                t.up = t.up || t.successes >= thresholds.success_threshold;
                t.latency = Some(latency);
                t.last_success_ms = Some(now);
                t.down_since_ms = None;
                t.error = self.wrong_cluster(&t).map(|message| StoreError {
                    class: ErrorClass::WrongCluster,
                    message,
                    time_ms: now,
                });
            }
            Err((class, message)) => {
                t.healthy = false;
                (t.successes, t.failures) = (0, t.failures.saturating_add(1));
                // Where nothing listens there is nothing to hope for; silence may be a slow moment.
                let hopeless = !matches!(class, ErrorClass::Timeout);
                t.up = t.up && !hopeless && t.failures < thresholds.failure_threshold;
                t.down_since_ms = t.down_since_ms.or(Some(now));
                t.error = Some(StoreError { class, message: bounded(message), time_ms: now });
            }
        }
    }

    fn read_info(&self, info: InfoResponse) -> Result<Info, String> {
        let Some(store) = info.store else {
            return Err(format!("{} offers no StoreAPI (yet)", non_empty(&info.component_type, "it")));
        };
        // Newer senders name their sets twice; the older list is enough, but may be empty.
        let sets: Vec<_> = if info.label_sets.is_empty() {
            store.tsdb_infos.iter().filter_map(|t| t.labels.as_ref()).collect()
        } else {
            info.label_sets.iter().collect()
        };
        let mut label_sets = Vec::with_capacity(sets.len().min(MAX_LABEL_SETS));
        for set in sets.into_iter().take(MAX_LABEL_SETS) {
            let set = proto::labels::decode_any_order(&set.labels).map_err(|e| format!("advertised label set: {e}"))?;
            label_sets.push(set);
        }
        label_sets.sort();
        label_sets.dedup();
        let advertised = hash_of(&label_sets);
        let unlabelled = label_sets.iter().any(Labels::is_empty);
        // What a link has under such a set may be of its cluster, too.
        let hidden = self.source().link.is_some() && label_sets.iter().any(|s| s.get(&self.cluster_label).is_none());
        label_sets.retain(|set| !set.is_empty());
        let mut clusters: Vec<String> =
            label_sets.iter().filter_map(|s| s.get(&self.cluster_label)).map(str::to_owned).collect();
        clusters.sort();
        clusters.dedup();
        if let Some(link) = &self.source().link {
            label_sets.retain(|s| s.get(&self.cluster_label) == Some(&link.cluster));
        }
        let offers = [
            (Offer::Rules, info.rules.is_some()),
            (Offer::Targets, info.targets.is_some()),
            (Offer::Metadata, info.metric_metadata.is_some()),
            (Offer::Exemplars, info.exemplars.is_some()),
            (Offer::Status, info.status.is_some()),
        ];
        Ok(Info {
            sharding: store.supports_sharding,
            offers: offers.into_iter().filter(|(_, there)| *there).map(|(offer, _)| offer).collect(),
            querier: info.query.is_some() || info.component_type == "query",
            evaluates: info
                .query
                .filter(|_| !hidden)
                .map(|q| if q.settings.is_empty() { Evaluates::AsThanos } else { Evaluates::Like(q.settings) }),
            component: info.component_type,
            unlabelled: unlabelled && self.source().link.is_none(),
            advertised,
            label_sets,
            clusters,
            min_time: store.min_time,
            max_time: store.max_time,
            without_replica_labels: store.supports_without_replica_labels,
        })
    }

    /// Looks for the newest sample of a link, cheaply: the chunk bounds of a few `up` series of the last minutes. Only where
    /// there are none it looks further back; a few series of an hour might all be of targets that are long gone.
    pub async fn look_for_newest(&self, world: &World, timeout: Duration) {
        let now = world.clock.now_ms();
        let look = async {
            for range in [LAG_NEAR, LAG_RANGE] {
                let newest = self.newest_since(now - range, now, timeout).await?;
                if newest.is_some() {
                    return Ok(newest);
                }
            }
            Ok::<_, tonic::Status>(None)
        };
        if let Ok(Ok(Some(newest))) = tokio::time::timeout(timeout, look).await {
            self.truth.lock().newest_ms = Some(newest);
        }
    }

    async fn newest_since(&self, since: i64, now: i64, timeout: Duration) -> Result<Option<i64>, tonic::Status> {
        let matchers = self.guarded(&[Matcher::equal(model::labels::METRIC_NAME, "up")]);
        let body = SeriesRequest {
            min_time: since,
            max_time: now,
            matchers: proto::matchers::encode(&matchers),
            aggregates: vec![Aggr::Raw.into()],
            limit: LAG_SERIES,
            response_batch_size: 1,
            ..Default::default()
        };
        let mut stream = StoreClient::new(self.channel.clone()).series(self.request(body, timeout)).await?.into_inner();
        let (mut newest, mut seen) = (None, 0);
        while let Some(frame) = stream.message().await? {
            let series = match frame.result {
                Some(series_response::Result::Series(s)) => vec![s],
                Some(series_response::Result::Batch(b)) => b.series,
                _ => continue,
            };
            seen += series.len() as i64;
            newest = newest.max(series.iter().flat_map(|s| &s.chunks).filter_map(|c| chunk_end(c, now)).max());
            if seen >= LAG_SERIES {
                break;
            }
        }
        Ok(newest)
    }

    async fn read_token(&self) {
        let source = self.source();
        let Some(link) = &source.link else { return };
        if link.bearer_token_file.is_empty() {
            return;
        }
        let path = link.bearer_token_file.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        match read {
            Ok(Ok(token)) => *self.token.lock() = Some(token.trim().to_owned()),
            Ok(Err(error)) => tracing::warn!(link = %link.name, %error, "can't read the bearer token"),
            Err(error) => tracing::warn!(link = %link.name, %error, "can't read the bearer token"),
        }
    }
}

/// Keeps asking until its task is dropped. `done` is called after the first probe.
pub async fn watch(store: Arc<Store>, world: World, own: Probe, done: impl FnOnce() + Send) {
    let millis = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(100));
    let mut done = Some(done);
    let mut looked: Option<Duration> = None;
    let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let thresholds = store.source().link.as_ref().map_or(own, |l| l.probe);
        let (interval, timeout) = (millis(thresholds.interval_ms), millis(thresholds.timeout_ms));
        store.probe(&world, timeout, &thresholds).await;
        if let Some(done) = done.take() {
            done();
        }
        let now = world.clock.elapsed();
        if store.source().link.is_some() && store.used() && looked.is_none_or(|l| now.saturating_sub(l) >= LAG_EVERY) {
            looked = Some(now);
            store.look_for_newest(&world, timeout).await;
        }
        // What fails is asked again soon, and ever later: most failures are restarts.
        let pause = if store.truth().healthy { retry.reset(interval) } else { retry.next(world.entropy.as_ref()) };
        tokio::time::sleep(pause.min(interval)).await;
    }
}

/// Why a far side is not the expected cluster.
fn wrong_cluster(expected: &str, advertised: &[String], label: &str) -> Option<String> {
    if advertised.iter().any(|c| c == expected) {
        return None;
    }
    Some(match advertised {
        [] => format!("expected cluster {expected:?}, but it advertises no label {label:?}"),
        some => {
            let list: Vec<String> = some.iter().take(5).map(|c| format!("{c:?}")).collect();
            format!("expected cluster {expected:?}, but it advertises {}", list.join(", "))
        }
    })
}

/// True if series with these external labels can pass: a label that the set lacks may be in the series.
pub(super) fn agrees(set: &Labels, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|m| set.get(&m.name).is_none_or(|v| m.matches(v)))
}

/// Time of a chunk's last sample. Prometheus leaves the end of a chunk that is still written to open.
fn chunk_end(chunk: &proto::thanos::AggrChunk, now: i64) -> Option<i64> {
    if chunk.max_time <= now.saturating_add(LAG_RANGE) {
        return Some(chunk.max_time);
    }
    let raw = chunk.raw.as_ref()?;
    let samples = tsdb::chunk::decode(tsdb::chunk::Encoding::from_store_api(raw.r#type), raw.data.clone()).ok()?;
    samples.filter_map(Result::ok).map(|s| s.t).max()
}

fn tls(client: &ClientConfig) -> Result<Option<Arc<tls::ClientTls>>, String> {
    let Some(c) = client.tls_config.as_ref().filter(|c| c.enabled.unwrap_or(true)) else { return Ok(None) };
    let path = |s: &str| (!s.is_empty()).then(|| std::path::PathBuf::from(s));
    let identity = match (path(&c.cert_file), path(&c.key_file)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err("cert_file and key_file need each other".to_owned()),
    };
    let options = tls::ClientTlsOptions {
        ca: path(&c.ca_file),
        identity,
        insecure_skip_verify: c.insecure_skip_verify,
        min_version: if c.min_version.is_empty() { "1.3".to_owned() } else { c.min_version.clone() },
    };
    tls::ClientTls::new(options).map(Some).map_err(|e| e.to_string())
}

fn authority(client: &ClientConfig, place: &Place) -> String {
    if client.server_name.is_empty() { place.authority.clone() } else { client.server_name.clone() }
}

pub(super) fn bounded(mut text: String) -> String {
    if text.len() > 1024 {
        let end = (0..=1024).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

fn non_empty<'a>(s: &'a str, or: &'a str) -> &'a str {
    if s.is_empty() { or } else { s }
}
