//! Blocks exchanged with Thanos: its library (`e2e/peers/thanos-blocks`), its bucket tools, its store gateway.

use crate::support::{fleet, id, meta, write_meta};
use crate::versions::blocks;
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::oracle::Oracle;
use testkit::thanos::Thanos;
use testkit::{peers, prometheus, wait};
use tsdb::block::{health, read_meta, write_meta as replace_meta};
use tsdb::disk::{Disk as _, RealDisk};
use tsdb::header::{self, HEADER_FILE};
use tsdb::index::INDEX_FILE;
use tsdb::meta::{File, Thanos as Section, UploadTime, source};

/// Where the fleet's samples begin.
const FROM: i64 = 1_700_000_000_000 - 1_700_000_000_000 % 7_200_000;

/// A bucket in a folder with one block of ours, as the sidecar would upload it.
fn bucket(dir: &Path) -> Result<PathBuf> {
    let content = fleet(60, FROM);
    let written = write_meta(dir, meta(id(5), &content), &content, None);
    let mut meta = written.meta;
    let mut files = vec![File::new("meta.json", 0)];
    for name in ["chunks/000001", INDEX_FILE] {
        files.push(File::new(name, RealDisk.size(&written.dir.join(name))?));
    }
    files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    meta.thanos = Some(Section {
        version: 1,
        labels: [("cluster".to_owned(), "eu<&>".to_owned()), ("replica".to_owned(), "a".to_owned())].into(),
        source: source::SIDECAR.to_owned(),
        segment_files: vec!["000001".to_owned()],
        files,
        upload_time: UploadTime::from_ms(FROM + 7_300_120),
        ..Section::default()
    });
    replace_meta(&RealDisk, &written.dir, &meta)?;
    // Not uploaded by anybody.
    RealDisk.remove_file(&written.dir.join("tombstones"))?;
    Ok(written.dir)
}

fn build_header(block: &Path, to: &Path) -> Result<Vec<u8>> {
    let bytes = RealDisk.open(&block.join(INDEX_FILE))?;
    header::build(&RealDisk, to, "index", bytes.len() as u64, |r| Ok(bytes.slice(r.start as usize..r.end as usize)))?;
    Ok(std::fs::read(to)?)
}

/// Our index-header is byte by byte Thanos's, for every version of the index; meta.json is written as Thanos writes it; and
/// Thanos finds in our blocks, and in its own, what our health check finds.
#[test]
fn thanoss_library_makes_the_same_bytes() -> Result<()> {
    if peers::skip(&["thanos-blocks"]) {
        return Ok(());
    }
    let mut oracle = Oracle::start("thanos-blocks")?;
    let dir = tempfile::tempdir()?;
    let ours = bucket(&dir.path().join("bucket"))?;
    let mut all = blocks();
    all.push(("ours".to_owned(), ours));
    for (writer, block) in all {
        let theirs = dir.path().join("theirs");
        oracle.ask(&serde_json::json!({"op": "header", "dir": block, "dest": theirs}))?;
        let ours = build_header(&block, &dir.path().join("ours"))?;
        ensure!(std::fs::read(&theirs)? == ours, "{writer}: our index-header is another");

        let theirs = oracle.ask(&serde_json::json!({"op": "meta", "dir": block}))?;
        let mut meta = read_meta(&RealDisk, &block)?;
        // Thanos adds its section to whatever it writes.
        meta.thanos.get_or_insert_default();
        ensure!(theirs["text"] == String::from_utf8(meta.write()?)?, "{writer}: {theirs}");
        ensure!(theirs["group"] == meta.group_key(), "{writer}: {theirs} {}", meta.group_key());

        let theirs = oracle.ask(&serde_json::json!({"op": "health", "dir": block}))?;
        let report = health::check(&RealDisk, &block, &health::Options::default());
        ensure!(theirs["verdict"] == "" && report.counts.is_empty(), "{writer}: {theirs} {:?}", report.problems);
        let (t, o) = (&theirs["stats"], &report.stats);
        for (name, ours) in [
            ("TotalSeries", o.total_series),
            ("TotalChunks", o.total_chunks),
            ("SingleSampleChunks", o.single_sample_chunks),
            ("LabelNamesCount", o.label_names),
            ("MetricLabelValuesCount", o.metric_names),
        ] {
            ensure!(t[name] == ours, "{writer}: {name} {} {ours}", t[name]);
        }
    }
    Ok(())
}

