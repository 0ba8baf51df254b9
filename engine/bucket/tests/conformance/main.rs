//! One suite for every provider: what `CONTRACT.md` promises, tried.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, reason = "a test harness, in real time")]

mod bad_input;
mod catalogue;
mod look;
mod patience;
mod providers;
mod suite;
mod thanos;
