//! PromQL: parse, plan, execute; sync, no IO.

pub mod parse;
