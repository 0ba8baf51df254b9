//! The state document: what a part knows about itself, as versioned JSON at `/-/state`. The operator turns it into
//! conditions; it never guesses what a part can tell. Unknown fields are ignored, absent sections mean "not mine".

use serde::{Deserialize, Serialize};

/// The format number that this version writes.
pub const FORMAT: u32 = 1;
/// Where it is served.
pub const PATH: &str = "/-/state";
/// No state document is larger; a reader stops here.
pub const MAX_BYTES: usize = 4 << 20;

/// Most blocks that [`Upload::skipped_blocks`] and [`Blocks::missing_blocks`] tell one by one.
pub const MAX_SKIPPED: usize = 10;

/// The document.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// See [`FORMAT`].
    pub format: u32,
    /// `sidecar`, `query`, …
    pub component: String,
    /// Version of the binary.
    pub version: String,
    /// True if the part serves.
    pub ready: bool,
    /// Sidecar: the configuration of Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Sidecar: its Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// Querier: the endpoint files and links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Every part with object storage: what its own check of the bucket found. Absent if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Bucket>,
    /// Producers of blocks (sidecar): the way of the blocks into the bucket. Absent if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Upload>,
    /// Store gateway: what of its bucket it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Compactor: what it does with its bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Compaction>,
}

/// What a part knows of its object storage.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Which one, for people: provider and bucket, never a secret. Empty until a configuration could be read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Lower-case hex SHA-256 of the configuration in use, as handed in; absent until one could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Why a newer configuration is not in use, or why there is none: it is missing, empty or broken. Holds no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_error: Option<String>,
    /// Lower-case hex SHA-256 of the configuration that is there and can't be used; absent if it is missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_refused: Option<String>,
    /// When a check of the configuration in use last ended, milliseconds since the epoch; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at_ms: Option<i64>,
    /// How long that check took, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<i64>,
    /// What the check found wrong; absent if it found all rights, or before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<BucketError>,
}

impl Bucket {
    /// True if the last check found all that the part needs. A newer configuration may be waiting all the same.
    pub fn usable(&self) -> bool {
        self.checked_at_ms.is_some() && self.error.is_none()
    }
}

/// Why a bucket can't be used.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketError {
    /// Which kind of failure.
    pub class: BucketErrorClass,
    /// What happened, where, and what to do, in one sentence.
    pub message: String,
    /// The right that is missing (`list`, `get`, `create`), as far as one was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_right: Option<String>,
    /// Since when it has failed without a good check in between, milliseconds since the epoch.
    pub since_ms: i64,
}

/// Kinds of failure of object storage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum BucketErrorClass {
    /// Wrong credentials, or a right is missing.
    Denied,
    /// There is no such bucket.
    BucketMissing,
    /// No answer, or one that says "not now" (5xx, throttled).
    Unreachable,
    /// The clocks of here and there differ so much that signatures are refused.
    ClockSkew,
    /// Anything else: an answer that makes no sense, a missing capability. Also what a newer part says in words that this
    /// version does not know.
    #[serde(other)]
    Other,
}

