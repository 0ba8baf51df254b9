//! The store gateway: when it runs, its cache, and which times it serves.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::Value;

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
    /// Into how many shards the blocks are divided, of which it serves one.
    pub of: i32,
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
    let mut cache = |shard| {
        let set = names::store_shard(name, shard);
        volume::keep(wanted.clone(), &set, (CACHE, &instead(&set)), observed).unwrap_or_else(|(existing, problem)| {
            problems.push(problem);
            existing
        })
    };
    let shards = gateway.shards.max(1);
    let (existing, divided) = divided(name, shards, observed);
    (0..shards)
        .map(|shard| ValidShard { cache: cache(shard), of: if shard < existing { divided } else { shards } })
        .collect()
}

/// How many shards there were, and into how many those divide the blocks: they give up blocks only once every new shard
/// has a replica that serves.
fn divided(name: &str, shards: i32, observed: &Observed) -> (i32, i32) {
    let live = |shard| observed.live.stateful_sets.get(&names::store_shard(name, shard));
    let Some(before) = live(0).map(modulus).filter(|before| *before < shards) else { return (shards, shards) };
    let serves = |shard| live(shard).is_some_and(|set| ready(set) > 0);
    (before, if (before..shards).all(serves) { shards } else { before })
}

fn ready(set: &StatefulSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

/// Into how many shards a StatefulSet divides the blocks.
fn modulus(set: &StatefulSet) -> i32 {
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let args = pod.and_then(|pod| pod.containers.first()?.args.as_ref());
    let selector = args.and_then(|args| args.iter().find_map(|arg| arg.strip_prefix("--selector.relabel-config=")));
    let steps: Option<Value> = selector.and_then(|text| serde_json::from_str(text).ok());
    let modulus = steps.and_then(|steps| steps.pointer("/0/modulus")?.as_i64());
    modulus.and_then(|modulus| i32::try_from(modulus).ok()).unwrap_or(1).max(1)
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
