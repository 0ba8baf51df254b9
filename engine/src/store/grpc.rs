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
use super::series::{Answer, Asked, Shared};
use crate::server::Context;
use crate::server::ready::Readiness;
use crate::storeapi::request;
use args::StoreArgs;
use bytes::{Buf as _, BufMut as _, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use model::BlockId;
use model::world::World;
use prost::Message as _;
use proto::bounded::BoundedCodec;
use proto::hints::{
    Block as HintBlock, LabelNamesRequestHints, LabelNamesResponseHints, LabelValuesRequestHints,
    LabelValuesResponseHints, QueryStats, SeriesResponseHints,
};
use proto::info::info_server::Info;
use proto::info::{InfoRequest, InfoResponse, StoreInfo, TsdbInfo};
use proto::thanos::store_server::{Store, StoreServer};
use proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest, SeriesResponse,
    series_response,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{self, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::{Body, BoxFuture, Service, StdError};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};

/// Groups of messages that wait for a slow reader, a megabyte each at most.
const QUEUE: usize = 2;

type Served = BoxStream<'static, Result<Frame, Status>>;

/// The services of a store gateway; clones share them.
#[derive(Clone)]
pub struct StoreGateway(Arc<Inner>);

struct Inner {
    shared: Shared,
    limits: Limits,
    metrics: Metrics,
    gate: Semaphore,
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
            gate: Semaphore::new(turns),
            window: Box::new(window),
            world: context.world.clone(),
            ready: context.ready.clone(),
        }))
    }

    /// The StoreAPI as a gRPC service.
    pub fn server(&self) -> Server {
        Server { gateway: self.clone(), rest: StoreServer::new(self.clone()) }
    }

    /// Bytes of postings and index entries that requests hold now.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.0.shared.memory.used()
    }

    /// Series requests that are being answered now.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> i64 {
        self.0.metrics.in_flight.get()
    }

    /// Answers a Series request in messages that are ready to be sent.
    ///
    /// # Errors
    /// `InvalidArgument`; what goes wrong later ends the stream.
    pub fn frames(&self, request: &Request<SeriesRequest>) -> Result<Served, Status> {
        let deadline = request::deadline(request.metadata());
        let (asked, hints) = series_request::read(request.get_ref(), (self.0.window)())?;
        let (to, from) = mpsc::channel::<Result<Vec<Frame>, Status>>(QUEUE);
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
        Ok(ReceiverStream::new(from).map_ok(|frames| stream::iter(frames).map(Ok)).try_flatten().boxed())
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
    async fn series(
        &self,
        asked: Asked,
        hints: Hints,
        stop: Stop,
        to: &mpsc::Sender<Result<Vec<Frame>, Status>>,
    ) -> Result<(), Status> {
        let clock = &self.world.clock;
        let begin = clock.elapsed();
        self.known()?;
        let _turn = self.gate.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        self.metrics.turn(clock.elapsed().saturating_sub(begin));
        let _running = Running::new(&self.metrics);
        let begin = clock.elapsed();
        let budget = Budget::new(self.limits.bytes());
        let mut answer = Answer::new(&self.shared, asked, self.limits.start(), budget, stop, to);
        let mut outcome = answer.run().await;
        let took = clock.elapsed().saturating_sub(begin);
        if outcome.is_ok() && hints.asked {
            let stats = hints.stats.then(|| query_stats(&answer.stats, answer.budget(), took));
            let value = SeriesResponseHints { queried_blocks: blocks(&answer.queried), query_stats: stats };
            let any = any("SeriesResponseHints", &value);
            let message = SeriesResponse { result: Some(series_response::Result::Hints(any)) };
            outcome = answer.send(vec![Frame::of(&message)]).await;
        }
        self.metrics.ended(&answer.stats, took);
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

    /// A LabelNamesResponse.
    async fn names(&self, r: Request<LabelNamesRequest>) -> Result<Frame, Status> {
        let deadline = request::deadline(r.metadata());
        let r = r.into_inner();
        let asked_hints: LabelNamesRequestHints = hints(r.hints.as_ref(), "LabelNamesRequestHints")?;
        let asked = labels::Asked {
            label: None,
            range: self.clamp(r.start, r.end),
            matchers: request::matchers(&r.matchers)?,
            block_matchers: request::matchers(&asked_hints.block_matchers)?,
            without: r.without_replica_labels,
            limit: request::limit(r.limit),
            abort: request::abort(r.partial_response_disabled, r.partial_response_strategy),
        };
        let labels::Answer { found, warnings, queried } = within(deadline, self.labels(asked)).await?;
        let hints = any("LabelNamesResponseHints", &LabelNamesResponseHints { queried_blocks: blocks(&queried) });
        let rest = LabelNamesResponse { names: Vec::new(), warnings, hints: Some(hints) };
        Ok(Frame::joined(vec![found.bytes().clone(), rest.encode_to_vec().into()]))
    }

    /// A LabelValuesResponse.
    async fn values(&self, r: Request<LabelValuesRequest>) -> Result<Frame, Status> {
        let deadline = request::deadline(r.metadata());
        let r = r.into_inner();
        if r.label.is_empty() {
            return Err(Status::invalid_argument("the label name is empty"));
        }
        let asked_hints: LabelValuesRequestHints = hints(r.hints.as_ref(), "LabelValuesRequestHints")?;
        let asked = labels::Asked {
            label: Some(r.label),
            range: self.clamp(r.start, r.end),
            matchers: request::matchers(&r.matchers)?,
            block_matchers: request::matchers(&asked_hints.block_matchers)?,
            without: r.without_replica_labels,
            limit: request::limit(r.limit),
            abort: request::abort(r.partial_response_disabled, r.partial_response_strategy),
        };
        let labels::Answer { found, warnings, queried } = within(deadline, self.labels(asked)).await?;
        let hints = any("LabelValuesResponseHints", &LabelValuesResponseHints { queried_blocks: blocks(&queried) });
        let rest = LabelValuesResponse { values: Vec::new(), warnings, hints: Some(hints) };
        Ok(Frame::joined(vec![found.bytes().clone(), rest.encode_to_vec().into()]))
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

/// A request that is being answered.
struct Running<'a>(&'a Metrics);

impl<'a> Running<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
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

/// The message of a frame.
fn whole<M: prost::Message + Default>(frame: &Frame) -> Result<M, Status> {
    let mut bytes = BytesMut::with_capacity(frame.length);
    frame.pieces().iter().for_each(|p| bytes.put(p.clone()));
    M::decode(bytes.freeze()).map_err(|e| Status::internal(e.to_string()))
}

fn query_stats(stats: &Stats, budget: &Budget, took: Duration) -> QueryStats {
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
        get_all_duration: prost_types::Duration::try_from(took).ok(),
        merge_duration: None,
    }
}

#[tonic::async_trait]
impl Store for StoreGateway {
    type SeriesStream = BoxStream<'static, Result<SeriesResponse, Status>>;

    /// For callers in this process; [`Server`] sends the frames as they are.
    async fn series(&self, request: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        Ok(Response::new(self.frames(&request)?.map(|frame| whole(&frame?)).boxed()))
    }

    async fn label_names(&self, r: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        whole(&self.0.names(r).await?).map(Response::new)
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        whole(&self.0.values(r).await?).map(Response::new)
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

/// The StoreAPI as a gRPC service: answers go out in frames that were made once.
#[derive(Clone)]
pub struct Server {
    gateway: StoreGateway,
    rest: StoreServer<StoreGateway>,
}

impl NamedService for Server {
    const NAME: &'static str = "thanos.Store";
}

impl<B> Service<http::Request<B>> for Server
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let gateway = self.gateway.clone();
        match request.uri().path() {
            "/thanos.Store/Series" => Box::pin(async move {
                let mut grpc = Grpc::new(FrameCodec::<SeriesResponse, SeriesRequest>::default());
                Ok(grpc.server_streaming(SeriesMethod(gateway), request).await)
            }),
            "/thanos.Store/LabelNames" => Box::pin(async move {
                let mut grpc = Grpc::new(FrameCodec::<LabelNamesResponse, LabelNamesRequest>::default());
                Ok(grpc.unary(NamesMethod(gateway), request).await)
            }),
            "/thanos.Store/LabelValues" => Box::pin(async move {
                let mut grpc = Grpc::new(FrameCodec::<LabelValuesResponse, LabelValuesRequest>::default());
                Ok(grpc.unary(ValuesMethod(gateway), request).await)
            }),
            _ => self.rest.call(request),
        }
    }
}

struct SeriesMethod(StoreGateway);

impl ServerStreamingService<SeriesRequest> for SeriesMethod {
    type Response = Frame;
    type ResponseStream = Served;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<SeriesRequest>) -> Self::Future {
        let gateway = self.0.clone();
        Box::pin(async move { gateway.frames(&request).map(Response::new) })
    }
}

