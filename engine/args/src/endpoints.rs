//! `endpoints.yaml`: Thanos's endpoint list (thanos-map QU-03). The operator writes a cluster's own parts into it.

use serde::{Deserialize, Serialize};

/// The document.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Client settings of endpoints that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_client_config: Option<ClientConfig>,
    /// The endpoints.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `host:port`, or with one of the prefixes `dns+`, `dnssrv+`, `dnssrvnoa+`.
    pub address: String,
    /// Its absence is an error even if it was never seen.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
    /// All addresses behind the name are replicas of one store.
    #[serde(default, skip_serializing_if = "is_false")]
    pub group: bool,
    /// How many stores should be behind the name; 0: as many as there are. Those that it lacks are missing in answers. Ours.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expected: u32,
    /// gRPC service config (JSON) of a group; accepted, without an effect.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_config: String,
    /// Client settings of this endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_config: Option<ClientConfig>,
}

/// How to connect.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// TLS; absent: plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<TlsConfig>,
    /// Name to verify in the server's certificate, and to send as authority.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// `snappy`, `none` or empty: how answers are to be packed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub compression: String,
}

/// TLS of a client. Paths are relative to the directory of the document.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// False turns TLS off although the section is there; absent means on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Don't verify the server's certificate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure_skip_verify: bool,
    /// Client certificate, PEM.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cert_file: String,
    /// Key of the client certificate, PEM.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_file: String,
    /// Authorities that sign the server's certificate, PEM; empty: the system's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_file: String,
    /// `1.2` or `1.3`; empty: 1.3.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub min_version: String,
}

fn is_false(b: &bool) -> bool {
    !*b
}

pub(crate) fn is_zero(n: &u32) -> bool {
    *n == 0
}
