//! Rules and alerts.

use super::json::{Set, list, time};
use super::{Asked, with_warnings};
use model::Labels;
use proto::Timestamp;
use proto::thanos::rules_request::Type;
use proto::thanos::{
    Alert, AlertInstance, AlertState, PartialResponseStrategy, RecordingRule, RuleGroup, RulesRequest, RulesResponse,
    rule, rules_response,
};
use serde::Deserialize;
use tonic::Status;

#[derive(Deserialize)]
struct Found {
    #[serde(default, deserialize_with = "list")]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    file: String,
    #[serde(default, deserialize_with = "list")]
    rules: Vec<Rule>,
    #[serde(default)]
    interval: f64,
    #[serde(default)]
    limit: i64,
    #[serde(default)]
    evaluation_time: f64,
    #[serde(default, deserialize_with = "time")]
    last_evaluation: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Rule {
    Recording(Recording),
    Alerting(Alerting),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recording {
    name: String,
    query: String,
    #[serde(default)]
    labels: Set,
    #[serde(default)]
    health: String,
    #[serde(default)]
    last_error: String,
    #[serde(default)]
    evaluation_time: f64,
    #[serde(default, deserialize_with = "time")]
    last_evaluation: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alerting {
    name: String,
    query: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    duration: f64,
    #[serde(default)]
    keep_firing_for: f64,
    #[serde(default)]
    labels: Set,
    #[serde(default)]
    annotations: Set,
    #[serde(default, deserialize_with = "list")]
    alerts: Vec<Instance>,
    #[serde(default)]
    health: String,
    #[serde(default)]
    last_error: String,
    #[serde(default)]
    evaluation_time: f64,
    #[serde(default, deserialize_with = "time")]
    last_evaluation: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    #[serde(default)]
    labels: Set,
    #[serde(default)]
    annotations: Set,
    #[serde(default)]
    state: String,
    #[serde(default, deserialize_with = "time")]
    active_at: Option<Timestamp>,
    #[serde(default)]
    value: String,
}

pub(super) async fn read(asked: Asked<'_>, r: RulesRequest) -> Result<Vec<RulesResponse>, Status> {
    let path = match r.r#type() {
        Type::All => "rules",
        Type::Alert => "rules?type=alert",
        Type::Record => "rules?type=record",
    };
    let answer = asked.prometheus.read::<Found>(path).await?;
    let response = |result| RulesResponse { result: Some(result) };
    let (found, mut out) =
        with_warnings(answer, |w| RulesResponse { result: Some(rules_response::Result::Warning(w)) });
    let groups = found.groups.into_iter().map(|g| group(g, &asked.seen.external));
    out.extend(groups.map(|g| response(rules_response::Result::Group(g))));
    Ok(out)
}

fn group(g: Group, external: &Labels) -> RuleGroup {
    RuleGroup {
        name: g.name,
        file: g.file,
        rules: g.rules.into_iter().map(|r| proto::thanos::Rule { result: Some(rule(r, external)) }).collect(),
        interval: g.interval,
        evaluation_duration_seconds: g.evaluation_time,
        last_evaluation: g.last_evaluation,
        // As Thanos's sidecar says it of Prometheus.
        partial_response_strategy: PartialResponseStrategy::Abort.into(),
        limit: g.limit,
    }
}

fn rule(r: Rule, external: &Labels) -> rule::Result {
    match r {
        Rule::Recording(r) => rule::Result::Recording(RecordingRule {
            name: r.name,
            query: r.query,
            labels: r.labels.under(external),
            health: r.health,
            last_error: r.last_error,
            evaluation_duration_seconds: r.evaluation_time,
            last_evaluation: r.last_evaluation,
        }),
        Rule::Alerting(a) => rule::Result::Alert(Alert {
            state: state(&a.state).into(),
            name: a.name,
            query: a.query,
            duration_seconds: a.duration,
            labels: a.labels.under(external),
            annotations: a.annotations.encode(),
            alerts: a.alerts.into_iter().map(instance).collect(),
            health: a.health,
            last_error: a.last_error,
            evaluation_duration_seconds: a.evaluation_time,
            last_evaluation: a.last_evaluation,
            keep_firing_for_seconds: a.keep_firing_for,
        }),
    }
}

fn instance(i: Instance) -> AlertInstance {
    AlertInstance {
        labels: i.labels.encode(),
        annotations: i.annotations.encode(),
        state: state(&i.state).into(),
        active_at: i.active_at,
        value: i.value,
        ..AlertInstance::default()
    }
}

fn state(text: &str) -> AlertState {
    match text {
        "inactive" => AlertState::Inactive,
        "pending" => AlertState::Pending,
        "firing" => AlertState::Firing,
        _ => AlertState::Unknown,
    }
}
