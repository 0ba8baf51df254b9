//! Parameters of requests, from URL and form, in Prometheus's grammar and with its error texts.

use super::error::ApiError;
use crate::storeapi::wire::Shard;
use axum::extract::{Form, FromRequest, Query, Request};
use http::Method;
use model::Matcher;
use model::labels::Quoted;
use model::time::parse_duration;
use proto::thanos::ShardInfo;
use std::time::Duration;

/// Earliest time that a request may name, milliseconds.
pub const MIN_TIME: i64 = i64::MIN / 1000 + 62_135_596_801_000;
/// Latest time that a request may name, milliseconds.
pub const MAX_TIME: i64 = i64::MAX / 1000 - 62_135_596_801_000;
const MIN_TEXT: &str = "-292273086-05-16T16:47:06Z";
const MAX_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

/// All parameters of a request; those of the body come before those of the URL.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads them.
    pub async fn read(request: Request) -> Result<Self, ApiError> {
        let bad = |e: &dyn std::fmt::Display| ApiError::bad_data(format!("error parsing form values: {e}"));
        let url = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).map_err(|e| bad(&e))?.0;
        let mut all = Vec::new();
        let form = |h: &http::HeaderValue| h.as_bytes().starts_with(b"application/x-www-form-urlencoded");
        // As in Go, a body of another type is not looked at.
        if request.method() == Method::POST && request.headers().get(http::header::CONTENT_TYPE).is_some_and(form) {
            all = Form::<Vec<(String, String)>>::from_request(request, &()).await.map_err(|e| bad(&e))?.0;
        }
        all.extend(url);
        Ok(Self(all))
    }

    /// The first value of a parameter; empty counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// A time, milliseconds.
    pub fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name)
            .map(|v| time(v).map_err(|e| invalid(name, &format!("invalid time value for '{name}': {e}"))))
            .transpose()
    }

    /// A duration, milliseconds.
    pub fn duration(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name).map(|v| duration(v).map_err(|e| invalid(name, &e))).transpose()
    }

    /// A boolean.
    pub fn bool(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(default),
            // The texts that Go's parser takes.
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(v) => Err(ApiError::bad_data(format!(
                "'{name}' parameter: strconv.ParseBool: parsing {}: invalid syntax",
                Quoted(v)
            ))),
        }
    }

    /// `limit`; 0 is none.
    pub fn limit(&self) -> Result<Option<usize>, ApiError> {
        let Some(v) = self.get("limit") else { return Ok(None) };
        match v.parse::<i64>() {
            Ok(n) if n < 0 => Err(invalid("limit", "limit must be non-negative")),
            Ok(n) => Ok(usize::try_from(n).ok().filter(|n| *n > 0)),
            Err(_) => Err(invalid("limit", &format!("strconv.Atoi: parsing {}: invalid syntax", Quoted(v)))),
        }
    }

    /// The `match[]` selectors.
    pub fn selectors(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let parse = |s: &str| {
            let matchers = promql::parse::parse_metric_selector(s).map_err(|e| invalid("match[]", &e.to_string()))?;
            if matchers.iter().all(Matcher::matches_empty) {
                return Err(invalid("match[]", "match[] must contain at least one non-empty matcher"));
            }
            Ok(matchers)
        };
        self.all("match[]").into_iter().map(parse).collect()
    }

    /// The `storeMatch[]` selectors: conditions on the label `__address__` of stores.
    pub fn store_match(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let parse =
            |s: &str| promql::parse::parse_metric_selector(s).map_err(|e| invalid("storeMatch[]", &e.to_string()));
        self.all("storeMatch[]").into_iter().map(parse).collect()
    }

    /// The share of the series that is wanted (`shard_info`), as Thanos's query-frontend asks for it.
    pub fn shard(&self) -> Result<Option<Shard>, ApiError> {
        #[derive(serde::Deserialize)]
        #[serde(default)]
        #[derive(Default)]
        struct Info {
            #[serde(alias = "shardIndex")]
            shard_index: i64,
            #[serde(alias = "totalShards")]
            total_shards: i64,
            by: bool,
            labels: Option<Vec<String>>,
        }
        let Some(text) = self.get("shard_info") else { return Ok(None) };
        let info: Info =
            serde_json::from_str(text).map_err(|e| invalid("shard_info", &format!("not the expected JSON: {e}")))?;
        if info.total_shards < 1 {
            return Ok(None);
        }
        let wire = ShardInfo {
            shard_index: info.shard_index,
            total_shards: info.total_shards,
            by: info.by,
            labels: info.labels.unwrap_or_default(),
        };
        Shard::read(&wire).map(Some).map_err(|e| invalid("shard_info", e.message()))
    }

    /// One of some words, in any case; the first if it is absent.
    pub fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
        let given = self.get(name);
        let found = match given {
            None => words.first(),
            Some(g) => words.iter().find(|(w, _)| w.eq_ignore_ascii_case(g)),
        };
        found.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
            ApiError::bad_data(format!(
                "invalid parameter {name}='{}': use one of {}",
                given.unwrap_or_default(),
                known.join(", ")
            ))
        })
    }

    /// The shorter of a requested and an allowed time.
    pub fn timeout(&self, allowed: Duration) -> Result<Duration, ApiError> {
        match self.duration("timeout")? {
            None => Ok(allowed),
            Some(ms) => match u64::try_from(ms) {
                Ok(ms) => Ok(Duration::from_millis(ms).min(allowed)),
                Err(_) => Err(invalid("timeout", "a timeout can't be negative")),
            },
        }
    }
}

