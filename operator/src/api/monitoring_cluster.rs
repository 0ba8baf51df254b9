//! MonitoringCluster: the wish.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{KeyRef, LabelSelector, LocalRef, Quantity, duration_schema, optional_duration_schema};
use super::object_storage::ObjectStorage;
use super::parts::{
    CompactorSpec, KubeStateMetricsSpec, NodeExporterSpec, PrometheusSpec, QuerierSpec, SidecarSpec, StoreGatewaySpec,
    yes,
};
use super::status::MonitoringClusterStatus;

/// What a person wants monitored in this cluster, and how.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "panoptes.dev",
    version = "v1alpha1",
    kind = "MonitoringCluster",
    plural = "monitoringclusters",
    namespaced,
    shortname = "moncl",
    category = "fleet",
    status = "MonitoringClusterStatus",
    derive = "PartialEq",
    doc = "The monitoring of one Kubernetes cluster: Prometheus with sidecars, a querier over them and over linked clusters, and the exporters.",
    validation = Rule::new("size(self.metadata.name) <= 32").message("metadata.name must not be longer than 32 characters, because the names of its parts start with it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must start with a letter and hold only lower-case letters, digits and '-', because Services are named after it"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Prom", type_ = "string", json_path = ".status.summary.prometheus"),
    printcolumn(name = "Remotes", type_ = "string", json_path = ".status.summary.remotes"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.versions.current"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Storage", type_ = "string", json_path = ".status.conditions[?(@.type==\"ObjectStorageReady\")].reason", priority = 1),
    printcolumn(name = "Blocks", type_ = "integer", json_path = ".status.history.blocks", priority = 1),
    printcolumn(name = "Compaction", type_ = "string", json_path = ".status.conditions[?(@.type==\"CompactionHealthy\")].reason", priority = 1),
    printcolumn(name = "Query", type_ = "string", json_path = ".status.addresses.query", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.clusterLabel in self.externalLabels) && !(self.replicaLabel in self.externalLabels)").message("externalLabels must not hold the cluster label or the replica label: clusterName and the pod's name are their values"),
    validation = Rule::new("self.clusterLabel != self.replicaLabel").message("clusterLabel and replicaLabel must differ")
)]
pub struct MonitoringClusterSpec {
    /// Name of this cluster in the fleet: the value of the cluster external label of every series. Can't be changed.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterName can't be changed: old and new data would look like two clusters"))]
    pub cluster_name: String,
    /// Name of the external label that says from which cluster a series is. Can't be changed.
    #[serde(default = "cluster_label")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterLabel can't be changed: old and new data would look like two clusters"))]
    pub cluster_label: String,
    /// Name of the external label that tells the replicas of one Prometheus apart; queries leave it out.
    #[serde(default = "replica_label")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub replica_label: String,
    /// More external labels, such as a region.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 256}))]
    pub external_labels: BTreeMap<String, String>,
    /// Default sizes and replica numbers.
    #[serde(default)]
    pub profile: Profile,
    /// Version of the engine (our parts). Without it the one that the object was created under stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+([-+][-.+a-zA-Z0-9]+)?$"))]
    pub version: Option<String>,
    /// Version of Prometheus, 3.0.0 or newer. Without it the one that this operator was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[.a-zA-Z0-9]+)?$"))]
    pub prometheus_version: Option<String>,
    /// Registry (host, optionally with a path) that replaces the registry of every default image: a mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-zA-Z0-9][-._:/a-zA-Z0-9]*[a-zA-Z0-9]$"))]
    pub image_registry: Option<String>,
    /// Secrets that the kubelet pulls images with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub image_pull_secrets: Vec<LocalRef>,
    /// The bucket for history. Without it only what Prometheus holds locally can be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_storage: Option<ObjectStorage>,
    /// Volumes of the Prometheus servers.
    #[serde(default)]
    pub storage: Storage,
    /// How long data is kept.
    #[serde(default)]
    pub retention: Retention,
    /// What is scraped, and how often.
    #[serde(default)]
    pub scrape: Scrape,
    /// Which rules are evaluated.
    #[serde(default)]
    pub rules: Rules,
    /// The Prometheus servers.
    #[serde(default)]
    pub prometheus: PrometheusSpec,
    /// The sidecar beside each of them.
    #[serde(default)]
    pub sidecar: SidecarSpec,
    /// The store gateway: history from the bucket. It runs where `objectStorage` is set.
    #[serde(default)]
    pub store_gateway: StoreGatewaySpec,
    /// The compactor: fewer and coarser blocks in the bucket, and an end to what is too old. It runs where `objectStorage` is set.
    #[serde(default)]
    pub compactor: CompactorSpec,
    /// The queriers.
    #[serde(default)]
    pub querier: QuerierSpec,
    /// kube-state-metrics.
    #[serde(default)]
    pub kube_state_metrics: KubeStateMetricsSpec,
    /// node-exporter.
    #[serde(default)]
    pub node_exporter: NodeExporterSpec,
    /// The headless Service over everything that serves the StoreAPI.
    #[serde(default, rename = "storeAPI")]
    pub store_api: StoreApi,
    /// What is reachable from outside of the cluster.
    #[serde(default)]
    pub expose: Expose,
    /// How the pods are kept apart and protected.
    #[serde(default)]
    pub availability: Availability,
    /// Labels and annotations for every object that the operator makes.
    #[serde(default)]
    pub common_metadata: CommonMetadata,
    /// While true nothing is written but the status.
    #[serde(default)]
    pub paused: bool,
    /// What happens to the volumes when this object is deleted. Buckets are never touched.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Default sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// Demos and edge: one of each, data in an emptyDir.
    Minimal,
    /// Up to half a million active series.
    #[default]
    Small,
    /// Up to three million.
    Medium,
    /// Up to fifteen million.
    Large,
}

