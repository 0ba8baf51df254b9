//! G16: 50 queries a second while a real `thanos compact` compacts the blocks under them and deletes the old ones ten seconds
//! later. No query fails and no sample is missing.

use e2e::buckets::{self, START, Shape, TWO_HOURS};
use e2e::gateway::{Client, Gateway, Kind, request};
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::gcs::{self, Gcs};
use testkit::goal::{Goal, Size};
use testkit::process::Process;
use testkit::{peers, ports};
use tsdb::chunk::{Columns, Encoding, floats};

const BUCKET: &str = "races";
/// Time between two queries.
const EVERY: Duration = Duration::from_millis(20);
const SERIES: usize = 3;
const SAMPLES: usize = 120;
/// Blocks that one query touches.
const ASKED: usize = 4;

/// What came of the queries.
#[derive(Default)]
struct Told {
    asked: usize,
    failed: Vec<String>,
    incomplete: Vec<String>,
    /// The end of the store's log.
    log: String,
}

/// `thanos compact`, which looks again every second and deletes what was compacted after a delay.
fn compactor(dir: &Path, gcs: &Gcs, delay: Duration) -> Process {
    let key = gcs::key("bench", "bench@example.com", &gcs.url()).unwrap().to_string();
    let config = json!({"type": "GCS", "config": {"service_account": key, "bucket": BUCKET}});
    let mut command = Command::new(peers::path("thanos").unwrap());
    command
        .args(["compact", "--wait", "--wait-interval=1s", "--consistency-delay=0s", "--compact.cleanup-interval=1s"])
        .arg(format!("--delete-delay={}s", delay.as_secs()))
        .arg(format!("--http-address=127.0.0.1:{}", ports::free().unwrap()))
        .arg(format!("--data-dir={}", dir.join("compact").display()))
        .arg(format!("--objstore.config={config}"))
        .env("STORAGE_EMULATOR_HOST", gcs.url());
    Process::spawn("thanos-compact", &mut command, &dir.join("compact.log")).unwrap()
}

