//! PromQL over gRPC: what a querier above sends down when it distributes a query.

use super::Services;
use crate::query::eval::{Answer, Settings};
use crate::query::own_replica_labels;
use crate::server::FRAME_MAX;
use crate::storeapi::request;
use crate::storeapi::wire::Shard;
use model::Labels;
use model::sample::Value;
use promql::exec::{QueryError, QueryValue, Times};
use prost::Message;
use proto::prometheus::{Sample, TimeSeries};
use proto::thanos::query_server::Query;
use proto::thanos::{
    QueryRangeRequest, QueryRangeResponse, QueryRequest, QueryResponse, QueryStats, ShardInfo, StoreMatchers,
    TimeSeriesBatch, query_range_response, query_response,
};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Most warnings and infos of PromQL in one answer.
const ANNOTATIONS: usize = 10;
/// Most points per series, as over HTTP.
const MAX_POINTS: i64 = 11_000;

/// What both requests have in common.
struct Asked {
    query: String,
    times: Times,
    timeout_seconds: i64,
    max_resolution_seconds: i64,
    replica_labels: Vec<String>,
    only: Vec<StoreMatchers>,
    dedup: bool,
    partial: bool,
    shard: Option<ShardInfo>,
    lookback_seconds: i64,
    batch: i64,
}

/// A part of an answer.
enum Part {
    Warnings(String),
    Series(TimeSeries),
    Batch(Vec<TimeSeries>),
    Stats(QueryStats),
}

