//! PromQL: parse, plan, execute; sync, no IO.
