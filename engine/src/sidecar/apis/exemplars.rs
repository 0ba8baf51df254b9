//! Exemplars.

use super::json::{Set, list};
use super::{Asked, with_warnings};
use crate::sidecar::prometheus::time_parameter;
use crate::storeapi::{exemplars, external};
use model::Matcher;
use proto::thanos::{Exemplar, ExemplarData, ExemplarsRequest, ExemplarsResponse, exemplars_response};
use serde::Deserialize;
use tonic::Status;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    series_labels: Set,
    #[serde(default, deserialize_with = "list")]
    exemplars: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    #[serde(default)]
    labels: Set,
    value: String,
    timestamp: f64,
}

pub(super) async fn read(asked: Asked<'_>, r: ExemplarsRequest) -> Result<Vec<ExemplarsResponse>, Status> {
    let external = &asked.seen.external;
    // Prometheus does not know its own external labels.
    let narrowed = exemplars::selectors(&r.query)?.into_iter().filter_map(|s| external::narrow(external, s));
    let selectors: Vec<Vec<Matcher>> = narrowed.collect();
    if selectors.is_empty() {
        return Ok(Vec::new());
    }
    if selectors.iter().any(|s| s.iter().all(Matcher::matches_empty)) {
        return Err(Status::invalid_argument(
            "no matchers specified (excluding external labels): give at least one on another label",
        ));
    }
    let query = exemplars::query(&selectors);
    let (start, end) = (time_parameter(r.start), time_parameter(r.end));
    let mut parameters = vec![("query", query.as_str())];
    parameters.extend(start.as_deref().map(|t| ("start", t)));
    parameters.extend(end.as_deref().map(|t| ("end", t)));
    let answer = asked.prometheus.read_form::<Option<Vec<Data>>>("query_exemplars", &parameters).await?;
    let response = |result| ExemplarsResponse { result: Some(result) };
    let (found, mut out) =
        with_warnings(answer, |w| ExemplarsResponse { result: Some(exemplars_response::Result::Warning(w)) });
    for data in found.into_iter().flatten() {
        let exemplars = data.exemplars.into_iter().map(exemplar).collect::<Result<_, _>>()?;
        let data = ExemplarData { series_labels: data.series_labels.under(external), exemplars };
        out.push(response(exemplars_response::Result::Data(data)));
    }
    Ok(out)
}

fn exemplar(one: One) -> Result<Exemplar, Status> {
    let value = one.value.parse().map_err(|e| {
        Status::internal(format!("Prometheus's answer makes no sense: the exemplar's value {:?}: {e}", one.value))
    })?;
    let ts = (one.timestamp * 1000.0).round() as i64;
    Ok(Exemplar { labels: one.labels.encode(), value, ts })
}
