//! One request to many stores: each with its own deadline and a bounded buffer ([`super::call`]), merged into one sorted
//! stream ([`super::answer`]). What is missing is said, or fails the request.

use super::answer::Input;
pub use super::answer::{SeriesStream, collect, collect_labels};
use super::budget::Budget;
use super::buffers::{Buffers, Call, Grant, Share};
use super::call::{StoreCall, encode_limit};
use super::endpoints::{Asked, Endpoints};
use super::hedge::{self, Hedges};
use super::push::Bound;
use super::store::{Offer, Question, Store, bounded};
use super::warning::{self, Warning, held_by};
use crate::server::client;
use crate::server::grpc_metrics::{Method, Outcome, code_name};
use crate::server::metrics::Metrics;
use crate::storeapi::wire::Shard;
use args::QueryArgs;
use model::Matcher;
use model::world::World;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use proto::thanos::{Aggr, LabelNamesRequest, LabelValuesRequest, PartialResponseStrategy};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Most series that a store is asked to put into one message.
const BATCH: usize = 64;
/// Series that the messages of all stores together should hold: the merge needs one message of each at the same time.
const BATCHES: usize = 512;
/// Fewest series in a message that are worth one.
const LEAST_BATCH: usize = 4;
/// How long a store may stay silent that did not answer its last probe.
const SUSPECT: Duration = Duration::from_secs(5);
/// Most warnings that are taken from one store.
const MAX_SAID: usize = 100;

/// What is asked of all stores.
#[derive(Clone, Debug)]
pub struct Select {
    /// First time, milliseconds, inclusive.
    pub mint: i64,
    /// Last time, milliseconds, inclusive.
    pub maxt: i64,
    /// The matchers.
    pub matchers: Vec<Matcher>,
    /// Labels to leave out before sorting.
    pub without: Vec<String>,
    /// Labels only.
    pub skip_chunks: bool,
    /// Most series wanted.
    pub limit: Option<usize>,
    /// How coarse the data may be.
    pub detail: Detail,
    /// Only these stores; see [`Question::only`].
    pub only: Arc<Vec<Vec<Matcher>>>,
    /// These stores, each with its places, and no others, whoever is there by now: others have answered otherwise.
    pub exactly: Option<Stores>,
    /// What must be true of all series, or the request fails.
    pub(super) bounds: Vec<Bound>,
    /// A share of the series.
    pub shard: Option<Arc<Shard>>,
    /// How a missing store is taken, and how long the whole may take.
    pub terms: Terms,
}

/// Stores, each with the places where it is offered.
pub type Stores = Arc<Vec<Vec<Arc<Store>>>>;

/// How coarse data may be, and which aggregates of coarse data are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Largest distance of samples, milliseconds; 0: as scraped only.
    pub max_resolution: i64,
    /// What is wanted of downsampled data; raw data always comes as it is.
    pub aggregates: Vec<Aggr>,
}

impl Default for Detail {
    fn default() -> Self {
        Self { max_resolution: 0, aggregates: vec![Aggr::Raw] }
    }
}

/// How a request treats stores that fail. Shared by all selects of one query.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Answer without them, with a warning; else fail.
    pub partial: bool,
    /// When stores must have answered, on the clock's elapsed time: three quarters into the request.
    pub(super) end: Duration,
    /// Stores that were silent once; further selects do not wait for them again.
    pub(super) silent: Arc<Mutex<BTreeSet<String>>>,
    /// What the request may hold in memory once it is merged.
    pub budget: Arc<Budget>,
    /// What it holds of stores' answers before.
    pub(super) buffers: Arc<Share>,
}

/// The request failed because a store did.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl Failed {
    /// Because of all these.
    pub(super) fn of(reasons: Vec<Warning>) -> Self {
        let mut reasons: Vec<String> = reasons.into_iter().map(|w| w.text).collect();
        reasons.sort();
        Self(reasons.join("; "))
    }
}

/// A call under way. It is counted when it is dropped, so that one which nobody waits for any more counts too.
pub(super) struct Counted {
    handled: Family<Outcome, Counter>,
    method: Method,
    pub(super) code: tonic::Code,
}

impl Counted {
    /// How it ended.
    pub(super) fn ended(mut self, code: tonic::Code) {
        self.code = code;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.handled.get_or_create(&self.method.ended(code_name(self.code))).inc();
    }
}

