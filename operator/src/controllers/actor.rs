//! One namespace's life: woken, it reconciles; between times it listens.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::metrics::Outcome;
use super::reconcile::{self, End, Memory};
use super::{Context, watch};

/// Runs until the namespace holds no object of ours; gives its name back.
pub(super) async fn run(context: Arc<Context>, namespace: String, trigger: Arc<Notify>) -> String {
    let interest = Arc::new(Mutex::new(watch::Interest::default()));
    // Dropped with the actor.
    let mut watches = JoinSet::new();
    watches.spawn(watch::children(context.clone(), namespace.clone(), trigger.clone(), interest.clone()));

    let mut memory = Memory::new(interest);
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
    let mut due = Instant::now();
    let mut poll = Instant::now() + context.pace.poll;
    loop {
        tokio::select! {
            () = trigger.notified() => sleep(context.pace.debounce).await,
            () = sleep_until(due) => {}
            () = sleep_until(poll) => {
                let changed = memory.poll.round().await;
                poll = Instant::now() + context.pace.poll;
                if !changed {
                    continue;
                }
            }
        }
        let began = Instant::now();
        let end = Box::pin(reconcile::namespace(&context, &namespace, &mut memory)).await;
        context.metrics.seconds.observe(began.elapsed().as_secs_f64());
        let (result, wait) = match &end {
            End::Gone => ("ok", Duration::ZERO),
            End::Settled => {
                backoff.reset();
                ("ok", context.pace.resync)
            }
            End::Forbidden => ("stalled", context.pace.forbidden),
            End::Stalled => ("stalled", backoff.next(context.world.entropy.as_ref()).max(context.pace.forbidden)),
            End::Retry => ("retry", backoff.next(context.world.entropy.as_ref())),
        };
        context.metrics.reconciles.get_or_create(&Outcome { result }).inc();
        tracing::debug!(namespace, ?end, took = ?began.elapsed(), "reconciled");
        if matches!(end, End::Gone) {
            return namespace;
        }
        due = Instant::now() + wait;
    }
}
