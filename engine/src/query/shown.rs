//! How stores and links are shown in the state document.

use super::store::{Info, Store, Truth};
use args::state::{self, Conflict, StoreError};
use model::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most label sets per store.
const SHOWN_SETS: usize = 32;
/// Most conflicts per link.
const SHOWN_CONFLICTS: usize = 8;
/// Most clusters and addresses per link.
const SHOWN: usize = 32;

fn pairs(set: &Labels) -> Vec<(String, String)> {
    set.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// A store.
pub(super) fn shown(store: &Store) -> state::Store {
    let truth = store.truth();
    let info = truth.info.as_ref();
    state::Store {
        address: store.place.address.clone(),
        healthy: truth.healthy,
        component: info.map(|i| i.component.clone()).unwrap_or_default(),
        label_sets: info.iter().flat_map(|i| &i.label_sets).take(SHOWN_SETS).map(pairs).collect(),
        min_time_ms: info.map(|i| i.min_time),
        max_time_ms: info.map(|i| i.max_time),
        latency_us: truth.latency.and_then(|l| i64::try_from(l.as_micros()).ok()),
        last_check_ms: truth.last_check_ms,
        error: truth.error,
    }
}

/// A link, with its stores and those that should be there; `owners` says who offers which label set.
pub(super) fn link_state(
    link: &args::links::Link,
    of_entry: &[Arc<Store>],
    unresolved: Option<StoreError>,
    owners: &BTreeMap<Labels, Vec<String>>,
    now: i64,
) -> state::Link {
    let me = format!("link {}/{}", link.namespace, link.name);
    let stores: Vec<(&Arc<Store>, Truth)> = of_entry.iter().map(|s| (s, s.truth())).collect();
    let infos: Vec<&Info> = stores.iter().filter_map(|(_, t)| t.info.as_deref()).collect();
    let mut clusters: Vec<String> = infos.iter().flat_map(|i| &i.clusters).cloned().collect();
    clusters.sort();
    clusters.dedup();
    clusters.truncate(SHOWN);
    let cluster_matches = (!infos.is_empty()).then(|| infos.iter().all(|i| i.clusters.contains(&link.cluster)));
    let mut conflicts = Vec::new();
    for set in infos.iter().flat_map(|i| &i.label_sets) {
        for other in owners.get(set).into_iter().flatten().filter(|o| **o != me) {
            if conflicts.len() < SHOWN_CONFLICTS {
                conflicts.push(Conflict { label_set: pairs(set), with: other.clone() });
            }
        }
    }
    // Blocks end at a known time; live data has to be looked at.
    let newest = stores.iter().filter_map(|(_, t)| {
        let advertised = t.info.as_ref().map(|i| i.max_time).filter(|m| *m < now);
        t.newest_ms.max(advertised)
    });
    let worst = stores.iter().find_map(|(_, t)| t.error.clone());
    state::Link {
        used: stores.iter().any(|(s, _)| s.used()),
        clusters,
        cluster_matches,
        endpoints: stores.iter().take(SHOWN).map(|(s, _)| shown(s)).collect(),
        data_lag_ms: newest.max().map(|n| now.saturating_sub(n).max(0)),
        tls: stores.iter().find_map(|(s, _)| s.connection.tls()),
        consecutive_failures: stores.iter().map(|(_, t)| t.failures).max().unwrap_or(0),
        last_success_ms: stores.iter().filter_map(|(_, t)| t.last_success_ms).max(),
        error: worst.or(unresolved),
        conflicts,
        namespace: link.namespace.clone(),
        name: link.name.clone(),
    }
}