/// Asks stores.
#[derive(Clone)]
pub struct Fanout {
    endpoints: Arc<Endpoints>,
    pub(super) world: World,
    response_timeout: Duration,
    pub(super) hedges: Arc<Hedges>,
    buffers: Buffers,
    started: Family<Method, Counter>,
    handled: Family<Outcome, Counter>,
}

impl Fanout {
    /// Over these endpoints, as the flags say.
    pub fn new(endpoints: Arc<Endpoints>, world: World, args: &QueryArgs, metrics: &Metrics) -> Self {
        // 0 is as long as the request.
        let response_timeout = args.response_timeout.duration();
        let buffers = Buffers::in_container(args, metrics);
        let started = metrics.register("grpc_client_started", "gRPC calls begun", Family::default());
        let handled = metrics.register("grpc_client_handled", "gRPC calls ended, by code", Family::default());
        Self { endpoints, world, response_timeout, hedges: Arc::default(), buffers, started, handled }
    }

    /// The terms of a request that begins now, may take `timeout`, and may hold `max_bytes` (0: no limit).
    pub fn terms(&self, partial: bool, timeout: Duration, max_bytes: u64) -> Terms {
        self.terms_within(partial, timeout, Budget::new(max_bytes))
    }

    /// The same within a budget that is there already.
    pub fn terms_within(&self, partial: bool, timeout: Duration, budget: Budget) -> Terms {
        let end = self.world.clock.elapsed() + timeout.mul_f64(0.75);
        Terms { partial, end, silent: Arc::default(), budget: Arc::new(budget), buffers: self.buffers.share() }
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// The stores to ask; those missed become warnings, or the failure.
    fn targets(&self, select: &Select) -> Result<Targets, Failed> {
        let Select { mint, maxt, ref matchers, ref only, .. } = *select;
        let question = Question { matchers, mint, maxt, offer: Offer::Store, only };
        match &select.exactly {
            None => self.offering(&question, &select.terms),
            Some(stores) => self.asking(&question, stores.iter().cloned().map(Asked::Store).collect(), &select.terms),
        }
    }

    /// The endpoints to ask; those missed become warnings, or the failure.
    pub(super) fn offering(&self, question: &Question<'_>, terms: &Terms) -> Result<Targets, Failed> {
        self.asking(question, self.endpoints.ask(question), terms)
    }

    fn asking(&self, question: &Question<'_>, all: Vec<Asked>, terms: &Terms) -> Result<Targets, Failed> {
        let partial = terms.partial;
        if !partial && self.endpoints.is_empty() {
            return Err(Failed("no store is configured, so nothing can be complete".to_owned()));
        }
        let (mut stores, mut warnings, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for asked in all {
            let (name, reason, strict, range) = match asked {
                Asked::Store(mut places) => {
                    let silent = terms.silent.lock();
                    let first = places.first().map(Arc::clone);
                    places.retain(|s| !silent.contains(&s.place.address));
                    let Some(first) = first.filter(|_| places.is_empty()) else {
                        stores.push(places);
                        continue;
                    };
                    let range = held_by(&first, (question.mint, question.maxt));
                    let reason = "it was silent in another part of this query".to_owned();
                    (first.name(), reason, first.source().strict, range)
                }
                Asked::Missing { name, reason, strict, range } => (name, reason, strict, range),
            };
            let range = (question.offer == Offer::Store).then_some(range);
            let said = if strict || !partial { &mut failed } else { &mut warnings };
            warning::push(said, Warning::no_answer(&name, &reason, range));
        }
        Ok(Targets { stores, warnings, failed })
    }

    pub(super) fn deadlines(&self, terms: &Terms, store: &Store) -> Deadlines {
        let left = terms.end.saturating_sub(self.world.clock.elapsed());
        let truth = store.truth();
        // A querier waits for stores of its own as long as we do; it needs time to tell of them.
        let patience = match truth.info.as_ref().is_some_and(|i| i.component == "query") {
            true => self.response_timeout.saturating_mul(3) / 2,
            false => self.response_timeout,
        };
        let mut frame = if patience.is_zero() { left } else { patience.min(left) };
        // One that did not answer its last probe gets the benefit of the doubt, but not all of the time.
        if truth.failures > 0 {
            frame = frame.min(SUSPECT);
        }
        Deadlines { frame, end: terms.end }
    }

    /// Opens the merged stream. Dropping it cancels all calls.
    pub fn series(&self, select: &Select) -> Result<SeriesStream, Failed> {
        let Targets { stores, warnings, failed } = self.targets(select)?;
        let mut tasks = JoinSet::new();
        let mut inputs = Vec::with_capacity(stores.len());
        let batch = (BATCHES / stores.len().max(1)).clamp(LEAST_BATCH, BATCH);
        let shared = Arc::new(select.clone());
        for (source, places) in stores.into_iter().enumerate() {
            let Some(store) = places.first() else { continue };
            // One message waits here, one is being read, as far as there is memory to read ahead.
            let (to, from) = mpsc::channel(1);
            let memory = Call::new(&select.terms.buffers);
            inputs.push(Input::new(from, Arc::clone(&memory), store, (select.mint, select.maxt)));
            let source = u32::try_from(source).unwrap_or(u32::MAX);
            let call = StoreCall { places, select: Arc::clone(&shared), batch, source, memory, fanout: self.clone() };
            tasks.spawn(call.run(to));
        }
        Ok(SeriesStream::new(inputs, warnings, failed, select, tasks))
    }

    /// All label names, or all values of one label; sorted. With them what is missing.
    pub async fn labels(&self, asked: &LabelCall, select: &Select) -> Result<(Vec<String>, Vec<Warning>), Failed> {
        let partial = select.terms.partial;
        let Targets { stores, mut warnings, mut failed } = self.targets(select)?;
        // Dropped with this future: then all calls end.
        let mut calls = JoinSet::new();
        for places in stores {
            let (me, asked, select) = (self.clone(), asked.clone(), select.clone());
            calls.spawn(async move {
                let delay = me.hedge_delay(&select.terms, &places);
                let ask = |_, store| me.labels_of(&asked, &select, store);
                let answer = hedge::first_of(&places, delay, &me.hedges, || false, ask).await;
                (places, answer.map(|(_, found)| found).map_err(|reasons| said_by(&reasons)))
            });
        }
        let mut all = BTreeSet::new();
        while let Some(ended) = calls.join_next().await {
            let (places, answer) = ended.map_err(|e| Failed(format!("a label call ended abnormally: {e}")))?;
            let Some(store) = places.first() else { continue };
            let range = Some(held_by(store, (select.mint, select.maxt)));
            let (said, strict) = match answer {
                Ok(((found, said), _held)) => {
                    for text in found {
                        let bytes = text.len() + size_of::<String>();
                        if all.insert(text) {
                            select.terms.budget.take(bytes)?;
                        }
                    }
                    let news = said.into_iter().filter(|w| !own_limit(w, select.limit)).take(MAX_SAID);
                    (news.map(|w| Warning::of_store(&store.name(), &bounded(w), range)).collect(), false)
                }
                Err(reason) => {
                    (vec![Warning::no_answer(&store.name(), &bounded(reason), range)], store.source().strict)
                }
            };
            let told = if strict || !partial { &mut failed } else { &mut warnings };
            said.into_iter().for_each(|w| warning::push(told, w));
        }
        if !failed.is_empty() {
            return Err(Failed::of(failed));
        }
        let mut all: Vec<String> = all.into_iter().collect();
        if let Some(limit) = select.limit {
            all.truncate(limit);
        }
        Ok((all, warnings))
    }

    /// One place's answer to a label call, with the memory that it holds; or why there is none.
    async fn labels_of(
        &self,
        asked: &LabelCall,
        select: &Select,
        store: &Arc<Store>,
    ) -> Result<(Strings, Option<Grant>), (String, String)> {
        let mut counted = self.begin("unary", asked.method());
        let timeout = self.deadlines(&select.terms, store).frame;
        let memory = Call::needed(&select.terms.buffers);
        let begin = self.world.clock.elapsed();
        let call = client::retrying(|| asked.call(store, &memory, select, timeout));
        let (code, answer) = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(found)) => {
                store.began_after(self.world.clock.elapsed().saturating_sub(begin));
                (tonic::Code::Ok, Ok((found, memory.received())))
            }
            Ok(Err(status)) => (status.code(), Err(store.explain(&status))),
            Err(_) => {
                select.terms.silent.lock().insert(store.place.address.clone());
                (tonic::Code::DeadlineExceeded, Err(format!("no answer within {timeout:?}")))
            }
        };
        counted.code = code;
        answer.map_err(|reason| (store.place.address.clone(), reason))
    }

