//! What operator and engine agree on: flags, `links.yaml`, `endpoints.yaml`, the state document.
//!
//! The operator renders flags from the same structs that the engine parses them with, so a renamed flag can't
//! compile on one side only. Names and defaults are Thanos's where the flag exists there.

mod compact;
pub mod endpoints;
pub mod files;
mod flag;
pub mod links;
mod query;
mod server;
mod sidecar;
pub mod state;
mod store;
pub mod yaml;

pub use compact::CompactArgs;
pub use flag::{List, Millis, Size, Switch, normalize};
pub use query::{DedupFunc, PushDown, QueryArgs};
pub use server::{HashFunc, HeaderStrategy, LogFormat, LogLevel, ServerArgs};
pub use sidecar::SidecarArgs;
pub use store::StoreArgs;

/// The gRPC port of every part.
pub const GRPC_PORT: u16 = 10901;
/// The HTTP port of every part: probes, metrics, `/-/state`, and the query API of the querier.
pub const HTTP_PORT: u16 = 10902;
/// The web port of Prometheus.
pub const PROMETHEUS_PORT: u16 = 9090;
