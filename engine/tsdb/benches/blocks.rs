//! Opening a block and reading all of it, beside Prometheus's own library on the same block, in one run
//! (`cargo bench -p tsdb --bench blocks`, part of `make bench`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use bytes::Bytes;
use serde_json::{Value as Json, json};
use std::path::Path;
use std::time::Instant;
use testkit::oracle::Oracle;
use tsdb::block::Block;
use tsdb::chunk::{self, Columns};
use tsdb::disk::RealDisk;

const SERIES: usize = 50_000;
const SAMPLES: usize = 480;
const ROUNDS: usize = 5;

/// One reading of the block.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    open_s: f64,
    s: f64,
    chunks: u64,
    samples: u64,
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    // Another process makes the block, so that the memory of the one that reads is its own.
    let made = Oracle::start("prometheus-blocks")
        .unwrap()
        .ask(&json!({"op": "generate", "dir": dir.path(), "series": SERIES, "samples": SAMPLES, "start": 1_700_006_400_000_i64,
            "interval": 15_000, "histograms": 100, "seed": 7}))
        .unwrap();
    let block = Path::new(made["dir"].as_str().unwrap()).to_owned();
    let megabytes = size(&block) as f64 / 1e6;
    println!("a block of {SERIES} series, {} samples, {megabytes:.1} MB", SERIES * SAMPLES);
    let mut peer = Oracle::start("prometheus-blocks").unwrap();
    println!("what | peer's open ms | ours | peer's MB/s | ours | ratio of time | peer's CPU s | ours");
    for (what, decode) in [("all series and chunks, checksums", false), ("the same, all samples decoded", true)] {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let before = (cpu_s(peer.id()), cpu_s(std::process::id()));
        for _ in 0..ROUNDS {
            theirs.push(read_by(&mut peer, &block, decode));
            ours.push(read(&block, decode));
        }
        let cpu = (cpu_s(peer.id()) - before.0, cpu_s(std::process::id()) - before.1);
        let (peer_best, best) = (fastest(&theirs), fastest(&ours));
        assert_eq!((peer_best.chunks, peer_best.samples), (best.chunks, best.samples), "both read the same");
        println!(
            "{what} | {:.1} | {:.1} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2}",
            peer_best.open_s * 1e3,
            best.open_s * 1e3,
            megabytes / peer_best.s,
            megabytes / best.s,
            best.s / peer_best.s,
            cpu.0 / ROUNDS as f64,
            cpu.1 / ROUNDS as f64,
        );
    }
    let (theirs, ours) = (peak_mib(peer.id()), peak_mib(std::process::id()));
    println!("peak RSS, mapped pages of the block included: peer {theirs:.1} MiB, ours {ours:.1} MiB");
}

fn fastest(all: &[Reading]) -> Reading {
    *all.iter().min_by(|a, b| a.s.total_cmp(&b.s)).unwrap()
}

fn read(dir: &Path, decode: bool) -> Reading {
    let start = Instant::now();
    let block = Block::open(&RealDisk, dir).unwrap();
    let open_s = start.elapsed().as_secs_f64();
    let (mut chunks, mut samples, mut sum) = (0, 0, 0.0);
    let mut columns = Columns::default();
    let mut scan = block.scan().unwrap();
    while let Some(series) = scan.next() {
        for c in series.unwrap().chunks {
            chunks += 1;
            let found = block.chunk(c).unwrap();
            if !decode {
                std::hint::black_box(found.data);
            } else if found.encoding.is_float() {
                columns.clear();
                chunk::floats(found.encoding, found.data, &mut columns).unwrap();
                for (_, v) in columns.iter() {
                    sum += v;
                    samples += 1;
                }
            } else {
                let data = Bytes::copy_from_slice(found.data);
                for sample in chunk::decode(found.encoding, data).unwrap() {
                    if let model::sample::Value::Histogram(h) = sample.unwrap().v {
                        sum += h.sum;
                    }
                    samples += 1;
                }
            }
        }
    }
    std::hint::black_box(sum);
    Reading { open_s, s: start.elapsed().as_secs_f64(), chunks, samples }
}

fn read_by(peer: &mut Oracle, dir: &Path, decode: bool) -> Reading {
    let said = peer.ask(&json!({"op": "scan", "dir": dir, "decode": decode})).unwrap();
    let number = |name: &str| said.get(name).and_then(Json::as_u64).unwrap();
    let seconds = |name: &str| number(name) as f64 / 1e9;
    Reading {
        open_s: seconds("open_nanoseconds"),
        s: seconds("nanoseconds"),
        chunks: number("chunks"),
        samples: number("samples"),
    }
}

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

/// User and system time of a process so far.
fn cpu_s(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