    /// How long the first place may lag before another one is asked.
    pub(super) fn hedge_delay(&self, terms: &Terms, places: &[Arc<Store>]) -> Duration {
        places.first().map_or(Duration::ZERO, |s| hedge::delay(s.usual(), self.deadlines(terms, s).frame))
    }

    /// Counts a call; until it says otherwise, it ends as cancelled.
    pub(super) fn begin(&self, grpc_type: &'static str, grpc_method: &'static str) -> Counted {
        self.count(Method { grpc_type, grpc_service: "thanos.Store", grpc_method })
    }

    /// The same for any service.
    pub(super) fn count(&self, method: Method) -> Counted {
        self.started.get_or_create(&method).inc();
        Counted { handled: self.handled.clone(), method, code: tonic::Code::Cancelled }
    }
}

/// A call that answers with strings.
#[derive(Clone, Debug)]
pub enum LabelCall {
    /// Names of labels.
    Names,
    /// Values of this label.
    Values(String),
}

impl LabelCall {
    fn method(&self) -> &'static str {
        match self {
            Self::Names => "LabelNames",
            Self::Values(_) => "LabelValues",
        }
    }

    async fn call(
        &self,
        store: &Store,
        memory: &Arc<Call>,
        select: &Select,
        timeout: Duration,
    ) -> Result<Strings, tonic::Status> {
        let matchers = proto::matchers::encode(&store.guarded(&select.matchers));
        let (partial_response_disabled, strategy) = (!select.terms.partial, strategy(select.terms.partial).into());
        let (start, end, limit) = (select.mint, select.maxt, encode_limit(select.limit));
        match self {
            Self::Names => {
                let body = LabelNamesRequest {
                    partial_response_disabled,
                    partial_response_strategy: strategy,
                    start,
                    end,
                    matchers,
                    without_replica_labels: select.without.clone(),
                    limit,
                    ..Default::default()
                };
                let answer = store.client(memory).label_names(store.request(body, timeout)).await?.into_inner();
                Ok((answer.names, answer.warnings))
            }
            Self::Values(label) => {
                let body = LabelValuesRequest {
                    label: label.clone(),
                    partial_response_disabled,
                    partial_response_strategy: strategy,
                    start,
                    end,
                    matchers,
                    without_replica_labels: select.without.clone(),
                    limit,
                    ..Default::default()
                };
                let answer = store.client(memory).label_values(store.request(body, timeout)).await?.into_inner();
                Ok((answer.values, answer.warnings))
            }
        }
    }
}

