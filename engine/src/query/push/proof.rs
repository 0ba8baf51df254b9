//! Whether a querier may evaluate a part of a query by itself: nobody else may have a series that becomes equal to one of
//! its own. What a store advertises proves that: each of its series carries the labels of one of its sets.

use super::split::Grade;
use crate::query::store::{Evaluates, Store, agrees};
use model::{Labels, Matcher};

/// True if no series of the one can be, without `dropped`, a series of the other.
fn apart(a: &Labels, b: &Labels, dropped: &[String]) -> bool {
    let differs = |(name, value): (&str, &str)| b.get(name).is_some_and(|other| other != value);
    a.iter().filter(|(name, _)| !dropped.iter().any(|d| d == name)).any(differs)
}

/// How a request is to be answered.
pub(super) struct Request<'a> {
    /// Conditions on labels.
    pub(super) matchers: &'a [Matcher],
    /// Labels that tell replicas apart.
    pub(super) dropped: &'a [String],
    /// All times are whole seconds, and data is as scraped.
    pub(super) plain: bool,
    /// Replicas become one as Thanos does it, or not at all.
    pub(super) thanos_dedup: bool,
    /// What decides how we evaluate.
    pub(super) settings: &'a str,
    /// Last bits may differ, and so may what is picked of replicas behind one querier.
    pub(super) close: bool,
}

impl Request<'_> {
    /// The sets of a store that can have an answer; none if it does not say what it has.
    fn sets(&self, store: &Store) -> Option<Vec<Labels>> {
        let sets = store.truth().info.filter(|i| !i.unlabelled).map(|i| i.label_sets.clone())?;
        let matching: Vec<Labels> = sets.into_iter().filter(|s| agrees(s, self.matchers)).collect();
        (!matching.is_empty()).then_some(matching)
    }

    /// True if `store` may evaluate a part of this grade beside `others`.
    pub(super) fn may<'s>(&self, store: &Store, grade: Grade, mut others: impl Iterator<Item = &'s Store>) -> bool {
        let evaluates = store.truth().info.and_then(|i| i.evaluates.clone());
        let able = match evaluates {
            None => false,
            Some(Evaluates::Like(settings)) => settings == self.settings,
            // Which Prometheus it is built on it does not say, nor which stores it has that say nothing.
            Some(Evaluates::AsThanos) => self.close && grade == Grade::Anyone && self.plain && self.thanos_dedup,
        };
        let Some(mine) = self.sets(store).filter(|_| able) else { return false };
        // Replicas in several stores behind it: what it picks need not be what we would pick.
        let replicas =
            mine.iter().enumerate().any(|(i, a)| mine.iter().skip(i + 1).any(|b| !apart(a, b, self.dropped)));
        if replicas && !self.close && !model::protection::off("push-replicas") {
            return false;
        }
        others.all(|other| {
            let theirs = self.sets(other);
            let disjoint = |theirs: Vec<Labels>| mine.iter().all(|a| theirs.iter().all(|b| apart(a, b, self.dropped)));
            theirs.is_some_and(disjoint) || model::protection::off("push-apart")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_both_have_keeps_them_apart() {
        let set = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        let replica = ["replica".to_owned()];
        let (a, b) = (set(&[("cluster", "a"), ("replica", "0")]), set(&[("cluster", "b"), ("replica", "0")]));
        assert!(apart(&a, &b, &replica) && apart(&b, &a, &replica));
        // Replicas of one another.
        let other = set(&[("cluster", "a"), ("replica", "1")]);
        assert!(apart(&a, &other, &[]) && !apart(&a, &other, &replica));
        // The series of the other may have the label themselves.
        assert!(!apart(&a, &set(&[("region", "x")]), &replica));
        assert!(!apart(&a, &a, &[]) && !apart(&a, &Labels::empty(), &[]));
    }
}
