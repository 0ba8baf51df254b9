//! One request to many stores: each with its own deadline and a bounded buffer, merged into one sorted stream. What is
//! missing is said, or fails the request.

use super::budget::{Budget, Taken};
use super::buffers::{Buffers, Call, Grant, Share};
use super::endpoints::{Asked, Endpoints};
use super::merge::{Merge, Step};
use super::series::{Aggregates, Chunk, Series, Slot};
use super::store::{Offer, Question, Store, bounded};
use crate::server::client;
use crate::server::grpc_metrics::{Method, Outcome, code_name};
use crate::server::metrics::Metrics;
use crate::storeapi::wire::Shard;
use args::QueryArgs;
use model::world::World;
use model::{Labels, Matcher};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use proto::thanos::{
    self, Aggr, LabelNamesRequest, LabelValuesRequest, PartialResponseStrategy, SeriesRequest, series_response,
};
use std::collections::{BTreeSet, VecDeque};
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
/// Most warnings that one answer keeps.
const MAX_WARNINGS: usize = 100;
/// Most bytes of series that are held to be sorted again, for a store that can't leave out replica labels itself.
const MAX_RESORT: usize = 256 << 20;

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
    /// A share of the series.
    pub shard: Option<Arc<Shard>>,
    /// How a missing store is taken, and how long the whole may take.
    pub terms: Terms,
}

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
    end: Duration,
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
    pub(super) fn of(mut reasons: Vec<String>) -> Self {
        reasons.sort();
        Self(reasons.join("; "))
    }
}

/// How a warning about a store that is missing begins.
const NO_ANSWER: &str = "no answer from store ";

/// Says that a store is missing.
pub(super) fn no_answer(name: &str, reason: &str) -> String {
    format!("{NO_ANSWER}{name}: {reason}")
}

/// The store that a warning says is missing, and why; `None` of other warnings.
pub fn missing(warning: &str) -> Option<(&str, &str)> {
    warning.strip_prefix(NO_ANSWER)?.split_once(": ")
}

