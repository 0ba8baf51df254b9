//! The HTTP API: Prometheus's, with Thanos's parameters.

pub mod error;
mod exemplars;
pub mod json;
mod metadata;
pub mod params;
mod query;
mod rules;
mod status;
mod targets;
mod tsdb;
mod values;
mod watch;

use super::eval::Evaluator;
use super::fanout::Terms;
use super::warning::{Missing, Warning};
use super::{own_replica_labels, split_list};
use crate::server::metrics::Metrics;
use args::QueryArgs;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use error::ApiError;
use http::{HeaderValue, StatusCode, header};
use model::world::World;
use params::Params;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};

/// Largest form, bytes; Go's limit.
const MAX_FORM: usize = 10 << 20;
/// Size of the pieces in which an answer is sent, bytes.
const PIECE: usize = 64 << 10;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    evaluator: Evaluator,
    world: World,
    args: Arc<QueryArgs>,
    started_ms: i64,
    /// Metadata calls have places of their own: a dashboard's variables do not wait for its slow panels.
    metadata_places: Arc<Semaphore>,
}

impl Api {
    /// The routes, with metrics, compression and CORS.
    pub fn router(args: Arc<QueryArgs>, evaluator: Evaluator, world: World, metrics: &Metrics) -> Router {
        let started_ms = world.clock.now_ms();
        let watch = watch::Watch::register(metrics, Arc::clone(&world.clock));
        let disable_cors = args.disable_cors.0;
        let prefix = prefix(&args.route_prefix);
        let places = usize::try_from(args.max_concurrent).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let metadata_places = Arc::new(Semaphore::new(places));
        let api = Arc::new(Self { evaluator, world, args, started_ms, metadata_places });
        let both = |name: &'static str| watch.layer(name);
        let v1 = Router::new()
            .route("/query", get(query::instant).post(query::instant).layer(both("query")))
            .route("/query_range", get(query::range).post(query::range).layer(both("query_range")))
            .route("/query_explain", get(query::explain_instant).post(query::explain_instant).layer(both("query")))
            .route(
                "/query_range_explain",
                get(query::explain_range).post(query::explain_range).layer(both("query_range")),
            )
            .route("/series", get(metadata::series).post(metadata::series).layer(both("series")))
            .route("/labels", get(metadata::names).post(metadata::names).layer(both("label_names")))
            .route("/label/{name}/values", get(metadata::values).layer(both("label_values")))
            .route("/format_query", get(query::format).post(query::format).layer(both("format_query")))
            .route("/parse_query", get(query::parse).post(query::parse).layer(both("parse_query")))
            .route("/rules", get(rules::rules).layer(both("rules")))
            .route("/alerts", get(rules::alerts).layer(both("alerts")))
            .route("/targets", get(targets::targets).layer(both("targets")))
            .route("/metadata", get(tsdb::metric_metadata).layer(both("metadata")))
            .route(
                "/query_exemplars",
                get(exemplars::exemplars).post(exemplars::exemplars).layer(both("query_exemplars")),
            )
            .route("/status/tsdb", get(tsdb::status).layer(both("status_tsdb")))
            .route("/stores", get(status::stores).layer(both("stores")))
            .route("/status/buildinfo", get(status::build).layer(both("status_build")))
            .route("/status/runtimeinfo", get(status::runtime).layer(both("status_runtime")))
            .route("/status/flags", get(status::flags).layer(both("status_flags")))
            .fallback(unknown)
            .layer(axum::extract::DefaultBodyLimit::max(MAX_FORM))
            .with_state(api);
        let mut router = Router::new().nest(&format!("{prefix}/api/v1"), v1).layer(CompressionLayer::new());
        if !disable_cors {
            let cors = CorsLayer::new()
                .allow_origin(Any)
                .allow_methods([http::Method::GET, http::Method::POST, http::Method::OPTIONS])
                .allow_headers([header::ACCEPT, header::AUTHORIZATION, header::CONTENT_TYPE, header::ORIGIN]);
            router = router.layer(cors);
        }
        router
    }

    /// The replica labels that a request wants removed.
    fn replica_labels(&self, p: &Params) -> Result<Vec<String>, ApiError> {
        if !p.bool("dedup", true)? {
            return Ok(Vec::new());
        }
        let asked = p.all("replicaLabels[]");
        Ok(if asked.is_empty() { own_replica_labels(&self.args) } else { split_list(asked) })
    }

    /// How long a call of one of the smaller services may take, and its terms; `partial` is what holds if it does not say.
    fn service_terms(&self, p: &Params, partial: bool) -> Result<(Duration, Terms), ApiError> {
        let timeout = p.timeout(self.args.timeout.duration())?;
        let partial = p.bool("partial_response", partial)?;
        Ok((timeout, self.evaluator.fanout().terms(partial, timeout, self.args.max_bytes)))
    }

    fn partial(&self, p: &Params) -> Result<bool, ApiError> {
        p.bool("partial_response", self.args.partial_response.0)
    }
}

/// A path that we don't have. Prometheus answers 404 in plain text; 405 would make Grafana try another method.
async fn unknown(method: http::Method) -> Response {
    match method {
        http::Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

fn prefix(route: &str) -> String {
    let route = route.trim_matches('/');
    if route.is_empty() { String::new() } else { format!("/{route}") }
}

/// An answer in the envelope; `data` is JSON already.
fn success(data: &str, warnings: &[Warning], infos: &[String]) -> Response {
    let mut body = String::with_capacity(data.len() + 64);
    body.push_str("{\"status\":\"success\",\"data\":");
    body.push_str(data);
    end(&mut body, warnings, infos);
    reply(Body::from(body), warnings)
}

/// Closes the envelope.
fn end(body: &mut String, warnings: &[Warning], infos: &[String]) {
    let texts: Vec<String> = warnings.iter().map(|w| w.text.clone()).collect();
    for (name, list) in [("warnings", texts.as_slice()), ("infos", infos)] {
        if !list.is_empty() {
            body.push_str(",\"");
            body.push_str(name);
            body.push_str("\":");
            json::strings(body, list);
        }
    }
    // The same for programs: who is missing, since and until when (milliseconds since the epoch), and why.
    let missing = warnings.iter().filter_map(|w| Some(missing(w.missing()?, w.range)));
    let missing: Vec<serde_json::Value> = missing.collect();
    if !missing.is_empty() {
        body.push_str(",\"missing\":");
        body.push_str(&serde_json::Value::Array(missing).to_string());
    }
    body.push('}');
}

fn missing(m: Missing<'_>, range: Option<(i64, i64)>) -> serde_json::Value {
    let mut out = serde_json::json!({ "store": m.store, "reason": m.reason });
    if let Some(via) = m.via {
        out["via"] = via.into();
    }
    // A bound that nobody gave is none.
    for (name, time) in [("minTime", range.map(|r| r.0)), ("maxTime", range.map(|r| r.1))] {
        if let Some(t) = time.filter(|t| *t != i64::MIN && *t != i64::MAX) {
            out[name] = t.into();
        }
    }
    out
}

/// The headers of a good answer. An answer that lacks something must not be cached.
fn reply(body: Body, warnings: &[Warning]) -> Response {
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    if warnings.iter().any(|w| !w.text.starts_with("PromQL ")) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
