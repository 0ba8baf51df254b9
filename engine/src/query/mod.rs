//! The querier: PromQL over all stores, deduplicated; itself a store.

pub mod address;
pub mod dedup;
pub mod endpoints;
pub mod fanout;
pub mod merge;
pub mod samples;
pub mod series;
pub mod store;
pub mod wanted;
