//! Thanos's objstore YAML, read strictly: an unknown type, an unknown key or one that we can't honour is refused with a
//! sentence that names it and says what to use instead.
//!
//! ```yaml
//! type: GCS | S3 | AZURE | FILESYSTEM      # in any case
//! config: {…}                              # the keys of that type
//! prefix: team-a                           # optional
//! ```
//!
//! One key is ours: `endpoint` of GCS, a URL, for emulators and private endpoints; Thanos has no such key there.

mod azure;
mod gcs;
mod http;
mod s3;

pub use azure::Azure;
pub use gcs::{Gcs, ServiceAccount};
pub use http::{HttpConfig, TlsConfig};
pub use s3::{Lookup, S3, Sse};

use crate::contract::Uploads;
use crate::error::Error;
use crate::layers::retry::Policy;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A configured bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it is.
    pub provider: Provider,
    /// What all names in the bucket begin with, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// Where a bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// Google Cloud Storage.
    Gcs(Box<Gcs>),
    /// S3 and what speaks like it.
    S3(Box<S3>),
    /// Azure Blob Storage.
    Azure(Box<Azure>),
    /// A directory.
    Filesystem(Filesystem),
}

/// The kind of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Google Cloud Storage.
    Gcs,
    /// S3 and what speaks like it.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// A directory.
    Filesystem,
    /// Memory and whatever a test brings.
    Other,
}

/// `type: FILESYSTEM`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filesystem {
    /// The directory.
    pub directory: String,
}

/// Types that Thanos knows and we don't, with what to do instead.
const OTHERS: [(&str, &str); 6] = [
    ("COS", "its S3-compatible endpoint works with type S3"),
    ("ALIYUNOSS", "its S3-compatible endpoint works with type S3"),
    ("OBS", "its S3-compatible endpoint works with type S3"),
    ("OCI", "its S3-compatible endpoint works with type S3"),
    ("BOS", "its S3-compatible endpoint works with type S3"),
    ("SWIFT", "put an S3 gateway before it and use type S3"),
];

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    #[serde(rename = "type")]
    _kind: String,
    config: T,
    #[serde(default)]
    prefix: Option<String>,
}

impl Config {
    /// Reads the YAML.
    ///
    /// # Errors
    /// [`crate::Kind::Config`]: a sentence that names the key.
    pub fn parse(yaml: &str) -> Result<Self, Error> {
        let head: Head = from_yaml(yaml)?;
        let (provider, prefix) = match head.kind.to_ascii_uppercase().as_str() {
            "" => return Err(Error::config("`type` is missing; it is GCS, S3, AZURE or FILESYSTEM")),
            "GCS" => read::<Gcs, _>(yaml, |c| c.check().map(Box::new).map(Provider::Gcs))?,
            "S3" => read::<S3, _>(yaml, |c| c.check().map(Box::new).map(Provider::S3))?,
            "AZURE" => read::<Azure, _>(yaml, |c| c.check().map(Box::new).map(Provider::Azure))?,
            "FILESYSTEM" => read::<Filesystem, _>(yaml, |c| {
                required("directory", &c.directory)?;
                Ok(Provider::Filesystem(c))
            })?,
            other => {
                return Err(Error::config(match OTHERS.iter().find(|(name, _)| *name == other) {
                    Some((name, instead)) => format!("type {name} is not supported; {instead}"),
                    None => format!("type {:.40} is not known; it is GCS, S3, AZURE or FILESYSTEM", head.kind),
                }));
            }
        };
        let prefix = prefix.unwrap_or_default().trim_matches('/').to_owned();
        if !prefix.is_empty() {
            crate::path::check(&prefix, crate::Operation::Open)
                .map_err(|e| Error::config(format!("`prefix`: {}", e.what)))?;
        }
        Ok(Self { provider, prefix })
    }

    /// The kind of its provider.
    pub fn kind(&self) -> Kind {
        match &self.provider {
            Provider::Gcs(_) => Kind::Gcs,
            Provider::S3(_) => Kind::S3,
            Provider::Azure(_) => Kind::Azure,
            Provider::Filesystem(_) => Kind::Filesystem,
        }
    }

