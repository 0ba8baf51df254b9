//! `rules` and `alerts`.

use super::error::ApiError;
use super::metadata::gated;
use super::params::{Params, invalid};
use super::values::{labels, number, strategy, time};
use super::{Api, success};
use crate::query::services::rules::{self, Filter};
use crate::query::warning::{Warning, distinct};
use axum::extract::{Request, State};
use axum::response::Response;
use model::Matcher;
use proto::thanos::rules_request::Type;
use proto::thanos::{Alert, AlertInstance, AlertState, RecordingRule, RuleGroup, RulesRequest, rule};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn rules(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let r#type = p.word("type", &[("all", Type::All), ("alert", Type::Alert), ("record", Type::Record)])?;
    let parse = |s: &str| promql::parse::parse_metric_selector(s).map_err(|e| invalid("match[]", &e.to_string()));
    let matchers: Vec<Vec<Matcher>> = p.all("match[]").into_iter().map(parse).collect::<Result<_, _>>()?;
    let words = |name: &str| p.all(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let filter =
        Filter { matchers, names: words("rule_name[]"), groups: words("rule_group[]"), files: words("file[]") };
    let (groups, warnings) = fetch(&api, &p, r#type, &filter).await?;
    let groups: Vec<Value> = groups.iter().map(group).collect();
    Ok(success(&json!({ "groups": groups }).to_string(), &distinct(warnings), &[]))
}

pub(super) async fn alerts(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let (groups, warnings) = fetch(&api, &p, Type::Alert, &Filter::default()).await?;
    let rules = groups.iter().flat_map(|g| &g.rules);
    let of = |r: &proto::thanos::Rule| match &r.result {
        Some(rule::Result::Alert(a)) => a.alerts.iter().map(instance).collect(),
        _ => Vec::new(),
    };
    let alerts: Vec<Value> = rules.flat_map(of).collect();
    Ok(success(&json!({ "alerts": alerts }).to_string(), &distinct(warnings), &[]))
}

async fn fetch(
    api: &Api,
    p: &Params,
    r#type: Type,
    filter: &Filter,
) -> Result<(Vec<RuleGroup>, Vec<Warning>), ApiError> {
    let (timeout, terms) = api.service_terms(p, api.args.rule_partial_response.0)?;
    let request = RulesRequest {
        r#type: r#type.into(),
        rule_name: filter.names.clone(),
        rule_group: filter.groups.clone(),
        file: filter.files.clone(),
        ..RulesRequest::default()
    };
    let work = rules::gather(api.evaluator.fanout(), request, &terms);
    let (groups, warnings) = gated(api, timeout, work).await?;
    let mut groups = groups;
    // Not every ruler leaves out what was not asked for.
    for g in &mut groups {
        g.rules.retain(|r| match &r.result {
            Some(rule::Result::Alert(_)) => r#type != Type::Record,
            Some(rule::Result::Recording(_)) => r#type != Type::Alert,
            None => false,
        });
    }
    Ok((rules::merge(groups, filter, &api.replica_labels(p)?), warnings))
}

fn group(g: &RuleGroup) -> Value {
    let rules: Vec<Value> = g
        .rules
        .iter()
        .filter_map(|r| match r.result.as_ref()? {
            rule::Result::Recording(r) => Some(recording(r)),
            rule::Result::Alert(a) => Some(alert(a)),
        })
        .collect();
    json!({
        "name": g.name,
        "file": g.file,
        "rules": rules,
        "interval": number(g.interval),
        "evaluationTime": number(g.evaluation_duration_seconds),
        "lastEvaluation": time(g.last_evaluation.as_ref()),
        "limit": g.limit,
        "partialResponseStrategy": strategy(g.partial_response_strategy),
    })
}

fn recording(r: &RecordingRule) -> Value {
    let mut out = json!({
        "type": "recording",
        "name": r.name,
        "query": r.query,
        "labels": labels(r.labels.as_ref()),
        "health": r.health,
        "evaluationTime": number(r.evaluation_duration_seconds),
        "lastEvaluation": time(r.last_evaluation.as_ref()),
    });
    with_error(&mut out, &r.last_error);
    out
}

fn alert(a: &Alert) -> Value {
    let alerts: Vec<Value> = a.alerts.iter().map(instance).collect();
    let mut out = json!({
        "type": "alerting",
        "state": state(a.state),
        "name": a.name,
        "query": a.query,
        "duration": number(a.duration_seconds),
        "keepFiringFor": number(a.keep_firing_for_seconds),
        "labels": labels(a.labels.as_ref()),
        "annotations": labels(a.annotations.as_ref()),
        "alerts": alerts,
        "health": a.health,
        "evaluationTime": number(a.evaluation_duration_seconds),
        "lastEvaluation": time(a.last_evaluation.as_ref()),
    });
    with_error(&mut out, &a.last_error);
    out
}

fn with_error(out: &mut Value, error: &str) {
    if let Some(fields) = out.as_object_mut().filter(|_| !error.is_empty()) {
        fields.insert("lastError".to_owned(), Value::from(error));
    }
}

fn instance(i: &AlertInstance) -> Value {
    let mut out = json!({
        "labels": labels(i.labels.as_ref()),
        "annotations": labels(i.annotations.as_ref()),
        "state": state(i.state),
        "value": i.value,
        "partialResponseStrategy": strategy(i.partial_response_strategy),
    });
    if let (Some(fields), Some(at)) = (out.as_object_mut(), &i.active_at) {
        fields.insert("activeAt".to_owned(), time(Some(at)));
    }
    out
}

fn state(wire: i32) -> &'static str {
    match AlertState::try_from(wire) {
        Ok(AlertState::Inactive) => "inactive",
        Ok(AlertState::Pending) => "pending",
        Ok(AlertState::Firing) => "firing",
        Ok(AlertState::Unknown) | Err(_) => "unknown",
    }
}
