//! A place among the requests that are answered at the same time.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// A place. A request that waits for its caller gives it back, and takes another one before it goes on: callers that don't read
/// would keep all others from their answers.
#[derive(Debug)]
pub struct Turn {
    gate: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Waits for a place.
    ///
    /// # Errors
    /// When the process ends.
    pub async fn take(gate: &Arc<Semaphore>) -> Result<Self, Status> {
        let mut turn = Self { gate: Arc::clone(gate), held: None };
        turn.again().await?;
        Ok(turn)
    }

    /// Gives the place back.
    pub fn give_back(&mut self) {
        self.held = None;
    }

    /// Waits for a place if there is none.
    ///
    /// # Errors
    /// As [`Turn::take`].
    pub async fn again(&mut self) -> Result<(), Status> {
        if self.held.is_none() {
            let held = Arc::clone(&self.gate).acquire_owned().await;
            self.held = Some(held.map_err(|e| Status::internal(e.to_string()))?);
        }
        Ok(())
    }
}