struct NamesMethod(StoreGateway);

impl UnaryService<LabelNamesRequest> for NamesMethod {
    type Response = Frame;
    type Future = BoxFuture<Response<Frame>, Status>;

    fn call(&mut self, request: Request<LabelNamesRequest>) -> Self::Future {
        let gateway = self.0.clone();
        Box::pin(async move { gateway.0.names(request).await.map(Response::new) })
    }
}

struct ValuesMethod(StoreGateway);

impl UnaryService<LabelValuesRequest> for ValuesMethod {
    type Response = Frame;
    type Future = BoxFuture<Response<Frame>, Status>;

    fn call(&mut self, request: Request<LabelValuesRequest>) -> Self::Future {
        let gateway = self.0.clone();
        Box::pin(async move { gateway.0.values(request).await.map(Response::new) })
    }
}

/// Requests as everywhere, answers as they are.
struct FrameCodec<Res, Req>(BoundedCodec<Res, Req>);

impl<Res, Req> Default for FrameCodec<Res, Req>
where
    BoundedCodec<Res, Req>: Default,
{
    fn default() -> Self {
        Self(BoundedCodec::default())
    }
}

impl<Res, Req> Codec for FrameCodec<Res, Req>
where
    BoundedCodec<Res, Req>: Codec<Decode = Req>,
    Res: 'static,
    Req: Send + 'static,
{
    type Encode = Frame;
    type Decode = Req;
    type Encoder = FrameEncoder;
    type Decoder = <BoundedCodec<Res, Req> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.0.decoder()
    }
}

struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(frame.length);
        frame.pieces().iter().for_each(|piece| to.put_slice(piece.chunk()));
        Ok(())
    }
}