/// Volumes of the Prometheus servers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("storageClassName can't be changed: existing volumes can't move to another class"))]
pub struct Storage {
    /// Size for each replica. Default by profile (Minimal: an emptyDir; with a size it gets a volume too).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Storage class; the cluster's default one when absent. Can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// How long data is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// In the Prometheus servers; at least 6h.
    #[serde(default = "retention_local")]
    #[schemars(schema_with = "duration_schema")]
    pub local: String,
    /// Bytes that a Prometheus server may fill. Default: 85 % of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_size: Option<Quantity>,
    /// Raw data in the bucket; 0, the default: for ever. At least 40h, since coarser copies are made of blocks of two days. The
    /// compactor deletes what is older, once it has a coarser copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_duration_schema")]
    pub raw: Option<String>,
    /// Data of 5 minutes in the bucket; 0, the default: for ever. At least 10d, and better 21d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_duration_schema")]
    pub five_minutes: Option<String>,
    /// Data of an hour in the bucket; 0, the default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_duration_schema")]
    pub one_hour: Option<String>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { local: retention_local(), local_size: None, raw: None, five_minutes: None, one_hour: None }
    }
}

/// What is scraped, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scrape {
    /// How often targets are scraped.
    #[serde(default = "scrape_interval")]
    #[schemars(schema_with = "duration_schema")]
    pub interval: String,
    /// How long a scrape may take; not longer than the interval.
    #[serde(default = "scrape_timeout")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: String,
    /// How often rules are evaluated.
    #[serde(default = "scrape_interval")]
    #[schemars(schema_with = "duration_schema")]
    pub evaluation_interval: String,
    /// Built-in jobs.
    #[serde(default = "ScrapeJob::all")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub jobs: Vec<ScrapeJob>,
    /// Whether the kubelets' certificates must be signed by the cluster's authority. Most installers sign them otherwise.
    #[serde(default)]
    pub verify_kubelets: bool,
    /// Pods and Services that ask for it by an annotation.
    #[serde(default)]
    pub annotations: ScrapeAnnotations,
    /// Raw scrape configurations (a YAML list each), from a Secret or a ConfigMap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub additional: Vec<AdditionalScrape>,
}

impl Default for Scrape {
    fn default() -> Self {
        Self {
            interval: scrape_interval(),
            timeout: scrape_timeout(),
            evaluation_interval: scrape_interval(),
            jobs: ScrapeJob::all(),
            verify_kubelets: false,
            annotations: ScrapeAnnotations::default(),
            additional: Vec::new(),
        }
    }
}

/// A built-in scrape job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ScrapeJob {
    /// The API servers.
    Apiserver,
    /// The kubelets' own series (volumes, pods, runtime).
    Kubelet,
    /// The kubelets' container series.
    Cadvisor,
    /// Our node-exporter.
    NodeExporter,
    /// Our kube-state-metrics.
    KubeStateMetrics,
    /// The cluster's DNS.
    Coredns,
    /// The parts that the operator made: Prometheus, sidecar, store gateway, compactor, querier.
    #[serde(rename = "self")]
    Own,
    /// Annotated pods and Services.
    Annotated,
}

impl ScrapeJob {
    /// Every job: the default.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::Apiserver,
            Self::Kubelet,
            Self::Cadvisor,
            Self::NodeExporter,
            Self::KubeStateMetrics,
            Self::Coredns,
            Self::Own,
            Self::Annotated,
        ]
    }
}

/// Scraping by annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrapeAnnotations {
    /// Whether annotations are looked at.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What stands before `/scrape`, `/scheme`, `/path` and `/port`.
    #[serde(default = "annotation_prefix")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub prefix: String,
}

