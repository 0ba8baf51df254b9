//! The row about replicas: two and three of them, each with gaps of its own, become one. The query does little besides reading
//! every sample once.

use super::fakes::{Fake, chunk, label};
use super::fanout::Sides;
use super::measure::Table;
use super::say;
use anyhow::Context as _;
use proto::thanos::{AggrChunk, Series};
use std::path::Path;
use testkit::http;
use tsdb::chunk::XorEncoder;

/// Series of each replica.
const SERIES: usize = 2_000;
/// Samples of each series before some are taken out: six hours.
const SAMPLES: i64 = 1_440;
const STEP: i64 = 15_000;
const PER_CHUNK: i64 = 120;
const BEGIN: i64 = 1_700_000_000_000;
/// How often it is asked.
const TIMES: usize = 5;

/// Throughput of two and of three replicas.
pub(super) fn run(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let whole = SAMPLES * STEP / 1000;
    let query = http::encode(&format!("sum(count_over_time(gap_total[{whole}s]))"));
    let path = format!("/api/v1/query?query={query}&time={}", BEGIN / 1000 + whole);
    for replicas in [2, 3] {
        let mut read = 0;
        let fakes = (0..replicas)
            .map(|replica| {
                let (fake, samples) = fake(replica)?;
                read += samples;
                Ok(fake)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let sides = Sides::start(binary, dir.path(), &runtime, &fakes, &format!("of-{replicas}-replicas"), &[])?;
        say(&format!("{replicas} replicas of {SERIES} series, {:.1} million samples", read as f64 / 1e6));
        let (peer, own) = sides.both(&path, TIMES, 1)?;
        let mut table = Table::new(&format!("Dedup of {replicas} gappy replicas, {SERIES} series over {whole} s"));
        table.row("CPU", "s", peer.cpu_s, own.cpu_s);
        let rate = |cpu_s: f64| read as f64 / 1e6 / cpu_s;
        table.row("samples read, per second of CPU", "million", rate(peer.cpu_s), rate(own.cpu_s));
        table.row("p50", "s", peer.p50_s(), own.p50_s());
        table.row("peak RSS", "MiB", peer.peak_mib, own.peak_mib);
        let (left, kept) = (count(&peer.body)?, count(&own.body)?);
        table.row("samples that are left", "million", left / 1e6, kept / 1e6);
        // One of them is there at any time, and ours leaves no gap.
        let all = (SERIES as i64 * SAMPLES) as f64;
        anyhow::ensure!(kept > all * 0.97 && kept < all * 1.03, "of {all} samples {kept} are left");
        table.print()?;
    }
    Ok(())
}

fn count(body: &str) -> anyhow::Result<f64> {
    let answer: serde_json::Value = serde_json::from_str(body)?;
    let value = answer["data"]["result"][0]["value"][1].as_str().context("no value")?;
    Ok(value.parse()?)
}

/// A replica and how many samples it has. It scrapes a third of a step after the one before it, and is away for four minutes of
/// every hour, at a time of its own; now and then it misses a scrape.
fn fake(replica: usize) -> anyhow::Result<(Fake, usize)> {
    let r = i64::try_from(replica)?;
    let (mut chunks, mut samples): (Vec<AggrChunk>, usize) = (Vec::new(), 0);
    let mut kept = (0..SAMPLES).filter(|k| {
        let away = (k + r * 80) % 240 < 16;
        !away && (k * 31 + r * 17) % 101 != 0
    });
    loop {
        let some: Vec<i64> = kept.by_ref().take(PER_CHUNK as usize).collect();
        let (Some(first), Some(last)) = (some.first(), some.last()) else { break };
        let time = |k: i64| BEGIN + k * STEP + r * STEP / 3;
        let mut encoder = XorEncoder::default();
        some.iter().try_for_each(|k| encoder.append(time(*k), (k * 7 + k * k % 5) as f64))?;
        chunks.push(chunk(time(*first), time(*last), encoder.bytes()));
        samples += some.len();
    }
    let replica = label("replica", format!("replica-{replica}"));
    let series = (0..SERIES)
        .map(|i| Series {
            labels: vec![label("__name__", "gap_total"), label("pod", format!("pod-{i:05}")), replica.clone()],
            chunks: chunks.clone(),
        })
        .collect();
    Ok((Fake::of(vec![replica.clone()], series), samples * SERIES))
}
