//! The store gateway on the wire: StoreAPI and Info.

use super::blocks::Set;
use super::cpu::Cpu;
use super::labels;
use super::limits::{Limits, Memory};
use super::ranges::Budget;
use super::series::encode::Frame;
use super::series::fault::Fault;
use super::series::metrics::Metrics;
use super::series::request::{self as series_request, Hints};
use super::series::spec::{Stats, Stop};
use super::series::turn::Turn;
use super::series::{Answer, Asked, Out, QUEUE, Shared};
use super::wire::Server;
use crate::server::Context;
use crate::server::ready::Readiness;
use crate::storeapi::request;
use args::StoreArgs;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use model::BlockId;
use model::world::World;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use proto::hints::{
    Block as HintBlock, LabelValuesRequestHints, LabelValuesResponseHints, QueryStats, SeriesResponseHints,
};
use proto::info::info_server::Info;
use proto::info::{InfoRequest, InfoResponse, StoreInfo, TsdbInfo};
use proto::thanos::store_server::Store;
use proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest, SeriesResponse,
    series_response,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// An answer on its way.
pub(super) type Sent = BoxStream<'static, Result<Frame, Status>>;

/// The services of a store gateway; clones share them.
#[derive(Clone)]
pub struct StoreGateway(Arc<Inner>);

struct Inner {
    shared: Shared,
    limits: Limits,
    metrics: Metrics,
    gate: Arc<Semaphore>,
    /// Oldest and newest time that is served, in ms, both inclusive.
    window: Box<dyn Fn() -> (i64, i64) + Send + Sync>,
    world: World,
    ready: Readiness,
}

impl StoreGateway {
    /// Over a set of blocks; `window` gives the oldest and the newest time that is served now, in ms, both inclusive.
    pub fn new(
        set: Set,
        args: &StoreArgs,
        window: impl Fn() -> (i64, i64) + Send + Sync + 'static,
        context: &Context,
    ) -> Self {
        let shared = Shared {
            set,
            world: context.world.clone(),
            cpu: Cpu::default(),
            memory: Memory::of_container(args.chunk_pool_size.0),
            series_estimate: args.estimated_series_size.0,
            chunk_estimate: u32::try_from(args.estimated_chunk_size.0).unwrap_or(u32::MAX),
        };
        let turns = usize::try_from(args.series_max_concurrency).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            shared,
            limits: Limits::new(args.series_limit(), args.samples_limit(), args.limit_bytes.0, &context.metrics),
            metrics: Metrics::new(&context.metrics, turns as u64),
            gate: Arc::new(Semaphore::new(turns)),
            window: Box::new(window),
            world: context.world.clone(),
            ready: context.ready.clone(),
        }))
    }

    /// The StoreAPI as a gRPC service.
    pub fn server(&self) -> Server {
        Server::new(self.clone())
    }

    /// Bytes of postings and index entries that requests hold now.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.0.shared.memory.used()
    }

    /// Bytes that windows and frames of Series hold now, about.
    #[cfg(test)]
    pub(super) fn held_chunks(&self) -> u64 {
        self.0.shared.memory.used_chunks()
    }

    /// Series requests that are being answered now, or wait for a turn.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> i64 {
        self.0.metrics.pending.get()
    }

    /// Turns that are taken.
    #[cfg(test)]
    pub(super) fn turns(&self) -> i64 {
        self.0.metrics.in_flight.get()
    }

    /// Answers a LabelNames request.
    pub(super) async fn names(&self, r: Request<LabelNamesRequest>) -> Result<Frame, Status> {
        let of_no_label = |r: LabelNamesRequest| LabelValuesRequest {
            label: String::new(),
            partial_response_disabled: r.partial_response_disabled,
            partial_response_strategy: r.partial_response_strategy,
            start: r.start,
            end: r.end,
            hints: r.hints,
            matchers: r.matchers,
            without_replica_labels: r.without_replica_labels,
            limit: r.limit,
        };
        self.0.label_call("LabelNames", r.map(of_no_label)).await
    }

    /// Answers a LabelValues request.
    pub(super) async fn values(&self, r: Request<LabelValuesRequest>) -> Result<Frame, Status> {
        if r.get_ref().label.is_empty() {
            return Err(Status::invalid_argument("the label name is empty"));
        }
        self.0.label_call("LabelValues", r).await
    }

    /// Answers a Series request in messages that are ready to be sent.
    ///
    /// # Errors
    /// `InvalidArgument`; what goes wrong later ends the stream.
    pub fn frames(&self, request: &Request<SeriesRequest>) -> Result<Sent, Status> {
        let deadline = request::deadline(request.metadata());
        let (asked, hints) = series_request::read(request.get_ref(), (self.0.window)())?;
        let (to, from) = mpsc::channel(QUEUE);
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let stop = Stop::default();
            let _in_vain_after_this = stop.on_drop();
            let work = within(deadline, inner.series(asked, hints, stop, &to));
            // Ends with the caller, too: then nothing is read any more.
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = to.closed() => return,
            };
            if let Err(status) = outcome {
                // The caller may have gone.
                let _ = to.send(Err(status)).await;
            }
        });
        Ok(ReceiverStream::new(from).boxed())
    }
}

