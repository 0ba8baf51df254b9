//! PromQL over gRPC: what a querier above sends down when it distributes a query.

use super::Services;
use crate::query::eval::{Answer, Settings};
use crate::query::own_replica_labels;
use crate::query::store::hash_of;
use crate::server::FRAME_MAX;
use crate::storeapi::request;
use crate::storeapi::wire::Shard;
use futures::{Stream, StreamExt};
use model::Labels;
use model::sample::Value;
use promql::exec::{Account, QueryError, QueryValue, Times};
use prost::Message;
use proto::prometheus::{Sample, TimeSeries};
use proto::thanos::query_server::Query;
use proto::thanos::{
    Precise, QueryRangeRequest, QueryRangeResponse, QueryRequest, QueryResponse, QueryStats, ShardInfo, StoreMatchers,
    TimeSeriesBatch, query_range_response, query_response,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Most warnings and infos of PromQL in one answer.
const ANNOTATIONS: usize = 10;
/// Most points per series, as over HTTP.
const MAX_POINTS: i64 = 11_000;
/// How long a caller may take for one message of its answer, as over HTTP.
const STALLED: Duration = Duration::from_secs(60);

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
    /// One of ours asks.
    precise: Option<Precise>,
}

/// A part of an answer.
enum Part {
    Warnings(String),
    Series(TimeSeries),
    Batch(Vec<TimeSeries>),
    Stats(QueryStats),
}

type AnswerStream<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

