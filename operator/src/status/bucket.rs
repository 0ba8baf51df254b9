//! The bucket, as the parts that use it see it: each checks by itself the rights that it needs.

use args::state::{Bucket, BucketErrorClass, State, Upload};
use jiff::Timestamp;

use super::conditions::{Conditions, millis};
use crate::api::{ConditionStatus, ObjectStorageStatus};
use crate::cluster::{ConditionType as C, Reason};

/// How long uploads may fail before the bucket as a whole is called not ready. A short failure is the condition's text.
const PATIENCE_MS: i64 = 5 * 60_000;

/// A part that uses the bucket: the pod's name, and what it says.
pub(super) type Part<'a> = (&'a str, &'a State);

/// What is known about the bucket.
pub(super) struct Seen<'a> {
    /// Hash of the configuration that the parts should have in use.
    pub(super) wanted: &'a str,
    /// The parts that answered.
    pub(super) parts: &'a [Part<'a>],
    /// How many there should be.
    pub(super) total: usize,
    pub(super) now: Timestamp,
}

/// Says how the bucket is; the worst first.
pub(super) fn judge(seen: &Seen<'_>, conditions: &mut Conditions) {
    if let Some((reason, message)) = wrong(seen) {
        return conditions.no(C::ObjectStorageReady, reason, message);
    }
    let verified = verified(seen).count();
    let uploads = uploads(seen);
    if verified < seen.total || verified == 0 {
        let message = format!(
            "{verified} of {} parts have verified the bucket with its current Secret; waiting for the others.{uploads}",
            seen.total
        );
        return conditions.unknown(C::ObjectStorageReady, Reason::NotVerified, message);
    }
    let message = format!("{verified} of {} parts have the rights in it that they need.{uploads}", seen.total);
    conditions.yes(C::ObjectStorageReady, Reason::Verified, message);
}

/// The same as numbers. `condition` is what [`judge`] and validation have said.
pub(super) fn status(
    seen: &Seen<'_>,
    conditions: &Conditions,
    previous: Option<&ObjectStorageStatus>,
) -> ObjectStorageStatus {
    let found = conditions.get(C::ObjectStorageReady);
    let count = |of: fn(&Upload) -> u64| {
        let sum = seen.parts.iter().filter_map(|(_, state)| state.upload.as_ref()).map(of).sum::<u64>();
        i64::try_from(sum).unwrap_or(i64::MAX)
    };
    let upload = |of: fn(&Upload) -> Option<i64>| {
        seen.parts.iter().filter_map(move |(_, state)| of(state.upload.as_ref()?)).filter(|ms| *ms > 0)
    };
    let good = matches!(found, Some((ConditionStatus::True, ..)));
    // The oldest of the parts' last good checks: since then all of them are known to be well.
    let checked = verified(seen).filter_map(|bucket| bucket.checked_at_ms).min().filter(|_| good);
    ObjectStorageStatus {
        result: match found {
            Some((ConditionStatus::True, ..)) => Some("Ok".to_owned()),
            Some((ConditionStatus::False, reason, _)) => Some(reason.as_str().to_owned()),
            _ => previous.and_then(|previous| previous.result.clone()),
        },
        last_verified: checked
            .and_then(millis)
            .or_else(|| previous.and_then(|previous| previous.last_verified.clone())),
        verified: format!("{}/{}", verified(seen).count(), seen.total),
        pending: count(|upload| upload.pending),
        skipped: count(|upload| upload.skipped),
        last_upload: upload(|upload| upload.last_upload_ms)
            .max()
            .and_then(millis)
            .or_else(|| previous.and_then(|previous| previous.last_upload.clone())),
        failing_since: upload(|upload| upload.failing_since_ms).min().and_then(millis),
    }
}

/// What parts with the current configuration found well.
fn verified<'a>(seen: &'a Seen<'_>) -> impl Iterator<Item = &'a Bucket> {
    seen.parts
        .iter()
        .filter_map(|(_, state)| state.bucket.as_ref())
        .filter(|bucket| bucket.configuration.as_deref() == Some(seen.wanted) && bucket.usable())
}

