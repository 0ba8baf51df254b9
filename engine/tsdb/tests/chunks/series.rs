//! Blocks that overlap, merged and joined by us and compacted by Prometheus: the same series with the same chunks.

use crate::prometheus::{Step, floats, histograms, run};
use crate::wire;
use model::{BlockId, Labels};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use testkit::oracle::Oracle;
use tsdb::BlockMeta;
use tsdb::block::Block;
use tsdb::chunk::{Chunk, Exact, Recoder, Value};
use tsdb::compact::{self, Counts};
use tsdb::disk::RealDisk;
use tsdb::plan::compacted as compacted_meta;
use tsdb::series::{Blocks, Dedup, Merged, OutOfOrder, Series, join};

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

    let metas: Vec<&BlockMeta> = blocks.iter().map(Block::meta).collect();
    let id: BlockId = "01J00000000000000000000009".parse().unwrap();
    let meta = compacted_meta(id, &Labels::empty(), &metas).unwrap();
    let ours = compact::blocks(&RealDisk, &blocks, dir.path(), meta, Dedup::Merge).unwrap();
    let written = ours.written.unwrap();
    for file in ["index", "chunks/000001"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
        prop_assert!(read(&written.dir) == read(&dir.path().join(answer["ulids"][0].as_str().unwrap())), "{}", file);
    }
    let (mut ours, theirs) = (written.meta, compacted.meta());
    (ours.id, ours.thanos) = (theirs.id, None);
    prop_assert_eq!(&ours, theirs);
    Ok(())
}

/// Blocks behind one another: no chunk is opened, and an empty result is none.
#[test]
fn chunks_that_do_not_overlap_are_passed_on() {
    run(1, |oracle, _| {
        let dir = tempfile::tempdir().unwrap();
        let chunk = |from: i64| {
            let mut recoder = Recoder::default();
            (0..100).for_each(|i| recoder.push_float(from + i * 1000, i as f64).unwrap());
            recoder.finish()
        };
        let dirs: Vec<PathBuf> = (0..4u8)
            .filter_map(|b| {
                let from = i64::from(b) * 100_000;
                let only = format!("only_{b}");
                write(oracle, dir.path(), b, &[("all".to_owned(), chunk(from)), (only, chunk(from))])
            })
            .collect();
        let open = || -> Vec<Block> { dirs.iter().map(|d| Block::open(&RealDisk, d).unwrap()).collect() };
        let blocks = open();
        let metas: Vec<&BlockMeta> = blocks.iter().map(Block::meta).collect();
        let id: BlockId = "01J00000000000000000000009".parse().unwrap();
        let meta = compacted_meta(id, &Labels::empty(), &metas).unwrap();
        let made = compact::blocks(&RealDisk, &blocks, dir.path(), meta.clone(), Dedup::Merge).unwrap();
        let counts = Counts {
            series: 5,
            series_in: 8,
            series_seen: 8,
            samples_in: 800,
            samples_out: 800,
            passed: 8,
            ..Counts::default()
        };
        prop_assert_eq!(made.counts, counts);
        let made = made.written.unwrap();
        prop_assert_eq!((made.meta.compaction.level, made.meta.stats.num_samples), (2, 800));
        prop_assert_eq!(made.meta.thanos.unwrap().segment_files, ["000001"]);
        std::fs::remove_dir_all(&made.dir).unwrap();

        let none = compact::blocks(&RealDisk, &[], dir.path(), meta.clone(), Dedup::Merge).unwrap();
        prop_assert!(none.written.is_none() && !made.dir.exists());
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);

        // A block that says that it ends earlier than its chunks do is the one to blame.
        let mut wrong = blocks[2].meta().clone();
        wrong.max_time -= 10;
        tsdb::block::write_meta(&RealDisk, &dirs[2], &wrong).unwrap();
        let error = compact::blocks(&RealDisk, &open(), dir.path(), meta, Dedup::Merge).unwrap_err();
        prop_assert_eq!(error.block(), Some(wrong.id));
        prop_assert!(error.to_string().contains("lies outside of the block's time"), "{}", error);
        Ok(())
    });
}

#[test]
fn overlapping_blocks_become_what_prometheus_compacts() {
    run(24, |oracle, steps| compare(oracle, &steps));
}
