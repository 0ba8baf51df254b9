//! What is worth an event: a closed list of reasons, each from the difference of two statuses.

use kube_runtime::events::EventType;

use super::conditions::find;
use crate::api::{ConditionStatus, MonitoringClusterStatus, RemoteStoreStatus};
use crate::cluster::{ConditionType as C, Reason};

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Normal or Warning.
    pub kind: EventType,
    /// One word of the closed list.
    pub reason: &'static str,
    /// What happened.
    pub note: String,
}

fn happening(kind: EventType, reason: &'static str, note: impl Into<String>) -> Happening {
    Happening { kind, reason, note: super::conditions::shorten(note.into(), 1_000) }
}

/// What happened to a MonitoringCluster between two statuses.
#[must_use]
pub fn cluster_events(before: Option<&MonitoringClusterStatus>, after: &MonitoringClusterStatus) -> Vec<Happening> {
    let nothing = MonitoringClusterStatus::default();
    let before = before.unwrap_or(&nothing);
    let mut events = Vec::new();
    let good = |status: &MonitoringClusterStatus| {
        status.configuration.as_ref().filter(|c| c.total > 0 && c.loaded >= c.total).map(|c| c.hash.clone())
    };
    if let (Some(old), Some(new)) =
        (good(before).or_else(|| before.configuration.as_ref()?.last_good_hash.clone()), good(after))
        && old != new
    {
        events.push(happening(
            EventType::Normal,
            "ConfigReloaded",
            "Every Prometheus has loaded the new configuration.",
        ));
    }
    let refused = |status: &MonitoringClusterStatus| {
        find(&status.conditions, C::ConfigurationApplied)
            .filter(|c| c.status == ConditionStatus::False && c.reason == Reason::ReloadFailed.as_str())
            .map(|c| c.message.clone())
    };
    if let Some(message) = refused(after).filter(|message| refused(before).as_ref() != Some(message)) {
        events.push(happening(EventType::Warning, "ConfigRejected", message));
    }
    let bucket = |status: &MonitoringClusterStatus, value| {
        find(&status.conditions, C::ObjectStorageReady)
            .filter(|c| c.status == value && c.reason != Reason::NotConfigured.as_str())
            .map(|c| c.message.clone())
    };
    let was_well = before.object_storage.as_ref().is_some_and(|bucket| bucket.result.as_deref() == Some("Ok"));
    match (bucket(after, ConditionStatus::False), bucket(before, ConditionStatus::False)) {
        (Some(message), None) => events.push(happening(EventType::Warning, "BucketUnreachable", message)),
        (None, _) if !was_well && before.object_storage.as_ref().is_some_and(|bucket| bucket.result.is_some()) => {
            if let Some(message) = bucket(after, ConditionStatus::True) {
                events.push(happening(EventType::Normal, "BucketRecovered", message));
            }
        }
        _ => {}
    }
    let compaction = |status: &MonitoringClusterStatus, value| {
        find(&status.conditions, C::CompactionHealthy).filter(|c| c.status == value).map(|c| c.message.clone())
    };
    match (compaction(after, ConditionStatus::False), compaction(before, ConditionStatus::False)) {
        (Some(message), None) => events.push(happening(EventType::Warning, "CompactionHalted", message)),
        (None, Some(_)) => {
            if let Some(message) = compaction(after, ConditionStatus::True) {
                events.push(happening(EventType::Normal, "CompactionResumed", message));
            }
        }
        _ => {}
    }
    for component in &after.components {
        let Some(restart) = &component.last_restart else { continue };
        let known = before.components.iter().find(|c| c.name == component.name).and_then(|c| c.last_restart.as_ref());
        // A deleted pod's restart may uncover an older one of another pod: that is no news.
        if known.is_none_or(|known| known.time < restart.time) {
            events.push(happening(EventType::Warning, "PodRestarted", restart.reason.clone()));
        }
    }
    events
}

/// What happened to a RemoteStore between two statuses.
#[must_use]
pub fn remote_events(before: Option<&RemoteStoreStatus>, after: &RemoteStoreStatus) -> Vec<Happening> {
    let mut events = Vec::new();
    let is = |status: Option<&RemoteStoreStatus>, about, value| {
        status.and_then(|status| find(&status.conditions, about)).filter(|c| c.status == value).cloned()
    };
    let up = |status| is(status, C::Reachable, ConditionStatus::True).is_some();
    let down = |status| {
        is(status, C::Reachable, ConditionStatus::False).or_else(|| is(status, C::Resolved, ConditionStatus::False))
    };
    if let Some(now) = down(Some(after)).filter(|_| down(before).is_none()) {
        events.push(happening(EventType::Warning, "RemoteStoreDown", now.message));
    } else if up(Some(after)) && !up(before) {
        events.push(happening(EventType::Normal, "RemoteStoreUp", "Every querier reaches it."));
    }
    let conflict = |status| is(status, C::LabelsUnique, ConditionStatus::False);
    if let Some(now) = conflict(Some(after)).filter(|_| conflict(before).is_none()) {
        events.push(happening(EventType::Warning, "LabelConflict", now.message));
    }
    let expiring = |status| {
        is(status, C::TLSValid, ConditionStatus::False)
            .filter(|c| c.reason == Reason::ExpiringSoon.as_str() || c.reason == Reason::Expired.as_str())
    };
    if let Some(now) = expiring(Some(after)).filter(|_| expiring(before).is_none()) {
        events.push(happening(EventType::Warning, "CertificateExpiring", now.message));
    }
    events
}
