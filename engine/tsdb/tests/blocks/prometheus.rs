//! Blocks exchanged with Prometheus: its library (`e2e/peers/prometheus-blocks`), promtool, and a running server.

use crate::random;
use crate::support::{Content, files, fleet, hash, hex, id, meta, read, symbols, write, write_series};
use anyhow::{Context as _, Result, ensure};
use model::Labels;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::oracle::Oracle;
use testkit::peers;
use testkit::prometheus::{Options, Prometheus};
use tsdb::block::{Block, Writer, health};
use tsdb::disk::RealDisk;
use tsdb::tombstones::{Stone, Tombstones};

fn json(content: &Content) -> serde_json::Value {
    let labels = |l: &Labels| l.iter().map(|(n, v)| (n.to_owned(), v.into())).collect::<serde_json::Map<_, _>>();
    content
        .iter()
        .map(|(l, chunks)| {
            let chunks: Vec<_> = chunks
                .iter()
                .map(|c| {
                    serde_json::json!({
                        "min_t": c.min_time, "max_t": c.max_time, "encoding": c.encoding, "data": hex(&c.data)})
                })
                .collect();
            serde_json::json!({"labels": labels(l), "chunks": chunks})
        })
        .collect()
}

/// Segments and index are byte by byte those that Prometheus's own writers make of the same input, wherever segments end.
#[test]
fn index_and_segments_are_those_of_prometheus() -> Result<()> {
    if peers::skip(&["prometheus-blocks"]) {
        return Ok(());
    }
    let mut oracle = Oracle::start("prometheus-blocks")?;
    let mut runner = TestRunner::deterministic();
    for round in 0..60u64 {
        let mut content = if round == 0 { Content::new() } else { tree(&mut runner, 30)? };
        for c in content.iter_mut().flat_map(|(_, c)| c) {
            // Prometheus's writer takes its own encodings only.
            c.encoding = [1, 2, 3][c.data.len() % 3];
        }
        let segment = [None, Some(300), Some(1000)][round as usize % 3];
        let (theirs, ours) = (tempfile::tempdir()?, tempfile::tempdir()?);
        oracle.ask(&serde_json::json!({
            "op": "write_raw", "dir": theirs.path(), "ulid": id(round).to_string(), "series": json(&content),
            "segment_size": segment.unwrap_or(0),
        }))?;
        let written = write(ours.path(), id(round), &content, segment);
        let theirs = theirs.path().join(id(round).to_string());
        let named = |dir: &Path| -> Vec<_> {
            files(dir).into_iter().filter(|(n, _)| n == "index" || n.starts_with("chunks")).collect()
        };
        let (a, b) = (named(&theirs), named(&written.dir));
        let names = |f: &[(String, Vec<u8>)]| f.iter().map(|(n, b)| (n.clone(), b.len())).collect::<Vec<_>>();
        if content.is_empty() {
            // Without a chunk Prometheus begins no segment.
            ensure!(a == b, "{:?} {:?}", names(&a), names(&b));
            continue;
        }
        ensure!(names(&a) == names(&b), "round {round}, {segment:?}: {:?} {:?}", names(&a), names(&b));
        for ((name, x), (_, y)) in a.iter().zip(&b) {
            let at = x.iter().zip(y).position(|(p, q)| p != q);
            ensure!(at.is_none(), "round {round}: {name} differs at byte {at:?}");
        }
        ensure!(read(&theirs) == content, "round {round}: we read something else in Prometheus's block");
        let meta = std::fs::read(theirs.join("meta.json"))?;
        let parsed = tsdb::BlockMeta::read("meta.json", &meta)?;
        ensure!(parsed.max_time == written.meta.max_time && parsed.stats.num_samples == written.meta.stats.num_samples);
        // But for the newline at the end, which Thanos writes and Prometheus does not.
        ensure!(parsed.write()? == [&meta[..], b"\n"].concat(), "meta.json is written otherwise");
    }
    Ok(())
}

fn tree(runner: &mut TestRunner, series: usize) -> Result<Content> {
    let tree = random::content(series).new_tree(runner).map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(tree.current())
}

