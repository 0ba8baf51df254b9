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
#[cfg(test)]
pub(crate) mod simulated;
mod stage;
mod status;

pub(super) use run::Uploader;

/// Runs what reads and writes files off the async threads; right here where it is to be `inline`: in a simulation, which must go the
/// same way each time.
async fn blocking<T: Send + 'static>(
    inline: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    if inline { Ok(work()) } else { tokio::task::spawn_blocking(work).await }
}
