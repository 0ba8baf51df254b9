//! What the operator says about the two kinds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Condition, conditions_schema, list_map};

/// What is true about a MonitoringCluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitoringClusterStatus {
    /// Generation of the spec that all of this was judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people: Creating, Healthy, Updating (…), Degraded, Paused, Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub phase: Option<String>,
    /// The truth, one condition per type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// One row per part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "components_schema")]
    pub components: Vec<ComponentStatus>,
    /// Counts for the columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Proof of load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
    /// The bucket, as the parts that use it see it; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_storage: Option<ObjectStorageStatus>,
    /// What the store gateways serve of the bucket; absent where none runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryStatus>,
    /// What the compactor does with the bucket; absent where none runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactionStatus>,
    /// The links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_stores: Option<RemoteStoresStatus>,
    /// Where to ask, copy-ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Addresses>,
    /// Which versions run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
}

/// One part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Name of its workload's part: prometheus, query, store, compact, kube-state-metrics, node-exporter.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Ready, Progressing, Degraded or Down.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that are wanted.
    pub desired: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Version of the software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// What is wrong with the worst pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The newest restart of one of its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart: Option<LastRestart>,
}

/// Why and when a container restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRestart {
    /// Such as OOMKilled or `Error (exit 2)`.
    #[schemars(length(max = 256))]
    pub reason: String,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
}

/// Counts for the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Ready over wanted, as `2/2`.
    #[schemars(length(max = 16))]
    pub prometheus: String,
    /// Ready over all links, as `3/4`; absent without links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub remotes: Option<String>,
}

/// Proof that every replica loaded the configuration that the spec asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Hash of the wanted configuration.
    #[schemars(length(max = 64))]
    pub hash: String,
    /// Hash of the one that was last proved to load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_good_hash: Option<String>,
    /// Replicas that loaded the wanted one.
    pub loaded: i32,
    /// Replicas that should.
    pub total: i32,
    /// What was left out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// Objects that were left out of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// How many.
    pub count: i32,
    /// The first ten.
    #[serde(default)]
    #[schemars(length(max = 10))]
    pub first: Vec<RejectedObject>,
}

/// An object that was left out of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedObject {
    /// Its kind.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name, and the key inside it.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Why.
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// The bucket, as the parts that use it see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectStorageStatus {
    /// Ok, or what the parts' last checks found: AccessDenied, BucketMissing, Unreachable, ClockSkew, SecretInvalid. Absent
    /// until a part has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub result: Option<String>,
    /// When all parts last found it well, RFC 3339; rewritten together with another change, or once an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_verified: Option<String>,
    /// Parts whose last check with the current credentials went well, as `2/2`.
    #[schemars(length(max = 16))]
    pub verified: String,
    /// Blocks on the servers' disks that are not in the bucket yet.
    pub pending: i64,
    /// Blocks among them that are left out until somebody acts; the condition names the first.
    pub skipped: i64,
    /// When the newest upload ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_upload: Option<String>,
    /// Since when a sidecar has been failing to upload, RFC 3339; absent while none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub failing_since: Option<String>,
}

/// What the store gateways serve of the bucket, all shards together, each as its worst replica has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryStatus {
    /// Store gateways that have looked through the bucket, as `2/2`.
    #[schemars(length(max = 16))]
    pub synced: String,
    /// Blocks that are served.
    pub blocks: i64,
    /// Blocks that should be and can't; the condition `HistoryReady` names the first.
    pub missing: i64,
    /// Oldest sample, RFC 3339, to the hour; absent without blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub min_time: Option<String>,
    /// Newest sample, to two hours, the span of a block; absent without blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub max_time: Option<String>,
    /// When all of them had looked through the bucket last, RFC 3339; rewritten together with another change, or once an
    /// hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_sync: Option<String>,
}

