//! The headless Service over all pods that serve the StoreAPI: how queriers find them.

use serde_json::json;

use crate::cluster::ValidCluster;

use super::{Object, meta, names, pod};

/// Its name.
pub(super) fn name(cluster: &ValidCluster) -> String {
    cluster.spec.store_api.service_name.clone().unwrap_or_else(|| names::store_api(&cluster.name))
}

pub(super) fn service(cluster: &ValidCluster) -> Object {
    pod::service(
        cluster,
        meta::WHOLE,
        &name(cluster),
        json!({
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": {
                "app.kubernetes.io/instance": cluster.name,
                meta::STORE_API.0: meta::STORE_API.1,
            },
            "ports": [pod::service_port("grpc", args::GRPC_PORT), pod::service_port("http", args::HTTP_PORT)],
        }),
    )
}
