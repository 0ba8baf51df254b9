//! `panoptes tools bucket` beside Thanos's, over the same directory as a bucket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod copies;
mod upkeep;

use model::Labels;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tsdb::block::Writer;
use tsdb::chunk::{Encoding, XorEncoder};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;

const A: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAA";
const B: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAB";
const C: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAC";
/// Begin of the first block, ms.
const START: i64 = 1_700_006_400_000;
const HOUR: i64 = 3_600_000;

/// What a program said.
struct Said {
    out: String,
    err: String,
    good: bool,
}

fn said(program: &Path, bucket: &Path, args: &[&str]) -> Said {
    let config = format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", bucket.display());
    let mut command = Command::new(program);
    command.args(["tools", "bucket"]).args(args).arg(config).env("TZ", "UTC");
    let ended = command.output().unwrap();
    Said {
        out: String::from_utf8(ended.stdout).unwrap(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
        good: ended.status.success(),
    }
}

fn ours(bucket: &Path, args: &[&str]) -> Said {
    said(Path::new(env!("CARGO_BIN_EXE_panoptes")), bucket, args)
}

fn good(bucket: &Path, args: &[&str]) -> String {
    let said = ours(bucket, args);
    assert!(said.good, "{args:?}: {}", said.err);
    said.out
}

fn meta(id: &str, from: i64, hours: i64, rest: &str) -> String {
    let until = from + hours * HOUR;
    format!(r#"{{"ulid":"{id}","minTime":{from},"maxTime":{until},"version":1,{rest}}}"#)
}

/// Three blocks without data: raw, failed with odd labels, downsampled.
fn metas(bucket: &Path) {
    let raw = r#""stats":{"numSamples":1234567,"numSeries":12,"numChunks":999},"compaction":{"level":1,
        "sources":["01ARZ3NDEKTSV4RRFFQ69G5FAA"]},"thanos":{"labels":{"cluster":"prod","replica":"a"},
        "downsample":{"resolution":0},"source":"sidecar"}"#;
    let odd = r#""compaction":{"level":3,"failed":true,"sources":["01ARZ3NDEKTSV4RRFFQ69G5FAA"]},
        "thanos":{"labels":{"cluster":"<&>","replica":"b,\"c"},"downsample":{"resolution":300000},"source":"compactor",
        "segment_files":["000001"],"files":[{"rel_path":"index","size_bytes":7}],"index_stats":{"series_max_size":9},
        "upload_time":"2026-11-22T10:00:00.5Z"}"#;
    let coarse = r#""stats":{"numSamples":7},"compaction":{"level":4},"thanos":{"labels":{"cluster":"prod"},
        "downsample":{"resolution":3600000},"source":"compactor"}"#;
    for (id, text) in
        [(A, meta(A, START, 2, raw)), (B, meta(B, START - 48 * HOUR, 48, odd)), (C, meta(C, START + 1, 336, coarse))]
    {
        std::fs::create_dir_all(bucket.join(id)).unwrap();
        std::fs::write(bucket.join(id).join("meta.json"), text).unwrap();
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn ls_and_inspect_print_what_thanos_prints() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let thanos = testkit::peers::path("thanos").unwrap();
    let bucket = tempfile::tempdir().unwrap();
    for args in [["inspect"].as_slice(), &["inspect", "--output=csv"], &["ls"], &["ls", "-o", "json"]] {
        let theirs = said(&thanos, bucket.path(), args);
        assert!(theirs.good, "{}", theirs.err);
        assert_eq!(good(bucket.path(), args), theirs.out, "{args:?} of an empty bucket");
    }
    metas(bucket.path());
    std::fs::create_dir_all(bucket.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAD/chunks")).unwrap();
    std::fs::write(bucket.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAD/index"), "x").unwrap();
    // Thanos lists in any order.
    let cases: &[&[&str]] = &[
        &["ls"],
        &["ls", "--output=wide"],
        &["ls", "-o", "json"],
        &["ls", "-o", "{{.ULID}} {{.MinTime}} {{.Compaction.Level}} {{.Thanos.Labels.cluster}} {{.Thanos.Source}}"],
        &["ls", "-o", "{{.Thanos.Labels}} {{.Thanos.Labels.nope}}"],
        &["ls", "--min-time=2023-11-15T00:00:00Z", "--max-time=2023-11-15T00:00:00Z"],
        &["ls", "--exclude-delete"],
        &["ls", "--no-exclude-delete"],
    ];
    for args in cases {
        let theirs = said(&thanos, bucket.path(), args);
        assert!(theirs.good, "{}", theirs.err);
        assert_eq!(sorted(&good(bucket.path(), args)), sorted(&theirs.out), "{args:?}");
    }
    assert_eq!(good(bucket.path(), &["ls"]), format!("{A}\n{B}\n{C}\n"), "ours are in order");
    let cases: &[&[&str]] = &[
        &["inspect"],
        &["inspect", "--output=csv"],
        &["inspect", "--output=tsv", "--sort-by=#SAMPLES"],
        &["inspect", "--sort-by=RANGE", "--sort-by=LABELS"],
        &["inspect", "--sort-by=UNTIL-DOWN", "--output=csv"],
        &["inspect", "-l", "cluster=\"prod\"", "--output=csv"],
        &["inspect", "-l", "cluster=\"prod\"", "-l", "replica=\"a\""],
        &["inspect", "--selector=cluster=\"none\"", "--output=tsv"],
    ];
    for args in cases {
        let theirs = said(&thanos, bucket.path(), args);
        assert!(theirs.good, "{}", theirs.err);
        assert_eq!(good(bucket.path(), args), theirs.out, "{args:?}");
    }
}

/// All files of a folder.
fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn plan_tells_what_is_to_be_done_and_writes_nothing() {
    let bucket = tempfile::tempdir().unwrap();
    let block = |i: u8, from: i64, labels: &str| {
        let id = format!("01ARZ3NDEKTSV4RRFFQ69G5FB{i}");
        let rest = format!(
            r#""compaction":{{"level":1,"sources":["{id}"]}},"thanos":{{"labels":{{{labels}}},"downsample":{{"resolution":0}},
            "source":"sidecar"}}"#
        );
        let dir = bucket.path().join(&id);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("meta.json"), meta(&id, START + from * HOUR, 2, &rest)).unwrap();
        std::fs::write(dir.join("index"), "twelve bytes").unwrap();
        id
    };
    // START is a multiple of 8 hours. Five blocks of one replica, one of the other.
    let ids: Vec<String> = (0..5).map(|i| block(i, i64::from(i) * 2, r#""cluster":"prod","replica":"a""#)).collect();
    let other = block(5, 2, r#""cluster":"prod","replica":"b""#);
    let before = files(bucket.path());
    let plan = |args: &[&str]| {
        let config =
            format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", bucket.path().display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_panoptes"));
        let ended = command.args(["tools", "plan", "--output=tsv"]).args(args).arg(config).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ended.status.success(), text(&ended.stdout), text(&ended.stderr))
    };
    let (good, out, err) = plan(&[]);
    assert!(good, "{err}");
    let want = format!(
        "compact\t2023-11-15T00:00:00Z\t2023-11-15T08:00:00Z\t8h0m0s\t0s\t\"{{cluster=\"\"prod\"\", replica=\"\"a\"\"}}\"\t\
         they fill 8h\t{}",
        ids[..4].join(" ")
    );
    assert_eq!(out.lines().skip(1).collect::<Vec<_>>(), [want]);
    assert!(err.contains("1 items now, 0 wait; until nothing is left to do: 1 compactions of 4 blocks"), "{err}");

    let (good, out, err) = plan(&["--deduplication.replica-label=replica"]);
    assert!(good, "{err}");
    assert!(
        out.lines().nth(1).unwrap().starts_with("merge\t") && out.contains(&format!("{} {other}", ids[1])),
        "{out}"
    );
    let (_, out, _) = plan(&["--compact.block-max-index-size=50B"]);
    assert!(out.contains("mark no-compact (index-size-exceeding)"), "{out}");
    let (_, out, _) = plan(&["--retention.resolution-raw=40h"]);
    assert_eq!(out.matches("downsample to 5m0s").count(), 6, "{out}");
    let (_, out, _) = plan(&["--retention.resolution-raw=40h", "--downsampling.disable"]);
    assert_eq!(out.matches("mark for deletion").count(), 6, "{out}");
    let (good, _, err) = plan(&["--retention.resolution-raw=39h"]);
    assert!(!good && err.contains("these settings can't be used: raw data is kept for 1d15h only"), "{err}");
    assert_eq!(files(bucket.path()), before, "something was written");
}

