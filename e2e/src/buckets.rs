//! Whole buckets for benchmarks and goals: blocks of any shape, and thousands of them, in the emulated Google storage.

use anyhow::Context as _;
use bucket::catalogue::{Snapshot, snapshot_path};
use bucket::document;
use bytes::Bytes;
use model::{BlockId, Labels};
use std::path::Path;
use std::sync::Arc;
use testkit::gcs::Gcs;
use tsdb::block::{Writer, read_meta};
use tsdb::chunk::{Encoding, XorEncoder};
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, File};
use tsdb::segment::NewChunk;

/// Begin of the first block, ms: the end of a day, two hours and two weeks alike.
pub const START: i64 = 1_699_488_000_000;
/// Two hours, ms.
pub const TWO_HOURS: i64 = 7_200_000;
/// Samples of a chunk.
const CHUNK: usize = 120;

/// What one block holds.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its series: [`labels`] of 0 and following.
    pub series: usize,
    /// Samples of each.
    pub samples: usize,
    /// Time between two samples, ms.
    pub step: i64,
}

/// The labels of the n-th series: one of 50 metrics, one of 20 jobs, an instance of 50 series, a pod of its own.
pub fn labels(n: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", format!("bench_metric_{:02}_total", n % 50)),
        ("instance", format!("10.0.{}.{}:9100", n / 50 / 250, n / 50 % 250)),
        ("job", format!("job-{:02}", n / 50 % 20)),
        ("pod", format!("pod-{n:06}")),
    ])
}

/// The n-th block's id.
pub fn id(n: usize) -> BlockId {
    BlockId::from_parts(START.unsigned_abs() + n as u64, n as u128)
}

/// What a sidecar writes into the meta.json of the n-th block of a replica, from `min` until `max`, ms.
///
/// # Errors
/// When it is no meta.json.
pub fn meta(n: usize, replica: &str, min: i64, max: i64) -> anyhow::Result<BlockMeta> {
    let id = id(n);
    let text = format!(
        r#"{{"ulid":"{id}","minTime":{min},"maxTime":{max},"version":1,
        "stats":{{"numSamples":1,"numSeries":1,"numChunks":1}},"compaction":{{"level":1,"sources":["{id}"]}},
        "thanos":{{"labels":{{"cluster":"bench","replica":"{replica}"}},"downsample":{{"resolution":0}},
        "source":"sidecar","segment_files":["000001"]}}}}"#
    );
    BlockMeta::read("meta.json", text.as_bytes()).context("meta")
}

/// Writes a block into a folder. The value of a sample is its number.
///
/// # Errors
/// When the disk refuses.
pub fn write(parent: &Path, meta: BlockMeta, shape: Shape) -> anyhow::Result<()> {
    write_where(parent, meta, shape, 0, |_| true)
}

/// The same, so many ms later, and without the samples (by number) that are not to be kept.
///
/// # Errors
/// When the disk refuses.
pub fn write_where(
    parent: &Path,
    meta: BlockMeta,
    shape: Shape,
    late_ms: i64,
    keep: impl Fn(usize) -> bool,
) -> anyhow::Result<()> {
    let begin = meta.min_time + late_ms;
    let kept: Vec<usize> = (0..shape.samples).filter(|n| keep(*n)).collect();
    let mut chunks = Vec::new();
    for run in kept.chunks(CHUNK) {
        let mut encoder = XorEncoder::default();
        for n in run {
            // A little noise, so that a chunk is as long as real ones.
            encoder.append(begin + *n as i64 * shape.step, (n * 37 % 1000) as f64 / 8.0 + *n as f64)?;
        }
        chunks.push(encoded(&encoder));
    }
    write_series(parent, meta, shape.series, |_| Ok(chunks.clone()))
}

/// The same, with values of their own in each series: counters, gauges, whole numbers and constants in turn, and times that are up to
/// 3 ms late, as scraped ones are.
///
/// # Errors
/// When the disk refuses.
pub fn write_varied(
    parent: &Path,
    meta: BlockMeta,
    shape: Shape,
    late_ms: i64,
    keep: impl Fn(usize) -> bool,
) -> anyhow::Result<()> {
    let begin = meta.min_time + late_ms;
    let kept: Vec<usize> = (0..shape.samples).filter(|n| keep(*n)).collect();
    write_series(parent, meta, shape.series, |series| {
        let mut random = begin.unsigned_abs() ^ (series as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            // Xorshift: any numbers that look random will do.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random >> 11
        };
        let (mut chunks, mut value) = (Vec::new(), (next() % 1000) as f64);
        for run in kept.chunks(CHUNK) {
            let mut encoder = XorEncoder::default();
            for n in run {
                value += match series % 4 {
                    0 => (next() % 100) as f64,
                    1 => (next() as f64 / (1u64 << 53) as f64) - 0.5,
                    2 => (next() % 3) as f64 - 1.0,
                    _ => 0.0,
                };
                encoder.append(begin + *n as i64 * shape.step + (next() % 4) as i64, value)?;
            }
            chunks.push(encoded(&encoder));
        }
        Ok(chunks)
    })
}

fn encoded(encoder: &XorEncoder) -> (i64, i64, Bytes) {
    let (min, max) = encoder.range();
    (min, max, encoder.bytes())
}

