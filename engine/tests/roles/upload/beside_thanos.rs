//! The same blocks of one Prometheus, uploaded by us and by Thanos: the same objects, and each reads the other's.

use super::setup::{files, upload};
use crate::common::{Sidecar, until};
use args::SidecarArgs;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::metrics_source::MetricsSource;
use testkit::prometheus::{self, Options, Prometheus};
use testkit::thanos::Thanos;

fn blocks(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap());
    entries.filter(|n| n.len() == 26 && dir.join(n).join("meta.json").exists()).collect()
}

fn objstore(dir: &Path) -> String {
    format!("{{type: FILESYSTEM, config: {{directory: {}}}}}", dir.display())
}

fn meta(bucket: &Path, id: &str) -> Value {
    serde_json::from_slice(&fs::read(bucket.join(id).join("meta.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_looks_as_if_thanos_had_written_it() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let page = MetricsSource::start().unwrap();
    for i in 0..300 {
        page.set(&format!("demo_total{{n=\"{i:03}\"}}"), f64::from(i));
    }
    let mut options = Options::new(&[("cluster", "ops"), ("replica", "a")], &[("demo", &page.address())]);
    options.interval = "200ms".to_owned();
    options.args = ["min", "max"].map(|m| format!("--storage.tsdb.{m}-block-duration=4s")).to_vec();
    let p = tokio::task::block_in_place(|| Prometheus::start(&options)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));

    let args = SidecarArgs {
        prometheus_url: p.url(),
        tsdb_path: p.data_path().display().to_string(),
        objstore_config: objstore(&ours),
        hash_func: args::HashFunc::Sha256,
        ..SidecarArgs::default()
    };
    until("two blocks", async || blocks(p.data_path()).len() >= 2).await;
    let sidecar = Sidecar::start(args);
    sidecar.ready().await;
    until("two uploads", async || blocks(&ours).len() >= 2).await;
    until("the end of the pass", async || upload(&sidecar).pending == 0).await;
    let bucket = sidecar.state().bucket.unwrap();
    assert!(bucket.usable() && bucket.error.is_none() && bucket.name.contains("ours"), "{bucket:?}");
    let state = upload(&sidecar);
    assert!(state.uploaded >= 2 && state.last_upload_ms.is_some() && state.retention_ms.is_some(), "{state:?}");
    assert!(state.lag_ms.is_none() && state.refused.is_none() && state.skipped == 0, "{state:?}");
    let metrics = sidecar.metrics();
    for name in
        ["thanos_shipper_uploads_total", "thanos_shipper_dir_syncs_total", "thanos_shipper_upload_failures_total"]
    {
        assert!(metrics.contains(&format!("\n{name} ")), "{name} is not in\n{metrics}");
    }
    // Written at the end of the pass, which a busy machine may not have reached for the second block.
    let list = || fs::read_to_string(p.data_path().join("thanos.shipper.json")).unwrap_or_default();
    until("the list of uploads", async || blocks(&ours).iter().all(|id| list().contains(id))).await;
    let listed = list();
    sidecar.stop.cancel();
    until("the end of the sidecar", async || sidecar.task.is_finished()).await;

    // Now Thanos's own sidecar, with another list, into another bucket.
    let peer = tokio::task::block_in_place(|| {
        Thanos::start(
            "sidecar",
            &[
                format!("--prometheus.url={}", p.url()),
                format!("--tsdb.path={}", p.data_path().display()),
                format!("--objstore.config={}", objstore(&theirs)),
                "--shipper.meta-file-name=thanos-peer.json".to_owned(),
                "--hash-func=SHA256".to_owned(),
            ],
        )
    })
    .unwrap();
    let common = blocks(&ours);
    until("Thanos's uploads", async || common.is_subset(&blocks(&theirs))).await;
    drop(peer);
    for id in &common {
        let (mut our, mut their) = (files(&ours.join(id)), files(&theirs.join(id)));
        for m in [&mut our, &mut their] {
            m.remove("meta.json").unwrap();
        }
        assert!(our == their, "the objects of {id} differ: {:?} {:?}", our.keys(), their.keys());
        let (mut our, mut their) = (meta(&ours, id), meta(&theirs, id));
        for m in [&mut our, &mut their] {
            assert!(m["thanos"]["upload_time"].take().as_str().unwrap().ends_with('Z'));
        }
        assert_eq!(our, their);
        assert!(listed.contains(id), "{listed}");
    }

    // Thanos finds nothing wrong with our bucket, and serves it.
    let verify = tokio::task::block_in_place(|| {
        Command::new(testkit::peers::path("thanos").unwrap())
            .args(["tools", "bucket", "verify", "--objstore.config", &objstore(&ours)])
            .output()
            .unwrap()
    });
    let log = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && !log.contains("level=error") && !log.contains("level=warn"), "{log}");
    let store = tokio::task::block_in_place(|| {
        Thanos::start(
            "store",
            &[
                format!("--data-dir={}", dir.path().join("store").display()),
                format!("--objstore.config={}", objstore(&ours)),
                "--consistency-delay=0s".to_owned(),
            ],
        )
    })
    .unwrap();
    let querier = tokio::task::block_in_place(|| Thanos::query(&[store.grpc_address()], &[])).unwrap();
    let last = meta(&ours, common.last().unwrap());
    let (begin, end) = (last["minTime"].as_i64().unwrap(), last["maxTime"].as_i64().unwrap());
    let ask = |url: &str| {
        let query = format!("sum(count_over_time(demo_total[{}ms]))", end - begin);
        tokio::task::block_in_place(|| prometheus::query(url, &query, Some((end - 1) as f64 / 1000.0))).unwrap()[0]["value"]
            [1]
        .clone()
    };
    let (stored, live) = (ask(&querier.url()), ask(&p.url()));
    assert!(live.as_str().unwrap().parse::<f64>().unwrap() > 1000.0, "{live}");
    assert_eq!(stored, live);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_waits_for_the_list_may_compact_by_itself() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let page = MetricsSource::start().unwrap();
    page.set("demo", 1.0);
    let dir = tempfile::tempdir().unwrap();
    let (data, bucket) = (dir.path().join("data"), dir.path().join("bucket"));
    let mut options = Options::new(&[("cluster", "ops")], &[("demo", &page.address())]);
    options.interval = "200ms".to_owned();
    options.data = Some(data.clone());
    options.args = vec![
        "--storage.tsdb.min-block-duration=4s".to_owned(),
        "--storage.tsdb.max-block-duration=40s".to_owned(),
        format!("--storage.tsdb.delay-compact-file.path={}", data.join("thanos.shipper.json").display()),
    ];
    let p = tokio::task::block_in_place(|| Prometheus::start(&options)).unwrap();
    let args = SidecarArgs {
        prometheus_url: p.url(),
        tsdb_path: data.display().to_string(),
        objstore_config: objstore(&bucket),
        ..SidecarArgs::default()
    };
    until("a block", async || !blocks(&data).is_empty()).await;
    let sidecar = Sidecar::start(args);
    sidecar.ready().await;
    until("its upload", async || !blocks(&bucket).is_empty()).await;
    assert_eq!(upload(&sidecar).refused, None);
}
