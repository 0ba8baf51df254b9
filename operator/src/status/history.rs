//! What the store gateways serve of a bucket, as they say themselves: of the cluster's own one, and of a link's.

use std::collections::BTreeMap;

use args::state::{Blocks, State};
use jiff::Timestamp;

use super::conditions::{Conditions, millis};
use crate::api::{ConditionStatus, HistoryStatus};
use crate::cluster::{ConditionType as C, Reason};

/// How long the bucket may not be looked through before that is told. A short failure is the condition's text.
const PATIENCE_MS: i64 = 5 * 60_000;
const HOUR: i64 = 3_600_000;
/// The span of a block.
const BLOCK: i64 = 7_200_000;

/// A store gateway: the pod's name, its shard, and what it says.
pub(super) struct Part<'a> {
    pub(super) pod: &'a str,
    pub(super) shard: &'a str,
    pub(super) state: &'a State,
}

/// What is known about the store gateways of one bucket.
pub(super) struct Seen<'a> {
    /// Those that answered.
    pub(super) parts: &'a [Part<'a>],
    /// How many there should be.
    pub(super) total: usize,
    pub(super) now: Timestamp,
}

impl<'a> Seen<'a> {
    fn blocks(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a Blocks)> {
        self.parts.iter().filter_map(|part| Some((part.pod, part.shard, part.state.blocks.as_ref()?)))
    }

    /// Those that have looked through the whole bucket.
    fn synced(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a Blocks)> {
        self.blocks().filter(|(.., blocks)| blocks.last_sync_ms.is_some())
    }
}

/// Says whether the history is there.
pub(super) fn judge(seen: &Seen<'_>, conditions: &mut Conditions) {
    let error =
        |blocks: &Blocks| blocks.error.as_deref().unwrap_or("no reason is given").trim_end_matches('.').to_owned();
    let long =
        |blocks: &Blocks| blocks.failing_since_ms.filter(|since| seen.now.as_millisecond() - since > PATIENCE_MS);
    if let Some((pod, since, why)) = seen.blocks().find_map(|(pod, _, b)| Some((pod, long(b)?, error(b)))) {
        let message = format!(
            "{pod} has not been able to look through the bucket since {}: {why}. Blocks that came later can't be asked for.",
            millis(since).unwrap_or_default()
        );
        return conditions.no(C::HistoryReady, Reason::SyncFailing, message);
    }
    let missing = seen.blocks().filter(|(.., blocks)| blocks.missing > 0).max_by_key(|(.., blocks)| blocks.missing);
    if let Some((pod, _, blocks)) = missing {
        let first = blocks.missing_blocks.first();
        let first = first.map(|block| format!(" {}: {}.", block.block, block.message.trim_end_matches('.')));
        let message = format!(
            "{pod} can't serve {} of {} blocks; answers that touch them say so.{}",
            blocks.missing,
            blocks.expected,
            first.unwrap_or_default()
        );
        return conditions.no(C::HistoryReady, Reason::BlocksMissing, message);
    }
    let synced = seen.synced().count();
    if synced < seen.total || synced == 0 {
        let why = seen.blocks().find_map(|(pod, _, blocks)| {
            blocks.error.is_some().then(|| format!(" {pod} failed and tries again: {}.", error(blocks)))
        });
        let message = format!(
            "{synced} of {} store gateways have looked through the bucket; waiting for the others.{}",
            seen.total,
            why.unwrap_or_default()
        );
        return conditions.unknown(C::HistoryReady, Reason::Pending, message);
    }
    conditions.yes(C::HistoryReady, Reason::AllBlocksServed, "Every block that is wanted of the bucket is served.");
}

