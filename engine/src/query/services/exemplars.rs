//! Exemplars of all clusters.

use super::{Answers, Services, of_its_cluster, pairs, strip};
use crate::query::fanout::{Failed, Fanout, Terms, strategy};
use crate::query::gather::{Asking, Message, Part, Said, method};
use crate::query::store::{Offer, Store, agrees};
use crate::query::warning::Warning;
use crate::server::RECEIVE_MAX;
use crate::storeapi::exemplars;
use crate::storeapi::wire::compare;
use model::Matcher;
use proto::thanos::exemplars_client::ExemplarsClient;
use proto::thanos::exemplars_server::Exemplars;
use proto::thanos::{Exemplar, ExemplarData, ExemplarsRequest, ExemplarsResponse, exemplars_response};
use std::cmp::Ordering;
use std::sync::Arc;
use tonic::{Request, Response, Status};

impl Message for ExemplarsResponse {
    type Data = ExemplarData;
    fn part(self) -> Part<ExemplarData> {
        match self.result {
            Some(exemplars_response::Result::Data(d)) => Part::Data(d),
            Some(exemplars_response::Result::Warning(w)) => Part::Warning(w),
            None => Part::Nothing,
        }
    }
}

/// All exemplars as endpoints have them, and what is missing. Each endpoint is asked for the selectors that it can match.
pub(in crate::query) async fn gather(
    fanout: &Fanout,
    request: ExemplarsRequest,
    terms: &Terms,
) -> Result<(Vec<ExemplarData>, Vec<Warning>), Failed> {
    let selectors = Arc::new(exemplars::selectors(&request.query).map_err(|e| Failed(e.message().to_owned()))?);
    let strategy = strategy(terms.partial).into();
    let ask = move |asking: Arc<Asking>| {
        let (selectors, start, end) = (Arc::clone(&selectors), request.start, request.end);
        async move {
            let mine = for_store(&asking.store, &selectors);
            if mine.is_empty() {
                return Ok(Said::default());
            }
            let request =
                ExemplarsRequest { query: exemplars::query(&mine), start, end, partial_response_strategy: strategy };
            let mut client = ExemplarsClient::new(asking.channel()).max_decoding_message_size(RECEIVE_MAX);
            asking.drain(client.exemplars(asking.request(request)).await?.into_inner()).await
        }
    };
    let gathered = fanout.gather(Offer::Exemplars, method("thanos.Exemplars", "Exemplars"), terms, ask).await?;
    let found = gathered.found.into_iter().filter(|(store, d)| of_its_cluster(store, d.series_labels.as_ref()));
    Ok((found.map(|(_, d)| d).collect(), gathered.warnings))
}

/// The selectors that can match in a store. A Prometheus does not know its own external labels, a querier knows all.
fn for_store(store: &Store, selectors: &[Vec<Matcher>]) -> Vec<Vec<Matcher>> {
    let Some(info) = store.truth().info else { return Vec::new() };
    let sets = &info.label_sets;
    let external = |m: &Matcher| sets.iter().any(|s| s.get(&m.name).is_some());
    let can = selectors.iter().filter(|s| sets.is_empty() || sets.iter().any(|set| agrees(set, s)));
    can.map(|s| match info.querier {
        true => store.guarded(s),
        false => s.iter().filter(|m| !external(m)).cloned().collect(),
    })
    .collect()
}

/// One list by series labels, without replica labels; equal exemplars once, by time.
pub(in crate::query) fn merge(mut all: Vec<ExemplarData>, replica: &[String]) -> Vec<ExemplarData> {
    all.retain(|d| !d.exemplars.is_empty());
    for d in &mut all {
        strip(&mut d.series_labels, replica);
    }
    all.sort_by(|a, b| compare(pairs(a.series_labels.as_ref()), pairs(b.series_labels.as_ref())));
    let mut merged: Vec<ExemplarData> = Vec::new();
    for d in all {
        match merged.last_mut() {
            Some(last) if pairs(last.series_labels.as_ref()) == pairs(d.series_labels.as_ref()) => {
                last.exemplars.extend(d.exemplars);
            }
            _ => merged.push(d),
        }
    }
    for d in &mut merged {
        d.exemplars.sort_by(order);
        d.exemplars.dedup_by(|b, a| order(a, b) == Ordering::Equal);
    }
    merged
}

fn order(a: &Exemplar, b: &Exemplar) -> Ordering {
    let labels = || compare(pairs(a.labels.as_ref()), pairs(b.labels.as_ref()));
    a.ts.cmp(&b.ts).then_with(labels).then_with(|| a.value.total_cmp(&b.value))
}

#[tonic::async_trait]
impl Exemplars for Services {
    type ExemplarsStream = Answers<ExemplarsResponse>;
    async fn exemplars(&self, r: Request<ExemplarsRequest>) -> Result<Response<Self::ExemplarsStream>, Status> {
        // A broken query is the caller's fault, not a store's.
        exemplars::selectors(&r.get_ref().query)?;
        let strategy = r.get_ref().partial_response_strategy;
        let message = |result| ExemplarsResponse { result: Some(result) };
        self.pass(
            r,
            strategy,
            gather,
            |d| message(exemplars_response::Result::Data(d)),
            |w| message(exemplars_response::Result::Warning(w)),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Labels;

    #[test]
    fn replicas_and_equal_exemplars_become_one() {
        let set = |pairs: &[(&str, &str)]| Some(proto::labels::encode_set(&Labels::from_pairs(pairs.iter().copied())));
        let one = |ts, id: &str| Exemplar { labels: set(&[("trace_id", id)]), value: 1.0, ts };
        let data = |replica: &str, exemplars| ExemplarData {
            series_labels: set(&[("__name__", "x"), ("replica", replica)]),
            exemplars,
        };
        let all = vec![
            data("b", vec![one(20, "q"), one(10, "p")]),
            data("a", vec![one(10, "p"), one(15, "r")]),
            data("c", vec![]),
        ];
        let merged = merge(all, &["replica".to_owned()]);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].exemplars.iter().map(|e| e.ts).collect::<Vec<_>>(), [10, 15, 20]);
    }
}
