//! Errors of the HTTP API, in Prometheus's envelope.

use super::json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use promql::exec::QueryError;

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    kind: &'static str,
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// The request is wrong: 400.
    pub fn bad_data(message: impl Into<String>) -> Self {
        Self { kind: "bad_data", status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The request can't be carried out: 422.
    pub fn execution(message: impl Into<String>) -> Self {
        Self { kind: "execution", status: StatusCode::UNPROCESSABLE_ENTITY, message: message.into() }
    }

    /// What is asked for does not exist: 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { kind: "not_found", status: StatusCode::NOT_FOUND, message: message.into() }
    }
}

impl From<QueryError> for ApiError {
    fn from(e: QueryError) -> Self {
        let message = e.to_string();
        match e {
            QueryError::Parse(_) => super::params::invalid("query", &message),
            QueryError::BadRequest(_) => Self::bad_data(message),
            QueryError::Execution(_)
            | QueryError::TooManySamples
            | QueryError::TooManyBytes(_)
            | QueryError::Storage(_) => Self::execution(message),
            QueryError::Timeout => Self { kind: "timeout", status: StatusCode::SERVICE_UNAVAILABLE, message },
            QueryError::Canceled => Self { kind: "canceled", status: StatusCode::SERVICE_UNAVAILABLE, message },
        }
    }
}

impl From<crate::query::fanout::Failed> for ApiError {
    fn from(e: crate::query::fanout::Failed) -> Self {
        Self::execution(e.0)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = format!("{{\"status\":\"error\",\"errorType\":\"{}\",\"error\":", self.kind);
        json::html_string(&mut body, &self.message);
        body.push('}');
        let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
        (self.status, headers, body).into_response()
    }
}
