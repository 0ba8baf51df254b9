//! The same blocks downsampled by Thanos's own library (`e2e/peers/thanos-blocks`).

use super::tests::{BEGIN, FIVE, HOUR, Kind, Wild, chunks, histograms_of, wild};
use super::*;
use crate::block::{Block, Writer, read_meta};
use crate::chunk::Exact;
use crate::disk::RealDisk;
use crate::meta::BlockMeta;
use crate::plan::downsampled;
use crate::segment::NewChunk;
use model::{BlockId, Labels};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::path::{Path, PathBuf};
use testkit::oracle::Oracle;
use testkit::peers;

fn id(n: u64) -> BlockId {
    BlockId::from_parts(BEGIN as u64 + n, u128::from(n))
}

fn write(parent: &Path, id: BlockId, series: &[(Labels, Vec<Chunk>)]) -> PathBuf {
    let mut meta = BlockMeta::new(id, BEGIN, BEGIN + 15 * 86_400_000);
    meta.thanos.get_or_insert_default().labels = [("cluster".to_owned(), "eu".to_owned())].into();
    let mut writer = Writer::create(&RealDisk, parent, meta).unwrap();
    let mut symbols: Vec<&str> = series.iter().flat_map(|(l, _)| l.iter().flat_map(|(n, v)| [n, v])).collect();
    symbols.sort_unstable();
    symbols.dedup();
    symbols.into_iter().for_each(|s| writer.add_symbol(s).unwrap());
    for (labels, chunks) in series {
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk { encoding: c.encoding, data: &c.data, min_time: c.min_t, max_time: c.max_t })
            .collect();
        writer.add_series(labels, &new).unwrap();
    }
    writer.finish().unwrap().dir
}

/// What is in index and chunks.
fn read(dir: &Path) -> Vec<(Labels, Vec<Chunk>)> {
    let block = Block::open(&RealDisk, dir).unwrap();
    crate::series::Blocks::all(&block).unwrap().map(|s| s.unwrap()).map(|s| (s.labels, s.chunks)).collect()
}

fn samples(runner: &mut TestRunner, n: usize, make: impl Fn(&Wild) -> Vec<Exact>) -> Vec<(Labels, Vec<Chunk>)> {
    let wild = wild(1500);
    (0..n)
        .map(|i| {
            let labels = Labels::from_pairs([("__name__", "m"), ("i", &format!("{i:03}"))]);
            (labels, chunks(&make(&wild.new_tree(runner).unwrap().current())))
        })
        .collect()
}

fn runner(seed: u8) -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

/// Downsamples with both, to 5m and from there to 1h: block folders (ours, theirs) of each.
fn both(oracle: &mut Oracle, dir: &Path, series: &[(Labels, Vec<Chunk>)]) -> Vec<(PathBuf, PathBuf)> {
    let raw = write(dir, id(1), series);
    let block = Block::open(&RealDisk, &raw).unwrap();
    let metas = [FIVE, HOUR].iter().zip(2..).map(|(r, n)| downsampled(id(n), block.meta(), *r)).collect();
    let ours = super::block(&RealDisk, &block, dir, metas).unwrap();
    let mut ask = |of: &Path, resolution: i64| {
        let made = oracle
            .ask(&serde_json::json!({"op": "downsample", "dir": of, "dest": dir, "resolution": resolution}))
            .unwrap();
        PathBuf::from(made.as_str().unwrap())
    };
    let five = ask(&raw, FIVE);
    let hour = ask(&five, HOUR);
    // What they make of our 5m block is what they make of theirs.
    let of_ours = ask(&ours[0].written.dir, HOUR);
    vec![
        (ours[0].written.dir.clone(), five),
        (ours[1].written.dir.clone(), hour),
        (ours[1].written.dir.clone(), of_ours),
    ]
}

