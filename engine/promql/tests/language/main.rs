//! The language: what is parsed, printed, planned and evaluated, without any other program.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panicking")]

mod evaluation;
mod execution;
mod hostile;
mod parse_golden;
mod parse_language;
mod parse_soup;
mod promqltest;
mod support;
mod tutorial;
#[path = "../common/words.rs"]
mod words;
