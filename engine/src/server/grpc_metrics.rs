//! Metrics of gRPC calls, under the names that Thanos's dashboards and alerts read.

use super::metrics::Metrics;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http_body::Frame;
use model::world::Clock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

/// One method, as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// `unary` or `server_stream`.
    pub grpc_type: &'static str,
    /// With its package.
    pub grpc_service: &'static str,
    /// Its own name.
    pub grpc_method: &'static str,
}

/// How a call of a method ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `unary` or `server_stream`.
    pub grpc_type: &'static str,
    /// With its package.
    pub grpc_service: &'static str,
    /// Its own name.
    pub grpc_method: &'static str,
    /// As Go's library names it.
    pub grpc_code: &'static str,
}

impl Method {
    /// This method's end with `grpc_code`.
    pub fn ended(self, grpc_code: &'static str) -> Outcome {
        let Self { grpc_type, grpc_service, grpc_method } = self;
        Outcome { grpc_type, grpc_service, grpc_method, grpc_code }
    }
}

#[derive(Clone, Debug)]
pub(super) struct GrpcMetrics {
    started: Family<Method, Counter>,
    handled: Family<Outcome, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
}

fn histogram() -> Histogram {
    Histogram::new([0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0])
}

impl GrpcMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            started: metrics.register("grpc_server_started", "gRPC calls begun", Family::default()),
            handled: metrics.register("grpc_server_handled", "gRPC calls ended, by code", Family::default()),
            seconds: metrics.register(
                "grpc_server_handling_seconds",
                "Time from a gRPC call to its last byte",
                Family::new_with_constructor(histogram as fn() -> Histogram),
            ),
        }
    }
}

pub(super) async fn observe(
    State((metrics, clock)): State<(GrpcMetrics, Arc<dyn Clock>)>,
    request: Request,
    next: Next,
) -> Response {
    let start = clock.elapsed();
    let method = method(request.uri().path());
    metrics.started.get_or_create(&method).inc();
    let mut call = Call { metrics, clock, method, start, code: None };
    let response = next.run(request).await;
    // A call that fails at once has its status in the headers.
    call.read_code(response.headers());
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::new(Observed { body, call }))
}

/// Only what we serve becomes a label: a caller must not be able to fill the memory with made-up paths.
fn method(path: &str) -> Method {
    const METHODS: [(&str, &str, &str); 13] = [
        ("server_stream", "thanos.Rules", "Rules"),
        ("server_stream", "thanos.Targets", "Targets"),
        ("server_stream", "thanos.Metadata", "MetricMetadata"),
        ("server_stream", "thanos.Exemplars", "Exemplars"),
        ("server_stream", "thanos.Status", "TSDBStatistics"),
        ("server_stream", "thanos.Query", "Query"),
        ("server_stream", "thanos.Query", "QueryRange"),
        ("server_stream", "thanos.Store", "Series"),
        ("unary", "thanos.Store", "LabelNames"),
        ("unary", "thanos.Store", "LabelValues"),
        ("unary", "thanos.info.Info", "Info"),
        ("unary", "grpc.health.v1.Health", "Check"),
        ("server_stream", "grpc.health.v1.Health", "Watch"),
    ];
    let asked = path.strip_prefix('/').and_then(|p| p.split_once('/'));
    let known = METHODS.iter().find(|(_, service, name)| asked == Some((service, name)));
    let (grpc_type, grpc_service, grpc_method) = known.copied().unwrap_or(("unary", "unknown", "unknown"));
    Method { grpc_type, grpc_service, grpc_method }
}

/// One call; it is counted when it is dropped, so a cancelled call counts too.
struct Call {
    metrics: GrpcMetrics,
    clock: Arc<dyn Clock>,
    method: Method,
    start: Duration,
    code: Option<&'static str>,
}

impl Call {
    fn read_code(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status").and_then(|c| c.to_str().ok()) {
            self.code = Some(number_name(code));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let outcome = self.method.ended(self.code.unwrap_or("Canceled"));
        self.metrics.handled.get_or_create(&outcome).inc();
        let seconds = self.clock.elapsed().saturating_sub(self.start).as_secs_f64();
        self.metrics.seconds.get_or_create(&self.method).observe(seconds);
    }
}

/// The name of a status code in Go's gRPC library, which dashboards and alerts match.
pub fn code_name(code: tonic::Code) -> &'static str {
    NAMES.get(code as usize).copied().unwrap_or("Unknown")
}

fn number_name(number: &str) -> &'static str {
    number.parse::<usize>().ok().and_then(|n| NAMES.get(n).copied()).unwrap_or("Unknown")
}

const NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// A body that reads the status from the trailers as they pass.
struct Observed {
    body: Body,
    call: Call,
}

impl http_body::Body for Observed {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.read_code(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_paths_do_not_become_labels() {
        assert_eq!(method("/thanos.Store/Series").grpc_method, "Series");
        for path in ["/evil.Service/x", "/thanos.Store/Series2", "/thanos.Store/", "/thanos.Info/Series", "", "x"] {
            assert_eq!(method(path).grpc_method, "unknown", "{path}");
        }
        assert_eq!(number_name("14"), "Unavailable");
        assert_eq!(number_name("x"), "Unknown");
        assert_eq!(code_name(tonic::Code::Ok), "OK");
        assert_eq!(code_name(tonic::Code::Cancelled), "Canceled");
    }
}
