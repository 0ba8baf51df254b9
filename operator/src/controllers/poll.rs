//! What the parts say about themselves, asked every few seconds; the actor is woken only when it matters.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use args::state::{State, Store};

use crate::desired::hash;
use crate::observe::{PartState, States, fetch};

/// Failures in a row from which a part that answered before counts as silent.
const PATIENCE: u32 = 3;

/// The last answers.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Whom to ask, by pod.
    pub(super) targets: BTreeMap<String, SocketAddr>,
    answers: BTreeMap<String, (PartState, u32)>,
    fingerprint: String,
}

impl Poll {
    /// Asks once; whether something changed that may matter.
    pub(super) async fn round(&mut self) -> bool {
        let fresh = fetch(self.targets.clone()).await;
        self.take(fresh)
    }

    fn take(&mut self, fresh: States) -> bool {
        self.answers.retain(|pod, _| fresh.contains_key(pod));
        for (pod, answer) in fresh {
            let entry = self.answers.entry(pod).or_insert_with(|| (Err("it was not asked yet".to_owned()), PATIENCE));
            match answer {
                Ok(state) => *entry = (Ok(state), 0),
                // One lost answer is no news.
                Err(error) => {
                    entry.1 = entry.1.saturating_add(1);
                    if entry.1 >= PATIENCE {
                        entry.0 = Err(error);
                    }
                }
            }
        }
        let fingerprint = self
            .answers
            .iter()
            .map(|(pod, (state, _))| format!("{pod}={}", mark(state)))
            .collect::<Vec<_>>()
            .join("\n");
        let changed = fingerprint != self.fingerprint;
        self.fingerprint = fingerprint;
        changed
    }

    /// The last answers of these pods.
    pub(super) fn states<'a>(&self, pods: impl Iterator<Item = &'a String>) -> States {
        pods.filter_map(|pod| Some((pod.clone(), self.answers.get(pod)?.0.clone()))).collect()
    }
}

const HOUR: i64 = 3_600_000;

/// A hash of what matters: numbers that always move are left out or made coarse.
fn mark(answer: &PartState) -> String {
    let Ok(state) = answer else { return format!("{:?}", answer.as_ref().err()) };
    let mut calm = State::clone(state);
    if let Some(prometheus) = &mut calm.prometheus {
        prometheus.min_time_ms = None;
    }
    if let Some(bucket) = &mut calm.bucket {
        bucket.checked_at_ms = bucket.checked_at_ms.map(|ms| ms.div_euclid(HOUR));
        bucket.latency_us = None;
    }
    if let Some(upload) = &mut calm.upload {
        // Whether it is too long is what matters.
        let at_risk = upload.at_risk();
        upload.lag_ms = upload.lag_ms.map(|_| i64::from(at_risk));
        upload.uploaded = 0;
    }
    if let Some(blocks) = &mut calm.blocks {
        blocks.last_sync_ms = blocks.last_sync_ms.map(|ms| ms.div_euclid(HOUR));
    }
    if let Some(compaction) = &mut calm.compaction {
        compaction.doing.clear();
        (compaction.passes, compaction.done_bytes, compaction.round_bytes) = (0, 0, 0);
        compaction.round_ends_ms = None;
        compaction.last_pass_ms = compaction.last_pass_ms.map(|ms| ms.div_euclid(HOUR));
    }
    if let Some(endpoints) = &mut calm.endpoints {
        endpoints.stores.clear();
        for link in &mut endpoints.links {
            link.last_success_ms = link.last_success_ms.map(|_| 0);
            link.consecutive_failures = link.consecutive_failures.min(1);
            link.data_lag_ms = link.data_lag_ms.map(coarse);
            if let Some(error) = &mut link.error {
                error.time_ms = 0;
            }
            link.endpoints.iter_mut().for_each(calm_store);
        }
    }
    hash(&serde_json::to_vec(&calm).unwrap_or_default())
}

fn calm_store(store: &mut Store) {
    const BLOCK: i64 = 7_200_000;
    store.latency_us = store.latency_us.map(|us| coarse(us / 1_000));
    store.last_check_ms = None;
    store.min_time_ms = store.min_time_ms.map(|ms| ms.div_euclid(BLOCK));
    store.max_time_ms = store.max_time_ms.map(|ms| ms.div_euclid(BLOCK));
    if let Some(error) = &mut store.error {
        error.time_ms = 0;
    }
}

/// The number's order of magnitude.
fn coarse(number: i64) -> i64 {
    i64::from(64 - number.max(0).leading_zeros()) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::state::{Endpoints, Link};

    fn state(lag: i64, used: bool) -> PartState {
        let link = Link { namespace: "m".into(), name: "prod".into(), used, data_lag_ms: Some(lag), ..Link::default() };
        let endpoints = Endpoints { revision: Some("1".into()), links: vec![link], ..Endpoints::default() };
        Ok(State { format: 1, component: "query".into(), endpoints: Some(endpoints), ..State::default() })
    }

    #[test]
    fn only_what_matters_wakes() {
        let mut poll = Poll::default();
        let one = |state: PartState| BTreeMap::from([("a".to_owned(), state)]);
        assert!(poll.take(one(state(20_000, true))));
        assert!(!poll.take(one(state(28_000, true))));
        assert!(poll.take(one(state(28_000, false))));
        assert!(!poll.take(one(Err("refused".into()))));
        assert!(!poll.take(one(Err("refused".into()))));
        assert!(poll.states(["a".to_owned()].iter())["a"].is_ok(), "two lost answers are no news");
        assert!(poll.take(one(Err("refused".into()))));
        assert!(poll.states(["a".to_owned()].iter())["a"].is_err());
        assert!(poll.take(States::default()), "the pod went");
    }
}
