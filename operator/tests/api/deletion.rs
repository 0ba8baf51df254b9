//! Deleting a wish removes its children and keeps volumes; an immutable field costs no pod.

use std::collections::BTreeSet;
use std::time::Duration;

use operator::apply::{Applier, Owner};
use operator::desired::Object;
use operator::leader::Fence;
use serde_json::{Value, json};

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn children_go_volumes_stay() {
    let Some(bench) = Bench::start("deletion").await else { return };
    bench.cluster(json!({"storage": {"size": "1Gi"}}));
    bench.until("made", || bench.get("daemonset", "ops-node-exporter")).await;
    // As the StatefulSet's controller makes it.
    bench.apply(
        &json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-ops-prometheus-0", "namespace": "deletion", "labels": {
                "app.kubernetes.io/name": "prometheus", "app.kubernetes.io/instance": "ops",
                "app.kubernetes.io/component": "prometheus",
            }},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        })
        .to_string(),
    );
    bench.condition(("moncl", "ops"), "StorageReady", "False", "PVCPending").await;
    bench.kubectl(&["delete", "moncl", "ops", "--timeout=20s"]);
    bench
        .until("children gone", || {
            let left = bench.kubectl(&[
                "get", "sa,secret,cm,svc,sts,deploy,ds,pdb,clusterrolebinding", "-o", "name",
                "-l", "app.kubernetes.io/managed-by=panoptes-operator,app.kubernetes.io/instance=ops,panoptes.dev/namespace!=other",
            ]);
            let mine = left.lines().filter(|line| !line.contains("clusterrolebinding") || line.contains(":deletion:"));
            let mine: Vec<&str> = mine.collect();
            if !mine.is_empty() {
                eprintln!("left: {mine:?}");
            }
            mine.is_empty().then_some(())
        })
        .await;
    assert!(bench.get("pvc", "data-ops-prometheus-0").is_some());

    // Made again, it finds its volume.
    bench.cluster(json!({"storage": {"size": "1Gi"}}));
    bench.until("made again", || bench.get("statefulset", "ops-prometheus")).await;
}

fn set(service: &str, uid: &str) -> Object {
    Object(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {
            "name": "x-prometheus", "namespace": "immutable",
            "labels": {"app.kubernetes.io/managed-by": "panoptes-operator", "app.kubernetes.io/instance": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": uid, "controller": true}],
        },
        "spec": {
            "replicas": 1, "serviceName": service, "selector": {"matchLabels": {"a": "x"}},
            "template": {"metadata": {"labels": {"a": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_field_keeps_the_pods() {
    let Some(bench) = Bench::start("immutable").await else { return };
    bench.kubectl(&["create", "configmap", "x"]);
    let uid = bench.get("configmap", "x").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let owner = Owner { namespace: "immutable".to_owned(), name: "x".to_owned(), uid: uid.clone() };
    let mut applier = Applier::default();
    let fence = Fence::open();
    let first = applier.run(&bench.client, &fence, &owner, &[set("one", &uid)], &BTreeSet::new()).await;
    assert_eq!((first.faults.len(), first.created.len()), (0, 1), "{first:?}");
    let old = bench.get("statefulset", "x-prometheus").unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x-prometheus-0", "namespace": "immutable", "labels": {"a": "x"}, "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x-prometheus", "uid": old["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }]},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    bench.apply(&pod.to_string());
    let second = applier.run(&bench.client, &fence, &owner, &[set("two", &uid)], &BTreeSet::new()).await;
    assert_eq!(second.recreated, ["StatefulSet/x-prometheus"], "{second:?}");
    let new = bench.get("statefulset", "x-prometheus").unwrap();
    assert_eq!(new["spec"]["serviceName"], json!("two"));
    assert_ne!(new["metadata"]["uid"], old["metadata"]["uid"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pod = bench.get("pod", "x-prometheus-0").expect("the pod outlives its set");
    assert_eq!(pod["metadata"]["deletionTimestamp"], Value::Null);
    assert_eq!(pod["metadata"]["ownerReferences"], Value::Null, "free to be adopted");
    let third = applier.run(&bench.client, &fence, &owner, &[set("two", &uid)], &BTreeSet::new()).await;
    assert!(third.written.is_empty() && third.recreated.is_empty(), "{third:?}");
}
