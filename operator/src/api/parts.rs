//! The blocks of a MonitoringCluster that shape one part each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{LogLevel, PodTemplatePatch, Resources, optional_duration_schema};

/// The Prometheus servers and what belongs to their pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusSpec {
    /// How many servers scrape the same targets. Default by profile: 1 for Minimal, else 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub replicas: Option<i32>,
    /// Image instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Requests and limits instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How much it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// More flags, such as `--query.max-samples=1000000`. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
    /// How long a server may replay its log at start before it is restarted. At least 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_duration_schema")]
    pub maximum_startup: Option<String>,
    /// Partial pod template merged onto the finished one (containers by name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplatePatch>,
}

/// The sidecar beside each Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarSpec {
    /// Image instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Requests and limits instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How much it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// More flags. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
}

/// The queriers that answer for this cluster and its links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuerierSpec {
    /// How many. Default by profile: 1 for Minimal, else 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub replicas: Option<i32>,
    /// Image instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Requests and limits instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How much it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// More flags. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
    /// Partial pod template merged onto the finished one (containers by name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplatePatch>,
}

/// kube-state-metrics: what the API server knows about objects, as series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeStateMetricsSpec {
    /// Whether it runs.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Image instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Requests and limits instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// More flags, such as `--metric-labels-allowlist=deployments=[*]`. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
    /// Partial pod template merged onto the finished one (containers by name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplatePatch>,
}

impl Default for KubeStateMetricsSpec {
    fn default() -> Self {
        Self { enabled: true, image: None, resources: None, extra_args: Vec::new(), pod_template: None }
    }
}

/// node-exporter on every node. It needs host namespaces, so its namespace can't be `restricted` or `baseline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeExporterSpec {
    /// Whether it runs.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Image instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Requests and limits instead of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// TCP port on the node.
    #[serde(default = "node_exporter_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// More flags, such as `--no-collector.wifi`. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
    /// Partial pod template merged onto the finished one (containers by name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplatePatch>,
}

impl Default for NodeExporterSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            image: None,
            resources: None,
            port: node_exporter_port(),
            extra_args: Vec::new(),
            pod_template: None,
        }
    }
}

pub(super) fn yes() -> bool {
    true
}

fn node_exporter_port() -> i32 {
    9100
}