impl Default for ScrapeAnnotations {
    fn default() -> Self {
        Self { enabled: true, prefix: annotation_prefix() }
    }
}

/// Where raw scrape configurations come from; exactly one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.configMapRef)").message("an additional scrape configuration needs exactly one of secretRef and configMapRef"))]
pub struct AdditionalScrape {
    /// Key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// Key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
}

/// Which rules are evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// ConfigMaps of this namespace whose keys ending in `.yaml` or `.yml` are rule files.
    #[serde(default = "rule_selector")]
    pub config_map_selector: LabelSelector,
    /// The stack's own alerts.
    #[serde(default = "yes")]
    pub builtin: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { config_map_selector: rule_selector(), builtin: true }
    }
}

/// The headless Service over everything that serves the StoreAPI.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreApi {
    /// Its name; `<name>-store-api` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub service_name: Option<String>,
}

/// What is reachable from outside of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expose {
    /// The querier's gRPC port, for the RemoteStores of other clusters.
    #[serde(default, rename = "storeAPI", skip_serializing_if = "Option::is_none")]
    pub store_api: Option<ExposeStoreApi>,
}

/// The querier's gRPC port, for the RemoteStores of other clusters.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'None' || has(self.tls) || self.allowPlaintext").message("exposing the StoreAPI needs tls, or allowPlaintext: true: anybody who reaches it can read all series"),
    validation = Rule::new("!has(self.nodePort) || self.type == 'NodePort'").message("nodePort needs type NodePort"),
    validation = Rule::new("!(has(self.tls) && self.allowPlaintext)").message("allowPlaintext and tls exclude each other")
)]
pub struct ExposeStoreApi {
    /// How.
    #[serde(default, rename = "type")]
    pub type_: ExposeType,
    /// Port of the Service.
    #[serde(default = "grpc_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Port on every node; Kubernetes picks one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Annotations of the Service, as load balancers want them.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub annotations: BTreeMap<String, String>,
    /// Addresses that may come in (CIDR), for load balancers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub source_ranges: Vec<String>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExposeTls>,
    /// Accept that everybody who reaches the port can read all series.
    #[serde(default)]
    pub allow_plaintext: bool,
}

/// How a port leaves the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExposeType {
    /// Not at all.
    #[default]
    None,
    /// A port on every node.
    NodePort,
    /// A load balancer of the cloud.
    LoadBalancer,
}

/// Certificates of the exposed port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposeTls {
    /// Secret of type kubernetes.io/tls (`tls.crt`, `tls.key`): the server's certificate.
    pub secret_ref: LocalRef,
    /// Secret with `ca.crt`: whose client certificates are accepted. Without it clients need none.
    #[serde(default, rename = "clientCASecretRef", skip_serializing_if = "Option::is_none")]
    pub client_ca_secret_ref: Option<LocalRef>,
}

/// How the pods are kept apart and protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// Whether replicas of one part avoid sharing a node.
    #[serde(default)]
    pub anti_affinity: AntiAffinity,
    /// Whether replicas are spread over zones where that is possible.
    #[serde(default = "yes")]
    pub zone_spread: bool,
    /// Whether a node drain takes one replica at a time (parts with more than one).
    #[serde(default = "yes")]
    pub pdb: bool,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

impl Default for Availability {
    fn default() -> Self {
        Self { anti_affinity: AntiAffinity::default(), zone_spread: true, pdb: true, priority_class_name: None }
    }
}

/// Whether replicas of one part avoid sharing a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AntiAffinity {
    /// They don't care.
    None,
    /// They do where possible.
    #[default]
    Preferred,
    /// A replica waits rather than share.
    Required,
}

/// Labels and annotations for every object that the operator makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommonMetadata {
    /// Labels. They can't replace the operator's own.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?)?$"}))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub annotations: BTreeMap<String, String>,
}

/// What happens to the volumes when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Retain,
    /// They go too.
    Delete,
}

fn cluster_label() -> String {
    "cluster".to_owned()
}
fn replica_label() -> String {
    "prometheus_replica".to_owned()
}
fn retention_local() -> String {
    "24h".to_owned()
}
fn scrape_interval() -> String {
    "30s".to_owned()
}
fn scrape_timeout() -> String {
    "10s".to_owned()
}
fn annotation_prefix() -> String {
    "prometheus.io".to_owned()
}
fn grpc_port() -> i32 {
    10901
}
fn rule_selector() -> LabelSelector {
    LabelSelector { match_labels: BTreeMap::from([("panoptes.dev/rules".to_owned(), "true".to_owned())]) }
}
