//! Thanos's objstore YAML, read strictly: an unknown type or key is refused with a sentence.

use crate::error::Error;
use serde::Deserialize;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    #[serde(rename = "type")]
    kind: String,
    config: Filesystem,
    #[serde(default)]
    prefix: String,
}

impl Config {
    /// Reads the YAML.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn parse(yaml: &str) -> Result<Self, Error> {
        let top: Top = serde_saphyr::from_str(yaml).map_err(|e| Error::config(e.to_string()))?;
        if !top.kind.eq_ignore_ascii_case("FILESYSTEM") {
            return Err(Error::config(format!("type {}: not yet", top.kind)));
        }
        let prefix = top.prefix.trim_matches('/').to_owned();
        Ok(Self { provider: Provider::Filesystem(top.config), prefix })
    }

    /// The kind of its provider.
    pub fn kind(&self) -> Kind {
        match &self.provider {
            Provider::Filesystem(_) => Kind::Filesystem,
        }
    }

    /// The bucket's name, for people and metrics.
    pub fn bucket_name(&self) -> String {
        match &self.provider {
            Provider::Filesystem(c) => format!("fs: {}", c.directory),
        }
    }
}
