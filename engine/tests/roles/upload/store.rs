//! The upload to a store of Google's kind: what a block costs, and what a missing right looks like.

use super::setup::{Setup, upload};
use crate::common::{Sidecar, until};
use args::state::BucketErrorClass;
use args::{Millis, SidecarArgs};
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
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(sidecar.state().bucket.unwrap().usable());
}
