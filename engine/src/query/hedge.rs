//! The same data offered at several places: another place is asked when the first fails, or lags behind what it usually takes.
//! Asking twice is paid for from a tenth of all calls.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::time::Duration;

/// Second calls per call.
const SHARE: f64 = 0.1;
/// Second calls that may come at once.
const BURST: f64 = 5.0;
/// How many times longer than usual a place may take before another one is asked.
const PATIENCE: u32 = 4;
/// The least and, where nothing is known, the usual wait.
const LEAST: Duration = Duration::from_millis(100);
const UNKNOWN: Duration = Duration::from_secs(1);

/// What second calls are paid from, for the whole process.
#[derive(Debug)]
pub(super) struct Hedges(Mutex<f64>);

impl Default for Hedges {
    fn default() -> Self {
        Self(Mutex::new(1.0))
    }
}

impl Hedges {
    /// A call to a store that has another place.
    pub(super) fn earn(&self) {
        let mut saved = self.0.lock();
        *saved = (*saved + SHARE).min(BURST);
    }

    /// True if one more may be made.
    fn spend(&self) -> bool {
        let mut saved = self.0.lock();
        let enough = *saved >= 1.0 || model::protection::off("hedge-share");
        if enough {
            *saved -= 1.0;
        }
        enough
    }
}

/// How long to wait for a place before another one is asked, where its answers usually begin after `usual` and may take `most`.
pub(super) fn delay(usual: Option<Duration>, most: Duration) -> Duration {
    let wait = usual.map_or(UNKNOWN, |u| u.saturating_mul(PATIENCE));
    wait.max(LEAST).min(most / 4)
}

/// Asks the places in their order, and gives the first answer with its place. The next one is asked when one fails, or once if
/// there is no answer after `delay`, unless it is `held` back by us. Calls that are not needed any more are dropped. All errors
/// if nobody answers.
pub(super) async fn first_of<'p, P, T, E, F: Future<Output = Result<T, E>>>(
    places: &'p [P],
    delay: Duration,
    hedges: &Hedges,
    held: impl Fn() -> bool,
    mut ask: impl FnMut(usize, &'p P) -> F,
) -> Result<(usize, T), Vec<E>> {
    if let [only] = places {
        return ask(0, only).await.map(|answer| (0, answer)).map_err(|e| vec![e]);
    }
    let mut next = places.iter().enumerate();
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    let mut begin = |at: usize, place: &'p P| {
        let call = ask(at, place);
        async move { (at, call.await) }
    };
    hedges.earn();
    if let Some((at, place)) = next.next() {
        running.push(begin(at, place));
    }
    let mut lags = std::pin::pin!(tokio::time::sleep(delay));
    let mut hedged = false;
    loop {
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                None => return Err(failed),
                Some((at, Ok(answer))) => return Ok((at, answer)),
                Some((_, Err(e))) => {
                    failed.push(e);
                    if let Some((at, place)) = next.next() {
                        running.push(begin(at, place));
                    }
                }
            },
            () = lags.as_mut(), if !hedged => {
                // What waits for memory does not lag, and a second call would wait for the same.
                if held() && !model::protection::off("hedge-memory") {
                    lags.set(tokio::time::sleep(delay.max(LEAST)));
                    continue;
                }
                hedged = true;
                if next.len() > 0 && hedges.spend()
                    && let Some((at, place)) = next.next()
                {
                    running.push(begin(at, place));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const WAIT: Duration = Duration::from_millis(100);

    /// Places by how long each takes, and whether it answers.
    async fn ask(places: &[(u64, bool)], hedges: &Hedges) -> (Result<(usize, u64), Vec<u64>>, u32) {
        ask_held(places, hedges, false).await
    }

    async fn ask_held(places: &[(u64, bool)], hedges: &Hedges, held: bool) -> (Result<(usize, u64), Vec<u64>>, u32) {
        let asked = AtomicU32::new(0);
        let outcome = first_of(
            places,
            WAIT,
            hedges,
            || held,
            |_, (ms, good)| {
                asked.fetch_add(1, Ordering::SeqCst);
                async move {
                    tokio::time::sleep(Duration::from_millis(*ms)).await;
                    if *good { Ok(*ms) } else { Err(*ms) }
                }
            },
        )
        .await;
        (outcome, asked.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn another_place_is_asked_when_one_fails_or_lags() {
        let hedges = Hedges::default();
        assert_eq!(ask(&[(50, true), (1, true)], &hedges).await, (Ok((0, 50)), 1), "one that is quick is left alone");
        assert_eq!(ask(&[(50, false), (30, true)], &hedges).await, (Ok((1, 30)), 2));
        assert_eq!(ask(&[(50, false), (30, false)], &hedges).await, (Err(vec![50, 30]), 2));
        assert_eq!(ask(&[(5000, true), (30, true), (1, true)], &hedges).await, (Ok((1, 30)), 2));
        // The first may be the quicker one after all.
        let hedges = Hedges::default();
        assert_eq!(ask(&[(150, true), (5000, true)], &hedges).await, (Ok((0, 150)), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_we_hold_back_does_not_lag() {
        let hedges = Hedges::default();
        assert_eq!(ask_held(&[(5000, true), (30, true)], &hedges, true).await, (Ok((0, 5000)), 1));
        assert_eq!(ask_held(&[(50, false), (30, true)], &hedges, true).await, (Ok((1, 30)), 2), "it has failed");
    }

    #[tokio::test(start_paused = true)]
    async fn second_calls_are_a_tenth_of_all() {
        let hedges = Hedges::default();
        let mut all = 0;
        for _ in 0..1000 {
            all += ask(&[(5000, true), (30, true)], &hedges).await.1;
        }
        assert!((1090..=1101).contains(&all), "{all} calls of 1000");
        assert_eq!(delay(None, Duration::from_secs(30)), UNKNOWN);
        assert_eq!(delay(Some(Duration::from_millis(1)), Duration::from_secs(30)), LEAST);
        assert_eq!(delay(Some(Duration::from_millis(300)), Duration::from_secs(2)), Duration::from_millis(500));
    }
}
