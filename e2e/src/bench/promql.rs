//! The rows about PromQL: the same blocks, asked of Prometheus, of Thanos with either engine, and of ours. What a querier
//! spends together with its store gateway counts; Prometheus reads the blocks itself.

mod blocks;

use super::measure::{cpu_s, peak_mib};
use super::{Part, say};
use anyhow::Context as _;
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::http;
use testkit::process::Process;
use testkit::prometheus::{Options, Prometheus};
use testkit::thanos::Thanos;

/// Distance of the steps that are asked for, seconds.
const STEP_S: i64 = 60;
/// Times that each is asked; the least CPU counts, the greatest memory.
const ROUNDS: usize = 2;
/// Longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is asked of the long blocks (a day of 5,000 counters) and of the wide one (an hour of 100,000).
const LONG: &[(&str, &str)] = &[
    ("raw", "requests_total"),
    ("sum by (rate)", "sum by (job) (rate(requests_total[5m]))"),
    ("quantile, classic", "histogram_quantile(0.9, sum by (job, le) (rate(latency_bucket[5m])))"),
    ("quantile, native", "histogram_quantile(0.9, sum by (job) (rate(latency[5m])))"),
    ("join", "rate(requests_total[5m]) * on (instance) group_left (version) build_info"),
    ("topk", "topk(10, max_over_time(requests_total[5m]))"),
    ("subquery", "max_over_time(sum by (job) (rate(requests_total[5m]))[30m:1m])"),
    ("count", "count(requests_total)"),
];
const WIDE: &[(&str, &str)] = &[
    ("raw", "hits_total"),
    ("sum by (rate)", "sum by (job) (rate(hits_total[5m]))"),
    ("join", "rate(hits_total[5m]) * on (instance) group_left (version) node_info"),
    ("topk", "topk(10, max_over_time(hits_total[5m]))"),
    ("subquery", "max_over_time(sum by (job) (rate(hits_total[5m]))[30m:1m])"),
    ("count", "count(hits_total)"),
];

/// One of those that are asked: where, and the processes that work for it.
struct Side<'p> {
    name: &'static str,
    url: String,
    more: &'static str,
    querier: &'p Process,
    store: Option<&'p Process>,
}

/// What one query cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    querier_s: f64,
    store_s: f64,
    wall_s: f64,
    querier_mib: f64,
    store_mib: f64,
}

impl Cost {
    fn cpu_s(&self) -> f64 {
        self.querier_s + self.store_s
    }
}

/// Makes the blocks, starts all sides, asks, prints a table for each width.
pub(super) fn run(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let bucket = dir.path().join("bucket");
    let kept = std::env::var_os("PANOPTES_BENCH_BLOCKS").map(std::path::PathBuf::from);
    match &kept {
        Some(made) if made.exists() => link(made, &bucket)?,
        _ => {
            say("making a day of 5,000 counters and their histograms, and an hour of 100,000 counters");
            blocks::write(&bucket)?;
            kept.iter().try_for_each(|kept| link(&bucket, kept))?;
        }
    }
    let data = dir.path().join("prometheus");
    link(&bucket, &data)?;
    let mut options = Options::new(&[("cluster", "bench")], &[]);
    options.data = Some(data);
    // Blocks stay as they are.
    options.args = ["min", "max"].map(|m| format!("--storage.tsdb.{m}-block-duration=2h")).to_vec();
    options.args.push("--query.max-samples=1000000000".to_owned());
    let prometheus = Prometheus::start(&options)?;

    let config = format!("{{\"type\":\"FILESYSTEM\",\"config\":{{\"directory\":{:?}}}}}", bucket.display().to_string());
    let flags = |name: &str| {
        vec![format!("--objstore.config={config}"), format!("--data-dir={}", dir.path().join(name).display())]
    };
    let store = Thanos::start("store", &flags("thanos-store"))?;
    let engines =
        [Thanos::query(&[store.grpc_address()], &["replica"])?, Thanos::query(&[store.grpc_address()], &["replica"])?];
    let own_store = match std::env::var_os("PANOPTES_BENCH_STORE") {
        Some(_) => Store::Thanos(Thanos::start("store", &flags("store-of-ours"))?),
        None => Store::Ours(Part::start(binary, dir.path(), "store", "store", &flags("store-of-ours"))?),
    };
    let querier = Part::start(
        binary,
        dir.path(),
        "query",
        "query",
        &[format!("--endpoint={}", own_store.grpc()), "--query.replica-label=replica".to_owned()],
    )?;
    super::measure::Querier::new("panoptes query", &querier.http, querier.process.id()).wait_for_stores(1)?;
    let [first, second] = &engines;
    let sides = [
        Side { name: "Prometheus", url: prometheus.url(), more: "", querier: prometheus.process(), store: None },
        Side {
            name: "Thanos, Prometheus's engine",
            url: first.url(),
            more: "&engine=prometheus",
            querier: first.process(),
            store: Some(store.process()),
        },
        Side {
            name: "Thanos, its own engine",
            url: second.url(),
            more: "&engine=thanos",
            querier: second.process(),
            store: Some(store.process()),
        },
        Side {
            name: "ours",
            url: querier.http.clone(),
            more: "",
            querier: &querier.process,
            store: Some(own_store.process()),
        },
    ];
    table("5,000 series × 24 h", &sides, LONG, blocks::LONG)?;
    table("100,000 series × 1 h", &sides, WIDE, blocks::WIDE)
}

/// The store gateway before our querier.
enum Store {
    Ours(Part),
    Thanos(Thanos),
}