/// Thanos downsamples our block.
#[test]
fn thanos_downsamples_our_block() -> Result<()> {
    if peers::skip(&["thanos-blocks"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let ours = bucket(&dir.path().join("bucket"))?;
    let mut oracle = Oracle::start("thanos-blocks")?;
    let made =
        oracle.ask(&serde_json::json!({"op": "downsample", "dir": ours, "dest": dir.path(), "resolution": 300_000}))?;
    let block = PathBuf::from(made.as_str().context("dir")?);
    // Thanos's library copies the list of files; its compactor makes it anew at the upload.
    let mut meta = read_meta(&RealDisk, &block)?;
    meta.thanos.as_mut().context("no section")?.files.clear();
    replace_meta(&RealDisk, &block, &meta)?;
    let report = health::check(&RealDisk, &block, &health::Options::default());
    ensure!(report.counts.is_empty(), "{:?}", report.problems);
    ensure!(meta.resolution() == 300_000 && report.stats.total_series == 60, "{meta:?}");
    Ok(())
}

/// Thanos's tools accept a bucket with our block, and its store gateway serves it.
#[test]
fn thanos_serves_our_block() -> Result<()> {
    if peers::skip(&["thanos"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("bucket");
    let block = bucket(&root)?;
    let config = format!("{{type: FILESYSTEM, config: {{directory: {}}}}}", root.display());
    let tools = |args: &[&str]| -> Result<String> {
        let config = format!("--objstore.config={config}");
        let out = Command::new(peers::path("thanos")?).args(["tools", "bucket"]).args(args).arg(config).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{args:?}: {text}");
        Ok(text)
    };
    let inspect = tools(&["inspect", "--output=csv"])?;
    ensure!(inspect.contains(&id(5).to_string()) && inspect.contains("cluster=eu<&>"), "{inspect}");
    let verify = tools(&["verify", "--issues=index_known_issues", "--issues=overlapped_blocks"])?;
    ensure!(!verify.contains("level=warn") && !verify.contains("level=error"), "{verify}");

    let data = dir.path().join("data");
    let store =
        Thanos::start("store", &[format!("--objstore.config={config}"), format!("--data-dir={}", data.display())])?;
    let theirs = data.join(id(5).to_string()).join(HEADER_FILE);
    wait::until("the index-header", Duration::from_secs(30), Duration::from_millis(100), || {
        ensure!(theirs.is_file(), "no {}", theirs.display());
        Ok(())
    })?;
    ensure!(std::fs::read(&theirs)? == build_header(&block, &dir.path().join("ours"))?, "the index-header is another");
    let cached = data.join("meta-syncer").join(id(5).to_string()).join("meta.json");
    ensure!(std::fs::read(&cached)? == std::fs::read(block.join("meta.json"))?, "Thanos writes meta.json otherwise");

    let query = Thanos::query(&[store.grpc_address()], &["replica"])?;
    let end = (FROM + 180 * 15_000) / 1000;
    for (expression, want) in [
        ("count({job=~\".+\", cluster=\"eu<&>\"})", 60.0),
        ("sum({job=~\".+\", cluster=\"eu<&>\"})", (0..60).map(|i| f64::from(i * 1000 + 59)).sum()),
        ("sum(count_over_time({job=\"ünï\"}[1h]))", 20.0 * 180.0),
    ] {
        let answer = prometheus::query(&query.url(), expression, Some(end as f64))?;
        let got: f64 = answer[0]["value"][1].as_str().with_context(|| answer.to_string())?.parse()?;
        ensure!((got - want).abs() < 1e-9, "{expression}: {got}, not {want}");
    }
    Ok(())
}
