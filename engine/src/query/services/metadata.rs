//! Type, help and unit of the metrics of all clusters.

use super::{Answers, Services};
use crate::query::fanout::{Failed, Fanout, Terms, strategy};
use crate::query::gather::{Asking, Message, Part, method};
use crate::query::store::Offer;
use crate::query::warning::Warning;
use crate::server::RECEIVE_MAX;
use proto::thanos::metadata_client::MetadataClient;
use proto::thanos::metadata_server::Metadata;
use proto::thanos::{
    Meta, MetricMetadata, MetricMetadataRequest, MetricMetadataResponse, metric_metadata_response as response,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

impl Message for MetricMetadataResponse {
    type Data = MetricMetadata;
    fn part(self) -> Part<MetricMetadata> {
        match self.result {
            Some(response::Result::Metadata(m)) => Part::Data(m),
            Some(response::Result::Warning(w)) => Part::Warning(w),
            None => Part::Nothing,
        }
    }
}

/// All metadata as endpoints have it, and what is missing.
pub(in crate::query) async fn gather(
    fanout: &Fanout,
    request: MetricMetadataRequest,
    terms: &Terms,
) -> Result<(Vec<MetricMetadata>, Vec<Warning>), Failed> {
    let request = MetricMetadataRequest { partial_response_strategy: strategy(terms.partial).into(), ..request };
    let ask = move |asking: Arc<Asking>| {
        let request = request.clone();
        async move {
            let mut client = MetadataClient::new(asking.channel()).max_decoding_message_size(RECEIVE_MAX);
            asking.drain(client.metric_metadata(asking.request(request)).await?.into_inner()).await
        }
    };
    let method = method("thanos.Metadata", "MetricMetadata");
    let gathered = fanout.gather(Offer::Metadata, method, terms, ask).await?;
    Ok((gathered.found.into_iter().map(|(_, m)| m).collect(), gathered.warnings))
}

/// One map, each entry of a metric once, in the order of the endpoints; at most `limit` metrics, the first by name.
pub(in crate::query) fn merge(all: Vec<MetricMetadata>, limit: Option<usize>) -> BTreeMap<String, Vec<Meta>> {
    let mut out: BTreeMap<String, Vec<Meta>> = BTreeMap::new();
    for (metric, entry) in all.into_iter().flat_map(|m| m.metadata) {
        let known = out.entry(metric).or_default();
        for meta in entry.metas {
            if !known.contains(&meta) {
                known.push(meta);
            }
        }
    }
    while limit.is_some_and(|limit| out.len() > limit) {
        out.pop_last();
    }
    out
}

#[tonic::async_trait]
impl Metadata for Services {
    type MetricMetadataStream = Answers<MetricMetadataResponse>;
    async fn metric_metadata(
        &self,
        r: Request<MetricMetadataRequest>,
    ) -> Result<Response<Self::MetricMetadataStream>, Status> {
        let strategy = r.get_ref().partial_response_strategy;
        let message = |result| MetricMetadataResponse { result: Some(result) };
        self.pass(
            r,
            strategy,
            gather,
            |m| message(response::Result::Metadata(m)),
            |w| message(response::Result::Warning(w)),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::thanos::MetricMetadataEntry;

    #[test]
    fn equal_entries_are_kept_once() {
        let meta = |help: &str| Meta { r#type: "counter".into(), help: help.into(), unit: String::new() };
        let of = |metric: &str, helps: &[&str]| MetricMetadata {
            metadata: [(metric.to_owned(), MetricMetadataEntry { metas: helps.iter().map(|h| meta(h)).collect() })]
                .into(),
        };
        let all = || vec![of("b", &["x"]), of("a", &["y"]), of("b", &["x", "z"])];
        let merged = merge(all(), None);
        assert_eq!(merged["b"], [meta("x"), meta("z")]);
        assert_eq!(merge(all(), Some(1)).into_keys().collect::<Vec<_>>(), ["a"]);
        assert!(merge(all(), Some(0)).is_empty());
    }
}
