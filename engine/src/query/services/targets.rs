//! What is scraped in all clusters.

use super::{Answers, Services, instant, of_its_cluster, pairs, strip};
use crate::query::fanout::{Failed, Fanout, Terms, strategy};
use crate::query::gather::{Asking, Message, Part, method};
use crate::query::store::Offer;
use crate::query::warning::Warning;
use crate::server::RECEIVE_MAX;
use crate::storeapi::wire::compare;
use proto::thanos::targets_client::TargetsClient;
use proto::thanos::targets_server::Targets;
use proto::thanos::{ActiveTarget, TargetDiscovery, TargetHealth, TargetsRequest, TargetsResponse, targets_response};
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;
use tonic::{Request, Response, Status};

impl Message for TargetsResponse {
    type Data = TargetDiscovery;
    fn part(self) -> Part<TargetDiscovery> {
        match self.result {
            Some(targets_response::Result::Targets(t)) => Part::Data(t),
            Some(targets_response::Result::Warning(w)) => Part::Warning(w),
            None => Part::Nothing,
        }
    }
}

/// All targets as endpoints have them, and what is missing.
pub(in crate::query) async fn gather(
    fanout: &Fanout,
    request: TargetsRequest,
    terms: &Terms,
) -> Result<(Vec<TargetDiscovery>, Vec<Warning>), Failed> {
    let request = TargetsRequest { partial_response_strategy: strategy(terms.partial).into(), ..request };
    let ask = move |asking: Arc<Asking>| async move {
        let mut client = TargetsClient::new(asking.channel()).max_decoding_message_size(RECEIVE_MAX);
        asking.drain(client.targets(asking.request(request)).await?.into_inner()).await
    };
    let gathered = fanout.gather(Offer::Targets, method("thanos.Targets", "Targets"), terms, ask).await?;
    let found = gathered.found.into_iter().map(|(store, mut t)| {
        t.active_targets.retain(|a| of_its_cluster(&store, a.labels.as_ref()));
        t.dropped_targets.retain(|d| of_its_cluster(&store, d.discovered_labels.as_ref()));
        t
    });
    Ok((found.collect(), gathered.warnings))
}

/// One list, without replicas: of equal targets the one in better health stays, then the one scraped last.
pub(in crate::query) fn merge(all: Vec<TargetDiscovery>, replica: &[String]) -> TargetDiscovery {
    let mut out = TargetDiscovery::default();
    for some in all {
        out.active_targets.extend(some.active_targets);
        out.dropped_targets.extend(some.dropped_targets);
    }
    for t in &mut out.active_targets {
        strip(&mut t.discovered_labels, replica);
        strip(&mut t.labels, replica);
    }
    out.active_targets.sort_by(|a, b| same(a, b).then_with(|| rank(a).cmp(&rank(b))));
    out.active_targets.dedup_by(|b, a| same(a, b) == Ordering::Equal);
    for t in &mut out.dropped_targets {
        strip(&mut t.discovered_labels, replica);
    }
    let order = |a: &proto::thanos::DroppedTarget, b: &proto::thanos::DroppedTarget| {
        compare(pairs(a.discovered_labels.as_ref()), pairs(b.discovered_labels.as_ref()))
    };
    out.dropped_targets.sort_by(order);
    out.dropped_targets.dedup_by(|b, a| order(a, b) == Ordering::Equal);
    out
}

fn same(a: &ActiveTarget, b: &ActiveTarget) -> Ordering {
    (&a.scrape_url, &a.scrape_pool)
        .cmp(&(&b.scrape_url, &b.scrape_pool))
        .then_with(|| compare(pairs(a.discovered_labels.as_ref()), pairs(b.discovered_labels.as_ref())))
        .then_with(|| compare(pairs(a.labels.as_ref()), pairs(b.labels.as_ref())))
}

fn rank(t: &ActiveTarget) -> (u8, Reverse<(i64, i32)>) {
    let health = match t.health() {
        TargetHealth::Up => 0,
        TargetHealth::Down => 1,
        TargetHealth::Unknown => 2,
    };
    (health, Reverse(instant(t.last_scrape.as_ref())))
}

#[tonic::async_trait]
impl Targets for Services {
    type TargetsStream = Answers<TargetsResponse>;
    async fn targets(&self, r: Request<TargetsRequest>) -> Result<Response<Self::TargetsStream>, Status> {
        let strategy = r.get_ref().partial_response_strategy;
        let message = |result| TargetsResponse { result: Some(result) };
        self.pass(
            r,
            strategy,
            gather,
            |t| message(targets_response::Result::Targets(t)),
            |w| message(targets_response::Result::Warning(w)),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Labels;
    use proto::Timestamp;

    #[test]
    fn the_healthy_and_the_younger_of_two_replicas_stays() {
        let target = |url: &str, replica: &str, health: TargetHealth, at| ActiveTarget {
            labels: Some(proto::labels::encode_set(&Labels::from_pairs([("job", "x"), ("replica", replica)]))),
            scrape_url: url.into(),
            health: health.into(),
            last_scrape: Some(Timestamp { seconds: at, nanos: 0 }),
            ..ActiveTarget::default()
        };
        use TargetHealth::{Down, Up};
        let one = vec![target("u", "a", Down, 9), target("v", "a", Up, 5), target("w", "a", Down, 1)];
        let two = vec![target("u", "b", Up, 3), target("v", "b", Up, 6)];
        let all = [one, two].map(|active_targets| TargetDiscovery { active_targets, ..TargetDiscovery::default() });
        let merged = merge(all.into(), &["replica".to_owned()]);
        let shown: Vec<_> = merged
            .active_targets
            .iter()
            .map(|t| (t.scrape_url.as_str(), t.health(), t.last_scrape.unwrap().seconds))
            .collect();
        assert_eq!(shown, [("u", Up, 3), ("v", Up, 6), ("w", Down, 1)]);
    }
}
