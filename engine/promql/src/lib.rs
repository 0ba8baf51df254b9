//! PromQL: parse, plan, execute; sync, no IO.

pub mod exec;
pub mod parse;
