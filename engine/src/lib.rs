//! The services of the embedded engine: sidecar, query; tools for people.

pub mod query;
pub mod server;
pub mod sidecar;
pub mod storage;
pub mod storeapi;
pub mod tools;
