//! The store gateway: its part of the status, and the bucket of another cluster.

use args::state::{Blocks, Bucket, BucketError, BucketErrorClass, Link, SkipReason, SkippedBlock, State};
use operator::desired::hash;
use serde_json::{Value, json};

use crate::bench::{Bench, condition, decode, sidecar, store};

const OPS: (&str, &str) = ("moncl", "ops");
const DR: (&str, &str) = ("rstore", "dr");

/// A bucket that a part has verified, configured by this Secret of ours.
pub(crate) fn verified(bench: &Bench, secret: &str) -> Bucket {
    let secret = bench.get("secret", secret).expect("the rendered file");
    Bucket {
        name: "gcs long-term".to_owned(),
        configuration: Some(hash(decode(secret["data"]["objstore.yml"].as_str().expect("text")).as_bytes())),
        checked_at_ms: Some(1_795_000_000_000),
        ..Bucket::default()
    }
}

pub(crate) fn denied(bucket: Bucket, right: &str) -> Bucket {
    let error = BucketError {
        class: BucketErrorClass::Denied,
        message: "403 does not have access.".to_owned(),
        missing_right: Some(right.to_owned()),
        since_ms: 1_795_000_000_000,
    };
    Bucket { error: Some(error), ..bucket }
}

fn blocks(loaded: u64) -> Blocks {
    Blocks {
        loaded,
        expected: loaded,
        min_time_ms: Some(1_700_000_000_000),
        max_time_ms: Some(1_700_010_000_000),
        source: "listing".to_owned(),
        last_sync_ms: Some(1_795_000_000_000),
        ..Blocks::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_gateway_says_is_told() {
    let Some(bench) = Bench::start("history").await else { return };
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term"}}}));
    bench.until("the store gateway", || bench.get("statefulset", "ops-store")).await;
    bench.condition(OPS, "Available", "False", "PrometheusDown").await;
    bench.condition(OPS, "HistoryReady", "Unknown", "Pending").await;
    bench.all_ready(vec![]).await;
    let config = bench.wanted().await;
    let bucket = verified(&bench, "ops-objstore");
    bench.says("ops-prometheus-0", State { bucket: Some(bucket.clone()), ..sidecar(&config, None) }).await;
    // Every part that uses the bucket is asked.
    bench.condition(OPS, "ObjectStorageReady", "Unknown", "NotVerified").await;
    bench.says("ops-store-0", store(bucket.clone(), blocks(7))).await;
    bench.condition(OPS, "ObjectStorageReady", "True", "Verified").await;
    bench.condition(OPS, "HistoryReady", "True", "AllBlocksServed").await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    let status = bench.get("moncl", "ops").unwrap()["status"].clone();
    assert_eq!(status["objectStorage"]["verified"], json!("2/2"));
    assert_eq!(status["history"]["synced"], json!("1/1"));
    assert_eq!((&status["history"]["blocks"], &status["history"]["missing"]), (&json!(7), &json!(0)));
    assert_eq!(status["history"]["minTime"], json!("2023-11-14T22:00:00Z"));
    let names: Vec<&Value> = status["components"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert!(names.contains(&&json!("store")), "{names:?}");

    // A damaged block is named, and costs that block.
    let mut damaged = blocks(6);
    (damaged.expected, damaged.missing) = (7, 1);
    let (block, message) = ("01HXAMPLE".to_owned(), "its index is cut off".to_owned());
    damaged.missing_blocks.push(SkippedBlock { block, reason: SkipReason::Damaged, message });
    bench.says("ops-store-0", store(bucket.clone(), damaged)).await;
    let message = bench.condition(OPS, "HistoryReady", "False", "BlocksMissing").await;
    assert!(message.contains("ops-store-0") && message.contains("01HXAMPLE: its index is cut off"), "{message}");
    bench.condition(OPS, "Ready", "True", "Ready").await;

    let failing =
        Blocks { failing_since_ms: Some(1_000), error: Some("listing is answered with 503".to_owned()), ..blocks(7) };
    bench.says("ops-store-0", store(bucket.clone(), failing)).await;
    bench.condition(OPS, "HistoryReady", "False", "SyncFailing").await;
    bench.condition(OPS, "Ready", "False", "SyncFailing").await;

    // What its own check of the bucket finds is told as that of every part.
    bench.says("ops-store-0", store(denied(bucket.clone(), "storage.objects.list"), blocks(7))).await;
    let message = bench.condition(OPS, "ObjectStorageReady", "False", "AccessDenied").await;
    assert!(message.contains("ops-store-0") && message.contains("storage.objects.list"), "{message}");
    bench.says("ops-store-0", store(bucket.clone(), blocks(7))).await;
    bench.condition(OPS, "Ready", "True", "Ready").await;

    // A second replica rolls out: that is told as long as it goes on.
    let rolling = json!({"status": {"updatedReplicas": 0}}).to_string();
    bench.kubectl(&["patch", "statefulset", "ops-store", "--subresource=status", "--type=merge", "-p", &rolling]);
    bench.condition(OPS, "Reconciling", "True", "RollingOut").await;
    bench.condition(OPS, "Ready", "False", "RollingOut").await;
    bench.settled("statefulset", "ops-store");
    bench.condition(OPS, "Ready", "True", "Ready").await;

    // It is lost with its node: nobody answers for it any more, and the bucket is not why.
    bench.silent("ops-store-0");
    bench.kubectl(&["delete", "pod", "ops-store-0", "--grace-period=0", "--force"]);
    let lost = json!({"status": {"readyReplicas": 0, "replicas": 0, "updatedReplicas": 0}}).to_string();
    bench.kubectl(&["patch", "statefulset", "ops-store", "--subresource=status", "--type=merge", "-p", &lost]);
    bench.condition(OPS, "Available", "False", "StoreDown").await;
    bench.condition(OPS, "Ready", "False", "RollingOut").await;
    bench.settled("statefulset", "ops-store");
    bench.pod("ops-store-0", "store");
    bench.says("ops-store-0", store(bucket.clone(), blocks(7))).await;
    bench.condition(OPS, "Ready", "True", "Ready").await;

    // None is ready: that is told, unless the bucket is why.
    let down = json!({"status": {"readyReplicas": 0}}).to_string();
    bench.kubectl(&["patch", "statefulset", "ops-store", "--subresource=status", "--type=merge", "-p", &down]);
    bench.condition(OPS, "Available", "False", "StoreDown").await;
    bench.says("ops-store-0", store(denied(bucket, "storage.objects.list"), Blocks::default())).await;
    bench.condition(OPS, "Ready", "False", "AccessDenied").await;
    let message = bench.condition(OPS, "Available", "True", "AllAvailable").await;
    assert!(message.contains("store waits for the bucket"), "{message}");

    // Switched off, everything of it goes.
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term"}}, "storeGateway": {"enabled": false}}));
    bench.until("gone", || bench.get("statefulset", "ops-store").is_none().then_some(())).await;
    bench
        .until("untold", || {
            let object = bench.get("moncl", "ops")?;
            let silent = condition(&object, "HistoryReady").is_none() && object["status"]["history"].is_null();
            silent.then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_bucket() {
    let Some(bench) = Bench::start("bucketref").await else { return };
    bench.cluster(json!({}));
    let secret = |content: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader", "namespace": bench.namespace},
            "stringData": {"objstore.yml": content},
        })
        .to_string()
    };
    let bucket = json!({"secretRef": {"name": "reader", "key": "objstore.yml"}});
    bench.remote("dr", json!({"address": null, "bucketRef": bucket}));
    let message = bench.condition(DR, "Accepted", "False", "SecretMissing").await;
    assert!(message.contains("reader"), "{message}");
    assert!(bench.get("statefulset", "ops-remote-dr").is_none());

    bench.apply(&secret("type: S3\nconfig: {bucket: dr, endpoint: s3.example}\n"));
    bench.until("its store gateway", || bench.get("statefulset", "ops-remote-dr")).await;
    bench.condition(DR, "Accepted", "True", "Accepted").await;
    bench.all_ready(vec![]).await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    let links = bench.links().unwrap();
    assert_eq!(links.links[0].address, "dnssrv+_grpc._tcp.ops-remote-dr-headless.bucketref.svc");

    // What keeps it from serving is told in its own words, not as a name without addresses.
    bench.pod("ops-remote-dr-0", "remote-dr");
    let own = verified(&bench, "ops-remote-dr-objstore");
    bench.says("ops-remote-dr-0", store(denied(own.clone(), "s3:GetObject"), Blocks::default())).await;
    let message = bench.condition(DR, "Reachable", "False", "AccessDenied").await;
    assert!(message.contains("ops-remote-dr-0") && message.contains("s3:GetObject"), "{message}");
    bench.condition(DR, "Ready", "False", "AccessDenied").await;
    bench.condition(OPS, "Ready", "True", "Ready").await;

    bench.settled("statefulset", "ops-remote-dr");
    bench.says("ops-remote-dr-0", store(own, blocks(3))).await;
    let late = Link { data_lag_ms: Some(3 * 3_600_000), ..bench.good("dr") };
    bench.says("ops-query-0", crate::bench::querier(&bench.revision(), vec![late.clone()])).await;
    bench.condition(DR, "Ready", "True", "Ready").await;
    bench.condition(DR, "HistoryReady", "True", "AllBlocksServed").await;
    bench.condition(DR, "Fresh", "True", "UpToDate").await;
    let object = bench.get("rstore", "dr").unwrap();
    assert!(condition(&object, "TLSValid").is_none() && condition(&object, "Warning").is_none());
    let components = bench.get("moncl", "ops").unwrap()["status"]["components"].to_string();
    assert!(!components.contains("remote-dr"), "{components}");
    let old = Link { data_lag_ms: Some(5 * 3_600_000), ..late };
    bench.says("ops-query-0", crate::bench::querier(&bench.revision(), vec![old])).await;
    let message = bench.condition(DR, "Fresh", "False", "Lagging").await;
    assert!(message.contains("4h"), "{message}");

    // A mistake in the object costs the link, not what its store gateway has fetched.
    let uid = |kind, name| bench.get(kind, name).map(|object| object["metadata"]["uid"].clone());
    let before = (uid("statefulset", "ops-remote-dr"), uid("secret", "ops-remote-dr-objstore"));
    bench.remote("dr", json!({"address": null, "bucketRef": bucket, "probe": {"interval": "10s", "timeout": "20s"}}));
    bench.condition(DR, "Accepted", "False", "InvalidSpec").await;
    bench.until("unused", || bench.links().unwrap().links.is_empty().then_some(())).await;
    // What is not wanted goes within one look at the world, of which there are several.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!((uid("statefulset", "ops-remote-dr"), uid("secret", "ops-remote-dr-objstore")), before);

    bench.kubectl(&["delete", "rstore", "dr"]);
    bench
        .until("all of it is gone", || {
            let left = ["statefulset", "serviceaccount"].iter().any(|kind| bench.get(kind, "ops-remote-dr").is_some());
            let more = bench.get("service", "ops-remote-dr-headless").is_some()
                || bench.get("secret", "ops-remote-dr-objstore").is_some();
            (!left && !more).then_some(())
        })
        .await;
}

/// Claims that only share the object's name, as other releases and other tools label theirs.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_others_are_not_ours() {
    let Some(bench) = Bench::start("claims").await else { return };
    let claim = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": bench.namespace, "labels": labels},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        })
        .to_string()
    };
    let labels = |name: &str, component: &str| {
        json!({
            "app.kubernetes.io/name": name, "app.kubernetes.io/instance": "ops",
            "app.kubernetes.io/component": component,
        })
    };
    bench.apply(&claim("bucket", labels("panoptes", "storage")));
    bench.apply(&claim("ops-grafana", labels("grafana", "store")));
    bench.apply(&claim("data-ops-prometheus-server-0", labels("prometheus", "prometheus")));
    bench.cluster(json!({"objectStorage": {"filesystem": {"volumeClaimName": "bucket"}}}));
    bench.until("the store gateway", || bench.get("statefulset", "ops-store")).await;
    bench.condition(OPS, "StorageReady", "True", "NotUsed").await;

    // The claim of a cache counts, and what helps is said; that of a link is told with the link.
    let cache = |component: &str, set: &str| {
        let mut labels = labels("panoptes", component);
        labels["panoptes.dev/shard"] = json!("0");
        claim(&format!("data-{set}-0"), labels)
    };
    bench.apply(&cache("remote-dr", "ops-remote-dr"));
    bench.apply(&cache("store", "ops-store"));
    let message = bench.condition(OPS, "StorageReady", "False", "PVCPending").await;
    assert!(
        message.contains("data-ops-store-0 (1 of 1)") && message.contains("spec.storeGateway.cache.storageClassName"),
        "{message}"
    );
}

/// The shards' selectors, and the names that queriers miss when nobody is behind them.
fn shards(bench: &Bench) -> Option<(Vec<String>, String)> {
    let sets = bench.list("statefulsets");
    let mut selectors = Vec::new();
    for set in sets.iter().filter(|set| set["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("ops-store"))) {
        let args = set.pointer("/spec/template/spec/containers/0/args")?.as_array()?;
        let selector = args.iter().find_map(|arg| arg.as_str()?.strip_prefix("--selector.relabel-config="));
        selectors.push(selector.unwrap_or_default().to_owned());
    }
    let secrets = bench.list("secrets");
    let endpoints = secrets.iter().find_map(|secret| secret.pointer("/data/endpoints.yaml")?.as_str())?;
    Some((selectors, decode(endpoints)))
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_change_without_a_hole() {
    let Some(bench) = Bench::start("shards").await else { return };
    let apply = |shards: i32| {
        let storage = json!({"gcs": {"bucket": "long-term"}});
        bench.cluster(json!({"objectStorage": storage, "storeGateway": {"shards": shards}}));
    };
    let names = |count: usize| (0..count).map(|n| format!("ops-store-shard-{n}-api")).collect::<Vec<_>>();
    let (two, three) = ("\"modulus\":2", "\"modulus\":3");
    apply(2);
    let (selectors, endpoints) =
        bench.until("two shards", || shards(&bench).filter(|(selectors, _)| selectors.len() == 2)).await;
    assert!(selectors.iter().all(|s| s.contains(two)) && names(2).iter().all(|n| endpoints.contains(n)), "{endpoints}");
    for service in names(2) {
        bench.until("its Service", || bench.get("service", &service)).await;
    }
    bench.settled("statefulset", "ops-store");
    bench.settled("statefulset", "ops-store-shard-1");

    apply(3);
    let (selectors, endpoints) =
        bench.until("a third shard", || shards(&bench).filter(|(selectors, _)| selectors.len() == 3)).await;
    let both = |s: &&String| s.contains(two) && s.contains(three);
    assert_eq!(selectors.iter().filter(both).count(), 2, "{selectors:?}");
    assert!(!endpoints.contains("ops-store-shard-2-api"), "nobody needs it yet: {endpoints}");
    // Nothing is given up before all have what they are to have.
    bench.settled("statefulset", "ops-store");
    bench.settled("statefulset", "ops-store-shard-2");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let (selectors, _) = shards(&bench).expect("shards");
    assert_eq!(selectors.iter().filter(both).count(), 2, "{selectors:?}");
    bench.settled("statefulset", "ops-store-shard-1");
    let narrow = |(selectors, _): &(Vec<String>, String)| selectors.iter().all(|s| !s.contains(two));
    bench.until("each to have its own blocks", || shards(&bench).filter(narrow)).await;
    bench.until("three names", || shards(&bench).filter(|(_, e)| names(3).iter().all(|n| e.contains(n)))).await;

    apply(1);
    let all = |s: &&String| s.contains("\"modulus\":1") && s.contains(three);
    let takes_all = |(selectors, _): &(Vec<String>, String)| selectors.iter().filter(all).count() == 1;
    let (selectors, _) = bench.until("the first to take all", || shards(&bench).filter(takes_all)).await;
    assert_eq!(selectors.len(), 3, "the others stay until it has: {selectors:?}");
    bench.settled("statefulset", "ops-store");
    bench.until("the end of the others", || shards(&bench).filter(|(selectors, _)| selectors.len() == 1)).await;
    bench.until("one name", || shards(&bench).filter(|(_, e)| e.contains("ops-store-headless"))).await;
}
