//! Prometheus's HTTP API, as far as a sidecar needs it. Every answer is bounded, every call has a deadline.

use super::upload::guard::TsdbFlags;
use model::Matcher;
use model::labels::is_legacy_name;
use proto::thanos::LabelMatcher;
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// Most bytes of one answer that is read as a whole.
const MAX_BODY: usize = 64 << 20;
/// Most bytes of an error text that is passed on.
const MAX_ERROR: usize = 4096;
/// Deadline to connect; Prometheus is on the same host.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence of an answer.
const SILENCE: Duration = Duration::from_secs(120);
/// Times beyond these (milliseconds since the epoch: 1970, year 9999) mean "no bound"; Prometheus refuses some of them.
const TIMES: std::ops::Range<i64> = 1..253_402_300_799_000;

/// A failed call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum PromError {
    /// No connection, or a broken one.
    #[error("Prometheus does not answer at {url}: {message}")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        message: String,
    },
    /// No answer in time.
    #[error("Prometheus did not answer in time at {0}")]
    Timeout(String),
    /// An answer that says no.
    #[error("Prometheus answers {code}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// What it says.
        message: String,
    },
    /// An answer that is not what it should be.
    #[error("Prometheus's answer makes no sense: {0}")]
    Nonsense(String),
    /// An answer larger than we take.
    #[error("Prometheus's answer has more than {0} bytes: narrow the request")]
    TooLarge(usize),
}

impl From<PromError> for Status {
    fn from(e: PromError) -> Self {
        let text = e.to_string();
        match e {
            PromError::Unreachable { .. } => Self::unavailable(text),
            PromError::Timeout(_) => Self::deadline_exceeded(text),
            PromError::TooLarge(_) => Self::resource_exhausted(text),
            PromError::Refused { code: 400, .. } => Self::invalid_argument(text),
            PromError::Refused { code: 404, .. } => Self::not_found(text),
            PromError::Refused { code: 503, .. } => Self::unavailable(text),
            PromError::Refused { .. } | PromError::Nonsense(_) => Self::internal(text),
        }
    }
}

/// An answer of the API.
#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    error: String,
}

/// Data and what Prometheus warns about.
#[derive(Debug, PartialEq)]
pub(super) struct Answer<T> {
    pub(super) data: T,
    pub(super) warnings: Vec<String>,
}

/// What series, names or values are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) matchers: &'a [Matcher],
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) limit: Option<usize>,
}

/// One Prometheus.
#[derive(Clone, Debug)]
pub(super) struct Prometheus {
    base: String,
    http: Client,
}

