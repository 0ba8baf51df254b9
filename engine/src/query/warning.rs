//! What an answer lacks, said to people and to programs.

use super::store::Store;

/// Most warnings that one answer keeps.
const MAX_WARNINGS: usize = 100;
/// How a warning about a store that is missing begins.
const NO_ANSWER: &str = "no answer from store ";
/// How the warning of a store begins that answers, but lacks something itself.
const OF_STORE: &str = "store ";

/// Something that the reader of an answer should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// For people, and for queriers above.
    pub text: String,
    /// The times that it is about, milliseconds since the epoch, both inclusive; `None` if it is not about times.
    pub range: Option<(i64, i64)>,
}

/// What a warning says is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing<'a> {
    /// The store.
    pub store: &'a str,
    /// The store that told of it, if that is another one: a querier's store.
    pub via: Option<&'a str>,
    /// Why.
    pub reason: &'a str,
}

impl From<String> for Warning {
    fn from(text: String) -> Self {
        Self { text, range: None }
    }
}

impl Warning {
    /// A store is missing, which would have been asked for this range.
    pub(super) fn no_answer(name: &str, reason: &str, range: Option<(i64, i64)>) -> Self {
        Self { text: format!("{NO_ANSWER}{name}: {reason}"), range }
    }

    /// A store answers, and says that it lacks something.
    pub(super) fn of_store(name: &str, said: &str, range: Option<(i64, i64)>) -> Self {
        Self { text: format!("{OF_STORE}{name}: {said}"), range }
    }

    /// What it says is missing; `None` of other warnings.
    pub fn missing(&self) -> Option<Missing<'_>> {
        let (mut via, mut rest) = (None, self.text.as_str());
        loop {
            if let Some(told) = rest.strip_prefix(NO_ANSWER) {
                let (store, reason) = told.split_once(": ")?;
                return Some(Missing { store, via, reason });
            }
            let (store, reason) = rest.strip_prefix(OF_STORE)?.split_once(": ")?;
            if !reason.starts_with(NO_ANSWER) && !reason.starts_with(OF_STORE) {
                return Some(Missing { store, via, reason });
            }
            via = via.or(Some(store));
            rest = reason;
        }
    }
}

/// The part of a range that a store has data of, as far as it says so.
pub(super) fn held_by(store: &Store, (mint, maxt): (i64, i64)) -> (i64, i64) {
    match store.truth().info {
        // Nothing newer is known of a store that is down, so its end is open.
        Some(info) => (mint.max(info.min_time).min(maxt), maxt),
        None => (mint, maxt),
    }
}

/// Adds a warning. What is said already is said once, of all its times.
pub(super) fn push(warnings: &mut Vec<Warning>, new: Warning) {
    if let Some(known) = warnings.iter_mut().find(|w| w.text == new.text) {
        known.range = match (known.range, new.range) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    } else if warnings.len() < MAX_WARNINGS {
        warnings.push(new);
    }
}

/// The same warnings, each once.
pub(super) fn distinct(warnings: Vec<Warning>) -> Vec<Warning> {
    let mut all = Vec::with_capacity(warnings.len());
    warnings.into_iter().for_each(|w| push(&mut all, w));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_can_be_read_through_queriers() {
        let lost = Warning::no_answer("a:1 (link b, cluster b)", "it was silent: 1s", Some((5, 9)));
        let want = |via| Some(Missing { store: "a:1 (link b, cluster b)", via, reason: "it was silent: 1s" });
        assert_eq!(lost.missing(), want(None));
        let told = Warning::of_store("q:1", &Warning::of_store("p:1", &lost.text, None).text, None);
        assert_eq!(told.missing(), want(Some("q:1")));
        let block = Warning::of_store("s:1", "block 01X can't be read: 3 of 5", None);
        let found = block.missing().unwrap();
        assert_eq!((found.store, found.via, found.reason), ("s:1", None, "block 01X can't be read: 3 of 5"));
        assert_eq!(Warning::from("results truncated due to limit".to_owned()).missing(), None);
        assert_eq!(Warning::from("store without a colon".to_owned()).missing(), None);
    }

    #[test]
    fn the_times_of_one_loss_are_joined() {
        let lost = |range| Warning::no_answer("a:1", "gone", range);
        let all = distinct(vec![lost(Some((5, 9))), lost(Some((1, 6))), lost(None), Warning::from("x".to_owned())]);
        assert_eq!(all, [lost(Some((1, 9))), Warning::from("x".to_owned())]);
    }
}
