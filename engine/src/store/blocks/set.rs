//! The set: the newest [`Served`], and what keeps it new.

use super::{Block, Served};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a request waits for news of a block that was deleted under it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is served; clones share it.
#[derive(Clone)]
pub struct Set {
    shared: Arc<Shared>,
}

struct Shared {
    served: ArcSwap<Served>,
    /// The generation of `served`.
    generation: watch::Sender<u64>,
    /// Blocks of which an object was not found; the next pass looks at them.
    suspects: parking_lot::Mutex<Vec<Arc<Block>>>,
    /// True from a request that found a block deleted until somebody takes the suspects.
    fresh: AtomicBool,
    wake: Notify,
}

impl Default for Set {
    fn default() -> Self {
        let shared = Shared {
            served: ArcSwap::default(),
            generation: watch::Sender::new(0),
            suspects: parking_lot::Mutex::default(),
            fresh: AtomicBool::new(false),
            wake: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Set {
    /// What is served now.
    pub fn snapshot(&self) -> Arc<Served> {
        self.shared.served.load_full()
    }

    /// Serves something else from now on. Requests that run keep what they have.
    pub fn replace(&self, served: Served) {
        let generation = served.generation;
        self.shared.served.store(Arc::new(served));
        self.shared.generation.send_replace(generation);
    }

    /// An object of `block`, taken from `seen`, was not found in the bucket. Gives the first snapshot that was made after the
    /// bucket was asked what happened: the block is not in it, or it is named as damaged. Plan anew on it.
    ///
    /// # Errors
    /// When no news came in time: the bucket can't be asked.
    pub async fn gone(&self, block: &Arc<Block>, seen: &Served) -> Result<Arc<Served>, super::super::Trouble> {
        let mut changes = self.shared.generation.subscribe();
        let is_settled = |served: &Served| {
            served.generation > seen.generation && (block.is_shut() || !served.blocks().any(|b| Arc::ptr_eq(b, block)))
        };
        let now = self.snapshot();
        if is_settled(&now) || model::protection::off("look-again") {
            return Ok(now);
        }
        {
            let mut suspects = self.shared.suspects.lock();
            if !suspects.iter().any(|b| Arc::ptr_eq(b, block)) {
                suspects.push(Arc::clone(block));
            }
        }
        self.shared.fresh.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        let waiting = async {
            while changes.changed().await.is_ok() {
                let now = self.snapshot();
                if is_settled(&now) {
                    return Some(now);
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Some(now)) => Ok(now),
            Ok(None) | Err(_) => Err(super::super::Trouble::Unavailable(format!(
                "block {} has gone from the bucket, and the bucket did not tell within {PATIENCE:?} what replaces it",
                block.id
            ))),
        }
    }

    /// Waits until there are blocks that a request found deleted. They stay until [`Set::suspects`] takes them, so whoever
    /// stops waiting misses nothing.
    pub async fn suspicion(&self) {
        loop {
            let woken = self.shared.wake.notified();
            if self.shared.fresh.load(Ordering::Acquire) {
                return;
            }
            woken.await;
        }
    }

    /// Puts back what could not be looked at; the next pass does.
    pub fn suspect(&self, blocks: Vec<Arc<Block>>) {
        self.shared.suspects.lock().extend(blocks);
    }

    /// Takes the blocks of which an object was not found.
    pub fn suspects(&self) -> Vec<Arc<Block>> {
        self.shared.fresh.store(false, Ordering::Release);
        std::mem::take(&mut *self.shared.suspects.lock())
    }
}
