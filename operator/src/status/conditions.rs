//! A set of conditions under construction.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::{Condition, ConditionStatus};
use crate::cluster::{ConditionType, Reason};

/// Longest message that is kept.
const MESSAGE: usize = 2_000;

/// Conditions by type.
#[derive(Clone, Debug, Default)]
pub struct Conditions(BTreeMap<ConditionType, (ConditionStatus, Reason, String)>);

impl Conditions {
    /// Says something.
    pub fn set(&mut self, about: ConditionType, status: ConditionStatus, reason: Reason, message: impl Into<String>) {
        self.0.insert(about, (status, reason, shorten(message.into(), MESSAGE)));
    }

    /// Says that it is so.
    pub fn yes(&mut self, about: ConditionType, reason: Reason, message: impl Into<String>) {
        self.set(about, ConditionStatus::True, reason, message);
    }

    /// Says that it is not so.
    pub fn no(&mut self, about: ConditionType, reason: Reason, message: impl Into<String>) {
        self.set(about, ConditionStatus::False, reason, message);
    }

    /// Says that nobody knows.
    pub fn unknown(&mut self, about: ConditionType, reason: Reason, message: impl Into<String>) {
        self.set(about, ConditionStatus::Unknown, reason, message);
    }

    /// What was said.
    #[must_use]
    pub fn get(&self, about: ConditionType) -> Option<(ConditionStatus, Reason, &str)> {
        self.0.get(&about).map(|(status, reason, message)| (*status, *reason, message.as_str()))
    }

    /// Reason and message, if it was said to have this status.
    #[must_use]
    pub fn when(&self, about: ConditionType, status: ConditionStatus) -> Option<(Reason, String)> {
        self.get(about).filter(|(is, _, _)| *is == status).map(|(_, reason, message)| (reason, message.to_owned()))
    }

    /// The list for the API. The time of a transition is kept while the status stays the same.
    #[must_use]
    pub fn finish(self, previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
        self.0
            .into_iter()
            .map(|(about, (status, reason, message))| {
                let same = find(previous, about).filter(|before| before.status == status);
                Condition {
                    type_: about.as_str().to_owned(),
                    status,
                    observed_generation: generation,
                    last_transition_time: same
                        .map_or_else(|| rfc3339(now), |before| before.last_transition_time.clone()),
                    reason: reason.as_str().to_owned(),
                    message,
                }
            })
            .collect()
    }
}

/// A condition in a list.
#[must_use]
pub fn find(conditions: &[Condition], about: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == about.as_str())
}

/// A point in time, to the second.
pub(super) fn rfc3339(time: Timestamp) -> String {
    let seconds = Timestamp::from_second(time.as_second()).unwrap_or(time);
    seconds.to_string()
}

/// Milliseconds since the epoch as a point in time.
pub(super) fn millis(ms: i64) -> Option<String> {
    Timestamp::from_millisecond(ms).ok().map(rfc3339)
}

/// At most `limit` bytes, cut between characters.
pub(super) fn shorten(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let mut end = limit.saturating_sub(3);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut first = Conditions::default();
        first.no(ConditionType::Ready, Reason::Creating, "Two pods are missing.");
        let first = first.finish(&[], Some(1), at(100));
        let mut second = Conditions::default();
        second.no(ConditionType::Ready, Reason::RollingOut, "One pod is missing.");
        let second = second.finish(&first, Some(2), at(200));
        assert_eq!(second[0].last_transition_time, first[0].last_transition_time);
        assert_eq!((second[0].reason.as_str(), second[0].observed_generation), ("RollingOut", Some(2)));
        let mut third = Conditions::default();
        third.yes(ConditionType::Ready, Reason::Ready, "ä".repeat(3_000));
        let third = third.finish(&second, Some(2), at(300));
        assert_eq!(third[0].last_transition_time, "1970-01-01T00:05:00Z");
        assert!(third[0].message.len() <= MESSAGE);
    }
}