impl Services {
    async fn run(&self, asked: Asked, deadline: Duration) -> Result<Parts, Status> {
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
        let mut settings = Settings {
            timeout: timeout.map_or(deadline, |t| t.min(deadline)),
            partial: asked.partial,
            replica_labels,
            lookback_ms: Some(asked.precise.as_ref().map_or(millis(asked.lookback_seconds), |p| p.lookback_delta_ms))
                .filter(|l| *l > 0)
                .unwrap_or(self.args.lookback_delta.0),
            analyze: false,
            count_samples: false,
            max_resolution_ms: asked
                .precise
                .as_ref()
                .map_or(millis(asked.max_resolution_seconds), |p| p.max_resolution_ms)
                .max(0),
            only: Arc::new(only),
            shard,
            within: None,
        };
        // Whoever sends this counts on what we have advertised, before and while we evaluate, and in every series.
        let known = asked.precise.as_ref().map(|p| p.advertised);
        let advertised = || self.fanout().endpoints().advertised().0;
        let changed = |sets: &[Labels]| known.is_some_and(|known| known != hash_of(sets));
        let refused = || Status::failed_precondition("the stores of this querier have changed");
        if known.is_some() {
            let sets = advertised();
            if changed(&sets) {
                return Err(refused());
            }
            settings.within = Some(Arc::from(sets));
        }
        let answer = self.evaluator.run(&asked.query, asked.times, &settings).await.map_err(status)?;
        if known.is_some() && changed(&advertised()) {
            return Err(refused());
        }
        Parts::new(&asked.query, answer, asked.batch, asked.precise.is_some())
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

/// An answer in messages, each made when it is asked for: warnings first, statistics last.
struct Parts {
    warnings: std::vec::IntoIter<String>,
    series: Box<dyn Iterator<Item = TimeSeries> + Send>,
    stats: Option<QueryStats>,
    /// Series in one message.
    batch: usize,
    /// The whole answer is held until the last part is sent.
    _account: Arc<Account>,
}

impl Parts {
    fn new(query: &str, answer: Answer, batch: i64, with_infos: bool) -> Result<Self, Status> {
        let mut warnings: Vec<String> = answer.missing.into_iter().map(|w| w.text).collect();
        let (told, infos) = answer.result.annotations.strings(query, ANNOTATIONS);
        warnings.extend(told);
        warnings.extend(infos.into_iter().filter(|_| with_infos));
        Ok(Self {
            warnings: warnings.into_iter(),
            series: time_series(answer.result.value)?,
            stats: Some(QueryStats {
                samples_total: i64::try_from(answer.result.stats.samples_read).unwrap_or(i64::MAX),
                peak_samples: i64::try_from(answer.result.stats.peak_samples).unwrap_or(i64::MAX),
            }),
            batch: usize::try_from(batch).unwrap_or(0).max(1),
            _account: answer.account,
        })
    }

    fn message(&mut self) -> Option<Part> {
        let first = self.series.next()?;
        if self.batch == 1 {
            return Some(Part::Series(first));
        }
        let mut bytes = first.encoded_len();
        let mut series = vec![first];
        while series.len() < self.batch && bytes < FRAME_MAX {
            let Some(next) = self.series.next() else { break };
            bytes = bytes.saturating_add(next.encoded_len());
            series.push(next);
        }
        Some(Part::Batch(series))
    }

    /// Sends them one ahead of the reader. One that stops reading must not hold the memory for ever.
    fn send<A: Send + 'static>(mut self, wrap: fn(Part) -> A) -> AnswerStream<A> {
        let (to, from) = mpsc::channel(1);
        let (whole, sent) = oneshot::channel();
        tokio::spawn(async move {
            for part in self.by_ref() {
                if !matches!(tokio::time::timeout(STALLED, to.send(wrap(part))).await, Ok(Ok(()))) {
                    return; // The caller has gone, or does not read.
                }
            }
            drop(self);
            let _ = whole.send(());
        });
        // An answer that was cut off must not look like a whole one.
        let end = futures::stream::once(sent).filter_map(|sent| {
            let text = format!("the answer was not read for {STALLED:?}: it is not kept any longer");
            std::future::ready(sent.is_err().then(|| Err(Status::deadline_exceeded(text))))
        });
        Box::pin(ReceiverStream::new(from).map(Ok).chain(end))
    }
}

impl Iterator for Parts {
    type Item = Part;
    fn next(&mut self) -> Option<Part> {
        let warning = self.warnings.next().map(Part::Warnings);
        warning.or_else(|| self.message()).or_else(|| self.stats.take().map(Part::Stats))
    }
}

fn time_series(value: QueryValue) -> Result<Box<dyn Iterator<Item = TimeSeries> + Send>, Status> {
    let floats = |labels: &Labels, samples| TimeSeries {
        labels: proto::labels::encode(labels),
        samples,
        ..TimeSeries::default()
    };
    Ok(match value {
        QueryValue::Scalar(timestamp, value) => {
            Box::new(std::iter::once(floats(&Labels::empty(), vec![Sample { value, timestamp }])))
        }
        QueryValue::String(..) => return Err(Status::unimplemented("a string can't be sent as a series")),
        QueryValue::Vector(all) => Box::new(all.into_iter().map(move |s| match s.value {
            Value::Float(value) => floats(&s.labels, vec![Sample { value, timestamp: s.t }]),
            Value::Histogram(h) => {
                TimeSeries { histograms: vec![proto::histograms::encode(s.t, &h)], ..floats(&s.labels, Vec::new()) }
            }
        })),
        QueryValue::Matrix(all) => Box::new(all.into_series().map(move |s| TimeSeries {
            histograms: s.histograms.iter().map(|(t, h)| proto::histograms::encode(*t, h)).collect(),
            ..floats(&s.labels, s.floats.iter().map(|(t, v)| Sample { value: *v, timestamp: *t }).collect())
        })),
    })
}

#[tonic::async_trait]
impl Query for Services {
    type QueryStream = AnswerStream<QueryResponse>;
    type QueryRangeStream = AnswerStream<QueryRangeResponse>;

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
            precise: None,
        };
        use query_response::Result as R;
        let wrap = |p| QueryResponse {
            result: Some(match p {
                Part::Warnings(w) => R::Warnings(w),
                Part::Series(s) => R::Timeseries(s),
                Part::Batch(series) => R::TimeseriesBatch(TimeSeriesBatch { series }),
                Part::Stats(s) => R::Stats(s),
            }),
        };
        Ok(Response::new(self.run(asked, deadline).await?.send(wrap)))
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<Response<Self::QueryRangeStream>, Status> {
        let deadline = self.timeout(&request);
        let r = request.into_inner();
        let millis = |seconds: i64| seconds.saturating_mul(1000);
        let (start, end, step) = match &r.precise {
            Some(p) => (p.start_ms, p.end_ms, p.step_ms),
            None => (millis(r.start_time_seconds), millis(r.end_time_seconds), millis(r.interval_seconds)),
        };
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
            precise: r.precise,
        };
        use query_range_response::Result as R;
        let wrap = |p| QueryRangeResponse {
            result: Some(match p {
                Part::Warnings(w) => R::Warnings(w),
                Part::Series(s) => R::Timeseries(s),
                Part::Batch(series) => R::TimeseriesBatch(TimeSeriesBatch { series }),
                Part::Stats(s) => R::Stats(s),
            }),
        };
        Ok(Response::new(self.run(asked, deadline).await?.send(wrap)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::address::SystemDns;
    use crate::query::endpoints::Endpoints;
    use crate::query::eval::Evaluator;
    use crate::query::fanout::Fanout;
    use crate::server::metrics::Metrics;
    use crate::server::ready::Readiness;
    use args::QueryArgs;
    use model::world::World;
    use promql::exec::ProcessBudget;

    /// A querier without stores, and the memory that its queries share.
    fn alone() -> (Services, Arc<ProcessBudget>) {
        let args = QueryArgs { total_bytes: 1 << 30, max_concurrent: 1 << 10, ..QueryArgs::default() };
        let (world, metrics) = (World::real(), Metrics::new("query", Readiness::default()));
        let endpoints = Endpoints::new(&args, world.clone(), Arc::new(SystemDns::new().unwrap()), &metrics);
        let fanout = Fanout::new(endpoints, world.clone(), &args, &metrics);
        let evaluator = Evaluator::new(&args, fanout, world.clone(), &metrics).unwrap();
        let budget = evaluator.options().process.clone().unwrap();
        (Services::new(evaluator, Arc::new(args), world), budget)
    }

    fn range() -> Request<QueryRangeRequest> {
        Request::new(QueryRangeRequest {
            // More than is set aside for a query.
            query: "label_replace(vector(1), \"a\", \"1\", \"\", \"\")".to_owned()
                + &(2..=SERIES)
                    .map(|i| format!(" or label_replace(vector(1), \"a\", \"{i}\", \"\", \"\")"))
                    .collect::<String>(),
            start_time_seconds: 0,
            end_time_seconds: 10_999,
            interval_seconds: 1,
            enable_dedup: true,
            enable_partial_response: true,
            ..QueryRangeRequest::default()
        })
    }

    /// Bytes of its answer: at least eight for each point.
    const ANSWER: u64 = SERIES * 11_000 * 8;
    const SERIES: u64 = 30;

    #[tokio::test]
    async fn an_answer_stays_on_the_account_until_it_is_sent() {
        let (services, budget) = alone();
        let mut stream = services.query_range(range()).await.unwrap().into_inner();
        assert!(budget.held() >= ANSWER, "{budget:?}");
        let (mut series, mut last) = (0, None);
        while let Some(message) = stream.next().await {
            last = message.unwrap().result;
            if let Some(query_range_response::Result::Timeseries(s)) = &last {
                assert_eq!(s.samples.len(), 11_000);
                series += 1;
            }
            if series == 10 {
                assert!(budget.held() >= ANSWER, "{budget:?}");
            }
        }
        assert!(series == SERIES && matches!(last, Some(query_range_response::Result::Stats(_))), "{series} {last:?}");
        assert_eq!(budget.held(), 0, "{budget:?}");
        // A caller that goes away.
        let stream = services.query_range(range()).await.unwrap().into_inner();
        assert!(budget.held() >= ANSWER, "{budget:?}");
        drop(stream);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(budget.held(), 0, "{budget:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_does_not_read_is_let_go_and_told() {
        let (services, budget) = alone();
        let mut stream = services.query_range(range()).await.unwrap().into_inner();
        stream.next().await.unwrap().unwrap();
        tokio::time::sleep(STALLED / 2).await;
        assert!(budget.held() >= ANSWER, "{budget:?}");
        tokio::time::sleep(STALLED).await;
        assert_eq!(budget.held(), 0, "{budget:?}");
        let rest: Vec<_> = stream.collect().await;
        assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded, "{rest:?}");
    }
}