/// The same as numbers. A shard has what its worst replica has.
pub(super) fn status(seen: &Seen<'_>, conditions: &Conditions, previous: Option<&HistoryStatus>) -> HistoryStatus {
    let mut shards: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (_, shard, blocks) in seen.synced() {
        let entry = shards.entry(shard).or_insert((blocks.loaded, blocks.missing));
        *entry = (entry.0.min(blocks.loaded), entry.1.max(blocks.missing));
    }
    let number = |of: fn(&(u64, u64)) -> u64| i64::try_from(shards.values().map(of).sum::<u64>()).unwrap_or(i64::MAX);
    let good = matches!(conditions.get(C::HistoryReady), Some((ConditionStatus::True, ..)));
    let last_sync = seen.synced().filter_map(|(.., blocks)| blocks.last_sync_ms).min().filter(|_| good);
    let known = |ms: i64| ms > 0 && ms < i64::MAX / 2;
    let min = seen.synced().filter_map(|(.., blocks)| blocks.min_time_ms).min();
    let max = seen.synced().filter_map(|(.., blocks)| blocks.max_time_ms).max();
    HistoryStatus {
        synced: format!("{}/{}", seen.synced().count(), seen.total),
        blocks: number(|(loaded, _)| *loaded),
        missing: number(|(_, missing)| *missing),
        min_time: min.filter(|ms| known(*ms)).and_then(|ms| millis(ms - ms.rem_euclid(HOUR))),
        max_time: max.filter(|ms| known(*ms)).and_then(|ms| millis(ms + (-ms).rem_euclid(BLOCK))),
        last_sync: last_sync.and_then(millis).or_else(|| previous.and_then(|previous| previous.last_sync.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::state::{SkipReason, SkippedBlock};

    fn state(change: impl FnOnce(&mut Blocks)) -> State {
        let mut blocks = Blocks {
            loaded: 10,
            expected: 10,
            min_time_ms: Some(1_700_000_000_000),
            max_time_ms: Some(1_700_010_000_000),
            last_sync_ms: Some(1_795_000_000_000),
            ..Blocks::default()
        };
        change(&mut blocks);
        State { blocks: Some(blocks), ..State::default() }
    }

    fn told(states: &[(&str, State)], total: usize) -> (ConditionStatus, Reason, String, HistoryStatus) {
        let parts: Vec<Part<'_>> =
            states.iter().map(|(shard, state)| Part { pod: "ops-store-0", shard, state }).collect();
        let now = Timestamp::from_millisecond(1_795_000_000_000).unwrap();
        let seen = Seen { parts: &parts, total, now };
        let mut conditions = Conditions::default();
        judge(&seen, &mut conditions);
        let status = status(&seen, &conditions, None);
        let (is, reason, message) = conditions.get(C::HistoryReady).unwrap();
        (is, reason, message.to_owned(), status)
    }

    #[test]
    fn all_is_served() {
        let (is, reason, _, status) =
            told(&[("0", state(|_| {})), ("0", state(|b| b.loaded = 9)), ("1", state(|_| {}))], 3);
        assert_eq!((is, reason), (ConditionStatus::True, Reason::AllBlocksServed));
        assert_eq!(
            (status.synced.as_str(), status.blocks, status.missing),
            ("3/3", 19, 0),
            "shards add up, replicas don't"
        );
        assert_eq!(status.min_time.as_deref(), Some("2023-11-14T22:00:00Z"));
        assert_eq!(status.max_time.as_deref(), Some("2023-11-15T02:00:00Z"), "not before its last sample");
        assert_eq!(status.last_sync.as_deref(), Some("2026-11-18T11:06:40Z"));
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_not_known_is_not_claimed() {
        let (is, reason, message, status) = told(
            &[
                ("0", state(|_| {})),
                (
                    "0",
                    state(|b| {
                        (b.loaded, b.missing) = (9, 1);
                        let (block, message) = ("01A".to_owned(), "its index is damaged.".to_owned());
                        b.missing_blocks.push(SkippedBlock { block, reason: SkipReason::Damaged, message });
                    }),
                ),
            ],
            2,
        );
        assert_eq!((is, reason), (ConditionStatus::False, Reason::BlocksMissing));
        assert!(message.contains("1 of 10 blocks") && message.ends_with("01A: its index is damaged."), "{message}");
        assert_eq!((status.blocks, status.missing, status.last_sync), (9, 1, None));

        let never = || state(|b| (b.last_sync_ms, b.error) = (None, Some("no answer".to_owned())));
        let (is, reason, message, status) = told(&[("0", state(|_| {})), ("0", never())], 2);
        assert_eq!((is, reason), (ConditionStatus::Unknown, Reason::Pending));
        assert!(message.contains("1 of 2") && message.contains("no answer"), "{message}");
        assert_eq!(status.synced, "1/2");
        assert_eq!(told(&[], 0).1, Reason::Pending);
    }

    #[test]
    fn a_short_failure_is_no_alarm() {
        let failing = |ms: i64| state(|b| (b.failing_since_ms, b.error) = (Some(ms), Some("no answer.".to_owned())));
        assert_eq!(told(&[("0", failing(1_794_999_900_000))], 1).1, Reason::AllBlocksServed);
        let (is, reason, message, _) = told(&[("0", failing(1_794_999_000_000))], 1);
        assert_eq!((is, reason), (ConditionStatus::False, Reason::SyncFailing));
        assert!(message.contains("2026-11-18T10:50:00Z: no answer. Blocks"), "{message}");
    }
}
