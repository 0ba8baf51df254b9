//! Stores in this process, of which a querier costs what it does over real ones: what they have was made before.

use bytes::Bytes;
use proto::info::info_server::{Info, InfoServer};
use proto::info::{InfoRequest, InfoResponse, StoreInfo};
use proto::thanos::store_server::{Store, StoreServer};
use proto::thanos::{
    AggrChunk, Chunk, Label, LabelNamesRequest, LabelNamesResponse, LabelSet, LabelValuesRequest, LabelValuesResponse,
    Series, SeriesBatch, SeriesRequest, SeriesResponse, series_response,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A store: it gives all its series whatever the matchers are, with the chunks of the time that is asked for.
#[derive(Clone)]
pub(super) struct Fake {
    /// Its external labels, sorted.
    pub(super) external: Vec<Label>,
    /// How many series it has.
    pub(super) count: usize,
    /// Makes the n-th of them, in their order, with the external labels.
    pub(super) series: Arc<dyn Fn(usize) -> Series + Send + Sync>,
    /// It takes a call and says nothing.
    pub(super) hangs: Arc<AtomicBool>,
}

impl Fake {
    pub(super) fn new(
        external: Vec<Label>,
        count: usize,
        series: impl Fn(usize) -> Series + Send + Sync + 'static,
    ) -> Self {
        Self { external, count, series: Arc::new(series), hangs: Arc::default() }
    }

    /// With series that are made already.
    pub(super) fn of(external: Vec<Label>, series: Vec<Series>) -> Self {
        let (count, series) = (series.len(), Arc::<[Series]>::from(series));
        Self::new(external, count, move |n| series.get(n).cloned().unwrap_or_default())
    }

    /// Starts it; it ends with the runtime. Gives its address.
    pub(super) async fn start(&self) -> anyhow::Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let server = tonic::transport::Server::builder()
            .add_service(StoreServer::new(self.clone()))
            .add_service(InfoServer::new(self.clone()))
            // Otherwise the end of each answer waits 40 ms for an acknowledgement, whoever asks.
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(server);
        Ok(address)
    }

    fn give(&self, n: usize, r: &SeriesRequest) -> Series {
        let mut series = (self.series)(n);
        series.chunks.retain(|c| c.min_time <= r.max_time && c.max_time >= r.min_time);
        series.labels.retain(|l| !r.without_replica_labels.iter().any(|w| w.as_bytes() == &l.name[..]));
        series
    }
}

/// A label.
pub(super) fn label(name: &str, value: impl Into<Bytes>) -> Label {
    Label { name: Bytes::copy_from_slice(name.as_bytes()), value: value.into() }
}

/// A chunk of raw samples of these times in ms, both included. Equal hashes within one series would be duplicates.
pub(super) fn chunk(min_time: i64, max_time: i64, data: Bytes) -> AggrChunk {
    let raw = Some(Chunk { r#type: 0, data, hash: min_time.unsigned_abs() + 1 });
    AggrChunk { min_time, max_time, raw, ..AggrChunk::default() }
}

#[tonic::async_trait]
impl Store for Fake {
    type SeriesStream = ReceiverStream<Result<SeriesResponse, Status>>;

    async fn series(&self, r: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let r = r.into_inner();
        let batch = usize::try_from(r.response_batch_size).unwrap_or(1).max(1);
        let (to, from) = mpsc::channel(1);
        let me = self.clone();
        tokio::spawn(async move {
            let mut next = 0;
            while next < me.count {
                let end = (next + batch).min(me.count);
                let mut batch: Vec<Series> =
                    (next..end).map(|n| me.give(n, &r)).filter(|s| r.skip_chunks || !s.chunks.is_empty()).collect();
                next = end;
                let result = match batch.pop() {
                    None => continue,
                    Some(one) if batch.is_empty() => series_response::Result::Series(one),
                    last => {
                        batch.extend(last);
                        series_response::Result::Batch(SeriesBatch { series: batch })
                    }
                };
                if to.send(Ok(SeriesResponse { result: Some(result) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<Response<LabelNamesResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<Response<LabelValuesResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }
}

#[tonic::async_trait]
impl Info for Fake {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            label_sets: vec![LabelSet { labels: self.external.clone() }],
            component_type: "store".to_owned(),
            store: Some(StoreInfo {
                min_time: 0,
                max_time: i64::MAX,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        }))
    }
}
