//! The sidecar's upload: beside a real Prometheus and a real Thanos, and with blocks, buckets and configurations that are bad.

mod bad_input;
mod beside_thanos;
mod setup;
mod store;
