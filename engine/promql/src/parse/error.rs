//! Parse errors: Prometheus' text and position.

use super::ast::Span;
use std::fmt;

/// Why a text is not PromQL. Prints as `LINE:COL: parse error: TEXT`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ParseError {
    /// Which part of the text is blamed.
    pub span: Span,
    /// `LINE:COL` of its start, or why there is none.
    pub position: String,
    /// What is wrong with it.
    pub message: String,
}

impl ParseError {
    /// An error about a part of `input`.
    pub(crate) fn new(input: &str, span: Span, message: impl Into<String>) -> Self {
        Self { span, position: span.position(input), message: message.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: parse error: {}", self.position, self.message)
    }
}
