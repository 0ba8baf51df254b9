//! The services of the embedded engine: sidecar, query, store, compact; tools for people.

pub mod compact;
pub mod query;
pub mod server;
pub mod sidecar;
pub mod storage;
pub mod store;
pub mod storeapi;
pub mod tools;
