//! PromQL: parse, plan, execute; sync, no IO.

pub mod exec;
mod functions;
mod histogram;
pub mod parse;
mod plan;
pub mod promqltest;
