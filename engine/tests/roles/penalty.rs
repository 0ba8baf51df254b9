//! Two replicas with gaps, deduplicated by `penalty` in our compactor and in Thanos's: the same series with the same chunks.

use super::compact::{as_uploaded, blocks, ours, thanos_compact, verify};
use model::histogram::{FloatHistogram, IntHistogram, ResetHint, Span};
use model::sample::stale_nan;
use model::{BlockId, Labels};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use testkit::goal::Rng;
use tsdb::block::{Block, Writer};
use tsdb::chunk::{Chunk, Exact, Recoder, Value};
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, Thanos as Section};
use tsdb::segment::NewChunk;
use tsdb::series::{Blocks, Series};

const HOUR: i64 = 3_600_000;
const T0: i64 = 1_407 * 14 * 24 * HOUR;

/// Samples of one replica: now and then late, now and then none for a while, its counters begin anew.
fn samples(rng: &mut Rng, kind: usize, replica: i64) -> Vec<Exact> {
    let (mut out, mut t, mut n) = (Vec::new(), T0 + replica * 4_321 + rng.below(3_000) as i64, 0u64);
    while t < T0 + 2 * HOUR {
        n = if rng.one_in(150) { 0 } else { n + rng.below(20) as u64 };
        let value = match kind {
            0 if rng.one_in(90) => Value::Float(stale_nan()),
            0 => Value::Float(n as f64 / 4.0),
            _ => {
                let high = n / 3;
                let h = IntHistogram {
                    reset_hint: if kind == 3 { ResetHint::Gauge } else { ResetHint::Unknown },
                    schema: 1,
                    zero_threshold: 0.001,
                    zero_count: 1,
                    count: n + high + 1,
                    sum: n as f64 * 1.5,
                    positive_spans: vec![Span { offset: 0, length: if high > 0 { 2 } else { 1 } }],
                    negative_spans: vec![],
                    positive_buckets: if high > 0 { vec![n, high] } else { vec![n] },
                    negative_buckets: vec![],
                    custom_values: vec![],
                };
                let as_float = |h: IntHistogram| FloatHistogram {
                    reset_hint: h.reset_hint,
                    schema: h.schema,
                    zero_threshold: h.zero_threshold,
                    zero_count: h.zero_count as f64,
                    count: h.count as f64,
                    sum: h.sum,
                    positive_spans: h.positive_spans,
                    negative_spans: h.negative_spans,
                    positive_buckets: h.positive_buckets.iter().map(|b| *b as f64).collect(),
                    negative_buckets: vec![],
                    custom_values: vec![],
                };
                if kind == 2 { Value::FloatHistogram(as_float(h)) } else { Value::Histogram(h) }
            }
        };
        out.push(Exact { st: 0, t, v: value });
        t += match rng.below(60) {
            0 => 15_000 * (2 + rng.below(100) as i64),
            1..=5 => 14_000 + rng.below(2_000) as i64,
            _ => 15_000,
        };
    }
    out
}

fn put(bucket: &Path, replica: i64, series: &[(String, Vec<Chunk>)]) {
    let id = BlockId::from_parts(T0.unsigned_abs() + 1, replica.unsigned_abs().into());
    let mut meta = BlockMeta::new(id, T0, T0 + 2 * HOUR);
    let labels = [("cluster".to_owned(), "a".to_owned()), ("replica".to_owned(), replica.to_string())].into();
    meta.thanos = Some(Section { labels, source: "sidecar".into(), ..Section::default() });
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    let symbols: BTreeSet<&str> = series.iter().map(|(name, _)| name.as_str()).chain(["__name__"]).collect();
    symbols.into_iter().for_each(|s| writer.add_symbol(s).unwrap());
    for (name, chunks) in series {
        let chunks: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk { encoding: c.encoding, data: &c.data, min_time: c.min_t, max_time: c.max_t })
            .collect();
        writer.add_series(&Labels::from_pairs([("__name__", name.as_str())]), &chunks).unwrap();
    }
    as_uploaded(writer.finish().unwrap());
}

