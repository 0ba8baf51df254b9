//! What is scraped.

use super::json::{Set, list, time};
use super::{Asked, parts, with_warnings};
use proto::Timestamp;
use proto::thanos::targets_request::State;
use proto::thanos::{
    ActiveTarget, DroppedTarget, TargetDiscovery, TargetHealth, TargetsRequest, TargetsResponse, targets_response,
};
use serde::Deserialize;
use tonic::Status;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    #[serde(default, deserialize_with = "list")]
    active_targets: Vec<Active>,
    #[serde(default, deserialize_with = "list")]
    dropped_targets: Vec<Dropped>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Active {
    #[serde(default)]
    discovered_labels: Set,
    #[serde(default)]
    labels: Set,
    #[serde(default)]
    scrape_pool: String,
    #[serde(default)]
    scrape_url: String,
    #[serde(default)]
    global_url: String,
    #[serde(default)]
    last_error: String,
    #[serde(default, deserialize_with = "time")]
    last_scrape: Option<Timestamp>,
    #[serde(default)]
    last_scrape_duration: f64,
    #[serde(default)]
    health: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dropped {
    #[serde(default)]
    discovered_labels: Set,
}

pub(super) async fn read(asked: Asked<'_>, r: TargetsRequest) -> Result<Vec<TargetsResponse>, Status> {
    let path = match r.state() {
        State::Any => "targets",
        State::Active => "targets?state=active",
        State::Dropped => "targets?state=dropped",
    };
    let answer = asked.prometheus.read::<Found>(path).await?;
    let response = |result| TargetsResponse { result: Some(result) };
    let (found, mut out) =
        with_warnings(answer, |w| TargetsResponse { result: Some(targets_response::Result::Warning(w)) });
    let external = &asked.seen.external;
    let active = found.active_targets.into_iter().map(|t| ActiveTarget {
        discovered_labels: t.discovered_labels.under(external),
        labels: t.labels.under(external),
        scrape_pool: t.scrape_pool,
        scrape_url: t.scrape_url,
        global_url: t.global_url,
        last_error: t.last_error,
        last_scrape: t.last_scrape,
        last_scrape_duration: t.last_scrape_duration,
        health: match t.health.as_str() {
            "up" => TargetHealth::Up,
            "down" => TargetHealth::Down,
            _ => TargetHealth::Unknown,
        }
        .into(),
    });
    let dropped = found.dropped_targets.into_iter();
    let dropped = dropped.map(|t| DroppedTarget { discovered_labels: t.discovered_labels.under(external) });
    for active_targets in parts(active.collect()) {
        let some = TargetDiscovery { active_targets, ..TargetDiscovery::default() };
        out.push(response(targets_response::Result::Targets(some)));
    }
    for dropped_targets in parts(dropped.collect()) {
        let some = TargetDiscovery { dropped_targets, ..TargetDiscovery::default() };
        out.push(response(targets_response::Result::Targets(some)));
    }
    Ok(out)
}
