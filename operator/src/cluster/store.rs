//! The store gateway: when it runs, its cache, and which times it serves.

use jiff::Timestamp;

use crate::api::{MonitoringClusterSpec, duration_millis};
use crate::desired::names;
use crate::observe::Observed;

use super::problem::Problem;
use super::volume::{self, Volume};

const CACHE: &str = "spec.storeGateway.cache";

/// The cache of the store gateways, by shard; none where none runs: without a bucket, or switched off.
pub(super) fn check(
    name: &str,
    spec: &MonitoringClusterSpec,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Vec<Volume> {
    let gateway = &spec.store_gateway;
    let wanted = volume::wanted_cache(&gateway.cache, spec.profile);
    volume::check_size(&wanted, "spec.storeGateway.cache.size", problems);
    times(gateway.min_time.as_deref(), gateway.max_time.as_deref(), problems);
    if !gateway.enabled || spec.object_storage.is_none() {
        return Vec::new();
    }
    let cache = |shard| {
        let set = names::store_shard(name, shard);
        volume::keep(wanted.clone(), &set, (CACHE, &instead(&set)), observed).unwrap_or_else(|(existing, problem)| {
            problems.push(problem);
            existing
        })
    };
    (0..gateway.shards.max(1)).map(cache).collect()
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
