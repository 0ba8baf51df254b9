//! The services of the embedded engine: sidecar, query.

pub mod query;
pub mod server;
pub mod sidecar;
pub mod storeapi;
