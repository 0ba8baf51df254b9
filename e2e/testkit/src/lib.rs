//! Fakes and real peers for tests: Prometheus, Thanos and a Kubernetes API server as processes on loopback, certificates, and a
//! metrics page that a test controls. Everything here is blocking and lives in real time; call it from a plain test, or from an
//! async test whose own tasks run on a multi-threaded runtime.
//!
//! Every test that needs a peer begins with
//! `if testkit::peers::skip(&["prometheus"]) { return; }`: with `PANOPTES_NO_PEERS=1` it prints a line and passes over the test;
//! without it, a missing peer is a failure that says how to get it.
#![allow(clippy::disallowed_methods, reason = "a test harness waits for real processes in real time")]

pub mod apiserver;
pub mod azure;
pub mod certs;
pub mod faults;
pub mod gcs;
pub mod goal;
pub mod http;
pub mod metrics_source;
pub mod oracle;
pub mod peers;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod prometheus_stub;
pub mod s3;
pub mod thanos;
pub mod wait;
mod wire;
