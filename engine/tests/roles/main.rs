//! The roles of the engine in this process, beside real Prometheus and Thanos and beside fakes that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes live in real time")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod chunks;
#[allow(dead_code, reason = "the sidecar's own binary uses the rest")]
mod common;
mod compact;
mod downsampled;
mod evaluation;
mod fake_store;
mod g14;
mod g15;
mod g18;
mod g19;
mod g42;
mod gateway;
mod hostile;
mod lies;
mod links;
mod names;
mod penalty;
mod push;
mod querier;
mod recorded;
mod reload;
mod server;
mod services;
mod store_metrics;
mod stores;
mod thanos;
mod upload;
mod weeks;
