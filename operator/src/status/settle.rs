//! When a status is worth writing. Numbers that always move are written together with another change, or when they have
//! moved by a factor of two for five minutes; otherwise a quiet fleet would never be quiet.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::{MonitoringClusterStatus, RemoteStoreStatus};

/// How long a number must stay away before it is written for its own sake.
const PATIENCE: Duration = Duration::from_secs(300);

/// Since when a link's numbers have been far from those in its status.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restless(Option<Instant>);

/// The status to write, if any.
#[must_use]
pub fn settle_cluster(
    previous: Option<&MonitoringClusterStatus>,
    next: MonitoringClusterStatus,
) -> Option<MonitoringClusterStatus> {
    let Some(previous) = previous else { return Some(next) };
    let mut calm = next.clone();
    if let (Some(calm), Some(before)) = (&mut calm.object_storage, &previous.object_storage)
        && !long_after(before.last_verified.as_deref(), calm.last_verified.as_deref())
    {
        calm.last_verified.clone_from(&before.last_verified);
    }
    if let (Some(calm), Some(before)) = (&mut calm.history, &previous.history)
        && !long_after(before.last_sync.as_deref(), calm.last_sync.as_deref())
    {
        calm.last_sync.clone_from(&before.last_sync);
    }
    if let (Some(calm), Some(before)) = (&mut calm.compaction, &previous.compaction)
        && !long_after(before.last_pass.as_deref(), calm.last_pass.as_deref())
    {
        calm.last_pass.clone_from(&before.last_pass);
    }
    (calm != *previous).then_some(next)
}

/// Whether a time is worth writing for its own sake.
fn long_after(before: Option<&str>, now: Option<&str>) -> bool {
    let parse = |text: Option<&str>| text.and_then(|text| text.parse::<Timestamp>().ok());
    match (parse(before), parse(now)) {
        (Some(before), Some(now)) => now.duration_since(before).as_secs() >= 3_600,
        (before, now) => before != now,
    }
}

/// The status to write, if any.
#[must_use]
pub fn settle_remote(
    previous: Option<&RemoteStoreStatus>,
    next: RemoteStoreStatus,
    restless: &mut Restless,
    now: Instant,
) -> Option<RemoteStoreStatus> {
    let Some(previous) = previous else { return Some(next) };
    let calm = RemoteStoreStatus {
        latency: previous.latency.clone(),
        data_lag: previous.data_lag.clone(),
        last_success: previous.last_success.clone(),
        ..next.clone()
    };
    if calm != *previous {
        *restless = Restless::default();
        return Some(next);
    }
    if previous.latency.is_none() && next.latency.is_some() || previous.data_lag.is_none() && next.data_lag.is_some() {
        return Some(next);
    }
    let p50 = |status: &RemoteStoreStatus| status.latency.as_ref().and_then(|latency| seconds(&latency.p50));
    let lag = |status: &RemoteStoreStatus| status.data_lag.as_deref().and_then(seconds);
    // Below these a difference is noise: 10 ms of latency, half a minute of lag.
    let moved = far(p50(previous), p50(&next), 0.01) || far(lag(previous), lag(&next), 30.0);
    if !moved {
        *restless = Restless::default();
        return None;
    }
    let since = *restless.0.get_or_insert(now);
    if now.duration_since(since) < PATIENCE {
        return None;
    }
    *restless = Restless::default();
    Some(next)
}

fn far(before: Option<f64>, now: Option<f64>, noise: f64) -> bool {
    match (before, now) {
        (Some(a), Some(b)) => {
            let (a, b) = (a.max(noise), b.max(noise));
            a >= 2.0 * b || b >= 2.0 * a
        }
        (None, None) => false,
        _ => true,
    }
}

/// Seconds of what the status shows: `38ms`, `<1ms`, `1m30s`.
fn seconds(text: &str) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds that fit in a status column")]
    crate::api::duration_millis(text.trim_start_matches('<')).map(|ms| ms as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Latency;

    fn status(p50: &str, lag: &str) -> RemoteStoreStatus {
        RemoteStoreStatus {
            latency: Some(Latency { p50: p50.to_owned(), p99: None }),
            data_lag: Some(lag.to_owned()),
            last_success: Some(format!("2026-11-22T10:00:{p50}")),
            ..RemoteStoreStatus::default()
        }
    }

    #[test]
    fn a_check_that_goes_well_again_is_no_news_for_an_hour() {
        let status = |verified: &str, pending| MonitoringClusterStatus {
            object_storage: Some(crate::api::ObjectStorageStatus {
                last_verified: Some(verified.to_owned()),
                pending,
                ..Default::default()
            }),
            ..MonitoringClusterStatus::default()
        };
        let before = status("2026-11-22T10:00:00Z", 0);
        assert_eq!(settle_cluster(Some(&before), status("2026-11-22T10:55:00Z", 0)), None);
        let hour = status("2026-11-22T11:00:00Z", 0);
        assert_eq!(settle_cluster(Some(&before), hour.clone()), Some(hour));
        let other = status("2026-11-22T10:05:00Z", 1);
        assert_eq!(settle_cluster(Some(&before), other.clone()), Some(other), "together with another change");
        let first = MonitoringClusterStatus::default();
        assert_eq!(settle_cluster(Some(&first), before.clone()), Some(before));
    }

    #[test]
    fn numbers_are_sticky() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let before = status("38ms", "15s");
        let mut restless = Restless::default();
        let mut settle =
            |next: RemoteStoreStatus, seconds| settle_remote(Some(&before), next, &mut restless, at(seconds));
        assert_eq!(settle(status("60ms", "30s"), 0), None, "less than twice");
        assert_eq!(settle(status("80ms", "15s"), 10), None, "not yet for five minutes");
        assert_eq!(settle(status("40ms", "15s"), 200), None, "came back");
        assert_eq!(settle(status("80ms", "15s"), 310), None, "the count begins anew");
        assert_eq!(settle(status("80ms", "15s"), 610), Some(status("80ms", "15s")));
        let other = RemoteStoreStatus { phase: Some("Unreachable".to_owned()), ..status("39ms", "15s") };
        assert_eq!(settle(other.clone(), 620), Some(other), "together with another change");
    }
}
