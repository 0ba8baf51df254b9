//! Upload: each block that Prometheus cuts goes to the bucket, once.
//!
//! ```text
//! local (scan) ─┐
//! ledger ───────┼─▶ plan (pure) ─▶ ship: stage ▸ health ▸ intent ▸ files ▸ check ▸ meta.json ▸ commit ─▶ progress, status
//! guard ────────┘
//! ```
//!
//! The bucket's catalogue says what is done; `thanos.shipper.json` only tells Prometheus. A block that can't be uploaded is told
//! and passed over, a bucket that fails is asked again after a while, and neither ever makes the sidecar unready.

mod backoff;
pub(super) mod guard;
mod health;
mod ledger;
mod local;
mod meta;
mod others;
mod plan;
mod progress;
mod run;
mod ship;
mod stage;
mod status;

pub(super) use run::Uploader;
