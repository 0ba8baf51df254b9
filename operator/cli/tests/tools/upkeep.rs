//! What a compactor does, one kind of it by hand, beside Thanos's tools: cleanup, retention, downsample.

use super::copies::block;
use super::{A, B, C, HOUR, START, good, meta, metas, ours, said};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::{peers, wait};
use tsdb::block::Writer;
use tsdb::chunk::{Encoding, XorEncoder};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;

/// A block that is not whole.
const D: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAD";

fn now_s() -> i64 {
    #[allow(clippy::disallowed_methods, reason = "marks are as old as the real clock says")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

fn mark(bucket: &Path, id: &str, age_s: i64) {
    let text = format!(r#"{{"id":"{id}","version":1,"deletion_time":{},"details":"x"}}"#, now_s() - age_s);
    std::fs::write(bucket.join(id).join("deletion-mark.json"), text).unwrap();
}

/// The folders of blocks, with what their marks for deletion say, without spans of time, which everybody writes in their own way.
fn blocks(bucket: &Path) -> BTreeMap<String, Option<String>> {
    let of = |path: &Path| {
        let text = std::fs::read(path.join("deletion-mark.json")).ok()?;
        let details = serde_json::from_slice::<Value>(&text).unwrap()["details"].as_str().unwrap().to_owned();
        Some(details.split(" of ").next().unwrap_or_default().to_owned())
    };
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let entries = std::fs::read_dir(bucket).unwrap().map(|e| e.unwrap());
    // Thanos leaves empty folders of what it deleted.
    entries
        .filter(|entry| name(entry).len() == A.len() && std::fs::read_dir(entry.path()).unwrap().next().is_some())
        .map(|entry| (name(&entry), of(&entry.path())))
        .collect()
}

#[test]
fn cleanup_deletes_what_thanos_deletes() {
    if peers::skip(&["thanos"]) {
        return;
    }
    let make = || {
        let bucket = tempfile::tempdir().unwrap();
        metas(bucket.path());
        mark(bucket.path(), A, 3 * 86_400);
        mark(bucket.path(), B, 3_600);
        let broken = bucket.path().join(D);
        std::fs::create_dir_all(&broken).unwrap();
        std::fs::write(broken.join("index"), "x").unwrap();
        let old = Command::new("touch").args(["-d", "4 days ago"]).arg(broken.join("index")).status().unwrap();
        assert!(old.success());
        bucket
    };
    let (theirs, mine) = (make(), make());
    let done = said(&peers::path("thanos").unwrap(), theirs.path(), &["cleanup"]);
    assert!(done.good, "{}", done.err);
    let done = ours(mine.path(), &["cleanup", "--block-sync-concurrency=20"]);
    assert!(done.good && done.err.contains(A), "{}", done.err);
    assert_eq!(blocks(mine.path()), blocks(theirs.path()));
    assert_eq!(blocks(mine.path()).keys().collect::<Vec<_>>(), [B, C], "what is old and what broke off is gone");
    good(mine.path(), &["cleanup", "--delete-delay=30m"]);
    assert_eq!(blocks(mine.path()).keys().collect::<Vec<_>>(), [C]);
}

#[test]
fn retention_marks_what_thanos_marks_and_keeps_a_coarser_copy() {
    if peers::skip(&["thanos"]) {
        return;
    }
    let make = || {
        let bucket = tempfile::tempdir().unwrap();
        block(bucket.path(), A);
        bucket
    };
    let flags = ["retention", "--retention.resolution-raw=30d", "--retention.resolution-5m=0d"];
    let (theirs, mine) = (make(), make());
    let done = said(&peers::path("thanos").unwrap(), theirs.path(), &flags);
    assert!(done.good, "{}", done.err);
    let plain = make();
    good(plain.path(), &[&flags[..], &["--downsampling.disable"]].concat());
    assert_eq!(blocks(plain.path()), blocks(theirs.path()));
    // Without a word nothing goes that has no coarser copy.
    good(mine.path(), &flags);
    let left = blocks(mine.path());
    assert_eq!(left[A], blocks(theirs.path())[A]);
    let copy = left.keys().find(|id| *id != A).expect("a coarser copy");
    let meta: Value =
        serde_json::from_slice(&std::fs::read(mine.path().join(copy).join("meta.json")).unwrap()).unwrap();
    assert_eq!(meta["thanos"]["downsample"]["resolution"], 300_000);
    let refused = ours(mine.path(), &["retention", "--retention.resolution-raw=1h"]);
    assert!(!refused.good && refused.err.contains("1h"), "{}", refused.err);
}

/// A block of two days.
fn wide(bucket: &Path) {
    let rest = format!(
        r#""compaction":{{"level":3,"sources":["{A}"]}},"thanos":{{"labels":{{"cluster":"prod"}},"downsample":{{"resolution":0}}}}"#
    );
    let meta = BlockMeta::read("meta.json", meta(A, START, 48, &rest).as_bytes()).unwrap();
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    for symbol in ["__name__", "up"] {
        writer.add_symbol(symbol).unwrap();
    }
    let chunks: Vec<(i64, i64, Vec<u8>)> = (0..48)
        .map(|hour| {
            let mut encoder = XorEncoder::default();
            (0..60).for_each(|i| encoder.append(START + hour * HOUR + i * 60_000, (hour * 60 + i) as f64).unwrap());
            (encoder.range().0, encoder.range().1, encoder.bytes().to_vec())
        })
        .collect();
    let new: Vec<NewChunk<'_>> = chunks
        .iter()
        .map(|(min_time, max_time, data)| NewChunk {
            min_time: *min_time,
            max_time: *max_time,
            encoding: Encoding::Xor,
            data,
        })
        .collect();
    writer.add_series(&model::Labels::from_pairs([("__name__", "up")]), &new).unwrap();
    writer.finish().unwrap();
}

/// Resolution, samples and level of the blocks.
fn coarse(bucket: &Path) -> Vec<(i64, i64, i64)> {
    let entries = std::fs::read_dir(bucket).unwrap().map(|e| e.unwrap().path());
    let read = |path: std::path::PathBuf| serde_json::from_slice(&std::fs::read(path.join("meta.json")).ok()?).ok();
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let mut all: Vec<(i64, i64, i64)> = entries
        .filter_map(read)
        .map(|meta: Value| {
            let resolution = number(&meta["thanos"]["downsample"]["resolution"]);
            (resolution, number(&meta["stats"]["numSamples"]), number(&meta["compaction"]["level"]))
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn downsample_makes_the_block_that_thanos_makes() {
    if peers::skip(&["thanos"]) {
        return;
    }
    let (theirs, mine, work) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    wide(theirs.path());
    wide(mine.path());
    let data = format!("--data-dir={}", work.path().join("data").display());
    good(mine.path(), &["downsample", "--single-run", &data]);
    let config = format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", theirs.path().display());
    let mut command = Command::new(peers::path("thanos").unwrap());
    command.args(["tools", "bucket", "downsample", &config, &data]);
    command.arg(format!("--http-address=127.0.0.1:{}", testkit::ports::free().unwrap()));
    let process = testkit::process::Process::spawn("thanos", &mut command, &work.path().join("log")).unwrap();
    wait::until("Thanos's block", Duration::from_secs(60), Duration::from_millis(100), || {
        anyhow::ensure!(coarse(theirs.path()).len() == 2, "{}", process.log());
        Ok(())
    })
    .unwrap();
    assert_eq!(coarse(mine.path()), coarse(theirs.path()));
    assert_eq!(coarse(mine.path())[1].0, 300_000);
    // There is nothing left to do.
    good(mine.path(), &["downsample", "--single-run", &data]);
    assert_eq!(coarse(mine.path()).len(), 2);
}
