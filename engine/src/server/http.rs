//! The HTTP routes that every part has.

use super::Context;
use args::state::State;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// Gives a part's state document.
pub type StateFn = Arc<dyn Fn() -> State + Send + Sync>;

pub(super) fn router(context: &Context, component: &'static str, state: StateFn) -> Router {
    let (ready, metrics, status) = (context.ready.clone(), context.metrics.clone(), context.ready.clone());
    Router::new()
        .route("/-/healthy", get(|| async { "healthy\n" }))
        .route(
            "/-/ready",
            get(move || async move {
                match ready.reason() {
                    None => (StatusCode::OK, "ready\n".to_owned()),
                    Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
                }
            }),
        )
        .route("/metrics", get(move || async move { render(metrics.render()) }))
        .route(
            args::state::PATH,
            get(move || async move {
                let mut document = state();
                document.format = args::state::FORMAT;
                component.clone_into(&mut document.component);
                env!("CARGO_PKG_VERSION").clone_into(&mut document.version);
                document.ready = status.is_ready();
                axum::Json(document)
            }),
        )
}

fn render(metrics: Result<String, std::fmt::Error>) -> Response {
    match metrics {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a metric can't be written\n").into_response(),
    }
}
