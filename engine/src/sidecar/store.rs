//! The StoreAPI and Info over one Prometheus.

use super::order::{Budget, Order, OrderError};
use super::owned::Owned;
use super::prometheus::{Prometheus, Scope, wire_matchers};
use super::remote_read::{self, FrameReader, ReadError};
use super::watch::{Seen, Watch};
use crate::storeapi::limits::Used;
use crate::storeapi::wire::{self, Relabel, Shard};
use crate::storeapi::{Frames, Limits, Select, external, frames, request};
use model::{Labels, Matcher};
use proto::thanos::info::{
    ExemplarsInfo, InfoRequest, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, StoreInfo, TargetsInfo,
    TsdbInfo, info_server::Info,
};
use proto::thanos::store_server::Store;
use proto::thanos::{
    Label, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
    SeriesResponse,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Messages that wait for a slow reader. With a megabyte each, this bounds what a stalled caller costs.
const QUEUE: usize = 4;
/// Most bytes that answers may hold back for sorting, whatever memory there is.
const SORT_BUDGET: usize = 512 << 20;
/// Series calls that are answered at one time; others wait, holding nothing. Prometheus itself reads 10 at a time.
const CONCURRENT: usize = 32;
/// How long a caller may not read at all. A read that stands still keeps Prometheus from cleaning up its head.
const STALL: Duration = Duration::from_secs(60);

type Sender = mpsc::Sender<Result<SeriesResponse, Status>>;

/// What the services share.
#[derive(Clone)]
pub(super) struct SidecarStore(Arc<Inner>);

struct Inner {
    prometheus: Prometheus,
    watch: Watch,
    owned: Owned,
    limits: Limits,
    budget: Budget,
    turns: Semaphore,
    /// Oldest data to serve, milliseconds since the epoch, at this moment.
    min_time: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl SidecarStore {
    pub(super) fn new(
        prometheus: Prometheus,
        watch: Watch,
        owned: Owned,
        limits: Limits,
        min_time: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        let (budget, turns) = (Budget::of_container(SORT_BUDGET), Semaphore::new(CONCURRENT));
        Self(Arc::new(Inner { prometheus, watch, owned, limits, budget, turns, min_time: Box::new(min_time) }))
    }
}

impl Inner {
    async fn series(&self, select: Select, seen: &Seen, tx: &Sender) -> Result<(), Status> {
        let Some(rest) = external::narrow(&seen.external, select.matchers.clone()) else { return Ok(()) };
        if rest.is_empty() {
            return Err(Status::invalid_argument(
                "no matchers specified (excluding external labels): give at least one on another label",
            ));
        }
        let output = Output {
            relabel: Relabel::new(&seen.external, &select.without),
            shard: select.shard.clone(),
            used: self.limits.start(),
            frames: Frames::new(select.batch),
            limit: select.limit,
            distinct: 0,
            last: None,
            tx,
        };
        let start = select.min_time.max((self.min_time)());
        if start > select.max_time {
            return Ok(());
        }
        if select.skip_chunks {
            return self.labels_only(&select, &rest, start, output).await;
        }
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        let body = remote_read::request(start, select.max_time, wire_matchers(&rest))?;
        let response = self.prometheus.remote_read(body).await?;
        let streamed = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.starts_with(remote_read::STREAMED));
        if streamed {
            return self.streamed(response, &select, seen, output).await;
        }
        let body = self.prometheus.read_all(response, crate::server::RECEIVE_MAX).await?;
        let all = remote_read::samples(&body)?;
        // Encoding is work for the CPU, not for the threads that serve connections.
        let series = tokio::task::spawn_blocking(move || {
            all.into_iter().map(remote_read::series_of_samples).collect::<Vec<_>>()
        });
        let series = series.await.map_err(|e| Status::internal(format!("samples can't be cut into chunks: {e}")))?;
        output.sorted(Order::collecting(&self.budget), series).await
    }

    /// Passes a streamed answer on as it comes.
    async fn streamed(
        &self,
        mut response: reqwest::Response,
        select: &Select,
        seen: &Seen,
        mut output: Output<'_>,
    ) -> Result<(), Status> {
        let mut names: Vec<String> = seen.external.iter().map(|(n, _)| n.to_owned()).collect();
        names.extend(select.without.iter().cloned());
        let owned = self.owned.any(&names).await;
        let mut order = if owned { Order::collecting(&self.budget) } else { Order::streaming(&self.budget) };
        let mut reader = FrameReader::default();
        while let Some(bytes) = response.chunk().await.map_err(|e| self.prometheus.broken(&e))? {
            reader.push(&bytes);
            while let Some(series) = reader.pop()? {
                for s in series {
                    let Some(s) = output.take(remote_read::series(s)?)? else { continue };
                    let ready = order.push(s).inspect_err(|e| {
                        if *e == OrderError::Late {
                            self.owned.seen(&names);
                        }
                    })?;
                    for s in ready {
                        if !output.send(s).await? {
                            return output.finish().await;
                        }
                    }
                }
            }
        }
        reader.finish()?;
        output.rest(order).await
    }

    async fn labels_only(
        &self,
        select: &Select,
        rest: &[Matcher],
        start: i64,
        mut output: Output<'_>,
    ) -> Result<(), Status> {
        let scope = Scope { matchers: rest, start, end: select.max_time, limit: select.limit };
        let answer = self.prometheus.series(scope).await?;
        output.warn(news(answer.warnings, select.limit)).await?;
        let series = answer
            .data
            .into_iter()
            .map(|labels| Series { labels: proto::labels::encode(&Labels::from_pairs(labels)), chunks: Vec::new() });
        output.distinct_only(series).await
    }

    async fn label_names(&self, r: LabelNamesRequest) -> Result<LabelNamesResponse, Status> {
        let seen = self.watch.usable()?;
        let matchers = request::matchers(&r.matchers)?;
        let limit = request::limit(r.limit);
        let Some(rest) = external::narrow(&seen.external, matchers) else { return Ok(LabelNamesResponse::default()) };
        let start = r.start.max((self.min_time)());
        let answer = self.prometheus.label_names(Scope { matchers: &rest, start, end: r.end, limit }).await?;
        let mut names: BTreeSet<String> = answer.data.into_iter().collect();
        // Without a single series there is nothing that the external labels could be on.
        if !names.is_empty() {
            names.extend(seen.external.iter().map(|(n, _)| n.to_owned()));
        }
        names.retain(|n| !r.without_replica_labels.contains(n));
        let names = names.into_iter().take(limit.unwrap_or(usize::MAX)).collect();
        Ok(LabelNamesResponse { names, warnings: news(answer.warnings, limit), hints: None })
    }

    async fn label_values(&self, r: LabelValuesRequest) -> Result<LabelValuesResponse, Status> {
        if r.label.is_empty() {
            return Err(Status::invalid_argument("the label name is empty"));
        }
        let seen = self.watch.usable()?;
        let matchers = request::matchers(&r.matchers)?;
        let limit = request::limit(r.limit);
        let none = || Ok(LabelValuesResponse::default());
        if r.without_replica_labels.contains(&r.label) {
            return none();
        }
        let Some(rest) = external::narrow(&seen.external, matchers) else { return none() };
        let start = r.start.max((self.min_time)());
        if let Some(value) = seen.external.get(&r.label) {
            if !rest.is_empty() {
                // Is there a series at all that it would be on?
                let scope = Scope { matchers: &rest, start, end: r.end, limit: Some(1) };
                let answer = self.prometheus.series(scope).await?;
                if answer.data.is_empty() {
                    return none();
                }
            }
            return Ok(LabelValuesResponse { values: vec![value.to_owned()], ..LabelValuesResponse::default() });
        }
        let answer =
            self.prometheus.label_values(&r.label, Scope { matchers: &rest, start, end: r.end, limit }).await?;
        let mut values = answer.data;
        values.sort_unstable();
        values.truncate(limit.unwrap_or(usize::MAX));
        Ok(LabelValuesResponse { values, warnings: news(answer.warnings, limit), hints: None })
    }
}

/// Prometheus's warnings without the one about a limit that the caller has set.
fn news(mut warnings: Vec<String>, limit: Option<usize>) -> Vec<String> {
    warnings.retain(|w| limit.is_none() || w != crate::storeapi::TRUNCATED);
    warnings
}

/// The way of series to the caller: labels changed, shard picked, limits counted, cut into messages.
struct Output<'a> {
    relabel: Relabel,
    shard: Option<Shard>,
    used: Used<'a>,
    frames: Frames,
    limit: Option<usize>,
    distinct: usize,
    last: Option<Vec<Label>>,
    tx: &'a Sender,
}

