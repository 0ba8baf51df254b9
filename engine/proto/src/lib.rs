//! Thanos's gRPC services as generated types, and conversions to `model`.
//!
//! Package, service and method names are Thanos's, so that any part can be swapped for Thanos's. Chunk data, label names
//! and label values are [`bytes::Bytes`]: slices of the received frame, nothing is copied. A kept slice keeps its whole
//! frame (at most about 1 MiB by convention) in memory.

/// Generated types of the StoreAPI and of the Rules, Targets, Metadata, Exemplars, Status and Query services: package `thanos`.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub, rust_2018_idioms, reason = "generated code")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod thanos {
    include!(concat!(env!("OUT_DIR"), "/thanos.rs"));
    /// Generated types of the Info service: package `thanos.info`.
    pub mod info {
        include!(concat!(env!("OUT_DIR"), "/thanos.info.rs"));
    }
}

/// Generated types of the hints: package `hintspb`.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub, reason = "generated code")]
pub mod hints {
    include!(concat!(env!("OUT_DIR"), "/hintspb.rs"));
}

/// Generated types of Prometheus's remote read.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub, reason = "generated code")]
pub mod prometheus {
    include!(concat!(env!("OUT_DIR"), "/prometheus.rs"));
}

pub mod bounded;
pub mod histograms;
pub mod labels;
pub mod matchers;

pub use prost_types::Timestamp;
pub use thanos::info;
