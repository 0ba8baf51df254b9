//! Buckets that a real Thanos wrote are read by us, and the other way round; one bucket, both programs.

use crate::suite;
use bucket::catalogue::{File, Producer};
use bucket::fetch::{Fetcher, Reason};
use bucket::{Bucket, Config, block, mark};
use model::BlockId;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tsdb::BlockMeta;
use tsdb::disk::RealDisk;
use tsdb::marks::{DeletionMark, NoCompactMark};

/// Runs `thanos tools bucket …` against a bucket.
fn thanos(yaml: &str, emulator: Option<&str>, args: &[&str]) -> String {
    let mut command = Command::new(testkit::peers::path("thanos").unwrap());
    command.args(["tools", "bucket"]).args(args).arg(format!("--objstore.config={yaml}"));
    if let Some(address) = emulator {
        // Google's Go client takes the emulator from the environment, and its credentials from the metadata server.
        command.env("STORAGE_EMULATOR_HOST", format!("http://{address}")).env("GCE_METADATA_HOST", address);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A block directory made by promtool, with Thanos's part of meta.json added.
fn make_block(dir: &Path) -> (BlockId, BlockMeta) {
    let text = dir.join("metrics");
    std::fs::write(&text, "# TYPE demo gauge\ndemo{a=\"1\"} 1 1700000000\ndemo{a=\"1\"} 2 1700000060\n# EOF\n")
        .unwrap();
    let made = Command::new(testkit::peers::path("promtool").unwrap())
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .arg(&text)
        .arg(dir.join("data"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let found = std::fs::read_dir(dir.join("data")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let id: BlockId = found.filter_map(|n| n.parse().ok()).next().unwrap();
    let file = dir.join("data").join(id.to_string()).join(block::META);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    json["thanos"] = serde_json::json!({
        "labels": {"cluster": "ops"}, "downsample": {"resolution": 0}, "source": "bucket.upload",
        "files": [], "index_stats": {}, "upload_time": "0001-01-01T00:00:00Z"
    });
    (id, BlockMeta::read("meta.json", json.to_string().as_bytes()).unwrap())
}

async fn both_ways(yaml: &str, ours: &str, emulator: Option<&str>) {
    let bucket = Bucket::open(&Config::parse(ours).unwrap(), suite::options()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (id, mut meta) = make_block(dir.path());
    let local = dir.path().join("data").join(id.to_string());

    // What we write, as the sidecar does it.
    let files = ["chunks/000001", "index"].map(|name| {
        let size = std::fs::metadata(local.join(name)).unwrap().len();
        (name.to_owned(), size)
    });
    if let Some(thanos) = &mut meta.thanos {
        let file = |(rel_path, size_bytes): &(String, u64)| tsdb::meta::File {
            rel_path: rel_path.clone(),
            size_bytes: *size_bytes,
            hash: None,
            unknown: Default::default(),
        };
        thanos.files = files.iter().map(file).collect();
    }
    let producer = Producer::new(bucket.clone(), "ops-0").unwrap();
    let before = bucket.meter().total();
    producer
        .intent(id, files.iter().map(|(path, size)| File { path: path.clone(), size: *size }).collect())
        .await
        .unwrap();
    for (name, _) in &files {
        bucket.upload_file(&block::object(id, name), &RealDisk, &local.join(name)).await.unwrap();
    }
    block::check_uploaded(&bucket, id, &files).await.unwrap();
    bucket.create(&block::object(id, block::META), meta.write().unwrap()).await.unwrap();
    producer.commit(&meta).await.unwrap();
    assert_eq!(bucket.meter().total() - before, 3 + 3, "requests: as many as files, and 3");

    assert_eq!(thanos(yaml, emulator, &["ls"]).trim(), id.to_string());
    let inspected = thanos(yaml, emulator, &["inspect"]);
    assert!(inspected.contains(&id.to_string()) && inspected.contains("cluster=ops"), "{inspected}");
    thanos(yaml, emulator, &["verify", "--issues=index_known_issues"]);

    // Thanos marks it, uploads a second one, and damages nothing: we see it all.
    thanos(yaml, emulator, &["mark", "--marker=no-compact-mark.json", "--details=by hand", &format!("--id={id}")]);
    let (second, meta) = make_block(&tempfile::tempdir_in(dir.path()).unwrap().keep());
    let mut folders = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path().join("data"));
    let data = folders.find(|d| d.join(second.to_string()).is_dir()).unwrap();
    std::fs::write(data.join(second.to_string()).join(block::META), meta.write().unwrap()).unwrap();
    thanos(yaml, emulator, &["upload-blocks", &format!("--path={}", data.display()), "--label=cluster=\"prod\""]);
    let mut fetcher = Fetcher::new(bucket.clone());
    let view = fetcher.sync().await.unwrap();
    assert_eq!(view.errors, []);
    assert_eq!(view.blocks.keys().copied().collect::<Vec<_>>(), [id.min(second), id.max(second)]);
    assert_eq!(view.blocks[&id].marks.no_compact.as_ref().unwrap().details, "by hand");
    assert_eq!(view.blocks[&id].problems, Vec::<String>::new());
    assert_eq!(view.blocks[&second].problems, Vec::<String>::new());
    assert_eq!(view.blocks[&second].meta.thanos.as_ref().unwrap().labels["cluster"], "prod");
    assert_eq!(view.blocks[&second].meta.thanos.as_ref().unwrap().files.len(), 3);
    assert!(!view.catalogue_complete, "Thanos's block is in no catalogue");
    // The bytes are those that Thanos sent.
    for name in ["index", "chunks/000001"] {
        let sent = std::fs::read(data.join(second.to_string()).join(name)).unwrap();
        assert!(bucket.get(&block::object(second, name), 1 << 20).await.unwrap().bytes == sent, "{name}");
    }

    // We mark one for deletion, Thanos cleans up; ours of the other program is found as well.
    let json = format!(r#"{{"id":"{second}","version":1,"deletion_time":1,"details":"old"}}"#);
    assert!(
        mark::create(&bucket, &<DeletionMark as tsdb::marks::Mark>::read("m", json.as_bytes()).unwrap()).await.unwrap()
    );
    let no_compact = mark::read::<NoCompactMark>(&bucket, id).await.unwrap();
    assert!(matches!(no_compact, mark::Found::Mark(_)));
    thanos(yaml, emulator, &["cleanup", "--delete-delay=1s", "--consistency-delay=0s"]);
    let view = fetcher.sync().await.unwrap();
    assert_eq!(view.blocks.keys().copied().collect::<Vec<_>>(), [id]);
    assert_eq!(view.partial.len(), 0);
    assert!(view.catalogue_complete);

    // A meta.json that went is a partial block for both.
    bucket.delete(&block::object(id, block::META)).await.unwrap();
    let view = fetcher.sync().await.unwrap();
    assert_eq!((view.blocks.len(), &view.partial[&id].reason), (0, &Reason::NoMeta));
    assert_eq!(thanos(yaml, emulator, &["ls"]).trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_google() {
    if testkit::peers::skip(&["thanos", "promtool"]) {
        return;
    }
    let server = testkit::gcs::Gcs::start().unwrap();
    server.make_bucket("my-bucket");
    let yaml = "type: GCS\nconfig:\n  bucket: my-bucket\nprefix: team/a\n";
    let ours = format!("type: GCS\nconfig:\n  bucket: my-bucket\n  endpoint: {}\nprefix: team/a\n", server.url());
    both_ways(yaml, &ours, Some(server.url().trim_start_matches("http://"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_amazon() {
    if testkit::peers::skip(&["thanos", "promtool", "versitygw"]) {
        return;
    }
    let server = testkit::s3::S3::start().unwrap();
    server.make_bucket("my-bucket").unwrap();
    let yaml = server.objstore("my-bucket");
    both_ways(&yaml, &yaml, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_azure() {
    if testkit::peers::skip(&["thanos", "promtool", "azurite"]) {
        return;
    }
    let server = testkit::azure::Azurite::start().unwrap();
    server.make_container("my-bucket").unwrap();
    let yaml = format!("{}prefix: team/a\n", server.objstore("my-bucket"));
    both_ways(&yaml, &yaml, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_directory() {
    if testkit::peers::skip(&["thanos", "promtool"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let yaml = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", dir.path().display());
    both_ways(&yaml, &yaml, None).await;
}
