//! What the compactor does with the bucket, as it says itself. It serves nobody: while it stands still, all answers go on.

use args::state::Compaction;
use jiff::Timestamp;

use super::bucket;
use super::conditions::{Conditions, millis};
use super::pods::Trouble;
use crate::api::{CompactionStatus, ConditionStatus};
use crate::cluster::{ConditionType as C, Reason};

/// How long passes may fail before that is told. A short failure is no news.
const PATIENCE_MS: i64 = 5 * 60_000;
/// How long there may be work left before that is told: blocks of two hours come every two hours, and the longest compaction
/// takes less than this.
const BEHIND_MS: i64 = 24 * 3_600_000;

/// What is known about the compactor.
pub(super) struct Seen<'a> {
    /// Hash of the bucket's configuration that it should have in use; none while its Secret is not good.
    pub(super) wanted: Option<&'a str>,
    /// As what it holds the lease: see [`names::compactor`].
    pub(super) identity: &'a str,
    /// The pod's name and what it says, if it does.
    pub(super) part: Option<bucket::Part<'a>>,
    /// What keeps the pod from running.
    pub(super) trouble: Option<&'a Trouble>,
    pub(super) now: Timestamp,
}

/// Says whether the bucket is kept in order.
pub(super) fn judge(seen: &Seen<'_>, conditions: &mut Conditions) {
    let (status, reason, message) = verdict(seen);
    conditions.set(C::CompactionHealthy, status, reason, message);
}

fn verdict(seen: &Seen<'_>) -> (ConditionStatus, Reason, String) {
    let no = |reason, message: String| (ConditionStatus::False, reason, message);
    let yes = |reason, message: String| (ConditionStatus::True, reason, message);
    let unknown = |reason, message: String| (ConditionStatus::Unknown, reason, message);
    let Some(part) = seen.part else {
        return match seen.trouble {
            Some(trouble) => no(Reason::CompactorDown, format!("The compactor does not run: {}", trouble.message)),
            None => unknown(Reason::Pending, "The compactor has told nothing about itself yet.".to_owned()),
        };
    };
    let (pod, state) = part;
    let Some(wanted) = seen.wanted else {
        let message = format!("{pod} waits for the bucket's Secret; ObjectStorageReady says more.");
        return unknown(Reason::Pending, message);
    };
    let bucket = bucket::Seen { wanted, parts: &[part], total: 1, now: seen.now };
    if let Some((reason, message)) = bucket::wrong(&bucket) {
        return no(reason, format!("{message} Nothing is compacted or deleted until then; answers go on."));
    }
    let verified = |b: &args::state::Bucket| b.configuration.as_deref() == Some(wanted) && b.usable();
    if !state.bucket.as_ref().is_some_and(verified) {
        let message = format!("{pod} has not verified the bucket with its current Secret yet.");
        return unknown(Reason::NotVerified, message);
    }
    let silent = Compaction::default();
    let compaction = state.compaction.as_ref().unwrap_or(&silent);
    let short = |text: &str| text.trim_end_matches('.').to_owned();
    let error = compaction.error.as_deref().map_or_else(|| "no reason is given".to_owned(), short);
    let failing = compaction.failing_since_ms;
    let long = failing.filter(|since| seen.now.as_millisecond() - since > PATIENCE_MS);
    if let Some(lease) = compaction.lease.as_ref().filter(|lease| !lease.held) {
        let since = millis(lease.since_ms).unwrap_or_default();
        let message = if lease.holder == format!("compact-{}", seen.identity) {
            format!("{pod} waits until the lease of its predecessor on the bucket has ended: that takes a minute.")
        } else {
            format!(
                "{pod} stands by: {} has the lease on this bucket since {since}. If that is not wanted, end one of the two, or \
                 give this cluster a bucket or a prefix of its own.",
                lease.holder
            )
        };
        return yes(Reason::StandingBy, message);
    }
    if let Some(why) = &compaction.deletions_stopped {
        let message = format!("{pod} has stopped: {}.", short(why));
        return no(Reason::ForeignCompactor, message);
    }
    if let Some(bytes) = compaction.lacks_disk_bytes {
        let message = format!(
            "{pod} lacks {} MiB of disk for the next work: raise spec.compactor.storage.size. It goes on by itself then.",
            bytes.div_ceil(1 << 20)
        );
        return no(Reason::NoSpace, message);
    }
    if let Some(since) = long {
        let since = millis(since).unwrap_or_default();
        return no(Reason::Halted, format!("{pod} has failed since {since}, and goes on trying: {error}."));
    }
    // What is tried again by itself is no news.
    if let Some(first) = compaction.held_items.iter().find(|item| !item.waits) {
        let listed = u64::try_from(compaction.held_items.len()).unwrap_or(u64::MAX);
        let others = compaction.held_items.iter().filter(|item| !item.waits).count() - 1;
        let more = match others {
            0 if compaction.held <= listed => "",
            _ => " (The compactor's log names more.)",
        };
        let message = format!(
            "{pod} leaves something alone until somebody acts; all else goes on. {}: {}.{more}",
            first.what,
            short(&first.why)
        );
        return no(Reason::BlocksHeld, message);
    }
    let Some(lease) = &compaction.lease else {
        let why = failing.map(|_| format!(" It failed and tries again: {error}.")).unwrap_or_default();
        return unknown(Reason::Pending, format!("{pod} has not asked for the lease on the bucket yet.{why}"));
    };
    let left = compaction.todo_compactions + compaction.todo_downsamplings;
    let since = compaction.last_pass_ms.unwrap_or(lease.since_ms);
    if left > 0 && seen.now.as_millisecond() - since > BEHIND_MS {
        let message = format!(
            "{pod} has not caught up since {}: there is more to do than it gets done. Raise spec.compactor.concurrency and its \
             resources; status.compaction says what is left.",
            millis(since).unwrap_or_default()
        );
        return no(Reason::Backlog, message);
    }
    if compaction.last_pass_ms.is_none() {
        let why = failing.map(|_| format!(" It failed and tries again: {error}.")).unwrap_or_default();
        return match left {
            0 => unknown(Reason::Pending, format!("{pod} looks through the bucket for the first time.{why}")),
            _ => yes(Reason::Compacting, format!("{pod} has the lease on the bucket and is at work.{why}")),
        };
    }
    match left {
        0 => yes(Reason::UpToDate, format!("{pod} has the lease on the bucket, and left nothing to do.")),
        _ => yes(Reason::Compacting, format!("{pod} has the lease on the bucket and is at work.")),
    }
}