/// Ends work at the caller's deadline.
async fn within<T>(deadline: Option<Duration>, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(d) => tokio::time::timeout(d, work)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("the store had no answer within {d:?}")))),
    }
}

impl Inner {
    async fn series(&self, asked: Asked, hints: Hints, stop: Stop, to: &Out) -> Result<(), Status> {
        let clock = &self.world.clock;
        let begin = clock.elapsed();
        self.known()?;
        let _pending = One::more(&self.metrics.pending);
        let turn = Turn::take(&self.gate, &self.metrics.in_flight).await?;
        self.metrics.turn(clock.elapsed().saturating_sub(begin));
        let begin = clock.elapsed();
        let budget = Budget::new(self.limits.bytes());
        let mut answer = Answer::new(&self.shared, asked, self.limits.start(), budget, stop, (turn, to));
        let mut outcome = answer.run().await;
        let took = clock.elapsed().saturating_sub(begin);
        if outcome.is_ok() && hints.asked {
            let stats = hints.stats.then(|| query_stats(&answer.stats, answer.budget(), (answer.looked, took)));
            let value = SeriesResponseHints { queried_blocks: blocks(&answer.queried), query_stats: stats };
            let any = any("SeriesResponseHints", &value);
            let message = SeriesResponse { result: Some(series_response::Result::Hints(any)) };
            outcome = answer.send(Frame::of(&message)).await;
        }
        self.metrics.ended(&answer.stats, answer.looked, took);
        outcome.map_err(|fault| self.status(fault))
    }

    /// Before the first pass nobody knows what the bucket holds: an empty answer would say that it holds nothing.
    fn known(&self) -> Result<(), Status> {
        match self.shared.set.snapshot().generation {
            0 => Err(Status::unavailable(
                "the blocks of the bucket are not known yet: ask again when the store is ready",
            )),
            _ => Ok(()),
        }
    }

    async fn labels(&self, asked: labels::Asked) -> Result<labels::Answer, Status> {
        self.known()?;
        let budget = Budget::new(self.limits.bytes());
        let answer = labels::answer(&self.shared, asked, budget, self.limits.start()).await;
        answer.map_err(|fault| self.status(fault))
    }

    /// A LabelValuesResponse, or, with `call` LabelNames and no label, a LabelNamesResponse: both have the same fields.
    async fn label_call(&self, call: &str, r: Request<LabelValuesRequest>) -> Result<Frame, Status> {
        let deadline = request::deadline(r.metadata());
        let r = r.into_inner();
        let asked_hints: LabelValuesRequestHints = hints(r.hints.as_ref(), &format!("{call}RequestHints"))?;
        let asked = labels::Asked {
            label: Some(r.label).filter(|label| !label.is_empty()),
            range: self.clamp(r.start, r.end),
            matchers: request::matchers(&r.matchers)?,
            block_matchers: request::matchers(&asked_hints.block_matchers)?,
            without: r.without_replica_labels,
            limit: request::limit(r.limit),
            abort: request::abort(r.partial_response_disabled, r.partial_response_strategy),
        };
        let labels::Answer { found, held, warnings, queried } = within(deadline, self.labels(asked)).await?;
        let queried = LabelValuesResponseHints { queried_blocks: blocks(&queried) };
        let hints = Some(any(&format!("{call}ResponseHints"), &queried));
        let rest = LabelValuesResponse { values: Vec::new(), warnings, hints };
        // Counted until the caller has all of it.
        Ok(Frame::joined(vec![found.bytes().clone(), rest.encode_to_vec().into()]).with(held))
    }

    fn status(&self, fault: Fault) -> Status {
        match fault {
            Fault::Status(status) => status,
            Fault::Refused(refused) => self.limits.refuse(&refused),
            Fault::Blocks(troubles) => {
                let first = troubles.into_iter().next();
                Status::aborted(first.map_or_else(String::new, |(b, t)| format!("block {}: {t}", b.id)))
            }
        }
    }

    fn clamp(&self, start: i64, end: i64) -> (i64, i64) {
        let (min_t, max_t) = (self.window)();
        (start.max(min_t), end.min(max_t))
    }
}

/// One more in a gauge, as long as it lives.
struct One<'a>(&'a Gauge);