#[test]
fn marks_are_written_once_and_thanos_reads_them() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let thanos = testkit::peers::path("thanos").unwrap();
    let bucket = tempfile::tempdir().unwrap();
    metas(bucket.path());
    let (id_a, id_b) = (format!("--id={A}"), format!("--id={B}"));
    let deletion = ["mark", &id_a, &id_b, "--marker=deletion-mark.json", "--details=by a test"];
    good(bucket.path(), &deletion);
    let file = bucket.path().join(A).join("deletion-mark.json");
    let first = std::fs::read(&file).unwrap();
    let said_again = ours(bucket.path(), &deletion);
    assert!(said_again.good && said_again.err.contains("stays as it is"), "{}", said_again.err);
    assert_eq!(std::fs::read(&file).unwrap(), first);
    // Thanos knows it as a mark; it takes a second or so until the mark is older than its delay of zero.
    #[allow(clippy::disallowed_methods, reason = "the age of a mark is measured by Thanos in real time")]
    std::thread::sleep(Duration::from_millis(1100));
    for program in [thanos.as_path(), Path::new(env!("CARGO_BIN_EXE_panoptes"))] {
        let left = said(program, bucket.path(), &["ls", "--exclude-delete"]);
        assert_eq!(left.out, format!("{C}\n"), "{}", left.err);
    }
    for marker in ["no-compact-mark.json", "no-downsample-mark.json"] {
        let flag = format!("--marker={marker}");
        let id_c = format!("--id={C}");
        good(bucket.path(), &["mark", &id_c, &flag, "--details=d"]);
        let mine: serde_json::Value =
            serde_json::from_slice(&std::fs::read(bucket.path().join(C).join(marker)).unwrap()).unwrap();
        std::fs::remove_file(bucket.path().join(C).join(marker)).unwrap();
        assert!(said(&thanos, bucket.path(), &["mark", &id_c, &flag, "--details=d"]).good);
        let mut theirs: serde_json::Value =
            serde_json::from_slice(&std::fs::read(bucket.path().join(C).join(marker)).unwrap()).unwrap();
        let time = if marker.contains("compact") { "no_compact_time" } else { "no_downsample_time" };
        theirs[time] = mine[time].clone();
        assert_eq!(mine, theirs);
        good(bucket.path(), &["mark", &id_c, &flag, "--remove"]);
        assert!(!bucket.path().join(C).join(marker).exists());
        assert!(ours(bucket.path(), &["mark", &id_c, &flag, "--remove"]).err.contains("is not there"));
    }
    let no_details = ours(bucket.path(), &["mark", &id_a, "--marker=no-compact-mark.json"]);
    assert!(!no_details.good && no_details.err.contains("--details"), "{}", no_details.err);
    let other = ["mark", "--id=01ARZ3NDEKTSV4RRFFQ69G5FAZ", "--marker=no-compact-mark.json", "--details=x"];
    let absent = ours(bucket.path(), &other);
    assert!(!absent.good && absent.err.contains("there is no block"), "{}", absent.err);
    assert!(!bucket.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAZ").exists());
}