impl Output<'_> {
    /// Gives a series its final labels; `None` if it is not in the caller's shard.
    fn take(&mut self, mut series: Series) -> Result<Option<Series>, Status> {
        series.labels = self.relabel.apply(series.labels);
        if self.shard.as_ref().is_some_and(|s| !s.has(&series.labels)) {
            return Ok(None);
        }
        self.used.add(series.chunks.len())?;
        Ok(Some(series))
    }

    /// Sends a series; false if the caller wants no more.
    async fn send(&mut self, series: Series) -> Result<bool, Status> {
        if let Some(limit) = self.limit
            && self.last.as_ref() != Some(&series.labels)
        {
            // The caller's own limit is no news to the caller.
            if self.distinct >= limit {
                return Ok(false);
            }
            self.distinct += 1;
            self.last = Some(series.labels.clone());
        }
        for message in self.frames.push(series) {
            self.message(message).await?;
        }
        Ok(true)
    }

    async fn message(&self, message: SeriesResponse) -> Result<(), Status> {
        match self.tx.send_timeout(Ok(message), STALL).await {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Closed(_)) => Err(Status::cancelled("the caller is gone")),
            Err(SendTimeoutError::Timeout(_)) => {
                Err(Status::deadline_exceeded(format!("the caller has read nothing for {STALL:?}")))
            }
        }
    }

    async fn warn(&mut self, warnings: Vec<String>) -> Result<(), Status> {
        if warnings.is_empty() {
            return Ok(());
        }
        if let Some(message) = self.frames.flush() {
            self.message(message).await?;
        }
        for w in warnings {
            self.message(frames::warning(w)).await?;
        }
        Ok(())
    }

    async fn sorted(mut self, mut order: Order, series: Vec<Series>) -> Result<(), Status> {
        for s in series {
            if let Some(s) = self.take(s)? {
                order.push(s)?;
            }
        }
        self.rest(order).await
    }

    async fn rest(mut self, order: Order) -> Result<(), Status> {
        for s in order.finish() {
            if !self.send(s).await? {
                break;
            }
        }
        self.finish().await
    }

    /// Label sets only: what has become equal is sent once.
    async fn distinct_only(&mut self, series: impl Iterator<Item = Series>) -> Result<(), Status> {
        let mut all = Vec::new();
        for s in series {
            all.extend(self.take(s)?);
        }
        all.sort_by(|a, b| wire::compare(&a.labels, &b.labels));
        all.dedup_by(|a, b| a.labels == b.labels);
        for s in all {
            if !self.send(s).await? {
                break;
            }
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Status> {
        match self.frames.flush() {
            Some(message) => self.message(message).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<(), Status> {
        self.flush().await
    }
}

impl From<ReadError> for Status {
    fn from(e: ReadError) -> Self {
        Self::internal(format!("remote read from Prometheus: {e}"))
    }
}

impl From<OrderError> for Status {
    fn from(e: OrderError) -> Self {
        match e {
            OrderError::Late => Self::aborted(e.to_string()),
            OrderError::Budget(_) => Self::resource_exhausted(e.to_string()),
        }
    }
}

pub(super) async fn within<T>(
    deadline: Option<Duration>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(d) => tokio::time::timeout(d, work)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("Prometheus did not answer within {d:?}")))),
    }
}

