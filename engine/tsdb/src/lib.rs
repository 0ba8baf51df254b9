//! Prometheus's storage formats as bytes: no network, no clock.

pub mod chunk;
