//! Metrics of HTTP requests, under Thanos's names.

use crate::server::metrics::Metrics;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, FromFnLayer, Next};
use axum::response::Response;
use model::world::Clock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::pin::Pin;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request1 {
    code: u16,
    handler: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handler {
    handler: &'static str,
    method: &'static str,
}

#[derive(Clone)]
pub(super) struct Watch {
    requests: Family<Request1, Counter>,
    seconds: Family<Request1, Histogram, fn() -> Histogram>,
    inflight: Family<Handler, Gauge>,
    clock: Arc<dyn Clock>,
}

fn histogram() -> Histogram {
    Histogram::new([
        0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0, 240.0, 360.0, 720.0,
    ])
}

pub(super) type Observe =
    fn(State<(Watch, &'static str)>, Request, Next) -> Pin<Box<dyn Future<Output = Response> + Send>>;
pub(super) type Layer = FromFnLayer<Observe, (Watch, &'static str), (State<(Watch, &'static str)>, Request)>;

impl Watch {
    pub(super) fn register(metrics: &Metrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            requests: metrics.register("http_requests", "Tracks the number of HTTP requests", Family::default()),
            seconds: metrics.register(
                "http_request_duration_seconds",
                "Tracks the latencies for HTTP requests",
                Family::new_with_constructor(histogram as fn() -> Histogram),
            ),
            inflight: metrics.register(
                "http_inflight_requests",
                "Current number of HTTP requests the handler is responding to",
                Family::default(),
            ),
            clock,
        }
    }

    /// Counts what a handler does, until its answer begins.
    pub(super) fn layer(&self, handler: &'static str) -> Layer {
        middleware::from_fn_with_state((self.clone(), handler), observe as Observe)
    }
}

struct Inside(Gauge);
impl Drop for Inside {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn observe(
    State((watch, handler)): State<(Watch, &'static str)>,
    request: Request,
    next: Next,
) -> Pin<Box<dyn Future<Output = Response> + Send>> {
    Box::pin(async move {
        // Made-up methods must not become labels.
        let method = match *request.method() {
            Method::GET => "get",
            Method::POST => "post",
            Method::OPTIONS => "options",
            Method::HEAD => "head",
            _ => "other",
        };
        let inflight = watch.inflight.get_or_create_owned(&Handler { handler, method });
        inflight.inc();
        let _inside = Inside(inflight);
        let begin = watch.clock.elapsed();
        let response = next.run(request).await;
        let labels = Request1 { code: response.status().as_u16(), handler, method };
        watch.requests.get_or_create(&labels).inc();
        let took = watch.clock.elapsed().saturating_sub(begin);
        watch.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        response
    })
}