#[tonic::async_trait]
impl Store for SidecarStore {
    type SeriesStream = ReceiverStream<Result<SeriesResponse, Status>>;

    async fn series(&self, r: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        let deadline = request::deadline(r.metadata());
        let select = Select::read(r.get_ref())?;
        let seen = self.0.watch.usable()?;
        let inner = Arc::clone(&self.0);
        let (tx, rx) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let work = within(deadline, inner.series(select, &seen, &tx));
            let outcome = tokio::select! {
                outcome = work => outcome,
                // Dropping the work closes the connection to Prometheus, which then stops reading.
                () = tx.closed() => return,
            };
            if let Err(status) = outcome {
                tracing::debug!(code = ?status.code(), error = status.message(), "Series failed");
                // A caller that is gone, or does not read, needs no error: its stream just ends here.
                let _unread = tx.send_timeout(Err(status), STALL).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn label_names(&self, r: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        within(request::deadline(r.metadata()), self.0.label_names(r.into_inner())).await.map(Response::new)
    }

    async fn label_values(&self, r: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        within(request::deadline(r.metadata()), self.0.label_values(r.into_inner())).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl Info for SidecarStore {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let seen = self.0.watch.seen();
        let labels = proto::labels::encode_set(&seen.external);
        let min_time = (self.0.min_time)().max(seen.lowest.unwrap_or(i64::MIN));
        let store = seen.usable.then(|| StoreInfo {
            min_time,
            max_time: i64::MAX,
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos: vec![TsdbInfo { labels: Some(labels.clone()), min_time, max_time: i64::MAX }],
            supports_projections: false,
        });
        Ok(Response::new(InfoResponse {
            label_sets: vec![labels],
            component_type: "sidecar".to_owned(),
            store,
            rules: Some(RulesInfo {}),
            metric_metadata: Some(MetricMetadataInfo {}),
            targets: Some(TargetsInfo {}),
            exemplars: Some(ExemplarsInfo { min_time, max_time: i64::MAX }),
            query: None,
            status: Some(StatusInfo {}),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::metrics::Metrics;
    use crate::server::ready::Readiness;

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_does_not_read_is_given_up() {
        let (tx, _rx) = mpsc::channel(1);
        let limits = Limits::new(0, 0, &Metrics::new("sidecar", Readiness::default()));
        let mut output = Output {
            relabel: Relabel::new(&Labels::empty(), &[]),
            shard: None,
            used: limits.start(),
            frames: Frames::new(1),
            limit: None,
            distinct: 0,
            last: None,
            tx: &tx,
        };
        let one = || Series { labels: proto::labels::encode(&Labels::from_pairs([("a", "b")])), chunks: Vec::new() };
        assert!(output.send(one()).await.unwrap());
        let status = output.send(one()).await.unwrap_err();
        assert!(status.message().contains("read nothing for 60s"), "{status}");
    }
}
