//! How long to wait after a failure.

use std::time::Duration;

use model::world::Entropy;

/// Doubles up to a limit; a random fifth is taken off, so that many don't come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(super) fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(self.limit);
        let share = u32::try_from(entropy.next_u64() % 200).unwrap_or(0);
        whole - whole * share / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Half;
    impl Entropy for Half {
        fn next_u64(&self) -> u64 {
            100
        }
    }

    #[test]
    fn doubles_and_stops() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        let waits: Vec<u64> = (0..12).map(|_| backoff.next(&Half).as_millis() as u64).collect();
        assert_eq!(&waits[..4], &[900, 1800, 3600, 7200]);
        assert_eq!(waits[11], 270_000);
        backoff.reset();
        assert_eq!(backoff.next(&Half).as_millis(), 900);
    }
}
