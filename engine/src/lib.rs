//! The services of the embedded engine: sidecar, query.