impl Prometheus {
    /// The Prometheus at `url`, as in `http://localhost:9090`.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let tls = rustls::ClientConfig::builder_with_provider(crate::server::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        anyhow::ensure!(
            url.starts_with("http://"),
            "--prometheus.url is {url:?}: give it as http://host:port; the sidecar runs beside its Prometheus"
        );
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .no_gzip()
            .http1_only()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .pool_max_idle_per_host(4)
            .user_agent(concat!("panoptes/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), http })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, PromError> {
        request.send().await.map_err(|e| self.broken(&e))
    }

    /// A failed request or a broken answer.
    pub(super) fn broken(&self, e: &reqwest::Error) -> PromError {
        if e.is_timeout() {
            return PromError::Timeout(self.base.clone());
        }
        let (mut message, mut cause) = (e.to_string(), std::error::Error::source(e));
        while let Some(c) = cause {
            message = format!("{message}: {c}");
            cause = c.source();
        }
        PromError::Unreachable { url: self.base.clone(), message }
    }

    async fn body(&self, mut response: Response, max: usize) -> Result<Vec<u8>, PromError> {
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if body.len() + bytes.len() > max {
                return Err(PromError::TooLarge(max));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    /// The error in an answer that is not a success: the API's own words where it has some.
    async fn refusal(&self, response: Response) -> PromError {
        let code = response.status().as_u16();
        let body = match self.body(response, MAX_BODY).await {
            Ok(body) => body,
            Err(e) => return e,
        };
        let message = match serde_json::from_slice::<Envelope<serde_json::Value>>(&body) {
            Ok(envelope) if !envelope.error.is_empty() => envelope.error,
            _ => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        PromError::Refused { code, message: cut(&message).to_owned() }
    }

    async fn api<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, PromError> {
        let response = self.send(request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let body = self.body(response, MAX_BODY).await?;
        let envelope: Envelope<T> =
            serde_json::from_slice(&body).map_err(|e| PromError::Nonsense(format!("not the expected JSON: {e}")))?;
        let data = envelope.data.ok_or_else(|| PromError::Nonsense("no data".to_owned()))?;
        Ok(Answer { data, warnings: envelope.warnings })
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    fn post_form(&self, path: &str, form: String) -> RequestBuilder {
        self.http
            .post(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
    }

    /// Whether it serves.
    pub(super) async fn ready(&self, timeout: Duration) -> Result<(), PromError> {
        let response = self.send(self.get("/-/ready").timeout(timeout)).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(response).await) }
    }

    /// Its version; empty if it does not tell.
    pub(super) async fn version(&self, timeout: Duration) -> Result<String, PromError> {
        #[derive(Deserialize)]
        struct BuildInfo {
            version: String,
        }
        match self.api::<BuildInfo>(self.get("/api/v1/status/buildinfo").timeout(timeout)).await {
            Ok(answer) => Ok(answer.data.version),
            // Very old ones, and some that only look like Prometheus.
            Err(PromError::Refused { code: 404 | 405, .. }) => Ok(String::new()),
            Err(e) => Err(e),
        }
    }

    /// Its external labels, as it has them loaded.
    pub(super) async fn external_labels(&self, timeout: Duration) -> Result<BTreeMap<String, String>, PromError> {
        #[derive(Deserialize)]
        struct Config {
            yaml: String,
        }
        let answer = self.api::<Config>(self.get("/api/v1/status/config").timeout(timeout)).await?;
        external_labels(&answer.data.yaml)
    }

    /// The oldest sample that it has, milliseconds since the epoch; `None` if it has none or does not tell.
    pub(super) async fn lowest_timestamp(&self, timeout: Duration) -> Result<Option<i64>, PromError> {
        let response = self.send(self.get("/metrics").timeout(timeout)).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let body = self.body(response, MAX_BODY).await?;
        Ok(lowest_timestamp(&String::from_utf8_lossy(&body)))
    }

    /// Its block lengths and what delays its compaction; `None` if it does not tell its flags.
    pub(super) async fn tsdb_flags(&self, timeout: Duration) -> Result<Option<TsdbFlags>, PromError> {
        let request = self.get("/api/v1/status/flags").timeout(timeout);
        let mut flags = match self.api::<BTreeMap<String, String>>(request).await {
            Ok(answer) => answer.data,
            // Very old ones, and some that only look like Prometheus.
            Err(PromError::Refused { code: 404 | 405, .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut take = |name: &str| flags.remove(name).unwrap_or_default();
        Ok(Some(TsdbFlags {
            min_block: take("storage.tsdb.min-block-duration"),
            max_block: take("storage.tsdb.max-block-duration"),
            delay_file: take("storage.tsdb.delay-compact-file.path"),
        }))
    }

    /// How long it keeps data, in its own words: `15d`, `15d or 10GiB`; empty if it does not tell.
    pub(super) async fn retention(&self, timeout: Duration) -> Result<String, PromError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct RuntimeInfo {
            #[serde(default)]
            storage_retention: String,
        }
        match self.api::<RuntimeInfo>(self.get("/api/v1/status/runtimeinfo").timeout(timeout)).await {
            Ok(answer) => Ok(answer.data.storage_retention),
            Err(PromError::Refused { code: 404 | 405, .. }) => Ok(String::new()),
            Err(e) => Err(e),
        }
    }

    /// Reads any part of its API: `path` is below `/api/v1`, with its parameters.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, PromError> {
        self.api(self.get(&format!("/api/v1/{path}"))).await
    }

    /// The same by a form, which has room for long parameters.
    pub(super) async fn read_form<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Answer<T>, PromError> {
        self.api(self.post_form(&format!("/api/v1/{path}"), parameters_of(parameters))).await
    }

    /// Asks it to load its configuration and rules again; its own words if it refuses.
    pub(super) async fn reload(&self, timeout: Duration) -> Result<(), PromError> {
        let request = self.http.post(format!("{}/-/reload", self.base)).timeout(timeout);
        let response = self.send(request).await?;
        if response.status() == StatusCode::OK { Ok(()) } else { Err(self.refusal(response).await) }
    }

    /// Label sets of the series in scope.
    pub(super) async fn series(&self, scope: Scope<'_>) -> Result<Answer<Vec<BTreeMap<String, String>>>, PromError> {
        self.api(self.post_form("/api/v1/series", scope.form())).await
    }

    /// Label names of the series in scope.
    pub(super) async fn label_names(&self, scope: Scope<'_>) -> Result<Answer<Vec<String>>, PromError> {
        self.api(self.post_form("/api/v1/labels", scope.form())).await
    }

    /// Values of one label among the series in scope.
    pub(super) async fn label_values(&self, name: &str, scope: Scope<'_>) -> Result<Answer<Vec<String>>, PromError> {
        let name = percent(&escape_name(name));
        self.api(self.get(&format!("/api/v1/label/{name}/values?{}", scope.form()))).await
    }

    /// Begins a remote read; the answer is still to be read, and may be of either kind.
    pub(super) async fn remote_read(&self, body: Vec<u8>) -> Result<Response, PromError> {
        let request = self
            .http
            .post(format!("{}/api/v1/read", self.base))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .header("X-Prometheus-Remote-Read-Version", "0.1.0")
            .body(body);
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// The whole of an answer, at most `max` bytes.
    pub(super) async fn read_all(&self, response: Response, max: usize) -> Result<Vec<u8>, PromError> {
        self.body(response, max).await
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

impl Scope<'_> {
    fn form(&self) -> String {
        let mut form = String::new();
        let mut add = |name: &str, value: &str| {
            if !form.is_empty() {
                form.push('&');
            }
            form.push_str(name);
            form.push('=');
            form.push_str(&percent(value));
        };
        if !self.matchers.is_empty() {
            add("match%5B%5D", &selector(self.matchers));
        }
        if TIMES.contains(&self.start) {
            add("start", &seconds(self.start));
        }
        if TIMES.contains(&self.end) {
            add("end", &seconds(self.end));
        }
        if let Some(limit) = self.limit {
            add("limit", &limit.to_string());
        }
        form
    }
}

/// Parameters as a form has them, and as a URL does.
pub(super) fn parameters_of(parameters: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| format!("{}={}", percent(name), percent(value));
    parameters.iter().map(one).collect::<Vec<_>>().join("&")
}

/// `{a="b", c=~"d"}`
fn selector(matchers: &[Matcher]) -> String {
    let all: Vec<String> = matchers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", all.join(","))
}

/// A time (milliseconds since the epoch) as a parameter; `None` if it is no bound.
pub(super) fn time_parameter(ms: i64) -> Option<String> {
    TIMES.contains(&ms).then(|| seconds(ms))
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// A label name as Prometheus takes it in a path: names outside the classic set are written as `U__` and escapes.
fn escape_name(name: &str) -> String {
    use std::fmt::Write as _;
    if is_legacy_name(name) && !name.starts_with("U__") {
        return name.to_owned();
    }
    name.chars().fold("U__".to_owned(), |mut out, c| {
        match c {
            '_' => out.push_str("__"),
            c if c.is_ascii_alphanumeric() => out.push(c),
            c => {
                // Writing to a String can't fail.
                let _ = write!(out, "_{:x}_", u32::from(c));
            }
        }
        out
    })
}

/// The external labels in a configuration as Prometheus prints it. Only the `global` block is read: the rest may be megabytes.
pub(super) fn external_labels(yaml: &str) -> Result<BTreeMap<String, String>, PromError> {
    #[derive(Deserialize, Default)]
    struct Global {
        #[serde(default)]
        external_labels: BTreeMap<String, String>,
    }
    let mut block = String::new();
    for line in yaml.lines().skip_while(|l| !l.starts_with("global:")).skip(1) {
        if !line.is_empty() && !line.starts_with([' ', '#']) {
            break;
        }
        block.push_str(line);
        block.push('\n');
    }
    if block.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    args::yaml::read::<Global>(&block)
        .map(|g| g.external_labels)
        .map_err(|e| PromError::Nonsense(format!("its configuration can't be read: {e}")))
}

pub(super) fn lowest_timestamp(metrics: &str) -> Option<i64> {
    let line = metrics.lines().find_map(|l| l.strip_prefix("prometheus_tsdb_lowest_timestamp_seconds"))?;
    let seconds: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    // An empty head shows the largest number there is.
    (seconds.is_finite() && seconds < 1e12).then_some((seconds * 1000.0) as i64)
}

/// Matchers as remote read has them: the same as in the StoreAPI.
pub(super) fn wire_matchers(matchers: &[Matcher]) -> Vec<LabelMatcher> {
    proto::matchers::encode(matchers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::MatchOp;

    #[test]
    fn reads_external_labels_from_the_global_block_only() {
        let yaml = "global:\n  scrape_interval: 15s\n  external_labels:\n    cluster: ops\n    replica: \"0\"\n\
                    scrape_configs:\n- job_name: x\n  external_labels: {no: no}\n";
        let labels = external_labels(yaml).unwrap();
        assert_eq!(
            labels.into_iter().collect::<Vec<_>>(),
            [("cluster".into(), "ops".into()), ("replica".into(), "0".into())]
        );
        assert!(external_labels("scrape_configs: []\n").unwrap().is_empty());
        assert!(external_labels("global:\n  external_labels: 7\n").is_err());
    }

    #[test]
    fn reads_the_lowest_timestamp_and_knows_the_empty_head() {
        let text =
            "# TYPE prometheus_tsdb_lowest_timestamp_seconds gauge\nprometheus_tsdb_lowest_timestamp_seconds 1.7e+09\n";
        assert_eq!(lowest_timestamp(text), Some(1_700_000_000_000));
        assert_eq!(lowest_timestamp("prometheus_tsdb_lowest_timestamp_seconds 9.223372036854776e+15\n"), None);
        assert_eq!(lowest_timestamp("x 1\n"), None);
    }

    #[test]
    fn writes_forms_and_names() {
        let matchers = [Matcher::equal("job", "a b\"c"), Matcher::new(MatchOp::NotRegex, "é", "x|y").unwrap()];
        let scope = Scope { matchers: &matchers, start: 1500, end: i64::MAX, limit: Some(1) };
        assert_eq!(
            scope.form(),
            "match%5B%5D=%7Bjob%3D%22a%20b%5C%22c%22%2C%22%C3%A9%22%21~%22x%7Cy%22%7D&start=1.500&limit=1"
        );
        assert_eq!(escape_name("job_name"), "job_name");
        assert_eq!(escape_name("a.b_c"), "U__a_2e_b__c");
    }
}
