//! The store gateway: the blocks of a bucket as a store.
//!
//! ```text
//!  bucket ──▶ blocks: sync ▶ filters ▶ Set ──snapshot──▶ select ▶ series ▶ StoreAPI
//!     └─────▶ headers (files, mapped)   ranges (pages on disk, single flight)   cache (postings, series)
//! ```
//!
//! * [`blocks::Set`] is what is served; a request takes one [`blocks::Served`] and keeps its blocks as long as it needs them.
//! * [`blocks::Block`] gives its index-header and bytes of its files; what goes wrong is a [`Trouble`], which says what to do.

pub mod blocks;
pub mod cache;
mod config;
pub mod cpu;
pub mod grpc;
pub mod headers;
pub mod labels;
pub mod limits;
mod metrics;
pub mod ranges;
mod run;
pub mod select;
pub mod series;
#[cfg(test)]
mod tests;
mod trouble;
pub mod wire;

pub use run::run;
pub use trouble::Trouble;
