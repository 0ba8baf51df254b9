//! `targets`.

use super::error::ApiError;
use super::metadata::gated;
use super::params::Params;
use super::values::{labels, number, time};
use super::{Api, success};
use crate::query::services::targets;
use crate::query::warning::distinct;
use axum::extract::{Request, State};
use axum::response::Response;
use proto::thanos::targets_request::State as Wanted;
use proto::thanos::{TargetHealth, TargetsRequest};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn targets(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let state = p.word("state", &[("any", Wanted::Any), ("active", Wanted::Active), ("dropped", Wanted::Dropped)])?;
    let (timeout, terms) = api.service_terms(&p, api.args.target_partial_response.0)?;
    let request = TargetsRequest { state: state.into(), ..TargetsRequest::default() };
    let work = targets::gather(api.evaluator.fanout(), request, &terms);
    let (found, warnings) = gated(&api, timeout, work).await?;
    let found = targets::merge(found, &api.replica_labels(&p)?);
    let active = found.active_targets.iter().map(|t| {
        json!({
            "discoveredLabels": labels(t.discovered_labels.as_ref()),
            "labels": labels(t.labels.as_ref()),
            "scrapePool": t.scrape_pool,
            "scrapeUrl": t.scrape_url,
            "globalUrl": t.global_url,
            "lastError": t.last_error,
            "lastScrape": time(t.last_scrape.as_ref()),
            "lastScrapeDuration": number(t.last_scrape_duration),
            "health": match t.health() {
                TargetHealth::Up => "up",
                TargetHealth::Down => "down",
                TargetHealth::Unknown => "unknown",
            },
        })
    });
    let dropped =
        found.dropped_targets.iter().map(|t| json!({ "discoveredLabels": labels(t.discovered_labels.as_ref()) }));
    let data = json!({
        "activeTargets": active.collect::<Vec<Value>>(),
        "droppedTargets": dropped.collect::<Vec<Value>>(),
    });
    Ok(success(&data.to_string(), &distinct(warnings), &[]))
}
