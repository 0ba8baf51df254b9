//! The suite over each provider.

use crate::suite;
use bucket::{Bucket, Config};
use futures::TryStreamExt as _;
use testkit::gcs::Gcs;

fn open(yaml: &str) -> Bucket {
    Bucket::open(&Config::parse(yaml).unwrap(), suite::options()).unwrap()
}

fn gcs(server: &Gcs, prefix: &str) -> Bucket {
    open(&format!("type: GCS\nconfig:\n  bucket: my-bucket\n  endpoint: {}\nprefix: '{prefix}'\n", server.url()))
}

#[tokio::test]
async fn memory() {
    suite::all(&Bucket::memory(suite::options()), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    let dir = tempfile::tempdir().unwrap();
    for prefix in ["", "team/a"] {
        let yaml = format!("type: FILESYSTEM\nconfig:\n  directory: {}\nprefix: '{prefix}'\n", dir.path().display());
        suite::all(&open(&yaml), false).await;
    }
    // Nothing is left but our own folder with its lock.
    let left: Vec<_> = walk(dir.path());
    assert_eq!(left, [dir.path().join(".panoptes/lock")]);
}

#[tokio::test]
async fn names_that_no_call_takes_are_not_listed_and_stop_no_delete() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", dir.path().display());
    let bucket = open(&yaml);
    let id: model::BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let folder = dir.path().join(id.to_string());
    std::fs::create_dir(&folder).unwrap();
    for name in ["a\\b", "c\nd", "\u{85}", "index", "meta.json", "deletion-mark.json"] {
        std::fs::write(folder.join(name), "{}").unwrap();
    }
    let mut names: Vec<String> = bucket.list("").map_ok(|m| m.path).try_collect().await.unwrap();
    names.sort();
    assert_eq!(names, ["deletion-mark.json", "index", "meta.json"].map(|n| format!("{id}/{n}")));
    bucket::block::delete(&bucket, id).await.unwrap();
    assert_eq!(bucket.list("").map_ok(|m| m.path).try_collect::<Vec<_>>().await.unwrap(), Vec::<String>::new());
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() && std::fs::read_dir(&path).unwrap().next().is_some() { walk(&path) } else { vec![path] }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn google() {
    let server = Gcs::start().unwrap();
    server.make_bucket("my-bucket");
    suite::all(&gcs(&server, ""), true).await;
    suite::all(&gcs(&server, "team/a"), false).await;
    suite::parts(&gcs(&server, "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amazon() {
    if testkit::peers::skip(&["versitygw"]) {
        return;
    }
    let server = testkit::s3::S3::start().unwrap();
    server.make_bucket("my-bucket").unwrap();
    suite::all(&open(&server.objstore("my-bucket")), true).await;
    suite::all(&open(&format!("{}prefix: team/a\n", server.objstore("my-bucket"))), false).await;
    suite::parts(&open(&server.objstore("my-bucket"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    if testkit::peers::skip(&["azurite"]) {
        return;
    }
    let server = testkit::azure::Azurite::start().unwrap();
    server.make_container("my-bucket").unwrap();
    suite::all(&open(&server.objstore("my-bucket")), true).await;
    suite::all(&open(&format!("{}prefix: team/a\n", server.objstore("my-bucket"))), false).await;
    suite::parts(&open(&server.objstore("my-bucket"))).await;
}
