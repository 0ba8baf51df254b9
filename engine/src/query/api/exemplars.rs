//! `query_exemplars`.

use super::error::ApiError;
use super::metadata::gated;
use super::params::{MAX_TIME, MIN_TIME, Params, invalid};
use super::{Api, json as write, success, values};
use crate::query::services::exemplars;
use crate::query::warning::distinct;
use crate::storeapi;
use axum::extract::{Request, State};
use axum::response::Response;
use proto::thanos::ExemplarsRequest;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn exemplars(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let (start, end) = (p.time("start")?.unwrap_or(MIN_TIME), p.time("end")?.unwrap_or(MAX_TIME));
    if end < start {
        return Err(invalid("end", "end timestamp must not be before start time"));
    }
    let query = p.get("query").unwrap_or_default().to_owned();
    storeapi::exemplars::selectors(&query).map_err(|e| invalid("query", e.message()))?;
    let (timeout, terms) = api.service_terms(&p, api.args.exemplar_partial_response.0)?;
    let request = ExemplarsRequest { query, start, end, ..ExemplarsRequest::default() };
    let work = exemplars::gather(api.evaluator.fanout(), request, &terms);
    let (found, warnings) = gated(&api, timeout, work).await?;
    let merged = exemplars::merge(found, &api.replica_labels(&p)?);
    let data = merged.iter().map(|d| {
        let exemplars = d.exemplars.iter().map(|e| {
            let mut value = String::new();
            write::float(&mut value, e.value);
            json!({
                "labels": values::labels(e.labels.as_ref()),
                "value": value.trim_matches('"'),
                "timestamp": values::number(e.ts as f64 / 1000.0),
            })
        });
        json!({
            "seriesLabels": values::labels(d.series_labels.as_ref()),
            "exemplars": exemplars.collect::<Vec<Value>>(),
        })
    });
    Ok(success(&Value::Array(data.collect()).to_string(), &distinct(warnings), &[]))
}