impl<'a> One<'a> {
    fn more(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn blocks(ids: &BTreeSet<BlockId>) -> Vec<HintBlock> {
    ids.iter().map(|id| HintBlock { id: id.to_string() }).collect()
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/hintspb.{name}")
}

fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any { type_url: type_url(name), value: message.encode_to_vec() }
}

/// The hints of a request, if it has some of this type.
fn hints<M: prost::Message + Default>(any: Option<&prost_types::Any>, name: &str) -> Result<M, Status> {
    match any.filter(|any| any.type_url == type_url(name)) {
        None => Ok(M::default()),
        Some(any) => M::decode(&*any.value)
            .map_err(|e| Status::invalid_argument(format!("the hints of the request can't be read: {e}"))),
    }
}

/// The messages of a frame.
fn messages<M: prost::Message + Default>(frame: &Frame) -> Result<Vec<M>, Status> {
    frame.messages().map_err(|e| Status::internal(e.to_string()))
}

/// The only message of a frame.
fn only<M: prost::Message + Default>(frame: &Frame) -> Result<Response<M>, Status> {
    let first = messages(frame)?.into_iter().next();
    first.map(Response::new).ok_or_else(|| Status::internal("an answer without a message"))
}

fn query_stats(stats: &Stats, budget: &Budget, (looked, took): (Duration, Duration)) -> QueryStats {
    let n = |c: &AtomicU64| i64::try_from(c.load(Relaxed)).unwrap_or(i64::MAX);
    let (p, s, c) = (&stats.postings, &stats.entries, &stats.data);
    QueryStats {
        blocks_queried: n(&stats.blocks),
        merged_series_count: n(&stats.series),
        merged_chunks_count: n(&stats.chunks),
        postings_touched: n(&p.touched),
        postings_touched_size_sum: n(&p.touched_bytes),
        postings_to_fetch: n(&p.touched),
        postings_fetched: n(&p.fetched),
        postings_fetched_size_sum: n(&p.fetched_bytes),
        postings_fetch_count: n(&p.fetches),
        series_touched: n(&s.touched),
        series_touched_size_sum: n(&s.touched_bytes),
        series_fetched: n(&s.fetched),
        series_fetched_size_sum: n(&s.fetched_bytes),
        series_fetch_count: n(&s.fetches),
        chunks_touched: n(&c.touched),
        chunks_touched_size_sum: n(&c.touched_bytes),
        chunks_fetched: n(&c.fetched),
        chunks_fetched_size_sum: n(&c.fetched_bytes),
        chunks_fetch_count: n(&c.fetches),
        data_downloaded_size_sum: i64::try_from(budget.fetched()).unwrap_or(i64::MAX),
        get_all_duration: prost_types::Duration::try_from(looked).ok(),
        merge_duration: prost_types::Duration::try_from(took.saturating_sub(looked)).ok(),
    }
}

#[tonic::async_trait]
impl Store for StoreGateway {
    type SeriesStream = BoxStream<'static, Result<SeriesResponse, Status>>;

    /// For callers in this process; [`Server`] sends the frames as they are.
    async fn series(&self, request: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        let each = |frame: Frame| messages(&frame).map(|all| stream::iter(all).map(Ok));
        Ok(Response::new(self.frames(&request)?.and_then(move |frame| ready(each(frame))).try_flatten().boxed()))
    }

    async fn label_names(&self, r: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        only(&self.names(r).await?)
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        only(&self.values(r).await?)
    }
}

#[tonic::async_trait]
impl Info for StoreGateway {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let served = self.0.shared.set.snapshot();
        let component_type = "store".to_owned();
        if !self.0.ready.is_ready() {
            // Not ready: what is served is not known yet.
            return Ok(Response::new(InfoResponse { component_type, ..Default::default() }));
        }
        // Without any block the time range is empty, which keeps callers away.
        let range = served.range().map(|(min_t, end)| self.0.clamp(min_t, end)).filter(|(a, b)| a <= b);
        let (min_time, max_time) = range.unwrap_or((i64::MAX, i64::MIN));
        let tsdb_infos = served.tsdbs().into_iter().filter_map(|t| {
            let (min_time, max_time) = self.0.clamp(t.min_t, t.max_t);
            let labels = Some(proto::labels::encode_set(&t.external));
            (min_time <= max_time).then_some(TsdbInfo { labels, min_time, max_time })
        });
        let store = StoreInfo {
            min_time,
            max_time,
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: tsdb_infos.collect(),
            ..Default::default()
        };
        let label_sets = served.groups.iter().map(|g| proto::labels::encode_set(&g.external)).collect();
        Ok(Response::new(InfoResponse { label_sets, component_type, store: Some(store), ..Default::default() }))
    }
}
