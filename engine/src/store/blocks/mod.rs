//! The blocks that are served.

mod block;
mod entry;
pub mod filters;
mod learnt;
mod memory;
mod served;
mod set;
pub(in crate::store) mod sync;

pub use block::{Block, Edition};
pub use entry::Entry;
pub use served::{Group, Missing, Served, Tsdb};
pub use set::Set;
#[cfg(test)]
pub(crate) use sync::Steps;

use super::cache::IndexCache;
use super::headers::Headers;
use super::ranges::Ranges;
use model::world::World;

/// What all blocks share.
pub struct Home {
    /// Time and randomness.
    pub world: World,
    /// Open index-headers.
    pub headers: Headers,
    /// Bytes of files.
    pub ranges: Ranges,
    /// Postings and series.
    pub cache: IndexCache,
}

#[cfg(test)]
mod tests;
