//! The compactor: when it runs, its volume, and how long data is kept: settings that would defeat themselves are refused, those
//! that only gain nothing are warned about.

use crate::api::{MonitoringClusterSpec, Profile, Quantity, duration_millis};
use crate::desired::names;
use crate::observe::Observed;

use super::problem::Problem;
use super::volume::{self, Volume};

/// How long data is kept where the spec says nothing.
const FOR_EVER: &str = "0";
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Raw blocks are downsampled from this width on, as in Thanos.
const WIDE_RAW: i64 = 40 * HOUR;
/// The same of blocks of 5 minutes.
const WIDE_5M: i64 = 10 * DAY;
/// From this on, blocks of two weeks are made of 5m data before it goes.
const WHOLE_5M: i64 = 21 * DAY;

/// The compactor, every relation in its settings checked. Spans are in ms; a retention of 0 is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidCompactor {
    /// Where blocks lie that are worked on.
    pub storage: Volume,
    /// How long raw data is kept.
    pub raw_ms: i64,
    /// How long data of 5 minutes is kept.
    pub five_minutes_ms: i64,
    /// How long data of an hour is kept.
    pub one_hour_ms: i64,
    /// See [`crate::api::CompactorSpec::consistency_delay`].
    pub consistency_delay_ms: i64,
    /// See [`crate::api::CompactorSpec::delete_delay`].
    pub delete_delay_ms: i64,
}

/// The compactor; none where none runs: without a bucket, or switched off. What makes no sense is told in any case.
pub(super) fn check(
    name: &str,
    spec: &MonitoringClusterSpec,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Option<ValidCompactor> {
    let compactor = &spec.compactor;
    let storage = wanted(spec);
    volume::check_size(&storage, "spec.compactor.storage.size", problems);
    let mut millis = |field: &str, text: &str| {
        duration_millis(text).unwrap_or_else(|| {
            problems.push(Problem::invalid(field, format!("{text:?} is no duration: write it as 30m, 48h or 30d")));
            0
        })
    };
    let kept = &spec.retention;
    // Nothing is deleted that nobody asked to be: a bucket may be older than this object.
    let mut keep = |field: &str, own: &Option<String>| millis(field, own.as_deref().unwrap_or(FOR_EVER));
    let raw_ms = keep("spec.retention.raw", &kept.raw);
    let five_minutes_ms = keep("spec.retention.fiveMinutes", &kept.five_minutes);
    let one_hour_ms = keep("spec.retention.oneHour", &kept.one_hour);
    let consistency_delay_ms = millis("spec.compactor.consistencyDelay", &compactor.consistency_delay);
    let delete_delay_ms = millis("spec.compactor.deleteDelay", &compactor.delete_delay);
    let mut valid =
        ValidCompactor { storage, raw_ms, five_minutes_ms, one_hour_ms, consistency_delay_ms, delete_delay_ms };
    retention(spec, &valid, problems);
    if !compactor.enabled || spec.object_storage.is_none() {
        return None;
    }
    let set = names::compact(name);
    let instead = format!("run kubectl delete statefulset {set}: it is made again, and fetches what it needs");
    valid.storage = volume::keep(valid.storage, &set, ("spec.compactor.storage", &instead), observed).unwrap_or_else(
        |(existing, problem)| {
            problems.push(problem);
            existing
        },
    );
    Some(valid)
}

fn wanted(spec: &MonitoringClusterSpec) -> Volume {
    let storage = &spec.compactor.storage;
    let default = match spec.profile {
        Profile::Minimal => "5Gi",
        Profile::Small => "50Gi",
        Profile::Medium => "200Gi",
        Profile::Large => "500Gi",
    };
    let size = storage.size.as_ref().map_or_else(|| default.to_owned(), Quantity::to_string);
    match storage.persistent.unwrap_or(spec.profile != Profile::Minimal || storage.storage_class_name.is_some()) {
        false => Volume::Ephemeral { limit: size },
        true => {
            let class = storage.storage_class_name.as_ref().or(spec.storage.storage_class_name.as_ref());
            Volume::Claim { size, class: class.cloned() }
        }
    }
}

/// What is kept must live long enough to be downsampled, and the coarsest the longest.
fn retention(spec: &MonitoringClusterSpec, valid: &ValidCompactor, problems: &mut Vec<Problem>) {
    let ValidCompactor { raw_ms: raw, five_minutes_ms: five_minutes, one_hour_ms: one_hour, .. } = *valid;
    let text = |own: &Option<String>| own.clone().unwrap_or_else(|| FOR_EVER.to_owned());
    if !spec.compactor.downsampling {
        if spec.retention.five_minutes.is_some() || spec.retention.one_hour.is_some() {
            problems.push(Problem::warning(
                "spec.compactor.downsampling",
                "Downsampling is off, so retention.fiveMinutes and retention.oneHour matter for coarser data of before only.",
            ));
        }
        if raw > 0 {
            problems.push(Problem::warning(
                "spec.retention.raw",
                format!(
                    "Downsampling is off: data older than retention.raw ({}) is deleted and no coarser copy of it is left.",
                    text(&spec.retention.raw)
                ),
            ));
        }
        return;
    }
    let mut at_least = |field: &str, keep: i64, least: i64, own: &Option<String>, says: &str| {
        if keep > 0 && keep < least {
            let own = own.clone().unwrap_or_default();
            problems.push(Problem::invalid(
                format!("spec.retention.{field}"),
                format!("{own} is too short: {says}. Keep it that long, or set spec.compactor.downsampling: false"),
            ));
        }
    };
    let raw_says = "5-minute data is made of blocks that span at least 40h";
    at_least("raw", raw, WIDE_RAW, &spec.retention.raw, raw_says);
    let five_says = "data of an hour is made of blocks that span at least 10d";
    at_least("fiveMinutes", five_minutes, WIDE_5M, &spec.retention.five_minutes, five_says);
    if (WIDE_5M..WHOLE_5M).contains(&five_minutes) {
        problems.push(Problem::warning(
            "spec.retention.fiveMinutes",
            format!(
                "retention.fiveMinutes ({}) ends before blocks of two weeks are made, so data of an hour is made of small \
                 blocks at the last moment. Keep it at least 21d.",
                text(&spec.retention.five_minutes)
            ),
        ));
    }
    let shorter = |coarse: i64, fine: i64| coarse > 0 && (fine == 0 || coarse < fine);
    let own = &spec.retention.one_hour;
    let finer =
        [("fiveMinutes", five_minutes, text(&spec.retention.five_minutes)), ("raw", raw, text(&spec.retention.raw))];
    if let Some((field, _, fine)) = finer.into_iter().find(|(_, fine, _)| shorter(one_hour, *fine)) {
        problems.push(Problem::warning(
            "spec.retention.oneHour",
            format!(
                "retention.oneHour ({}) is shorter than retention.{field} ({}): the coarsest copy goes first, so long ranges gain \
                 nothing. Keep it longest; 0 is for ever.",
                text(own),
                if fine == "0" { "for ever".to_owned() } else { fine }
            ),
        ));
    }
}
