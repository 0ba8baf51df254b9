//! The promises of `CONTRACT.md`, in its order.

use bucket::layers::retry::Policy;
use bucket::store::Entry;
use bucket::{Bucket, Error, Kind, Meta, Options, Sink};
use bytes::Bytes;
use futures::TryStreamExt as _;
use model::world::World;
use std::sync::Arc;
use std::time::Duration;
use tsdb::disk::RealDisk;

pub(crate) fn options() -> Options {
    let retry = Policy {
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(200),
        ..Policy::default()
    };
    Options { retry, ..Options::new(World::real()) }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind
}

async fn names(bucket: &Bucket, prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = bucket.list(prefix).map_ok(|m: Meta| m.path).try_collect().await.unwrap();
    names.sort();
    names
}

async fn level(bucket: &Bucket, prefix: &str) -> Vec<String> {
    let mut names: Vec<String> =
        bucket.list_dir(prefix).map_ok(|e: Entry| e.path().to_owned()).try_collect().await.unwrap();
    names.sort();
    names
}

/// What came of a range: an attempt that broke off begins again.
#[derive(Default)]
pub(crate) struct Came(pub(crate) Vec<u8>);

#[async_trait::async_trait]
impl Sink for Came {
    async fn take(&mut self, before: u64, bytes: Bytes) {
        assert!(before == 0 || before == self.0.len() as u64, "{before} behind {}", self.0.len());
        assert!(bytes.len() <= 512 << 10, "{} bytes at once", bytes.len());
        self.0.truncate(before as usize);
        self.0.extend_from_slice(&bytes);
    }
}

/// Everything, on an empty bucket; `pages`: also more names than one page holds.
pub(crate) async fn all(bucket: &Bucket, pages: bool) {
    one_writer(bucket).await;
    races(bucket).await;
    if pages {
        many(bucket).await;
    }
    assert_eq!(names(bucket, "").await, Vec::<String>::new(), "the suite leaves nothing");
}

/// What holds for one writer, also when answers are lost.
pub(crate) async fn one_writer(bucket: &Bucket) {
    whole_objects(bucket).await;
    conditions(bucket).await;
    listings(bucket).await;
    uploads(bucket).await;
}

