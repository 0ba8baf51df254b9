//! What the querier's tests share: a querier in this process, stores that do as a test says, names that a test sets.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails this way")]

use args::QueryArgs;
use engine::query::address::Dns;
use model::world::World;
use model::{Labels, Matcher};
use proto::info::info_server::{Info, InfoServer};
use proto::info::{InfoRequest, InfoResponse, StoreInfo};
use proto::thanos::store_client::StoreClient;
use proto::thanos::store_server::{Store, StoreServer};
use proto::thanos::{
    AggrChunk, Chunk, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series,
    SeriesRequest, SeriesResponse, series_response,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tsdb::chunk::XorEncoder;

/// Names that a test sets.
#[derive(Default, Clone)]
pub struct Names(Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>);

impl Names {
    pub fn set(&self, name: &str, ips: &[&str]) {
        let ips = ips.iter().map(|i| i.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), ips);
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

#[async_trait::async_trait]
impl Dns for Names {
    async fn ips(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        self.0.lock().unwrap().get(host).cloned().ok_or_else(|| format!("{host}: no such name"))
    }
    async fn srv(&self, name: &str) -> Result<Vec<(String, u16)>, String> {
        Err(format!("{name}: no such name"))
    }
}

/// A querier in this process.
pub struct Querier {
    pub http: String,
    pub grpc: String,
    pub names: Names,
    stop: CancellationToken,
}

pub fn args(endpoints: &[String]) -> QueryArgs {
    QueryArgs {
        endpoints: endpoints.to_vec(),
        replica_labels: vec!["replica".to_owned()],
        info_interval: args::Millis(200),
        info_timeout: args::Millis(2000),
        dns_interval: args::Millis(200),
        sd_reload_interval: args::Millis(200),
        ..QueryArgs::default()
    }
}

impl Querier {
    /// Starts one and waits until it is ready; the addresses are filled in.
    pub async fn start(args: QueryArgs) -> Self {
        Self::with_names(args, Names::default()).await
    }

    pub async fn with_names(mut args: QueryArgs, names: Names) -> Self {
        let (http, grpc) = (testkit::ports::free().unwrap(), testkit::ports::free().unwrap());
        args.server.http_address = format!("127.0.0.1:{http}");
        args.server.grpc_address = format!("127.0.0.1:{grpc}");
        let stop = CancellationToken::new();
        tokio::spawn(engine::query::run_with(args, World::real(), Arc::new(names.clone()), stop.clone()));
        let me = Self { http: format!("http://127.0.0.1:{http}"), grpc: format!("127.0.0.1:{grpc}"), names, stop };
        until("the querier to be ready", async || me.get("/-/ready").await.is_ok_and(|(code, _)| code == 200)).await;
        me
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("{}{path}", self.http);
        tokio::task::spawn_blocking(move || testkit::http::get(&url).map(|a| (a.status, a.body))).await?
    }

    pub async fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path).await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")))
    }

    /// An instant query; more parameters may follow the expression, as `&time=5`.
    pub async fn query(&self, expression: &str, more: &str) -> (u16, Value) {
        self.json(&format!("/api/v1/query?query={}{more}", testkit::http::encode(expression))).await
    }

    pub fn warnings(answer: &Value) -> Vec<String> {
        answer["warnings"].as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_owned()).collect()
    }

    pub async fn state(&self) -> args::state::State {
        args::state::State::parse(self.get("/-/state").await.unwrap().1.as_bytes()).unwrap()
    }

    pub async fn store(&self) -> StoreClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        StoreClient::new(channel).max_decoding_message_size(64 << 20)
    }

    pub async fn info(&self) -> InfoResponse {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        proto::info::info_client::InfoClient::new(channel).info(InfoRequest {}).await.unwrap().into_inner()
    }
}

impl Drop for Querier {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

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
}

pub type Data = Vec<(Labels, Vec<(i64, f64)>)>;

