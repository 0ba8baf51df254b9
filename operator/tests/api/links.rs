//! RemoteStores: status from what queriers say, and two with one cluster.

use std::time::Duration;

use args::state::{ErrorClass, Link, Store, StoreError, Tls};
use serde_json::{Value, json};

use crate::bench::{Bench, condition, querier};

const PROD: (&str, &str) = ("rstore", "prod");

impl Bench {
    pub(crate) fn remote(&self, name: &str, spec: Value) {
        let mut object = json!({
            "apiVersion": "panoptes.dev/v1alpha1", "kind": "RemoteStore",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"clusterName": name, "address": "10.77.2.2:30901"},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        self.apply(&object.to_string());
    }

    pub(crate) fn good(&self, name: &str) -> Link {
        Link {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            used: true,
            clusters: vec![name.to_owned()],
            cluster_matches: Some(true),
            endpoints: vec![Store {
                address: "10.77.2.2:30901".to_owned(),
                healthy: true,
                component: "query".to_owned(),
                label_sets: vec![vec![("cluster".to_owned(), name.to_owned())]],
                min_time_ms: Some(1_700_000_000_000),
                max_time_ms: Some(i64::MAX),
                latency_us: Some(38_400),
                ..Store::default()
            }],
            data_lag_ms: Some(17_000),
            last_success_ms: Some(1_700_000_100_000),
            ..Link::default()
        }
    }

    fn bad(&self, name: &str, class: ErrorClass, message: &str) -> Link {
        let error = StoreError { class, message: message.to_owned(), time_ms: 1_700_000_200_000 };
        let mut link = self.good(name);
        link.used = false;
        link.cluster_matches = None;
        link.data_lag_ms = None;
        link.consecutive_failures = 5;
        link.endpoints[0].healthy = false;
        link.endpoints[0].error = Some(error.clone());
        link.error = Some(error);
        link
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_what_queriers_see() {
    let Some(bench) = Bench::start("links").await else { return };
    bench.remote("prod", json!({}));
    let message = bench.condition(PROD, "Accepted", "False", "NoMonitoringCluster").await;
    assert!(message.contains("links"), "{message}");

    bench.cluster(json!({}));
    bench.condition(PROD, "Accepted", "True", "Accepted").await;
    bench.all_ready(vec![bench.good("prod")]).await;
    bench.condition(PROD, "Ready", "True", "Ready").await;
    let object = bench.get("rstore", "prod").unwrap();
    let status = &object["status"];
    assert_eq!(status["phase"], json!("Healthy"));
    assert_eq!(status["queriers"], json!("1/1"));
    assert_eq!(status["latency"]["p50"], json!("38ms"));
    assert_eq!(status["dataLag"], json!("15s"));
    assert_eq!(status["labelSets"], json!([{"cluster": "prod"}]));
    assert_eq!(status["endpoints"][0]["state"], json!("Healthy"));
    assert_eq!(condition(&object, "TLSValid").unwrap()["reason"], json!("Plaintext"));
    assert!(condition(&object, "Warning").is_some(), "plaintext is told");
    bench.condition(("moncl", "ops"), "RemoteStoresReady", "True", "AllReady").await;
    bench
        .until("the column", || (bench.get("moncl", "ops")?["status"]["summary"]["remotes"] == "1/1").then_some(()))
        .await;

    // Down, hanging, another protocol, another cluster, certificates.
    let revision = bench.revision();
    for (class, about, reason) in [
        (ErrorClass::Connect, "Reachable", "ConnectRefused"),
        (ErrorClass::Timeout, "Reachable", "ConnectTimeout"),
        (ErrorClass::NotHttp2, "Reachable", "NotHTTP2"),
        (ErrorClass::Dns, "Resolved", "NXDomain"),
        (ErrorClass::UnknownCa, "Reachable", "Unreachable"),
    ] {
        bench.says("ops-query-0", querier(&revision, vec![bench.bad("prod", class, "10.77.2.2:30901: no luck")])).await;
        let message = bench.condition(PROD, about, "False", reason).await;
        assert!(message.contains("no luck"), "{message}");
        bench.condition(PROD, "Ready", "False", reason).await;
    }
    let object = bench.get("rstore", "prod").unwrap();
    assert_eq!(object["status"]["phase"], json!("Unreachable"));
    assert_eq!(object["status"]["lastError"]["class"], json!("TLSHandshake"));
    bench.condition(("moncl", "ops"), "RemoteStoresReady", "False", "OptionalDown").await;
    bench.condition(("moncl", "ops"), "Ready", "True", "Ready").await;

    let mut other = bench.good("prod");
    (other.used, other.cluster_matches, other.clusters) = (false, Some(false), vec!["staging".to_owned()]);
    bench.says("ops-query-0", querier(&revision, vec![other])).await;
    let message = bench.condition(PROD, "ClusterMatches", "False", "WrongCluster").await;
    assert!(message.contains("staging") && message.contains("prod"), "{message}");

    // An old revision is not the current truth.
    bench.says("ops-query-0", querier("older", vec![bench.good("prod")])).await;
    bench.condition(PROD, "Synced", "False", "QuerierNotUpdated").await;

    bench.remote("prod", json!({"mode": "Drained"}));
    bench.condition(PROD, "Drained", "True", "DrainedBySpec").await;
    bench
        .until("events", || {
            let events = bench.kubectl(&["get", "events"]);
            (events.contains("RemoteStoreUp") && events.contains("RemoteStoreDown")).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_with_one_cluster() {
    let Some(bench) = Bench::start("twins").await else { return };
    bench.cluster(json!({}));
    bench.remote("prod", json!({}));
    bench.condition(PROD, "LabelsUnique", "True", "Unique").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.remote("again", json!({"clusterName": "prod", "address": "10.77.9.9:30901"}));
    let message = bench.condition(("rstore", "again"), "LabelsUnique", "False", "DuplicateOf").await;
    assert!(message.contains("RemoteStore prod"), "{message}");
    bench.condition(("rstore", "again"), "Ready", "False", "DuplicateOf").await;
    assert_eq!(
        bench.get("rstore", "again").unwrap()["status"]["conflicts"],
        json!([{"labelSet": "{cluster=\"prod\"}", "kind": "RemoteStore", "namespace": "twins", "name": "prod"}])
    );
    let links = bench.links().unwrap().links;
    let rejected: Vec<_> = links.iter().filter(|link| link.rejected.is_some()).map(|link| link.name.as_str()).collect();
    assert_eq!(rejected, ["again"]);
    assert_eq!(condition(&bench.get("rstore", "prod").unwrap(), "LabelsUnique").unwrap()["status"], json!("True"));
    bench.condition(("moncl", "ops"), "RemoteStoresReady", "False", "LabelConflict").await;

    bench.remote("self", json!({"clusterName": "ops"}));
    bench.condition(("rstore", "self"), "LabelsUnique", "False", "OverlapsLocal").await;
    bench.kubectl(&["delete", "rstore", "prod"]);
    bench.condition(("rstore", "again"), "LabelsUnique", "True", "Unique").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates() {
    let Some(bench) = Bench::start("certificates").await else { return };
    bench.cluster(json!({}));
    bench.remote("prod", json!({"tls": {"caSecretRef": {"name": "prod-ca"}}}));
    let message = bench.condition(PROD, "Accepted", "False", "SecretMissing").await;
    assert!(message.contains("prod-ca"), "{message}");
    let ca = testkit::certs::Authority::new("prod").unwrap();
    bench.apply(
        &json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prod-ca", "namespace": "certificates"},
            "stringData": {"ca.crt": ca.cert()},
        })
        .to_string(),
    );
    bench.condition(PROD, "Accepted", "True", "Accepted").await;
    let mut link = bench.good("prod");
    let soon = jiff::Timestamp::now().as_millisecond() + 5 * 86_400_000;
    link.tls = Some(Tls {
        protocol: "1.3".to_owned(),
        peer_subject: "CN=prod".to_owned(),
        server_not_after_ms: Some(soon),
        client_not_after_ms: None,
    });
    bench.all_ready(vec![link]).await;
    bench.condition(PROD, "TLSValid", "False", "ExpiringSoon").await;
    bench.condition(PROD, "Ready", "True", "Ready").await;
    assert_eq!(bench.get("rstore", "prod").unwrap()["status"]["tls"]["protocol"], json!("TLS 1.3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_link_is_told_once() {
    let Some(bench) = Bench::with("lagging", true, crate::bench::OPERATOR, Duration::from_secs(1)).await else {
        return;
    };
    bench.cluster(json!({}));
    bench.remote("prod", json!({}));
    let revision = bench.until("the links", || Some(bench.links()?.revision)).await;
    let late = |lag: i64| {
        let mut link = bench.good("prod");
        link.data_lag_ms = Some(lag);
        link.last_success_ms = link.last_success_ms.map(|ms| ms + lag);
        vec![link]
    };
    bench.all_ready(late(300_000)).await;
    let revision = bench.links().map_or(revision, |links| links.revision);
    bench.condition(PROD, "Fresh", "False", "Lagging").await;
    bench.condition(("moncl", "ops"), "Ready", "True", "Ready").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let versions = || {
        ["moncl/ops", "rstore/prod"].map(|path| {
            let (kind, name) = path.split_once('/').unwrap();
            bench.get(kind, name).unwrap()["metadata"]["resourceVersion"].clone()
        })
    };
    let before = versions();
    // Several resyncs, while the numbers move all the time.
    for step in 0..12 {
        bench.says("ops-query-0", querier(&revision, late(300_000 + step * 20_000))).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(versions(), before);

    // A wish that can't be carried out takes nothing from the links.
    bench.says("ops-query-0", querier(&revision, vec![bench.good("prod")])).await;
    bench.condition(PROD, "Ready", "True", "Ready").await;
    bench.cluster(json!({"scrape": {"interval": "10s", "timeout": "15s"}}));
    bench.condition(("moncl", "ops"), "Stalled", "True", "InvalidSpec").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let object = bench.get("rstore", "prod").unwrap();
    for about in ["Ready", "Synced", "Reachable"] {
        assert_eq!(condition(&object, about).unwrap()["status"], json!("True"), "{about}");
    }
    assert!(condition(&object, "TLSValid").is_some());
}
