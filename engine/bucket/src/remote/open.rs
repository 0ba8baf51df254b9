//! Clients of providers from their configuration.

use super::client::{Connector, Timeouts, chain};
use super::{Cloud, Remote};
use crate::Result;
use crate::config::{Azure, Gcs, HttpConfig, Lookup, S3, Sse};
use crate::error::Error;
use crate::layers::meter::BucketMeter;
use model::world::World;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{BackoffConfig, ClientOptions, RetryConfig, StaticCredentialProvider};
use std::sync::Arc;
use std::time::Duration;

/// What every client needs beside its configuration.
pub(crate) struct Surroundings {
    pub(crate) timeouts: Timeouts,
    pub(crate) meter: BucketMeter,
    pub(crate) world: World,
}

/// A provider that can be opened.
pub(crate) trait Openable {
    fn open(&self, around: &Surroundings) -> Result<Remote>;
}

/// Opens a provider.
pub(crate) fn open(provider: &dyn Openable, around: &Surroundings) -> Result<Remote> {
    provider.open(around)
}

/// `contract` tries again, within a budget.
fn no_retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

/// `client` limits time, by progress.
fn no_limits() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_timeout_disabled()
}

fn failed(e: &object_store::Error) -> Error {
    Error::config(chain(e))
}

fn connector(around: &Surroundings, http: &HttpConfig, url: &str, path: String, host: String) -> Result<Connector> {
    let plain = url.starts_with("http://");
    let (meter, clock) = (around.meter.clone(), Arc::clone(&around.world.clock));
    Connector::new(http, around.timeouts, plain, path, host, meter, clock)
}

/// The path of a URL, without a slash at its end.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default().trim_end_matches('/')
}

fn remote<T: Cloud>(cloud: T) -> Remote {
    let cloud: Arc<dyn Cloud> = Arc::new(cloud);
    Remote { streaming: Arc::clone(&cloud), cloud }
}

impl Openable for Gcs {
    fn open(&self, around: &Surroundings) -> Result<Remote> {
        let key = self.key()?;
        let emulator = || std::env::var("STORAGE_EMULATOR_HOST").ok().filter(|h| !h.is_empty());
        let with_scheme = |url: String| if url.contains("://") { url } else { format!("http://{url}") };
        let endpoint = self.endpoint.clone().or_else(|| key.as_ref()?.gcs_base_url.clone()).or_else(emulator);
        let endpoint = endpoint.map(|url| with_scheme(url).trim_end_matches('/').to_owned());
        let url = endpoint.clone().unwrap_or_else(|| "https://storage.googleapis.com".to_owned());
        let path = format!("{}/{}", path_of(&url), self.bucket);
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&self.bucket)
            .with_base_url(&url)
            .with_retry(no_retries())
            .with_client_options(no_limits())
            .with_http_connector(connector(around, &self.http_config, &url, path, String::new())?);
        let anonymous = || Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: String::new() }));
        builder = match key {
            Some(key) if key.disable_oauth => builder.with_credentials(anonymous()),
            Some(key) => {
                let json = serde_json::to_string(&key).map_err(|e| Error::config(e.to_string()))?;
                builder.with_service_account_key(json)
            }
            None if endpoint.is_some() => builder.with_credentials(anonymous()),
            None => match std::env::var("GOOGLE_APPLICATION_CREDENTIALS") {
                Ok(file) if !file.is_empty() => builder.with_application_credentials(file),
                _ => builder,
            },
        };
        builder.build().map(remote).map_err(|e| failed(&e))
    }
}

impl Openable for S3 {
    fn open(&self, around: &Surroundings) -> Result<Remote> {
        let url = self.url();
        let lookup = self.lookup()?;
        let (endpoint, path, host) = match lookup {
            Lookup::Path => (url.clone(), format!("{}/{}", path_of(&url), self.bucket), String::new()),
            Lookup::VirtualHosted => {
                let in_host = url.replacen("://", &format!("://{}.", self.bucket), 1);
                (in_host, "\0".to_owned(), format!("{}.", self.bucket))
            }
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_endpoint(endpoint)
            .with_region(self.region())
            .with_virtual_hosted_style_request(lookup == Lookup::VirtualHosted)
            .with_allow_http(true)
            .with_disable_bulk_delete(true)
            .with_retry(no_retries())
            .with_client_options(no_limits())
            .with_http_connector(connector(around, &self.http_config, &url, path, host)?);
        if self.access_key.is_empty() {
            for (variable, key) in [
                ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
                ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
                ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
                ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
                ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
                ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
            ] {
                if let Ok(value) = std::env::var(variable)
                    && !value.is_empty()
                {
                    builder = builder.with_config(key, value);
                }
            }
            if !self.sts_endpoint.is_empty() {
                builder = builder.with_config(AmazonS3ConfigKey::StsEndpoint, &self.sts_endpoint);
            }
        } else {
            builder = builder.with_access_key_id(&self.access_key).with_secret_access_key(&self.secret_key);
            if !self.session_token.is_empty() {
                builder = builder.with_token(&self.session_token);
            }
        }
        builder = match self.sse()? {
            None => builder,
            Some(Sse::S3) => {
                let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(|e| failed(&e))?;
                builder.with_config(key, "AES256")
            }
            Some(Sse::Kms(key)) => builder.with_sse_kms_encryption(key),
            Some(Sse::Customer(file)) => {
                let key = std::fs::read(&file)
                    .map_err(|e| Error::config(format!("`sse_config.encryption_key` {file}: {e}")))?;
                builder.with_ssec_encryption(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, key))
            }
        };
        let signed = builder.clone().build().map_err(|e| failed(&e))?;
        let unsigned = builder.with_unsigned_payload(true).build().map_err(|e| failed(&e))?;
        Ok(Remote { cloud: Arc::new(signed), streaming: Arc::new(unsigned) })
    }
}

impl Openable for Azure {
    fn open(&self, around: &Surroundings) -> Result<Remote> {
        let url = self.url();
        let path = format!("{}/{}", path_of(&url), self.container);
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&self.storage_account)
            .with_container_name(&self.container)
            .with_endpoint(url.clone())
            .with_allow_http(true)
            .with_retry(no_retries())
            .with_client_options(no_limits())
            .with_http_connector(connector(around, &self.http_config, &url, path, String::new())?);
        if !self.storage_account_key.is_empty() {
            builder = builder.with_access_key(&self.storage_account_key);
        } else if !self.sas.is_empty() {
            builder = builder.with_config(AzureConfigKey::SasKey, self.sas.trim_start_matches('?'));
        } else if !self.client_secret.is_empty() {
            builder =
                builder.with_client_secret_authorization(&self.client_id, &self.client_secret, &self.az_tenant_id);
        } else {
            // Set by the webhook of Azure's workload identity.
            for (variable, key) in [
                ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
                ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
                ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
                ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
            ] {
                if let Ok(value) = std::env::var(variable)
                    && !value.is_empty()
                {
                    builder = builder.with_config(key, value);
                }
            }
            if !self.user_assigned_id.is_empty() {
                builder = builder.with_client_id(&self.user_assigned_id);
            }
        }
        builder.build().map(remote).map_err(|e| failed(&e))
    }
}
