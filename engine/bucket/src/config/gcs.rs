//! `type: GCS`.

use super::{HttpConfig, Ignored, refuse, required};
use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Google Cloud Storage.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gcs {
    /// The bucket.
    pub bucket: String,
    /// A key as JSON text. Empty: `GOOGLE_APPLICATION_CREDENTIALS`, the well-known file, or the metadata server (workload
    /// identity); with an `endpoint` of our own: no credentials at all.
    pub service_account: String,
    /// Ours: a URL to be used instead of Google's, as in `http://10.0.0.1:4443`.
    pub endpoint: Option<String>,
    use_grpc: bool,
    grpc_conn_pool_size: i64,
    chunk_size_bytes: i64,
    /// Most retries of one call; 0: ours.
    pub max_retries: u32,
    /// Client and certificates.
    pub http_config: HttpConfig,
}

impl std::fmt::Debug for Gcs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gcs").field("bucket", &self.bucket).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The key of a service account, as Google gives it out, and two fields for emulators.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// Always `service_account`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whose key it is.
    pub client_email: String,
    /// PEM.
    pub private_key: String,
    /// Which of its keys.
    pub private_key_id: String,
    /// A URL to be used instead of Google's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcs_base_url: Option<String>,
    /// Whether to send no credentials.
    pub disable_oauth: bool,
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccount").field("client_email", &self.client_email).finish_non_exhaustive()
    }
}

impl Gcs {
    pub(super) fn check(self) -> Result<Self, Error> {
        required("bucket", &self.bucket)?;
        refuse(self.use_grpc, "use_grpc", "leave it out: GCS is spoken over HTTP")?;
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(Error::config("`endpoint` of GCS is a URL, as in https://storage.example.com"));
        }
        self.http_config.check()?;
        self.key()?;
        Ok(self)
    }

    pub(super) fn without_effect(&self) -> Vec<Ignored> {
        vec![
            (self.grpc_conn_pool_size != 0, "grpc_conn_pool_size", "GCS is spoken over HTTP"),
            (
                self.chunk_size_bytes != 0,
                "chunk_size_bytes",
                "a file goes in one request, and in parts when that breaks",
            ),
        ]
    }

    /// The key, if there is one.
    ///
    /// # Errors
    /// What is wrong with it; never its text.
    pub fn key(&self) -> Result<Option<ServiceAccount>, Error> {
        if self.service_account.trim().is_empty() {
            return Ok(None);
        }
        let key: ServiceAccount = serde_json::from_str(&self.service_account).map_err(|e| {
            Error::config(format!("`service_account` is not JSON: line {}, column {}", e.line(), e.column()))
        })?;
        match key.kind.as_str() {
            "service_account" => {}
            "external_account" => {
                return Err(Error::config(
                    "`service_account` of type external_account is not supported; use the key of a service account, \
                     or leave it out and use the workload identity of the pods",
                ));
            }
            other => {
                let what = format!("`service_account` is of type \"{other:.40}\"; it must be service_account");
                return Err(Error::config(what));
            }
        }
        for (field, value) in [("client_email", &key.client_email), ("private_key", &key.private_key)] {
            if value.is_empty() && !key.disable_oauth {
                return Err(Error::config(format!("`service_account` has no `{field}`")));
            }
        }
        Ok(Some(key))
    }
}
