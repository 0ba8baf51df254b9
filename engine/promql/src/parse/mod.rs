//! The language: lexer, parser, type check, printer.
//!
//! Everything that Prometheus 3.14 reads is read here, with the same trees, printed forms, error texts and positions.

pub mod ast;
mod check;
pub mod error;
pub mod functions;
pub mod json;
mod lexer;
mod literal;
pub mod options;
mod parser;
mod pretty;
mod print;
pub mod series;
mod suffix;
mod text;
mod token;
pub mod value_type;

pub use ast::*;
pub use error::ParseError;
pub use functions::{Function, FunctionId, Gate, function};
pub use options::Options;
pub use parser::{MAX_HEIGHT, MAX_NESTING};
pub use pretty::prettify;
pub use series::{SeriesItem, parse_series_description};
pub(crate) use text::quote_bytes;
pub use value_type::ValueType;

use model::{Labels, Matcher};
use parser::Parser;

/// Parses and type-checks a query.
pub fn parse_expr(input: &str, options: &Options) -> Result<Expr, ParseError> {
    let mut expr = Parser::new(input, options, false)?.query()?;
    check::check(input, &mut expr)?;
    Ok(expr)
}

/// Parses a selector, as in `match[]`. One that matches everything is not refused here.
pub fn parse_metric_selector(input: &str) -> Result<Vec<Matcher>, ParseError> {
    Ok(Parser::new(input, &Options::default(), false)?.lone_selector()?.matchers)
}

/// Parses a metric with its labels: `up{job="a"}`.
pub fn parse_metric(input: &str) -> Result<Labels, ParseError> {
    series::parse_metric(input)
}

/// Reads a number as PromQL writes it, without a sign. The error is Go's text.
pub fn parse_number(text: &str) -> Result<f64, String> {
    literal::number(text)
}