#[derive(Clone)]
pub struct Fake {
    external: Labels,
    data: Arc<Mutex<Data>>,
    manner: Arc<Mutex<Manner>>,
    /// It leaves replica labels out when asked.
    able: bool,
    pub requests: Arc<Mutex<Vec<SeriesRequest>>>,
    pub open: Arc<AtomicUsize>,
    pub sent: Arc<AtomicUsize>,
}

/// A fake store that listens; it ends when dropped.
pub struct Running {
    pub fake: Fake,
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn set(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

impl Fake {
    pub fn new(external: &[(&str, &str)], data: Data) -> Self {
        Self {
            external: set(external),
            data: Arc::new(Mutex::new(data)),
            manner: Arc::new(Mutex::new(Manner::Good)),
            able: true,
            requests: Arc::default(),
            open: Arc::default(),
            sent: Arc::default(),
        }
    }

    pub fn manner(self, manner: Manner) -> Self {
        self.set_manner(manner);
        self
    }

    pub fn set_manner(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn unable(mut self) -> Self {
        self.able = false;
        self
    }

    pub async fn start(self) -> Running {
        let port = testkit::ports::free().unwrap();
        self.start_at(&format!("127.0.0.1:{port}")).await
    }

    pub async fn start_at(self, address: &str) -> Running {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(StoreServer::new(self.clone()))
            .add_service(InfoServer::new(self.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        Running { fake: self, address: address.to_owned(), task }
    }

    fn select(&self, r: &SeriesRequest) -> Vec<Series> {
        let matchers: Vec<Matcher> = proto::matchers::decode(&r.matchers).unwrap();
        let without: &[String] = if self.able { &r.without_replica_labels } else { &[] };
        let mut found: Vec<(Labels, Vec<AggrChunk>)> = Vec::new();
        for (labels, samples) in self.data.lock().unwrap().iter() {
            let labels = labels.overlay(&self.external);
            if !matchers.iter().all(|m| m.matches_labels(&labels)) {
                continue;
            }
            let chunks: Vec<AggrChunk> = samples.chunks(50).map(chunk).collect();
            let chunks = chunks.into_iter().filter(|c| c.max_time >= r.min_time && c.min_time <= r.max_time);
            found.push((labels.without(without), if r.skip_chunks { Vec::new() } else { chunks.collect() }));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(l, chunks)| Series { labels: proto::labels::encode(&l), chunks }).collect()
    }
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
        let mut series = self.select(&r);
        match manner {
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
        tokio::spawn(async move {
            let _open = open;
            let work = async {
                let frame = |s: Series| Ok(SeriesResponse { result: Some(series_response::Result::Series(s)) });
                if manner == Manner::SilentAfterHeaders {
                    std::future::pending::<()>().await;
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
        let select = SeriesRequest { matchers: r.matchers, min_time: r.start, max_time: r.end, ..Default::default() };
        let mut names: Vec<String> = Vec::new();
        for s in self.select(&select) {
            names.extend(proto::labels::decode(&s.labels).unwrap().iter().map(|(n, _)| n.to_owned()));
        }
        names.sort();
        names.dedup();
        Ok(Response::new(LabelNamesResponse { names, warnings: vec![], hints: None }))
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        let r = r.into_inner();
        if *self.manner.lock().unwrap() == Manner::Silent {
            std::future::pending::<()>().await;
        }
        let select = SeriesRequest { matchers: r.matchers, min_time: r.start, max_time: r.end, ..Default::default() };
        let mut values: Vec<String> = Vec::new();
        for s in self.select(&select) {
            values.extend(proto::labels::decode(&s.labels).unwrap().get(&r.label).map(str::to_owned));
        }
        values.sort();
        values.dedup();
        Ok(Response::new(LabelValuesResponse { values, warnings: vec![], hints: None }))
    }
}

#[tonic::async_trait]
impl Info for Fake {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            label_sets: vec![proto::labels::encode_set(&self.external)],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                min_time: i64::MIN,
                max_time: i64::MAX,
                supports_without_replica_labels: self.able,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}
