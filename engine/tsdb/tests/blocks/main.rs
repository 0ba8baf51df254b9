//! Whole blocks: written and read by us, by Prometheus and by Thanos.

mod prometheus;
mod random;
mod support;
mod thanos;
mod versions;
