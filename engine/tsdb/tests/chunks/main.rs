//! Chunks beside Prometheus's own code (`e2e/peers/prometheus-blocks`): the same samples must become the same bytes, the same
//! bytes the same samples.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod golden;
mod prometheus;
mod real_blocks;
mod series;
mod wire;
