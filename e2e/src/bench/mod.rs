//! `make bench`: ours beside the peer, on the same data, in one run; medians and ratios.

mod compaction;
mod data;
mod dedup;
mod downsampled;
mod fakes;
mod fanout;
mod load;
pub(crate) mod measure;
mod promql;
mod store;
mod stores;
mod upload;

use crate::bench::measure::{Querier, Table};
use anyhow::Context;
use std::path::Path;
use std::time::Duration;
use testkit::process::Process;
use testkit::prometheus::{Options, Prometheus};
use testkit::thanos::Thanos;

/// Replicas of the monitored cluster.
const REPLICAS: usize = 3;
/// Times that each querier answers the whole dashboard; the median counts.
const ROUNDS: usize = 5;

/// The rows by name.
type Row = (&'static str, fn(&Path) -> anyhow::Result<()>);
const ROWS: &[Row] = &[
    ("dashboard", dashboard_row),
    ("stores", stores_row),
    ("upload", upload::run),
    ("promql", promql::run),
    ("store-start", store::start),
    ("store", store::series),
    ("fanout", fanout::stores),
    ("hung", fanout::hung),
    ("dedup", dedup::run),
    ("downsampled", downsampled::run),
    ("compact", compaction::disjoint),
    ("compact-dedup", compaction::replicas),
    ("downsample", compaction::downsampling),
    ("compact-histograms", compaction::histograms),
    ("compact-million", compaction::million),
];

/// Runs the benchmarks with the given `panoptes` binary, all or those named, and prints the tables for `docs/benchmarks.md`.
///
/// # Errors
/// When a peer is missing, or an answer of ours is not the peer's.
pub fn run(binary: &Path, names: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = names.iter().find(|n| ROWS.iter().all(|(name, _)| name != n)) {
        anyhow::bail!(
            "there is no benchmark {unknown}, only {}",
            ROWS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        );
    }
    for (_, row) in ROWS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name)) {
        row(binary)?;
    }
    Ok(())
}

fn stores_row(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    say(&format!("{} MB of series offered by 3, by 12 and by 48 stores to one slow reader", stores::megabytes()));
    let rows = stores::memory(binary, dir.path())?;
    let title = format!("Peak RSS of the querier, {} MB of series, one slow reader", stores::megabytes());
    let mut table = Table::new(&title);
    for (count, peer, ours) in rows {
        table.row(&format!("{count} stores"), "MiB", peer, ours);
    }
    table.print()
}

fn dashboard_row(binary: &Path) -> anyhow::Result<()> {
    let now = data::now_s()?;
    let shape = data::Shape { end_s: now - now % data::STEP_S, ..data::Shape::default() };
    say(&format!("filling {REPLICAS} Prometheus with one hour of {} series each", shape.series()));
    let mut sources = Vec::new();
    for replica in 0..REPLICAS {
        let labels = [("cluster", "bench"), ("prometheus_replica", &format!("prometheus-{replica}") as &str)];
        let mut options = Options::new(&labels, &[]);
        options.interval = "1h".to_owned();
        options.args.push("--web.enable-remote-write-receiver".to_owned());
        let prometheus = Prometheus::start(&options)?;
        data::fill(&prometheus.url(), &shape, replica)?;
        sources.push(prometheus);
    }

    say("starting our three sidecars, a real Thanos querier and our querier on the same endpoints");
    let dir = tempfile::tempdir()?;
    let mut sidecars = Vec::new();
    for (i, p) in sources.iter().enumerate() {
        sidecars.push(Part::start(
            binary,
            dir.path(),
            &format!("sidecar-{i}"),
            "sidecar",
            &[format!("--prometheus.url={}", p.url())],
        )?);
    }
    let endpoints: Vec<String> = sidecars.iter().map(|s| s.grpc.clone()).collect();
    let thanos = Thanos::query(&endpoints, &["prometheus_replica"])?;
    let mut args: Vec<String> = endpoints.iter().map(|e| format!("--endpoint={e}")).collect();
    args.push("--query.replica-label=prometheus_replica".to_owned());
    let ours = Part::start(binary, dir.path(), "query", "query", &args)?;
    let mut peer = Querier::new("thanos query", &thanos.url(), thanos.process().id());
    let mut own = Querier::new("panoptes query", &ours.http, ours.process.id());
    own.wait_for_stores(REPLICAS)?;

    let queries = crate::dashboards::pod_queries("bench");
    anyhow::ensure!(queries.len() == 48, "the dashboard has 48 queries, not {}", queries.len());
    let range = (shape.end_s - data::HOUR_S + 60, shape.end_s, data::STEP_S);
    say(&format!("comparing the answers of {} queries", queries.len()));
    for q in &queries {
        let (a, b) = (peer.shape_of(q, range)?, own.shape_of(q, range)?);
        anyhow::ensure!(a.series == b.series, "{q}: the peer answers {} series, ours {}", a.series, b.series);
    }
    say(&format!("{ROUNDS} rounds, in turn"));
    for _ in 0..ROUNDS {
        peer.round(&queries, range)?;
        own.round(&queries, range)?;
    }
    let mut table = Table::new("Pod dashboard: 48 range queries over 1 h, 10k series, 3 replicas, 15 s steps");
    table.row("CPU of the querier, one dashboard", "s", peer.cpu_s(), own.cpu_s());
    table.row("wall time, one dashboard", "s", peer.wall_s(), own.wall_s());
    table.row("slowest query", "s", peer.slowest_s(), own.slowest_s());
    table.row("peak RSS of the querier", "MiB", peer.peak_mib()?, own.peak_mib()?);
    table.print()?;
    let decoded = sidecars.iter().map(|s| s.metric("panoptes_chunks_decoded_total")).sum::<anyhow::Result<f64>>();
    say(&format!("chunks that our sidecars decoded (pass-through means 0): {}", decoded.context("decode counter")?));
    Ok(())
}

/// One of our roles as a process on loopback; it ends when dropped.
struct Part {
    process: Process,
    http: String,
    grpc: String,
}

impl Part {
    fn start(binary: &Path, dir: &Path, name: &str, role: &str, args: &[String]) -> anyhow::Result<Self> {
        let (http, grpc) = (testkit::ports::free()?, testkit::ports::free()?);
        let mut command = std::process::Command::new(binary);
        command
            .arg(role)
            .arg(format!("--http-address=127.0.0.1:{http}"))
            .arg(format!("--grpc-address=127.0.0.1:{grpc}"))
            .args(args);
        let mut process = Process::spawn(name, &mut command, &dir.join(format!("{name}.log")))?;
        process.wait_for_url(&format!("http://127.0.0.1:{http}/-/ready"), Duration::from_secs(30))?;
        Ok(Self { process, http: format!("http://127.0.0.1:{http}"), grpc: format!("127.0.0.1:{grpc}") })
    }

    /// The sum of a metric over its label sets.
    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = testkit::http::get(&format!("{}/metrics", self.http))?.body;
        let values: Vec<f64> = text
            .lines()
            .filter(|l| l.starts_with(name) && !l.starts_with('#'))
            .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
            .collect();
        anyhow::ensure!(!values.is_empty(), "{} has no metric {name}", self.http);
        Ok(values.iter().sum())
    }
}

fn say(line: &str) {
    use std::io::Write;
    // Progress only; a closed stdout must not end the run.
    let _ = writeln!(std::io::stdout(), "{line}");
}
