//! When to try again.

use std::time::Duration;

/// Time between two looks at the data directory (as Thanos's shipper).
pub(super) const INTERVAL: Duration = Duration::from_secs(30);
/// First delay after a failure.
const FIRST: Duration = Duration::from_secs(2);
/// Longest delay, before jitter.
const LONGEST: Duration = Duration::from_secs(300);

/// First and longest pause while something is still missing: labels, flags, a bucket.
const SOON: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pause after so many looks that found something missing: doubling, bounded.
pub(super) fn soon(looks: u32) -> Duration {
    SOON.0.saturating_mul(1u32.checked_shl(looks).unwrap_or(u32::MAX)).min(SOON.1)
}

/// The delay after so many failures in a row: doubling, bounded, and between half and all of that by chance, so that the
/// sidecars of a fleet don't come back together. After none, the usual interval.
pub(super) fn delay(failures: u32, random: u64) -> Duration {
    if failures == 0 {
        return INTERVAL;
    }
    let full = FIRST.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(LONGEST);
    let half = full / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_bound_and_differs_by_chance() {
        assert_eq!(delay(0, 7), INTERVAL);
        assert_eq!(delay(1, 0), Duration::from_secs(1));
        assert_eq!(delay(1, u64::MAX), Duration::from_secs(2));
        assert_eq!(delay(4, u64::MAX), Duration::from_secs(16));
        assert_eq!(delay(u32::MAX, u64::MAX), LONGEST);
        assert_eq!((soon(0), soon(3), soon(40)), (SOON.0, SOON.0 * 8, SOON.1));
        assert!(delay(3, 1 << 62) > delay(3, 0) && delay(3, 1 << 62) < delay(3, u64::MAX));
    }
}