/// The times of all samples of some hours, each once: overlapping chunks say the same.
async fn samples(client: &mut Client, from: usize) -> anyhow::Result<usize> {
    let begin = START + from as i64 * TWO_HOURS;
    let end = begin + ASKED as i64 * TWO_HOURS;
    let all = client.series(request(&[(2, "__name__", "bench_.+")], begin, end - 1)).await?;
    let mut times = BTreeSet::new();
    let mut columns = Columns::default();
    for series in &all {
        let name: Vec<u8> = series.labels.iter().flat_map(|l| l.value.as_ref().iter().copied()).collect();
        for raw in series.chunks.iter().filter_map(|c| c.raw.as_ref()) {
            columns.clear();
            floats(Encoding::from_store_api(raw.r#type), &raw.data, &mut columns)
                .map_err(|e| anyhow::anyhow!("{e}"))?;
            times.extend(columns.times.iter().filter(|t| (begin..end).contains(*t)).map(|t| (name.clone(), *t)));
        }
    }
    Ok(times.len())
}

/// Asks until the time is over, and until the compactor has deleted something if it is given.
fn race(gateway: &Gateway, blocks: usize, share: Duration, over: impl Fn() -> bool) -> Told {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let expected = ASKED * SERIES * SAMPLES;
    runtime.block_on(async {
        let client = Client::connect(gateway.grpc()).await.unwrap();
        let mut all = tokio::task::JoinSet::new();
        let (mut told, begin) = (Told::default(), Instant::now());
        let mut ticks = tokio::time::interval(EVERY);
        while begin.elapsed() < share && !over() {
            ticks.tick().await;
            let mut client = client.clone();
            let from = told.asked % (blocks + 1 - ASKED);
            all.spawn(async move { samples(&mut client, from).await });
            told.asked += 1;
        }
        while let Some(ended) = all.join_next().await {
            match ended.unwrap() {
                Err(e) => told.failed.push(format!("{e:#}")),
                Ok(n) if n != expected => told.incomplete.push(format!("{n} of {expected} samples")),
                Ok(_) => {}
            }
        }
        told
    })
}

/// Fills the bucket and lets both work: what came of the queries, and how many blocks were deleted.
fn run(kind: Kind<'_>, goal: &Goal, args: &[&str]) -> (Told, usize) {
    let (blocks, delay, share) = goal.pick(
        (8, Duration::from_secs(2), Duration::from_secs(9)),
        (24, Duration::from_secs(10), Duration::from_secs(25)),
        (240, Duration::from_secs(10), Duration::from_secs(1_700)),
    );
    let dir = tempfile::tempdir().unwrap();
    let gcs = Gcs::start().unwrap();
    gcs.make_bucket(BUCKET);
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    for n in 0..blocks {
        let begin = START + n as i64 * TWO_HOURS;
        let meta = buckets::meta(n, "a", begin, begin + TWO_HOURS).unwrap();
        buckets::add(&gcs, BUCKET, meta, Shape { series: SERIES, samples: SAMPLES, step: 60_000 }).unwrap();
    }
    let mut gateway = Gateway::spawn(kind, dir.path(), &gcs, BUCKET, &args).unwrap();
    gateway.wait_for_blocks(blocks, Duration::from_secs(60)).unwrap();
    let compactor = compactor(dir.path(), &gcs, delay);
    let gone = || (0..blocks).filter(|n| gcs.object(BUCKET, &format!("{}/index", buckets::id(*n))).is_none()).count();
    let first_gone = Cell::new(None::<Instant>);
    let told = race(&gateway, blocks, share, || {
        if first_gone.get().is_none() && gone() > 0 {
            first_gone.set(Some(Instant::now()));
        }
        // A little longer than the first deletions.
        goal.size() == Size::Ci && first_gone.get().is_some_and(|at| at.elapsed() > Duration::from_secs(2))
    });
    let deleted = gone();
    let told = Told { log: gateway.log(), ..told };
    assert!(deleted > 0, "the compactor deleted nothing: {}", compactor.log());
    (told, deleted)
}

#[test]
fn goal_g16_delete_race() {
    if peers::skip(&["thanos"]) {
        return;
    }
    let goal = Goal::start("G16");
    let binary = Path::new(env!("CARGO_BIN_EXE_panoptes"));
    // The hardest way to run it: no look of its own comes in time, nothing is left out early, and nothing that was read is kept on
    // the disk. What keeps the answers whole is the new look at the bucket when an object is gone.
    let hard = ["--sync-block-duration=10m", "--catalogue.interval=10m", "--ignore-deletion-marks-delay=1h"];
    let (ours, deleted) = run(Kind::Ours(binary), &goal, &[&hard[..], &["--cache.disk-size=0"]].concat());
    let first = |all: &[String]| all.first().cloned().unwrap_or_default();
    assert!(
        ours.failed.is_empty(),
        "{} of {} queries failed: {}\n{}",
        ours.failed.len(),
        ours.asked,
        first(&ours.failed),
        ours.log
    );
    assert!(
        ours.incomplete.is_empty(),
        "{} of {} answers are incomplete: {}",
        ours.incomplete.len(),
        ours.asked,
        first(&ours.incomplete)
    );
    let mut figure =
        format!("{} queries while {deleted} blocks were compacted away: 0 failed, 0 missing samples", ours.asked);
    if goal.size() != Size::Ci && std::env::var_os("PANOPTES_BREAK").is_none() {
        // Under the same settings: it has no such look.
        let hard = ["--sync-block-duration=10m", "--ignore-deletion-marks-delay=1h"];
        let (peer, deleted) = run(Kind::Thanos, &goal, &hard);
        figure.push_str(&format!(
            "; Thanos's store: {} of {} failed and {} incomplete while {deleted} were",
            peer.failed.len(),
            peer.asked,
            peer.incomplete.len()
        ));
    }
    goal.figure(&figure);
}
