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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    grpc_service: String,
    grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
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
    // Only names of our own services become labels: a caller must not be able to fill the memory with made-up paths.
    let method = method(request.uri().path());
    metrics.started.get_or_create(&method).inc();
    let mut call = Call { metrics, clock, method, start, code: None };
    let response = next.run(request).await;
    // A call that fails at once has its status in the headers.
    call.read_code(response.headers());
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::new(Observed { body, call }))
}

fn method(path: &str) -> Method {
    const SERVICES: [&str; 4] = ["thanos.Store", "thanos.info.Info", "thanos.Query", "grpc.health.v1.Health"];
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (service, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let known = SERVICES.contains(&service) && name.len() < 32 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    let or_unknown = |s: &str| if known { s.to_owned() } else { "unknown".to_owned() };
    Method { grpc_service: or_unknown(service), grpc_method: or_unknown(name) }
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
            self.code = Some(code_name(code));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Method { grpc_service, grpc_method } = self.method.clone();
        let outcome = Outcome { grpc_service, grpc_method, grpc_code: self.code.unwrap_or("Canceled") };
        self.metrics.handled.get_or_create(&outcome).inc();
        let seconds = self.clock.elapsed().saturating_sub(self.start).as_secs_f64();
        self.metrics.seconds.get_or_create(&self.method).observe(seconds);
    }
}

/// The names of Go's gRPC library, which the dashboards match.
fn code_name(number: &str) -> &'static str {
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
    number.parse::<usize>().ok().and_then(|n| NAMES.get(n).copied()).unwrap_or("Unknown")
}

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
        assert_eq!(method("/evil.Service/x").grpc_service, "unknown");
        assert_eq!(method("/thanos.Store/../../x").grpc_method, "unknown");
        assert_eq!(code_name("14"), "Unavailable");
        assert_eq!(code_name("x"), "Unknown");
    }
}