    /// How calls are tried again: ours, changed by what is configured.
    pub fn retry(&self, ours: Policy) -> Policy {
        let retries = |n: u32| if n > 0 { n.saturating_add(1) } else { ours.attempts };
        match &self.provider {
            Provider::Gcs(c) => Policy { attempts: retries(c.max_retries), ..ours },
            Provider::S3(c) => Policy { attempts: retries(c.max_retries), ..ours },
            Provider::Azure(c) => c.retry(ours),
            Provider::Filesystem(_) => ours,
        }
    }

    /// What one request of an upload may hold; the largest ones as the providers document them.
    pub fn uploads(&self) -> Uploads {
        match &self.provider {
            Provider::S3(c) => c.uploads(),
            Provider::Azure(_) => Uploads { one_request: 5000 << 20, parts: true },
            Provider::Gcs(_) => Uploads { one_request: 5 << 40, parts: true },
            Provider::Filesystem(_) => Uploads::default(),
        }
    }

    /// Keys that are set, that Thanos honours and that change nothing here: a sentence for each.
    pub fn without_effect(&self) -> Vec<String> {
        let (own, http) = match &self.provider {
            Provider::Gcs(c) => (c.without_effect(), &c.http_config),
            Provider::S3(c) => (c.without_effect(), &c.http_config),
            Provider::Azure(c) => (c.without_effect(), &c.http_config),
            Provider::Filesystem(_) => return Vec::new(),
        };
        let all = own.into_iter().chain(http.without_effect());
        all.filter(|(is_set, ..)| *is_set).map(|(_, key, why)| format!("`{key}` has no effect: {why}")).collect()
    }

    /// The bucket's name, as in the `bucket` label of Thanos's metrics.
    pub fn bucket_name(&self) -> String {
        match &self.provider {
            Provider::Gcs(c) => c.bucket.clone(),
            Provider::S3(c) => c.bucket.clone(),
            Provider::Azure(c) => c.container.clone(),
            Provider::Filesystem(c) => format!("fs: {}", c.directory),
        }
    }

    /// Which bucket it is, for people: provider, name, endpoint and prefix, never a secret.
    pub fn describe(&self) -> String {
        let mut text = match &self.provider {
            Provider::Gcs(c) => match &c.endpoint {
                Some(endpoint) => format!("GCS bucket {} at {endpoint}", c.bucket),
                None => format!("GCS bucket {}", c.bucket),
            },
            Provider::S3(c) => format!("S3 bucket {} at {}", c.bucket, c.endpoint),
            Provider::Azure(c) => format!("Azure container {} of {}", c.container, c.storage_account),
            Provider::Filesystem(c) => format!("directory {}", c.directory),
        };
        if !self.prefix.is_empty() {
            text.push_str(&format!(", prefix {}", self.prefix));
        }
        text
    }
}

fn read<T: DeserializeOwned, F>(yaml: &str, check: F) -> Result<(Provider, Option<String>), Error>
where
    F: FnOnce(T) -> Result<Provider, Error>,
{
    let document: Document<T> = from_yaml(yaml)?;
    Ok((check(document.config)?, document.prefix))
}

/// A configuration has some dozens of values, however long they are.
const MAX_VALUES: usize = 1000;

/// References to references must not stand for gigabytes, nor commas for values.
fn from_yaml<T: DeserializeOwned>(yaml: &str) -> Result<T, Error> {
    let mut options = serde_saphyr::Options::default();
    if !model::protection::off("yaml-aliases") {
        options.alias_limits.max_total_replayed_events = 4096 + yaml.len() / 4;
    }
    if let Some(budget) = &mut options.budget
        && !model::protection::off("yaml-values")
    {
        budget.max_nodes = MAX_VALUES;
    }
    serde_saphyr::from_str_with_options(yaml, options).map_err(wrong)
}

/// What is wrong with a YAML, without the lines of its text that may hold secrets.
fn wrong(e: serde_saphyr::Error) -> Error {
    Error::config(e.without_snippet().to_string())
}

/// Whether a key is set, its name, and why it changes nothing.
type Ignored = (bool, &'static str, &'static str);

fn required(key: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() { Err(Error::config(format!("`{key}` is missing"))) } else { Ok(()) }
}

/// Refuses a key that is set to what we can't do.
fn refuse(is_set: bool, key: &str, instead: &str) -> Result<(), Error> {
    if is_set { Err(Error::config(format!("`{key}` is not supported; {instead}"))) } else { Ok(()) }
}

