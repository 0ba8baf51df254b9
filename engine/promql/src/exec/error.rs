//! Why a query failed, in Prometheus's words.

use super::budget::Overrun;
use crate::parse::ParseError;

/// Why a query gave no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// The text is not PromQL, or has the wrong type for a range query (HTTP 400, `bad_data`).
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The request makes no sense: a range query that gives a range vector, a bad step (HTTP 400, `bad_data`).
    #[error("{0}")]
    BadRequest(String),
    /// The evaluation can't go on: duplicate labels, many-to-many matching, a bad label name (HTTP 422, `execution`).
    #[error("{0}")]
    Execution(String),
    /// More samples than [`super::EngineOptions::max_samples`] at once (HTTP 422, `execution`).
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// More bytes than the query or the process may hold (HTTP 422, `execution`).
    #[error(transparent)]
    TooManyBytes(Box<Overrun>),
    /// The deadline has passed (HTTP 503, `timeout`).
    #[error("query timed out in expression evaluation")]
    Timeout,
    /// The caller has gone (HTTP 503, `canceled`; Thanos 499).
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// The source failed (HTTP 500, `internal`; 422 in Thanos).
    #[error("expanding series: {0}")]
    Storage(String),
}

impl QueryError {
    /// An [`QueryError::Execution`].
    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self::Execution(message.into())
    }
}
