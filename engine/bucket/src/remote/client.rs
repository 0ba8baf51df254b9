//! The HTTP client under all providers: our connection settings, progress instead of time limits, answers counted, refusals
//! kept with status and code so that `meaning` can tell what they mean.

use super::body::{Progress, Receiving, Sending, Streamed};
use super::names;
use crate::config::HttpConfig;
use crate::error::Error;
use crate::layers::meter::BucketMeter;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use http_body_util::BodyExt as _;
use model::world::Clock;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most bytes of a refusal that are read.
const REFUSAL_MAX: usize = 64 << 10;
/// Most bytes of a page of a listing.
const LISTING_MAX: usize = 32 << 20;

/// How long the client is patient. Nothing limits a whole transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to be made, TLS included.
    pub connect: Duration,
    /// Without a byte moving.
    pub stall: Duration,
    /// For an answer to begin once the request is sent.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), stall: Duration::from_secs(30), answer: Duration::from_secs(120) }
    }
}

/// A refusal of the store, or of whoever gives out its tokens.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} answers {status}{}{code}{}{message}", if code.is_empty() { "" } else { " " }, if message.is_empty() { "" } else { ": " })]
pub(crate) struct Refused {
    pub(crate) method: String,
    pub(crate) status: u16,
    /// The provider's word, as in `NoSuchBucket`; may be empty.
    pub(crate) code: String,
    pub(crate) message: String,
    /// True when not the bucket answered but a place that gives out tokens.
    pub(crate) credentials: bool,
    pub(crate) retry_after: Option<Duration>,
    /// How far its clock is ahead of ours, in ms, where it told.
    pub(crate) skew_ms: Option<i64>,
}

/// The connector that all providers of `object_store` are built with.
#[derive(Clone)]
pub(crate) struct Connector {
    client: reqwest::Client,
    settings: Arc<Settings>,
}

struct Settings {
    timeouts: Timeouts,
    meter: BucketMeter,
    clock: Arc<dyn Clock>,
    /// What the path of every request to the bucket begins with, decoded; others are for credentials.
    bucket_path: String,
    /// Or its host begins with this.
    bucket_host: String,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("timeouts", &self.settings.timeouts).finish_non_exhaustive()
    }
}

