//! The upload to a store of Google's kind: what a block costs, and what a missing right looks like.

use super::setup::{Setup, upload};
use crate::common::{Sidecar, until};
use args::state::BucketErrorClass;
use args::{Millis, SidecarArgs};
use std::time::Duration;
use testkit::faults::{Fault, Operation, Proxy, Rule};
use testkit::gcs::{Gcs, Right};

fn args(setup: &Setup, gcs: &Gcs, bucket: &str) -> SidecarArgs {
    gcs.make_bucket(bucket);
    SidecarArgs {
        objstore_config: format!("{{type: GCS, config: {{bucket: {bucket}, endpoint: '{}'}}}}", gcs.url()),
        objstore_check_interval: Millis(1000),
        ..setup.args()
    }
}

/// Requests of a sidecar from start to the upload of all blocks.
async fn requests(setup: &Setup, gcs: &Gcs, bucket: &str, blocks: u64) -> u64 {
    let total = || gcs.requests().values().sum::<u64>();
    let before = total();
    let args = SidecarArgs { objstore_check_interval: Millis(3_600_000), ..args(setup, gcs, bucket) };
    let sidecar = Sidecar::start(args);
    sidecar.ready().await;
    until("the uploads", async || upload(&sidecar).uploaded == blocks).await;
    sidecar.stop.cancel();
    until("the end of the sidecar", async || sidecar.task.is_finished()).await;
    total() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_costs_a_request_per_file_and_three_more() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let gcs = Gcs::start().unwrap();
    let mut setup = Setup::new();
    let mut ids = vec![setup.block()];
    let one = requests(&setup, &gcs, "one", 1).await;
    ids.extend((0..2).map(|_| setup.block()));
    let _ = std::fs::remove_file(setup.data().join("thanos.shipper.json"));
    let three = requests(&setup, &gcs, "three", 3).await;
    // chunks/000001, index, meta.json
    assert_eq!((three - one) / 2, 3 + 3, "{:?}", gcs.requests());
    let names = gcs.names("three");
    for id in &ids {
        for file in ["chunks/000001", "index"] {
            let local = std::fs::read(setup.data().join(id).join(file)).unwrap();
            assert!(gcs.object("three", &format!("{id}/{file}")) == Some(local), "{names:?}");
        }
        assert!(names.contains(&format!("{id}/meta.json")));
        assert!(names.iter().any(|n| n.ends_with(&format!("{id}.commit"))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_and_its_return_is_noticed() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let gcs = Gcs::start().unwrap();
    let mut setup = Setup::new();
    let id = setup.block();
    gcs.deny(&[Right::Create]);
    let sidecar = Sidecar::start(args(&setup, &gcs, "ops"));
    sidecar.ready().await;
    until("the denial", async || sidecar.state().bucket.unwrap().error.is_some()).await;
    let error = sidecar.state().bucket.unwrap().error.unwrap();
    assert_eq!(error.class, BucketErrorClass::Denied);
    assert_eq!(error.missing_right.as_deref(), Some("storage.objects.create"), "{error:?}");
    assert!(!gcs.names("ops").iter().any(|n| n.starts_with(&id)));
    gcs.deny(&[]);
    until("the upload", async || gcs.names("ops").contains(&format!("{id}/meta.json"))).await;
    until("the good news", async || sidecar.state().bucket.unwrap().usable() && upload(&sidecar).error.is_none()).await;
    // A sidecar must not need the right to delete.
    gcs.deny(&[Right::Delete]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(sidecar.state().bucket.unwrap().usable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_only_the_next_bucket_withholds_is_named() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let gcs = Gcs::start().unwrap();
    let mut setup = Setup::new();
    let id = setup.block();
    gcs.deny(&[Right::Delete]);
    let file = setup.dir.path().join("objstore.yml");
    let write = |bucket: &str| std::fs::write(&file, args(&setup, &gcs, bucket).objstore_config).unwrap();
    write("one");
    let sidecar = Sidecar::start(SidecarArgs {
        objstore_config: String::new(),
        objstore_config_file: file.display().to_string(),
        ..args(&setup, &gcs, "one")
    });
    sidecar.ready().await;
    until("the upload", async || gcs.names("one").contains(&format!("{id}/meta.json"))).await;
    gcs.deny(&[Right::Create, Right::Delete]);
    write("two");
    until("the denial", async || {
        let bucket = sidecar.state().bucket.unwrap();
        bucket.name.contains("two") && bucket.error.is_some_and(|e| e.missing_right.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_fail_in_a_good_bucket_wait_longer_and_longer() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let gcs = Gcs::start().unwrap();
    let proxy = Proxy::start(&gcs.url(), 1).unwrap();
    let mut setup = Setup::new();
    let id = setup.block();
    gcs.make_bucket("ops");
    // The catalogue and the check are well; the block's own files are not.
    proxy.set(vec![Rule::always(Fault::Refuse(403, "AccessDenied")).path(&format!("{id}/"))]);
    let sidecar = Sidecar::start(SidecarArgs {
        objstore_config: format!("{{type: GCS, config: {{bucket: ops, endpoint: '{}'}}}}", proxy.url()),
        ..setup.args()
    });
    sidecar.ready().await;
    let failures = || {
        let metrics = sidecar.metrics();
        let line = metrics.lines().find_map(|l| l.strip_prefix("thanos_shipper_dir_sync_failures_total "));
        line.map_or(0, |n| n.parse::<u64>().unwrap())
    };
    // After four in a row the pause is 8 to 16 s; checks of the bucket go on meanwhile, and say that it is well.
    until("four failures", async || failures() >= 4).await;
    let before = failures();
    assert!(sidecar.state().bucket.unwrap().usable(), "{:?}", sidecar.state().bucket);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(failures(), before, "a check that ends well is no reason to try at once");
    proxy.set(Vec::new());
    until("the upload", async || gcs.names("ops").contains(&format!("{id}/meta.json"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_could_not_be_asked_outlives_the_process() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    const MERGED: &str = "01JDZZZZZZZZZZZZZZZZZZZZZZ";
    let gcs = Gcs::start().unwrap();
    let proxy = Proxy::start(&gcs.url(), 1).unwrap();
    let mut setup = Setup::new();
    let (id, new) = (setup.block(), setup.block());
    gcs.make_bucket("ops");
    let objstore = |url: &str| format!("{{type: GCS, config: {{bucket: ops, endpoint: '{url}'}}}}");
    let bucket = bucket::Bucket::open(
        &bucket::Config::parse(&objstore(&gcs.url())).unwrap(),
        bucket::Options::new(model::world::World::real()),
    )
    .unwrap();
    let text = std::fs::read(setup.data().join(&id).join("meta.json")).unwrap();
    let mut meta: serde_json::Value = serde_json::from_slice(&text).unwrap();
    meta["ulid"] = serde_json::json!(MERGED);
    meta["compaction"]["sources"] = serde_json::json!([id]);
    bucket.create(&format!("{MERGED}/meta.json"), meta.to_string()).await.unwrap();
    // Thanos's list; what has become of its block can't be read as long as the first process lives.
    let list = serde_json::json!({"version": 1, "uploaded": [id]});
    std::fs::write(setup.data().join("thanos.shipper.json"), list.to_string()).unwrap();
    proxy.set(vec![Rule::always(Fault::Refuse(403, "AccessDenied")).path(MERGED)]);
    let start = || Sidecar::start(SidecarArgs { objstore_config: objstore(&proxy.url()), ..setup.args() });
    let first = start();
    first.ready().await;
    until("the failure", async || upload(&first).failing_since_ms.is_some()).await;
    first.stop.cancel();
    until("the end", async || first.task.is_finished()).await;
    assert!(setup.listed().is_empty(), "it is not believed either");
    proxy.set(Vec::new());
    let second = start();
    until("the verdict", async || setup.listed().len() == 2 && upload(&second).uploaded == 1).await;
    let names = gcs.names("ops");
    assert!(names.contains(&format!("{new}/meta.json")));
    assert!(!names.iter().any(|n| n.starts_with(&id)), "its samples are there already: {names:?}");
}

/// A sidecar before a store that goes through this proxy.
fn behind(setup: &Setup, gcs: &Gcs, proxy: &Proxy) -> SidecarArgs {
    gcs.make_bucket("ops");
    SidecarArgs {
        objstore_config: format!("{{type: GCS, config: {{bucket: ops, endpoint: '{}'}}}}", proxy.url()),
        ..setup.args()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_arrive_whole_and_once_in_a_store_that_fails_and_loses_answers() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let gcs = Gcs::start().unwrap();
    let proxy = Proxy::start(&gcs.url(), 5).unwrap();
    let mut setup = Setup::new();
    let ids: Vec<String> = (0..3).map(|_| setup.block()).collect();
    proxy.set(vec![
        Rule::always(Fault::Refuse(503, "InternalError")).share(0.15),
        Rule::always(Fault::Refuse(429, "SlowDown")).share(0.05),
        Rule::always(Fault::LoseAnswer).share(0.1),
        Rule::always(Fault::Drop).share(0.05),
        Rule::always(Fault::Truncate).to(&[Operation::Put]).share(0.1),
    ]);
    let sidecar = Sidecar::start(behind(&setup, &gcs, &proxy));
    sidecar.ready().await;
    let whole = |id: &String| gcs.names("ops").iter().any(|n| n.ends_with(&format!("{id}.commit")));
    until("the uploads", async || ids.iter().all(whole)).await;
    assert!(proxy.faults() > 3, "{}", proxy.faults());
    for id in &ids {
        for file in ["chunks/000001", "index"] {
            let local = std::fs::read(setup.data().join(id).join(file)).unwrap();
            assert!(gcs.object("ops", &format!("{id}/{file}")) == Some(local), "{id}/{file}");
        }
        assert!(gcs.names("ops").contains(&format!("{id}/meta.json")));
    }
    assert!(upload(&sidecar).skipped_blocks.is_empty(), "{:?}", upload(&sidecar));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_nothing_holds_up_no_end_and_the_next_start_goes_on() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let gcs = Gcs::start().unwrap();
    let proxy = Proxy::start(&gcs.url(), 1).unwrap();
    let mut setup = Setup::new();
    let id = setup.block();
    proxy.set(vec![Rule::always(Fault::Hang(Duration::from_secs(300))).path(&format!("{id}/"))]);
    let sidecar = Sidecar::start(behind(&setup, &gcs, &proxy));
    sidecar.ready().await;
    let intent = |n: &String| n.ends_with(&format!("{id}.intent"));
    until("the intent", async || gcs.names("ops").iter().any(intent)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    #[allow(clippy::disallowed_methods, reason = "a test measures real time")]
    let start = std::time::Instant::now();
    sidecar.stop.cancel();
    until("the end", async || sidecar.task.is_finished()).await;
    let took = start.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&took), "{took:?}");
    assert!(!gcs.names("ops").contains(&format!("{id}/meta.json")));
    proxy.set(Vec::new());
    let sidecar = Sidecar::start(behind(&setup, &gcs, &proxy));
    until("the upload", async || gcs.names("ops").contains(&format!("{id}/meta.json"))).await;
    drop(sidecar);
}
