//! A StoreAPI that a test controls: its label sets and series, how it behaves, and a record of what it was asked.

use args::ServerArgs;
use engine::server::{self, Context, Service};
use model::world::World;
use model::{Labels, Matcher};
use proto::info::info_server::{Info, InfoServer};
use proto::info::{InfoRequest, InfoResponse, QueryApiInfo, StoreInfo};
use proto::thanos::query_server::{Query, QueryServer};
use proto::thanos::store_server::{Store, StoreServer};
use proto::thanos::{
    AggrChunk, Chunk, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse,
    QueryRangeRequest, QueryRangeResponse, QueryRequest, QueryResponse, Series, SeriesBatch, SeriesRequest,
    SeriesResponse, query_range_response, series_response,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tsdb::chunk::XorEncoder;

/// How long ago samples that are [`Samples::Gone`] ended, milliseconds.
const GONE: i64 = 3_000_000;

/// How a store answers Series calls. Info is always answered, so that a querier trusts it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Good,
    /// Takes the call and says nothing.
    Silent,
    /// Sends the headers, then nothing.
    SilentAfterHeaders,
    /// Sends one series, then nothing.
    SilentAfterOne,
    /// Sends one series (the same again) every 100 ms, for ever.
    Drips,
    /// Fails at once.
    Fails,
    /// Fails after the first series.
    Resets,
    /// Sends its series in the wrong order.
    Unsorted,
    /// Sends labels that are no UTF-8.
    Garbage,
    /// Says that it lacks a block, and has nothing else.
    Lacks,
    /// Sends each series twice.
    Twice,
    /// Sends chunks that end before they begin.
    Backwards,
    /// Sends samples of all times, whatever was asked for.
    AllTimes,
    /// Sends chunks that are no chunks.
    Noise,
    /// Takes a while before it begins, milliseconds.
    Slow(u64),
}

/// The samples of one series.
#[derive(Clone, Debug)]
pub enum Samples {
    /// These, by time in milliseconds, in chunks of 50.
    Given(Vec<(i64, f64)>),
    /// One a second over the last minute of what is asked for.
    Live,
    /// The same, ended a while ago: found only by those who ask for its time.
    Gone,
}

/// Series of given samples.
pub type Data = Vec<(Labels, Vec<(i64, f64)>)>;

/// What is wrong with what a fake evaluates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wrong {
    /// It answers for a cluster that is not its own.
    OtherCluster,
    /// It answers with labels that nobody grouped by.
    OtherLabels,
    /// It sends a series twice.
    Twice,
    /// It sends times that nobody asked for.
    OtherTimes,
    Histogram,
    /// It sends a staleness marker.
    Stale,
    Warning,
    /// It sends labels that are no UTF-8.
    Garbage,
    Fails,
    /// It fails after the first series.
    Resets,
    Silent,
}

/// PromQL of a fake: it has but one answer, and that is wrong.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// See `QueryAPIInfo`.
    pub settings: String,
    pub wrong: Wrong,
    pub asked: Arc<Mutex<Vec<QueryRangeRequest>>>,
}

#[derive(Clone)]
pub struct Fake {
    sets: Vec<Labels>,
    evaluation: Option<Evaluation>,
    /// The times that it says it has data of, milliseconds.
    times: (i64, i64),
    /// With the chunks of those that are given.
    series: Arc<[(Labels, Samples, Vec<AggrChunk>)]>,
    manner: Arc<Mutex<Manner>>,
    /// It leaves replica labels out when asked.
    able: bool,
    pub requests: Arc<Mutex<Vec<SeriesRequest>>>,
    pub open: Arc<AtomicUsize>,
    /// Series that were handed to the network.
    pub sent: Arc<AtomicUsize>,
}

/// A fake store that listens; it ends when dropped.
pub struct Running {
    pub fake: Fake,
    pub address: String,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    /// The Series requests since the last call.
    pub fn take_asked(&self) -> Vec<SeriesRequest> {
        std::mem::take(&mut self.fake.requests.lock().unwrap())
    }
}