/// A whole block with one series of 120 samples.
fn block(bucket: &Path, id: &str, from: i64) {
    let rest = format!(r#""compaction":{{"level":1,"sources":["{id}"]}},"thanos":{{"labels":{{"cluster":"prod"}}}}"#);
    let meta = BlockMeta::read("meta.json", meta(id, from, 2, &rest).as_bytes()).unwrap();
    let mut encoder = XorEncoder::default();
    for i in 0..120 {
        encoder.append(from + i * 15_000, i as f64).unwrap();
    }
    let (min_time, max_time) = encoder.range();
    let data = encoder.bytes();
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    for symbol in ["__name__", "up"] {
        writer.add_symbol(symbol).unwrap();
    }
    let chunk = NewChunk { min_time, max_time, encoding: Encoding::Xor, data: &data };
    writer.add_series(&Labels::from_pairs([("__name__", "up")]), &[chunk]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn verify_tells_all_that_is_wrong_and_changes_nothing() {
    let bucket = tempfile::tempdir().unwrap();
    block(bucket.path(), A, START);
    block(bucket.path(), B, START + 2 * HOUR);
    let clean = ours(bucket.path(), &["verify"]);
    assert!(clean.good && clean.out.is_empty() && clean.err.contains("2 blocks, no problem"), "{}", clean.err);

    // One block overlaps, one has a flipped bit in its chunk, one is a part of one, one mark is broken.
    block(bucket.path(), C, START + HOUR);
    let segment = bucket.path().join(B).join("chunks/000001");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[40] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    std::fs::create_dir_all(bucket.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAD")).unwrap();
    std::fs::write(bucket.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAD/index"), "x").unwrap();
    std::fs::write(bucket.path().join(A).join("no-compact-mark.json"), "{").unwrap();
    let before = tree(bucket.path());
    let found = ours(bucket.path(), &["verify"]);
    assert!(
        !found.good && found.err.contains("4 problems in 3 blocks; nothing was changed"),
        "{}{}",
        found.out,
        found.err
    );
    let has = |parts: &[&str]| found.out.lines().any(|line| parts.iter().all(|p| line.contains(p)));
    assert!(has(&["overlapped_blocks", A, B, C, "3 blocks"]), "{}", found.out);
    assert!(has(&["index_known_issues", B, "chunks/000001", "{__name__=\"up\"}"]), "{}", found.out);
    assert!(has(&["partial_blocks", "01ARZ3NDEKTSV4RRFFQ69G5FAD", "no meta.json"]), "{}", found.out);
    assert!(has(&["broken_marks", A]), "{}", found.out);
    assert_eq!(tree(bucket.path()), before);

    let one = ours(bucket.path(), &["verify", "--issues=overlapped_blocks"]);
    assert!(!one.good && one.out.lines().count() == 1, "{}", one.out);
    let healthy = format!("--id={A}");
    let one = ours(bucket.path(), &["verify", "-i", "index_known_issues", &healthy]);
    assert!(one.good && one.out.is_empty(), "{}{}", one.out, one.err);
    let repair = ours(bucket.path(), &["verify", "--repair"]);
    assert!(!repair.good && repair.err.contains("no-compact-mark.json"), "{}", repair.err);
}

/// All files with their contents.
fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// The list of blocks over HTTP, of a process of its own, beside Thanos's: the same fields with the same values.
#[test]
fn web_serves_the_list_of_blocks_as_thanos_does() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bucket = dir.path().join("bucket");
    metas(&bucket);
    // What is no block is in neither list.
    std::fs::create_dir_all(bucket.join("01ARZ3NDEKTSV4RRFFQ69G5FAD")).unwrap();
    std::fs::write(bucket.join("01ARZ3NDEKTSV4RRFFQ69G5FAD/meta.json"), "{").unwrap();
    let config = format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", bucket.display());
    let start = |name: &str, program: &Path| {
        let address = format!("127.0.0.1:{}", testkit::ports::free().unwrap());
        let mut command = Command::new(program);
        command.args(["tools", "bucket", "web", "--label=cluster", "--refresh=1s", &config]);
        command.arg(format!("--http-address={address}")).current_dir(dir.path());
        let process = testkit::process::Process::spawn(name, &mut command, &dir.path().join(name)).unwrap();
        (process, format!("http://{address}/api/v1/blocks"))
    };
    let patience = Duration::from_secs(30);
    let list = |process: &mut testkit::process::Process, url: &str, count: usize| {
        let mut data = serde_json::Value::Null;
        let wait = process.wait_for(url, patience, || {
            let answer = testkit::http::get(url)?.json()?;
            data = answer["data"].clone();
            let there = data["blocks"].as_array().map_or(0, Vec::len);
            anyhow::ensure!(answer["status"] == "success" && there == count, "{there} blocks, not {count}: {answer}");
            Ok(())
        });
        wait.unwrap();
        data["blocks"].as_array_mut().unwrap().sort_by_key(|b| b["ulid"].to_string());
        data
    };
    let (mut thanos, theirs) = start("thanos", &testkit::peers::path("thanos").unwrap());
    let (mut panoptes, ours) = start("panoptes", Path::new(env!("CARGO_BIN_EXE_panoptes")));
    let (global, mine) = (list(&mut thanos, &theirs, 3), list(&mut panoptes, &ours, 3));
    assert_eq!((&global["label"], &mine["label"]), (&"cluster".into(), &"cluster".into()));
    assert_eq!(global["err"], mine["err"]);
    assert!(mine["refreshedAt"].as_str().unwrap().starts_with("20"), "{mine}");
    assert_eq!(global["blocks"], mine["blocks"]);
    // Both follow the bucket.
    std::fs::remove_dir_all(bucket.join(B)).unwrap();
    list(&mut thanos, &theirs, 2);
    list(&mut panoptes, &ours, 2);
    // One that goes away is told, and the list stays.
    std::fs::rename(&bucket, dir.path().join("away")).unwrap();
    std::fs::write(&bucket, "no folder").unwrap();
    let told = panoptes.wait_for(&ours, patience, || {
        let data = testkit::http::get(&ours)?.json()?["data"].clone();
        anyhow::ensure!(data["err"].is_string() && data["blocks"].as_array().is_some_and(|b| b.len() == 2), "{data}");
        Ok(())
    });
    told.unwrap();
    assert_eq!(testkit::http::get(&format!("{ours}?view=all")).unwrap().status, 400);
}

#[test]
fn one_of_the_two_flags_names_the_bucket() {
    let bin = Path::new(env!("CARGO_BIN_EXE_panoptes"));
    let run = |args: &[&str]| {
        let ended = Command::new(bin).args(["tools", "bucket", "ls"]).args(args).output().unwrap();
        (ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (good, err) = run(&[]);
    assert!(!good && err.contains("--objstore.config-file"), "{err}");
    let (good, err) = run(&["--objstore.config=a", "--objstore.config-file=b"]);
    assert!(!good && err.contains("give one of them"), "{err}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objstore.yml");
    std::fs::write(&file, format!("type: FILESYSTEM\nconfig: {{directory: {}/bucket}}\n", dir.path().display()))
        .unwrap();
    let (good, err) = run(&[&format!("--objstore.config-file={}", file.display())]);
    assert!(good, "{err}");
}
