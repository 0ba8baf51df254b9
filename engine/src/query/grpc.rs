//! The querier as a store: StoreAPI and Info over all that it reads. This is what another cluster's RemoteStore dials.
//! Chunks pass through undecoded.

use super::call;
use super::endpoints::Endpoints;
use super::fanout::{self, Detail, Fanout, LabelCall, Select, Terms};
use super::push;
use crate::storeapi::{self, Frames, Limits, frames, request};
use args::QueryArgs;
use proto::info::info_server::Info;
use proto::info::{
    ExemplarsInfo, InfoRequest, InfoResponse, MetricMetadataInfo, QueryApiInfo, RulesInfo, StatusInfo, StoreInfo,
    TargetsInfo, TsdbInfo,
};
use proto::thanos::store_server::Store;
use proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest, SeriesResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Most bytes that one call may hold here: of stores whose series have to be sorted again, and of label answers.
const MAX_BYTES: u64 = 1 << 30;

/// The services.
#[derive(Clone)]
pub struct QueryStore {
    fanout: Fanout,
    limits: Limits,
    timeout: Duration,
    settings: Arc<str>,
}

impl QueryStore {
    /// Over a fan-out; the flags' timeout bounds a request that names no deadline.
    pub fn new(fanout: Fanout, limits: Limits, args: &QueryArgs) -> Self {
        Self { fanout, limits, timeout: args.timeout.duration(), settings: push::settings(args).into() }
    }

    fn terms(&self, disabled: bool, strategy: i32, timeout: Duration) -> Terms {
        self.fanout.terms(!request::abort(disabled, strategy), timeout, MAX_BYTES)
    }

    fn endpoints(&self) -> &Arc<Endpoints> {
        self.fanout.endpoints()
    }

    /// The caller's deadline, if it is sooner than ours.
    fn timeout(&self, metadata: &tonic::metadata::MetadataMap) -> Duration {
        request::deadline(metadata).map_or(self.timeout, |a| a.min(self.timeout))
    }
}

fn failed(e: fanout::Failed) -> Status {
    Status::aborted(e.0)
}

#[tonic::async_trait]
impl Store for QueryStore {
    type SeriesStream = ReceiverStream<Result<SeriesResponse, Status>>;

    async fn series(&self, request: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        let timeout = self.timeout(request.metadata());
        let asked = storeapi::Select::read(request.get_ref())?;
        let select = Select {
            mint: asked.min_time,
            maxt: asked.max_time,
            matchers: asked.matchers.clone(),
            without: asked.without.clone(),
            skip_chunks: asked.skip_chunks,
            limit: asked.limit,
            detail: Detail { max_resolution: asked.max_resolution, aggregates: asked.aggregates.clone() },
            only: Arc::default(),
            exactly: None,
            bounds: Vec::new(),
            shard: asked.shard.clone().map(Arc::new),
            terms: self.fanout.terms(!asked.abort, timeout, MAX_BYTES),
        };
        let mut stream = self.fanout.series(&select).map_err(failed)?;
        let (to, from) = mpsc::channel(2);
        let limits = self.limits.clone();
        tokio::spawn(async move {
            let send = async {
                let mut frames_out = Frames::new(asked.batch);
                let mut used = limits.start();
                loop {
                    let next = stream.next().await.map_err(failed)?;
                    for w in stream.take_warnings() {
                        to.send(Ok(frames::warning(w.text))).await.map_err(|_| Status::cancelled(""))?;
                    }
                    let Some(series) = next else { break };
                    used.add(series.chunks.len())?;
                    for frame in frames_out.push(call::encode(series)) {
                        to.send(Ok(frame)).await.map_err(|_| Status::cancelled(""))?;
                    }
                }
                if let Some(frame) = frames_out.flush() {
                    to.send(Ok(frame)).await.map_err(|_| Status::cancelled(""))?;
                }
                Ok::<_, Status>(())
            };
            // Ends with the caller, too: then all calls to stores end.
            let outcome = tokio::select! {
                outcome = send => outcome,
                () = to.closed() => return,
            };
            if let Err(status) = outcome {
                // The caller may have gone.
                let _ = to.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn label_names(&self, r: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        let timeout = self.timeout(r.metadata());
        let r = r.into_inner();
        let select = Select {
            mint: r.start,
            maxt: r.end,
            matchers: request::matchers(&r.matchers)?,
            without: r.without_replica_labels,
            skip_chunks: true,
            limit: request::limit(r.limit),
            detail: Detail::default(),
            only: Arc::default(),
            exactly: None,
            bounds: Vec::new(),
            shard: None,
            terms: self.terms(r.partial_response_disabled, r.partial_response_strategy, timeout),
        };
        let (names, warnings) = self.fanout.labels(&LabelCall::Names, &select).await.map_err(failed)?;
        let warnings = warnings.into_iter().map(|w| w.text).collect();
        Ok(Response::new(LabelNamesResponse { names, warnings, hints: None }))
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        let timeout = self.timeout(r.metadata());
        let r = r.into_inner();
        if r.label.is_empty() {
            return Err(Status::invalid_argument("label name parameter cannot be empty"));
        }
        let select = Select {
            mint: r.start,
            maxt: r.end,
            matchers: request::matchers(&r.matchers)?,
            without: r.without_replica_labels,
            skip_chunks: true,
            limit: request::limit(r.limit),
            detail: Detail::default(),
            only: Arc::default(),
            exactly: None,
            bounds: Vec::new(),
            shard: None,
            terms: self.terms(r.partial_response_disabled, r.partial_response_strategy, timeout),
        };
        let (values, warnings) = self.fanout.labels(&LabelCall::Values(r.label), &select).await.map_err(failed)?;
        let warnings = warnings.into_iter().map(|w| w.text).collect();
        Ok(Response::new(LabelValuesResponse { values, warnings, hints: None }))
    }
}

#[tonic::async_trait]
impl Info for QueryStore {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let (sets, min_time, max_time) = self.endpoints().advertised();
        // Without any store there is no time range: an empty one keeps callers away.
        let (min_time, max_time) = if min_time > max_time { (i64::MAX, i64::MIN) } else { (min_time, max_time) };
        let label_sets: Vec<_> = sets.iter().map(proto::labels::encode_set).collect();
        let tsdb_infos = label_sets.iter().map(|l| TsdbInfo { labels: Some(l.clone()), min_time, max_time }).collect();
        Ok(Response::new(InfoResponse {
            label_sets,
            component_type: "query".to_owned(),
            store: Some(StoreInfo {
                min_time,
                max_time,
                supports_sharding: true,
                supports_without_replica_labels: true,
                tsdb_infos,
                ..Default::default()
            }),
            rules: Some(RulesInfo {}),
            metric_metadata: Some(MetricMetadataInfo {}),
            targets: Some(TargetsInfo {}),
            exemplars: Some(ExemplarsInfo { min_time, max_time }),
            query: Some(QueryApiInfo { settings: self.settings.to_string() }),
            status: Some(StatusInfo {}),
        }))
    }
}