impl Connector {
    /// A client with the configured TLS. `plain` endpoints need no CA certificates, so a machine without any works.
    pub(crate) fn new(
        config: &HttpConfig,
        timeouts: Timeouts,
        plain: bool,
        bucket_path: String,
        bucket_host: String,
        meter: BucketMeter,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let timeouts = Timeouts { answer: config.response_header_timeout.unwrap_or(timeouts.answer), ..timeouts };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("panoptes/", env!("CARGO_PKG_VERSION")))
            .http1_only() // one connection per request carries more than streams that share one
            .no_gzip() // lengths and ranges are of stored bytes
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.tls_handshake_timeout.unwrap_or(timeouts.connect).max(timeouts.connect))
            .pool_idle_timeout(config.idle_conn_timeout.unwrap_or(Duration::from_secs(90)))
            .pool_max_idle_per_host(config.max_idle_conns_per_host.unwrap_or(100))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15));
        let failed = |what: String| Error::config(what);
        let tls = &config.tls_config;
        let read = |key: &str, file: &str| {
            std::fs::read(file).map_err(|e| failed(format!("http_config.tls_config.{key} {file}: {e}")))
        };
        if !tls.ca_file.is_empty() {
            let pem = read("ca_file", &tls.ca_file)?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| failed(format!("http_config.tls_config.ca_file {}: {e}", tls.ca_file)))?;
            builder = builder.tls_certs_only(certificates);
        } else if plain {
            builder = builder.tls_certs_only([]);
        }
        if !tls.cert_file.is_empty() {
            let mut pem = read("cert_file", &tls.cert_file)?;
            pem.push(b'\n');
            pem.extend(read("key_file", &tls.key_file)?);
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|e| failed(format!("http_config.tls_config.cert_file {}: {e}", tls.cert_file)))?;
            builder = builder.identity(identity);
        }
        if config.insecure_skip_verify || tls.insecure_skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let client = builder.build().map_err(|e| failed(format!("no HTTP client can be made: {}", chain(&e))))?;
        let settings = Settings { timeouts, meter, clock, bucket_path, bucket_host };
        Ok(Self { client, settings: Arc::new(settings) })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// An error and all that caused it, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let settings = &*self.settings;
        let (mut parts, body) = request.into_parts();
        let progress = Progress::new();
        let streamed = parts.extensions.remove::<Streamed>();
        let sending = match &streamed {
            Some(streamed) => Sending::source(streamed.clone(), Arc::clone(&progress)),
            None => Sending::payload(body, Arc::clone(&progress)),
        };
        // Answers to other methods tell the checksum of something else, as of the object that parts were joined to.
        let crc = (parts.method == http::Method::PUT).then(|| sending.crc());
        let method = parts.method.to_string();
        let url = parts.uri.to_string();
        let url: reqwest::Url = url.parse().map_err(|e| HttpError::new(HttpErrorKind::Unknown, WrongUrl(e)))?;
        let is_listing = parts.method == http::Method::GET
            && url.query_pairs().any(|(k, v)| (k == "list-type" && v == "2") || (k == "comp" && v == "list"));
        let credentials = !settings.is_bucket(&url);
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        // A body of no bytes must not become a chunked one.
        if http_body::Body::is_end_stream(&sending) {
            if request.method() != http::Method::GET && request.method() != http::Method::HEAD {
                request.headers_mut().insert(CONTENT_LENGTH, 0.into());
            }
            drop(sending);
        } else {
            *request.body_mut() = Some(reqwest::Body::wrap(sending));
        }

        let mut answer = std::pin::pin!(self.client.execute(request));
        let answered = loop {
            let deadline = progress.deadline(settings.timeouts.stall, settings.timeouts.answer);
            tokio::select! {
                answer = &mut answer => break Some(answer),
                () = tokio::time::sleep_until(deadline) => {
                    if progress.deadline(settings.timeouts.stall, settings.timeouts.answer) <= deadline {
                        break None;
                    }
                }
            }
        };
        let answer = match answered {
            Some(Ok(answer)) => answer,
            failed => {
                settings.meter.request(&method, "failed", progress.sent());
                return Err(match failed {
                    Some(Err(e)) => transport(e),
                    _ => {
                        let what = progress.waited_for(settings.timeouts.stall, settings.timeouts.answer);
                        let error = std::io::Error::new(std::io::ErrorKind::TimedOut, what);
                        HttpError::new(HttpErrorKind::Timeout, error)
                    }
                });
            }
        };
        let status = answer.status();
        settings.meter.request(&method, status.as_str(), progress.sent());
        let skew_ms = settings.skew(answer.headers());
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts, body) = answer.into_parts();
        if status.is_success() || status == http::StatusCode::NOT_MODIFIED {
            if let Some(crc) = crc {
                check_crc(&parts.headers, crc.load(Ordering::Relaxed))?;
            }
            let body = Receiving::wrap(body, settings.timeouts.stall);
            if is_listing {
                let page = collect(body, LISTING_MAX).await?;
                return Ok(HttpResponse::from_parts(parts, names::without_foreign(page).into()));
            }
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let text = collect(Receiving::wrap(body, settings.timeouts.stall), REFUSAL_MAX).await.unwrap_or_default();
        let (code, message) = words(&parts.headers, &String::from_utf8_lossy(&text));
        let retry_after = parts.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let refused = Refused {
            method,
            status: status.as_u16(),
            code,
            message,
            credentials,
            retry_after: retry_after.map(Duration::from_secs),
            skew_ms,
        };
        Err(HttpError::new(HttpErrorKind::Unknown, refused))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no URL: {0}")]
struct WrongUrl(<reqwest::Url as std::str::FromStr>::Err);

/// The store computed another checksum than we did.
#[derive(Debug, thiserror::Error)]
#[error("the store has CRC-32C {theirs}, {ours} was sent")]
pub(crate) struct WrongChecksum {
    theirs: String,
    ours: String,
}

/// GCS tells the checksum of what it stored: `x-goog-hash: crc32c=n03x6A==,md5=…`.
fn check_crc(headers: &HeaderMap, crc: u32) -> Result<(), HttpError> {
    let theirs = headers
        .get_all("x-goog-hash")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|v| v.trim().strip_prefix("crc32c="));
    let ours = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, crc.to_be_bytes());
    match theirs {
        Some(theirs) if theirs != ours && !model::protection::off("upload-crc") => {
            let wrong = WrongChecksum { theirs: theirs.to_owned(), ours };
            Err(HttpError::new(HttpErrorKind::Unknown, wrong))
        }
        _ => Ok(()),
    }
}