/// Names or values, and what the store says that they lack.
type Strings = (Vec<String>, Vec<String>);

/// Whom to ask, and who is missed.
pub(super) struct Targets {
    /// The stores, each with the places where it is offered.
    pub(super) stores: Vec<Vec<Arc<Store>>>,
    pub(super) warnings: Vec<Warning>,
    /// Those without which the request fails. The others are asked all the same: the failure names all who are missing.
    pub(super) failed: Vec<Warning>,
}

/// Why none of a store's places has answered: of several each by its address.
pub(super) fn said_by(reasons: &[(String, String)]) -> String {
    match reasons {
        [(_, reason)] => reason.clone(),
        all => all.iter().map(|(place, reason)| format!("{place}: {reason}")).collect::<Vec<_>>().join("; "),
    }
}

/// How long a store may take.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    /// For each message.
    pub(super) frame: Duration,
    pub(super) end: Duration,
}

/// True for a store's warning about the limit that we have set ourselves: that is no failure of the store.
pub(super) fn own_limit(warning: &str, limit: Option<usize>) -> bool {
    limit.is_some() && warning.ends_with(crate::storeapi::TRUNCATED)
}

pub(super) fn strategy(partial: bool) -> PartialResponseStrategy {
    if partial { PartialResponseStrategy::Warn } else { PartialResponseStrategy::Abort }
}
