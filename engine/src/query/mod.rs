//! The querier: PromQL over all stores, deduplicated; itself a store.

pub mod address;
pub mod dedup;
pub mod merge;
pub mod series;
pub mod wanted;
