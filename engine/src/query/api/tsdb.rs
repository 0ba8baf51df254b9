//! `metadata` and `status/tsdb`.

use super::error::ApiError;
use super::metadata::gated;
use super::params::{Params, invalid};
use super::{Api, success};
use crate::query::services::{metadata, statistics};
use crate::query::warning::distinct;
use axum::extract::{Request, State};
use axum::response::Response;
use model::labels::Quoted;
use proto::thanos::{MetricMetadataRequest, Statistic, TsdbStatisticsRequest};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Entries per list of statistics, where a request does not say.
const ENTRIES: i32 = 10;

fn limit(p: &Params, default: i32) -> Result<i32, ApiError> {
    match p.get("limit") {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| invalid("limit", &format!("{} is no number that can be a limit", Quoted(text))))
        }
    }
}

pub(super) async fn metric_metadata(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let (timeout, terms) = api.service_terms(&p, api.args.metadata_partial_response.0)?;
    let limit = limit(&p, -1)?;
    let metric = p.get("metric").unwrap_or_default().to_owned();
    let request = MetricMetadataRequest { metric, limit, ..MetricMetadataRequest::default() };
    let work = metadata::gather(api.evaluator.fanout(), request, &terms);
    let (found, warnings) = gated(&api, timeout, work).await?;
    let all = metadata::merge(found, usize::try_from(limit).ok()).into_iter().map(|(metric, metas)| {
        let metas = metas.into_iter().map(|m| json!({ "type": m.r#type, "help": m.help, "unit": m.unit }));
        (metric, Value::Array(metas.collect()))
    });
    let data = Value::Object(all.collect::<Map<_, _>>());
    Ok(success(&data.to_string(), &distinct(warnings), &[]))
}

pub(super) async fn status(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let p = Params::read(request).await?;
    let (timeout, terms) = api.service_terms(&p, api.args.status_partial_response.0)?;
    let limit = Some(limit(&p, ENTRIES)?).filter(|n| *n > 0).unwrap_or(ENTRIES);
    let mut matchers = Vec::new();
    for text in p.all("match[]") {
        let parsed = promql::parse::parse_metric_selector(text).map_err(|e| invalid("match[]", &e.to_string()))?;
        matchers.extend(proto::matchers::encode(&parsed));
    }
    let request = TsdbStatisticsRequest { limit, matchers, ..TsdbStatisticsRequest::default() };
    let work = statistics::gather(api.evaluator.fanout(), request, &terms);
    let (found, warnings) = gated(&api, timeout, work).await?;
    let merged = statistics::merge(found, usize::try_from(limit).unwrap_or(0));
    let head = merged.head_statistics.unwrap_or_default();
    let list =
        |all: &[Statistic]| -> Value { all.iter().map(|s| json!({ "name": s.name, "value": s.value })).collect() };
    let data = json!({
        "headStats": {
            "numSeries": head.num_series,
            "numLabelPairs": head.num_label_pairs,
            "chunkCount": head.chunk_count,
            "minTime": head.min_time,
            "maxTime": head.max_time,
        },
        "seriesCountByMetricName": list(&merged.series_count_by_metric_name),
        "labelValueCountByLabelName": list(&merged.label_value_count_by_label_name),
        "memoryInBytesByLabelName": list(&merged.memory_in_bytes_by_label_name),
        "seriesCountByLabelValuePair": list(&merged.series_count_by_label_value_pair),
    });
    Ok(success(&data.to_string(), &distinct(warnings), &[]))
}
