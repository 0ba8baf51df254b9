//! G02: the real compactor, killed at random moments while blocks arrive. What a reader finds is whole at every moment, and in the
//! end each sample is there once.

use e2e::buckets::{self, START, Shape, TWO_HOURS};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::gcs::{self, Gcs};
use testkit::goal::Goal;
use testkit::ports;
use testkit::process::Process;
use tsdb::block::Block;
use tsdb::chunk::{Columns, floats};
use tsdb::disk::{Disk as _, MemoryDisk, replace};
use tsdb::meta::BlockMeta;
use tsdb::series::Blocks;

const BUCKET: &str = "kills";
const SHAPE: Shape = Shape { series: 200, samples: 120, step: 60_000 };
const REPLICAS: [&str; 3] = ["a", "b", "c"];

fn command(dir: &Path, gcs: &Gcs, more: &[&str]) -> Command {
    let key = gcs::key("bench", "bench@example.com", &gcs.url()).unwrap().to_string();
    let config = json!({"type": "GCS", "config": {"service_account": key, "bucket": BUCKET}});
    let mut command = Command::new(env!("CARGO_BIN_EXE_panoptes"));
    command
        .args(["compact", "--consistency-delay=0s", "--delete-delay=1s", "--lease.duration=1s"])
        .args(more)
        .arg(format!("--http-address=127.0.0.1:{}", ports::free().unwrap()))
        .arg(format!("--grpc-address=127.0.0.1:{}", ports::free().unwrap()))
        .arg(format!("--data-dir={}", dir.join("data").display()))
        .arg(format!("--objstore.config={config}"))
        .env("STORAGE_EMULATOR_HOST", gcs.url());
    command
}

/// Two hours of three replicas arrive.
fn ingest(gcs: &Gcs, hours: usize) {
    for (i, replica) in REPLICAS.iter().enumerate() {
        let begin = START + hours as i64 * TWO_HOURS;
        let meta = buckets::meta(hours * REPLICAS.len() + i, replica, begin, begin + TWO_HOURS).unwrap();
        buckets::add(gcs, BUCKET, meta, SHAPE).unwrap();
    }
}

/// Raw blocks with a meta.json, and whether they are marked. Objects may go while they are read: then the whole is read again.
fn blocks(gcs: &Gcs) -> Vec<(BlockMeta, bool)> {
    let names: BTreeSet<String> = gcs.names(BUCKET).into_iter().collect();
    let metas = names.iter().filter(|name| name.ends_with("/meta.json"));
    metas
        .filter_map(|name| {
            let meta = BlockMeta::read(name, &gcs.object(BUCKET, name)?).unwrap();
            Some((meta.clone(), names.contains(&format!("{}/deletion-mark.json", meta.id))))
        })
        .collect()
}

/// How many different samples a reader finds in all raw blocks; panics about what is not whole.
fn samples(gcs: &Gcs) -> usize {
    let mut found: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for (meta, _) in blocks(gcs).into_iter().filter(|(m, _)| m.resolution() == 0) {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/b").join(meta.id.to_string()));
        disk.create_dir(&dir.join("chunks")).unwrap();
        for file in &meta.thanos.as_ref().unwrap().files {
            let name = format!("{}/{}", meta.id, file.rel_path);
            let bytes = gcs.object(BUCKET, &name).unwrap_or_else(|| panic!("a visible block lacks a file: {name}"));
            replace(&disk, &dir.join(&file.rel_path), &bytes).unwrap();
        }
        let block = Block::open(&disk, &dir).unwrap();
        for series in Blocks::all(&block).unwrap() {
            let series = series.unwrap();
            let times = found.entry(format!("{}{}", meta.labels(), series.labels)).or_default();
            for chunk in &series.chunks {
                let mut columns = Columns::default();
                floats(chunk.encoding, &chunk.data, &mut columns).unwrap();
                times.extend(&columns.times);
            }
        }
    }
    found.values().map(BTreeSet::len).sum()
}

#[test]
fn goal_g02_kills_of_the_compactor() {
    let goal = Goal::start("G02");
    let kills = goal.pick(5, 30, 1_000);
    let mut rng = goal.rng("kills");
    let dir = tempfile::tempdir().unwrap();
    let gcs = Gcs::start().unwrap();
    gcs.make_bucket(BUCKET);
    let mut hours = 0;
    while hours < 13 {
        ingest(&gcs, hours);
        hours += 1;
    }
    let expected = |hours: usize| hours * REPLICAS.len() * SHAPE.series * SHAPE.samples;
    for n in 0..kills {
        let log = dir.path().join(format!("{n}.log"));
        let process =
            Process::spawn("compact", &mut command(dir.path(), &gcs, &["--wait", "--wait-interval=1s"]), &log);
        let process = process.unwrap();
        // The lease of the one before lasts a second more.
        std::thread::sleep(Duration::from_millis(1_100 + rng.below(700) as u64));
        if n % 2 == 0 {
            ingest(&gcs, hours);
            hours += 1;
        }
        process.signal("KILL").unwrap();
        drop(process);
        assert_eq!(samples(&gcs), expected(hours), "after kill {n}");
    }
    // Healed: what is due is done, what is garbage goes.
    let begin = Instant::now();
    for _ in 0..3 {
        let done = command(dir.path(), &gcs, &[]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::thread::sleep(Duration::from_millis(2_100));
    }
    assert_eq!(samples(&gcs), expected(hours), "in the end");
    let all = blocks(&gcs);
    for (a, _) in all.iter().filter(|(_, marked)| !marked) {
        let over = all.iter().find(|(b, marked)| {
            let same = (a.resolution(), a.labels()) == (b.resolution(), b.labels());
            !marked && same && a.id != b.id && a.min_time < b.max_time && b.min_time < a.max_time
        });
        assert!(over.is_none(), "{} and {} overlap", a.id, over.unwrap().0.id);
    }
    let ids: BTreeSet<String> = all.iter().map(|(m, _)| m.id.to_string()).collect();
    let garbage = gcs.names(BUCKET).into_iter().find(|name| {
        let first = name.split('/').next().unwrap_or_default();
        !name.starts_with("panoptes/") && !ids.contains(first)
    });
    assert!(garbage.is_none(), "garbage is left: {garbage:?}");
    let wide = all.iter().filter(|(m, _)| m.max_time - m.min_time >= 4 * TWO_HOURS).count();
    assert!(wide >= REPLICAS.len(), "nothing was compacted");
    goal.figure(&format!(
        "{kills} kills while {} blocks arrived: {} samples each once, {wide} wide blocks, healed in {:.0} s",
        hours * REPLICAS.len(),
        expected(hours),
        begin.elapsed().as_secs_f64()
    ));
}
