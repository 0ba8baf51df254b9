//! What is counted: Thanos's `thanos_objstore_bucket_*` series, one per call of a service, and every request that really goes
//! to the store.
//!
//! "Not found", "exists" and "changed" are answers, not failures. A call that succeeded after retries counts once, as a success.

use crate::error::{Error, Operation};
use crate::store::{Condition, Meta, Object, Page, Source, Store, Version};
use async_trait::async_trait;
use bytes::Bytes;
use model::world::World;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Bounds of `…_operation_duration_seconds`, as in Thanos.
const SECONDS: [f64; 14] = [0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    bucket: String,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBucket {
    bucket: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    bucket: String,
    method: String,
    code: String,
}

/// The metrics of all buckets of a process. Clones share them; register it once, as a [`Collector`].
#[derive(Debug, Clone)]
pub struct Meter(Arc<Series>);

#[derive(Debug)]
struct Series {
    operations: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    fetched: Family<Labels, Counter>,
    transferred: Family<Labels, Histogram, fn() -> Histogram>,
    last_upload: Family<OfBucket, Gauge<f64, AtomicU64>>,
    requests: Family<Request, Counter>,
    sent: Family<OfBucket, Counter>,
    skew: Family<OfBucket, Gauge<f64, AtomicU64>>,
    /// The same as `requests`, for tests and benchmarks.
    counts: Mutex<BTreeMap<String, u64>>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn bytes() -> Histogram {
    Histogram::new(exponential_buckets(32_768.0, 2.0, 16))
}

impl Default for Meter {
    fn default() -> Self {
        Self(Arc::new(Series {
            operations: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(seconds),
            fetched: Family::default(),
            transferred: Family::new_with_constructor(bytes),
            last_upload: Family::default(),
            requests: Family::default(),
            sent: Family::default(),
            skew: Family::default(),
            counts: Mutex::default(),
        }))
    }
}

impl Meter {
    /// The part of it that one bucket writes; all its series of Thanos's names are there from now on, at 0.
    pub fn of(&self, bucket: &str) -> BucketMeter {
        for operation in Operation::ALL {
            let labels = Labels { bucket: bucket.to_owned(), operation: operation.name() };
            drop(self.0.operations.get_or_create(&labels));
            drop(self.0.failures.get_or_create(&labels));
            drop(self.0.duration.get_or_create(&labels));
        }
        drop(self.0.last_upload.get_or_create(&OfBucket { bucket: bucket.to_owned() }));
        BucketMeter { meter: self.clone(), bucket: bucket.into() }
    }

    /// All requests that went to stores so far: by method and status (`PUT 200`, `GET failed`), over all buckets. A directory or
    /// memory counts its calls, as in `upload ok`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.0.counts.lock().clone()
    }

    /// Their sum.
    pub fn total(&self) -> u64 {
        self.0.counts.lock().values().sum()
    }
}

/// The metrics of one bucket.
#[derive(Debug, Clone)]
pub struct BucketMeter {
    meter: Meter,
    bucket: Arc<str>,
}

impl BucketMeter {
    fn labels(&self, operation: Operation) -> Labels {
        Labels { bucket: self.bucket.to_string(), operation: operation.name() }
    }

    fn of_bucket(&self) -> OfBucket {
        OfBucket { bucket: self.bucket.to_string() }
    }

    /// Counts one call: its time, whether it failed, and with `size` the bytes of its answer.
    pub(crate) async fn call<T>(
        &self,
        world: &World,
        operation: Operation,
        size: impl FnOnce(&T) -> u64,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let start = world.clock.elapsed();
        let result = call.await;
        let took = world.clock.elapsed().saturating_sub(start);
        let bytes = result.as_ref().map_or(0, size);
        self.finished(world, operation, took, bytes, result.as_ref().err());
        result
    }

    /// Counts one call that has ended.
    pub(crate) fn finished(
        &self,
        world: &World,
        operation: Operation,
        took: Duration,
        bytes: u64,
        error: Option<&Error>,
    ) {
        let (series, labels) = (&self.meter.0, self.labels(operation));
        series.operations.get_or_create(&labels).inc();
        if error.is_some_and(|e| !e.is_answer()) {
            series.failures.get_or_create(&labels).inc();
            return;
        }
        series.duration.get_or_create(&labels).observe(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
        match operation {
            Operation::Get | Operation::GetRange => {
                series.fetched.get_or_create(&labels).inc_by(bytes);
                series.transferred.get_or_create(&labels).observe(bytes as f64);
            }
            Operation::Upload if error.is_none() => {
                series.transferred.get_or_create(&labels).observe(bytes as f64);
                let now = world.clock.now_ms() as f64 / 1e3;
                series.last_upload.get_or_create(&self.of_bucket()).set(now);
            }
            _ => {}
        }
    }

    /// Counts one request to the store; `code` is its status, or a word.
    pub(crate) fn request(&self, method: &str, code: &str, sent: u64) {
        let series = &self.meter.0;
        let labels = Request { bucket: self.bucket.to_string(), method: method.to_owned(), code: code.to_owned() };
        series.requests.get_or_create(&labels).inc();
        series.sent.get_or_create(&self.of_bucket()).inc_by(sent);
        *series.counts.lock().entry(format!("{method} {code}")).or_default() += 1;
    }

    /// How far the store's clock is ahead of ours, in seconds.
    pub(crate) fn skew(&self, seconds: f64) {
        self.meter.0.skew.get_or_create(&self.of_bucket()).set(seconds);
    }
}

/// Counts the calls to a store that speaks no HTTP, as if each were one request.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: Arc<dyn Store>,
    meter: BucketMeter,
}

impl Counted {
    pub(crate) fn new(inner: Arc<dyn Store>, meter: BucketMeter) -> Self {
        Self { inner, meter }
    }

    fn count<T>(&self, operation: Operation, sent: u64, result: Result<T, Error>) -> Result<T, Error> {
        let code = match &result {
            Ok(_) => "ok",
            Err(e) if e.is_answer() => "no",
            Err(_) => "failed",
        };
        self.meter.request(operation.name(), code, sent);
        result
    }
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object, Error> {
        let operation = if range.is_some() { Operation::GetRange } else { Operation::Get };
        self.count(operation, 0, self.inner.get(path, range, max).await)
    }

    async fn head(&self, path: &str) -> Result<Meta, Error> {
        self.count(Operation::Attributes, 0, self.inner.head(path).await)
    }

    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page, Error> {
        self.count(Operation::Iter, 0, self.inner.list(prefix, one_level, token).await)
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version, Error> {
        let sent = body.len() as u64;
        self.count(Operation::Upload, sent, self.inner.put(path, body, condition).await)
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version, Error> {
        let sent = source.size();
        self.count(Operation::Upload, sent, self.inner.upload(path, source).await)
    }

    async fn begin_parts(&self, path: &str) -> Result<String, Error> {
        self.count(Operation::Upload, 0, self.inner.begin_parts(path).await)
    }

    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String, Error> {
        let sent = body.len() as u64;
        self.count(Operation::Upload, sent, self.inner.put_part(path, id, index, body).await)
    }

    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version, Error> {
        self.count(Operation::Upload, 0, self.inner.complete_parts(path, id, parts).await)
    }

    async fn abort_parts(&self, path: &str, id: &str) -> Result<(), Error> {
        self.count(Operation::Upload, 0, self.inner.abort_parts(path, id).await)
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        self.count(Operation::Delete, 0, self.inner.delete(path).await)
    }
}

fn encode<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &M,
    kind: MetricType,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
}

impl Collector for Meter {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        use MetricType::{Counter, Gauge, Histogram};
        let s = &self.0;
        let name = |rest: &str| format!("thanos_objstore_bucket_{rest}");
        encode(&mut e, &name("operations"), "Calls to object storage, by operation", &s.operations, Counter)?;
        let help = "Calls to object storage that failed, by operation; not found is an answer";
        encode(&mut e, &name("operation_failures"), help, &s.failures, Counter)?;
        let help = "Time of the calls that did not fail, in seconds, retries included";
        encode(&mut e, &name("operation_duration_seconds"), help, &s.duration, Histogram)?;
        let help = "Bytes that were read, by operation";
        encode(&mut e, &name("operation_fetched_bytes"), help, &s.fetched, Counter)?;
        let help = "Bytes of each read or write, by operation";
        encode(&mut e, &name("operation_transferred_bytes"), help, &s.transferred, Histogram)?;
        let help = "When the last write succeeded, in seconds since the epoch";
        encode(&mut e, &name("last_successful_upload_time"), help, &s.last_upload, Gauge)?;
        let help = "Requests that went to the store, retries and pages included";
        encode(&mut e, "panoptes_objstore_requests", help, &s.requests, Counter)?;
        encode(&mut e, "panoptes_objstore_sent_bytes", "Bytes of request bodies", &s.sent, Counter)?;
        let help = "How far the store's clock is ahead of ours, from its last answer";
        encode(&mut e, "panoptes_objstore_clock_skew_seconds", help, &s.skew, Gauge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use prometheus_client::registry::Registry;

    #[tokio::test]
    async fn thanoss_names_and_a_missing_object_is_no_failure() {
        let (meter, world) = (Meter::default(), World::real());
        let bucket = meter.of("b");
        for kind in [Kind::NotFound, Kind::Unavailable] {
            let error = Error::new(kind, Operation::Get, "x", "no");
            bucket.call(&world, Operation::Get, |()| 0, async { Err(error) }).await.unwrap_err();
        }
        bucket.call(&world, Operation::Upload, |()| 100, async { Ok(()) }).await.unwrap();
        bucket.request("PUT", "200", 100);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(meter.clone()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"thanos_objstore_bucket_operations_total{bucket="b",operation="get"} 2"#,
            r#"thanos_objstore_bucket_operation_failures_total{bucket="b",operation="get"} 1"#,
            r#"thanos_objstore_bucket_operation_failures_total{bucket="b",operation="delete"} 0"#,
            r#"thanos_objstore_bucket_operation_duration_seconds_bucket{le="0.001",bucket="b",operation="upload"} 1"#,
            r#"thanos_objstore_bucket_operation_transferred_bytes_bucket{le="32768.0",bucket="b",operation="upload"} 1"#,
            r#"panoptes_objstore_requests_total{bucket="b",method="PUT",code="200"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("last_successful_upload_time{bucket=\"b\"} 0"), "{text}");
        assert_eq!(meter.requests(), BTreeMap::from([("PUT 200".to_owned(), 1)]));
    }
}
