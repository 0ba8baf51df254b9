//! The blocks of a MonitoringCluster that shape one part each.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{LogLevel, PodTemplatePatch, Quantity, Resources, duration_schema, optional_duration_schema};

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

/// The store gateway: serves what is in the bucket to the querier. It runs where `objectStorage` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreGatewaySpec {
    /// Whether it runs. Without it only what Prometheus holds locally can be asked for.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How many serve the same blocks. Default by profile: 1 for Minimal, else 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub replicas: Option<i32>,
    /// Among how many groups of replicas the blocks are divided, by their ids, so that each holds a part of the index.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub shards: i32,
    /// Volume of each pod for what it has read from the bucket. It may be lost at any time: all of it is read again.
    #[serde(default)]
    pub cache: CacheVolume,
    /// Oldest data to serve: RFC 3339, or a duration before now, such as `-8w`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub min_time: Option<String>,
    /// Newest data to serve: RFC 3339, or a duration before now, such as `-2h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub max_time: Option<String>,
    /// Image instead of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Requests and limits instead of the profile's. Caches in memory take a part of the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How much it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// More flags, such as `--sync-block-duration=1m`. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
    /// Partial pod template merged onto the finished one (containers by name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplatePatch>,
}

impl Default for StoreGatewaySpec {
    fn default() -> Self {
        Self {
            enabled: true,
            replicas: None,
            shards: one(),
            cache: CacheVolume::default(),
            min_time: None,
            max_time: None,
            image: None,
            resources: None,
            log_level: LogLevel::default(),
            extra_args: Vec::new(),
            pod_template: None,
        }
    }
}

/// A volume whose content may be lost at any time.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.storageClassName) || self.persistent").message("storageClassName needs persistent: true: without it the cache is an emptyDir"))]
pub struct CacheVolume {
    /// Size. Default by profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Whether it outlives its pod, as a PersistentVolumeClaim; else it is an emptyDir, and each new pod starts with nothing.
    #[serde(default)]
    pub persistent: bool,
    /// Storage class of a persistent one; the cluster's default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// The compactor: blocks of the bucket become fewer and coarser, and what is too old goes. It runs where `objectStorage` is set.
/// There is one: a second one on the same bucket stands by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompactorSpec {
    /// Whether it runs. Without it the bucket grows for ever, and long ranges are read from raw data; switch it off where another
    /// one does this bucket.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How many blocks it works on at the same time, in compactions and in downsampling; each needs a CPU.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32))]
    pub concurrency: i32,
    /// How old a block must be before it is looked at; for stores whose listings lag behind.
    #[serde(default = "consistency_delay")]
    #[schemars(schema_with = "duration_schema")]
    pub consistency_delay: String,
    /// From the mark of a block to its deletion. Queriers of other clusters must have noticed by then.
    #[serde(default = "delete_delay")]
    #[schemars(schema_with = "duration_schema")]
    pub delete_delay: String,
    /// Whether coarser copies are made (5m and 1h): without them long ranges are slow, or gone with the raw data.
    #[serde(default = "yes")]
    pub downsampling: bool,
    /// Whether the blocks of the Prometheus replicas become one, for good: half the storage, and no way back to the replicas.
    #[serde(default)]
    pub vertical_dedup: bool,
    /// Volume for the blocks that are worked on. It may be lost at any time: they are fetched again.
    #[serde(default)]
    pub storage: WorkVolume,
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
    /// More flags, such as `--wait-interval=1m`. One that the operator sets itself is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 1024)))]
    pub extra_args: Vec<String>,
    /// Partial pod template merged onto the finished one (containers by name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplatePatch>,
}

impl Default for CompactorSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            concurrency: one(),
            consistency_delay: consistency_delay(),
            delete_delay: delete_delay(),
            downsampling: true,
            vertical_dedup: false,
            storage: WorkVolume::default(),
            image: None,
            resources: None,
            log_level: LogLevel::default(),
            extra_args: Vec::new(),
            pod_template: None,
        }
    }
}

/// A volume for work, whose content may be lost at any time.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.storageClassName) || !has(self.persistent) || self.persistent").message("storageClassName and persistent: false exclude each other: an emptyDir has no class"))]
pub struct WorkVolume {
    /// Size: twice the largest block that is to come, and an eighth. Default by profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Whether it is a PersistentVolumeClaim, else an emptyDir on the node's own disk. Default: true, but for profile Minimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
    /// Storage class of a persistent one; that of `spec.storage` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
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

fn one() -> i32 {
    1
}

fn consistency_delay() -> String {
    "30m".to_owned()
}

fn delete_delay() -> String {
    "48h".to_owned()
}

fn node_exporter_port() -> i32 {
    9100
}