/// A host with an optional port, or a URL; gives the URL.
fn endpoint_url(key: &str, endpoint: &str, plain: bool) -> Result<String, Error> {
    if endpoint.contains("://") {
        return Err(Error::config(format!(
            "`{key}` is a host with an optional port; write {} and set `insecure` for plain HTTP",
            endpoint.split("://").nth(1).unwrap_or_default()
        )));
    }
    Ok(format!("{}://{}", if plain { "http" } else { "https" }, endpoint.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(yaml: &str) -> String {
        Config::parse(yaml).unwrap_err().to_string()
    }

    #[test]
    fn thanoss_own_examples() {
        let gcs = Config::parse("type: gcs\nconfig:\n  bucket: b\n  service_account: ''\nprefix: /team/a/\n").unwrap();
        assert_eq!((gcs.kind(), gcs.prefix.as_str(), gcs.bucket_name()), (Kind::Gcs, "team/a", "b".into()));
        let s3 = "type: S3\nconfig:\n  bucket: b\n  endpoint: s3.eu-west-1.amazonaws.com\n  region: ''\n  aws_sdk_auth: false\n  \
                  access_key: a\n  insecure: false\n  signature_version2: false\n  secret_key: s\n  put_user_metadata: {}\n  \
                  http_config:\n    idle_conn_timeout: 1m30s\n    response_header_timeout: 2m\n    insecure_skip_verify: false\n    \
                  tls_handshake_timeout: 10s\n    expect_continue_timeout: 1s\n    max_idle_conns: 100\n    \
                  max_idle_conns_per_host: 100\n    max_conns_per_host: 0\n    tls_config:\n      ca_file: ''\n      \
                  insecure_skip_verify: false\n    disable_compression: false\n  trace:\n    enable: false\n  \
                  list_objects_version: ''\n  bucket_lookup_type: auto\n  send_content_md5: true\n  part_size: 67108864\n  \
                  sse_config:\n    type: ''\n  sts_endpoint: ''\nprefix: ''\n";
        let Provider::S3(s3) = Config::parse(s3).unwrap().provider else { panic!() };
        assert_eq!(s3.region(), "eu-west-1");
        let azure = "type: AZURE\nconfig:\n  storage_account: a\n  storage_account_key: a2V5\n  container: c\n  endpoint: ''\n  \
                     storage_connection_string: ''\n  max_retries: 0\n  reader_config:\n    max_retry_requests: 0\n  pipeline_config:\n    \
                     max_tries: 0\n    try_timeout: 0s\n    retry_delay: 0s\n    max_retry_delay: 0s\n";
        assert_eq!(Config::parse(azure).unwrap().describe(), "Azure container c of a");
        let fs = Config::parse("type: FILESYSTEM\nconfig:\n  directory: /data\n").unwrap();
        assert_eq!(fs.describe(), "directory /data");
    }

    #[test]
    fn what_is_taken_has_an_effect_or_a_sentence() {
        let ours = Policy::default();
        let seconds = std::time::Duration::from_secs;
        let azure = |extra: &str| {
            Config::parse(&format!("type: AZURE\nconfig: {{storage_account: a, container: c{extra}}}\n")).unwrap()
        };
        assert_eq!(azure("").retry(ours), ours);
        assert_eq!(azure(", max_retries: 3").retry(ours).attempts, 4);
        let tuned = azure(", max_retries: 3, pipeline_config: {max_tries: 8, retry_delay: 2s, max_retry_delay: 1m}");
        let wanted = Policy { attempts: 9, first_pause: seconds(2), longest_pause: seconds(60), ..ours };
        assert_eq!(tuned.retry(ours), wanted);
        assert_eq!(tuned.without_effect(), Vec::<String>::new());
        // A first pause is never longer than the longest.
        let long = azure(", pipeline_config: {retry_delay: 30s}").retry(ours);
        assert_eq!((long.first_pause, long.longest_pause), (seconds(30), seconds(30)));
        let short = azure(", pipeline_config: {max_retry_delay: 100ms}").retry(ours);
        assert_eq!(short.first_pause, short.longest_pause);

        let s3 =
            |extra: &str| Config::parse(&format!("type: S3\nconfig: {{bucket: b, endpoint: e{extra}}}\n")).unwrap();
        assert_eq!(s3(", max_retries: 2").retry(ours).attempts, 3);
        assert_eq!(s3("").uploads(), Uploads { one_request: 5 << 30, parts: true });
        assert_eq!(s3(", part_size: 67108864").uploads(), Uploads { one_request: 64 << 20, parts: true });
        assert_eq!(s3(", disable_multipart: true").uploads(), Uploads { one_request: u64::MAX, parts: false });

        let gcs = |extra: &str| Config::parse(&format!("type: GCS\nconfig: {{bucket: b{extra}}}\n")).unwrap();
        for (config, key) in [
            (azure(", pipeline_config: {try_timeout: 5s}"), "pipeline_config.try_timeout"),
            (azure(", reader_config: {max_retry_requests: 5}"), "reader_config.max_retry_requests"),
            (azure(", storage_create_container: true"), "storage_create_container"),
            (azure(", http_config: {max_conns_per_host: 5}"), "http_config.max_conns_per_host"),
            (s3(", send_content_md5: true"), "send_content_md5"),
            (s3(", http_config: {disable_compression: true}"), "http_config.disable_compression"),
            (gcs(", chunk_size_bytes: 5"), "chunk_size_bytes"),
            (gcs(", grpc_conn_pool_size: 5"), "grpc_conn_pool_size"),
        ] {
            let told = config.without_effect();
            assert!(told.len() == 1 && told[0].starts_with(&format!("`{key}` has no effect: ")), "{key}: {told:?}");
        }
    }

    #[test]
    fn a_refusal_shows_no_secret() {
        for yaml in [
            "type: S3\nconfig:\n  bucket: b\n  endpoint: e\n  secrett: hunter2\n",
            "type: S3\nconfig:\n  bucket: b\n  endpoint: e\n  secret_key: [hunter2]\n",
            "type: S3\nconfig:\n  bucket: b\n  secret_key: hunter2\n  endpoint: {\n",
        ] {
            assert!(!refused(yaml).contains("hunter2"), "{}", refused(yaml));
        }
    }

    #[test]
    fn what_can_not_be_honoured_is_named() {
        let s3 = |extra: &str| format!("type: S3\nconfig: {{bucket: b, endpoint: e{extra}}}\n");
        for (yaml, says) in [
            ("", "`type` is missing"),
            ("type: FTP\nconfig: {}\n", "type FTP is not known"),
            ("type: COS\nconfig: {}\n", "type COS is not supported; its S3-compatible endpoint"),
            ("type: GCS\nconfig: {bucket: b}\nprefixx: a\n", "prefixx"),
            ("type: GCS\nconfig: {bucket: b, buckett: c}\n", "buckett"),
            ("type: GCS\nconfig: {}\n", "bucket"),
            ("type: GCS\nconfig: {bucket: b}\nprefix: a/../b\n", "`prefix`"),
            ("type: GCS\nconfig: {bucket: b, use_grpc: true}\n", "`use_grpc` is not supported"),
            ("type: GCS\nconfig: {bucket: b, service_account: '{'}\n", "`service_account`"),
            (
                "type: GCS\nconfig: {bucket: b, service_account: '{\"type\":\"external_account\"}'}\n",
                "external_account",
            ),
            (&s3(", access_key: a"), "`secret_key` is missing"),
            (&s3(", signature_version2: true"), "`signature_version2` is not supported"),
            (&s3(", part_size: 1048576"), "`part_size` is"),
            (&s3(", part_size: 6000000000"), "`part_size` is"),
            (&s3(", part_size: 67108864, disable_multipart: true"), "`part_size` and `disable_multipart`"),
            (&s3(", put_user_metadata: {a: b}"), "`put_user_metadata` is not supported"),
            (&s3(", list_objects_version: v1"), "`list_objects_version`"),
            (&s3(", bucket_lookup_type: dns"), "`bucket_lookup_type`"),
            (&s3(", sse_config: {type: SSE-X}"), "`sse_config.type`"),
            (&s3(", http_config: {tls_config: {server_name: x}}"), "`http_config.tls_config.server_name`"),
            (&s3(", http_config: {idle_conn_timeout: soon}"), "soon"),
            ("type: S3\nconfig: {bucket: b, endpoint: 'http://e'}\n", "write e and set `insecure`"),
            ("type: AZURE\nconfig: {container: c}\n", "`storage_account` is missing"),
            ("type: AZURE\nconfig: {container: c, storage_account: a, msi_resource: x}\n", "`msi_resource`"),
        ] {
            let text = refused(yaml);
            assert!(text.contains(says), "{yaml}\n→ {text}");
        }
    }
}
