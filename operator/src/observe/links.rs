//! Which RemoteStore belongs to which MonitoringCluster, and which of two with one cluster name is in use.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::Winner;
use crate::api::{MonitoringCluster, RemoteMode, RemoteStore};

/// Where a RemoteStore belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// To the MonitoringCluster of this name.
    To(String),
    /// Its namespace has none.
    None,
    /// It names one that isn't there.
    Missing(String),
    /// Its namespace has several, and it names none.
    Ambiguous(Vec<String>),
}

/// Decides for one RemoteStore; `clusters` are the names in its namespace.
#[must_use]
pub fn assign(remote: &RemoteStore, clusters: &[String]) -> Assignment {
    match (&remote.spec.monitoring_cluster_ref, clusters) {
        (Some(wanted), _) if clusters.contains(&wanted.name) => Assignment::To(wanted.name.clone()),
        (Some(wanted), _) => Assignment::Missing(wanted.name.clone()),
        (None, []) => Assignment::None,
        (None, [only]) => Assignment::To(only.clone()),
        (None, several) => Assignment::Ambiguous(several.to_vec()),
    }
}

/// The RemoteStores whose cluster name somebody else has first: the cluster itself, or an older RemoteStore. Only one that
/// is in use can hold a name, so that a link can be moved by setting the old one to ProbeOnly.
#[must_use]
pub fn conflicts(cluster: &MonitoringCluster, remotes: &[RemoteStore]) -> BTreeMap<String, Winner> {
    let mut by_age: Vec<&RemoteStore> = remotes.iter().filter(|r| r.spec.mode != RemoteMode::Drained).collect();
    by_age.sort_by_key(|remote| (remote.creation_timestamp().map(|time| time.0), remote.name_any()));
    let mut holders: BTreeMap<&str, Winner> = BTreeMap::new();
    holders.insert(&cluster.spec.cluster_name, Winner::Local);
    let mut losers = BTreeMap::new();
    for remote in by_age {
        let name = remote.spec.cluster_name.as_str();
        let in_use = remote.spec.mode == RemoteMode::Active && remote.metadata.deletion_timestamp.is_none();
        match holders.get(name) {
            Some(Winner::Older(_)) if !in_use => {}
            Some(winner) => {
                losers.insert(remote.name_any(), winner.clone());
            }
            None if in_use => {
                holders.insert(name, Winner::Older(remote.name_any()));
            }
            None => {}
        }
    }
    losers
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn remote(name: &str, cluster: &str, created: &str, mode: &str) -> RemoteStore {
        serde_json::from_value(json!({
            "apiVersion": "panoptes.dev/v1alpha1", "kind": "RemoteStore",
            "metadata": {"name": name, "namespace": "m", "creationTimestamp": created},
            "spec": {"clusterName": cluster, "address": "a:1", "mode": mode},
        }))
        .unwrap()
    }

    #[test]
    fn the_older_one_keeps_the_name() {
        let cluster: MonitoringCluster = serde_json::from_value(json!({
            "apiVersion": "panoptes.dev/v1alpha1", "kind": "MonitoringCluster",
            "metadata": {"name": "ops", "namespace": "m"}, "spec": {"clusterName": "ops"},
        }))
        .unwrap();
        let found = conflicts(
            &cluster,
            &[
                remote("a", "prod", "2026-11-22T10:00:02Z", "Active"),
                remote("b", "prod", "2026-11-22T10:00:01Z", "Active"),
                remote("f", "prod", "2026-11-22T10:00:00Z", "ProbeOnly"),
                remote("g", "prod", "2026-11-22T10:00:04Z", "ProbeOnly"),
                remote("c", "ops", "2026-11-22T10:00:00Z", "Active"),
                remote("d", "staging", "2026-11-22T10:00:00Z", "Drained"),
                remote("e", "staging", "2026-11-22T10:00:03Z", "Active"),
            ],
        );
        let wanted = BTreeMap::from([("a".into(), Winner::Older("b".into())), ("c".into(), Winner::Local)]);
        assert_eq!(found, wanted, "one that is only probed holds no name, and takes none away");
        let mut going = remote("h", "prod", "2026-11-22T09:00:00Z", "Active");
        going.metadata.deletion_timestamp.clone_from(&going.metadata.creation_timestamp);
        let found = conflicts(&cluster, &[going, remote("a", "prod", "2026-11-22T10:00:02Z", "Active")]);
        assert_eq!(found, BTreeMap::new(), "nor one that is being deleted");
    }

    #[test]
    fn assignment() {
        let plain = remote("a", "prod", "2026-11-22T10:00:00Z", "Active");
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(assign(&plain, &[]), Assignment::None);
        assert_eq!(assign(&plain, &names(&["x"])), Assignment::To("x".into()));
        assert_eq!(assign(&plain, &names(&["x", "y"])), Assignment::Ambiguous(names(&["x", "y"])));
        let mut named = plain;
        named.spec.monitoring_cluster_ref = Some(crate::api::LocalRef { name: "y".into() });
        assert_eq!(assign(&named, &names(&["x", "y"])), Assignment::To("y".into()));
        assert_eq!(assign(&named, &names(&["x"])), Assignment::Missing("y".into()));
    }
}
