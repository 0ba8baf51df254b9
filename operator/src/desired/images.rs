//! Which images run.

use crate::api::MonitoringClusterSpec;
use crate::observe::Defaults;

/// The Prometheus that this operator is tested with.
pub(crate) const PROMETHEUS_VERSION: &str = "3.14.0";
const PROMETHEUS: &str = "quay.io/prometheus/prometheus";
/// The kube-state-metrics that this operator is tested with.
pub(crate) const KUBE_STATE_METRICS_VERSION: &str = "2.15.0";
const KUBE_STATE_METRICS: &str = "registry.k8s.io/kube-state-metrics/kube-state-metrics";
/// The node-exporter that this operator is tested with.
pub(crate) const NODE_EXPORTER_VERSION: &str = "1.12.1";
const NODE_EXPORTER: &str = "quay.io/prometheus/node-exporter";

/// Image references, mirror and overrides applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "one per part")]
pub struct Images {
    pub prometheus: String,
    pub sidecar: String,
    pub store: String,
    pub compactor: String,
    pub querier: String,
    pub kube_state_metrics: String,
    pub node_exporter: String,
}

impl Images {
    /// An object that is pinned to another version than the installation's has the installation's image of our own parts
    /// with that version as its tag; else the image stays as it is, whatever its tag.
    pub(crate) fn new(
        spec: &MonitoringClusterSpec,
        defaults: &Defaults,
        engine_version: &str,
        prometheus_version: &str,
    ) -> Self {
        let mirror = |image: &str| match &spec.image_registry {
            None => image.to_owned(),
            Some(registry) => format!("{}/{}", registry.trim_end_matches('/'), without_registry(image)),
        };
        let choose = |own: &Option<String>, default: &str| own.clone().unwrap_or_else(|| mirror(default));
        let engine = if engine_version == defaults.operator_version {
            defaults.engine_image.clone()
        } else {
            with_version(&defaults.engine_image, engine_version)
        };
        Self {
            prometheus: choose(&spec.prometheus.image, &format!("{PROMETHEUS}:v{prometheus_version}")),
            sidecar: choose(&spec.sidecar.image, &engine),
            store: choose(&spec.store_gateway.image, &engine),
            compactor: choose(&spec.compactor.image, &engine),
            querier: choose(&spec.querier.image, &engine),
            kube_state_metrics: choose(
                &spec.kube_state_metrics.image,
                &format!("{KUBE_STATE_METRICS}:v{KUBE_STATE_METRICS_VERSION}"),
            ),
            node_exporter: choose(&spec.node_exporter.image, &format!("{NODE_EXPORTER}:v{NODE_EXPORTER_VERSION}")),
        }
    }
}

/// The image at another version. A digest names exactly one image, so it stays.
fn with_version(image: &str, version: &str) -> String {
    if image.contains('@') {
        return image.to_owned();
    }
    let slash = image.rfind('/').map_or(0, |at| at + 1);
    let repository = image[slash..].find(':').map_or(image, |colon| &image[..slash + colon]);
    format!("{repository}:{version}")
}

/// The image without its registry's host.
fn without_registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        assert_eq!(with_version("panoptes.dev/panoptes:0.1.0", "0.2.0"), "panoptes.dev/panoptes:0.2.0");
        assert_eq!(with_version("host:5000/panoptes", "0.2.0"), "host:5000/panoptes:0.2.0");
        assert_eq!(with_version("x/panoptes@sha256:00", "0.2.0"), "x/panoptes@sha256:00");
        assert_eq!(without_registry("quay.io/a/b:1"), "a/b:1");
        assert_eq!(without_registry("localhost/b:1"), "b:1");
        assert_eq!(without_registry("library/b:1"), "library/b:1");
    }
}
