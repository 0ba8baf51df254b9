//! The bucket of a MonitoringCluster, in all its forms.

use std::collections::BTreeSet;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{KeyRef, LocalRef};

/// The bucket; exactly one form.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.gcs), has(self.s3), has(self.azure), has(self.filesystem), has(self.secretRef)].exists_one(form, form)").message("objectStorage needs exactly one of gcs, s3, azure, filesystem and secretRef"))]
pub struct ObjectStorage {
    /// Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,
    /// Amazon S3, and what speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
    /// A volume that all parts share: one machine, demos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<Filesystem>,
    /// A Thanos object-storage file (`type: …`, `config: …`), as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// Folder inside the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^/].*$"))]
    pub prefix: Option<String>,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gcs {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 222), regex(pattern = r"^[a-z0-9][-_.a-z0-9]*[a-z0-9]$"))]
    pub bucket: String,
    /// Secret key that holds a service account's key as JSON. Without it the pods' workload identity is used: of the ServiceAccounts `<name>-prometheus`
    /// and `<name>-store`, or with bucketRef `<name>-remote-<remotestore>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<KeyRef>,
    /// URL of another server that speaks the same protocol, such as `https://storage.example:4443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[-.:\[\]a-zA-Z0-9]+$"))]
    pub endpoint: Option<String>,
}

/// Amazon S3, and what speaks its protocol.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.endpoint) || has(self.region)").message("s3 needs endpoint, or region for Amazon's own"))]
pub struct S3 {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-.a-z0-9]*[a-z0-9]$"))]
    pub bucket: String,
    /// URL of the server, such as `https://minio.example:9000`. Without it Amazon's own in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[-.:\[\]a-zA-Z0-9]+$"))]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9]+$"))]
    pub region: Option<String>,
    /// Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` if there is one. Without
    /// it the pods' workload identity is used: of the ServiceAccounts `<name>-prometheus`
    /// and `<name>-store`, or with bucketRef `<name>-remote-<remotestore>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// Secret key that holds the authority of the server's certificate (PEM), if it is none that everybody knows.
    #[serde(default, rename = "caSecretRef", skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<KeyRef>,
}

/// Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// Name of the container.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-a-z0-9]*[a-z0-9]$"))]
    pub container: String,
    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,
    /// Domain of the service, for clouds other than the public one, such as `blob.core.usgovcloudapi.net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9][-.a-z0-9]*$"))]
    pub endpoint: Option<String>,
    /// Secret key that holds a key of the account. Without it the pods' workload identity is used: of the ServiceAccounts `<name>-prometheus`
    /// and `<name>-store`, or with bucketRef `<name>-remote-<remotestore>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<KeyRef>,
}

/// A volume that all parts share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filesystem {
    /// PersistentVolumeClaim in the same namespace. Servers and store gateways are spread over
    /// nodes where there are several: then it must be of mode ReadWriteMany, or pods on other nodes never start.
    #[schemars(length(min = 1, max = 253))]
    pub volume_claim_name: String,
}

impl ObjectStorage {
    /// Names of the Secrets that it names.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<String> {
        let key = |key: &KeyRef| key.name.clone();
        let gcs = self.gcs.iter().flat_map(|gcs| gcs.credentials_secret_ref.as_ref()).map(key);
        let s3 = self.s3.iter().flat_map(|s3| {
            let credentials = s3.credentials_secret_ref.as_ref().map(|secret| secret.name.clone());
            credentials.into_iter().chain(s3.ca_secret_ref.as_ref().map(key))
        });
        let azure = self.azure.iter().flat_map(|azure| azure.credentials_secret_ref.as_ref()).map(key);
        gcs.chain(s3).chain(azure).chain(self.secret_ref.as_ref().map(key)).collect()
    }
}
