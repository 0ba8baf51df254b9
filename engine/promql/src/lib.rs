//! PromQL: parse, plan, execute; sync, no IO.

pub mod exec;
mod functions;
mod histogram;
pub mod parse;
mod plan;
pub mod promqltest;

pub use histogram::{Bucket, all_buckets as histogram_buckets};
