//! Whole blocks: written and read by us, by Prometheus and by Thanos.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod damage;
mod prometheus;
mod random;
mod support;
mod thanos;
mod versions;
