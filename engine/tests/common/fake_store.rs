//! A StoreAPI that a test controls: label sets, series of one sample each second, and a record of what it was asked.

use args::ServerArgs;
use engine::server::{self, Context, Service};
use model::world::World;
use model::{Labels, Matcher};
use proto::thanos::info::info_server::{Info, InfoServer};
use proto::thanos::info::{InfoRequest, InfoResponse, StoreInfo};
use proto::thanos::store_server::{Store, StoreServer};
use proto::thanos::{
    AggrChunk, Chunk, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series,
    SeriesRequest, SeriesResponse, series_response,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio_stream::Iter;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Series named so ended this long ago, milliseconds.
pub const GONE: (&str, i64) = ("gone", 3_000_000);

/// A running one; it ends when dropped.
pub struct FakeStore {
    pub address: String,
    pub asked: Arc<Mutex<Vec<SeriesRequest>>>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Data {
    sets: Vec<Labels>,
    series: Vec<Labels>,
    asked: Arc<Mutex<Vec<SeriesRequest>>>,
}

impl FakeStore {
    /// With these advertised label sets, and `up` and `down` under each of them.
    pub async fn start(sets: &[&[(&str, &str)]]) -> Self {
        Self::start_with(sets, ServerArgs { grpc_address: "127.0.0.1:0".into(), ..ServerArgs::default() }).await
    }

    /// The same with TLS or a fixed address.
    pub async fn start_with(sets: &[&[(&str, &str)]], args: ServerArgs) -> Self {
        Self::start_full(sets, Vec::new(), args).await
    }

    /// The same with further series.
    pub async fn start_full(sets: &[&[(&str, &str)]], more: Vec<Labels>, mut args: ServerArgs) -> Self {
        args.http_address = "127.0.0.1:0".into();
        if args.grpc_address.starts_with("0.0.0.0") {
            args.grpc_address = "127.0.0.1:0".into();
        }
        let sets: Vec<Labels> = sets.iter().map(|s| Labels::from_pairs(s.iter().copied())).collect();
        let mut series: Vec<Labels> =
            sets.iter().flat_map(|s| ["down", "up"].map(|n| s.with("__name__", n).with("job", "x"))).collect();
        series.extend(more);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let data = Data { sets, series, asked: Arc::clone(&asked) };
        let bound = server::bind(&args).await.unwrap();
        let address = bound.grpc_address().unwrap().to_string();
        let service = Service {
            component: "sidecar",
            http: axum::Router::new(),
            grpc: tonic::service::Routes::new(StoreServer::new(data.clone())).add_service(InfoServer::new(data)),
            state: Arc::new(args::state::State::default),
        };
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(Context::new("fake", World::real()), service, stop.clone()));
        Self { address, asked, stop }
    }

    /// The Series requests since the last call.
    pub fn take_asked(&self) -> Vec<SeriesRequest> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn matching(data: &Data, matchers: &[proto::thanos::LabelMatcher]) -> Vec<Labels> {
    let matchers: Vec<Matcher> = proto::matchers::decode(matchers).unwrap();
    data.series.iter().filter(|s| matchers.iter().all(|m| m.matches_labels(s))).cloned().collect()
}

#[tonic::async_trait]
impl Store for Data {
    type SeriesStream = Iter<std::vec::IntoIter<Result<SeriesResponse, Status>>>;

    async fn series(&self, r: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        let r = r.into_inner();
        self.asked.lock().unwrap().push(r.clone());
        let mut found: Vec<Labels> =
            matching(self, &r.matchers).iter().map(|l| l.without(&r.without_replica_labels)).collect();
        found.sort();
        let now = World::real().clock.now_ms();
        // What is gone is found only by those who ask for its time.
        found.retain(|l| l.get(GONE.0).is_none() || r.min_time <= now - GONE.1);
        let one = |l: &Labels| {
            // One sample a second over the last minute of what is asked for, or of its life.
            let mut encoder = tsdb::chunk::XorEncoder::default();
            let end = r.max_time.min(if l.get(GONE.0).is_some() { now - GONE.1 } else { now }) / 1000;
            for t in end - 60..=end {
                encoder.append(t * 1000, 1.0).unwrap();
            }
            let (min_time, max_time) = encoder.range();
            let raw = Some(Chunk { r#type: 0, data: encoder.bytes(), hash: 0 });
            let chunks = if r.skip_chunks {
                vec![]
            } else {
                vec![AggrChunk { min_time, max_time, raw, ..AggrChunk::default() }]
            };
            let series = Series { labels: proto::labels::encode(l), chunks };
            Ok(SeriesResponse { result: Some(series_response::Result::Series(series)) })
        };
        Ok(Response::new(tokio_stream::iter(found.iter().map(one).collect::<Vec<_>>())))
    }

    async fn label_names(&self, r: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        let found = matching(self, &r.get_ref().matchers);
        let names: BTreeSet<String> = found.iter().flat_map(|l| l.iter().map(|(n, _)| n.to_owned())).collect();
        // As Thanos's sidecar does: the limit is kept and told.
        let limit = usize::try_from(r.get_ref().limit).unwrap().checked_sub(1).map_or(usize::MAX, |n| n + 1);
        let warnings = if names.len() > limit { vec!["results truncated due to limit".to_owned()] } else { vec![] };
        Ok(Response::new(LabelNamesResponse {
            names: names.into_iter().take(limit).collect(),
            warnings,
            ..Default::default()
        }))
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        let found = matching(self, &r.get_ref().matchers);
        let values: BTreeSet<String> =
            found.iter().filter_map(|l| l.get(&r.get_ref().label)).map(str::to_owned).collect();
        Ok(Response::new(LabelValuesResponse { values: values.into_iter().collect(), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl Info for Data {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            label_sets: self.sets.iter().map(proto::labels::encode_set).collect(),
            component_type: "sidecar".into(),
            store: Some(StoreInfo {
                min_time: 0,
                max_time: i64::MAX,
                supports_sharding: true,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        }))
    }
}
