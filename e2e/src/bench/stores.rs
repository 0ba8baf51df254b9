//! The row about memory: the same data offered by few and by many stores, read by a reader that is slower than they are.
//! The stores are fakes in this process, which cost a querier what real ones do.

use super::Part;
use super::measure::peak_mib;
use anyhow::Context as _;
use bytes::Bytes;
use proto::info::info_server::{Info, InfoServer};
use proto::info::{InfoRequest, InfoResponse, StoreInfo};
use proto::thanos::store_client::StoreClient;
use proto::thanos::store_server::{Store, StoreServer};
use proto::thanos::{
    AggrChunk, Chunk, Label, LabelMatcher, LabelNamesRequest, LabelNamesResponse, LabelSet, LabelValuesRequest,
    LabelValuesResponse, Series, SeriesBatch, SeriesRequest, SeriesResponse, series_response,
};
use std::path::Path;
use std::time::Duration;
use testkit::thanos::Thanos;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// Numbers of stores that share the data.
const STORES: [usize; 3] = [3, 12, 48];
/// Series of all stores together.
const SERIES: usize = 12_000;
/// Chunks of each.
const CHUNKS: i64 = 24;
/// Bytes of each chunk; nobody decodes them.
const CHUNK_BYTES: usize = 700;
/// Messages that the reader takes before it rests for a moment.
const GULP: usize = 2;

/// Peak memory of a querier, in MiB, for each number of stores: the peer's and ours.
pub(super) fn memory(binary: &Path, dir: &Path) -> anyhow::Result<Vec<(usize, f64, f64)>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rows = Vec::new();
    for count in STORES {
        let addresses = runtime.block_on(start(count))?;
        let thanos = Thanos::query(&addresses, &["replica"])?;
        wait_for_stores(&thanos.url(), count)?;
        let series = runtime.block_on(read_slowly(&thanos.grpc_address()))?;
        anyhow::ensure!(series == SERIES, "thanos gave {series} series of {count} stores");
        let peer = peak_mib(thanos.process().id())?;
        drop(thanos);
        let mut args: Vec<String> = addresses.iter().map(|e| format!("--endpoint={e}")).collect();
        args.push("--query.replica-label=replica".to_owned());
        let ours = Part::start(binary, dir, &format!("query-of-{count}"), "query", &args)?;
        wait_for_stores(&ours.http, count)?;
        let series = runtime.block_on(read_slowly(&ours.grpc))?;
        anyhow::ensure!(series == SERIES, "ours gave {series} series of {count} stores");
        rows.push((count, peer, peak_mib(ours.process.id())?));
    }
    Ok(rows)
}

/// Megabytes that are read each time.
pub(super) fn megabytes() -> usize {
    SERIES * CHUNKS.unsigned_abs() as usize * CHUNK_BYTES / 1_000_000
}

fn wait_for_stores(url: &str, count: usize) -> anyhow::Result<()> {
    super::measure::Querier::new("querier", url, 0).wait_for_stores(count)
}

/// Reads everything at about a tenth of the speed of the stores.
async fn read_slowly(address: &str) -> anyhow::Result<usize> {
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = StoreClient::new(channel).max_decoding_message_size(64 << 20);
    let request = SeriesRequest {
        min_time: 0,
        max_time: i64::MAX,
        matchers: vec![LabelMatcher { r#type: 0, name: "__name__".into(), value: "bench".into() }],
        ..SeriesRequest::default()
    };
    let mut stream = client.series(request).await?.into_inner();
    let (mut series, mut messages) = (0, 0usize);
    while let Some(message) = stream.message().await? {
        match message.result.context("an empty message")? {
            series_response::Result::Series(_) => series += 1,
            series_response::Result::Batch(b) => series += b.series.len(),
            series_response::Result::Warning(w) => anyhow::bail!("warning: {w}"),
            series_response::Result::Hints(_) => {}
        }
        messages += 1;
        if messages.is_multiple_of(GULP * 64) {
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }
    Ok(series)
}

/// Starts that many stores; they end with the runtime.
async fn start(count: usize) -> anyhow::Result<Vec<String>> {
    let mut addresses = Vec::new();
    for number in 0..count {
        let port = testkit::ports::free()?;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let offer = Offer { name: format!("store-{number:02}"), series: SERIES / count };
        let server = tonic::transport::Server::builder()
            .add_service(StoreServer::new(offer.clone()))
            .add_service(InfoServer::new(offer))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        addresses.push(format!("127.0.0.1:{port}"));
    }
    Ok(addresses)
}

/// What one store has.
#[derive(Clone)]
struct Offer {
    name: String,
    series: usize,
}

impl Offer {
    fn label(&self) -> Label {
        Label { name: "store".into(), value: self.name.clone().into() }
    }
}

fn series(offer: &Offer, number: usize, data: &Bytes) -> Series {
    let chunk = |n: i64| AggrChunk {
        min_time: n * 1_800_000,
        max_time: n * 1_800_000 + 1_785_000,
        // Equal hashes within one series would be duplicates.
        raw: Some(Chunk { r#type: 0, data: data.clone(), hash: n.unsigned_abs() + 1 }),
        ..AggrChunk::default()
    };
    let label = |name: &'static str, value: String| Label { name: name.into(), value: value.into() };
    // The series of all stores interleave: the merge needs all of them all the time.
    let labels = vec![label("__name__", "bench".to_owned()), label("n", format!("{number:06}")), offer.label()];
    Series { labels, chunks: (0..CHUNKS).map(chunk).collect() }
}

#[tonic::async_trait]
impl Store for Offer {
    type SeriesStream = ReceiverStream<Result<SeriesResponse, Status>>;

    async fn series(&self, r: Request<SeriesRequest>) -> Result<Response<Self::SeriesStream>, Status> {
        let batch = usize::try_from(r.get_ref().response_batch_size).unwrap_or(1).max(1);
        let (to, from) = mpsc::channel(1);
        let offer = self.clone();
        tokio::spawn(async move {
            let data = Bytes::from(vec![7; CHUNK_BYTES]);
            let mut next = 0;
            while next < offer.series {
                let end = (next + batch).min(offer.series);
                let mut batch: Vec<Series> = (next..end).map(|n| series(&offer, n, &data)).collect();
                let result = match batch.pop() {
                    Some(one) if batch.is_empty() => series_response::Result::Series(one),
                    last => {
                        batch.extend(last);
                        series_response::Result::Batch(SeriesBatch { series: batch })
                    }
                };
                if to.send(Ok(SeriesResponse { result: Some(result) })).await.is_err() {
                    return;
                }
                next = end;
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
impl Info for Offer {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            label_sets: vec![LabelSet { labels: vec![self.label()] }],
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
