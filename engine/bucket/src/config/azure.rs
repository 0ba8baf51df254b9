//! `type: AZURE`.

use super::http::duration;
use super::{HttpConfig, Ignored, refuse, required};
use crate::error::Error;
use crate::layers::retry::Policy;
use serde::Deserialize;
use std::time::Duration;

/// Azure Blob Storage. The container must be there.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Azure {
    /// The account.
    pub storage_account: String,
    /// Its key; empty: `client_secret`, or the workload or managed identity of the pods.
    pub storage_account_key: String,
    storage_connection_string: String,
    storage_create_container: Option<bool>,
    /// The container.
    pub container: String,
    /// Suffix of the host, as in `blob.core.windows.net`.
    pub endpoint: String,
    /// Client id of a managed identity.
    pub user_assigned_id: String,
    /// Tenant of `client_id`.
    pub az_tenant_id: String,
    /// Application.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Most retries of one call; 0: ours.
    pub max_retries: u32,
    reader_config: Reader,
    pipeline_config: Pipeline,
    /// Client and certificates.
    pub http_config: HttpConfig,
    msi_resource: String,
    /// The URL of the account where a connection string names one.
    #[serde(skip)]
    pub blob_endpoint: Option<String>,
    /// A shared access signature of a connection string.
    #[serde(skip)]
    pub sas: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Reader {
    max_retry_requests: u32,
}

/// How calls are tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pipeline {
    /// Retries, as in Thanos in spite of its name.
    max_tries: u32,
    #[serde(deserialize_with = "duration")]
    try_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    retry_delay: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    max_retry_delay: Option<Duration>,
}

impl std::fmt::Debug for Azure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Azure")
            .field("storage_account", &self.storage_account)
            .field("container", &self.container)
            .finish_non_exhaustive()
    }
}

impl Azure {
    pub(super) fn check(mut self) -> Result<Self, Error> {
        required("container", &self.container)?;
        refuse(!self.msi_resource.is_empty(), "msi_resource", "set `user_assigned_id`, or use workload identity")?;
        if !self.storage_connection_string.is_empty() {
            if !self.storage_account_key.is_empty() {
                let what = "`storage_connection_string` and `storage_account_key` exclude each other; keep one of them";
                return Err(Error::config(what));
            }
            self.read_connection_string()?;
        }
        required("storage_account", &self.storage_account)?;
        if !self.client_secret.is_empty() {
            required("client_id", &self.client_id)?;
            required("az_tenant_id", &self.az_tenant_id)?;
        }
        self.http_config.check()?;
        Ok(self)
    }

    /// `pipeline_config` goes before `max_retries`, as in Thanos.
    pub(super) fn retry(&self, ours: Policy) -> Policy {
        let pipeline = &self.pipeline_config;
        let retries = if pipeline.max_tries > 0 { pipeline.max_tries } else { self.max_retries };
        let attempts = if retries > 0 { retries.saturating_add(1) } else { ours.attempts };
        let (first, longest) = (pipeline.retry_delay, pipeline.max_retry_delay);
        let first_pause = first.unwrap_or_else(|| ours.first_pause.min(longest.unwrap_or(ours.first_pause)));
        let longest_pause = longest.unwrap_or(ours.longest_pause).max(first_pause);
        Policy { attempts, first_pause, longest_pause, ..ours }
    }

    pub(super) fn without_effect(&self) -> Vec<Ignored> {
        let pipeline = &self.pipeline_config;
        vec![
            (
                pipeline.try_timeout.is_some(),
                "pipeline_config.try_timeout",
                "an attempt ends when nothing moves; how long an answer may take to begin is                  `http_config.response_header_timeout`",
            ),
            (
                self.reader_config.max_retry_requests > 0,
                "reader_config.max_retry_requests",
                "reads are tried again as all calls are, see `max_retries`",
            ),
            (
                self.storage_create_container == Some(true),
                "storage_create_container",
                "the container must be there; make it before",
            ),
        ]
    }

    fn read_connection_string(&mut self) -> Result<(), Error> {
        let text = std::mem::take(&mut self.storage_connection_string);
        let (mut scheme, mut suffix) = ("https".to_owned(), String::new());
        for pair in text.split(';').filter(|p| !p.trim().is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Error::config("`storage_connection_string` is a list of Key=Value, separated by `;`"));
            };
            match key.trim() {
                "AccountName" => self.storage_account = value.to_owned(),
                "AccountKey" => self.storage_account_key = value.to_owned(),
                "BlobEndpoint" => self.blob_endpoint = Some(value.trim_end_matches('/').to_owned()),
                "SharedAccessSignature" => self.sas = value.to_owned(),
                "DefaultEndpointsProtocol" => scheme = value.to_owned(),
                "EndpointSuffix" => suffix = value.to_owned(),
                _ => {}
            }
        }
        if self.blob_endpoint.is_none() && !suffix.is_empty() {
            self.blob_endpoint = Some(format!("{scheme}://{}.blob.{suffix}", self.storage_account));
        }
        Ok(())
    }

    /// The URL of the account.
    pub fn url(&self) -> String {
        match &self.blob_endpoint {
            Some(url) => url.clone(),
            None => {
                let suffix = if self.endpoint.is_empty() { "blob.core.windows.net" } else { &self.endpoint };
                format!("https://{}.{}", self.storage_account, suffix.trim_end_matches('/'))
            }
        }
    }
}
