//! Small blocks with every kind of chunk, and all that they hold as plain values to compare with.

use model::histogram::Span;
use model::{BlockId, FloatHistogram, Labels};
use std::path::{Path, PathBuf};
use testkit::goal::Rng;
use tsdb::block::{Block, Writer};
use tsdb::chunk::aggregate::{Aggregate, Container};
use tsdb::chunk::{self, Chunk, Encoding, Recoder};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;

/// Begin of all blocks, ms.
const START: i64 = 1_700_006_400_000;
const STEP: i64 = 15_000;

/// The samples of one chunk, as text that is equal exactly if every bit is.
pub(crate) type Samples = Vec<String>;

/// Chunks of one series of the n-th kind: floats, start times, histograms, float histograms, aggregates.
pub(crate) fn chunks(kind: usize, samples: i64, rng: &mut Rng) -> Vec<Chunk> {
    let mut recoder = Recoder::new(kind % 5 == 1);
    let mut counter = 0.0;
    let mut h = FloatHistogram {
        positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 2 }],
        positive_buckets: vec![1.0, 2.0, 3.0, 4.0],
        zero_threshold: 0.001,
        zero_count: 2.0,
        count: 12.0,
        sum: 18.4,
        ..FloatHistogram::default()
    };
    for i in 0..samples {
        let t = START + i * STEP + rng.below(3) as i64;
        counter += rng.below(1000) as f64 / 8.0;
        h.count += 1.0;
        h.zero_count += 1.0;
        match kind % 5 {
            2 | 3 => recoder.push_histogram(t, h.clone()).unwrap(),
            _ => recoder.push_float(t, counter).unwrap(),
        }
    }
    let chunks = recoder.finish();
    if kind % 5 == 4 { chunks.into_iter().map(aggregated).collect() } else { chunks }
}

/// The same chunk as all five aggregates.
fn aggregated(chunk: Chunk) -> Chunk {
    let mut container = Container::default();
    for aggregate in Aggregate::ALL {
        container.set(aggregate, chunk.encoding, chunk.data.clone());
    }
    Chunk { encoding: Encoding::Aggregate, data: container.bytes(), ..chunk }
}

/// Writes a block into the folder of a bucket. Segments are cut early, so that there are several.
pub(crate) fn block(bucket: &Path, id: BlockId, series: usize, samples: i64, rng: &mut Rng) -> PathBuf {
    let text = format!(
        r#"{{"ulid":"{id}","minTime":{START},"maxTime":{},"version":1,"compaction":{{"level":1,"sources":["{id}"]}},
        "thanos":{{"labels":{{"cluster":"prod","replica":"a"}},"downsample":{{"resolution":0}},"source":"test"}}}}"#,
        START + 7_200_000
    );
    let meta = BlockMeta::read("meta.json", text.as_bytes()).unwrap();
    let mut writer = Writer::with_segment_size(&RealDisk, bucket, meta, 2_000).unwrap();
    let name = |i: usize| format!("pod-{i:03}");
    let mut symbols: Vec<String> = (0..series).map(name).collect();
    symbols.extend(["__name__", "m", "pod"].map(str::to_owned));
    symbols.sort();
    for symbol in symbols {
        writer.add_symbol(&symbol).unwrap();
    }
    for i in 0..series {
        let chunks = chunks(i, samples, rng);
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk { min_time: c.min_t, max_time: c.max_t, encoding: c.encoding, data: &c.data })
            .collect();
        let labels = Labels::from_pairs([("__name__", "m"), ("pod", &name(i))]);
        writer.add_series(&labels, &new).unwrap();
    }
    writer.finish().unwrap().dir
}

/// A block's id from a number.
pub(crate) fn id(n: u64) -> BlockId {
    BlockId::from_parts(START as u64 + n, u128::from(n))
}

/// Every sample of a chunk.
pub(crate) fn samples(encoding: Encoding, data: bytes::Bytes) -> Result<Samples, String> {
    if encoding == Encoding::Aggregate {
        let container = Container::parse(&data).map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        for (aggregate, encoding, data) in container.iter() {
            all.push(aggregate.name().to_owned());
            all.extend(samples(encoding, data.clone())?);
        }
        return Ok(all);
    }
    let all = chunk::exact(encoding, data).map_err(|e| e.to_string())?;
    // Debug prints a float with all its digits, and NaNs are not written here.
    all.map(|s| s.map(|s| format!("{s:?}")).map_err(|e| e.to_string())).collect()
}

/// A chunk as a reader finds it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) labels: Labels,
    pub(crate) reference: u64,
    pub(crate) min_time: i64,
    pub(crate) samples: Result<Samples, String>,
}

/// All chunks of a block, and the errors that belong to no chunk.
pub(crate) fn read(dir: &Path) -> (Vec<Found>, Vec<String>) {
    let block = match Block::open(&RealDisk, dir) {
        Ok(block) => block,
        Err(e) => return (Vec::new(), vec![e.to_string()]),
    };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let mut scan = match block.scan() {
        Ok(scan) => scan,
        Err(e) => return (Vec::new(), vec![e.to_string()]),
    };
    while let Some(series) = scan.next() {
        match series {
            Ok(series) => {
                for c in series.chunks {
                    let bytes = block.chunk_bytes(c).map_err(|e| e.to_string());
                    let samples = bytes.and_then(|(encoding, data)| samples(encoding, data));
                    let (reference, min_time) = (c.reference, c.min_time);
                    found.push(Found { labels: series.labels.clone(), reference, min_time, samples });
                }
            }
            Err(e) => errors.push(e.to_string()),
        }
    }
    (found, errors)
}
