//! Trying again: few attempts per call, a budget for all calls together, back-off with jitter, one gate for all when the store
//! asks to slow down.
//!
//! The budget makes retries a small share of all requests: a failing store is asked about as often as a working one, not
//! `attempts` times as often. It is a bucket of tokens: a retry takes some, a success puts one back.

use crate::Result;
use crate::error::{Error, Kind};
use model::world::World;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How calls are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Most attempts of one call, the first one included.
    pub attempts: u32,
    /// The first pause; each further one is up to three times as long as the one before.
    pub first_pause: Duration,
    /// Longest pause, also when the store names a longer one.
    pub longest_pause: Duration,
    /// Tokens that there are at most.
    pub budget: u32,
    /// Tokens that a retry takes.
    pub cost: u32,
}

impl Default for Policy {
    /// For work in the background: 6 attempts, pauses from 200 ms to 20 s, 20 retries in a row and then one per 10 successes.
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(20),
            budget: 200,
            cost: 10,
        }
    }
}

/// The budget and the gate, shared by all calls to a bucket.
#[derive(Clone)]
pub struct Retry {
    policy: Policy,
    world: World,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    tokens: u32,
    /// Nobody asks before this moment of the world's monotonic clock.
    gate: Duration,
}

impl std::fmt::Debug for Retry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retry").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Retry {
    /// A full budget.
    pub fn new(policy: Policy, world: World) -> Self {
        let shared = Arc::new(Mutex::new(Shared { tokens: policy.budget, gate: Duration::ZERO }));
        Self { policy, world, shared }
    }

    /// Calls until there is an answer, or trying again makes no sense.
    ///
    /// # Errors
    /// The last one. It is uncertain when any attempt was.
    pub async fn run<T, F, Fut>(&self, mut attempt: F) -> Result<T>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut pause = self.policy.first_pause;
        let mut uncertain = false;
        for number in 1.. {
            self.wait_for_gate().await;
            let mut error = match attempt(number).await {
                Ok(value) => {
                    self.succeeded();
                    return Ok(value);
                }
                Err(error) => error,
            };
            if error.is_answer() {
                self.succeeded();
            }
            uncertain |= error.uncertain;
            let wait = self.pause(&mut pause, &error);
            self.close_gate(&error, wait);
            if !retryable(&error) || number >= self.policy.attempts || !self.take() {
                error.uncertain = uncertain && !error.is_answer();
                return Err(error);
            }
            tracing::debug!(%error, number, ?wait, "trying again");
            tokio::time::sleep(wait).await;
        }
        Err(Error::new(Kind::Unavailable, crate::Operation::Open, "", "no attempt was allowed"))
    }

    /// Calls once, at the gate, and says whether the budget has a retry, which the caller does in another way.
    ///
    /// # Errors
    /// The attempt's, and whether to try again.
    pub async fn once<T>(&self, attempt: impl Future<Output = Result<T>>) -> std::result::Result<T, (Error, bool)> {
        self.wait_for_gate().await;
        match attempt.await {
            Ok(value) => {
                self.succeeded();
                Ok(value)
            }
            Err(error) => {
                if error.is_answer() {
                    self.succeeded();
                }
                let mut pause = self.policy.first_pause;
                self.close_gate(&error, self.pause(&mut pause, &error));
                let again = retryable(&error) && self.policy.attempts > 1 && self.take();
                Err((error, again))
            }
        }
    }

    /// Nobody asks a store for this long that asked to slow down.
    fn close_gate(&self, error: &Error, wait: Duration) {
        if error.kind == Kind::Throttled {
            let mut shared = self.shared.lock();
            shared.gate = shared.gate.max(self.world.clock.elapsed() + wait);
        }
    }

    /// Between one and three times the pause before, at random, so that callers don't come back all at once.
    fn pause(&self, last: &mut Duration, error: &Error) -> Duration {
        let base = self.policy.first_pause;
        let span = last.saturating_mul(3).saturating_sub(base);
        #[allow(clippy::cast_precision_loss, reason = "a random share needs no more than 53 bits")]
        let share = (self.world.entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        *last = (base + span.mul_f64(share)).min(self.policy.longest_pause);
        let asked = error.retry_after.unwrap_or_default().min(self.policy.longest_pause);
        (*last).max(asked)
    }

    async fn wait_for_gate(&self) {
        let gate = self.shared.lock().gate;
        if let Some(wait) = gate.checked_sub(self.world.clock.elapsed()).filter(|w| !w.is_zero()) {
            tokio::time::sleep(wait.min(self.policy.longest_pause)).await;
        }
    }

    fn take(&self) -> bool {
        let mut shared = self.shared.lock();
        match shared.tokens.checked_sub(self.policy.cost) {
            Some(left) => {
                shared.tokens = left;
                true
            }
            None => false,
        }
    }

    fn succeeded(&self) {
        let mut shared = self.shared.lock();
        shared.tokens = (shared.tokens + 1).min(self.policy.budget);
    }
}

/// A damaged answer may be the network's fault: asked once more, it shows whether the object itself is damaged.
fn retryable(error: &Error) -> bool {
    matches!(error.kind, Kind::Throttled | Kind::Unavailable | Kind::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Operation;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn failure(kind: Kind) -> Error {
        Error::new(kind, Operation::Get, "x", "no")
    }

    #[tokio::test(start_paused = true)]
    async fn few_attempts_then_the_budget_ends() {
        let retry = Retry::new(Policy::default(), World::real());
        let calls = AtomicU32::new(0);
        let call = |_| async {
            calls.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(failure(Kind::Unavailable))
        };
        retry.run(call).await.unwrap_err();
        assert_eq!(calls.swap(0, Ordering::Relaxed), 6);
        for _ in 0..100 {
            retry.run(call).await.unwrap_err();
        }
        // 20 retries were in the budget, 5 of them gone before.
        assert_eq!(calls.swap(0, Ordering::Relaxed), 115);
        // An answer refills it.
        for _ in 0..10 {
            retry.run(|_| async { Err::<(), _>(failure(Kind::NotFound)) }).await.unwrap_err();
        }
        retry.run(call).await.unwrap_err();
        assert_eq!(calls.swap(0, Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_attempt_passes_gate_and_budget() {
        let retry = Retry::new(Policy { budget: 10, cost: 10, ..Policy::default() }, World::real());
        let throttled = Error { retry_after: Some(Duration::from_secs(3)), ..failure(Kind::Throttled) };
        assert!(retry.once(async { Err::<(), _>(throttled.clone()) }).await.unwrap_err().1);
        assert!(!retry.once(async { Err::<(), _>(throttled) }).await.unwrap_err().1, "the budget is spent");
        let start = tokio::time::Instant::now();
        retry.once(async { Ok(()) }).await.unwrap();
        assert!(start.elapsed() > Duration::from_millis(2900), "all wait: {:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_person_must_mend_is_not_tried_again() {
        let retry = Retry::new(Policy::default(), World::real());
        for kind in [Kind::Denied, Kind::Credentials, Kind::MissingBucket, Kind::NotFound, Kind::Invalid] {
            let mut calls = 0;
            retry
                .run(|_| {
                    calls += 1;
                    async { Err::<(), _>(failure(kind)) }
                })
                .await
                .unwrap_err();
            assert_eq!(calls, 1, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_may_have_happened_stays_uncertain() {
        let retry = Retry::new(Policy { attempts: 2, ..Policy::default() }, World::real());
        let error = retry
            .run(|n| async move { Err::<(), _>(Error { uncertain: n == 1, ..failure(Kind::Unavailable) }) })
            .await
            .unwrap_err();
        assert!(error.uncertain);
    }
}