async fn whole_objects(bucket: &Bucket) {
    assert_eq!(kind(bucket.get("a/b", 10).await), Kind::NotFound);
    assert_eq!(kind(bucket.get_range("a/b", 0..1).await), Kind::NotFound);
    assert_eq!(kind(bucket.head("a/b").await), Kind::NotFound);
    assert!(!bucket.exists("a/b").await.unwrap());
    bucket.delete("a/b").await.unwrap();

    let before = bucket.world().clock.now_ms();
    let version = bucket.put("a/b", "0123456789").await.unwrap();
    let object = bucket.get("a/b", 10).await.unwrap();
    assert_eq!((&object.bytes[..], object.meta.size, object.meta.path.as_str()), (&b"0123456789"[..], 10, "a/b"));
    assert_eq!(object.meta.version, version, "a read tells the version that the write told");
    assert!((before - 5000..before + 60_000).contains(&object.meta.modified_ms), "{}", object.meta.modified_ms);
    let head = bucket.head("a/b").await.unwrap();
    assert_eq!((head.size, &head.version), (10, &version));
    assert!(bucket.exists("a/b").await.unwrap());

    assert_eq!(kind(bucket.get("a/b", 9).await), Kind::TooLarge);
    assert_eq!(bucket.get_range("a/b", 3..7).await.unwrap(), "3456");
    assert_eq!(bucket.get_range("a/b", 9..10).await.unwrap(), "9");
    assert_eq!(bucket.get_range("a/b", 4..4).await.unwrap(), "");
    assert_eq!(kind(bucket.get_range("a/b", 8..11).await), Kind::Invalid);
    assert_eq!(kind(bucket.get_range("a/b", 10..12).await), Kind::Invalid);
    let ranges = [5..7, 0..2, 1..6, 3..3, 9..10];
    let parts = bucket.get_ranges("a/b", &ranges).await.unwrap();
    assert_eq!(parts, ["56", "01", "12345", "", "9"].map(Bytes::from));

    for range in [3..7, 0..10, 4..4] {
        let mut came = Came::default();
        bucket.get_range_into("a/b", range.clone(), &mut came).await.unwrap();
        assert_eq!(came.0, b"0123456789"[range.start as usize..range.end as usize]);
    }
    assert_eq!(kind(bucket.get_range_into("a/b", 8..11, &mut Came::default()).await), Kind::Invalid);
    let long: Bytes = (0..300_000u32).flat_map(|n| [n as u8, (n >> 8) as u8]).collect();
    bucket.put("a/b", long.clone()).await.unwrap();
    let mut came = Came::default();
    bucket.get_range_into("a/b", 1..599_999, &mut came).await.unwrap();
    assert!(came.0 == long[1..599_999], "{} bytes", came.0.len());

    bucket.put("a/b", "").await.unwrap();
    assert_eq!(bucket.get("a/b", 0).await.unwrap().bytes, "");
    assert_eq!(bucket.head("a/b").await.unwrap().size, 0);
    bucket.delete("a/b").await.unwrap();
    bucket.delete("a/b").await.unwrap();
    assert_eq!(kind(bucket.get("a/b", 10).await), Kind::NotFound);
    for bad in ["", "/a", "a/", "a//b", "../a", "a\\b"] {
        assert_eq!(kind(bucket.put(bad, "x").await), Kind::Invalid, "{bad:?}");
    }
    // Names that must be quoted somewhere on the way.
    for odd in ["a b", "a+b", "a%2Fb", "ü/ß", "a&b<c>", "a=1?b#c", "01.commit", "a'\"b"] {
        bucket.put(odd, odd.to_owned()).await.unwrap();
        assert_eq!(bucket.get(odd, 99).await.unwrap().bytes, odd);
        assert_eq!(names(bucket, "").await, [odd]);
        bucket.delete(odd).await.unwrap();
    }
}

async fn conditions(bucket: &Bucket) {
    let first = bucket.create("lease", "one").await.unwrap();
    assert_eq!(kind(bucket.create("lease", "two").await), Kind::Exists);
    let second = bucket.update("lease", "two", &first).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(kind(bucket.update("lease", "three", &first).await), Kind::Changed);
    assert_eq!(bucket.get("lease", 9).await.unwrap().bytes, "two");
    // The version of a read is as good as that of a write.
    let read = bucket.get("lease", 9).await.unwrap().meta.version;
    let third = bucket.update("lease", "two", &read).await.unwrap();
    let head = bucket.head("lease").await.unwrap().version;
    assert_eq!(head, third);
    bucket.delete("lease").await.unwrap();
    assert_eq!(kind(bucket.update("lease", "four", &third).await), Kind::Changed);
    assert!(!bucket.exists("lease").await.unwrap());
}

/// Of many at once, one wins; the sum of updates is the number of successes.
async fn races(bucket: &Bucket) {
    let creates = (0..16).map(|n| {
        let bucket = bucket.clone();
        tokio::spawn(async move { bucket.create("race", format!("writer {n}")).await.is_ok().then_some(n) })
    });
    let winners: Vec<i32> = futures::future::join_all(creates).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(bucket.get("race", 99).await.unwrap().bytes, format!("writer {}", winners[0]));

    bucket.put("race", "0").await.unwrap();
    let updates = (0..8).map(|_| {
        let bucket = bucket.clone();
        tokio::spawn(async move {
            let mut won = 0u32;
            for _ in 0..10 {
                let object = bucket.get("race", 99).await.unwrap();
                let n: u32 = std::str::from_utf8(&object.bytes).unwrap().parse().unwrap();
                match bucket.update("race", (n + 1).to_string(), &object.meta.version).await {
                    Ok(_) => won += 1,
                    Err(e) if e.kind == Kind::Changed => {}
                    // Stores may answer "try again" for requests that meet, longer than our patience here.
                    Err(e) => assert_eq!(e.kind, Kind::Unavailable, "{e}"),
                }
            }
            won
        })
    });
    let won: u32 = futures::future::join_all(updates).await.into_iter().map(Result::unwrap).sum();
    assert!(won > 0);
    assert_eq!(bucket.get("race", 99).await.unwrap().bytes, won.to_string());
    bucket.delete("race").await.unwrap();
}

