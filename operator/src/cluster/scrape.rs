//! Raw scrape configurations: parsed before they are used; a broken one is left out and told, the rest stays.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::{MonitoringClusterSpec, RejectedObject};
use crate::desired::configuration::{self, Stored};
use crate::observe::Observed;

use super::object_storage::at;
use super::rule_file::refused;
use super::secrets;

/// One scrape job of a raw configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct AdditionalJob {
    /// Where it comes from: `ConfigMap/name/key` or `Secret/name/key`.
    pub source: String,
    /// `job_name`; unique.
    pub name: String,
    /// The whole entry.
    pub body: Value,
}

/// All jobs that can be used, in the order of the spec. Of a source that can't be used, those that ran before.
pub(super) fn check(
    spec: &MonitoringClusterSpec,
    observed: &Observed,
    stored: &Stored,
    rejected: &mut Vec<RejectedObject>,
) -> Vec<AdditionalJob> {
    let mut taken: BTreeSet<String> =
        crate::desired::scrape_jobs::NAMES.iter().map(|name| (*name).to_owned()).collect();
    let mut jobs = Vec::new();
    for source in &spec.scrape.additional {
        let (kind, key, found) = match (&source.secret_ref, &source.config_map_ref) {
            (Some(key), None) => ("Secret", key, secrets::secret(observed, key)),
            (None, Some(key)) => ("ConfigMap", key, secrets::config_map(observed, key)),
            _ => continue, // refused by the API server
        };
        let name = format!("{}/{}", key.name, key.key);
        let source = format!("{kind}/{name}");
        let parsed = found.map_err(|absent| absent.message).and_then(|bytes| parse(bytes, &source, &taken));
        let found = parsed.unwrap_or_else(|reason| {
            let mut kept = before(&source, observed, stored).unwrap_or_default();
            kept.retain(|job| !taken.contains(&job.name));
            rejected.push(refused(kind, name, &reason, !kept.is_empty()));
            kept
        });
        taken.extend(found.iter().map(|job| job.name.clone()));
        jobs.extend(found);
    }
    jobs
}

/// The jobs of a source that the stored configuration has; of the last good one where Prometheus refused the newest.
fn before(source: &str, observed: &Observed, stored: &Stored) -> Option<Vec<AdditionalJob>> {
    let next = stored.next.as_ref()?;
    let refused = observed.refused.contains_key(&crate::desired::hash(next.as_bytes()));
    let text = if refused { stored.last_good.as_ref()? } else { next };
    let bodies = configuration::jobs_of(text, source)?;
    let job = |body: Value| {
        let name = body.get("job_name").and_then(Value::as_str)?.to_owned();
        Some(AdditionalJob { source: source.to_owned(), name, body })
    };
    Some(bodies.into_iter().filter_map(job).collect())
}

/// One list of jobs. It is taken whole or not at all, so that half a change is never in effect.
fn parse(bytes: &[u8], source: &str, taken: &BTreeSet<String>) -> Result<Vec<AdditionalJob>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    if let Some(variable) = variables(text).find(|name| *name != "POD_NAME") {
        return Err(format!("it holds $({variable}), but only $(POD_NAME) is known there"));
    }
    let value: Value = args::yaml::read_dense(text).map_err(|e| format!("it is not YAML{}", at(&e)))?;
    let list = value.as_array().ok_or("it is not a list of scrape configurations")?;
    let mut names = taken.clone();
    let mut jobs = Vec::new();
    for (i, body) in list.iter().enumerate() {
        let fields = body.as_object().ok_or_else(|| format!("entry {} is not a scrape configuration", i + 1))?;
        let name = fields.get("job_name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("entry {} lacks job_name", i + 1))?;
        if !names.insert(name.to_owned()) {
            return Err(format!("job_name {name:?} is already in use"));
        }
        if let Some(unknown) = fields.keys().find(|key| !known(key)) {
            return Err(format!("job {name:?} has the unknown field {unknown:?}"));
        }
        jobs.push(AdditionalJob { source: source.to_owned(), name: name.to_owned(), body: body.clone() });
    }
    Ok(jobs)
}

/// Names in `$(NAME)`, as the reloader would replace them.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("$(").filter_map(|(start, _)| {
        let name = text[start + 2..].split_once(')')?.0;
        let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (valid && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
    })
}

/// Fields of a scrape configuration in Prometheus 3.
fn known(field: &str) -> bool {
    const FIELDS: &[&str] = &[
        "job_name",
        "scrape_interval",
        "scrape_timeout",
        "scrape_protocols",
        "fallback_scrape_protocol",
        "scrape_classic_histograms",
        "always_scrape_classic_histograms",
        "convert_classic_histograms_to_nhcb",
        "scrape_native_histograms",
        "scrape_failure_log_file",
        "metrics_path",
        "honor_labels",
        "honor_timestamps",
        "track_timestamps_staleness",
        "scheme",
        "params",
        "enable_compression",
        "body_size_limit",
        "sample_limit",
        "label_limit",
        "label_name_length_limit",
        "label_value_length_limit",
        "target_limit",
        "keep_dropped_targets",
        "native_histogram_bucket_limit",
        "native_histogram_min_bucket_factor",
        "metric_name_validation_scheme",
        "metric_name_escaping_scheme",
        "extra_scrape_metrics",
        "relabel_configs",
        "metric_relabel_configs",
        // HTTP client
        "basic_auth",
        "authorization",
        "oauth2",
        "bearer_token",
        "bearer_token_file",
        "tls_config",
        "proxy_url",
        "no_proxy",
        "proxy_from_environment",
        "proxy_connect_header",
        "follow_redirects",
        "enable_http2",
        "http_headers",
    ];
    FIELDS.contains(&field) || field.ends_with("_sd_configs") || field == "static_configs"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<usize, String> {
        parse(text.as_bytes(), "ConfigMap/jobs/a", &BTreeSet::from(["prometheus".to_owned()])).map(|jobs| jobs.len())
    }

    #[test]
    fn a_good_list_is_taken() {
        let text = "- job_name: a\n  static_configs: [{targets: ['x:1']}]\n- job_name: b\n  scrape_interval: 5s\n  \
                    relabel_configs: [{replacement: '$1', target_label: pod, regex: '^x$(POD_NAME)'}]\n";
        assert_eq!(parse_text(text), Ok(2));
        assert_eq!(parse_text("[]"), Ok(0));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("- job_name: [", "not YAML (line 1"),
            ("job_name: a", "not a list"),
            ("- 3", "entry 1 is not"),
            ("- job_name: a\n- scheme: http", "entry 2 lacks job_name"),
            ("- job_name: prometheus", "\"prometheus\" is already in use"),
            ("- job_name: a\n- job_name: a", "\"a\" is already in use"),
            ("- job_name: a\n  scrape_intervall: 5s", "unknown field \"scrape_intervall\""),
            ("- job_name: $(SECRET)", "$(SECRET)"),
        ] {
            let error = parse_text(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(parse(b"\xff", "ConfigMap/jobs/a", &BTreeSet::new()).is_err());
    }
}