/// A block cut by Prometheus from a head, floats and histograms, is read by us sample by sample, found healthy, and
/// written again byte by byte.
#[test]
fn blocks_of_prometheus_are_read_and_written_again() -> Result<()> {
    if peers::skip(&["prometheus-blocks"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut oracle = Oracle::start("prometheus-blocks")?;
    let made = oracle.ask(&serde_json::json!({
        "op": "generate", "dir": dir.path(), "series": 400, "samples": 300, "start": 1_700_000_000_000i64,
        "interval": 15000, "histograms": 5, "seed": 7,
    }))?;
    let block = PathBuf::from(made["dir"].as_str().context("dir")?);
    let theirs = oracle.ask(&serde_json::json!({"op": "block", "dir": block}))?;
    ensure!(theirs["hash"] == hash(&block), "the samples that we read are others");
    let report = health::check(&RealDisk, &block, &health::Options::default());
    ensure!(report.counts.is_empty(), "{:?}", report.problems);
    ensure!(report.stats.total_samples == 400 * 300 && report.stats.total_series == 400, "{:?}", report.stats);

    let content = read(&block);
    let again = tempfile::tempdir()?;
    let open = Block::open(&RealDisk, &block)?;
    let all: Vec<String> =
        open.index().symbols().iter().map(|(_, s)| String::from_utf8_lossy(s).into_owned()).collect();
    // A head writes the empty symbol, too, which no series uses.
    ensure!(all.iter().filter(|s| !s.is_empty()).eq(symbols(&content).iter()), "{all:?}");
    let mut writer = Writer::create(&RealDisk, again.path(), meta(open.meta().id, &content))?;
    for symbol in &all {
        writer.add_symbol(symbol)?;
    }
    let written = write_series(writer, &content);
    for (name, bytes) in files(&block) {
        if name != "meta.json" {
            ensure!(std::fs::read(written.dir.join(&name))? == bytes, "{name} is written otherwise");
        }
    }
    ensure!(written.meta.stats == open.meta().stats, "{:?} {:?}", written.meta.stats, open.meta().stats);

    // Theirs reads ours; and their compactor joins two of ours.
    let ours = oracle.ask(&serde_json::json!({"op": "block", "dir": written.dir}))?;
    ensure!(ours["hash"] == theirs["hash"]);
    let later = write(again.path(), id(99), &fleet(50, 1_700_010_000_000), None);
    let joined = tempfile::tempdir()?;
    let made =
        oracle.ask(&serde_json::json!({"op": "compact", "dest": joined.path(), "dirs": [written.dir, later.dir]}))?;
    let ulid = made["ulids"][0].as_str().context("ulid")?;
    let both = read(&joined.path().join(ulid));
    ensure!(both.len() == 450);
    let report = health::check(&RealDisk, &joined.path().join(ulid), &health::Options::default());
    ensure!(report.counts.is_empty(), "{:?}", report.problems);
    Ok(())
}

/// Blocks that promtool makes of a text are read by us, sample by sample.
#[test]
fn blocks_of_promtool_are_read() -> Result<()> {
    if peers::skip(&["promtool", "prometheus-blocks"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut text = String::from("# TYPE demo gauge\n");
    for series in 0..20 {
        for i in 0..700 {
            let at = 1_700_000_000 + i * 15;
            text +=
                &format!("demo{{a=\"{series}\",\"ünï\"=\"{}\"}} {} {at}\n", series % 3, f64::from(i * series) / 7.0);
        }
    }
    text += "# EOF\n";
    let from = dir.path().join("metrics");
    std::fs::write(&from, text)?;
    let to = dir.path().join("data");
    let out = Command::new(peers::path("promtool")?)
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&from, &to])
        .output()?;
    ensure!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let mut oracle = Oracle::start("prometheus-blocks")?;
    let (mut blocks, mut samples) = (0, 0);
    for entry in std::fs::read_dir(&to)? {
        let block = entry?.path();
        if !block.join("meta.json").is_file() {
            continue;
        }
        let theirs = oracle.ask(&serde_json::json!({"op": "block", "dir": block}))?;
        ensure!(theirs["hash"] == hash(&block), "the samples that we read are others");
        let report = health::check(&RealDisk, &block, &health::Options::default());
        ensure!(report.counts.is_empty(), "{:?}", report.problems);
        blocks += 1;
        samples += report.stats.total_samples;
    }
    ensure!(blocks >= 2 && samples == 20 * 700, "{blocks} blocks, {samples} samples");
    Ok(())
}

#[test]
fn tombstones_are_exchanged_with_prometheus() -> Result<()> {
    if peers::skip(&["prometheus-blocks"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut oracle = Oracle::start("prometheus-blocks")?;
    let stones = [(7u64, -5i64, 10i64), (7, 11, 20), (7, 40, 50), (900, 0, i64::MAX)];
    let wire: Vec<_> = stones.iter().map(|(r, a, b)| serde_json::json!({"ref": r, "min_t": a, "max_t": b})).collect();
    oracle.ask(&serde_json::json!({"op": "write_tombstones", "dir": dir.path(), "stones": wire}))?;
    let theirs = tsdb::block::read_tombstones(&RealDisk, dir.path())?;
    let ours = Tombstones::new(stones.map(|(series, min_time, max_time)| Stone { series, min_time, max_time }).into());
    ensure!(theirs == ours && ours.of(7).len() == 2, "{theirs:?}");
    tsdb::disk::replace(&RealDisk, &dir.path().join("tombstones"), &ours.write())?;
    let read = oracle.ask(&serde_json::json!({"op": "read_tombstones", "dir": dir.path()}))?;
    let mut read: Vec<_> = read["stones"].as_array().context("stones")?.iter().map(ToString::to_string).collect();
    read.sort();
    ensure!(read.len() == 3 && read[0].contains(r#""max_t":20,"min_t":-5,"ref":7"#), "{read:?}");
    Ok(())
}

/// promtool accepts our block, and a running Prometheus serves it: the same answers as from the data.
#[test]
fn prometheus_serves_our_blocks() -> Result<()> {
    if peers::skip(&["prometheus", "promtool"]) {
        return Ok(());
    }
    let data = tempfile::tempdir()?;
    let from = 1_700_000_000_000 - 1_700_000_000_000 % 7_200_000;
    let content = fleet(60, from);
    let written = write(data.path(), id(5), &content, None);
    // promtool's dump looks for a log, too.
    std::fs::create_dir(data.path().join("wal"))?;
    let promtool = |args: &[&str]| -> Result<String> {
        let out = Command::new(peers::path("promtool")?).args(args).arg(data.path()).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "promtool {args:?}: {text}");
        Ok(text)
    };
    let list = promtool(&["tsdb", "list"])?;
    ensure!(list.contains(&id(5).to_string()) && list.contains("60"), "{list}");
    let analyze = promtool(&["tsdb", "analyze"])?;
    ensure!(analyze.contains("Total Series: 60") && analyze.contains("http_requests_total"), "{analyze}");
    let dump = promtool(&["tsdb", "dump"])?;
    ensure!(dump.lines().filter(|l| l.starts_with('{')).count() == 60 * 180, "{} lines", dump.lines().count());

    let server = Prometheus::start(&Options { data: Some(data.path().to_owned()), ..Options::default() })?;
    let end = (from + 180 * 15_000) / 1000;
    for (query, want) in [
        ("count(up or http_requests_total)", 60.0),
        // The last sample of each series is i·1000 + 59.
        ("sum({__name__=~\"up|http_requests_total\"})", (0..60).map(|i| f64::from(i * 1000 + 59)).sum()),
        ("sum(count_over_time({job=\"ünï\"}[1h]))", 20.0 * 180.0),
        ("max({pod=\"pod-0031\"})", 31_059.0),
    ] {
        let answer = server.query(query, Some(end as f64))?;
        let got: f64 = answer[0]["value"][1].as_str().with_context(|| answer.to_string())?.parse()?;
        ensure!((got - want).abs() < 1e-9, "{query}: {got}, not {want}: {answer}");
    }
    ensure!(written.dir.is_dir(), "Prometheus has removed the block");
    Ok(())
}
