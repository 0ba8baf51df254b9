//! Type, help and unit of metrics.

use super::super::prometheus::parameters_of;
use super::{Asked, parts, with_warnings};
use proto::thanos::{
    Meta, MetricMetadata, MetricMetadataEntry, MetricMetadataRequest, MetricMetadataResponse,
    metric_metadata_response as response,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use tonic::Status;

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    help: String,
    #[serde(default)]
    unit: String,
}

pub(super) async fn read(asked: Asked<'_>, r: MetricMetadataRequest) -> Result<Vec<MetricMetadataResponse>, Status> {
    let limit = r.limit.to_string();
    let mut parameters = Vec::new();
    if !r.metric.is_empty() {
        parameters.push(("metric", r.metric.as_str()));
    }
    if r.limit >= 0 {
        parameters.push(("limit", limit.as_str()));
    }
    let path = format!("metadata?{}", parameters_of(&parameters));
    let answer = asked.prometheus.read::<BTreeMap<String, Vec<Entry>>>(&path).await?;
    let message = |result| MetricMetadataResponse { result: Some(result) };
    let (found, mut out) =
        with_warnings(answer, |w| MetricMetadataResponse { result: Some(response::Result::Warning(w)) });
    // One map of each metric is only for its size.
    let all = found.into_iter().map(|(metric, entries)| {
        let metas = entries.into_iter().map(|e| Meta { r#type: e.r#type, help: e.help, unit: e.unit }).collect();
        MetricMetadata { metadata: [(metric, MetricMetadataEntry { metas })].into() }
    });
    out.extend(parts(all.collect()).into_iter().map(|part| {
        let metadata = part.into_iter().flat_map(|m| m.metadata).collect();
        message(response::Result::Metadata(MetricMetadata { metadata }))
    }));
    Ok(out)
}
