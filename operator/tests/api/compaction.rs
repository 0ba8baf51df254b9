//! The compactor: its part of the status, and that it keeps nobody else from being ready.

use args::state::{Compaction, CompactionLease, HeldItem};
use operator::desired::hash;
use serde_json::{Value, json};

use crate::bench::{Bench, compactor, condition, sidecar, store};
use crate::history::{denied, verified};

const OPS: (&str, &str) = ("moncl", "ops");

fn at_work(held: bool, holder: &str) -> Compaction {
    Compaction {
        lease: Some(CompactionLease { held, holder: holder.to_owned(), epoch: 1, since_ms: 1_795_000_000_000 }),
        passes: 1,
        last_pass_ms: Some(1_795_000_000_000),
        ..Compaction::default()
    }
}

fn events(bench: &Bench, reason: &str) -> usize {
    bench.list("events").iter().filter(|event| event["reason"] == reason).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_compactor_says_is_told() {
    let Some(bench) = Bench::start("compaction").await else { return };
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term"}}}));
    bench.until("the compactor", || bench.get("statefulset", "ops-compact")).await;
    bench.condition(OPS, "CompactionHealthy", "Unknown", "Pending").await;
    bench.all_ready(vec![]).await;
    let config = bench.wanted().await;
    let bucket = verified(&bench, "ops-objstore");
    let says = async |compaction: Compaction| {
        bench.says("ops-compact-0", compactor(bucket.clone(), compaction)).await;
    };
    bench.says("ops-prometheus-0", args::state::State { bucket: Some(bucket.clone()), ..sidecar(&config, None) }).await;
    let blocks = args::state::Blocks { last_sync_ms: Some(1_795_000_000_000), ..Default::default() };
    bench.says("ops-store-0", store(bucket.clone(), blocks)).await;
    // The others are ready, whatever becomes of the compactor.
    bench.condition(OPS, "Ready", "True", "Ready").await;

    // The right that only it needs: the bucket is well, and so is everybody else.
    let lacking = denied(bucket.clone(), "storage.objects.delete");
    bench.says("ops-compact-0", compactor(lacking, Compaction::default())).await;
    let message = bench.condition(OPS, "CompactionHealthy", "False", "AccessDenied").await;
    assert!(message.contains("ops-compact-0 lacks the right storage.objects.delete"), "{message}");
    bench.condition(OPS, "ObjectStorageReady", "True", "Verified").await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    bench.until("its event", || (events(&bench, "CompactionHalted") > 0).then_some(())).await;

    let own = "compact-ops.monitoring.ops-compact-0";
    says(at_work(true, own)).await;
    bench.condition(OPS, "CompactionHealthy", "True", "UpToDate").await;
    bench.until("its event", || (events(&bench, "CompactionResumed") > 0).then_some(())).await;
    let status = bench.get("moncl", "ops").unwrap()["status"].clone();
    assert_eq!(status["compaction"]["holder"], json!(own));
    assert_eq!(status["compaction"]["lastPass"], json!("2026-11-18T11:06:40Z"));
    let names: Vec<&Value> = status["components"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert!(names.contains(&&json!("compact")), "{names:?}");

    // A second one on the same bucket stands by, and says for whom.
    says(at_work(false, "compact-dr.monitoring.dr-compact-0")).await;
    let message = bench.condition(OPS, "CompactionHealthy", "True", "StandingBy").await;
    assert!(message.contains("compact-dr.monitoring.dr-compact-0"), "{message}");

    let stopped = Some("block 01A was compacted by another program".to_owned());
    says(Compaction { deletions_stopped: stopped, ..at_work(true, own) }).await;
    bench.condition(OPS, "CompactionHealthy", "False", "ForeignCompactor").await;
    let item = HeldItem { what: "01B".to_owned(), why: "its index is cut off".to_owned(), waits: false };
    says(Compaction { held: 1, held_items: vec![item], ..at_work(true, own) }).await;
    let message = bench.condition(OPS, "CompactionHealthy", "False", "BlocksHeld").await;
    assert!(message.contains("01B: its index is cut off"), "{message}");

    // Short of disk it is not ready, and says why: nothing rolls out, and all that serves, serves.
    let short = Compaction { lacks_disk_bytes: Some(7 << 20), ..at_work(true, own) };
    let mut state = compactor(bucket.clone(), short);
    state.ready = false;
    bench.says("ops-compact-0", state).await;
    let down = json!({"status": {"readyReplicas": 0}}).to_string();
    bench.kubectl(&["patch", "statefulset", "ops-compact", "--subresource=status", "--type=merge", "-p", &down]);
    let message = bench.condition(OPS, "CompactionHealthy", "False", "NoSpace").await;
    assert!(message.contains("7 MiB"), "{message}");
    bench.condition(OPS, "Available", "True", "AllAvailable").await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    bench.settled("statefulset", "ops-compact");
    says(at_work(true, own)).await;
    bench.condition(OPS, "CompactionHealthy", "True", "UpToDate").await;

    // Switched off, everything of it goes.
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term"}}, "compactor": {"enabled": false}}));
    bench.until("gone", || bench.get("statefulset", "ops-compact").is_none().then_some(())).await;
    bench
        .until("untold", || {
            let object = bench.get("moncl", "ops")?;
            let silent = condition(&object, "CompactionHealthy").is_none() && object["status"]["compaction"].is_null();
            silent.then_some(())
        })
        .await;
}

/// A new operator over a cluster that an older one has made: nothing that runs is rolled, and a wish that makes no sense stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_defeats_itself_changes_nothing() {
    let Some(bench) = Bench::start("compaction-refused").await else { return };
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term"}}}));
    let set = bench.until("the compactor", || bench.get("statefulset", "ops-compact")).await;
    let template = |set: &Value| hash(set["spec"]["template"].to_string().as_bytes());
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term"}}, "retention": {"raw": "1d"}}));
    let message = bench.condition(OPS, "Stalled", "True", "InvalidSpec").await;
    assert!(message.contains("spec.retention.raw: 1d is too short"), "{message}");
    let now = bench.get("statefulset", "ops-compact").expect("it stays");
    assert_eq!(template(&set), template(&now));
}
