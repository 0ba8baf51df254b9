//! The row about archiving: one block of two hours and 100k series, taken to the same emulated store by `thanos sidecar` and by ours.
//! Both run and have nothing to do when the block appears, so what is counted is the block.

use super::measure::{Table, cpu_s, peak_mib};
use super::say;
use anyhow::Context as _;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::gcs::{self, Gcs};
use testkit::oracle::Oracle;
use testkit::process::Process;
use testkit::prometheus_stub::{PrometheusStub, Told};
use testkit::{http, peers, ports, wait};

/// Series of the block.
const SERIES: usize = 100_000;
/// Samples of each: two hours, one every 15 s.
const SAMPLES: usize = 480;
/// The block must be there within this; both look for new blocks every 30 s.
const PATIENCE: Duration = Duration::from_secs(180);

/// What one sidecar spent.
struct Spent {
    requests: u64,
    cpu_s: f64,
    idle_mib: f64,
    peak_mib: f64,
}

/// Measures both and prints the table.
pub(super) fn run(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    say(&format!("making a block of {SERIES} series, {SAMPLES} samples each"));
    let request = json!({
        "op": "generate", "dir": dir.path(), "series": SERIES, "samples": SAMPLES, "start": 1_700_006_400_000i64,
        "interval": 15_000, "histograms": 50, "seed": 1,
    });
    let made = Oracle::start("prometheus-blocks")?.ask(&request)?;
    let block = Path::new(made["dir"].as_str().context("the oracle tells no folder")?).to_owned();
    let (files, bytes) = size(&block)?;
    let gcs = Gcs::start()?;
    let key = gcs::key("bench", "bench@example.com", &gcs.url())?.to_string();
    say(&format!("{files} files, {} MB; waiting for each sidecar's next look, 30 s at most", bytes / 1_000_000));
    let theirs = one(&peers::path("thanos")?, "thanos", dir.path(), &block, &gcs, &json!({"service_account": key}))?;
    let own = json!({"service_account": key, "endpoint": gcs.url()});
    let ours = one(binary, "panoptes", dir.path(), &block, &gcs, &own)?;
    anyhow::ensure!(ours.requests <= files + 3, "{} requests for {files} files", ours.requests);
    let title = format!(
        "Upload of a 2 h block of {SERIES} series ({files} files, {} MB), by a sidecar that was idle",
        bytes / 1_000_000
    );
    let mut table = Table::new(&title);
    table.row("requests", "", theirs.requests as f64, ours.requests as f64);
    table.row("CPU", "s", theirs.cpu_s, ours.cpu_s);
    table.row("RSS before", "MiB", theirs.idle_mib, ours.idle_mib);
    table.row("peak RSS", "MiB", theirs.peak_mib, ours.peak_mib);
    table.print()
}

/// Files of a block without its tombstones, and their bytes.
fn size(block: &Path) -> anyhow::Result<(u64, u64)> {
    let mut sizes = vec![block.join("index").metadata()?.len(), block.join("meta.json").metadata()?.len()];
    for segment in std::fs::read_dir(block.join("chunks"))? {
        sizes.push(segment?.metadata()?.len());
    }
    Ok((sizes.len() as u64, sizes.iter().sum()))
}

/// Runs one sidecar, gives it the block, and waits until the block is in the bucket of the sidecar's name.
fn one(
    program: &Path,
    name: &str,
    dir: &Path,
    block: &Path,
    gcs: &Gcs,
    config: &serde_json::Value,
) -> anyhow::Result<Spent> {
    gcs.make_bucket(name);
    let prometheus = PrometheusStub::start(Told::new(&[("cluster", "bench"), ("replica", "a")]))?;
    let data = dir.join(format!("data-{name}"));
    std::fs::create_dir(&data)?;
    let mut config = config.clone();
    config["bucket"] = name.into();
    let port = ports::free()?;
    let mut command = Command::new(program);
    command
        .arg("sidecar")
        .arg(format!("--http-address=127.0.0.1:{port}"))
        .arg(format!("--grpc-address=127.0.0.1:{}", ports::free()?))
        .arg(format!("--prometheus.url={}", prometheus.url()))
        .arg(format!("--tsdb.path={}", data.display()))
        .arg(format!("--objstore.config={}", json!({"type": "GCS", "config": config})))
        .env("STORAGE_EMULATOR_HOST", gcs.url());
    let mut process = Process::spawn(name, &mut command, &dir.join(format!("{name}.log")))?;
    let url = format!("http://127.0.0.1:{port}");
    process.wait_for_url(&format!("{url}/-/ready"), Duration::from_secs(30))?;
    // The first look at the empty folder is over.
    wait::until("the first look", Duration::from_secs(30), Duration::from_millis(50), || {
        let metrics = http::get(&format!("{url}/metrics"))?.body;
        anyhow::ensure!(metrics.lines().any(|l| l == "thanos_shipper_dir_syncs_total 1"), "not yet");
        Ok(())
    })?;
    let total = || gcs.requests().values().sum::<u64>();
    let (pid, requests) = (process.id(), total());
    let (cpu, idle_mib) = (cpu_s(pid)?, peak_mib(pid)?);
    let id = block.file_name().and_then(|n| n.to_str()).context("the block has no name")?.to_owned();
    copy(block, &data.join(format!("{id}.tmp-for-creation")))?;
    std::fs::rename(data.join(format!("{id}.tmp-for-creation")), data.join(&id))?;
    wait::until("the block to arrive", PATIENCE, Duration::from_millis(50), || {
        let metrics = http::get(&format!("{url}/metrics"))?.body;
        anyhow::ensure!(metrics.lines().any(|l| l == "thanos_shipper_uploads_total 1"), "not yet");
        Ok(())
    })
    .with_context(|| process.log())?;
    let spent = Spent { requests: total() - requests, cpu_s: cpu_s(pid)? - cpu, idle_mib, peak_mib: peak_mib(pid)? };
    anyhow::ensure!(gcs.names(name).contains(&format!("{id}/meta.json")), "{name} tells of a block that is not there");
    process.stop()?;
    Ok(spent)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
