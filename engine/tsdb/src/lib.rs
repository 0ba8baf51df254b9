//! Prometheus's and Thanos's storage formats as bytes: no network, no clock.
//!
//! Each format has a `FORMAT.md` beside its code. Every reader takes foreign bytes: it checks each length, never
//! panics, and holds no more than 1 MiB + 16 × input.

pub mod block;
pub mod chunk;
pub mod compact;
pub mod disk;
pub mod downsample;
mod error;
pub mod header;
pub mod index;
pub mod json;
pub mod marks;
pub mod meta;
pub mod plan;
mod read;
pub mod segment;
pub mod series;
pub mod tombstones;

pub use error::{Error, ErrorKind, Result};
pub use meta::BlockMeta;
pub use model::BlockId;