/// Prometheus's form of a bad parameter.
pub fn invalid(name: &str, reason: &str) -> ApiError {
    ApiError::bad_data(format!("invalid parameter \"{name}\": {reason}"))
}

fn time(s: &str) -> Result<i64, String> {
    let error = || format!("cannot parse {} to a valid timestamp", Quoted(s));
    if let Ok(seconds) = s.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        // Beyond this a float can't be a time anyway; NaN is none either.
        return if ms.abs() < 9.2e18 { Ok(ms as i64) } else { Err(error()) };
    }
    match s {
        MIN_TEXT => Ok(MIN_TIME),
        MAX_TEXT => Ok(MAX_TIME),
        _ => s.parse::<jiff::Timestamp>().map(|t| t.as_millisecond()).map_err(|_| error()),
    }
}

fn duration(s: &str) -> Result<i64, String> {
    if let Ok(seconds) = s.parse::<f64>() {
        let ms = (seconds * 1000.0).trunc();
        if !ms.is_finite() || ms.abs() > (i64::MAX / 1_000_000) as f64 {
            return Err(format!("cannot parse {} to a valid duration. It overflows int64", Quoted(s)));
        }
        return Ok(ms as i64);
    }
    parse_duration(s).map_err(|_| format!("cannot parse {} to a valid duration", Quoted(s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_words() {
        let p = |name: &str, value: &str| Params(vec![(name.to_owned(), value.to_owned())]);
        let shard = |text: &str| p("shard_info", text).shard();
        assert!(shard(r#"{"shard_index":1,"total_shards":3,"by":true,"labels":["a"]}"#).unwrap().is_some());
        assert!(shard(r#"{"totalShards":0}"#).unwrap().is_none());
        assert!(shard(r#"{"shard_index":3,"total_shards":3}"#).is_err() && shard("x").is_err());
        let words = [("any", 0), ("active", 1)];
        assert_eq!(p("state", "ACTIVE").word("state", &words), Ok(1));
        assert_eq!(Params::default().word("state", &words), Ok(0));
        assert!(p("state", "x").word("state", &words).is_err());
    }

    #[test]
    fn times_and_durations() {
        assert_eq!(time("1700000000.5"), Ok(1_700_000_000_500));
        assert_eq!(time("1.7e9"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14T22:13:20.25Z"), Ok(1_700_000_000_250));
        assert_eq!(time("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000_000));
        assert_eq!(time(MIN_TEXT), Ok(MIN_TIME));
        assert_eq!(time("abc").unwrap_err(), "cannot parse \"abc\" to a valid timestamp");
        assert!(time("NaN").is_err() && time("1e300").is_err());
        assert_eq!(duration("15"), Ok(15_000));
        assert_eq!(duration("0.25"), Ok(250));
        assert_eq!(duration("1h30m"), Ok(5_400_000));
        assert_eq!(duration("x").unwrap_err(), "cannot parse \"x\" to a valid duration");
        assert!(duration("1e20").unwrap_err().contains("overflows"));
    }
}
