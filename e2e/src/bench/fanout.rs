//! The rows about fan-out: what a store costs a querier, and how long answers take while stores hang.

use super::fakes::{Fake, chunk, label};
use super::load::{Side, Spent};
use super::measure::{Querier, Table};
use super::{Part, say};
use proto::thanos::Series;
use std::path::Path;
use std::sync::atomic::Ordering;
use testkit::http;
use testkit::thanos::Thanos;
use tsdb::chunk::XorEncoder;

/// Stores of the first row.
const STORES: usize = 50;
/// Series of all of them together, and how often they are asked, one after the other.
const SERIES: usize = 1_000;
const TIMES: usize = 300;
/// Stores of the second row, and how many of them hang.
const SIXTEEN: usize = 16;
const HUNG: [usize; 4] = [0, 1, 8, 15];
/// How long both wait for a store.
const PATIENCE: &str = "--store.response-timeout=500ms";
/// Queries of each, and how many run at once.
const ASKED: usize = 64;
const AT_ONCE: usize = 8;
/// Time of the samples: one every 15 s of this hour, ms.
const BEGIN: i64 = 1_700_000_000_000;
const STEP: i64 = 15_000;
const SAMPLES: i64 = 240;
const PER_CHUNK: i64 = 120;

/// Overhead per store: the same series behind one store and behind 50.
pub(super) fn stores(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let instant = format!("/api/v1/query?query=sum(fan_total)&time={}", (BEGIN + SAMPLES * STEP) / 1000 - 30);
    let mut spent = Vec::new();
    for count in [1, STORES] {
        let fakes = (0..count).map(|n| fake(n, SERIES / count)).collect::<anyhow::Result<Vec<_>>>()?;
        let sides = Sides::start(binary, dir.path(), &runtime, &fakes, &format!("of-{count}"), &[])?;
        say(&format!("{TIMES} queries over {SERIES} series of {count} stores, of Thanos and of ours"));
        spent.push(sides.both(&instant, TIMES, 1)?);
    }
    let [one, many] = spent.as_slice() else { anyhow::bail!("two numbers of stores") };
    let mut table = Table::new(&format!("Fan-out: sum over {SERIES} series, of one store and of {STORES}"));
    let ms = 1e3;
    table.row("CPU, one store", "ms", one.0.cpu_s * ms, one.1.cpu_s * ms);
    table.row(&format!("CPU, {STORES} stores"), "ms", many.0.cpu_s * ms, many.1.cpu_s * ms);
    let each = |few: &Spent, many: &Spent| (many.cpu_s - few.cpu_s) * 1e6 / (STORES - 1) as f64;
    table.row("CPU, each further store", "µs", each(&one.0, &many.0), each(&one.1, &many.1));
    table.row(&format!("p50, {STORES} stores"), "ms", many.0.p50_s() * ms, many.1.p50_s() * ms);
    table.row(&format!("p99, {STORES} stores"), "ms", many.0.p99_s() * ms, many.1.p99_s() * ms);
    table.row(&format!("peak RSS, {STORES} stores"), "MiB", many.0.peak_mib, many.1.peak_mib);
    table.print()
}

/// k of 16 stores take a call and say nothing.
pub(super) fn hung(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let fakes = (0..SIXTEEN).map(|n| fake(n, 10)).collect::<anyhow::Result<Vec<_>>>()?;
    let sides = Sides::start(binary, dir.path(), &runtime, &fakes, "patient", &[PATIENCE])?;
    let query = http::encode("sum(rate(fan_total[5m]))");
    let (start, end) = (BEGIN / 1000 + 600, (BEGIN + SAMPLES * STEP) / 1000 - 30);
    let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=15");
    let mut table = Table::new(&format!(
        "k of {SIXTEEN} stores hang, both with {PATIENCE}, {ASKED} range queries, {AT_ONCE} at once"
    ));
    for k in HUNG {
        fakes.iter().enumerate().for_each(|(n, fake)| fake.hangs.store(n < k, Ordering::SeqCst));
        say(&format!("{ASKED} queries while {k} of {SIXTEEN} stores hang"));
        let (peer, own) = sides.both(&path, ASKED, AT_ONCE)?;
        for (who, spent) in [("Thanos", &peer), ("ours", &own)] {
            let partial = spent.body.contains("\"warnings\":[\"");
            anyhow::ensure!(partial == (k > 0), "{who}, {k} hang: {:.500}", spent.body);
        }
        table.row(&format!("k = {k}: p50"), "ms", peer.p50_s() * 1e3, own.p50_s() * 1e3);
        table.row(&format!("k = {k}: p99"), "ms", peer.p99_s() * 1e3, own.p99_s() * 1e3);
        table.row(&format!("k = {k}: CPU of a query"), "ms", peer.cpu_s * 1e3, own.cpu_s * 1e3);
        table.row(&format!("k = {k}: peak RSS"), "MiB", peer.peak_mib, own.peak_mib);
    }
    table.print()
}

/// A querier of each, over the same stores.
pub(super) struct Sides {
    _thanos: Thanos,
    _ours: Part,
    peer: Side,
    own: Side,
}

impl Sides {
    pub(super) fn start(
        binary: &Path,
        dir: &Path,
        runtime: &tokio::runtime::Runtime,
        fakes: &[Fake],
        name: &str,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let mut args = vec!["--query.replica-label=replica".to_owned()];
        args.extend(more.iter().map(|m| (*m).to_owned()));
        for fake in fakes {
            args.push(format!("--endpoint={}", runtime.block_on(fake.start())?));
        }
        let ours = Part::start(binary, dir, &format!("query-{name}"), "query", &args)?;
        args.push("--query.promql-engine=prometheus".to_owned());
        let thanos = Thanos::start("query", &args)?;
        let peer = Side { url: thanos.url(), ids: vec![thanos.process().id()] };
        let own = Side { url: ours.http.clone(), ids: vec![ours.process.id()] };
        for side in [&peer, &own] {
            Querier::new("querier", &side.url, 0).wait_for_stores(fakes.len())?;
        }
        Ok(Self { _thanos: thanos, _ours: ours, peer, own })
    }

    /// Asks Thanos, then ours.
    pub(super) fn both(&self, path: &str, times: usize, at_once: usize) -> anyhow::Result<(Spent, Spent)> {
        Ok((self.peer.drive(path, times, at_once)?, self.own.drive(path, times, at_once)?))
    }
}

/// The n-th store with so many counters of its own.
fn fake(n: usize, series: usize) -> anyhow::Result<Fake> {
    let store = label("store", format!("store-{n:02}"));
    let chunks = (0..SAMPLES / PER_CHUNK)
        .map(|c| {
            let mut encoder = XorEncoder::default();
            let numbers = c * PER_CHUNK..(c + 1) * PER_CHUNK;
            numbers.clone().try_for_each(|k| encoder.append(BEGIN + k * STEP, (k * 7 + k * k % 5) as f64))?;
            Ok(chunk(BEGIN + numbers.start * STEP, BEGIN + (numbers.end - 1) * STEP, encoder.bytes()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let series = (0..series)
        .map(|i| Series {
            labels: vec![
                label("__name__", "fan_total"),
                label("instance", format!("10.0.0.{n}:9100")),
                label("pod", format!("pod-{n:02}-{i:05}")),
                store.clone(),
            ],
            chunks: chunks.clone(),
        })
        .collect();
    Ok(Fake::of(vec![store.clone()], series))
}
