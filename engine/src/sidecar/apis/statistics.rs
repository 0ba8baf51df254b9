//! What the head of the database holds.

use super::json::list;
use super::{Asked, with_warnings};
use crate::storeapi::request;
use proto::thanos::{
    HeadStatistics, Statistic, TsdbStatistics, TsdbStatisticsEntry, TsdbStatisticsRequest, TsdbStatisticsResponse,
    tsdb_statistics_response as response,
};
use serde::Deserialize;
use tonic::Status;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    head_stats: Head,
    #[serde(default, deserialize_with = "list")]
    series_count_by_metric_name: Vec<Count>,
    #[serde(default, deserialize_with = "list")]
    label_value_count_by_label_name: Vec<Count>,
    #[serde(default, deserialize_with = "list")]
    memory_in_bytes_by_label_name: Vec<Count>,
    #[serde(default, deserialize_with = "list")]
    series_count_by_label_value_pair: Vec<Count>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Head {
    num_series: u64,
    num_label_pairs: i64,
    chunk_count: i64,
    min_time: i64,
    max_time: i64,
}

#[derive(Deserialize)]
struct Count {
    name: String,
    value: u64,
}

pub(super) async fn read(asked: Asked<'_>, r: TsdbStatisticsRequest) -> Result<Vec<TsdbStatisticsResponse>, Status> {
    let matchers = request::matchers(&r.matchers)?;
    // There is one tenant, and it has no name.
    if !r.tenant.is_empty() || matchers.iter().any(|m| !m.matches(asked.seen.external.value(&m.name))) {
        return Ok(Vec::new());
    }
    let path = if r.limit > 0 { format!("status/tsdb?limit={}", r.limit) } else { "status/tsdb".to_owned() };
    let answer = asked.prometheus.read::<Found>(&path).await?;
    let (found, mut out) =
        with_warnings(answer, |w| TsdbStatisticsResponse { result: Some(response::Result::Warning(w)) });
    let counts = |all: Vec<Count>| all.into_iter().map(|c| Statistic { name: c.name, value: c.value }).collect();
    let head = found.head_stats;
    let entry = TsdbStatisticsEntry {
        head_statistics: Some(HeadStatistics {
            num_series: head.num_series,
            num_label_pairs: head.num_label_pairs,
            chunk_count: head.chunk_count,
            min_time: head.min_time,
            max_time: head.max_time,
        }),
        series_count_by_metric_name: counts(found.series_count_by_metric_name),
        label_value_count_by_label_name: counts(found.label_value_count_by_label_name),
        memory_in_bytes_by_label_name: counts(found.memory_in_bytes_by_label_name),
        series_count_by_label_value_pair: counts(found.series_count_by_label_value_pair),
    };
    let statistics = TsdbStatistics { statistics: [(String::new(), entry)].into() };
    out.push(TsdbStatisticsResponse { result: Some(response::Result::Statistics(statistics)) });
    Ok(out)
}
