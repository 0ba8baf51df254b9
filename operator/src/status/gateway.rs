//! The store gateway of a RemoteStore that leads to a bucket: what its pods say, beside what the queriers see.

use args::state::State;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::conditions::Conditions;
use super::pods::{self, Trouble};
use super::{bucket, history};
use crate::api::ConditionStatus;
use crate::cluster::{ConditionType as C, Reason};

/// Its pods.
#[derive(Clone, Debug, Default)]
pub struct Gateway<'a> {
    /// Hash of the bucket's configuration that they should have in use.
    pub wanted: String,
    /// The pods with what they say, where they do.
    pub pods: Vec<(&'a Pod, Option<&'a State>)>,
    /// How many there should be.
    pub total: usize,
}

/// Says what keeps the store gateway from serving: that is why queriers don't reach it.
pub(super) fn judge(gateway: &Gateway<'_>, now: Timestamp, conditions: &mut Conditions) {
    let answers = || {
        let named = |(pod, state): &(&'_ Pod, Option<&'_ State>)| Some((pod.metadata.name.clone()?, (*state)?.clone()));
        gateway.pods.iter().filter_map(named)
    };
    let answers: Vec<(String, State)> = answers().collect();
    let parts: Vec<history::Part<'_>> =
        answers.iter().map(|(pod, state)| history::Part { pod, shard: "0", state }).collect();
    history::judge(&history::Seen { parts: &parts, total: gateway.total, now }, conditions);

    let parts: Vec<bucket::Part<'_>> = answers.iter().map(|(pod, state)| (pod.as_str(), state)).collect();
    let seen = bucket::Seen { wanted: &gateway.wanted, parts: &parts, total: gateway.total, now };
    let reached = conditions.when(C::Reachable, ConditionStatus::True).is_some();
    // While one replica serves, the link's data is in all answers.
    let serves = |part: &bucket::Part<'_>| bucket::wrong(&bucket::Seen { parts: &[*part], ..seen }).is_none();
    let wrong = bucket::wrong(&seen).filter(|_| !(reached && parts.iter().any(serves)));
    if let Some((reason, message)) = wrong {
        return unreachable(reason, message, conditions);
    }
    if reached {
        return;
    }
    let trouble: Option<Trouble> = gateway.pods.iter().filter_map(|(pod, _)| pods::trouble(pod, now)).max();
    match trouble {
        Some(trouble) if trouble.stalled => {
            conditions.yes(C::Stalled, trouble.reason, trouble.message.clone());
            unreachable(trouble.reason, trouble.message, conditions);
        }
        Some(trouble) => {
            let message = format!("Its store gateway is not ready yet: {}.", trouble.message.trim_end_matches('.'));
            waiting(message, conditions);
        }
        None if gateway.total == 0 => {
            let message = "No store gateway runs for it: spec.storeGateway.replicas of the MonitoringCluster is 0.";
            unreachable(Reason::StoreDown, message.to_owned(), conditions);
        }
        None if gateway.pods.len() < gateway.total => {
            waiting("The pods of its store gateway are not there yet.".to_owned(), conditions);
        }
        None => {}
    }
}

/// Its name has no addresses until it is ready: that is a consequence and not what a person has to look at.
fn unreachable(reason: Reason, message: String, conditions: &mut Conditions) {
    conditions.yes(C::Resolved, Reason::Resolved, "It leads to a store gateway in this namespace.");
    conditions.no(C::Reachable, reason, message);
}

fn waiting(message: String, conditions: &mut Conditions) {
    conditions.yes(C::Resolved, Reason::Resolved, "It leads to a store gateway in this namespace.");
    conditions.unknown(C::Reachable, Reason::Pending, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::state::{Bucket, BucketError, BucketErrorClass};
    use serde_json::json;

    fn said(errors: [bool; 2], reached: bool) -> (ConditionStatus, Reason) {
        let pod = |name: &str| -> Pod { serde_json::from_value(json!({"metadata": {"name": name}})).unwrap() };
        let state = |wrong: bool| {
            let message = "403".to_owned();
            let class = BucketErrorClass::Denied;
            let error = wrong.then_some(BucketError { class, message, missing_right: None, since_ms: 1 });
            let bucket = Bucket { configuration: Some("h".to_owned()), error, ..Bucket::default() };
            State { bucket: Some(bucket), ..State::default() }
        };
        let pods = [pod("ops-remote-dr-0"), pod("ops-remote-dr-1")];
        let states = errors.map(state);
        let pods = pods.iter().zip(&states).map(|(pod, state)| (pod, Some(state))).collect();
        let mut conditions = Conditions::default();
        match reached {
            true => conditions.yes(C::Reachable, Reason::Reachable, "It answers."),
            false => conditions.no(C::Reachable, Reason::Unreachable, "It has no address."),
        }
        judge(&Gateway { wanted: "h".to_owned(), pods, total: 2 }, Timestamp::UNIX_EPOCH, &mut conditions);
        let (status, reason, _) = conditions.get(C::Reachable).unwrap();
        (status, reason)
    }

    #[test]
    fn one_replica_that_serves_is_enough() {
        assert_eq!(said([true, false], true), (ConditionStatus::True, Reason::Reachable));
        assert_eq!(said([true, true], true), (ConditionStatus::False, Reason::AccessDenied));
        assert_eq!(said([true, false], false), (ConditionStatus::False, Reason::AccessDenied));
    }
}