impl Store {
    fn grpc(&self) -> String {
        match self {
            Self::Ours(part) => part.grpc.clone(),
            Self::Thanos(thanos) => thanos.grpc_address(),
        }
    }

    fn process(&self) -> &Process {
        match self {
            Self::Ours(part) => &part.process,
            Self::Thanos(thanos) => thanos.process(),
        }
    }
}

fn table(title: &str, sides: &[Side<'_>], queries: &[(&str, &str)], range: (i64, i64)) -> anyhow::Result<()> {
    let only = std::env::var("PANOPTES_BENCH_ONLY").unwrap_or_default();
    say(&format!(
        "\nPromQL, {title}, {STEP_S} s steps: CPU of querier + store, peak RSS of querier + store, wall time\n\n\
         | query | {} | of Thanos's faster: CPU, RSS | of Prometheus: CPU, wall |\n|---|{}---|---|",
        sides.iter().map(|s| s.name).collect::<Vec<_>>().join(" | "),
        "---|".repeat(sides.len())
    ));
    for (name, query) in queries.iter().filter(|(name, _)| name.contains(&only)) {
        let mut costs: Vec<Cost> = Vec::new();
        let mut shapes: Vec<Shape> = Vec::new();
        for side in sides {
            let mut best: Option<Cost> = None;
            let mut shape = None;
            for _ in 0..ROUNDS {
                let (cost, body) = ask(side, query, range).with_context(|| format!("{}: {query}", side.name))?;
                shape = Some(Shape::of(&body));
                best = Some(best.map_or(cost, |b| b.better(&cost)));
            }
            costs.extend(best);
            shapes.extend(shape);
        }
        for (shape, side) in shapes.iter().zip(sides) {
            let first = shapes.first().context("no side")?;
            anyhow::ensure!(shape == first, "{query}: {} answers {shape:?}, {:?} others", side.name, first);
        }
        let [prometheus, one, two, ours] = costs.as_slice() else { anyhow::bail!("four sides") };
        let thanos = if one.cpu_s() < two.cpu_s() { one } else { two };
        let mib = |c: &Cost| c.querier_mib + c.store_mib;
        let cells: Vec<String> = costs.iter().map(Cost::cell).collect();
        say(&format!(
            "| {name} | {} | {:.2}, {:.2} | {:.2}, {:.2} |",
            cells.join(" | "),
            ours.cpu_s() / thanos.cpu_s(),
            mib(ours) / mib(one).min(mib(two)),
            ours.cpu_s() / prometheus.cpu_s(),
            ours.wall_s / prometheus.wall_s,
        ));
    }
    Ok(())
}

impl Cost {
    fn better(&self, other: &Self) -> Self {
        let cpu = if self.cpu_s() < other.cpu_s() { self } else { other };
        Self {
            querier_s: cpu.querier_s,
            store_s: cpu.store_s,
            wall_s: self.wall_s.min(other.wall_s),
            querier_mib: self.querier_mib.max(other.querier_mib),
            store_mib: self.store_mib.max(other.store_mib),
        }
    }

    fn cell(&self) -> String {
        let Self { querier_s, store_s, wall_s, querier_mib, store_mib } = self;
        if *store_mib == 0.0 {
            return format!("{querier_s:.2} s, {querier_mib:.0} MiB, {wall_s:.2} s");
        }
        format!("{querier_s:.2} + {store_s:.2} s, {querier_mib:.0} + {store_mib:.0} MiB, {wall_s:.2} s")
    }
}

/// What can be said about an answer without reading 200 MB of JSON: series, points, and the sum of what is small.
#[derive(Debug, PartialEq)]
struct Shape {
    series: usize,
    points: usize,
}

impl Shape {
    fn of(body: &str) -> Self {
        // A value ends with `"]` and every series holds one list more.
        Self { series: body.matches("\"metric\":").count(), points: body.matches("\"]").count() }
    }
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn ask(side: &Side<'_>, query: &str, (start, end): (i64, i64)) -> anyhow::Result<(Cost, String)> {
    let ids: Vec<u32> = std::iter::once(side.querier).chain(side.store).map(Process::id).collect();
    for id in &ids {
        // The peak is counted anew.
        std::fs::write(format!("/proc/{id}/clear_refs"), "5")?;
    }
    let before: Vec<f64> = ids.iter().map(|id| cpu_s(*id)).collect::<anyhow::Result<_>>()?;
    let url = format!(
        "{}/api/v1/query_range?query={}&start={start}&end={end}&step={STEP_S}&timeout=5m{}",
        side.url,
        http::encode(query),
        side.more
    );
    let begin = Instant::now();
    let answer = http::request("GET", &url, &[], Vec::new(), PATIENCE)?;
    let wall_s = begin.elapsed().as_secs_f64();
    anyhow::ensure!(answer.status == 200, "{} {:.500}", answer.status, answer.body);
    let of = |i: usize| -> anyhow::Result<(f64, f64)> {
        match (ids.get(i), before.get(i)) {
            (Some(id), Some(before)) => Ok((cpu_s(*id)? - before, peak_mib(*id)?)),
            _ => Ok((0.0, 0.0)),
        }
    };
    let ((querier_s, querier_mib), (store_s, store_mib)) = (of(0)?, of(1)?);
    Ok((Cost { querier_s, store_s, wall_s, querier_mib, store_mib }, answer.body))
}

/// The same blocks in another folder, without copying them.
fn link(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            link(&path, &target)?;
        } else if std::fs::hard_link(&path, &target).is_err() {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