impl Services {
    async fn run(&self, asked: Asked, deadline: Duration) -> Result<Vec<Part>, Status> {
        let timeout = u64::try_from(asked.timeout_seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
        let only = asked.only.iter().map(|m| request::matchers(&m.label_matchers)).collect::<Result<_, _>>()?;
        let shard = match &asked.shard {
            Some(s) if s.total_shards > 0 => Some(Arc::new(Shard::read(s)?)),
            _ => None,
        };
        let replica_labels = match (asked.dedup, asked.replica_labels.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => own_replica_labels(&self.args),
            (true, false) => asked.replica_labels,
        };
        let millis = |seconds: i64| seconds.saturating_mul(1000);
        let settings = Settings {
            timeout: timeout.map_or(deadline, |t| t.min(deadline)),
            partial: asked.partial,
            replica_labels,
            lookback_ms: Some(millis(asked.lookback_seconds)).filter(|l| *l > 0).unwrap_or(self.args.lookback_delta.0),
            analyze: false,
            max_resolution_ms: millis(asked.max_resolution_seconds.max(0)),
            only: Arc::new(only),
            shard,
        };
        let answer = self.evaluator.run(&asked.query, asked.times, &settings).await.map_err(status)?;
        parts(&asked.query, answer, asked.batch)
    }
}

fn status(e: QueryError) -> Status {
    let text = e.to_string();
    match e {
        QueryError::Parse(_) | QueryError::BadRequest(_) => Status::invalid_argument(text),
        QueryError::Timeout => Status::deadline_exceeded(text),
        QueryError::Canceled => Status::cancelled(text),
        // As Thanos says it.
        QueryError::Execution(_) | QueryError::Storage(_) => Status::aborted(text),
        QueryError::TooManySamples | QueryError::TooManyBytes(_) => Status::resource_exhausted(text),
    }
}

/// An answer in messages: warnings first, statistics last.
fn parts(query: &str, mut answer: Answer, batch: i64) -> Result<Vec<Part>, Status> {
    let mut warnings = std::mem::take(&mut answer.missing);
    warnings.extend(answer.result.annotations.strings(query, ANNOTATIONS).0);
    let mut out: Vec<Part> = warnings.into_iter().map(Part::Warnings).collect();
    let stats = QueryStats {
        samples_total: i64::try_from(answer.result.stats.samples_read).unwrap_or(i64::MAX),
        peak_samples: i64::try_from(answer.result.stats.peak_samples).unwrap_or(i64::MAX),
    };
    let batch = usize::try_from(batch).unwrap_or(0).max(1);
    let (mut pending, mut bytes) = (Vec::new(), 0usize);
    for series in time_series(answer.result.value)? {
        bytes += series.encoded_len();
        pending.push(series);
        if pending.len() >= batch || bytes >= FRAME_MAX {
            out.extend(message(&mut pending, batch));
            bytes = 0;
        }
    }
    out.extend(message(&mut pending, batch));
    out.push(Part::Stats(stats));
    Ok(out)
}

fn message(pending: &mut Vec<TimeSeries>, batch: usize) -> Option<Part> {
    match (pending.is_empty(), batch) {
        (true, _) => None,
        (false, 1) => pending.pop().map(Part::Series),
        (false, _) => Some(Part::Batch(std::mem::take(pending))),
    }
}

fn time_series(value: QueryValue) -> Result<Vec<TimeSeries>, Status> {
    let floats = |labels: &Labels, samples| TimeSeries {
        labels: proto::labels::encode(labels),
        samples,
        ..TimeSeries::default()
    };
    Ok(match value {
        QueryValue::Scalar(timestamp, value) => vec![floats(&Labels::empty(), vec![Sample { value, timestamp }])],
        QueryValue::String(..) => return Err(Status::unimplemented("a string can't be sent as a series")),
        QueryValue::Vector(all) => all
            .into_iter()
            .map(|s| match s.value {
                Value::Float(value) => floats(&s.labels, vec![Sample { value, timestamp: s.t }]),
                Value::Histogram(h) => {
                    TimeSeries { histograms: vec![proto::histograms::encode(s.t, &h)], ..floats(&s.labels, Vec::new()) }
                }
            })
            .collect(),
        QueryValue::Matrix(all) => all
            .iter()
            .map(|s| TimeSeries {
                histograms: s.histograms.iter().map(|(t, h)| proto::histograms::encode(*t, h)).collect(),
                ..floats(&s.labels, s.floats.iter().map(|(t, v)| Sample { value: *v, timestamp: *t }).collect())
            })
            .collect(),
    })
}

#[tonic::async_trait]
impl Query for Services {
    type QueryStream = super::Answers<QueryResponse>;
    type QueryRangeStream = super::Answers<QueryRangeResponse>;

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        let deadline = self.timeout(&request);
        let r = request.into_inner();
        let at = if r.time_seconds == 0 { self.world.clock.now_ms() } else { r.time_seconds.saturating_mul(1000) };
        let asked = Asked {
            query: r.query,
            times: Times::Instant(at),
            timeout_seconds: r.timeout_seconds,
            max_resolution_seconds: r.max_resolution_seconds,
            replica_labels: r.replica_labels,
            only: r.store_matchers,
            dedup: r.enable_dedup,
            partial: r.enable_partial_response,
            shard: r.shard_info,
            lookback_seconds: r.lookback_delta_seconds,
            batch: r.response_batch_size,
        };
        use query_response::Result as R;
        let parts = self.run(asked, deadline).await?.into_iter().map(|p| {
            let result = match p {
                Part::Warnings(w) => R::Warnings(w),
                Part::Series(s) => R::Timeseries(s),
                Part::Batch(series) => R::TimeseriesBatch(TimeSeriesBatch { series }),
                Part::Stats(s) => R::Stats(s),
            };
            Ok(QueryResponse { result: Some(result) })
        });
        Ok(Response::new(tokio_stream::iter(parts.collect::<Vec<_>>())))
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<Response<Self::QueryRangeStream>, Status> {
        let deadline = self.timeout(&request);
        let r = request.into_inner();
        let (start, end) = (r.start_time_seconds.saturating_mul(1000), r.end_time_seconds.saturating_mul(1000));
        let step = r.interval_seconds.saturating_mul(1000);
        // A range of one point may come without a step.
        let times = match (step, end.cmp(&start)) {
            (_, std::cmp::Ordering::Less) => return Err(Status::invalid_argument("the range ends before it begins")),
            (0, std::cmp::Ordering::Equal) => Times::Range { start, end, step: 1 },
            (step, _) if step <= 0 => return Err(Status::invalid_argument("the interval must be positive")),
            (step, _) if end.saturating_sub(start) / step > MAX_POINTS => {
                return Err(Status::invalid_argument(format!("more than {MAX_POINTS} points per series")));
            }
            (step, _) => Times::Range { start, end, step },
        };
        let asked = Asked {
            query: r.query,
            times,
            timeout_seconds: r.timeout_seconds,
            max_resolution_seconds: r.max_resolution_seconds,
            replica_labels: r.replica_labels,
            only: r.store_matchers,
            dedup: r.enable_dedup,
            partial: r.enable_partial_response,
            shard: r.shard_info,
            lookback_seconds: r.lookback_delta_seconds,
            batch: r.response_batch_size,
        };
        use query_range_response::Result as R;
        let parts = self.run(asked, deadline).await?.into_iter().map(|p| {
            let result = match p {
                Part::Warnings(w) => R::Warnings(w),
                Part::Series(s) => R::Timeseries(s),
                Part::Batch(series) => R::TimeseriesBatch(TimeSeriesBatch { series }),
                Part::Stats(s) => R::Stats(s),
            };
            Ok(QueryRangeResponse { result: Some(result) })
        });
        Ok(Response::new(tokio_stream::iter(parts.collect::<Vec<_>>())))
    }
}
