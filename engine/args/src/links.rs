//! `links.yaml`: the links to other clusters, as the operator hands them to the queriers. Ours, versioned.

use crate::endpoints::ClientConfig;
use serde::{Deserialize, Serialize};

/// The format number that this version writes and reads.
pub const FORMAT: u32 = 1;

/// The document. Unknown fields are ignored, so that an older querier reads what a newer operator wrote.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    /// See [`FORMAT`]; another number is refused and the last good document stays in use.
    pub format: u32,
    /// Hash of the content: a querier reports it back as the revision that it has in use.
    pub revision: String,
    /// Name of the cluster label.
    pub cluster_label: String,
    /// This cluster's own name.
    pub cluster_name: String,
    /// Files (relative to the document's directory) that this revision needs: the document is taken into use only
    /// when all have arrived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The links, ordered by namespace and name.
    #[serde(default)]
    pub links: Vec<Link>,
}

/// One RemoteStore, as a querier sees it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Namespace of the RemoteStore.
    pub namespace: String,
    /// Name of the RemoteStore.
    pub name: String,
    /// What the far side must advertise as its cluster label.
    pub cluster: String,
    /// `host:port`, or with one of the prefixes `dns+`, `dnssrv+`, `dnssrvnoa+`.
    pub address: String,
    /// How many stores should be behind the name; 0: as many as there are. Those that it lacks are missing in answers.
    #[serde(default, skip_serializing_if = "crate::endpoints::is_zero")]
    pub expected: u32,
    /// How to connect.
    #[serde(default)]
    pub client: ClientConfig,
    /// File with a bearer token that is sent with every call; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bearer_token_file: String,
    /// Whether it takes part in answers.
    #[serde(default)]
    pub mode: LinkMode,
    /// Whether its absence makes an answer fail.
    #[serde(default)]
    pub criticality: Criticality,
    /// How it is probed.
    #[serde(default)]
    pub probe: Probe,
    /// Set when the operator has decided that another, older RemoteStore has the same data: probe only, with this
    /// text as the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// Whether a link takes part in answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum LinkMode {
    /// Queried.
    #[default]
    Active,
    /// Probed and shown, not queried.
    ProbeOnly,
    /// Taken out on purpose; still probed and shown.
    Drained,
}

/// Whether a link's absence makes an answer fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Criticality {
    /// An answer without it is partial, with a warning.
    #[default]
    Optional,
    /// An answer without it is an error.
    Required,
}

/// How a link is probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Milliseconds between two probes.
    pub interval_ms: i64,
    /// Milliseconds that a probe may take.
    pub timeout_ms: i64,
    /// Failures in a row after which the link counts as down.
    pub failure_threshold: u32,
    /// Successes in a row after which it counts as up again.
    pub success_threshold: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval_ms: 5_000, timeout_ms: 5_000, failure_threshold: 3, success_threshold: 1 }
    }
}
