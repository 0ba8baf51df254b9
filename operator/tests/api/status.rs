//! Conditions from workloads, pods and what the parts say.

use std::time::Duration;

use serde_json::json;

use crate::bench::{Bench, condition, sidecar};

const OPS: (&str, &str) = ("moncl", "ops");

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_ready_and_a_refused_configuration() {
    let Some(bench) = Bench::start("status").await else { return };
    bench.cluster(json!({}));
    bench.condition(OPS, "ConfigurationApplied", "False", "WaitingForReload").await;
    bench.condition(OPS, "Available", "False", "PrometheusDown").await;
    bench.all_ready(vec![]).await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    let object = bench.get("moncl", "ops").unwrap();
    let status = &object["status"];
    assert_eq!(status["observedGeneration"], object["metadata"]["generation"]);
    assert_eq!(status["phase"], json!("Healthy"));
    assert_eq!(status["summary"]["prometheus"], json!("1/1"));
    assert_eq!(status["addresses"]["query"], json!("http://ops-query.status.svc:10902"));
    assert!(condition(&object, "Reconciling").is_none() && condition(&object, "Stalled").is_none());
    assert_eq!(condition(&object, "ObjectStorageReady").unwrap()["reason"], json!("NotConfigured"));
    let first = bench.wanted().await;
    bench
        .until("last good", || {
            (bench.get("moncl", "ops")?.pointer("/status/configuration/lastGoodHash")? == &json!(first)).then_some(())
        })
        .await;
    let pod = bench.get("pod", "ops-prometheus-0").unwrap();
    let mark = pod["metadata"]["annotations"]["panoptes.dev/files"].clone();
    assert!(mark.is_string());

    // A new configuration: the pod is touched so that the kubelet syncs it, and its refusal is told.
    let since = condition(&object, "Ready").unwrap()["lastTransitionTime"].clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.cluster(json!({"scrape": {"interval": "7s", "timeout": "7s"}}));
    bench.condition(OPS, "ConfigurationApplied", "False", "WaitingForReload").await;
    let second = bench.wanted().await;
    assert_ne!(first, second);
    bench
        .until("touched", || {
            let pod = bench.get("pod", "ops-prometheus-0")?;
            (pod["metadata"]["annotations"]["panoptes.dev/files"] != mark).then_some(())
        })
        .await;
    bench.says("ops-prometheus-0", sidecar(&second, Some((&first, "unknown field \"x\"")))).await;
    let message = bench.condition(OPS, "ConfigurationApplied", "False", "ReloadFailed").await;
    assert!(message.contains("ops-prometheus-0") && message.contains("unknown field") && message.contains("last good"));
    let object = bench.get("moncl", "ops").unwrap();
    assert_eq!(object["status"]["configuration"]["lastGoodHash"], json!(first), "not promoted");
    let ready = condition(&object, "Ready").unwrap();
    assert_eq!(ready["reason"], json!("ReloadFailed"));
    assert_ne!(ready["lastTransitionTime"], since);
    bench.until("the event", || bench.kubectl(&["get", "events"]).contains("ConfigRejected").then_some(())).await;

    bench.says("ops-prometheus-0", sidecar(&second, None)).await;
    bench.settled("statefulset", "ops-prometheus");
    bench.condition(OPS, "Ready", "True", "Ready").await;
    bench
        .until("promoted", || {
            (bench.get("moncl", "ops")?.pointer("/status/configuration/lastGoodHash")? == &json!(second)).then_some(())
        })
        .await;

    // A quiet object is not written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = bench.get("moncl", "ops").unwrap()["metadata"]["resourceVersion"].clone();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(bench.get("moncl", "ops").unwrap()["metadata"]["resourceVersion"], before);

    // A crashing pod is named.
    let crash = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [{
        "name": "prometheus", "image": "p", "imageID": "", "ready": false, "restartCount": 5,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": "no space left on device",
                      "startedAt": "2026-11-22T10:00:00Z", "finishedAt": "2026-11-22T10:00:05Z"}},
    }]}});
    bench.kubectl(&[
        "patch",
        "pod",
        "ops-prometheus-0",
        "--subresource=status",
        "--type=merge",
        "-p",
        &crash.to_string(),
    ]);
    let down = json!({"status": {"readyReplicas": 0}}).to_string();
    bench.kubectl(&["patch", "statefulset", "ops-prometheus", "--subresource=status", "--type=merge", "-p", &down]);
    let message = bench.condition(OPS, "Stalled", "True", "CrashLooping").await;
    assert!(message.contains("ops-prometheus-0") && message.contains("no space left on device"), "{message}");
    bench.condition(OPS, "Ready", "False", "CrashLooping").await;
    let object = bench.get("moncl", "ops").unwrap();
    assert_eq!(object["status"]["phase"], json!("Failed"));
    assert_eq!(object["status"]["components"][0]["lastRestart"]["time"], json!("2026-11-22T10:00:05Z"));
}