/// The worst of what parts say is wrong.
pub(super) fn wrong(seen: &Seen<'_>) -> Option<(Reason, String)> {
    let bucket_of = |(pod, state): &Part<'_>| Some((pod.to_string(), state.bucket.clone()?));
    let buckets: Vec<(String, Bucket)> = seen.parts.iter().filter_map(bucket_of).collect();
    let is_current = |bucket: &Bucket| bucket.configuration.as_deref() == Some(seen.wanted);
    // What the current credentials can't do. What older ones could not is no news: the pod is about to get newer ones.
    let failed = buckets.iter().filter(|(_, bucket)| is_current(bucket)).filter_map(|(pod, bucket)| {
        let error = bucket.error.as_ref()?;
        let reason = match error.class {
            BucketErrorClass::Denied => Reason::AccessDenied,
            BucketErrorClass::BucketMissing => Reason::BucketMissing,
            BucketErrorClass::ClockSkew => Reason::ClockSkew,
            BucketErrorClass::Unreachable | BucketErrorClass::Other => Reason::Unreachable,
        };
        let name = &bucket.name;
        let text = error.message.trim_end_matches('.');
        let message = match &error.missing_right {
            Some(right) => format!("{pod} lacks the right {right} in the bucket {name}: {text}."),
            None => format!("{pod} can't use the bucket {name}: {text}."),
        };
        Some((reason, message))
    });
    let mut failed: Vec<(Reason, String)> = failed.collect();
    failed.sort_by_key(|(reason, _)| {
        // What a person has to mend comes before what may pass.
        [Reason::AccessDenied, Reason::BucketMissing, Reason::ClockSkew].iter().position(|r| r == reason).unwrap_or(9)
    });
    if let Some((reason, message)) = failed.first() {
        let more = match failed.len() {
            1 => String::new(),
            more => format!(" ({} of {} parts say so.)", more, seen.total),
        };
        return Some((*reason, format!("{message}{more}")));
    }
    // A configuration that is there and yet can't be used is broken in a way that only its reader can know.
    let refused = buckets.iter().find_map(|(pod, bucket)| {
        let current = bucket.configuration_refused.as_deref() == Some(seen.wanted);
        let error = bucket.configuration_error.as_ref().filter(|_| current)?;
        Some(format!("{pod} can't use the bucket's configuration: {}. Correct it.", error.trim_end_matches('.')))
    });
    if let Some(message) = refused {
        return Some((Reason::SecretInvalid, message));
    }
    seen.parts.iter().find_map(|(pod, state)| {
        let upload = state.upload.as_ref()?;
        if let Some(refused) = &upload.refused {
            return Some((Reason::UploadFailing, format!("{pod} uploads nothing: {}.", refused.trim_end_matches('.'))));
        }
        let since = upload.failing_since_ms.filter(|since| seen.now.as_millisecond() - since > PATIENCE_MS)?;
        let since = millis(since).unwrap_or_default();
        let why = upload.error.as_deref().unwrap_or("no reason is given").trim_end_matches('.');
        let risk = if upload.at_risk() { " Local retention may delete blocks before they are uploaded." } else { "" };
        Some((Reason::UploadFailing, format!("{pod} has failed to upload since {since}: {why}.{risk}")))
    })
}

/// What there is to say about uploads while the bucket is well. No number in it moves by itself.
fn uploads(seen: &Seen<'_>) -> String {
    let mut text = String::new();
    for (pod, state) in seen.parts {
        let Some(upload) = &state.upload else { continue };
        if let (Some(error), Some(_)) = (&upload.error, upload.failing_since_ms) {
            text.push_str(&format!(" {pod}'s last upload failed and is tried again: {}.", error.trim_end_matches('.')));
        }
        if upload.at_risk() {
            text.push_str(&format!(" {pod}: a block waits for longer than half of retention.local."));
        }
        if let Some(first) = upload.skipped_blocks.first() {
            let more = match upload.skipped {
                0 | 1 => String::new(),
                more => format!(" ({} more)", more - 1),
            };
            let why = first.message.trim_end_matches('.');
            text.push_str(&format!(" {pod} leaves out block {}: {why}.{more}", first.block));
        }
    }
    text
}
