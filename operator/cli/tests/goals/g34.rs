//! G34: what the store asks of the bucket. Idle, a request or two per look, however many blocks there are; a cold query about as
//! many as there are ranges to read; on the same work at most a quarter of what Thanos's store asks.

use e2e::buckets::{self, START, Shape, TWO_HOURS};
use e2e::gateway::{Client, Gateway, Kind, request};
use std::path::Path;
use std::time::Duration;
use testkit::gcs::Gcs;
use testkit::goal::Goal;

const BUCKET: &str = "requests";
const WITHIN: Duration = Duration::from_secs(60);
/// How often our store looks into the catalogue here, and how long it is watched.
const LOOK: Duration = Duration::from_secs(1);
const WATCHED: u32 = 4;
/// Blocks that a query touches.
const TOUCHED: i64 = 4;
/// The least that one block costs a cold query, each read known by the one before: its index-header, postings, series, chunks.
const RANGES: u64 = 4;
/// A block that queries touch: four chunks of each series; and any other.
const TOUCHED_SHAPE: Shape = Shape { series: 400, samples: 480, step: 15_000 };
const OTHER_SHAPE: Shape = Shape { series: 20, samples: 120, step: 60_000 };

/// Requests for the start, for standing still, and for the queries.
struct Asked {
    start: u64,
    idle: u64,
    cold: u64,
    queries: u64,
}

fn work(kind: Kind<'_>, dir: &Path, gcs: &Gcs, blocks: usize, args: &[String]) -> Asked {
    let total = || gcs.requests().values().sum::<u64>();
    let begin = total();
    let mut gateway = Gateway::spawn(kind, dir, gcs, BUCKET, args).unwrap();
    gateway.wait_for_blocks(blocks, WITHIN).unwrap();
    let ready = total();
    if kind != Kind::Thanos {
        std::thread::sleep(LOOK * WATCHED);
    }
    let idle = total();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(Client::connect(gateway.grpc())).unwrap();
    let mut ask = |from: i64, pod: &str, series: usize| {
        let range = (START + from * TWO_HOURS, START + (from + TOUCHED) * TWO_HOURS - 1);
        let found = runtime.block_on(client.series(request(&[(2, "pod", pod)], range.0, range.1)));
        let found = found.unwrap_or_else(|e| panic!("{kind:?}: {e:#}\n{}", gateway.log()));
        let chunks: usize = found.iter().map(|series| series.chunks.len()).sum();
        assert_eq!(chunks, series * 4 * TOUCHED as usize, "{kind:?}: chunks in the answer about {pod}");
    };
    // Four series of each block, of different metrics: far enough from each other for a read of their own, near enough for one together.
    ask(0, "pod-0000(03|16|29|42)", 4);
    let cold = total();
    // A dashboard: the same hours again, other series, a step further.
    for from in [0, 0, 1, 2, 3] {
        for pod in ["pod-000003", "pod-000004", "pod-000017"] {
            ask(from, pod, 1);
        }
    }
    Asked { start: ready - begin, idle: idle - ready, cold: cold - idle, queries: total() - cold }
}

#[test]
fn goal_g34_requests_to_the_bucket() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let goal = Goal::start("G34");
    let dir = tempfile::tempdir().unwrap();
    let gcs = Gcs::start().unwrap();
    gcs.make_bucket(BUCKET);
    let blocks = goal.pick(40, 400, 10_000);
    for n in 0..blocks {
        let begin = START + n as i64 * TWO_HOURS;
        let meta = buckets::meta(n, "a", begin, begin + TWO_HOURS).unwrap();
        let shape = if n < 2 * TOUCHED as usize { TOUCHED_SHAPE } else { OTHER_SHAPE };
        buckets::add(&gcs, BUCKET, meta, shape).unwrap();
    }
    buckets::snapshot(&gcs, BUCKET).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_panoptes"));
    let args = [format!("--catalogue.interval={}s", LOOK.as_secs())];
    let ours = work(Kind::Ours(binary), dir.path(), &gcs, blocks, &args);
    let least = RANGES * TOUCHED as u64;
    let most = u64::from(WATCHED + 1) * 2;
    assert!(
        ours.idle <= most,
        "idle over {blocks} blocks: {} requests in {WATCHED} looks, {most} are the most",
        ours.idle
    );
    assert!(ours.cold * 10 <= least * 12, "a cold query takes {} requests, {least} are the least", ours.cold);
    let peer = work(Kind::Thanos, dir.path(), &gcs, blocks, &[]);
    let sum = |a: &Asked| a.start + a.cold + a.queries;
    let (own, theirs) = (sum(&ours), sum(&peer));
    assert!(own * 4 <= theirs, "{own} requests, more than a quarter of Thanos's {theirs}");
    goal.figure(&format!(
        "{blocks} blocks, ours and Thanos's: start {} and {}, a cold query over {TOUCHED} blocks {} and {} (least: {least}), 15 more \
         queries {} and {}, together {:.0} %; idle {} in {WATCHED} looks",
        ours.start,
        peer.start,
        ours.cold,
        peer.cold,
        ours.queries,
        peer.queries,
        own as f64 * 100.0 / theirs as f64,
        ours.idle,
    ));
}
