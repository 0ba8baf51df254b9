//! Blocks that overlap, merged and joined by us and compacted by Prometheus: the same series with the same chunks.

use crate::prometheus::{Step, floats, histograms, run};
use crate::wire;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use testkit::oracle::Oracle;
use tsdb::block::Block;
use tsdb::chunk::{Chunk, Exact, Recoder, Value};
use tsdb::disk::RealDisk;
use tsdb::series::{Blocks, Merged, OutOfOrder, Series, join};

const BLOCKS: u8 = 4;

/// What one block has of a series: some stretches of it, some of them moved or with other values, so that chunks are equal, touch,
/// overlap and disagree.
fn part(all: &[Exact], steps: &[Step], block: u8) -> Vec<Chunk> {
    let mut recoder = Recoder::default();
    let mut last = i64::MIN;
    for (i, (s, step)) in all.iter().zip(steps).enumerate() {
        // Stretches of 40 samples, each in some of the blocks; within one, single samples are missing here and there.
        let stretch = steps.get(i / 40 * 40).map_or(0, |s| s.odd);
        if stretch >> block & 1 == 0 || step.value % 16 == block || s.t < last {
            continue;
        }
        last = s.t;
        let mut s = s.clone();
        if step.start % 32 == block
            && let Value::Float(v) = &mut s.v
        {
            *v += f64::from(block);
        }
        recoder.push(&s).unwrap();
    }
    // A time may come twice in a chunk, but not in two of them.
    let mut chunks = recoder.finish();
    let mut end = i64::MIN;
    chunks.retain(|c| {
        let behind = c.min_t > end;
        end = end.max(c.max_t);
        behind
    });
    chunks
}

fn write(oracle: &mut Oracle, dir: &Path, block: u8, series: &[(String, Vec<Chunk>)]) -> Option<PathBuf> {
    let chunk = |c: &Chunk| json!({"min_t": c.min_t, "max_t": c.max_t, "encoding": c.encoding.to_prometheus(), "data": wire::hex(&c.data)});
    let series: Vec<Json> = series
        .iter()
        .filter(|(_, chunks)| !chunks.is_empty())
        .map(|(name, chunks)| json!({"labels": {"__name__": name}, "chunks": chunks.iter().map(chunk).collect::<Vec<_>>()}))
        .collect();
    if series.is_empty() {
        return None;
    }
    let ulid = format!("01J0000000000000000000000{block}");
    let written = oracle.ask(&json!({"op": "write_raw", "dir": dir, "ulid": ulid, "series": series})).unwrap();
    Some(written["dir"].as_str().unwrap().into())
}

fn compare(oracle: &mut Oracle, steps: &[Step]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        ("a_float", floats(steps, false)),
        ("b_float_with_start", floats(steps, true)),
        ("c_histogram", histograms(steps, false, false)),
        ("d_float_histogram", histograms(steps, true, true)),
    ];
    let mut dirs = Vec::new();
    for block in 0..BLOCKS {
        let parts: Vec<_> = kinds.iter().map(|(name, all)| ((*name).to_owned(), part(all, steps, block))).collect();
        dirs.extend(write(oracle, dir.path(), block, &parts));
    }
    if dirs.len() < 2 {
        return Ok(());
    }
    let answer = oracle.ask(&json!({"op": "compact", "dest": dir.path(), "dirs": dirs})).unwrap();
    let compacted = dir.path().join(answer["ulids"][0].as_str().unwrap());
    let compacted = Block::open(&RealDisk, &compacted).unwrap();
    let theirs: Vec<Series> = Blocks::all(&compacted).unwrap().map(Result::unwrap).collect();

    let blocks: Vec<Block> = dirs.iter().map(|d| Block::open(&RealDisk, d).unwrap()).collect();
    let streams = blocks.iter().map(|b| Blocks::all(b).unwrap().map(|s| Ok::<_, OutOfOrder>(s.unwrap()))).collect();
    let ours = Merged::new(streams).map(|group| {
        let group = group.unwrap();
        let mut parts: Vec<_> = group.parts.into_iter().map(|(_, chunks)| chunks).collect();
        let chunks = if parts.len() == 1 { parts.remove(0) } else { join(parts, false).unwrap() };
        Series { labels: group.labels, chunks }
    });
    prop_assert_eq!(ours.collect::<Vec<_>>(), theirs);
    Ok(())
}

#[test]
fn overlapping_blocks_become_what_prometheus_compacts() {
    run(24, |oracle, steps| compare(oracle, &steps));
}