/// What the compactor does with the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CompactionStatus {
    /// Who may change the blocks of the bucket now; another cluster's compactor while ours stands by.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub holder: Option<String>,
    /// Compactions until nothing is left to do.
    pub compactions: i64,
    /// Blocks that are to be downsampled.
    pub downsamplings: i64,
    /// Blocks that are to be marked for deletion.
    pub deletions: i64,
    /// Blocks and streams that are left alone until somebody acts; the condition `CompactionHealthy` names the first.
    pub held: i64,
    /// When nothing was left to do last, RFC 3339; rewritten together with another change, or once an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_pass: Option<String>,
    /// Since when no pass has ended well, RFC 3339; absent while they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub failing_since: Option<String>,
}

/// The links, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteStoresStatus {
    /// All.
    pub total: i32,
    /// Those with Ready=True.
    pub ready: i32,
    /// Those that work, but not well.
    pub degraded: i32,
    /// Those taken out on purpose.
    pub drained: i32,
    /// Those in conflict with another.
    pub conflicts: i32,
}

/// Where to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    /// URL of the query API inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub query: Option<String>,
    /// `host:port` of the exposed StoreAPI, for a RemoteStore elsewhere.
    #[serde(default, rename = "storeAPI", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub store_api: Option<String>,
}

/// Which versions run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// Of the operator that wrote this.
    #[schemars(length(max = 64))]
    pub operator: String,
    /// Of the engine that this object is pinned to.
    #[schemars(length(max = 64))]
    pub current: String,
}

/// What is true about a RemoteStore, as the queriers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteStoreStatus {
    /// Generation of the spec that all of this was judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people: Pending, Connecting, Healthy, Degraded, Unreachable, Conflict, Drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub phase: Option<String>,
    /// The truth, one condition per type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// What the queriers dial, before name resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub address: Option<String>,
    /// The addresses behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "endpoints_schema")]
    pub endpoints: Vec<RemoteEndpoint>,
    /// Queriers that see it healthy and hold its current revision, as `2/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub queriers: Option<String>,
    /// How long it takes to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Age of the newest data, rounded to 15s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub data_lag: Option<String>,
    /// Times that it has data for, all endpoints together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_range: Option<TimeRange>,
    /// External labels that it advertises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub label_sets: Vec<BTreeMap<String, String>>,
    /// How many there are in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_sets_total: Option<i32>,
    /// The encryption in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// Who else has the same data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conflicts: Vec<Conflict>,
    /// What failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// When it last answered, RFC 3339, rewritten together with another change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_success: Option<String>,
}

/// One address of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteEndpoint {
    /// `host:port`.
    #[schemars(length(max = 320))]
    pub address: String,
    /// Healthy or Unhealthy.
    #[schemars(length(max = 32))]
    pub state: String,
    /// What it says to be: query, sidecar, store…
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub component: Option<String>,
    /// Oldest data, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub min_time: Option<String>,
    /// Newest data, RFC 3339; absent while it grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub max_time: Option<String>,
    /// Label sets that it advertises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_sets: Option<i32>,
    /// What failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
}

/// How long a link takes to answer, to two digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Median, as `38ms`.
    #[schemars(length(max = 16))]
    pub p50: String,
    /// 99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub p99: Option<String>,
}

/// Times that a link has data for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeRange {
    /// Oldest, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub min: Option<String>,
    /// Newest, RFC 3339; absent while it grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub max: Option<String>,
}

/// The encryption in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// Such as `TLS 1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub protocol: Option<String>,
    /// Whom the server's certificate names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub peer_subject: Option<String>,
    /// Until when it is valid, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub server_not_after: Option<String>,
    /// Until when ours is, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub client_not_after: Option<String>,
}

/// Another source of the same data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// The labels that both advertise, as `{cluster="prod"}`.
    #[schemars(length(max = 1024))]
    pub label_set: String,
    /// Kind of the other object.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// What failed last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// DNS, Connect, TLSHandshake, CertificateExpired, WrongServerName, Unauthorized, Timeout, Protocol or WrongCluster.
    #[schemars(length(max = 32))]
    pub class: String,
    /// In words.
    #[schemars(length(max = 1024))]
    pub message: String,
}

fn components_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    list_map::<ComponentStatus>(generator, "name", 16)
}

fn endpoints_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    list_map::<RemoteEndpoint>(generator, "address", 32)
}
