//! Rule files: parsed as Prometheus would, each expression by our own parser, before they come near a Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use promql::parse::Options;
use serde::Deserialize;

use crate::api::{RejectedObject, duration_millis};
use crate::observe::{Found, Observed};

use crate::desired::meta::MANAGED_BY;

use super::kept;
use super::object_storage::at;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "all fields are named, so that an unknown one is refused")]
struct Group {
    name: String,
    #[serde(default)]
    interval: Option<String>,
    #[serde(default)]
    query_offset: Option<String>,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    record: Option<String>,
    #[serde(default)]
    alert: Option<String>,
    expr: serde_json::Value,
    #[serde(default, rename = "for")]
    hold: Option<String>,
    #[serde(default)]
    keep_firing_for: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The rule files of all selected ConfigMaps, by the name of the file that Prometheus reads.
pub(super) fn check(observed: &Observed, rejected: &mut Vec<RejectedObject>) -> BTreeMap<String, String> {
    let options = features(&observed.cluster.spec.prometheus.extra_args);
    let before = kept::rule_files(observed);
    let mut files = BTreeMap::new();
    for name in &observed.rule_config_maps {
        let Some(map) = observed.config_maps.get(name).and_then(Found::present) else { continue };
        if map.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1) {
            continue; // ours, with a label of the user's: it would feed itself
        }
        for (key, text) in map.data.iter().flatten() {
            let Some(stem) = key.strip_suffix(".yaml").or_else(|| key.strip_suffix(".yml")) else { continue };
            match parse(text, &options) {
                Ok(()) => {
                    files.insert(file_name(name, stem), text.clone());
                }
                Err(reason) => {
                    let file = file_name(name, stem);
                    // one that ran, but that Prometheus would refuse at its next start, can't be kept
                    let kept = before.get(file.as_str()).filter(|text| parse(text, &options).is_ok());
                    rejected.push(refused("ConfigMap", format!("{name}/{key}"), &reason, kept.is_some()));
                    files.extend(kept.map(|text| (file, (*text).to_owned())));
                }
            }
        }
    }
    files
}

/// Says what is refused and why, and what is in effect instead.
pub(super) fn refused(kind: &str, name: String, reason: &str, kept: bool) -> RejectedObject {
    let reason: String = reason.trim_end_matches('.').chars().take(900).collect();
    let instead = if kept { "its previous content stays in effect" } else { "it is left out" };
    RejectedObject { kind: kind.to_owned(), name, reason: format!("{reason}; {instead}") }
}

/// Which experimental parts of the language this Prometheus reads.
fn features(extra_args: &[String]) -> Options {
    let enabled = |feature: &str| {
        extra_args
            .iter()
            .filter_map(|arg| arg.strip_prefix("--enable-feature="))
            .any(|list| list.split(',').any(|name| name == feature))
    };
    Options {
        experimental_functions: enabled("promql-experimental-functions"),
        extended_range_selectors: enabled("promql-extended-range-selectors"),
        fill_modifiers: enabled("promql-binop-fill-modifiers"),
        ..Options::default()
    }
}

/// A ConfigMap's name holds no `_`, so that two different sources never give one file.
fn file_name(map: &str, stem: &str) -> String {
    let name = format!("{map}_{stem}.yaml");
    // The API server lets no other characters through; a name that is a path would be a file somewhere else.
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) && !name.starts_with('.');
    let plain = plain || model::protection::off("rule-file-name");
    if plain && name.len() <= 200 { name } else { format!("{}.yaml", crate::desired::hash(name.as_bytes())) }
}

/// Whether Prometheus would load it; else why not.
pub(crate) fn parse(text: &str, options: &Options) -> Result<(), String> {
    let file: File = args::yaml::read_dense(text).map_err(|e| {
        let said = e.to_string();
        format!("it is no rule file{}: {}", at(&e), said.lines().next().unwrap_or_default())
    })?;
    let mut groups = BTreeSet::new();
    for group in &file.groups {
        if group.name.is_empty() {
            return Err("a group has no name".to_owned());
        }
        if !groups.insert(&group.name) {
            return Err(format!("group {:?} is there twice", group.name));
        }
        if group.labels.iter().flatten().any(|(name, _)| name == "__name__" || name.is_empty()) {
            return Err(format!("group {:?}: \"__name__\" and \"\" can't be set as labels", group.name));
        }
        for duration in [&group.interval, &group.query_offset].into_iter().flatten() {
            is_duration(duration).map_err(|e| format!("group {:?}: {e}", group.name))?;
        }
        for (i, rule) in group.rules.iter().enumerate() {
            self::rule(rule, options).map_err(|e| format!("group {:?}, rule {}: {e}", group.name, i + 1))?;
        }
    }
    Ok(())
}

fn rule(rule: &Rule, options: &Options) -> Result<(), String> {
    match (&rule.record, &rule.alert) {
        (Some(_), None) if rule.hold.is_some() || rule.keep_firing_for.is_some() => {
            return Err("a recording rule takes neither for nor keep_firing_for".to_owned());
        }
        (Some(_), None) if rule.annotations.is_some() => {
            return Err("a recording rule takes no annotations".to_owned());
        }
        (Some(name), None) if name.is_empty() || name.contains(['{', '}']) => {
            return Err(format!("record {name:?} is no metric name"));
        }
        (None, Some(name)) if name.is_empty() => return Err("the alert has no name".to_owned()),
        (Some(_), None) | (None, Some(_)) => {}
        _ => return Err("it needs exactly one of record and alert".to_owned()),
    }
    for duration in [&rule.hold, &rule.keep_firing_for].into_iter().flatten() {
        is_duration(duration)?;
    }
    for label in rule.labels.iter().flatten().map(|(name, _)| name) {
        if label == "__name__" || label.is_empty() {
            return Err(format!("{label:?} can't be set as a label"));
        }
    }
    if rule.alert.is_some() {
        for (name, text) in rule.labels.iter().chain(&rule.annotations).flatten() {
            super::template::check(text).map_err(|e| format!("the template of {name:?} is wrong: {e}"))?;
        }
    }
    if let Some(name) = rule.annotations.iter().flatten().map(|(name, _)| name).find(|name| name.is_empty()) {
        return Err(format!("{name:?} can't be set as an annotation"));
    }
    let expr = match &rule.expr {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        _ => return Err("expr is no text".to_owned()),
    };
    expression(&expr, options)
}

fn expression(text: &str, options: &Options) -> Result<(), String> {
    promql::parse::parse_expr(text, options).map(drop).map_err(|e| e.to_string())
}

fn is_duration(text: &str) -> Result<(), String> {
    duration_millis(text).map(drop).ok_or_else(|| format!("{text:?} is no duration"))
}
