//! The store gateway: when it runs, its cache, and which times it serves.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Value, json};

use crate::api::{MonitoringClusterSpec, duration_millis};
use crate::desired::names;
use crate::observe::Observed;

use super::problem::Problem;
use super::volume::{self, Volume};

const CACHE: &str = "spec.storeGateway.cache";

/// One shard of the store gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidShard {
    /// Its cache.
    pub cache: Volume,
    /// Into how many shards the blocks are divided; it serves those that fall to its number. Two while that changes: the
    /// number before, and the one that is wanted. It then serves the blocks of both.
    pub of: Vec<i32>,
    /// It has blocks that are in no other shard, so it is missed when it is not there.
    pub needed: bool,
}

/// The shards of the store gateways; none where none runs: without a bucket, or switched off.
pub(super) fn check(
    name: &str,
    spec: &MonitoringClusterSpec,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Vec<ValidShard> {
    let gateway = &spec.store_gateway;
    let wanted = volume::wanted_cache(&gateway.cache, spec.profile);
    volume::check_size(&wanted, "spec.storeGateway.cache.size", problems);
    times(gateway.min_time.as_deref(), gateway.max_time.as_deref(), problems);
    if !gateway.enabled || spec.object_storage.is_none() {
        return Vec::new();
    }
    let mut cache = |shard: i32| {
        let set = names::store_shard(name, shard);
        volume::keep(wanted.clone(), &set, (CACHE, &instead(&set)), observed).unwrap_or_else(|(existing, problem)| {
            problems.push(problem);
            existing
        })
    };
    let shares = shares(name, gateway.shards.max(1), observed);
    (0..).zip(shares).map(|(shard, (of, needed))| ValidShard { cache: cache(shard), of, needed }).collect()
}

/// What each shard serves, and whether it is needed. When the number of shards changes, nobody gives up blocks before whoever
/// is to have them serves them: first all serve their old blocks and their new ones; once they do, the old ones are given up.
fn shares(name: &str, wanted: i32, observed: &Observed) -> Vec<(Vec<i32>, bool)> {
    let live = |shard| {
        let set = observed.live.stateful_sets.get(&names::store_shard(name, shard));
        set.filter(|set| set.metadata.deletion_timestamp.is_none())
    };
    // What is divided now: a number that every shard of it has, the old one first, since it stands first in a set that serves both.
    let numbers: Vec<i32> = (0..MOST_SHARDS).filter_map(live).flat_map(divided).collect();
    let has = |shard, number| live(shard).is_some_and(|set| covers(&divided(set), number));
    let whole = |number: &&i32| (0..**number).all(|shard| has(shard, **number));
    let before = numbers.iter().find(whole).or(numbers.first()).copied().unwrap_or(wanted);
    let serves = |shard| live(shard).is_some_and(|set| rolled_out(set) && covers(&divided(set), wanted));
    if before == wanted || (0..wanted).all(serves) {
        return vec![(vec![wanted], true); usize::try_from(wanted).unwrap_or(1)];
    }
    let share = |shard: i32| match (shard < before, shard < wanted) {
        // One that has all needs nothing new.
        (true, true) if before == 1 => vec![before],
        (true, true) => vec![before, wanted],
        (true, false) => vec![before],
        _ => vec![wanted],
    };
    (0..before.max(wanted)).map(|shard| (share(shard), shard < before)).collect()
}

/// More than the API lets anybody have.
const MOST_SHARDS: i32 = 64;

/// Whether a shard that serves these divisions has its blocks of `wanted` shards.
fn covers(of: &[i32], wanted: i32) -> bool {
    of.contains(&wanted) || of.contains(&1)
}

/// Whether every replica runs what the StatefulSet says, and one is ready, if any is wanted.
fn rolled_out(set: &StatefulSet) -> bool {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &set.status else { return false };
    let seen = status.observed_generation >= set.metadata.generation;
    let ready = status.ready_replicas.unwrap_or(0);
    seen && status.updated_replicas.unwrap_or(0) >= replicas && (ready > 0 || replicas == 0)
}

/// Into how many shards a StatefulSet divides the blocks; see [`ValidShard::of`].
fn divided(set: &StatefulSet) -> Vec<i32> {
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let args = pod.and_then(|pod| pod.containers.first()?.args.as_ref());
    let selector = args.and_then(|args| args.iter().find_map(|arg| arg.strip_prefix("--selector.relabel-config=")));
    let steps: Vec<Value> = selector.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    // A selector of a person's own divides nothing that we know of.
    let ours = |step: &&Value| {
        step["source_labels"] == json!(["__block_id"])
            && matches!(step["target_label"].as_str(), Some("shard" | "before"))
    };
    let moduli = steps.iter().filter(ours).filter_map(|step| i32::try_from(step.get("modulus")?.as_i64()?).ok());
    let found: Vec<i32> = moduli.filter(|modulus| *modulus > 0).collect();
    if found.is_empty() { vec![1] } else { found }
}

/// The same for the store gateway of a link; what can't be changed stays as it is, and is told with the link.
pub(super) fn of_link(set: &str, spec: &MonitoringClusterSpec, observed: &Observed) -> (Volume, Option<Problem>) {
    let wanted = volume::wanted_cache(&spec.store_gateway.cache, spec.profile);
    match volume::keep(wanted, set, (CACHE, &instead(set)), observed) {
        Ok(volume) => (volume, None),
        Err((existing, problem)) => (existing, Some(problem)),
    }
}

fn instead(set: &str) -> String {
    format!("run kubectl delete statefulset {set}: it is made again, and its cache fills anew")
}

/// A point in time as the flags take it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Point {
    At(i64),
    /// Milliseconds from now.
    Distance(i64),
}

fn point(text: &str) -> Option<Point> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(Point::At(time.as_millisecond()));
    }
    match text.strip_prefix('-') {
        Some(before) => duration_millis(before).map(|ms| Point::Distance(-ms)),
        None => duration_millis(text).map(Point::Distance),
    }
}

fn times(min: Option<&str>, max: Option<&str>, problems: &mut Vec<Problem>) {
    let mut read = |field: &str, text: Option<&str>| {
        let found = text.map(point);
        if found == Some(None) {
            let text = text.unwrap_or_default();
            let message =
                format!("{text:?} is neither a time as 2026-01-02T15:04:05Z nor a duration before now as -2w");
            problems.push(Problem::invalid(format!("spec.storeGateway.{field}"), message));
        }
        found.flatten()
    };
    let (min_point, max_point) = (read("minTime", min), read("maxTime", max));
    let empty = match (min_point, max_point) {
        (Some(Point::At(min)), Some(Point::At(max))) | (Some(Point::Distance(min)), Some(Point::Distance(max))) => {
            min >= max
        }
        _ => false,
    };
    if empty {
        let message = format!(
            "it is not before maxTime ({} and {}), so nothing would be served: swap them",
            min.unwrap_or_default(),
            max.unwrap_or_default()
        );
        problems.push(Problem::invalid("spec.storeGateway.minTime", message));
    }
}
