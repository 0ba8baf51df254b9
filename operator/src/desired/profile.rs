//! Default sizes. First guesses, to be replaced by measured numbers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::{Profile, Quantity, Resources};

/// A container that has a size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sized {
    Prometheus,
    Sidecar,
    Querier,
    Store,
    Compactor,
    KubeStateMetrics,
    NodeExporter,
}

/// Replicas of Prometheus, the store gateway and the querier.
pub(super) fn replicas(profile: Profile, wanted: Option<i32>) -> i32 {
    wanted.unwrap_or(if profile == Profile::Minimal { 1 } else { 2 })
}

fn requests(profile: Profile, what: Sized) -> (&'static str, &'static str) {
    match (what, profile) {
        (Sized::Prometheus, Profile::Minimal) => ("100m", "400Mi"),
        (Sized::Prometheus, Profile::Small) => ("250m", "2Gi"),
        (Sized::Prometheus, Profile::Medium) => ("2", "10Gi"),
        (Sized::Prometheus, Profile::Large) => ("6", "40Gi"),
        (Sized::Sidecar, Profile::Minimal) => ("20m", "64Mi"),
        (Sized::Sidecar, Profile::Small) => ("50m", "128Mi"),
        (Sized::Sidecar, Profile::Medium) => ("200m", "512Mi"),
        (Sized::Sidecar, Profile::Large) => ("1", "2Gi"),
        (Sized::Querier | Sized::Store, Profile::Minimal) => ("50m", "128Mi"),
        (Sized::Querier | Sized::Store, Profile::Small) => ("100m", "512Mi"),
        (Sized::Querier | Sized::Store, Profile::Medium) => ("1", "2Gi"),
        (Sized::Querier | Sized::Store, Profile::Large) => ("4", "8Gi"),
        (Sized::Compactor, Profile::Minimal) => ("20m", "128Mi"),
        (Sized::Compactor, Profile::Small) => ("250m", "1Gi"),
        (Sized::Compactor, Profile::Medium) => ("1", "4Gi"),
        (Sized::Compactor, Profile::Large) => ("2", "8Gi"),
        (Sized::KubeStateMetrics, Profile::Minimal) => ("10m", "64Mi"),
        (Sized::KubeStateMetrics, Profile::Small) => ("50m", "128Mi"),
        (Sized::KubeStateMetrics, Profile::Medium) => ("100m", "512Mi"),
        (Sized::KubeStateMetrics, Profile::Large) => ("500m", "2Gi"),
        (Sized::NodeExporter, Profile::Minimal) => ("10m", "32Mi"),
        (Sized::NodeExporter, _) => ("50m", "64Mi"),
    }
}

/// `resources` of a container: the profile's or the user's. Memory is limited to twice the request, CPU never, because
/// a throttled Prometheus loses scrapes.
pub(super) fn resources(profile: Profile, what: Sized, own: Option<&Resources>) -> Value {
    let (cpu, memory) = requests(profile, what);
    let mut wanted: BTreeMap<String, Quantity> =
        BTreeMap::from([("cpu".to_owned(), cpu.into()), ("memory".to_owned(), memory.into())]);
    let mut limits = BTreeMap::new();
    if let Some(own) = own {
        wanted.extend(own.requests.clone());
        limits.extend(own.limits.clone());
    }
    if !limits.contains_key("memory")
        && let Some(bytes) = wanted.get("memory").and_then(Quantity::value)
    {
        limits.insert("memory".to_owned(), Quantity::Text(mebibytes(bytes * 2.0)));
    }
    // A limit below the default request would be refused by the API server.
    for (name, limit) in &limits {
        if let (Some(limit), Some(request)) = (limit.value(), wanted.get(name).and_then(Quantity::value))
            && request > limit
        {
            wanted.insert(name.clone(), limits[name].clone());
        }
    }
    json!({"requests": wanted, "limits": limits})
}

/// Bytes that a container with these resources may use.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
pub(super) fn memory_limit(resources: &Value) -> u64 {
    let limit = resources["limits"]["memory"].as_str().map(|text| Quantity::Text(text.to_owned()));
    let limit = limit.or_else(|| resources["limits"]["memory"].as_i64().map(Quantity::Int));
    limit.and_then(|limit| limit.value()).unwrap_or(0.0).max(0.0) as u64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
fn mebibytes(bytes: f64) -> String {
    let whole = bytes.max(0.0) as u64;
    match whole {
        whole if whole % (1 << 30) == 0 => format!("{}Gi", whole >> 30),
        whole if whole % (1 << 20) == 0 => format!("{}Mi", whole >> 20),
        whole => whole.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_limit_is_twice_the_request() {
        let small = resources(Profile::Small, Sized::Prometheus, None);
        assert_eq!(small, json!({"requests": {"cpu": "250m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}));
        let own = Resources {
            requests: BTreeMap::from([("memory".to_owned(), "100M".into())]),
            limits: BTreeMap::from([("cpu".to_owned(), "100m".into())]),
        };
        let mixed = resources(Profile::Small, Sized::Prometheus, Some(&own));
        assert_eq!(
            mixed,
            json!({"requests": {"cpu": "100m", "memory": "100M"}, "limits": {"cpu": "100m", "memory": "200000000"}})
        );
    }
}
