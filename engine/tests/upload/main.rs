//! The sidecar's upload: beside a real Prometheus and a real Thanos, and with blocks, buckets and configurations that are bad.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod beside_thanos;
mod setup;