async fn listings(bucket: &Bucket) {
    let all = ["a/1", "a/2", "a/b/3", "ab", "b", "c/d/e/4"];
    for name in all {
        bucket.put(name, name).await.unwrap();
    }
    assert_eq!(names(bucket, "").await, all);
    assert_eq!(names(bucket, "a").await, ["a/1", "a/2", "a/b/3"]);
    assert_eq!(names(bucket, "a/").await, ["a/1", "a/2", "a/b/3"]);
    assert_eq!(names(bucket, "none").await, Vec::<String>::new());
    assert_eq!(level(bucket, "").await, ["a/", "ab", "b", "c/"]);
    assert_eq!(level(bucket, "a").await, ["a/1", "a/2", "a/b/"]);
    assert_eq!(level(bucket, "c/d").await, ["c/d/e/"]);
    let listed: Vec<Meta> = bucket.list("a/b").try_collect().await.unwrap();
    assert_eq!((listed.len(), listed[0].size), (1, 5));
    for name in all {
        bucket.delete(name).await.unwrap();
        assert!(!names(bucket, "").await.contains(&name.to_owned()), "a listing after a delete");
    }
    assert_eq!(level(bucket, "").await, Vec::<String>::new(), "no empty directory is listed");
}

async fn uploads(bucket: &Bucket) {
    let dir = tempfile::tempdir().unwrap();
    for size in [0usize, 1, 300_000, 5 << 20] {
        let body: Vec<u8> = (0..size).map(|n| (n * 7 + n / 251) as u8).collect();
        let file = dir.path().join("f");
        std::fs::write(&file, &body).unwrap();
        let uploaded = bucket.upload_file("u/chunks/000001", &RealDisk, &file).await.unwrap();
        assert_eq!(uploaded.size, size as u64);
        let object = bucket.get("u/chunks/000001", 1 << 30).await.unwrap();
        assert!(object.bytes == body, "{size} bytes come back as {}", object.bytes.len());
    }
    assert_eq!(kind(bucket.upload_file("u/x", &RealDisk, &dir.path().join("none")).await), Kind::Local);
    bucket.delete("u/chunks/000001").await.unwrap();
}

/// More names than a page of any provider.
async fn many(bucket: &Bucket) {
    let puts = |from: usize| (from..from + 50).map(|n| bucket.put_owned(format!("many/{n:05}/meta.json")));
    for from in (0..5100).step_by(50) {
        futures::future::join_all(puts(from)).await;
    }
    assert_eq!(names(bucket, "many").await.len(), 5100);
    let directories = level(bucket, "many").await;
    assert_eq!((directories.len(), directories[5099].as_str()), (5100, "many/05099/"));
    for from in (0..5100).step_by(50) {
        let deletes = (from..from + 50).map(|n| bucket.delete_owned(format!("many/{n:05}/meta.json")));
        futures::future::join_all(deletes).await;
    }
}

trait Owned {
    async fn put_owned(&self, path: String);
    async fn delete_owned(&self, path: String);
}

impl Owned for Bucket {
    async fn put_owned(&self, path: String) {
        self.put(&path, "{}").await.unwrap();
    }

    async fn delete_owned(&self, path: String) {
        self.delete(&path).await.unwrap();
    }
}

/// A large upload whose single request breaks goes on in parts.
pub(crate) async fn parts(bucket: &Bucket) {
    let size = (33 << 20) + 123;
    let body: Bytes = (0..size).map(|n: usize| (n / 3 + n / 70_001) as u8).collect::<Vec<u8>>().into();
    bucket.upload("big", Arc::new(body.clone())).await.unwrap();
    let object = bucket.get("big", 1 << 30).await.unwrap();
    assert!(object.bytes == body, "{size} bytes come back as {}", object.bytes.len());
    bucket.delete("big").await.unwrap();
}
