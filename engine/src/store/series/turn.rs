//! A place among the requests that are answered at the same time.

use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// A place. A request that waits for its caller gives it back, and takes another one before it goes on: callers that don't read
/// would keep all others from their answers.
#[derive(Debug)]
pub struct Turn {
    gate: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// How many there are.
    taken: Gauge,
}

impl Turn {
    /// Waits for a place; `taken` counts those that are taken.
    ///
    /// # Errors
    /// When the process ends.
    pub async fn take(gate: &Arc<Semaphore>, taken: &Gauge) -> Result<Self, Status> {
        let mut turn = Self { gate: Arc::clone(gate), held: None, taken: taken.clone() };
        turn.again().await?;
        Ok(turn)
    }

    /// Gives the place back.
    pub fn give_back(&mut self) {
        if self.held.take().is_some() {
            self.taken.dec();
        }
    }

    /// Waits for a place if there is none.
    ///
    /// # Errors
    /// As [`Turn::take`].
    pub async fn again(&mut self) -> Result<(), Status> {
        if self.held.is_none() {
            let held = Arc::clone(&self.gate).acquire_owned().await;
            self.held = Some(held.map_err(|e| Status::internal(e.to_string()))?);
            self.taken.inc();
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_back();
    }
}
