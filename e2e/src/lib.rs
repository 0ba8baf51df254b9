//! Whole clusters on one machine: the harness of the demo, and the end-to-end stories.
//!
//! `e2e up` starts real Kubernetes clusters, each in a network namespace of its own; `e2e demo` shows Panoptes on them;
//! `e2e stories` runs the end-to-end tests; `e2e down` leaves nothing behind.
#![allow(clippy::disallowed_methods, reason = "the harness waits for real clusters in real time")]

pub mod bench;
pub mod blocks;
pub mod buckets;
pub mod cluster;
pub mod compaction;
pub mod dashboards;
pub mod demo;
pub mod dns;
pub mod fleet;
pub mod gateway;
pub mod goals;
pub mod grpc;
pub mod history;
pub mod image;
pub mod install;
pub mod made;
pub mod memory;
pub mod npm;
pub mod packages;
pub mod peers;
pub mod run;
pub mod say;
pub mod stories;
