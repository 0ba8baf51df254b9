//! Our parser and our evaluator beside the real Prometheus: random queries (the same in every run), equal answers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panicking")]

mod evaluator;
mod parser;
mod random;
