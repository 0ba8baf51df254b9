//! What the databases of all clusters hold.

use super::{Answers, Services};
use crate::query::fanout::{Failed, Fanout, Terms, strategy};
use crate::query::gather::{Asking, Message, Part, method};
use crate::query::store::Offer;
use crate::query::warning::Warning;
use crate::server::RECEIVE_MAX;
use proto::thanos::status_client::StatusClient;
use proto::thanos::status_server::Status as StatusService;
use proto::thanos::{
    HeadStatistics, Statistic, TsdbStatistics, TsdbStatisticsEntry, TsdbStatisticsRequest, TsdbStatisticsResponse,
    tsdb_statistics_response as response,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

impl Message for TsdbStatisticsResponse {
    type Data = TsdbStatistics;
    fn part(self) -> Part<TsdbStatistics> {
        match self.result {
            Some(response::Result::Statistics(s)) => Part::Data(s),
            Some(response::Result::Warning(w)) => Part::Warning(w),
            None => Part::Nothing,
        }
    }
}

/// The statistics of each endpoint, and what is missing.
pub(in crate::query) async fn gather(
    fanout: &Fanout,
    request: TsdbStatisticsRequest,
    terms: &Terms,
) -> Result<(Vec<TsdbStatistics>, Vec<Warning>), Failed> {
    let request = TsdbStatisticsRequest { partial_response_strategy: strategy(terms.partial).into(), ..request };
    let ask = move |asking: Arc<Asking>| {
        let mut request = request.clone();
        request.matchers.extend(asking.store.guard().iter().flat_map(|g| proto::matchers::encode([g])));
        async move {
            let mut client = StatusClient::new(asking.channel()).max_decoding_message_size(RECEIVE_MAX);
            asking.drain(client.tsdb_statistics(asking.request(request)).await?.into_inner()).await
        }
    };
    let gathered = fanout.gather(Offer::Status, method("thanos.Status", "TSDBStatistics"), terms, ask).await?;
    Ok((gathered.found.into_iter().map(|(_, s)| s).collect(), gathered.warnings))
}

/// All tenants together; each list descends by value and has at most `limit` entries. Counts are added up; the values of one
/// label are much the same everywhere, so of their numbers the greatest counts.
pub(in crate::query) fn merge(all: Vec<TsdbStatistics>, limit: usize) -> TsdbStatisticsEntry {
    let mut head = HeadStatistics::default();
    let mut lists: [BTreeMap<String, u64>; 4] = Default::default();
    let mut lowest: Option<i64> = None;
    for entry in all.into_iter().flat_map(|s| s.statistics.into_values()) {
        if let Some(h) = &entry.head_statistics {
            head.num_series = head.num_series.saturating_add(h.num_series);
            head.num_label_pairs = head.num_label_pairs.saturating_add(h.num_label_pairs);
            head.chunk_count = head.chunk_count.saturating_add(h.chunk_count);
            // 0 is "not known".
            lowest = [lowest, Some(h.min_time).filter(|t| *t > 0)].into_iter().flatten().min();
            head.max_time = head.max_time.max(h.max_time);
        }
        let of_entry = [
            entry.series_count_by_metric_name,
            entry.label_value_count_by_label_name,
            entry.memory_in_bytes_by_label_name,
            entry.series_count_by_label_value_pair,
        ];
        for (index, (list, of_entry)) in lists.iter_mut().zip(of_entry).enumerate() {
            for Statistic { name, value } in of_entry {
                let known = list.entry(name).or_default();
                *known = if index == 1 { (*known).max(value) } else { known.saturating_add(value) };
            }
        }
    }
    head.min_time = lowest.unwrap_or(0);
    let [metrics, values, memory, pairs] = lists.map(|list| {
        let mut all: Vec<Statistic> = list.into_iter().map(|(name, value)| Statistic { name, value }).collect();
        all.sort_by(|a, b| b.value.cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
        all.truncate(limit);
        all
    });
    TsdbStatisticsEntry {
        head_statistics: Some(head),
        series_count_by_metric_name: metrics,
        label_value_count_by_label_name: values,
        memory_in_bytes_by_label_name: memory,
        series_count_by_label_value_pair: pairs,
    }
}

#[tonic::async_trait]
impl StatusService for Services {
    type TSDBStatisticsStream = Answers<TsdbStatisticsResponse>;
    async fn tsdb_statistics(
        &self,
        r: Request<TsdbStatisticsRequest>,
    ) -> Result<Response<Self::TSDBStatisticsStream>, Status> {
        let strategy = r.get_ref().partial_response_strategy;
        let message = |result| TsdbStatisticsResponse { result: Some(result) };
        self.pass(
            r,
            strategy,
            gather,
            |s| message(response::Result::Statistics(s)),
            |w| message(response::Result::Warning(w)),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_added_up() {
        let count = |name: &str, value| Statistic { name: name.into(), value };
        let of = |tenant: &str, n: u64, min_time, list: Vec<Statistic>| TsdbStatistics {
            statistics: [(
                tenant.to_owned(),
                TsdbStatisticsEntry {
                    head_statistics: Some(HeadStatistics {
                        num_series: n,
                        min_time,
                        max_time: 50,
                        ..Default::default()
                    }),
                    series_count_by_metric_name: list.clone(),
                    label_value_count_by_label_name: list,
                    ..Default::default()
                },
            )]
            .into(),
        };
        let all =
            vec![of("", 3, 0, vec![count("a", 1), count("b", 5)]), of("t", 4, 20, vec![count("a", 7), count("c", 2)])];
        let merged = merge(all, 2);
        let head = merged.head_statistics.unwrap();
        assert_eq!((head.num_series, head.min_time, head.max_time), (7, 20, 50));
        assert_eq!(merged.series_count_by_metric_name, [count("a", 8), count("b", 5)]);
        assert_eq!(merged.label_value_count_by_label_name, [count("a", 7), count("b", 5)]);
    }
}
