//! G17: the store starts over very many blocks. With the catalogue it needs few requests, however many there are, and what one
//! block costs does not grow with their number.

use e2e::buckets;
use e2e::gateway::{Gateway, Kind, Spent};
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::gcs::Gcs;
use testkit::goal::Goal;

/// Requests that a start may take when there is a catalogue.
const REQUESTS: u64 = 200;
/// A start is over within this.
const WITHIN: Duration = Duration::from_secs(60);
/// Most resident memory, MiB.
const MEMORY: f64 = 1024.0;

fn start(gcs: &Gcs, dir: &Path, blocks: usize) -> (Spent, Duration) {
    let name = format!("of-{blocks}");
    gcs.make_bucket(&name);
    buckets::crowd(gcs, &name, blocks, true).unwrap();
    let before: u64 = gcs.requests().values().sum();
    let begin = Instant::now();
    let binary = Path::new(env!("CARGO_BIN_EXE_panoptes"));
    let mut gateway = Gateway::spawn(Kind::Ours(binary), &dir.join(&name), gcs, &name, &[]).unwrap();
    gateway.wait_for_blocks(blocks, WITHIN).unwrap();
    let took = begin.elapsed();
    let mut spent = gateway.spent(gcs).unwrap();
    spent.requests -= before;
    (spent, took)
}

#[test]
fn goal_g17_start_over_many_blocks() {
    let goal = Goal::start("G17");
    let dir = tempfile::tempdir().unwrap();
    let gcs = Gcs::start().unwrap();
    let many = goal.pick(1_000, 10_000, 100_000);
    let few = many / 4;
    let none = start(&gcs, dir.path(), 1).0.cpu_s;
    let (less, _) = start(&gcs, dir.path(), few);
    let (more, took) = start(&gcs, dir.path(), many);
    let requests = more.requests;
    assert!(requests <= REQUESTS, "a start over {many} blocks takes {requests} requests, {REQUESTS} are the most");
    assert!(more.peak_mib <= MEMORY, "a start over {many} blocks takes {:.0} MiB", more.peak_mib);
    // Below this the clock that counts CPU is too coarse.
    let each = |spent: Spent, blocks: usize| (spent.cpu_s - none).max(0.02) * 1e6 / blocks as f64;
    let (of_few, of_many) = (each(less, few), each(more, many));
    let limit = goal.pick(2.0, 1.2, 1.2);
    assert!(of_many <= limit * of_few, "a block of {many} costs {of_many:.0} µs of CPU, one of {few} only {of_few:.0}");
    goal.figure(&format!(
        "{many} blocks: ready in {:.1} s, {requests} requests, {:.0} MiB, {of_many:.0} µs of CPU per block; of {few}: {} requests, \
         {of_few:.0} µs",
        took.as_secs_f64(),
        more.peak_mib,
        less.requests,
    ));
}