/// A block of the first so many series, each with the chunks (first time, last time, bytes) that it has by its number.
fn write_series(
    parent: &Path,
    meta: BlockMeta,
    series: usize,
    chunks: impl Fn(usize) -> anyhow::Result<Vec<(i64, i64, Bytes)>>,
) -> anyhow::Result<()> {
    let mut all: Vec<(Labels, usize)> = (0..series).map(|n| (labels(n), n)).collect();
    all.sort();
    let mut writer = Writer::create(&RealDisk, parent, meta)?;
    let mut symbols: Vec<&str> = all.iter().flat_map(|(l, _)| l.iter().flat_map(|(n, v)| [n, v])).collect();
    symbols.sort_unstable();
    symbols.dedup();
    symbols.iter().try_for_each(|symbol| writer.add_symbol(symbol))?;
    for (labels, n) in &all {
        let chunks = chunks(*n)?;
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|(min_time, max_time, data)| NewChunk {
                min_time: *min_time,
                max_time: *max_time,
                encoding: Encoding::Xor,
                data,
            })
            .collect();
        writer.add_series(labels, &new)?;
    }
    writer.finish()?;
    Ok(())
}

/// The meta.json as a sidecar sends it: with the sizes of the files in the block's folder.
fn listed(mut meta: BlockMeta, folder: &Path) -> anyhow::Result<BlockMeta> {
    let mut names = files(folder)?;
    names.sort();
    let file = |name: String| {
        let size = if name == "meta.json" { 0 } else { folder.join(&name).metadata()?.len() };
        let text = serde_json::json!({"rel_path": name, "size_bytes": size});
        Ok(serde_json::from_value::<File>(text)?)
    };
    let all = names.into_iter().map(file).collect::<anyhow::Result<Vec<File>>>()?;
    meta.thanos.as_mut().context("no part of Thanos")?.files = all;
    Ok(meta)
}

/// Makes a block and puts it into the emulated bucket; the bytes of its files.
///
/// # Errors
/// When the disk refuses, or there is no such bucket.
pub fn add(gcs: &Gcs, bucket: &str, meta: BlockMeta, shape: Shape) -> anyhow::Result<u64> {
    let dir = tempfile::tempdir()?;
    let id = meta.id.to_string();
    write(dir.path(), meta, shape)?;
    let folder = dir.path().join(&id);
    let meta = listed(read_meta(&RealDisk, &folder)?, &folder)?;
    let mut bytes = 0;
    for file in files(&folder)? {
        let content = if file == "meta.json" { meta.write()? } else { std::fs::read(folder.join(&file))? };
        bytes += content.len() as u64;
        gcs.insert(bucket, &format!("{id}/{file}"), content.into())?;
    }
    Ok(bytes)
}

/// Relative names of the files of a block.
fn files(block: &Path) -> anyhow::Result<Vec<String>> {
    let mut all = vec!["index".to_owned(), "meta.json".to_owned()];
    for segment in std::fs::read_dir(block.join("chunks"))? {
        all.push(format!("chunks/{}", segment?.file_name().to_string_lossy()));
    }
    Ok(all)
}

/// Fills a bucket with small blocks of two hours, ten replicas side by side, all with the same content; with a snapshot of the
/// catalogue that knows them, if wanted.
///
/// # Errors
/// When there is no such bucket.
pub fn crowd(gcs: &Gcs, bucket: &str, blocks: usize, catalogue: bool) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let first = meta(0, "0", START, START + TWO_HOURS)?;
    let from = dir.path().join(first.id.to_string());
    write(dir.path(), first, Shape { series: 10, samples: 120, step: 60_000 })?;
    let index = Bytes::from(std::fs::read(from.join("index"))?);
    let chunks = Bytes::from(std::fs::read(from.join("chunks/000001"))?);
    let mut metas = Vec::with_capacity(blocks);
    for n in 0..blocks {
        let begin = START + (n / 10) as i64 * TWO_HOURS;
        let meta = listed(meta(n, &(n % 10).to_string(), begin, begin + TWO_HOURS)?, &from)?;
        let id = meta.id;
        gcs.insert(bucket, &format!("{id}/index"), index.clone())?;
        gcs.insert(bucket, &format!("{id}/chunks/000001"), chunks.clone())?;
        gcs.insert(bucket, &format!("{id}/meta.json"), meta.write()?.into())?;
        metas.push(Arc::new(meta));
    }
    if catalogue { insert_snapshot(gcs, bucket, metas) } else { Ok(()) }
}

/// Makes a snapshot of the catalogue that knows all blocks of the bucket.
///
/// # Errors
/// When there is no such bucket, or a meta.json in it can't be read.
pub fn snapshot(gcs: &Gcs, bucket: &str) -> anyhow::Result<()> {
    let names = gcs.names(bucket);
    let metas = names.iter().filter(|name| name.ends_with("/meta.json")).map(|name| {
        let bytes = gcs.object(bucket, name).context("gone")?;
        Ok(Arc::new(BlockMeta::read(name, &bytes)?))
    });
    insert_snapshot(gcs, bucket, metas.collect::<anyhow::Result<_>>()?)
}

fn insert_snapshot(gcs: &Gcs, bucket: &str, blocks: Vec<Arc<BlockMeta>>) -> anyhow::Result<()> {
    let snapshot =
        Snapshot { number: 1, time_ms: START, holder: "bench".to_owned(), epoch: 1, blocks, ..Snapshot::default() };
    let bytes = document::write("snapshot", &snapshot).map_err(|e| anyhow::anyhow!("{e}"))?;
    gcs.insert(bucket, &snapshot_path(1), bytes.into())
}
