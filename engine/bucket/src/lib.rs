//! Object storage: one small interface over GCS, S3, Azure, a directory and memory, under the contract of `CONTRACT.md`.
//!
//! ```text
//!  Bucket ──▶ contract (with retry) ──▶ store: remote (GCS, S3, Azure) │ directory │ memory
//!     └ meter: Thanos's series per call; every request that goes to a store
//! ```
//!
//! * [`Config`] is Thanos's objstore YAML, read strictly.
//! * [`Bucket`] is what services hold: a cheap clone. Changed credentials: open it again, with the same [`Options`].
//! * [`Error`] says what to do: retry, skip this object, stop and tell.
//!
//! Nobody outside this crate talks to an object store.

pub mod block;
pub mod catalogue;
pub mod config;
pub mod contract;
pub mod document;
pub mod error;
pub mod fetch;
pub mod layers;
pub mod lease;
pub mod mark;
pub mod path;
mod snapshot;
pub mod store;
pub mod verify;

mod bucket;
mod directory;
mod memory;
mod remote;

pub use bucket::{Bucket, Options, Uploaded};
pub use config::Config;
pub use directory::Directory;
pub use error::{Advice, Error, Kind, Operation};
pub use layers::meter::Meter;
pub use memory::Memory;
pub use remote::Timeouts;
pub use store::{Entry, Meta, Object, Sink, Version};

/// What every call gives.
pub type Result<T> = std::result::Result<T, Error>;
