//! The rows about the compactor: one run over the same blocks by `thanos compact` and by ours, and by `thanos tools bucket downsample`
//! and ours. Buckets are folders, so what is counted is the work, not the network. CPU is that of the whole process.

use super::measure::{Spent, Table, spend};
use super::say;
use crate::buckets::{self, START, Shape, TWO_HOURS};
use anyhow::Context as _;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::oracle::Oracle;
use testkit::peers;
use tsdb::block::{read_meta, write_meta};
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, source};

const DAY: i64 = 86_400_000;
/// Samples of a block of two hours, one every 15 s.
const SAMPLES: usize = 480;

/// A bucket that is a folder, and what a program is to make of it.
struct Job<'a> {
    title: &'a str,
    /// Its blocks, in a folder of their own; each program gets links to them.
    blocks: &'a Path,
    /// Flags that both understand.
    flags: &'a [&'a str],
    /// Whether it is the tool that only downsamples.
    downsample: bool,
}

/// What a program made, beside what it spent.
struct Done {
    spent: Spent,
    /// Blocks that it made: resolution, series, samples.
    made: Vec<(i64, u64, u64)>,
}

/// Four blocks of two hours each, side by side: nothing has to be opened.
pub(super) fn disjoint(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let shape = Shape { series: 30_000, samples: SAMPLES, step: 15_000 };
    side_by_side(dir.path(), shape)?;
    let title = "4 blocks of 2 h to one of 8 h, 30k series, 57.6 M samples, nothing overlaps";
    compare(binary, &Job { title, blocks: dir.path(), flags: &[], downsample: false })
}

/// Two replicas that both have gaps.
pub(super) fn replicas(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // 24 million samples each, less the gaps.
    let shape = Shape { series: 10_000, samples: 2_400, step: 12_000 };
    for (n, replica) in ["a", "b"].into_iter().enumerate() {
        let meta = buckets::meta(n, replica, START, START + 4 * TWO_HOURS)?;
        // Scraped three seconds later, and each away for eight minutes of every two hours, at another time.
        let (late, away) = (n as i64 * 3_000, n * 300);
        buckets::write_varied(dir.path(), meta, shape, late, |sample| !(away..away + 40).contains(&(sample % 600)))?;
    }
    compare(
        binary,
        &Job {
            title: "Two gappy replicas of 10k series to one by the penalty algorithm, 48 M samples",
            blocks: dir.path(),
            flags: &[
                "--compact.enable-vertical-compaction",
                "--deduplication.replica-label=replica",
                "--deduplication.func=penalty",
            ],
            downsample: false,
        },
    )
}

/// Raw samples to 5m.
pub(super) fn downsampling(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let shape = Shape { series: 5_000, samples: 2 * DAY as usize / 15_000, step: 15_000 };
    buckets::write_varied(dir.path(), buckets::meta(0, "a", START, START + 2 * DAY)?, shape, 0, |_| true)?;
    let title = "A block of 2 d of 5k series to 5m, 57.6 M samples";
    compare(binary, &Job { title, blocks: dir.path(), flags: &[], downsample: true })
}

/// Native histograms, merged and downsampled, as Prometheus writes them.
pub(super) fn histograms(binary: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut oracle = Oracle::start("prometheus-blocks")?;
    say("making 4 blocks of native histograms with Prometheus");
    for n in 0..4i64 {
        let made = oracle.ask(&json!({
            // A little later, since samples come up to 3 ms early; all series are histograms.
            "op": "generate", "dir": dir.path(), "series": 2_000, "samples": SAMPLES, "start": START + n * TWO_HOURS + 10,
            "interval": 15_000, "histograms": 1, "seed": 1 + n,
        }))?;
        let folder = PathBuf::from(made["dir"].as_str().context("the oracle tells no folder")?);
        external(&folder, START + n * TWO_HOURS, START + (n + 1) * TWO_HOURS)?;
    }
    newest(dir.path())?;
    let title = "4 blocks of 2 h to one of 8 h, of 2,000 native histograms, 3.84 M samples";
    compare(binary, &Job { title, blocks: dir.path(), flags: &[], downsample: false })
}

/// A group of a million series, and how memory grows up to there.
pub(super) fn million(binary: &Path) -> anyhow::Result<()> {
    let mut sizes = Vec::new();
    for series in [100_000, 1_000_000] {
        let dir = tempfile::tempdir()?;
        // A tenth of the samples: what counts here is the number of series.
        side_by_side(dir.path(), Shape { series, samples: SAMPLES / 10, step: 150_000 })?;
        let title = format!("4 blocks of 2 h to one of 8 h, {series} series, {} M samples", series * 192 / 1_000_000);
        let job = Job { title: &title, blocks: dir.path(), flags: &[], downsample: false };
        sizes.push(both(binary, &job)?);
    }
    let [(small_peer, small), (large_peer, large)] = sizes.as_slice() else { anyhow::bail!("two sizes") };
    let mut table = Table::new("Anonymous memory from 100,000 to 1,000,000 series");
    let grown = |a: &Done, b: &Done| b.spent.anon_mib / a.spent.anon_mib;
    table.row("times as much", "×", grown(small_peer, large_peer), grown(small, large));
    table.print()
}

