//! Our parser and our evaluator beside the real Prometheus and the real Thanos: random queries, equal answers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panicking")]

mod compare;
mod data;
mod evaluator;
mod fuzz;
mod metamorphic;
mod parser;
mod queries;
mod random;
mod server;
mod shrink;
mod stats;
mod thanos;
#[path = "../common/words.rs"]
mod words;
