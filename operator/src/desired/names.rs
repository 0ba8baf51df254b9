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
        let all = [
            super::headless(&super::prometheus(&cr)),
            super::query_exposed(&cr),
            super::store_api(&cr),
            super::kube_state_metrics(&cr),
            super::headless(&super::node_exporter(&cr)),
        ];
        assert!(all.iter().all(|name| name.len() <= 63));
    }
}
