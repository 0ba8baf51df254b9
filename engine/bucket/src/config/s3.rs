//! `type: S3`.

use super::{HttpConfig, Ignored, endpoint_url, refuse, required};
use crate::contract::Uploads;
use crate::error::Error;
use serde::Deserialize;
use std::collections::BTreeMap;

/// S3 and what speaks like it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// Host with an optional port.
    pub endpoint: String,
    region: String,
    disable_dualstack: bool,
    aws_sdk_auth: bool,
    /// Empty, with `secret_key`: the pod's own identity (IRSA, EKS pod identity, ECS, instance), or `AWS_ACCESS_KEY_ID`.
    pub access_key: String,
    /// Whether to speak plain HTTP.
    pub insecure: bool,
    signature_version2: bool,
    /// The secret of `access_key`.
    pub secret_key: String,
    /// For credentials that end.
    pub session_token: String,
    put_user_metadata: BTreeMap<String, String>,
    /// Client and certificates.
    pub http_config: HttpConfig,
    trace: Trace,
    list_objects_version: String,
    bucket_lookup_type: String,
    send_content_md5: Option<bool>,
    /// Whether a large upload is never sent in parts.
    pub disable_multipart: bool,
    /// Largest body of one request of an upload, in bytes; 0: what S3 takes.
    part_size: u64,
    sse_config: SseConfig,
    /// Where `AssumeRoleWithWebIdentity` is asked; empty: that of the region.
    pub sts_endpoint: String,
    /// Most retries of one call; 0: ours.
    pub max_retries: u32,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3").field("bucket", &self.bucket).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Trace {
    enable: bool,
}

#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SseConfig {
    #[serde(rename = "type")]
    kind: String,
    kms_key_id: String,
    kms_encryption_context: BTreeMap<String, String>,
    encryption_key: String,
}

/// What S3 takes as a part and in one request, in bytes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const PART_SIZES: std::ops::RangeInclusive<u64> = 5 << 20..=5 << 30;

/// Where the bucket's name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Into the host.
    VirtualHosted,
    /// Into the path.
    Path,
}

/// Encryption by the server.
#[derive(Clone, PartialEq, Eq)]
pub enum Sse {
    /// With keys of S3.
    S3,
    /// With this key of KMS.
    Kms(String),
    /// With the key in this file, 32 bytes.
    Customer(String),
}

impl S3 {
    pub(super) fn check(self) -> Result<Self, Error> {
        required("bucket", &self.bucket)?;
        required("endpoint", &self.endpoint)?;
        endpoint_url("endpoint", &self.endpoint, self.insecure)?;
        match (self.access_key.is_empty(), self.secret_key.is_empty()) {
            (false, true) => return required("secret_key", "").map(|()| self),
            (true, false) => return required("access_key", "").map(|()| self),
            _ => {}
        }
        if self.aws_sdk_auth && !self.access_key.is_empty() {
            return Err(Error::config("`aws_sdk_auth` and `access_key` exclude each other; keep one of them"));
        }
        refuse(self.signature_version2, "signature_version2", "leave it out: requests are signed with version 4")?;
        refuse(!self.put_user_metadata.is_empty(), "put_user_metadata", "leave it out")?;
        refuse(self.trace.enable, "trace.enable", "use --log.level=debug")?;
        if !["", "v2"].contains(&self.list_objects_version.as_str()) {
            let what = "`list_objects_version` is \"v2\" or left out; the older listing is not supported";
            return Err(Error::config(what));
        }
        if self.part_size > 0 && !PART_SIZES.contains(&self.part_size) {
            return Err(Error::config("`part_size` is between 5242880 (5 MiB) and 5368709120 (5 GiB), as S3 takes it"));
        }
        if self.part_size > 0 && self.disable_multipart {
            let what = "`part_size` and `disable_multipart` exclude each other; keep one of them";
            return Err(Error::config(what));
        }
        self.http_config.check()?;
        self.lookup()?;
        self.sse()?;
        Ok(self)
    }

    /// A file larger than `part_size` goes in parts that are no larger.
    pub(super) fn uploads(&self) -> Uploads {
        match (self.disable_multipart, self.part_size) {
            (true, _) => Uploads { one_request: u64::MAX, parts: false },
            (false, 0) => Uploads { one_request: *PART_SIZES.end(), parts: true },
            (false, part_size) => Uploads { one_request: part_size, parts: true },
        }
    }

    pub(super) fn without_effect(&self) -> Vec<Ignored> {
        vec![
            (
                self.send_content_md5 == Some(true),
                "send_content_md5",
                "sizes of what was uploaded are compared instead",
            ),
            (
                self.disable_dualstack && self.endpoint.contains(".dualstack."),
                "disable_dualstack",
                "`endpoint` is asked as it is; name one without dualstack",
            ),
        ]
    }

    /// The URL of the endpoint.
    pub fn url(&self) -> String {
        endpoint_url("endpoint", &self.endpoint, self.insecure).unwrap_or_default()
    }

    /// The configured region, or the one in the endpoint's name, or `us-east-1`.
    pub fn region(&self) -> &str {
        if !self.region.is_empty() {
            return &self.region;
        }
        let host = self.endpoint.split(':').next().unwrap_or_default();
        let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"));
        let region = name
            .and_then(|n| n.strip_prefix("s3.dualstack.").or_else(|| n.strip_prefix("s3.")))
            .or_else(|| name?.strip_prefix("s3-"));
        region.filter(|r| !r.is_empty() && !r.contains('.')).unwrap_or("us-east-1")
    }

    /// Where the bucket's name goes; `auto`: into the host at Amazon, into the path elsewhere.
    ///
    /// # Errors
    /// For another word.
    pub fn lookup(&self) -> Result<Lookup, Error> {
        match self.bucket_lookup_type.as_str() {
            "" | "auto" => {
                let host = self.endpoint.split(':').next().unwrap_or_default();
                let is_amazon = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
                // A dot in the bucket's name doesn't fit Amazon's certificate.
                let in_host = is_amazon && !self.bucket.contains('.');
                Ok(if in_host { Lookup::VirtualHosted } else { Lookup::Path })
            }
            "virtual-hosted" => Ok(Lookup::VirtualHosted),
            "path" => Ok(Lookup::Path),
            _ => Err(Error::config("`bucket_lookup_type` is auto, virtual-hosted or path")),
        }
    }

    /// Encryption by the server.
    ///
    /// # Errors
    /// For another word, or a missing key.
    pub fn sse(&self) -> Result<Option<Sse>, Error> {
        let c = &self.sse_config;
        refuse(!c.kms_encryption_context.is_empty(), "sse_config.kms_encryption_context", "leave it out")?;
        match c.kind.as_str() {
            "" => Ok(None),
            "SSE-S3" => Ok(Some(Sse::S3)),
            "SSE-KMS" => {
                required("sse_config.kms_key_id", &c.kms_key_id)?;
                Ok(Some(Sse::Kms(c.kms_key_id.clone())))
            }
            "SSE-C" => {
                required("sse_config.encryption_key", &c.encryption_key)?;
                Ok(Some(Sse::Customer(c.encryption_key.clone())))
            }
            _ => Err(Error::config("`sse_config.type` is SSE-S3, SSE-KMS or SSE-C")),
        }
    }
}
