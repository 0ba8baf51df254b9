//! The row about memory: the same data offered by few and by many stores, read by a reader that is slower than they are.
//! The stores are fakes in this process, which cost a querier what real ones do.

use super::Part;
use super::fakes::{Fake, chunk, label};
use super::measure::peak_mib;
use anyhow::Context as _;
use bytes::Bytes;
use proto::thanos::store_client::StoreClient;
use proto::thanos::{LabelMatcher, Series, SeriesRequest, series_response};
use std::path::Path;
use std::time::Duration;
use testkit::thanos::Thanos;

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
    let data = Bytes::from(vec![7; CHUNK_BYTES]);
    for number in 0..count {
        let (store, data) = (label("store", format!("store-{number:02}")), data.clone());
        let external = vec![store.clone()];
        // The series of all stores interleave: the merge needs all of them all the time.
        let series = move |n: usize| Series {
            labels: vec![label("__name__", "bench"), label("n", format!("{n:06}")), store.clone()],
            chunks: (0..CHUNKS).map(|c| chunk(c * 1_800_000, c * 1_800_000 + 1_785_000, data.clone())).collect(),
        };
        addresses.push(Fake::new(external, SERIES / count, series).start().await?);
    }
    Ok(addresses)
}
