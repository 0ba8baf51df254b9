//! Objects appear, are owned, and a second look writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;

const KINDS: &str = "serviceaccount,secret,configmap,service,statefulset,deployment,daemonset,poddisruptionbudget";

fn versions(bench: &Bench) -> BTreeMap<String, String> {
    let ours = |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "panoptes-operator";
    bench
        .list(KINDS)
        .into_iter()
        .filter(ours)
        .map(|object| {
            let name = format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            (name, object["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_made_once() {
    let Some(bench) = Bench::start("objects").await else { return };
    bench.cluster(json!({"prometheus": {"replicas": 2}, "querier": {"replicas": 2}, "storage": {"size": "1Gi"}}));
    bench.until("the last object", || bench.get("daemonset", "ops-node-exporter")).await;
    for (kind, name) in [
        ("statefulset", "ops-prometheus"),
        ("deployment", "ops-query"),
        ("deployment", "ops-kube-state-metrics"),
        ("service", "ops-store-api"),
        ("service", "ops-prometheus-headless"),
        ("secret", "ops-prometheus-config-0"),
        ("secret", "ops-query-endpoints-0"),
        ("poddisruptionbudget", "ops-prometheus"),
        ("serviceaccount", "ops-prometheus"),
    ] {
        let object = bench.get(kind, name).unwrap_or_else(|| panic!("{kind} {name} is missing"));
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["name"]), (&json!("MonitoringCluster"), &json!("ops")), "{kind} {name}");
        assert_eq!(owner["controller"], json!(true));
    }
    let binding = bench.get("clusterrolebinding", "panoptes:objects:ops:prometheus").expect("the binding");
    assert_eq!(binding["metadata"]["labels"]["panoptes.dev/namespace"], json!("objects"));
    bench.condition(("moncl", "ops"), "Ready", "False", "Creating").await;

    // A second reconciliation, by a new wish that changes nothing, and a new operator's first one, write nothing.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, writes) = (versions(&bench), bench.writes());
    bench.kubectl(&["annotate", "moncl", "ops", "example.test/look=again"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(versions(&bench), before);
    assert_eq!(bench.writes(), writes, "no write, not even one without effect");
    let status = bench.get("moncl", "ops").unwrap()["metadata"]["resourceVersion"].clone();
    let other = Bench::start("objects").await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(versions(&bench), before);
    assert_eq!(bench.get("moncl", "ops").unwrap()["metadata"]["resourceVersion"], status);
    drop(other);

    // What somebody else changes is set back; what nobody wants any more goes.
    bench.kubectl(&["scale", "deployment", "ops-query", "--replicas=5"]);
    bench.until("set back", || (bench.get("deployment", "ops-query")?["spec"]["replicas"] == 2).then_some(())).await;
    bench.until("the event", || bench.kubectl(&["get", "events"]).contains("DriftCorrected").then_some(())).await;
    bench.cluster(json!({"prometheus": {"replicas": 1}, "nodeExporter": {"enabled": false}}));
    bench
        .until("pruned", || {
            let gone = bench.get("daemonset", "ops-node-exporter").is_none()
                && bench.get("poddisruptionbudget", "ops-prometheus").is_none();
            gone.then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_left_alone() {
    let Some(bench) = Bench::start("stranger").await else { return };
    bench.kubectl(&["create", "secret", "generic", "ops-query-endpoints-0", "--from-literal=mine=1"]);
    bench.cluster(json!({}));
    let message = bench.condition(("moncl", "ops"), "Stalled", "True", "FieldConflict").await;
    assert!(message.contains("ops-query-endpoints-0"), "{message}");
    let secret = bench.get("secret", "ops-query-endpoints-0").unwrap();
    assert_eq!(secret["data"], json!({"mine": "MQ=="}));
    assert!(bench.get("statefulset", "ops-prometheus").is_some(), "the rest goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_writes_nothing() {
    let Some(bench) = Bench::start("paused").await else { return };
    bench.cluster(json!({"paused": true}));
    bench.condition(("moncl", "ops"), "Paused", "True", "PausedBySpec").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(versions(&bench).is_empty());
    bench.cluster(json!({"paused": false}));
    bench.until("made", || bench.get("statefulset", "ops-prometheus")).await;
}

impl Bench {
    /// Writes that the operator counted, beside statuses.
    fn writes(&self) -> u64 {
        ["apply", "delete", "recreate", "mark"]
            .iter()
            .map(|action| self.context.metrics.writes.get_or_create(&operator::controllers::Write { action }).get())
            .sum()
    }
}
