//! `http_config`, the same for all providers that speak HTTP.

use super::{Ignored, refuse};
use crate::error::Error;
use serde::{Deserialize, Deserializer};
use std::time::Duration;

/// `http_config`. Keys that only tune Go's client are taken and have no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// How long an idle connection is kept.
    #[serde(deserialize_with = "duration")]
    pub idle_conn_timeout: Option<Duration>,
    /// How long an answer may take to begin.
    #[serde(deserialize_with = "duration")]
    pub response_header_timeout: Option<Duration>,
    /// Whether the server's certificate is not checked.
    pub insecure_skip_verify: bool,
    /// How long a TLS handshake may take.
    #[serde(deserialize_with = "duration")]
    pub tls_handshake_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    expect_continue_timeout: Option<Duration>,
    max_idle_conns: i64,
    /// Most idle connections that are kept.
    pub max_idle_conns_per_host: Option<usize>,
    max_conns_per_host: i64,
    /// Certificates.
    pub tls_config: TlsConfig,
    disable_compression: bool,
}

/// `http_config.tls_config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file with the only certificates that are trusted; empty: those of the system.
    pub ca_file: String,
    /// PEM file of the client's certificate.
    pub cert_file: String,
    /// PEM file of its key.
    pub key_file: String,
    server_name: String,
    /// Whether the server's certificate is not checked.
    pub insecure_skip_verify: bool,
}

impl HttpConfig {
    pub(super) fn without_effect(&self) -> [Ignored; 4] {
        let as_needed = "connections are made as needed; see `http_config.max_idle_conns_per_host`";
        [
            (self.max_idle_conns != 0, "http_config.max_idle_conns", as_needed),
            (self.max_conns_per_host != 0, "http_config.max_conns_per_host", as_needed),
            (self.expect_continue_timeout.is_some(), "http_config.expect_continue_timeout", "bodies are sent at once"),
            (self.disable_compression, "http_config.disable_compression", "compression is never asked for"),
        ]
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let tls = &self.tls_config;
        refuse(
            !tls.server_name.is_empty(),
            "http_config.tls_config.server_name",
            "use an endpoint whose name is in the server's certificate",
        )?;
        if tls.cert_file.is_empty() != tls.key_file.is_empty() {
            return Err(Error::config("`http_config.tls_config` needs both `cert_file` and `key_file`, or neither"));
        }
        Ok(())
    }
}

/// A Go duration, as in `1m30s`; 0 is the default.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    let ms = model::time::parse_duration(&text).map_err(|e| serde::de::Error::custom(format!("{text}: {e}")))?;
    Ok(u64::try_from(ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis))
}
