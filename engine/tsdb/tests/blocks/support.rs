//! Blocks as plain data, and what the tests do with them.

use bytes::Bytes;
use model::sample::Value;
use model::{BlockId, Labels};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use tsdb::block::{Block, Writer, Written};
use tsdb::chunk::{self, Encoding};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::{MAX_SEGMENT_BYTES, NewChunk};

/// A chunk as data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChunkData {
    pub(crate) encoding: u8,
    pub(crate) data: Vec<u8>,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
}

/// Series with their chunks, sorted by labels.
pub(crate) type Content = Vec<(Labels, Vec<ChunkData>)>;

pub(crate) fn id(n: u64) -> BlockId {
    BlockId::from_parts(1_700_000_000_000 + n, u128::from(n))
}

pub(crate) fn symbols(content: &Content) -> BTreeSet<String> {
    content.iter().flat_map(|(l, _)| l.iter().flat_map(|(n, v)| [n.to_owned(), v.to_owned()])).collect()
}

pub(crate) fn meta(id: BlockId, content: &Content) -> BlockMeta {
    let chunks = || content.iter().flat_map(|(_, c)| c);
    let min = chunks().map(|c| c.min_time).min().unwrap_or(0);
    let max = chunks().map(|c| c.max_time.saturating_add(1)).max().unwrap_or(0);
    BlockMeta::new(id, min, max)
}

/// Writes a block with our writer.
pub(crate) fn write(dir: &Path, id: BlockId, content: &Content, segment: Option<u64>) -> Written {
    write_meta(dir, meta(id, content), content, segment)
}

pub(crate) fn write_meta(dir: &Path, meta: BlockMeta, content: &Content, segment: Option<u64>) -> Written {
    let mut writer =
        Writer::with_segment_size(&RealDisk, dir, meta, segment.unwrap_or(MAX_SEGMENT_BYTES)).expect("create");
    for symbol in symbols(content) {
        writer.add_symbol(&symbol).expect("symbol");
    }
    write_series(writer, content)
}

pub(crate) fn write_series(mut writer: Writer<'_>, content: &Content) -> Written {
    for (labels, chunks) in content {
        let new: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk {
                encoding: Encoding::from_prometheus(c.encoding),
                data: &c.data,
                min_time: c.min_time,
                max_time: c.max_time,
            })
            .collect();
        writer.add_series(labels, &new).expect("series");
    }
    writer.finish().expect("finish")
}

/// Reads a block with our reader.
pub(crate) fn read(dir: &Path) -> Content {
    let block = Block::open(&RealDisk, dir).expect("open");
    let mut scan = block.scan().expect("scan");
    let mut content = Vec::new();
    while let Some(series) = scan.next() {
        let series = series.expect("series");
        let chunks = series.chunks.iter().map(|m| {
            let c = block.chunk(m).expect("chunk");
            let (min_time, max_time) = (m.min_time, m.max_time);
            ChunkData { encoding: c.encoding.to_prometheus(), data: c.data.to_vec(), min_time, max_time }
        });
        content.push((series.labels.clone(), chunks.collect()));
    }
    content
}

/// All files of a block by their path in it.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("folder") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(self::files(&path).into_iter().map(|(n, b)| (format!("{name}/{n}"), b)));
        } else {
            files.push((name, std::fs::read(&path).expect("file")));
        }
    }
    files.sort();
    files
}

/// A chunk of floats at these times, 15 s apart.
pub(crate) fn floats(from: i64, values: &[f64]) -> ChunkData {
    let mut encoder = chunk::XorEncoder::default();
    for (i, v) in values.iter().enumerate() {
        encoder.append(from + i as i64 * 15_000, *v).expect("sample");
    }
    let max_time = from + (values.len() as i64 - 1) * 15_000;
    ChunkData { encoding: 1, data: encoder.bytes().to_vec(), min_time: from, max_time }
}

/// A block like those of a small fleet: `n` series of two chunks each, from `from` ms.
pub(crate) fn fleet(n: usize, from: i64) -> Content {
    let mut content: Content = (0..n)
        .map(|i| {
            let labels = Labels::from_pairs([
                ("__name__", if i % 3 == 0 { "up" } else { "http_requests_total" }),
                ("instance", format!("10.0.0.{i}:9100").as_str()),
                ("job", ["node", "api", "ünï"][i % 3]),
                ("pod", format!("pod-{i:04}").as_str()),
            ]);
            let values: Vec<f64> = (0..120).map(|k| (i * 1000 + k) as f64).collect();
            (labels, vec![floats(from, &values), floats(from + 120 * 15_000, &values[..60])])
        })
        .collect();
    content.sort_by(|a, b| a.0.cmp(&b.0));
    content
}

/// The hash of a block as `e2e/peers/prometheus-blocks` defines it, from our reading.
pub(crate) fn hash(dir: &Path) -> String {
    let mut all = Sha256::new();
    for (labels, chunks) in read(dir) {
        let mut one = Sha256::new();
        for c in chunks {
            let encoding = Encoding::from_prometheus(c.encoding);
            let float = !matches!(c.encoding, 2 | 5);
            for sample in chunk::decode(encoding, Bytes::from(c.data)).expect("chunk") {
                let sample = sample.expect("sample");
                one.update(sample.t.to_be_bytes());
                one.update(0i64.to_be_bytes());
                match sample.v {
                    Value::Float(v) => {
                        one.update([1]);
                        one.update(v.to_bits().to_be_bytes());
                    }
                    Value::Histogram(h) => {
                        let count = |v: f64| if float { v.to_bits() } else { v as u64 };
                        one.update([if float { 3 } else { 2 }]);
                        one.update(h.schema.to_be_bytes());
                        for n in [h.zero_threshold.to_bits(), count(h.zero_count), count(h.count), h.sum.to_bits()] {
                            one.update(n.to_be_bytes());
                        }
                        for spans in [&h.positive_spans, &h.negative_spans] {
                            one.update((spans.len() as u32).to_be_bytes());
                            for s in spans {
                                one.update(s.offset.to_be_bytes());
                                one.update(s.length.to_be_bytes());
                            }
                        }
                        for buckets in [&h.positive_buckets, &h.negative_buckets] {
                            one.update((buckets.len() as u32).to_be_bytes());
                            for b in buckets {
                                one.update(count(*b).to_be_bytes());
                            }
                        }
                        one.update((h.custom_values.len() as u32).to_be_bytes());
                        for c in &h.custom_values {
                            one.update(c.to_bits().to_be_bytes());
                        }
                    }
                }
            }
        }
        for (n, v) in &labels {
            for part in [n.as_bytes(), &[0xff], v.as_bytes(), &[0xff]] {
                all.update(part);
            }
        }
        all.update(one.finalize());
    }
    hex(&all.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