fn side_by_side(dir: &Path, shape: Shape) -> anyhow::Result<()> {
    for n in 0..4 {
        let begin = START + n as i64 * TWO_HOURS;
        buckets::write_varied(dir, buckets::meta(n, "a", begin, begin + TWO_HOURS)?, shape, 0, |_| true)?;
    }
    newest(dir)
}

/// A small block behind the others: Thanos leaves the newest one alone.
fn newest(dir: &Path) -> anyhow::Result<()> {
    let begin = START + 4 * TWO_HOURS;
    let shape = Shape { series: 10, samples: 10, step: 15_000 };
    buckets::write(dir, buckets::meta(4, "a", begin, begin + TWO_HOURS)?, shape)
}

/// Gives a block of Prometheus's what a sidecar would give it.
fn external(folder: &Path, min: i64, max: i64) -> anyhow::Result<()> {
    let mut meta = read_meta(&RealDisk, folder)?;
    let like = buckets::meta(0, "a", min, max)?;
    meta.thanos = like.thanos;
    (meta.min_time, meta.max_time) = (min, max);
    Ok(write_meta(&RealDisk, folder, &meta)?)
}

fn compare(binary: &Path, job: &Job<'_>) -> anyhow::Result<()> {
    both(binary, job).map(|_| ())
}

/// Runs both, compares what they made, and prints the table.
fn both(binary: &Path, job: &Job<'_>) -> anyhow::Result<(Done, Done)> {
    say(job.title);
    let (theirs, ours) = (one(&peers::path("thanos")?, job)?, one(binary, job)?);
    anyhow::ensure!(
        theirs.made.iter().map(|m| (m.0, m.1)).eq(ours.made.iter().map(|m| (m.0, m.1))),
        "Thanos made {:?}, we {:?} (resolution, series, samples)",
        theirs.made,
        ours.made
    );
    let mut table = Table::new(job.title);
    table.row("CPU", "s", theirs.spent.cpu_s, ours.spent.cpu_s);
    table.row("wall time", "s", theirs.spent.wall_s, ours.spent.wall_s);
    table.row("peak RSS", "MiB", theirs.spent.peak_mib, ours.spent.peak_mib);
    table.row("of it anonymous", "MiB", theirs.spent.anon_mib, ours.spent.anon_mib);
    let samples = |done: &Done| done.made.iter().map(|(.., samples)| *samples as f64 / 1e6).sum::<f64>();
    table.row("samples made", "M", samples(&theirs), samples(&ours));
    table.print()?;
    Ok((theirs, ours))
}

/// One pass of one program over a bucket of its own.
fn one(program: &Path, job: &Job<'_>) -> anyhow::Result<Done> {
    let dir = tempfile::tempdir()?;
    let bucket = dir.path().join("bucket");
    link(job.blocks, &bucket)?;
    let config = json!({"type": "FILESYSTEM", "config": {"directory": bucket}});
    let mut command = Command::new(program);
    match job.downsample {
        true => command.args(["tools", "bucket", "downsample"]),
        false => command.args(["compact", "--consistency-delay=0s", "--downsampling.disable"]),
    };
    command.arg(format!("--data-dir={}", dir.path().join("data").display()));
    command.arg(format!("--objstore.config={config}")).args(job.flags);
    let address = format!("--http-address=127.0.0.1:{}", testkit::ports::free()?);
    command.arg(&address).current_dir(dir.path());
    // The tool goes on for ever: it is ended when the block is there.
    // A compactor without --wait ends by itself.
    let until = || Ok(job.downsample && !made(&bucket)?.is_empty());
    let spent = spend(&mut command, &dir.path().join("log"), until)
        .with_context(|| std::fs::read_to_string(dir.path().join("log")).unwrap_or_default())?;
    let made = made(&bucket)?;
    anyhow::ensure!(!made.is_empty(), "{} made no block", program.display());
    Ok(Done { spent, made })
}

/// The same files under another folder.
fn link(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => link(&entry.path(), &target)?,
            false => std::fs::hard_link(entry.path(), target)?,
        }
    }
    Ok(())
}

/// The blocks that a compactor made.
fn made(bucket: &Path) -> anyhow::Result<Vec<(i64, u64, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(bucket)? {
        let Ok(text) = std::fs::read(entry?.path().join("meta.json")) else { continue };
        let meta = BlockMeta::read("meta.json", &text)?;
        if meta.thanos.as_ref().is_some_and(|thanos| thanos.source == source::COMPACTOR) {
            found.push((meta.resolution(), meta.stats.num_series, meta.stats.num_samples));
        }
    }
    found.sort_unstable();
    Ok(found)
}
