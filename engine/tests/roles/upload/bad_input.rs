//! Bad blocks, bad lists, bad configurations, a Prometheus that would compact too early.

use super::setup::{Setup, files, upload};
use crate::common::{Sidecar, get, until};
use args::state::{BucketErrorClass, SkipReason};
use args::{Millis, SidecarArgs, Switch};
use serde_json::json;
use std::fs;
use testkit::prometheus_stub::Told;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_block_is_told_and_the_others_go_on() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let ids: Vec<String> = (0..6).map(|_| setup.block()).collect();
    let file = |id: &str, name: &str| setup.data().join(id).join(name);
    let chunks = file(&ids[0], "chunks/000001");
    let mut bytes = fs::read(&chunks).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&chunks, bytes).unwrap();
    fs::write(file(&ids[1], "meta.json"), "{").unwrap();
    fs::remove_file(file(&ids[2], "index")).unwrap();
    setup.change_meta(&ids[3], |m| m["stats"] = json!({}));
    setup.change_meta(&ids[4], |m| m["compaction"]["level"] = json!(2));

    let sidecar = Sidecar::start(setup.args());
    sidecar.ready().await;
    until("the good block, and the end of the pass", async || {
        let state = upload(&sidecar);
        // The list for Prometheus is written after the state.
        setup.meta(&ids[5]).is_some() && state.skipped == 3 && state.pending == 0 && setup.listed().len() == 2
    })
    .await;
    let state = upload(&sidecar);
    let skipped: Vec<(&str, SkipReason)> = state.skipped_blocks.iter().map(|s| (s.block.as_str(), s.reason)).collect();
    assert_eq!(
        skipped,
        [
            (ids[0].as_str(), SkipReason::Damaged),
            (ids[1].as_str(), SkipReason::BadMeta),
            (ids[2].as_str(), SkipReason::MissingFile)
        ]
    );
    assert!(state.skipped_blocks[0].message.contains("chunks/000001"), "{state:?}");
    assert!(state.error.is_none() && state.uploaded == 1, "{state:?}");
    for id in &ids[..5] {
        assert!(!setup.bucket().join(id).exists(), "{id} has objects in the bucket");
    }
    assert_eq!(setup.listed(), [ids[3].clone(), ids[5].clone()], "an empty block is done, too");
    let metrics = sidecar.metrics();
    assert!(metrics.contains("\nthanos_shipper_corrupted_blocks_total 3\n"), "{metrics}");
    assert!(metrics.contains("\npanoptes_upload_skipped_blocks 3\n"), "{metrics}");
    assert!(sidecar.state().ready, "a bad block does not make a sidecar unready");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_uploaded_while_prometheus_may_compact_it_away() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let id = setup.block();
    let told = |delay: &str| Told {
        flags: [("min-block-duration", "2h"), ("max-block-duration", "1d12h"), ("delay-compact-file.path", delay)]
            .map(|(n, v)| (format!("storage.tsdb.{n}"), v.to_owned()))
            .to_vec(),
        retention: "10d or 5GiB".to_owned(),
        ..Told::new(&[("cluster", "ops")])
    };
    setup.prometheus.tell(told(""));
    let sidecar = Sidecar::start(setup.args());
    sidecar.ready().await;
    until("the reason", async || upload(&sidecar).refused.is_some_and(|r| r.contains("delay-compact-file.path=")))
        .await;
    let state = upload(&sidecar);
    assert_eq!((state.pending, state.retention_ms), (1, Some(10 * 86_400_000)));
    assert!(state.at_risk(), "the block is from 2023: {state:?}");
    assert!(!setup.bucket().join(&id).exists());
    assert!(setup.data().join("thanos.shipper.json").exists(), "without it Prometheus compacts everything");

    setup.prometheus.tell(told("/elsewhere/thanos.shipper.json"));
    until("the other reason", async || upload(&sidecar).refused.is_some_and(|r| r.contains("/elsewhere/"))).await;
    setup.prometheus.tell(told(&setup.data().join("thanos.shipper.json").display().to_string()));
    until("the upload", async || setup.listed() == [id.clone()]).await;
    assert!(upload(&sidecar).refused.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_external_labels_nothing_is_uploaded() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let id = setup.block();
    setup.prometheus.tell(Told::new(&[]));
    let sidecar = Sidecar::start(setup.args());
    until("the reason", async || {
        get(format!("{}/-/healthy", sidecar.http)).is_ok()
            && upload(&sidecar).refused.is_some_and(|r| r.contains("external_labels"))
    })
    .await;
    assert!(!setup.bucket().join(&id).exists());
    setup.prometheus.tell(Told::new(&[("cluster", "ops")]));
    until("the upload", async || setup.meta(&id).is_some_and(|m| m["thanos"]["labels"] == json!({"cluster": "ops"})))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_may_come_late_break_and_change() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let id = setup.block();
    let file = setup.dir.path().join("objstore.yml");
    let args = SidecarArgs {
        objstore_config: String::new(),
        objstore_config_file: file.display().to_string(),
        ..setup.args()
    };
    let sidecar = Sidecar::start(args);
    sidecar.ready().await;
    let bucket = || sidecar.state().bucket.unwrap();
    until("the reason", async || bucket().configuration_error.is_some_and(|e| e.contains("missing"))).await;
    assert!(bucket().configuration.is_none() && !bucket().usable() && sidecar.state().ready);
    assert!(setup.listed().is_empty() && setup.data().join("thanos.shipper.json").exists());

    fs::write(&file, setup.objstore()).unwrap();
    until("the upload", async || setup.listed() == [id.clone()]).await;
    let first = bucket().configuration.unwrap();
    fs::write(&file, "type: FILESYSTEM\nconfig: {directory: x, secret: hunter2}\n").unwrap();
    until("the refusal", async || bucket().configuration_refused.is_some()).await;
    let told = bucket().configuration_error.unwrap();
    assert!(!told.contains("hunter2") && bucket().configuration.as_ref() == Some(&first), "{told}");
    let next = setup.block();
    // The old one stays in use; it looks at its directory every half a minute, so a change that matters comes first.
    let other = setup.dir.path().join("other");
    fs::write(&file, setup.objstore().replace(&setup.bucket().display().to_string(), &other.display().to_string()))
        .unwrap();
    until("both blocks in the other bucket", async || {
        [&id, &next].iter().all(|id| other.join(id).join("meta.json").exists())
    })
    .await;
    assert!(bucket().configuration_error.is_none() && bucket().configuration != Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_bucket_is_told_and_tried_again() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let id = setup.block();
    // A file where a directory should be.
    fs::write(setup.bucket(), "in the way").unwrap();
    let sidecar = Sidecar::start(SidecarArgs { objstore_check_interval: Millis(500), ..setup.args() });
    sidecar.ready().await;
    until("the failure", async || {
        sidecar.state().bucket.unwrap().error.is_some() && upload(&sidecar).failing_since_ms.is_some()
    })
    .await;
    let error = sidecar.state().bucket.unwrap().error.unwrap();
    assert!(error.class != BucketErrorClass::Denied && error.since_ms > 0, "{error:?}");
    assert!(upload(&sidecar).error.is_some() && sidecar.state().ready);
    assert!(sidecar.metrics().contains("\nthanos_shipper_dir_sync_failures_total "));
    fs::remove_file(setup.bucket()).unwrap();
    until("the upload", async || setup.meta(&id).is_some()).await;
    until("the good news", async || {
        upload(&sidecar).failing_since_ms.is_none() && sidecar.state().bucket.unwrap().usable()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_believed_only_as_far_as_the_bucket_confirms_it() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let (there, gone, compacted) = (setup.block(), setup.block(), setup.block());
    // Thanos's sidecar has uploaded one of them; one has been compacted in the bucket since; one the list claims falsely.
    let with_labels = |id: &str, sources: &[&str]| {
        let text = fs::read(setup.data().join(&there).join("meta.json")).unwrap();
        let mut meta: serde_json::Value = serde_json::from_slice(&text).unwrap();
        meta["ulid"] = json!(id);
        meta["compaction"]["sources"] = json!(sources);
        meta["thanos"] = json!({"labels": {"cluster": "ops", "replica": "a"}, "source": "sidecar"});
        let dir = setup.bucket().join(id);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("meta.json"), meta.to_string()).unwrap();
    };
    with_labels(&there, &[&there]);
    let (from, to) = (setup.data().join(&there), setup.bucket().join(&there));
    fs::create_dir(to.join("chunks")).unwrap();
    for file in ["index", "chunks/000001"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    with_labels("01JDZZZZZZZZZZZZZZZZZZZZZZ", &[&compacted]);
    let list = json!({"version": 1, "uploaded": [there, gone, compacted]});
    fs::write(setup.data().join("thanos.shipper.json"), list.to_string()).unwrap();
    let before = files(&setup.bucket().join(&there));
    let sidecar = Sidecar::start(setup.args());
    sidecar.ready().await;
    until("the missing block", async || setup.meta(&gone).is_some() && upload(&sidecar).pending == 0).await;
    let mut all = vec![there.clone(), gone, compacted.clone()];
    all.sort();
    assert_eq!(setup.listed(), all);
    assert!(files(&setup.bucket().join(&there)) == before, "what Thanos has uploaded is left alone");
    assert!(!setup.bucket().join(&compacted).exists(), "what was compacted since does not come back");
    assert_eq!(upload(&sidecar).uploaded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_blocks_on_request_and_never_over_others() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let ids: Vec<String> = (0..4).map(|_| setup.block()).collect();
    // Made of the first, which is uploaded; of something else, in the time of the second; of something else, elsewhere.
    setup.change_meta(&ids[3], |m| m["compaction"] = json!({"level": 2, "sources": ["01JDAAAAAAAAAAAAAAAAAAAAAA"]}));
    setup.change_meta(&ids[2], |m| m["compaction"] = json!({"level": 2, "sources": [ids[0]]}));
    let compacted = Switch(true);
    let first = Sidecar::start(setup.args());
    until("the blocks of level 1", async || setup.listed() == ids[..2]).await;
    first.stop.cancel();
    until("the end", async || first.task.is_finished()).await;
    // The bucket has a block of the same time as the one that is not covered.
    let dir = setup.bucket().join("01JDZZZZZZZZZZZZZZZZZZZZZZ");
    fs::create_dir_all(&dir).unwrap();
    let mut meta: serde_json::Value =
        serde_json::from_slice(&fs::read(setup.data().join(&ids[3]).join("meta.json")).unwrap()).unwrap();
    meta["ulid"] = json!("01JDZZZZZZZZZZZZZZZZZZZZZZ");
    meta["thanos"] = json!({"labels": {"cluster": "ops", "replica": "a"}, "source": "compactor"});
    fs::write(dir.join("meta.json"), meta.to_string()).unwrap();
    let second = Sidecar::start(SidecarArgs { shipper_upload_compacted: compacted, ..setup.args() });
    second.ready().await;
    until("the reason", async || upload(&second).skipped_blocks.iter().any(|s| s.reason == SkipReason::Overlaps)).await;
    assert_eq!(upload(&second).skipped, 1);
    assert!(setup.meta(&ids[2]).is_none() && setup.meta(&ids[3]).is_none());
    second.stop.cancel();
    until("the end", async || second.task.is_finished()).await;
    let third = Sidecar::start(SidecarArgs {
        shipper_upload_compacted: compacted,
        shipper_allow_out_of_order_uploads: compacted,
        ..setup.args()
    });
    until("the compacted block", async || setup.meta(&ids[3]).is_some()).await;
    assert!(setup.meta(&ids[2]).is_none(), "its data is there");
    until("the metric", async || third.metrics().contains("\nthanos_shipper_upload_compacted_done 1\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_block_of_the_same_id_is_a_conflict() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut setup = Setup::new();
    let id = setup.block();
    let dir = setup.bucket().join(&id);
    fs::create_dir_all(&dir).unwrap();
    let text = fs::read_to_string(setup.data().join(&id).join("meta.json")).unwrap();
    let foreign = text.replace("\"numSamples\": ", "\"numSamples\": 7");
    assert_ne!(text, foreign);
    fs::write(dir.join("meta.json"), &foreign).unwrap();
    let sidecar = Sidecar::start(setup.args());
    sidecar.ready().await;
    until("the reason", async || upload(&sidecar).skipped_blocks.iter().any(|s| s.reason == SkipReason::Conflict))
        .await;
    assert_eq!(fs::read_to_string(dir.join("meta.json")).unwrap(), foreign);
    assert!(setup.listed().is_empty());
}
