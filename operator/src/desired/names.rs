//! Every name of every child, in one place; most can never change, because they are immutable or wired into clients.

use args::files::{CONFIG_SLOTS, ENDPOINT_SLOTS, RULE_SLOTS};

/// `<cr>-prometheus`: StatefulSet, ClusterIP Service, ServiceAccount.
#[must_use]
pub fn prometheus(cr: &str) -> String {
    format!("{cr}-prometheus")
}

/// Governing Service of a part.
#[must_use]
pub fn headless(part: &str) -> String {
    format!("{part}-headless")
}

/// `<cr>-query`: Deployment, ClusterIP Service, ServiceAccount.
#[must_use]
pub fn query(cr: &str) -> String {
    format!("{cr}-query")
}

/// The Service that leads out of the cluster; it has the gRPC port only.
#[must_use]
pub fn query_exposed(cr: &str) -> String {
    format!("{cr}-query-grpc")
}

/// The component of Prometheus.
pub(crate) const PROMETHEUS: &str = "prometheus";

/// The component of store gateways of the cluster's own bucket.
pub(crate) const STORE: &str = "store";

/// `<cr>-store`: StatefulSet, ServiceAccount.
#[must_use]
pub fn store(cr: &str) -> String {
    format!("{cr}-{STORE}")
}

/// The component of the compactor.
pub(crate) const COMPACT: &str = "compact";

/// `<cr>-compact`: StatefulSet, ServiceAccount.
#[must_use]
pub fn compact(cr: &str) -> String {
    format!("{cr}-{COMPACT}")
}

/// By what the compactor calls itself in the lease on the bucket: whoever stands by names it, so it says which cluster it is in.
/// It is `POD_NAME` of its pod; the engine puts `compact-` before it and keeps 128 characters of it.
pub(crate) fn compactor(cluster_name: &str, namespace: &str, cr: &str) -> String {
    let name = format!("{cluster_name}.{namespace}.{}-0", compact(cr));
    name.chars().take(128).collect()
}

/// The StatefulSet of one shard of the store gateway.
#[must_use]
pub fn store_shard(cr: &str, shard: i32) -> String {
    match shard {
        0 => store(cr),
        shard => format!("{}-shard-{shard}", store(cr)),
    }
}

/// The headless Service over the pods of one shard, where there are several: by it queriers know that it is there.
#[must_use]
pub fn store_shard_api(cr: &str, shard: i32) -> String {
    format!("{}-shard-{shard}-api", store(cr))
}

/// `<cr>-remote-<rstore>`: the store gateway of a RemoteStore that leads to a bucket.
#[must_use]
pub fn remote(cr: &str, remote: &str) -> String {
    format!("{cr}-{}", remote_component(remote))
}

/// Its component.
pub(crate) fn remote_component(remote: &str) -> String {
    format!("remote-{remote}")
}

/// Whether a component is the store gateway of a RemoteStore.
pub(crate) fn is_remote(component: &str) -> bool {
    component.starts_with("remote-")
}

/// The Secret that the store gateway of a RemoteStore mounts for its bucket.
#[must_use]
pub fn remote_objstore(set: &str) -> String {
    format!("{set}-objstore")
}

/// Longest name of a StatefulSet: the revision's hash is appended to it in a label of 63 characters.
pub(crate) const LONGEST_SET: usize = 52;

/// The headless Service over all that serves the StoreAPI, when not named by the spec.
#[must_use]
pub fn store_api(cr: &str) -> String {
    format!("{cr}-store-api")
}

/// `<cr>-kube-state-metrics`.
#[must_use]
pub fn kube_state_metrics(cr: &str) -> String {
    format!("{cr}-kube-state-metrics")
}

/// `<cr>-node-exporter`.
#[must_use]
pub fn node_exporter(cr: &str) -> String {
    format!("{cr}-node-exporter")
}

/// The Secret that all parts mount for the bucket.
#[must_use]
pub fn objstore(cr: &str) -> String {
    format!("{cr}-objstore")
}

/// Secrets of the Prometheus configuration.
#[must_use]
pub fn configuration_slots(cr: &str) -> Vec<String> {
    (0..CONFIG_SLOTS).map(|i| format!("{cr}-prometheus-config-{i}")).collect()
}

/// ConfigMaps of the rules.
#[must_use]
pub fn rule_slots(cr: &str) -> Vec<String> {
    (0..RULE_SLOTS).map(|i| format!("{cr}-prometheus-rules-{i}")).collect()
}

/// Secrets of the querier's endpoints.
#[must_use]
pub fn endpoint_slots(cr: &str) -> Vec<String> {
    (0..ENDPOINT_SLOTS).map(|i| format!("{cr}-query-endpoints-{i}")).collect()
}

/// A cluster-scoped child of a namespaced object.
#[must_use]
pub fn cluster_scoped(namespace: &str, cr: &str, part: &str) -> String {
    format!("panoptes:{namespace}:{cr}:{part}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_fit_for_the_longest_object() {
        let cr = "a".repeat(32);
        // StatefulSet names: the revision hash is appended in a label of 63 characters
        assert!(super::prometheus(&cr).len() <= 52);
        assert!(format!("{}-shard-63", super::prometheus(&cr)).len() <= 52);
        assert!(super::store_shard(&cr, 63).len() <= super::LONGEST_SET);
        assert!(super::headless(&"a".repeat(super::LONGEST_SET)).len() <= 63);
        let all = [
            super::headless(&super::prometheus(&cr)),
            super::query_exposed(&cr),
            super::store_api(&cr),
            super::store_shard_api(&cr, 63),
            super::kube_state_metrics(&cr),
            super::headless(&super::node_exporter(&cr)),
        ];
        assert!(all.iter().all(|name| name.len() <= 63));
    }
}
