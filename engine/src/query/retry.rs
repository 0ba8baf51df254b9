//! When to try again what has failed.

use model::world::Entropy;
use std::time::Duration;

/// Pauses that double from the first to the last, each moved by up to a quarter, so that those who failed together do not
/// come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// The pause after a failure.
    pub(super) fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let pause = self.next.min(self.last);
        self.next = self.next.saturating_mul(2).min(self.last);
        let unit = f64::from(u32::try_from(entropy.next_u64() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        pause.mul_f64(0.75 + unit / 2.0)
    }

    /// After a success: the regular pause; the next failure begins anew.
    pub(super) fn reset(&mut self, regular: Duration) -> Duration {
        self.next = self.first;
        regular
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_and_begin_anew() {
        let world = model::world::World::real();
        let ms = Duration::from_millis;
        let mut retry = Backoff::new(ms(200), ms(1000));
        for expected in [200, 400, 800, 1000, 1000] {
            let pause = retry.next(world.entropy.as_ref());
            assert!((ms(expected * 3 / 4)..=ms(expected * 5 / 4)).contains(&pause), "{pause:?} for {expected} ms");
        }
        assert_eq!(retry.reset(ms(5000)), ms(5000));
        assert!(retry.next(world.entropy.as_ref()) <= ms(250));
    }
}