/// What a store gateway serves of its bucket.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocks {
    /// Blocks that are served.
    pub loaded: u64,
    /// Blocks that should be: those of the bucket that time range, selector, marks and consistency delay leave.
    pub expected: u64,
    /// Blocks that should be served and can't: their data is missing in answers.
    pub missing: u64,
    /// Some of them, with reasons; at most [`MAX_SKIPPED`].
    #[serde(default)]
    pub missing_blocks: Vec<SkippedBlock>,
    /// Oldest sample of the served blocks, milliseconds since the epoch; absent if there is no block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_time_ms: Option<i64>,
    /// End of the newest served block, milliseconds since the epoch; absent if there is no block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time_ms: Option<i64>,
    /// Where the blocks are known from: `catalogue`, `listing`, or `disk` for what the last run knew; empty before the first
    /// pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// When a pass over the bucket last succeeded, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_ms: Option<i64>,
    /// Since when no pass has succeeded, milliseconds since the epoch; absent if the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_ms: Option<i64>,
    /// Why the last pass failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a compactor does with its bucket.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compaction {
    /// The lease on the bucket; absent before the bucket was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<CompactionLease>,
    /// Passes that ended well since the start of the process.
    pub passes: u64,
    /// When a pass last ended well, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_pass_ms: Option<i64>,
    /// Since when no pass has ended well, milliseconds since the epoch; absent if the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_ms: Option<i64>,
    /// Why the last pass failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why nothing is compacted, deleted or marked for deletion, though it is due: another compactor writes to this bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletions_stopped: Option<String>,
    /// Bytes of free disk space that the next work needs, if there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks_disk_bytes: Option<u64>,
    /// What is being done now.
    #[serde(default)]
    pub doing: Vec<CompactionWork>,
    /// Bytes of blocks that the present round has worked through, and those of all its work.
    #[serde(default)]
    pub done_bytes: u64,
    /// See [`done_bytes`](Self::done_bytes).
    #[serde(default)]
    pub round_bytes: u64,
    /// When the present round will be done if it goes on like this, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_ends_ms: Option<i64>,
    /// Compactions that are to be done until nothing is left, if nothing new comes.
    #[serde(default)]
    pub todo_compactions: u64,
    /// Blocks that are to be downsampled.
    #[serde(default)]
    pub todo_downsamplings: u64,
    /// Blocks that are to be marked for deletion.
    #[serde(default)]
    pub todo_deletions: u64,
    /// Blocks and streams that are left alone although something is due, or that look wrong.
    #[serde(default)]
    pub held: u64,
    /// Some of them, with reasons; at most [`MAX_SKIPPED`].
    #[serde(default)]
    pub held_items: Vec<HeldItem>,
}

/// Who may change the blocks of a bucket.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactionLease {
    /// True if this part has it; false if it stands by.
    pub held: bool,
    /// Who has it.
    pub holder: String,
    /// Grows with every holder.
    pub epoch: u64,
    /// Since when, milliseconds since the epoch, by the holder's clock.
    pub since_ms: i64,
}

/// Something that a compactor is at.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactionWork {
    /// What, as people read it: which blocks, and why.
    pub what: String,
    /// How far: `fetch`, `work`, `send`.
    pub step: String,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// Bytes of its blocks.
    pub bytes: u64,
}

/// Something that a compactor leaves alone.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldItem {
    /// A block's ULID, a stream, or `bucket`.
    pub what: String,
    /// Why, in one sentence.
    pub why: String,
    /// Whether it is tried again without anybody's doing; false if somebody has to act.
    #[serde(default)]
    pub waits: bool,
}

/// The way of local blocks into the bucket.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    /// Why nothing is uploaded at all, though storage is configured (labels, Prometheus's flags); absent if uploads go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Blocks on disk that should be in the bucket and are not known to be.
    pub pending: u64,
    /// Age of the end of the oldest such block, milliseconds; absent if there is none. Compare with
    /// [`Upload::retention_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<i64>,
    /// How long Prometheus keeps blocks on disk, milliseconds; absent if it does not tell or only a size is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<i64>,
    /// Blocks uploaded since the start of the process.
    pub uploaded: u64,
    /// When a block last arrived whole, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_upload_ms: Option<i64>,
    /// Since when no pass over the blocks has succeeded, milliseconds since the epoch; absent if the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_ms: Option<i64>,
    /// Why the last pass failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Blocks that are left out until someone acts.
    #[serde(default)]
    pub skipped: u64,
    /// The oldest of them, with reasons; at most [`MAX_SKIPPED`].
    #[serde(default)]
    pub skipped_blocks: Vec<SkippedBlock>,
}

impl Upload {
    /// True if data may be deleted by local retention before it is in the bucket: the oldest block that waits has passed
    /// half of its time on disk.
    pub fn at_risk(&self) -> bool {
        matches!((self.lag_ms, self.retention_ms), (Some(lag), Some(keep)) if lag > keep / 2)
    }
}

/// A block that is left out: of the upload, or of what is served.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedBlock {
    /// Its ULID.
    pub block: String,
    /// Which kind of reason.
    pub reason: SkipReason,
    /// What is wrong, where, and what to do, in one sentence.
    pub message: String,
}

/// Why a block is left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum SkipReason {
    /// Its `meta.json` is missing, can't be read, or is of an unknown version.
    BadMeta,
    /// A file that the block needs is missing.
    MissingFile,
    /// The health check of index or chunks found damage.
    Damaged,
    /// It is compacted, and the bucket has blocks of the same time.
    Overlaps,
    /// The bucket has a different block under the same ULID.
    Conflict,
    /// What a newer part says in words that this version does not know.
    #[serde(other)]
    Other,
}