/// A call under way. It is counted when it is dropped, so that one which nobody waits for any more counts too.
pub(super) struct Counted {
    handled: Family<Outcome, Counter>,
    method: Method,
    code: tonic::Code,
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
    world: World,
    response_timeout: Duration,
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
        Self { endpoints, world, response_timeout, buffers, started, handled }
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
        self.offering(&Question { matchers, mint, maxt, offer: Offer::Store, only }, &select.terms)
    }

    /// The endpoints to ask; those missed become warnings, or the failure.
    pub(super) fn offering(&self, question: &Question<'_>, terms: &Terms) -> Result<Targets, Failed> {
        let partial = terms.partial;
        if !partial && self.endpoints.is_empty() {
            return Err(Failed("no store is configured, so nothing can be complete".to_owned()));
        }
        let (mut stores, mut warnings, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for asked in self.endpoints.ask(question) {
            let (name, reason, strict) = match asked {
                Asked::Store(s) if terms.silent.lock().contains(&s.place.address) => {
                    (s.name(), "it was silent in another part of this query".to_owned(), s.source().strict)
                }
                Asked::Store(s) => {
                    stores.push(s);
                    continue;
                }
                Asked::Missing { name, reason, strict } => (name, reason, strict),
            };
            let said = if strict || !partial { &mut failed } else { &mut warnings };
            push_warning(said, no_answer(&name, &reason));
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
        for (source, store) in stores.into_iter().enumerate() {
            // One message waits here, one is being read, as far as there is memory to read ahead.
            let (to, from) = mpsc::channel(1);
            let memory = Call::new(&select.terms.buffers);
            inputs.push(Input {
                from,
                memory: Arc::clone(&memory),
                series: VecDeque::new(),
                held: None,
                heard: false,
                name: store.name(),
                strict: store.source().strict,
            });
            let source = u32::try_from(source).unwrap_or(u32::MAX);
            let deadlines = self.deadlines(&select.terms, &store);
            let call = StoreCall {
                request: request(&store, select, batch),
                memory,
                limit: select.limit,
                budget: Arc::clone(&select.terms.budget),
                strip: strip(&store, select),
                source,
                store,
                deadlines,
                silent: Arc::clone(&select.terms.silent),
                fanout: self.clone(),
            };
            tasks.spawn(call.run(to));
        }
        Ok(SeriesStream {
            merge: Merge::new(inputs.len()),
            inputs,
            warnings,
            failed,
            shard: select.shard.clone(),
            partial: select.terms.partial,
            limit: select.limit,
            given: 0,
            _tasks: tasks,
        })
    }

    /// All label names, or all values of one label; sorted. With them what is missing.
    pub async fn labels(&self, asked: &LabelCall, select: &Select) -> Result<(Vec<String>, Vec<String>), Failed> {
        let partial = select.terms.partial;
        let Targets { stores, mut warnings, mut failed } = self.targets(select)?;
        // Dropped with this future: then all calls end.
        let mut calls = JoinSet::new();
        for store in stores {
            let (me, asked, select) = (self.clone(), asked.clone(), select.clone());
            calls.spawn(async move {
                let mut counted = me.begin("unary", asked.method());
                let timeout = me.deadlines(&select.terms, &store).frame;
                let memory = Call::needed(&select.terms.buffers);
                let call = client::retrying(|| asked.call(&store, &memory, &select, timeout));
                let answer = tokio::time::timeout(timeout, call).await;
                let (code, answer) = match answer {
                    Ok(Ok(found)) => (tonic::Code::Ok, Ok((found, memory.received()))),
                    Ok(Err(status)) => (status.code(), Err(store.explain(&status))),
                    Err(_) => {
                        select.terms.silent.lock().insert(store.place.address.clone());
                        (tonic::Code::DeadlineExceeded, Err(format!("no answer within {timeout:?}")))
                    }
                };
                counted.code = code;
                (store, answer)
            });
        }
        let mut all = BTreeSet::new();
        while let Some(ended) = calls.join_next().await {
            let (store, answer) = ended.map_err(|e| Failed(format!("a label call ended abnormally: {e}")))?;
            let (said, strict) = match answer {
                Ok(((found, said), _held)) => {
                    for text in found {
                        let bytes = text.len() + size_of::<String>();
                        if all.insert(text) {
                            select.terms.budget.take(bytes)?;
                        }
                    }
                    let news = said.into_iter().filter(|w| !own_limit(w, select.limit));
                    let told = news.take(MAX_WARNINGS).map(|w| format!("store {}: {}", store.name(), bounded(w)));
                    (told.collect(), false)
                }
                Err(reason) => (vec![no_answer(&store.name(), &bounded(reason))], store.source().strict),
            };
            let told = if strict || !partial { &mut failed } else { &mut warnings };
            said.into_iter().for_each(|text| push_warning(told, text));
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

    /// Counts a call; until it says otherwise, it ends as cancelled.
    fn begin(&self, grpc_type: &'static str, grpc_method: &'static str) -> Counted {
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
    ) -> Result<(Vec<String>, Vec<String>), tonic::Status> {
        let matchers = proto::matchers::encode(&store.guarded(&select.matchers));
        let (partial_response_disabled, strategy) = (!select.terms.partial, strategy(select.terms.partial).into());
        let (start, end, limit) = (select.mint, select.maxt, wire_limit(select.limit));
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

/// Whom to ask, and who is missed.
pub(super) struct Targets {
    pub(super) stores: Vec<Arc<Store>>,
    pub(super) warnings: Vec<String>,
    /// Those without which the request fails. The others are asked all the same: the failure names all who are missing.
    pub(super) failed: Vec<String>,
}

/// How long a store may take.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    /// For each message.
    pub(super) frame: Duration,
    end: Duration,
}

/// True for a store's warning about the limit that we have set ourselves: that is no failure of the store.
fn own_limit(warning: &str, limit: Option<usize>) -> bool {
    limit.is_some() && warning.ends_with(crate::storeapi::TRUNCATED)
}

pub(super) fn push_warning(warnings: &mut Vec<String>, text: String) {
    if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
        warnings.push(text);
    }
}

pub(super) fn strategy(partial: bool) -> PartialResponseStrategy {
    if partial { PartialResponseStrategy::Warn } else { PartialResponseStrategy::Abort }
}

fn wire_limit(limit: Option<usize>) -> i64 {
    limit.and_then(|l| i64::try_from(l).ok()).unwrap_or(0)
}

fn request(store: &Store, select: &Select, batch: usize) -> SeriesRequest {
    let shard = select.shard.as_ref().filter(|_| shards(store, select));
    SeriesRequest {
        min_time: select.mint,
        max_time: select.maxt,
        matchers: proto::matchers::encode(&store.guarded(&select.matchers)),
        max_resolution_window: select.detail.max_resolution,
        aggregates: select.detail.aggregates.iter().map(|a| (*a).into()).collect(),
        partial_response_disabled: !select.terms.partial,
        partial_response_strategy: strategy(select.terms.partial).into(),
        skip_chunks: select.skip_chunks,
        without_replica_labels: select.without.clone(),
        // A store that gives more than the share must not count what does not belong to it.
        limit: if select.shard.is_some() && shard.is_none() { 0 } else { wire_limit(select.limit) },
        shard_info: shard.map(|s| s.encode()),
        response_batch_size: i64::try_from(batch).unwrap_or(1),
        ..Default::default()
    }
}

/// True if the store itself can leave out what is not in the share. It can't if labels are taken out only here: which share a
/// series belongs to is decided by those that it has in the end.
fn shards(store: &Store, select: &Select) -> bool {
    let able = store.truth().info.is_some_and(|i| i.sharding);
    able && strip(store, select).is_empty()
}

/// The labels that must be taken out here, since the store can't.
fn strip(store: &Store, select: &Select) -> Vec<String> {
    let able = store.truth().info.is_some_and(|i| i.without_replica_labels);
    if able { Vec::new() } else { select.without.clone() }
}

enum Message {
    /// With the memory that they hold.
    Series(Vec<Series>, Option<Grant>),
    Warning(String),
    Failed(String),
    /// The request has no memory for more.
    Full(Failed),
}

struct StoreCall {
    store: Arc<Store>,
    request: SeriesRequest,
    limit: Option<usize>,
    budget: Arc<Budget>,
    strip: Vec<String>,
    source: u32,
    memory: Arc<Call>,
    deadlines: Deadlines,
    silent: Arc<Mutex<BTreeSet<String>>>,
    fanout: Fanout,
}

impl StoreCall {
    /// Runs the call to its end, its failure, or until nobody listens.
    async fn run(self, to: mpsc::Sender<Message>) {
        let mut counted = self.fanout.begin("server_stream", "Series");
        counted.code = match self.stream(&to).await {
            Ok(()) => tonic::Code::Ok,
            Err(Some((code, _))) if model::protection::off("missing-told") => code,
            Err(Some((code, reason))) => {
                // Nobody may listen any more.
                let _ = to.send(Message::Failed(bounded(reason))).await;
                code
            }
            Err(None) => tonic::Code::Cancelled,
        };
    }

    async fn stream(&self, to: &mpsc::Sender<Message>) -> Result<(), Option<(tonic::Code, String)>> {
        let status = |s: tonic::Status| Some((s.code(), self.store.explain(&s)));
        let call = client::retrying(|| {
            let left = self.deadlines.end.saturating_sub(self.fanout.world.clock.elapsed());
            let (mut client, request) =
                (self.store.client(&self.memory), self.store.request(self.request.clone(), left));
            async move { client.series(request).await }
        });
        let mut stream = self.wait(to, call).await?.map_err(status)?.into_inner();
        let mut unsorted: Vec<Series> = Vec::new();
        // Given back when the series are on their way: whoever collects them takes it again.
        let mut held = Taken::new(&self.budget);
        loop {
            if !self.strip.is_empty() {
                // All of it is needed before the first can be given on.
                self.memory.need();
            }
            let Some(frame) = self.wait(to, stream.message()).await?.map_err(status)? else { break };
            let mut grant = self.memory.received();
            let found = match frame.result {
                Some(series_response::Result::Series(s)) => vec![s],
                Some(series_response::Result::Batch(b)) => b.series,
                Some(series_response::Result::Warning(w)) if own_limit(&w, self.limit) => continue,
                Some(series_response::Result::Warning(w)) => {
                    to.send(Message::Warning(bounded(w))).await.map_err(|_| None)?;
                    continue;
                }
                Some(series_response::Result::Hints(_)) | None => continue,
            };
            let mut batch = Vec::with_capacity(found.len());
            for s in found {
                let s = decode(s, self.source).map_err(|e| Some((tonic::Code::DataLoss, e)))?;
                batch.push(s);
            }
            if self.strip.is_empty() {
                // The chunks are slices of the message; what is made of it comes on top.
                let made = batch.iter().map(Series::overhead).sum();
                grant.iter_mut().for_each(|g| g.grow(made));
                to.send(Message::Series(batch, grant)).await.map_err(|_| None)?;
                continue;
            }
            for mut s in batch {
                s.labels = s.labels.without(&self.strip);
                if let Err(full) = held.more(s.cost()) {
                    // Ours, whatever the store does: it has not failed.
                    let _ = to.send(Message::Full(full)).await;
                    return Err(None);
                }
                unsorted.push(s);
            }
            if held.bytes() > MAX_RESORT {
                let text = format!("it can't leave out replica labels, and sent more than {MAX_RESORT} bytes to sort");
                return Err(Some((tonic::Code::ResourceExhausted, text)));
            }
        }
        if !unsorted.is_empty() {
            unsorted.sort_by(|a, b| a.labels.cmp(&b.labels));
            to.send(Message::Series(unsorted, None)).await.map_err(|_| None)?;
        }
        Ok(())
    }

    /// Waits for the store, at most its deadlines; ends early when nobody listens.
    async fn wait<T>(
        &self,
        to: &mpsc::Sender<Message>,
        answer: impl Future<Output = T>,
    ) -> Result<T, Option<(tonic::Code, String)>> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let left = self.deadlines.end.saturating_sub(self.fanout.world.clock.elapsed());
            let mut limit = self.deadlines.frame.min(left);
            if model::protection::off("store-deadline") {
                limit = Duration::from_secs(3600);
            }
            tokio::select! {
                biased;
                () = to.closed() => return Err(None),
                answer = tokio::time::timeout(limit, answer.as_mut()) => if let Ok(answer) = answer {
                    return Ok(answer);
                }
            }
            // A store whose message we do not let in is not silent.
            let waiting = self.memory.is_waiting();
            let text = match left < self.deadlines.frame {
                true if waiting => "the time of the query was over while its answer waited for memory \
                                    (--query.buffer-bytes)"
                    .to_owned(),
                true => "it did not finish in the time of the query".to_owned(),
                false if waiting => continue,
                false => format!("it was silent for {limit:?}"),
            };
            if !waiting {
                self.silent.lock().insert(self.store.place.address.clone());
            }
            return Err(Some((tonic::Code::DeadlineExceeded, text)));
        }
    }
}

/// Reads a series off the wire.
fn decode(series: thanos::Series, source: u32) -> Result<Series, String> {
    let labels = proto::labels::decode(&series.labels).map_err(|e| format!("it sent a bad series: {e}"))?;
    if let Some(c) = series.chunks.iter().find(|c| c.min_time > c.max_time) {
        return Err(format!(
            "it sent a chunk of {labels} that ends ({}) before it begins ({})",
            c.max_time, c.min_time
        ));
    }
    let chunks = series.chunks.into_iter().map(|c| chunk(c, source)).collect();
    Ok(Series { labels, chunks })
}

fn chunk(c: thanos::AggrChunk, source: u32) -> Chunk {
    let slot = |c: Option<thanos::Chunk>| c.map(|c| Slot { encoding: c.r#type, data: c.data, hash: c.hash });
    let aggregates = Aggregates {
        count: slot(c.count),
        sum: slot(c.sum),
        min: slot(c.min),
        max: slot(c.max),
        counter: slot(c.counter),
    };
    Chunk {
        min_time: c.min_time,
        max_time: c.max_time,
        raw: slot(c.raw),
        aggregates: (aggregates != Aggregates::default()).then(|| Box::new(aggregates)),
        source,
    }
}

/// Writes a series to the wire.
pub fn encode(series: Series) -> thanos::Series {
    let slot = |s: Option<Slot>| s.map(|s| thanos::Chunk { r#type: s.encoding, data: s.data, hash: s.hash });
    let chunks = series.chunks.into_iter().map(|c| {
        let a = c.aggregates.map(|a| *a).unwrap_or_default();
        thanos::AggrChunk {
            min_time: c.min_time,
            max_time: c.max_time,
            raw: slot(c.raw),
            count: slot(a.count),
            sum: slot(a.sum),
            min: slot(a.min),
            max: slot(a.max),
            counter: slot(a.counter),
        }
    });
    thanos::Series { chunks: chunks.collect(), labels: proto::labels::encode(&series.labels) }
}

struct Input {
    from: mpsc::Receiver<Message>,
    memory: Arc<Call>,
    series: VecDeque<Series>,
    /// The memory of `series`.
    held: Option<Grant>,
    /// Something has come from it.
    heard: bool,
    name: String,
    strict: bool,
}

/// The merged answer of all stores.
pub struct SeriesStream {
    merge: Merge,
    inputs: Vec<Input>,
    warnings: Vec<String>,
    failed: Vec<String>,
    shard: Option<Arc<Shard>>,
    partial: bool,
    limit: Option<usize>,
    given: usize,
    _tasks: JoinSet<()>,
}

impl SeriesStream {
    /// The next series, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Series>, Failed> {
        if self.limit.is_some_and(|l| self.given >= l) {
            return Ok(None);
        }
        loop {
            if !self.failed.is_empty() {
                return Err(self.settle().await);
            }
            match self.merge.step() {
                // Not every store can tell shares apart.
                Step::Series(s) if self.shard.as_ref().is_some_and(|shard| !shard.has_labels(&s.labels)) => {}
                Step::Series(s) => {
                    self.given += 1;
                    return Ok(Some(s));
                }
                Step::Done => return Ok(None),
                Step::Need(i) => self.pull(i).await?,
            }
        }
    }

    /// What is missing from what was given so far.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// True if there may be more than the limit allowed.
    pub fn truncated(&self) -> bool {
        self.limit.is_some_and(|l| self.given >= l)
    }

    async fn pull(&mut self, i: usize) -> Result<(), Failed> {
        let Some(input) = self.inputs.get_mut(i) else {
            self.merge.close(i);
            return Ok(());
        };
        loop {
            if let Some(s) = input.series.pop_front() {
                match self.merge.feed(i, s) {
                    Ok(()) => return Ok(()),
                    Err(e) => {
                        let text = format!("store {} is left out: {e}", input.name);
                        input.from.close();
                        input.series.clear();
                        input.held = None;
                        self.merge.close(i);
                        let said = if self.partial && !input.strict { &mut self.warnings } else { &mut self.failed };
                        push_warning(said, text);
                        return Ok(());
                    }
                }
            }
            input.held = None;
            let message = match input.from.try_recv() {
                Ok(message) => Some(message),
                Err(_) => {
                    input.memory.need();
                    let message = input.from.recv().await;
                    input.memory.idle();
                    message
                }
            };
            input.heard = true;
            let (text, fatal) = match message {
                Some(Message::Series(series, held)) => {
                    (input.series, input.held) = (series.into(), held);
                    continue;
                }
                None => {
                    self.merge.close(i);
                    return Ok(());
                }
                Some(Message::Warning(w)) => (format!("store {}: {w}", input.name), false),
                Some(Message::Failed(r)) => (no_answer(&input.name, &r), input.strict),
                Some(Message::Full(full)) => return Err(full),
            };
            if fatal || !self.partial {
                push_warning(&mut self.failed, text);
                return Ok(());
            }
            push_warning(&mut self.warnings, text);
        }
    }

    /// The request has failed. Who has not been heard of yet is waited for, as long as the answer would have waited: so that
    /// the failure names all who are missing.
    async fn settle(&mut self) -> Failed {
        for input in self.inputs.iter_mut().filter(|i| !i.heard) {
            input.memory.need();
            if let Some(Message::Failed(r)) = input.from.recv().await
                && (input.strict || !self.partial)
            {
                push_warning(&mut self.failed, no_answer(&input.name, &r));
            }
        }
        Failed::of(std::mem::take(&mut self.failed))
    }
}

/// All label sets and chunks of a stream, as far as a budget of bytes allows.
pub async fn collect(stream: &mut SeriesStream, budget: &Budget) -> Result<Vec<Series>, Failed> {
    let mut all = Vec::new();
    while let Some(s) = stream.next().await? {
        budget.take(s.cost())?;
        all.push(s);
    }
    Ok(all)
}

/// The label sets of a stream.
pub async fn collect_labels(stream: &mut SeriesStream, budget: &Budget) -> Result<Vec<Labels>, Failed> {
    let mut all = Vec::new();
    while let Some(s) = stream.next().await? {
        budget.take(s.labels.packed_len() + size_of::<Labels>())?;
        all.push(s.labels);
    }
    Ok(all)
}