/// The series of the one block that is not marked.
fn read(bucket: &Path) -> (BlockMeta, Vec<Series>) {
    let live: Vec<_> = blocks(bucket).into_iter().filter(|(_, marked, _)| !marked).collect();
    let [(name, _, meta)] = &live[..] else { panic!("one block is left: {live:?}") };
    let block = Block::open(&RealDisk, &bucket.join(name)).unwrap();
    let series = Blocks::all(&block).unwrap().map(Result::unwrap).collect();
    (meta.clone(), series)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn penalty_gives_the_chunks_that_thanos_gives() {
    if testkit::peers::skip(&["thanos"]) {
        return;
    }
    let mut rng = Rng(7);
    let dir = tempfile::tempdir().unwrap();
    let (mine, theirs) = (dir.path().join("mine"), dir.path().join("theirs"));
    for bucket in [&mine, &theirs] {
        fs::create_dir_all(bucket).unwrap();
    }
    for replica in 0..3 {
        let names = (0..48).map(|n| (n % 4, format!("{}_{n:02}", ["float", "histogram", "of_floats", "gauge"][n % 4])));
        let mut series: Vec<(String, Vec<Chunk>)> = Vec::new();
        for (kind, name) in names.filter(|_| !rng.one_in(12)).collect::<Vec<_>>() {
            let mut recoder = Recoder::default();
            samples(&mut rng, kind, replica).iter().for_each(|s| recoder.push(s).unwrap());
            series.push((name, recoder.finish()));
        }
        series.sort_by(|a, b| a.0.cmp(&b.0));
        put(&mine, replica, &series);
        put(&theirs, replica, &series);
    }
    ours(&mine, &dir.path().join("data"), |args| {
        args.replica_labels = vec!["replica".into()];
        args.dedup_func = "penalty".into();
    })
    .await;
    let flags = ["--deduplication.func=penalty", "--deduplication.replica-label=replica"];
    thanos_compact(&theirs, &dir.path().join("data2"), &flags);
    let ((our_meta, our_series), (their_meta, their_series)) = (read(&mine), read(&theirs));
    assert_eq!(our_series.len(), their_series.len());
    for (a, b) in our_series.iter().zip(&their_series) {
        assert_eq!(a, b);
    }
    assert_eq!(our_meta.stats, their_meta.stats);
    assert_eq!(our_meta.labels(), their_meta.labels());
    // It took something away: else nothing was shown.
    let before: u64 = blocks(&mine).iter().filter(|(_, marked, _)| *marked).map(|(.., m)| m.stats.num_samples).sum();
    assert!(our_meta.stats.num_samples * 2 < before, "{} of {before}", our_meta.stats.num_samples);
    verify(&mine);

    // The recommended way keeps them all.
    let merged = dir.path().join("merged");
    fs::create_dir_all(&merged).unwrap();
    for replica in 0..2 {
        let mut recoder = Recoder::default();
        samples(&mut rng, 0, replica).iter().for_each(|s| recoder.push(s).unwrap());
        put(&merged, replica, &[("up".to_owned(), recoder.finish())]);
    }
    ours(&merged, &dir.path().join("data3"), |args| args.replica_labels = vec!["replica".into()]).await;
    let times: BTreeSet<i64> = blocks(&merged)
        .iter()
        .filter(|(_, marked, _)| *marked)
        .flat_map(|(name, ..)| {
            let block = Block::open(&RealDisk, &merged.join(name)).unwrap();
            let all: Vec<Series> = Blocks::all(&block).unwrap().map(Result::unwrap).collect();
            all.into_iter()
                .flat_map(|s| s.chunks)
                .flat_map(|c| tsdb::chunk::exact(c.encoding, c.data).unwrap().map(|s| s.unwrap().t).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(read(&merged).0.stats.num_samples, times.len() as u64);
}