#[test]
fn floats_are_thanoss_byte_for_byte() {
    if peers::skip(&["thanos-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("thanos-blocks").unwrap();
    let mut runner = runner(5);
    let dir = tempfile::tempdir().unwrap();
    let series = samples(&mut runner, 60, |w| w.floats(true));
    for (ours, theirs) in both(&mut oracle, dir.path(), &series) {
        let (a, b) = (read(&ours), read(&theirs));
        assert_eq!(a.len(), b.len());
        for ((labels, ours), (_, theirs)) in a.iter().zip(&b) {
            assert_eq!(ours, theirs, "{labels}");
        }
        for file in ["index", "chunks/000001"] {
            assert!(std::fs::read(ours.join(file)).unwrap() == std::fs::read(theirs.join(file)).unwrap(), "{file}");
        }
        let (mut a, b) = (read_meta(&RealDisk, &ours).unwrap(), read_meta(&RealDisk, &theirs).unwrap());
        // They keep the raw block's numbers of floats, and fill in the sizes later.
        a.id = b.id;
        a.stats = b.stats.clone();
        a.thanos.as_mut().unwrap().index_stats = b.thanos.clone().unwrap().index_stats;
        assert_eq!(a, b);
    }
}

/// Where counters don't fall, since there Thanos's batches begin anew and ours go on.
#[test]
fn histograms_are_thanoss() {
    if peers::skip(&["thanos-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("thanos-blocks").unwrap();
    for (seed, kind) in [(6, Kind::Integers), (7, Kind::Floats), (8, Kind::Gauges), (10, Kind::Custom)] {
        let mut runner = runner(seed);
        let dir = tempfile::tempdir().unwrap();
        let series = samples(&mut runner, 15, |w| w.without_resets().histograms(kind));
        for (ours, theirs) in both(&mut oracle, dir.path(), &series) {
            let (a, b) = (read(&ours), read(&theirs));
            assert_eq!(a.len(), b.len());
            for ((labels, ours), (_, theirs)) in a.iter().zip(&b) {
                let head = |c: &Chunk| (c.min_t, c.max_t, c.samples);
                assert_eq!(ours.iter().map(head).collect::<Vec<_>>(), theirs.iter().map(head).collect::<Vec<_>>());
                for aggregate in [Aggregate::Sum, Aggregate::Counter] {
                    for ((t, ours), (at, theirs)) in
                        histograms_of(ours, aggregate).iter().zip(&histograms_of(theirs, aggregate))
                    {
                        assert_eq!(t, at);
                        assert!(same(ours, theirs), "{kind:?} {labels} {} {t}: {ours:?} {theirs:?}", aggregate.name());
                    }
                }
                let counts = |c: &[Chunk]| -> Vec<_> {
                    c.iter().map(|c| Container::parse(&c.data).unwrap().get(Aggregate::Count).cloned()).collect()
                };
                assert_eq!(counts(ours), counts(theirs));
            }
        }
    }
}

/// Empty buckets and what a chunk says of the one before it apart.
fn same(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    let tidy = |h: &FloatHistogram| {
        let mut h = h.clone();
        for (spans, counts) in
            [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
        {
            let filled: Vec<_> = model::histogram::expand(spans, counts).filter(|(_, c)| *c != 0.0).collect();
            (*spans, *counts) = model::histogram::build(filled.into_iter());
        }
        h
    };
    (a.reset_hint == ResetHint::Gauge) == (b.reset_hint == ResetHint::Gauge)
        && model::histogram::equals(&tidy(a), &tidy(b))
}

/// A series whose buckets change from exponential to custom ones ends Thanos's compactor, and not ours; and Thanos reads what we
/// made of it.
#[test]
fn custom_buckets_end_thanos_and_not_us() {
    if peers::skip(&["thanos-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("thanos-blocks").unwrap();
    let mut runner = runner(9);
    let dir = tempfile::tempdir().unwrap();
    let series = samples(&mut runner, 5, |w| {
        let (mut all, custom) = (w.histograms(Kind::Integers), w.histograms(Kind::Custom));
        let half = all.len() / 2;
        all.splice(half.., custom.into_iter().skip(half));
        all
    });
    let raw = write(dir.path(), id(1), &series);
    let theirs =
        oracle.ask(&serde_json::json!({"op": "downsample", "dir": raw, "dest": dir.path(), "resolution": FIVE}));
    assert!(theirs.unwrap_err().to_string().contains("panic"), "Thanos can do it now: compare with it");
    let block = Block::open(&RealDisk, &raw).unwrap();
    let ours = super::block(&RealDisk, &block, dir.path(), vec![downsampled(id(2), block.meta(), FIVE)]).unwrap();
    let health = oracle.ask(&serde_json::json!({"op": "health", "dir": ours[0].written.dir})).unwrap();
    assert_eq!(health["verdict"], "");
}