/// The same as numbers.
pub(super) fn status(
    seen: &Seen<'_>,
    conditions: &Conditions,
    previous: Option<&CompactionStatus>,
) -> CompactionStatus {
    let Some(compaction) = seen.part.and_then(|(_, state)| state.compaction.as_ref()) else {
        return previous.cloned().unwrap_or_default();
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let good = matches!(conditions.get(C::CompactionHealthy), Some((ConditionStatus::True, ..)));
    CompactionStatus {
        holder: compaction.lease.as_ref().map(|lease| super::conditions::shorten(lease.holder.clone(), 256)),
        compactions: number(compaction.todo_compactions),
        downsamplings: number(compaction.todo_downsamplings),
        deletions: number(compaction.todo_deletions),
        held: number(compaction.held),
        last_pass: compaction
            .last_pass_ms
            .filter(|_| good)
            .and_then(millis)
            .or_else(|| previous.and_then(|previous| previous.last_pass.clone())),
        failing_since: compaction.failing_since_ms.and_then(millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::state::{Bucket, BucketError, BucketErrorClass, CompactionLease, HeldItem, State};

    const NOW: i64 = 1_795_000_000_000;
    const POD: &str = "ops-compact-0";
    const ME: &str = "ops.monitoring.ops-compact-0";

    fn state(change: impl FnOnce(&mut Compaction, &mut Bucket)) -> State {
        let holder = "compact-ops.monitoring.ops-compact-0".to_owned();
        let mut compaction = Compaction {
            lease: Some(CompactionLease { held: true, holder, epoch: 3, since_ms: NOW - 1_000_000 }),
            passes: 1,
            last_pass_ms: Some(NOW - 1_000),
            ..Compaction::default()
        };
        let mut bucket = Bucket { configuration: Some("h".to_owned()), checked_at_ms: Some(NOW), ..Bucket::default() };
        change(&mut compaction, &mut bucket);
        State { ready: true, bucket: Some(bucket), compaction: Some(compaction), ..State::default() }
    }

    fn said(state: &State) -> (ConditionStatus, Reason, String, CompactionStatus) {
        let now = Timestamp::from_millisecond(NOW).unwrap();
        let seen = Seen { wanted: Some("h"), identity: ME, part: Some((POD, state)), trouble: None, now };
        let mut conditions = Conditions::default();
        judge(&seen, &mut conditions);
        let status = status(&seen, &conditions, None);
        let (is, reason, message) = conditions.get(C::CompactionHealthy).unwrap();
        (is, reason, message.to_owned(), status)
    }

    #[test]
    fn at_work_and_done() {
        let (is, reason, _, status) = said(&state(|_, _| {}));
        assert_eq!((is, reason), (ConditionStatus::True, Reason::UpToDate));
        assert_eq!(status.last_pass.as_deref(), Some("2026-11-18T11:06:39Z"));
        assert_eq!(status.holder.as_deref(), Some("compact-ops.monitoring.ops-compact-0"));
        let busy = state(|c, _| (c.todo_compactions, c.last_pass_ms) = (7, None));
        let (is, reason, _, status) = said(&busy);
        assert_eq!((is, reason, status.compactions), (ConditionStatus::True, Reason::Compacting, 7));
        // One that has not looked through the bucket knows of nothing to do: that claims nothing.
        let (is, reason, ..) = said(&state(|c, _| c.last_pass_ms = None));
        assert_eq!((is, reason), (ConditionStatus::Unknown, Reason::Pending));
        let (is, reason, ..) = said(&state(|c, _| c.lease = None));
        assert_eq!((is, reason), (ConditionStatus::Unknown, Reason::Pending));
    }

    #[test]
    fn who_stands_by_names_the_holder() {
        let other = |holder: &str| {
            state(|c, _| {
                c.lease = Some(CompactionLease { held: false, holder: holder.to_owned(), epoch: 4, since_ms: NOW });
                // The loss of the lease is no failure that anybody has to mend.
                (c.failing_since_ms, c.error) = (Some(1), Some("the lease is lost".to_owned()));
            })
        };
        let (is, reason, message, status) = said(&other("compact-dr.monitoring.dr-compact-0"));
        assert_eq!((is, reason), (ConditionStatus::True, Reason::StandingBy));
        assert!(message.contains("compact-dr.monitoring.dr-compact-0 has the lease"), "{message}");
        assert_eq!(status.holder.as_deref(), Some("compact-dr.monitoring.dr-compact-0"));
        let (.., message, _) = said(&other("compact-ops.monitoring.ops-compact-0"));
        assert!(message.contains("predecessor"), "{message}");
        // The same names in another cluster.
        let (.., message, _) = said(&other("compact-dr.monitoring.ops-compact-0"));
        assert!(message.contains("compact-dr.monitoring.ops-compact-0 has the lease"), "{message}");
    }

    #[test]
    fn what_keeps_it_from_working_is_told_the_worst_first() {
        let denied = |bucket: &mut Bucket| {
            let message = "403 does not have storage.objects.delete access.".to_owned();
            let missing_right = Some("storage.objects.delete".to_owned());
            bucket.error = Some(BucketError { class: BucketErrorClass::Denied, message, missing_right, since_ms: 1 });
        };
        let (is, reason, message, _) = said(&state(|_, b| denied(b)));
        assert_eq!((is, reason), (ConditionStatus::False, Reason::AccessDenied));
        assert!(message.contains("ops-compact-0 lacks the right storage.objects.delete"), "{message}");

        let foreign = "block 01A was compacted by another program";
        let (_, reason, message, _) = said(&state(|c, _| {
            c.deletions_stopped = Some(foreign.to_owned());
            c.lacks_disk_bytes = Some(1);
        }));
        assert_eq!(reason, Reason::ForeignCompactor);
        assert!(message.contains(foreign), "{message}");

        let (_, reason, message, _) = said(&state(|c, _| c.lacks_disk_bytes = Some((5 << 20) + 1)));
        assert_eq!(reason, Reason::NoSpace);
        assert!(message.contains("6 MiB") && message.contains("spec.compactor.storage.size"), "{message}");

        let failing = |since| state(move |c, _| (c.failing_since_ms, c.error) = (Some(since), Some("503".to_owned())));
        assert_eq!(said(&failing(NOW - PATIENCE_MS)).1, Reason::UpToDate, "a short failure is no alarm");
        let (is, reason, message, status) = said(&failing(NOW - PATIENCE_MS - 1));
        assert_eq!((is, reason), (ConditionStatus::False, Reason::Halted));
        assert!(message.ends_with("goes on trying: 503."), "{message}");
        assert!(status.failing_since.is_some() && status.last_pass.is_none());

        let held = state(|c, _| {
            c.held = 2;
            let item = |what: &str, why: &str, waits| HeldItem { what: what.to_owned(), why: why.to_owned(), waits };
            c.held_items = vec![item("01A", "503", true), item("01B", "its index is cut off", false)];
        });
        let (_, reason, message, status) = said(&held);
        assert_eq!((reason, status.held), (Reason::BlocksHeld, 2));
        assert!(message.ends_with("01B: its index is cut off."), "{message}");
        let waits = state(|c, _| {
            c.held = 1;
            c.held_items = vec![HeldItem { what: "01A".to_owned(), why: "503".to_owned(), waits: true }];
        });
        assert_eq!(said(&waits).1, Reason::UpToDate, "it is tried again");

        let behind = |ms| state(move |c, _| (c.todo_downsamplings, c.last_pass_ms) = (1, Some(NOW - ms)));
        assert_eq!(said(&behind(BEHIND_MS)).1, Reason::Compacting);
        assert_eq!(said(&behind(BEHIND_MS + 1)).1, Reason::Backlog);
    }

    #[test]
    fn silence_is_not_health() {
        let now = Timestamp::from_millisecond(NOW).unwrap();
        let told = |seen: &Seen<'_>| {
            let (is, reason, _) = verdict(seen);
            (is, reason)
        };
        let mut seen = Seen { wanted: Some("h"), identity: ME, part: None, trouble: None, now };
        assert_eq!(told(&seen), (ConditionStatus::Unknown, Reason::Pending));
        let trouble = Trouble { stalled: true, reason: Reason::CrashLooping, message: "it ends.".to_owned() };
        seen.trouble = Some(&trouble);
        assert_eq!(told(&seen), (ConditionStatus::False, Reason::CompactorDown));
        let good = state(|_, _| {});
        (seen.part, seen.wanted) = (Some((POD, &good)), None);
        assert_eq!(told(&seen), (ConditionStatus::Unknown, Reason::Pending), "no Secret");
        seen.wanted = Some("another");
        assert_eq!(told(&seen), (ConditionStatus::Unknown, Reason::NotVerified));
    }
}
