//! RemoteStore: a link to another cluster.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{KeyRef, LocalRef, duration_schema};
use super::object_storage::ObjectStorage;
use super::status::RemoteStoreStatus;

/// Another cluster whose series the querier here should answer for too.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "panoptes.dev",
    version = "v1alpha1",
    kind = "RemoteStore",
    plural = "remotestores",
    namespaced,
    shortname = "rstore",
    category = "fleet",
    status = "RemoteStoreStatus",
    derive = "PartialEq",
    doc = "A link from a MonitoringCluster to the StoreAPI of another cluster.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must not be longer than 63 characters"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Queriers", type_ = "string", json_path = ".status.queriers"),
    printcolumn(name = "Latency", type_ = "string", json_path = ".status.latency.p50"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.dataLag"),
    printcolumn(name = "Criticality", type_ = "string", json_path = ".spec.criticality"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Cert", type_ = "string", json_path = ".status.tls.clientNotAfter", priority = 1),
    printcolumn(name = "Series sets", type_ = "integer", json_path = ".status.labelSetsTotal", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.address), has(self.serviceRef), has(self.bucketRef)].exists_one(form, form)").message("a RemoteStore needs exactly one of address, serviceRef and bucketRef"),
    validation = Rule::new("!(has(self.bucketRef) && (has(self.tls) || has(self.auth)))").message("bucketRef takes no tls and no auth: the store gateway for the bucket runs in this namespace")
)]
pub struct RemoteStoreSpec {
    /// What the far side must advertise as its cluster label; data of other clusters is left out.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub cluster_name: String,
    /// The MonitoringCluster whose querier uses it. Needed only where the namespace holds more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring_cluster_ref: Option<LocalRef>,
    /// Where it answers: `host:port`, `https://host[:port]`, `dns+host:port` (all addresses of a name) or `dnssrv+name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 300),
        regex(pattern = r"^(https://[^/\s]+/?|((dns|dnssrv|dnssrvnoa)\+)?[^/\s+]+)$")
    )]
    pub address: Option<String>,
    /// A Service of this Kubernetes cluster instead of an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceRef>,
    /// The far side's bucket instead of an address, where no network leads there: a store gateway for it runs here, as the
    /// MonitoringCluster's `storeGateway` says. It needs the rights to list and to read, no more. Its newest data is hours old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_ref: Option<ObjectStorage>,
    /// Certificates. Without it: TLS where the address says `https://` or ends in `:443`, else plaintext, with a Warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RemoteTls>,
    /// What is shown with every call, beside certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RemoteAuth>,
    /// Whether an answer without this cluster is an error (Required) or a warning (Optional).
    #[serde(default)]
    pub criticality: Criticality,
    /// Whether queries go there.
    #[serde(default)]
    pub mode: RemoteMode,
    /// How its health is judged.
    #[serde(default)]
    pub probe: Probe,
    /// What happens when two RemoteStores lead to the same data. Reject keeps the older one in use and takes the newer one out.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

/// A Service of this Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its namespace; the RemoteStore's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Name or number of its port.
    #[serde(default)]
    pub port: ServicePort,
}

/// Name or number of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// By number.
    Number(u16),
    /// By name, looked up through DNS (SRV).
    Name(String),
}

impl Default for ServicePort {
    fn default() -> Self {
        Self::Name("grpc".to_owned())
    }
}

impl JsonSchema for ServicePort {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ServicePort".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": 65535,
            "maxLength": 15,
            "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        })
    }
}

/// Certificates of a link.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.mode) || self.mode != 'Mutual' || has(self.clientSecretRef)").message("tls.mode Mutual needs clientSecretRef"),
    validation = Rule::new("!(self.insecureSkipVerify && has(self.caSecretRef))").message("insecureSkipVerify and caSecretRef exclude each other"),
    validation = Rule::new("!has(self.mode) || self.mode != 'Disabled' || !(has(self.clientSecretRef) || has(self.caSecretRef))").message("tls.mode Disabled takes no Secrets")
)]
pub struct RemoteTls {
    /// Plaintext, TLS, or TLS with a client certificate. Default: Mutual where a client Secret is given, else TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// Secret with `ca.crt`: who may sign the server's certificate. Without it the well-known authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<LocalRef>,
    /// Secret of type kubernetes.io/tls: the certificate that we show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<LocalRef>,
    /// Name that the server's certificate must carry; the address's host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._:a-zA-Z0-9]+$"))]
    pub server_name: Option<String>,
    /// Accept any server certificate. Raises a Warning.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// What is shown with every call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteAuth {
    /// Secret key that holds a token; it is sent as `authorization: Bearer …`. A new one is taken into use without a restart.
    pub bearer_token_secret_ref: KeyRef,
}

/// How a link is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Plaintext.
    Disabled,
    /// The server shows a certificate.
    #[serde(rename = "TLS")]
    Tls,
    /// Both do.
    Mutual,
}

/// Whether an answer without this cluster is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Criticality {
    /// It is a partial answer with a warning.
    #[default]
    Optional,
    /// It is an error.
    Required,
}

/// Whether queries go to a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RemoteMode {
    /// Yes.
    #[default]
    Active,
    /// No, but its status is kept.
    ProbeOnly,
    /// No: taken out on purpose.
    Drained,
}

/// How a link's health is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// How often the far side is asked who it is; at least 5s.
    #[serde(default = "probe_interval")]
    #[schemars(schema_with = "duration_schema")]
    pub interval: String,
    /// How long it may take to answer; shorter than the interval.
    #[serde(default = "probe_timeout")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: String,
    /// From how old newest data on the link is called lagging. Data of a bucketRef is given at least 4h.
    #[serde(default = "warn_lag")]
    #[schemars(schema_with = "duration_schema")]
    pub warn_lag: String,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: probe_interval(), timeout: probe_timeout(), warn_lag: warn_lag() }
    }
}

/// What happens when two RemoteStores lead to the same data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnConflict {
    /// The newer one is taken out.
    #[default]
    Reject,
    /// Both stay in use, with a condition that says so.
    Warn,
}

fn probe_interval() -> String {
    "10s".to_owned()
}
fn probe_timeout() -> String {
    "5s".to_owned()
}
fn warn_lag() -> String {
    "3m".to_owned()
}