fn transport(e: reqwest::Error) -> HttpError {
    let kind = if e.is_connect() {
        HttpErrorKind::Connect
    } else if e.is_timeout() {
        HttpErrorKind::Timeout
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, e.without_url())
}

async fn collect(body: object_store::client::HttpResponseBody, max: usize) -> Result<Bytes, HttpError> {
    let limited = http_body_util::Limited::new(body, max);
    match limited.collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(e) => Err(match e.downcast::<HttpError>() {
            Ok(e) => *e,
            Err(e) => HttpError::new(HttpErrorKind::Decode, std::io::Error::other(e)),
        }),
    }
}

/// A refusal's code and message: XML of S3, GCS and Azure, JSON of token endpoints, or a header of Azure for HEAD.
fn words(headers: &HeaderMap, text: &str) -> (String, String) {
    let short = |s: &str| {
        let line = s.split_whitespace().collect::<Vec<_>>().join(" ");
        line.trim_end_matches('.').chars().take(300).collect::<String>()
    };
    let header = headers.get("x-ms-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
        let error = json.get("error");
        let code = error.and_then(|e| e.as_str().or_else(|| e.get("status")?.as_str())).unwrap_or(header);
        let message = json.get("error_description").or_else(|| error?.get("message"));
        return (short(code), short(message.and_then(|m| m.as_str()).unwrap_or_default()));
    }
    let element = |name: &str| {
        let rest = text.split_once(&format!("<{name}>"))?.1;
        Some(short(rest.split_once(&format!("</{name}>"))?.0))
    };
    let code = element("Code").unwrap_or_else(|| short(header));
    let is_xml = headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().ends_with(b"xml")) || text.starts_with('<');
    let message = element("Message").unwrap_or_else(|| if is_xml { String::new() } else { short(text) });
    (code, message)
}

impl Settings {
    fn is_bucket(&self, url: &reqwest::Url) -> bool {
        if !self.bucket_host.is_empty() && url.host_str().is_some_and(|h| h.starts_with(&self.bucket_host)) {
            return true;
        }
        let path = percent_encoding::percent_decode_str(url.path()).decode_utf8_lossy();
        path.strip_prefix(&self.bucket_path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Notes how far the server's clock is ahead of ours.
    fn skew(&self, headers: &HeaderMap) -> Option<i64> {
        let text = headers.get(DATE)?.to_str().ok()?;
        let theirs = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
        let ahead = theirs - self.clock.now_ms();
        #[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
        self.meter.skew(ahead as f64 / 1e3);
        Some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_words() {
        let none = HeaderMap::new();
        let xml =
            "<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>The specified\n bucket</Message></Error>";
        assert_eq!(words(&none, xml), ("NoSuchBucket".into(), "The specified bucket".into()));
        let oauth = r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#;
        assert_eq!(words(&none, oauth), ("invalid_grant".into(), "Invalid JWT Signature".into()));
        let json = r#"{"error":{"code":401,"message":"Invalid Credentials","status":"UNAUTHENTICATED"}}"#;
        assert_eq!(words(&none, json), ("UNAUTHENTICATED".into(), "Invalid Credentials".into()));
        assert_eq!(words(&none, "go away"), (String::new(), "go away".into()));
    }
}
