//! A store gateway as a process over a bucket of the emulated Google storage: ours or Thanos's, and what it spends.

use crate::bench::measure::{cpu_s, peak_mib};
use anyhow::Context as _;
use proto::thanos::store_client::StoreClient;
use proto::thanos::{LabelMatcher, LabelNamesRequest, LabelValuesRequest, Series, SeriesRequest, series_response};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::gcs::{self, Gcs};
use testkit::process::Process;
use testkit::{http, peers, ports, wait};
use tonic::transport::Channel;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The peer.
    Thanos,
    /// This binary.
    Ours(&'a Path),
}

/// A running store; it ends when dropped.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    http: String,
    grpc: String,
}

/// What a store spent so far, and what it cost the bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Seconds of CPU.
    pub cpu_s: f64,
    /// Highest resident memory, MiB.
    pub peak_mib: f64,
    /// Requests that the bucket answered, of everybody.
    pub requests: u64,
    /// Bytes that it fetched.
    pub bytes: f64,
}

impl Gateway {
    /// Starts a store over `bucket`; `dir` is its folder, with a log beside its data. It need not be ready.
    ///
    /// # Errors
    /// When the peer is missing, or the process can't be started.
    pub fn spawn(kind: Kind<'_>, dir: &Path, gcs: &Gcs, bucket: &str, args: &[String]) -> anyhow::Result<Self> {
        let key = gcs::key("bench", "bench@example.com", &gcs.url())?.to_string();
        let mut config = json!({"service_account": key, "bucket": bucket});
        let (program, name) = match kind {
            Kind::Thanos => (peers::path("thanos")?, "thanos-store"),
            Kind::Ours(binary) => {
                config["endpoint"] = gcs.url().into();
                (binary.to_owned(), "panoptes-store")
            }
        };
        std::fs::create_dir_all(dir)?;
        let (http, grpc) = (ports::free()?, ports::free()?);
        let mut command = Command::new(program);
        command
            .arg("store")
            .arg(format!("--http-address=127.0.0.1:{http}"))
            .arg(format!("--grpc-address=127.0.0.1:{grpc}"))
            .arg(format!("--data-dir={}", dir.join(name).display()))
            .arg(format!("--objstore.config={}", json!({"type": "GCS", "config": config})))
            .args(args)
            .env("STORAGE_EMULATOR_HOST", gcs.url());
        let process = Process::spawn(name, &mut command, &dir.join(format!("{name}.log")))?;
        Ok(Self { process, http: format!("http://127.0.0.1:{http}"), grpc: format!("127.0.0.1:{grpc}") })
    }

    /// Waits until the store is ready and serves so many blocks.
    ///
    /// # Errors
    /// When it takes longer; with its log.
    pub fn wait_for_blocks(&mut self, blocks: usize, within: Duration) -> anyhow::Result<()> {
        let ready = format!("{}/-/ready", self.http);
        let loaded = || {
            anyhow::ensure!(http::get(&ready).is_ok_and(|answer| answer.status == 200), "it is not ready");
            let now = self.metric("thanos_bucket_store_blocks_loaded")?;
            anyhow::ensure!(now >= blocks as f64, "it serves {now} of {blocks} blocks");
            Ok(())
        };
        wait::until("the store to load its blocks", within, Duration::from_millis(20), loaded)
            .with_context(|| self.process.log())
    }

    /// The sum of a metric over its label sets; 0 if there is none yet.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = http::get(&format!("{}/metrics", self.http))?.body;
        let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        Ok(text.lines().filter(own).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// What it spent so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn spent(&self, gcs: &Gcs) -> anyhow::Result<Spent> {
        let pid = self.process.id();
        Ok(Spent {
            cpu_s: cpu_s(pid)?,
            peak_mib: peak_mib(pid)?,
            requests: gcs.requests().values().sum(),
            bytes: self.metric("thanos_objstore_bucket_operation_fetched_bytes_total")?,
        })
    }

    /// Where its StoreAPI answers, as in `127.0.0.1:20018`.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// A caller of a store.
#[derive(Debug, Clone)]
pub struct Client(StoreClient<Channel>);

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self(StoreClient::new(channel).max_decoding_message_size(256 << 20)))
    }

    /// All series of a request, within 30 s; a warning is an error.
    ///
    /// # Errors
    /// When the store refuses or warns.
    pub async fn series(&mut self, request: SeriesRequest) -> anyhow::Result<Vec<Series>> {
        tokio::time::timeout(PATIENCE, self.all_series(request)).await.context("no end of the answer within 30 s")?
    }

    async fn all_series(&mut self, request: SeriesRequest) -> anyhow::Result<Vec<Series>> {
        let mut stream = self.0.series(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.message().await? {
            match message.result {
                Some(series_response::Result::Series(series)) => all.push(series),
                Some(series_response::Result::Batch(batch)) => all.extend(batch.series),
                Some(series_response::Result::Warning(warning)) => anyhow::bail!("the store warns: {warning}"),
                Some(series_response::Result::Hints(_)) | None => {}
            }
        }
        Ok(all)
    }

    /// The names of labels.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn label_names(&mut self, request: LabelNamesRequest) -> anyhow::Result<Vec<String>> {
        Ok(self.0.label_names(request).await?.into_inner().names)
    }

    /// The values of a label.
    ///
    /// # Errors
    /// When the store refuses or warns.
    pub async fn label_values(&mut self, request: LabelValuesRequest) -> anyhow::Result<Vec<String>> {
        let answer = self.0.label_values(request).await?.into_inner();
        anyhow::ensure!(answer.warnings.is_empty(), "the store warns: {}", answer.warnings.join("; "));
        Ok(answer.values)
    }
}

/// A request for everything that matches `name op value` (op as on the wire: 0 `=`, 2 `=~`) from `min` to `max`, ms.
pub fn request(matchers: &[(i32, &str, &str)], min: i64, max: i64) -> SeriesRequest {
    let matcher = |(op, name, value): &(i32, &str, &str)| LabelMatcher {
        r#type: *op,
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    SeriesRequest {
        min_time: min,
        max_time: max,
        matchers: matchers.iter().map(matcher).collect(),
        ..Default::default()
    }
}
