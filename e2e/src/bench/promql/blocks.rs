//! The blocks: a day in three of eight hours, and one of an hour. All samples are 15 s apart.

use model::{BlockId, FloatHistogram, Labels};
use std::collections::BTreeSet;
use std::path::Path;
use tsdb::block::Writer;
use tsdb::chunk::histogram::{Appended, HistogramEncoder};
use tsdb::chunk::{Encoding, XorEncoder};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;

/// Milliseconds between samples.
const STEP_MS: i64 = 15_000;
/// Samples of a chunk.
const PER_CHUNK: i64 = 120;
/// A whole hour, so that blocks begin at multiples of two.
const BEGIN_MS: i64 = 1_700_006_400_000;
const HOUR_MS: i64 = 3_600_000;

/// What to ask of the day, seconds.
pub(super) const LONG: (i64, i64) = (BEGIN_MS / 1000, (BEGIN_MS + 24 * HOUR_MS) / 1000 - 60);
/// What to ask of the hour, seconds.
pub(super) const WIDE: (i64, i64) = ((BEGIN_MS + 24 * HOUR_MS) / 1000, (BEGIN_MS + 25 * HOUR_MS) / 1000 - 60);

/// What a series holds.
#[derive(Clone, Copy)]
enum Values {
    /// A counter of this slope that restarts now and then.
    Counter { slope: i64, restart: i64 },
    /// Always 1.
    One,
    /// A counter without restarts.
    Bucket { slope: i64 },
    /// A native histogram of 20 buckets, some of which grow.
    Histogram { scale: i64 },
}

struct Chunk {
    encoding: Encoding,
    data: bytes::Bytes,
    min_time: i64,
    max_time: i64,
}

/// Writes all blocks into a folder that serves as a bucket.
pub(super) fn write(bucket: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(bucket)?;
    for eight in 0..3 {
        let from = BEGIN_MS + eight * 8 * HOUR_MS;
        block(bucket, &long(), from, from + 8 * HOUR_MS)?;
    }
    let from = BEGIN_MS + 24 * HOUR_MS;
    block(bucket, &wide(), from, from + HOUR_MS)
}

fn labels(name: &str, i: usize, instances: usize, more: &[(&str, &str)]) -> Labels {
    let (job, instance) = (format!("job-{:02}", i % 20), instance(i % instances));
    let base = [("__name__", name), ("job", &job), ("instance", &instance)];
    Labels::from_pairs(base.into_iter().chain(more.iter().copied()))
}

fn instance(i: usize) -> String {
    format!("10.0.{}.{}:9100", i % 10, i / 10)
}

fn long() -> Vec<(Labels, Values)> {
    let mut all = Vec::new();
    for i in 0..5_000 {
        let (pod, slope) = (format!("pod-{i:04}"), (i % 17 + 1) as i64);
        let pod = ("pod", pod.as_str());
        let counter = Values::Counter { slope, restart: 700 + i as i64 % 900 };
        all.push((labels("requests_total", i, 250, &[pod, ("code", "200")]), counter));
        if i < 250 {
            let info = [("__name__", "build_info"), ("instance", &instance(i)), ("version", "v1.2.3")];
            all.push((Labels::from_pairs(info), Values::One));
        }
        if i < 500 {
            for (b, le) in ["0.005", "0.01", "0.05", "0.1", "0.5", "1", "2.5", "5", "10", "+Inf"].iter().enumerate() {
                let bucket = Values::Bucket { slope: slope * (b as i64 + 1) };
                all.push((labels("latency_bucket", i, 250, &[pod, ("le", le)]), bucket));
            }
            all.push((labels("latency", i, 250, &[pod]), Values::Histogram { scale: slope }));
        }
    }
    all
}

fn wide() -> Vec<(Labels, Values)> {
    let mut all = Vec::new();
    for i in 0..100_000 {
        let pod = format!("pod-{i:06}");
        let counter = Values::Counter { slope: (i % 17 + 1) as i64, restart: 100 + i as i64 % 900 };
        all.push((labels("hits_total", i, 2_500, &[("pod", &pod), ("code", "200")]), counter));
        if i < 2_500 {
            let info = [("__name__", "node_info"), ("instance", &instance(i)), ("version", "v1.2.3")];
            all.push((Labels::from_pairs(info), Values::One));
        }
    }
    all
}

fn block(bucket: &Path, series: &[(Labels, Values)], from: i64, to: i64) -> anyhow::Result<()> {
    let id = BlockId::from_parts(from.unsigned_abs(), 1);
    let text = serde_json::json!({
        "ulid": id.to_string(), "minTime": from, "maxTime": to, "version": 1,
        "compaction": {"level": 2, "sources": [id.to_string()]},
        "thanos": {"labels": {"cluster": "bench", "replica": "a"}, "downsample": {"resolution": 0}, "source": "bench"},
    });
    let meta = BlockMeta::read("meta.json", text.to_string().as_bytes())?;
    let mut writer = Writer::create(&RealDisk, bucket, meta)?;
    let mut sorted: Vec<&(Labels, Values)> = series.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let symbols: BTreeSet<&str> = series.iter().flat_map(|(l, _)| l.iter()).flat_map(|(n, v)| [n, v]).collect();
    for symbol in symbols {
        writer.add_symbol(symbol)?;
    }
    for (labels, values) in sorted {
        let chunks = chunks(*values, from, to)?;
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk { encoding: c.encoding, data: &c.data, min_time: c.min_time, max_time: c.max_time })
            .collect();
        writer.add_series(labels, &new)?;
    }
    writer.finish()?;
    Ok(())
}

fn chunks(values: Values, from: i64, to: i64) -> anyhow::Result<Vec<Chunk>> {
    let (first, last) = ((from - BEGIN_MS) / STEP_MS, (to - BEGIN_MS) / STEP_MS);
    let mut all = Vec::new();
    for begin in (first..last).step_by(PER_CHUNK as usize) {
        let numbers = begin..(begin + PER_CHUNK).min(last);
        let time = |k: i64| BEGIN_MS + k * STEP_MS;
        let (min_time, max_time) = (time(numbers.start), time(numbers.end - 1));
        if let Values::Histogram { scale } = values {
            let mut e = HistogramEncoder::<f64>::new(false, 0, min_time, &histogram(scale, begin), None)?;
            for k in numbers.skip(1) {
                if let Appended::Cut(_) = e.append(0, time(k), &histogram(scale, k))? {
                    anyhow::bail!("a chunk was cut early");
                }
            }
            all.push(Chunk { encoding: e.encoding(), data: e.bytes(), min_time, max_time });
            continue;
        }
        let mut e = XorEncoder::default();
        for k in numbers {
            let value = match values {
                Values::Counter { slope, restart } => k % restart * slope * 13 + k * k % 13,
                Values::Bucket { slope } => k * slope,
                Values::One | Values::Histogram { .. } => 1,
            };
            e.append(time(k), value as f64)?;
        }
        all.push(Chunk { encoding: Encoding::Xor, data: e.bytes(), min_time, max_time });
    }
    Ok(all)
}

fn histogram(scale: i64, k: i64) -> FloatHistogram {
    let positive_buckets: Vec<f64> = (0..20).map(|b| (k * scale + k * b / 7) as f64).collect();
    FloatHistogram {
        schema: 3,
        zero_threshold: 1e-9,
        count: positive_buckets.iter().sum(),
        sum: (k * scale) as f64 * 1.5,
        positive_spans: vec![model::histogram::Span { offset: -8, length: 20 }],
        positive_buckets,
        ..FloatHistogram::default()
    }
}