/// What the reloader has done. Hashes are lower-case hex SHA-256 of the configuration as handed in, before `$(VAR)`
/// is replaced and after unpacking.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Hash of the configuration that should be in effect.
    pub wanted: String,
    /// Hash of the one that Prometheus has loaded; absent until the first load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<String>,
    /// Hash over names and contents of the rule files that were loaded with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// When it was loaded, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_at_ms: Option<i64>,
    /// Why the wanted configuration or rules are not in effect; absent if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the sidecar knows of its Prometheus.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prometheus {
    /// It answers.
    pub up: bool,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its external labels, sorted by name.
    #[serde(default)]
    pub external_labels: Vec<(String, String)>,
    /// Oldest sample that it has, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_time_ms: Option<i64>,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a querier has in use.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Revision of `links.yaml` in use ([`crate::links::Links::revision`]); absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Why a newer file is not in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The cluster's own stores.
    #[serde(default)]
    pub stores: Vec<Store>,
    /// One entry per link of `links.yaml`, in its order.
    #[serde(default)]
    pub links: Vec<Link>,
}

/// One address that is asked.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// `ip:port` as dialled.
    pub address: String,
    /// Its last Info answer was good.
    pub healthy: bool,
    /// Component name that it gave: `sidecar`, `store`, `query`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    /// Label sets that it advertised, each sorted by name.
    #[serde(default)]
    pub label_sets: Vec<Vec<(String, String)>>,
    /// Oldest sample, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_time_ms: Option<i64>,
    /// Newest sample (i64::MAX: live), milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time_ms: Option<i64>,
    /// Round trip of the last good Info call, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<i64>,
    /// When it was last asked, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check_ms: Option<i64>,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StoreError>,
}

/// Why a store is not healthy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreError {
    /// Which kind of failure.
    pub class: ErrorClass,
    /// What happened, where, in one sentence.
    pub message: String,
    /// When, milliseconds since the epoch.
    pub time_ms: i64,
}

/// Kinds of failure of a connection to a store (operators.md §7i).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The name has no addresses.
    #[serde(rename = "DNS")]
    Dns,
    /// Nothing listens, or no route.
    Connect,
    /// The far side does not speak HTTP/2 or gRPC.
    #[serde(rename = "NotHTTP2")]
    NotHttp2,
    /// The TLS handshake failed.
    #[serde(rename = "TLSHandshake")]
    TlsHandshake,
    /// A certificate has expired.
    CertificateExpired,
    /// The server's certificate is signed by an unknown authority.
    UnknownCa,
    /// The server's certificate is for another name.
    WrongServerName,
    /// The server wants a client certificate, or refuses ours.
    ClientCertificate,
    /// The call was refused for lack of rights.
    Unauthorized,
    /// No answer in time.
    Timeout,
    /// An answer that is not what the protocol says.
    Protocol,
    /// Another cluster answers than the one expected.
    WrongCluster,
}

/// What a querier sees of one link.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Namespace of the RemoteStore.
    pub namespace: String,
    /// Name of the RemoteStore.
    pub name: String,
    /// Its data is part of answers.
    pub used: bool,
    /// Cluster label values that the far side advertises, sorted (bounded).
    #[serde(default)]
    pub clusters: Vec<String>,
    /// True if the expected cluster is among [`Link::clusters`]; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_matches: Option<bool>,
    /// The addresses behind the link (bounded).
    #[serde(default)]
    pub endpoints: Vec<Store>,
    /// Age of the newest sample, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_lag_ms: Option<i64>,
    /// TLS of the connection; absent for plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Probes that failed in a row.
    #[serde(default)]
    pub consecutive_failures: u32,
    /// Last good probe, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_ms: Option<i64>,
    /// The worst current failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StoreError>,
    /// Label sets that another store or link offers as well, with the name of that one (bounded).
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
}

/// One label set that two stores offer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// The label set, sorted by name.
    pub label_set: Vec<(String, String)>,
    /// Who else offers it: `link <namespace>/<name>` or `store <address>`.
    pub with: String,
}

/// What a TLS handshake showed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// `1.2` or `1.3`.
    pub protocol: String,
    /// Subject of the server's certificate.
    pub peer_subject: String,
    /// End of the server's certificate, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_not_after_ms: Option<i64>,
    /// End of our client certificate, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_not_after_ms: Option<i64>,
}

impl State {
    /// Parses a document; a format newer than ours is read as far as it is known.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("state document: {e}"))
    }
}
