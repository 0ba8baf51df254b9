//! Why a pod isn't ready, and why it restarted.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;

use super::conditions::{rfc3339, shorten};
use crate::api::LastRestart;
use crate::cluster::Reason;

/// How long a scheduler may look for a place: a volume is being made, a node is on its way.
const PLACE_SECONDS: i64 = 60;
/// Restarts from which a crashing container is called a crash loop.
const LOOP: i32 = 3;

/// What is wrong with a pod; the greatest is the worst.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trouble {
    /// Only a person can help.
    pub(super) stalled: bool,
    /// In a word of the closed list.
    pub(super) reason: Reason,
    /// What, where.
    pub(super) message: String,
}

/// Whether a pod serves.
pub(super) fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What is wrong with it.
pub(super) fn trouble(pod: &Pod, now: Timestamp) -> Option<Trouble> {
    if ready(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unschedulable = conditions
        .clone()
        .find(|condition| condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unschedulable {
        let why = condition.message.clone().unwrap_or_default();
        let since = condition.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
        return Some(Trouble {
            stalled: now.as_second() - since >= PLACE_SECONDS,
            reason: Reason::Unschedulable,
            message: shorten(format!("Pod {name} can't be scheduled: {why}"), 900),
        });
    }
    let statuses = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let worst = statuses.filter_map(|container| container_trouble(&name, container)).max();
    worst.or_else(|| {
        let waiting = status.container_statuses.iter().flatten().find(|container| !container.ready);
        let message = match waiting {
            Some(container) => format!("Pod {name}: container {} is not ready yet", container.name),
            None => format!("Pod {name} is starting"),
        };
        Some(Trouble { stalled: false, reason: Reason::RollingOut, message })
    })
}

fn container_trouble(pod: &str, container: &ContainerStatus) -> Option<Trouble> {
    let place = format!("Pod {pod}, container {}", container.name);
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref())?;
    let why = waiting.message.clone().unwrap_or_default();
    let trouble = match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Trouble {
            stalled: true,
            reason: Reason::ImageUnavailable,
            message: format!("{place}: image {} can't be had: {why}", container.image),
        },
        "CrashLoopBackOff" => {
            let words = last_words(container);
            Trouble {
                stalled: container.restart_count >= LOOP,
                reason: Reason::CrashLooping,
                message: format!("{place} ends again and again ({} restarts): {words}", container.restart_count),
            }
        }
        reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            Trouble { stalled: false, reason: Reason::CrashLooping, message: format!("{place}: {reason}: {why}") }
        }
        _ => return None,
    };
    Some(Trouble { message: shorten(trouble.message, 900), ..trouble })
}

fn last_words(container: &ContainerStatus) -> String {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let Some(ended) = ended else { return "no exit code".to_owned() };
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let message = ended.message.as_deref().unwrap_or_default().trim();
    let last = message.lines().last().unwrap_or_default();
    format!("{reason}, exit code {}{}{last}", ended.exit_code, if last.is_empty() { "" } else { ": " })
}

/// The newest restart of one of its containers.
pub(super) fn last_restart(pod: &Pod) -> Option<LastRestart> {
    let status = pod.status.as_ref()?;
    let ended = status
        .container_statuses
        .iter()
        .flatten()
        .filter(|container| container.restart_count > 0)
        .filter_map(|container| {
            let ended = container.last_state.as_ref()?.terminated.as_ref()?;
            let time = ended.finished_at.as_ref()?.0;
            let reason = ended.reason.as_deref().unwrap_or("Error");
            Some((time, format!("{}/{}: {reason} (exit {})", pod.name_any(), container.name, ended.exit_code)))
        })
        .max()?;
    Some(LastRestart { reason: shorten(ended.1, 250), time: rfc3339(ended.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-11-22T10:01:00Z".parse().unwrap()
    }

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "ops-prometheus-0"}, "status": status})).unwrap()
    }

    #[test]
    fn the_worst_container_speaks() {
        let crashing = pod(json!({"containerStatuses": [
            {"name": "prometheus", "image": "p", "imageID": "", "ready": false, "restartCount": 4,
             "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": "first\nerr: no space left\n",
                                          "finishedAt": "2026-11-22T10:00:00Z"}}},
            {"name": "sidecar", "image": "s", "imageID": "", "ready": true, "restartCount": 0},
        ]}));
        let found = trouble(&crashing, now()).unwrap();
        assert_eq!((found.stalled, found.reason), (true, Reason::CrashLooping));
        assert!(
            found.message.contains("ops-prometheus-0") && found.message.ends_with("exit code 2: err: no space left")
        );
        assert_eq!(last_restart(&crashing).unwrap().time, "2026-11-22T10:00:00Z");

        let image = pod(json!({"containerStatuses": [
            {"name": "query", "image": "example.test/q:1", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}},
        ]}));
        assert_eq!(trouble(&image, now()).unwrap().reason, Reason::ImageUnavailable);

        let nowhere = pod(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"},
        ]}));
        assert_eq!(trouble(&nowhere, now()).unwrap().reason, Reason::Unschedulable);
        assert!(trouble(&nowhere, now()).unwrap().stalled, "nobody knows since when");
        let soon = pod(json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "lastTransitionTime": "2026-11-22T10:00:30Z",
        }]}));
        assert!(!trouble(&soon, now()).unwrap().stalled, "it was only just found");

        let fine = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(trouble(&fine, now()), None);
        assert_eq!(trouble(&pod(json!({"phase": "Pending"})), now()).unwrap().reason, Reason::RollingOut);
    }
}