pub fn set(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

impl Fake {
    /// With these external labels and series.
    pub fn new(external: &[(&str, &str)], data: Data) -> Self {
        let external = set(external);
        let series = data.into_iter().map(|(l, s)| (l.overlay(&external), Samples::Given(s))).collect();
        Self::of(vec![external], series)
    }

    /// With these label sets, and the live series `up` and `down` under each of them.
    pub fn live(sets: &[&[(&str, &str)]]) -> Self {
        let sets: Vec<Labels> = sets.iter().map(|s| set(s)).collect();
        let both = |s: &Labels| ["down", "up"].map(|n| (s.with("__name__", n).with("job", "x"), Samples::Live));
        let series = sets.iter().flat_map(both).collect();
        Self::of(sets, series)
    }

    fn of(sets: Vec<Labels>, series: Vec<(Labels, Samples)>) -> Self {
        Self {
            sets,
            evaluation: None,
            times: (i64::MIN, i64::MAX),
            series: series.into_iter().map(encoded).collect(),
            manner: Arc::new(Mutex::new(Manner::Good)),
            able: true,
            requests: Arc::default(),
            open: Arc::default(),
            sent: Arc::default(),
        }
    }

    /// With further series, by their full labels.
    pub fn and(mut self, more: impl IntoIterator<Item = (Labels, Samples)>) -> Self {
        let mut series = self.series.to_vec();
        series.extend(more.into_iter().map(encoded));
        self.series = series.into();
        self
    }

    pub fn manner(self, manner: Manner) -> Self {
        self.set_manner(manner);
        self
    }

    pub fn set_manner(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// It says that it has data of these times only.
    pub fn says_times(mut self, from: i64, to: i64) -> Self {
        self.times = (from, to);
        self
    }

    /// It evaluates PromQL.
    pub fn evaluates(mut self, evaluation: Evaluation) -> Self {
        self.evaluation = Some(evaluation);
        self
    }

    pub fn unable(mut self) -> Self {
        self.able = false;
        self
    }

    pub async fn start(self) -> Running {
        self.start_at("127.0.0.1:0").await
    }

    pub async fn start_at(self, address: &str) -> Running {
        self.start_with(ServerArgs { grpc_address: address.to_owned(), ..ServerArgs::default() }).await
    }

    /// With TLS, say.
    pub async fn start_with(self, mut args: ServerArgs) -> Running {
        args.http_address = "127.0.0.1:0".into();
        if args.grpc_address == ServerArgs::default().grpc_address {
            args.grpc_address = "127.0.0.1:0".into();
        }
        let bound = server::bind(&args).await.unwrap();
        let address = bound.grpc_address().unwrap().to_string();
        let service = Service {
            component: "sidecar",
            http: axum::Router::new(),
            grpc: tonic::service::Routes::new(StoreServer::new(self.clone()))
                .add_service(InfoServer::new(self.clone()))
                .add_service(QueryServer::new(self.clone())),
            state: Arc::new(args::state::State::default),
        };
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(Context::new("fake", World::real()), service, stop.clone()));
        Running { fake: self, address, stop }
    }

    fn select(&self, r: &SeriesRequest) -> Vec<Series> {
        let matchers: Vec<Matcher> = proto::matchers::decode(&r.matchers).unwrap();
        let without: &[String] = if self.able { &r.without_replica_labels } else { &[] };
        let now = World::real().clock.now_ms();
        let mut found: Vec<(Labels, Vec<AggrChunk>)> = Vec::new();
        for (labels, samples, given) in self.series.iter() {
            if !matchers.iter().all(|m| m.matches_labels(labels)) {
                continue;
            }
            let chunks: Vec<AggrChunk> = match samples {
                Samples::Given(_) => given.clone(),
                Samples::Live => vec![minute(r.max_time.min(now))],
                Samples::Gone if r.min_time > now - GONE => continue,
                Samples::Gone => vec![minute(r.max_time.min(now - GONE))],
            };
            let chunks = chunks.into_iter().filter(|c| c.max_time >= r.min_time && c.min_time <= r.max_time);
            found.push((labels.without(without), if r.skip_chunks { Vec::new() } else { chunks.collect() }));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(l, chunks)| Series { labels: proto::labels::encode(&l), chunks }).collect()
    }

    fn labels(&self, matchers: Vec<proto::thanos::LabelMatcher>, min_time: i64, max_time: i64) -> Vec<Labels> {
        let select = SeriesRequest { matchers, min_time, max_time, skip_chunks: true, ..Default::default() };
        self.select(&select).iter().map(|s| proto::labels::decode(&s.labels).unwrap()).collect()
    }
}

fn encoded((labels, samples): (Labels, Samples)) -> (Labels, Samples, Vec<AggrChunk>) {
    let chunks = match &samples {
        Samples::Given(samples) => samples.chunks(50).map(chunk).collect(),
        Samples::Live | Samples::Gone => Vec::new(),
    };
    (labels, samples, chunks)
}

fn minute(end: i64) -> AggrChunk {
    let end = end / 1000;
    chunk(&(end - 60..=end).map(|t| (t * 1000, 1.0)).collect::<Vec<_>>())
}

fn chunk(samples: &[(i64, f64)]) -> AggrChunk {
    let mut e = XorEncoder::default();
    for (t, v) in samples {
        e.append(*t, *v).unwrap();
    }
    let (min_time, max_time) = e.range();
    let raw = Some(Chunk { r#type: 0, data: e.bytes(), hash: 0 });
    AggrChunk { min_time, max_time, raw, ..Default::default() }
}

/// Counts a call as open for as long as it lives.
struct Open(Arc<AtomicUsize>);
impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Store for Fake {
    type SeriesStream = ReceiverStream<Result<SeriesResponse, Status>>;

    async fn series(&self, r: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let r = r.into_inner();
        self.requests.lock().unwrap().push(r.clone());
        let manner = *self.manner.lock().unwrap();
        let all_times = SeriesRequest { min_time: i64::MIN, max_time: i64::MAX, ..r.clone() };
        let mut series = self.select(if manner == Manner::AllTimes { &all_times } else { &r });
        match manner {
            Manner::Twice => series = series.into_iter().flat_map(|s| [s.clone(), s]).collect(),
            Manner::Backwards => {
                for c in series.iter_mut().flat_map(|s| &mut s.chunks) {
                    (c.min_time, c.max_time) = (c.max_time, c.min_time - 1);
                }
            }
            Manner::Noise => {
                for c in series.iter_mut().flat_map(|s| &mut s.chunks).filter_map(|c| c.raw.as_mut()) {
                    c.data = (0..c.data.len()).map(|i| (i * 131 + 255) as u8).collect();
                }
            }
            Manner::Silent => std::future::pending::<()>().await,
            Manner::Fails => return Err(Status::internal("the disk is on fire")),
            Manner::Unsorted => series.reverse(),
            Manner::Garbage => {
                for s in &mut series {
                    s.labels[0].value = bytes::Bytes::from_static(b"\xff\xfe");
                }
            }
            _ => {}
        }
        let (to, from) = mpsc::channel(1);
        let sent = Arc::clone(&self.sent);
        let batch = usize::try_from(r.response_batch_size).unwrap();
        tokio::spawn(async move {
            let _open = open;
            let work = async {
                let frame = |s: Series| Ok(SeriesResponse { result: Some(series_response::Result::Series(s)) });
                match manner {
                    Manner::SilentAfterHeaders => std::future::pending::<()>().await,
                    Manner::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    Manner::Lacks => {
                        let said = "block 01KA can't be read".to_owned();
                        let result = Some(series_response::Result::Warning(said));
                        let _ = to.send(Ok(SeriesResponse { result })).await;
                        return;
                    }
                    _ => {}
                }
                if matches!(manner, Manner::Good | Manner::Slow(_)) && batch > 1 {
                    for series in series.chunks(batch) {
                        let result = series_response::Result::Batch(SeriesBatch { series: series.to_vec() });
                        if to.send(Ok(SeriesResponse { result: Some(result) })).await.is_err() {
                            return;
                        }
                        sent.fetch_add(series.len(), Ordering::SeqCst);
                    }
                    return;
                }
                for s in series {
                    if to.send(frame(s.clone())).await.is_err() {
                        return;
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                    match manner {
                        Manner::SilentAfterOne => std::future::pending::<()>().await,
                        Manner::Resets => {
                            let _ = to.send(Err(Status::data_loss("torn"))).await;
                            return;
                        }
                        Manner::Drips => loop {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            if to.send(frame(s.clone())).await.is_err() {
                                return;
                            }
                        },
                        _ => {}
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = to.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn label_names(&self, r: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        let r = r.into_inner();
        let found = self.labels(r.matchers, r.start, r.end);
        let mut names: Vec<String> = found.iter().flat_map(|l| l.iter().map(|(n, _)| n.to_owned())).collect();
        names.sort();
        names.dedup();
        // As Thanos's sidecar does: the limit is kept and told.
        let limit = usize::try_from(r.limit).unwrap().checked_sub(1).map_or(usize::MAX, |n| n + 1);
        let warnings = if names.len() > limit { vec!["results truncated due to limit".to_owned()] } else { vec![] };
        names.truncate(limit);
        Ok(Response::new(LabelNamesResponse { names, warnings, hints: None }))
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        let r = r.into_inner();
        if *self.manner.lock().unwrap() == Manner::Silent {
            std::future::pending::<()>().await;
        }
        let found = self.labels(r.matchers, r.start, r.end);
        let mut values: Vec<String> = found.iter().filter_map(|l| l.get(&r.label).map(str::to_owned)).collect();
        values.sort();
        values.dedup();
        Ok(Response::new(LabelValuesResponse { values, warnings: vec![], hints: None }))
    }
}

#[tonic::async_trait]
impl Info for Fake {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            label_sets: self.sets.iter().map(proto::labels::encode_set).collect(),
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                min_time: self.times.0,
                max_time: self.times.1,
                supports_sharding: true,
                supports_without_replica_labels: self.able,
                ..Default::default()
            }),
            query: self.evaluation.as_ref().map(|e| QueryApiInfo { settings: e.settings.clone() }),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Query for Fake {
    type QueryStream = ReceiverStream<Result<QueryResponse, Status>>;
    type QueryRangeStream = ReceiverStream<Result<QueryRangeResponse, Status>>;

    async fn query(&self, _: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        Err(Status::unimplemented("a range is enough"))
    }

    async fn query_range(&self, r: Request<QueryRangeRequest>) -> Result<Response<Self::QueryRangeStream>, Status> {
        let r = r.into_inner();
        let Some(Evaluation { wrong, asked, .. }) = &self.evaluation else { return Err(Status::unimplemented("")) };
        asked.lock().unwrap().push(r.clone());
        let t = r.precise.as_ref().map_or(r.start_time_seconds * 1000, |p| p.start_ms);
        let own = self.sets[0].without(&["replica"]);
        let labels = match wrong {
            Wrong::OtherCluster => own.with("cluster", "z"),
            Wrong::OtherLabels => own.with("pod", "p"),
            _ => own,
        };
        let mut labels = proto::labels::encode(&labels);
        if *wrong == Wrong::Garbage {
            labels[0].value = bytes::Bytes::from_static(b"\xff\xfe");
        }
        let value = if *wrong == Wrong::Stale { model::sample::stale_nan() } else { 77.0 };
        let timestamp = if *wrong == Wrong::OtherTimes { t + 1 } else { t };
        let mut series = proto::prometheus::TimeSeries {
            labels,
            samples: vec![proto::prometheus::Sample { value, timestamp }],
            ..Default::default()
        };
        if *wrong == Wrong::Histogram {
            let histogram = model::FloatHistogram::default();
            series.histograms = vec![proto::histograms::encode(t, &histogram)];
        }
        let (to, from) = mpsc::channel(4);
        let message = |result| Ok(QueryRangeResponse { result: Some(result) });
        let timeseries = message(query_range_response::Result::Timeseries(series));
        match wrong {
            Wrong::Silent => std::future::pending::<()>().await,
            Wrong::Fails => return Err(Status::aborted("no")),
            Wrong::Warning => to.try_send(message(query_range_response::Result::Warnings("x".to_owned()))).unwrap(),
            Wrong::Twice => to.try_send(timeseries.clone()).unwrap(),
            _ => {}
        }
        to.try_send(timeseries).unwrap();
        if *wrong == Wrong::Resets {
            to.try_send(Err(Status::data_loss("torn"))).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(from)))
    }
}
