//! Blocks in disorder, which no writer makes any more: what we find in them is what Thanos finds.

use super::{Kind, Options, Report, Severity, Stats, check};
use crate::block::{Block, announced_samples, write_meta};
use crate::chunk::{Encoding, XorEncoder};
use crate::disk::{Disk as _, RealDisk};
use crate::index::{self, ChunkMeta};
use crate::meta::BlockMeta;
use crate::segment::{self, MAX_SEGMENT_BYTES, NewChunk};
use model::{BlockId, Labels};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use testkit::oracle::Oracle;

/// Labels, and the times of its chunks.
type SeriesSpec<'a> = (&'a [(&'a str, &'a str)], &'a [(i64, i64)]);

/// Writes a block of series with chunks at these times, two samples each.
fn disorder(parent: &Path, meta: &BlockMeta, series: &[SeriesSpec<'_>]) -> PathBuf {
    let dir = parent.join(meta.id.to_string());
    RealDisk.create_dir(&dir).unwrap();
    let mut chunks = segment::Writer::create(&RealDisk, &dir.join("chunks"), MAX_SEGMENT_BYTES).unwrap();
    let mut index = index::Writer::create(&RealDisk, &dir.join("index")).unwrap();
    index.allow_disorder();
    let symbols: BTreeSet<&str> = series.iter().flat_map(|(l, _)| l.iter().flat_map(|(n, v)| [*n, *v])).collect();
    for symbol in symbols {
        index.add_symbol(symbol).unwrap();
    }
    for (labels, times) in series {
        let (mut references, mut metas) = (Vec::new(), Vec::new());
        for (from, to) in *times {
            let mut encoder = XorEncoder::default();
            encoder.append(*from, 1.0).unwrap();
            encoder.append(*to, 2.0).unwrap();
            let (data, encoding) = (encoder.bytes(), Encoding::Xor);
            assert_eq!(announced_samples(encoding, &data), 2);
            let chunk = NewChunk { encoding, data: &data, min_time: *from, max_time: *to };
            chunks.write(&[chunk], &mut references).unwrap();
            metas.push((*from, *to));
        }
        let metas: Vec<ChunkMeta> = metas
            .into_iter()
            .zip(&references)
            .map(|((min_time, max_time), r)| ChunkMeta { min_time, max_time, reference: *r })
            .collect();
        index.add_series(&Labels::from_pairs(labels.iter().copied()), &metas).unwrap();
    }
    chunks.finish().unwrap();
    index.finish().unwrap();
    write_meta(&RealDisk, &dir, meta).unwrap();
    dir
}

fn meta(n: u64) -> BlockMeta {
    BlockMeta::new(BlockId::from_parts(n, 0), 0, 100)
}

fn health(dir: &Path) -> Report {
    check(&RealDisk, dir, &Options::default())
}

#[test]
fn counts_are_thanoss() {
    let dir = tempfile::tempdir().unwrap();
    let block = disorder(
        dir.path(),
        &meta(1),
        &[
            (&[("a", "1")], &[(0, 10), (11, 20)]),
            (&[("a", "2")], &[(0, 10), (0, 10), (11, 20)]),
            (&[("a", "3")], &[(20, 30), (0, 10), (5, 15)]),
            (&[("a", "4")], &[(-20, -10), (90, 100), (100, 110), (150, 160)]),
            (&[("a", "5"), ("b", "1"), ("reversed", "x")], &[(40, 50)]),
        ],
    );
    let report = health(&block);
    let want = Stats {
        total_series: 5,
        out_of_order_series: 2,
        // The last chunk of a=4 but one begins where the one before it ends: that is out of order, too.
        out_of_order_chunks: 3,
        duplicated_chunks: 1,
        outside_chunks: 3,
        complete_outside_chunks: 2,
        issue347_outside_chunks: 1,
        out_of_order_labels: 2,
        total_chunks: 13,
        single_sample_chunks: 0,
        total_samples: 26,
        label_names: 3,
        ..report.stats.clone()
    };
    assert_eq!(report.stats, want, "{:?}", report.problems);
    assert_eq!(report.worst(), Some(Severity::Disorder));
    let text = report.problems.iter().find(|p| p.kind == Kind::ChunkOrder).unwrap().to_string();
    assert!(text.starts_with("chunk-order: index, series at byte ") && text.contains(r#"series {a="3"}"#), "{text}");

    if testkit::peers::skip(&["thanos-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("thanos-blocks").unwrap();
    let theirs = oracle.ask(&serde_json::json!({"op": "health", "dir": block})).unwrap();
    let t = &theirs["stats"];
    for (name, ours) in [
        ("TotalSeries", want.total_series),
        ("OutOfOrderSeries", want.out_of_order_series),
        ("OutOfOrderChunks", want.out_of_order_chunks),
        ("DuplicatedChunks", want.duplicated_chunks),
        ("OutsideChunks", want.outside_chunks),
        ("CompleteOutsideChunks", want.complete_outside_chunks),
        ("Issue347OutsideChunks", want.issue347_outside_chunks),
        ("OutOfOrderLabels", want.out_of_order_labels),
        ("TotalChunks", want.total_chunks),
    ] {
        assert_eq!(t[name], ours, "{name}");
    }
}

#[test]
fn labels_out_of_order_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let labels: &[(&str, &str)] = &[("a", "5"), ("b", "1"), ("reversed", "x")];
    let block = Block::open(&RealDisk, &disorder(dir.path(), &meta(1), &[(labels, &[(1, 2)])])).unwrap();
    let mut scan = block.scan().unwrap();
    let series = scan.next().unwrap().unwrap();
    assert_eq!(series.labels, Labels::from_pairs(labels.iter().copied()));
}

#[test]
fn series_out_of_order_and_without_chunks_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let block =
        disorder(dir.path(), &meta(1), &[(&[("a", "2")], &[(0, 1)]), (&[("a", "1")], &[]), (&[("a", "1")], &[(2, 3)])]);
    let report = health(&block);
    assert_eq!((report.counts[&Kind::SeriesOrder], report.counts[&Kind::NoChunks]), (2, 1), "{:?}", report.problems);
}

#[test]
fn bytes_of_nobody_and_many_references_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let block = disorder(dir.path(), &meta(1), &[(&[("a", "1")], &[(0, 1), (2, 3)]), (&[("a", "2")], &[(4, 5)])]);
    // An index of the same segment that leaves a chunk out, and one that names a chunk many times.
    let write = |metas: &[ChunkMeta]| {
        RealDisk.remove_file(&block.join("index")).unwrap();
        let mut index = index::Writer::create(&RealDisk, &block.join("index")).unwrap();
        index.allow_disorder();
        index.add_symbol("a").unwrap();
        index.add_series(&Labels::from_pairs([("a", "a")]), metas).unwrap();
        index.finish().unwrap();
        health(&block)
    };
    let one = ChunkMeta { min_time: 0, max_time: 1, reference: 8 };
    let report = write(&[one]);
    assert!(report.is_healthy() && report.counts.contains_key(&Kind::Unreferenced), "{:?}", report.problems);
    let report = write(&[one; 1000]);
    assert_eq!(report.counts[&Kind::TooManyReferences], 1);
    assert!(report.stats.total_samples < 100);
}

#[test]
fn long_labels_that_few_bytes_point_at_are_told_in_brief() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(1 << 20).split_off(1000);
    let series: Vec<SeriesSpec<'_>> = vec![];
    let block = disorder(dir.path(), &meta(1), &series);
    RealDisk.remove_file(&block.join("index")).unwrap();
    let mut index = index::Writer::create(&RealDisk, &block.join("index")).unwrap();
    index.allow_disorder();
    index.add_symbol("a").unwrap();
    index.add_symbol(&long).unwrap();
    for _ in 0..1000 {
        index.add_series(&Labels::from_pairs([("a", long.as_str())]), &[]).unwrap();
    }
    index.finish().unwrap();
    let report = health(&block);
    let told: usize =
        report.problems.iter().map(|p| p.what.len() + p.series.as_ref().map_or(0, Labels::packed_len)).sum();
    assert!(report.problems.len() > 500 && told < 3 << 20, "{} problems of {told} bytes", report.problems.len());
    // A megabyte of labels for each 20 bytes: that is not read to the end.
    assert_eq!(report.counts[&Kind::SeriesLabels], 1, "{:?}", report.counts);
}

#[test]
fn a_label_without_a_value_costs_that_label() {
    let dir = tempfile::tempdir().unwrap();
    let block = disorder(dir.path(), &meta(1), &[(&[("b", "1")], &[(0, 1)])]);
    RealDisk.remove_file(&block.join("index")).unwrap();
    let mut index = index::Writer::create(&RealDisk, &block.join("index")).unwrap();
    index.allow_disorder();
    for symbol in ["", "1", "a", "b"] {
        index.add_symbol(symbol).unwrap();
    }
    let chunk = ChunkMeta { min_time: 0, max_time: 1, reference: 8 };
    index.add_series(&Labels::from_sorted([("a", ""), ("b", "1")]), &[chunk]).unwrap();
    index.finish().unwrap();
    let report = health(&block);
    assert!(report.is_healthy(), "{:?}", report.problems);
    assert_eq!(report.counts.iter().map(|(k, n)| (*k, *n)).collect::<Vec<_>>(), [(Kind::EmptyLabel, 1)]);
    let block = Block::open(&RealDisk, &block).unwrap();
    let mut scan = block.scan().unwrap();
    assert_eq!(scan.next().unwrap().unwrap().labels, Labels::from_pairs([("b", "1")]));
}
