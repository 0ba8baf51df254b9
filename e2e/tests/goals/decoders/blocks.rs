//! What lies in blocks and buckets: chunks of every encoding, meta.json, marks, our catalogue.

use super::{Decoder, nested, said, texts};
use bucket::catalogue::{Commit, File, Intent, Snapshot};
use bucket::document;
use bytes::Bytes;
use model::FloatHistogram;
use model::histogram::Span;
use tsdb::chunk::histogram::{Appended, HistogramEncoder};
use tsdb::chunk::{Encoding, XorEncoder, decode};
use tsdb::marks::{DeletionMark, Mark as _, NoCompactMark, NoDownsampleMark};
use tsdb::meta::BlockMeta;

pub(crate) const BLOCKS: &[Decoder] = &[
    Decoder::new("chunk-xor", |b| chunk(Encoding::Xor, b), xor),
    Decoder::new("chunk-histogram", |b| chunk(Encoding::Histogram, b), histogram),
    Decoder::new("chunk-float-histogram", |b| chunk(Encoding::FloatHistogram, b), float_histogram),
    Decoder::new("meta-json", |b| said(BlockMeta::read("meta.json", b)), metas).bombs(json_bombs).words(JSON),
    Decoder::new("deletion-mark", |b| said(DeletionMark::read("deletion-mark.json", b)), marks)
        .bombs(json_bombs)
        .words(JSON),
    Decoder::new("no-compact-mark", |b| said(NoCompactMark::read("no-compact-mark.json", b)), no_compact_marks)
        .bombs(json_bombs)
        .words(JSON),
    Decoder::new("no-downsample-mark", no_downsample_mark, no_downsample_marks).bombs(json_bombs).words(JSON),
    Decoder::new("catalogue-intent", |b| said(document::read::<Intent>("intent", b)), intents)
        .bombs(json_bombs)
        .words(JSON)
        .repaired(document_checksum),
    Decoder::new("catalogue-commit", |b| said(document::read::<Commit>("commit", b)), commits)
        .bombs(json_bombs)
        .words(JSON)
        .repaired(document_checksum),
    Decoder::new("catalogue-snapshot", |b| said(document::read::<Snapshot>("snapshot", b)), snapshots)
        .bombs(json_bombs)
        .words(JSON)
        .repaired(document_checksum),
];

const JSON: &[&str] =
    &["{", "}", "[", "]", "\"", ":", ",", "null", "true", "-1", "1e999", "\\u0000", "\"thanos\":", "\"ulid\":"];
const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn chunk(encoding: Encoding, bytes: &[u8]) -> Result<(), String> {
    for sample in decode(encoding, Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())? {
        sample.map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn xor() -> Vec<Vec<u8>> {
    let values: [fn(i32) -> f64; 3] =
        [f64::from, |_| 1.5, |i| if i % 7 == 0 { f64::NAN } else { f64::from(i).sin() * 1e300 }];
    let of = |value: &fn(i32) -> f64, n: i32| {
        let mut encoder = XorEncoder::default();
        for i in 0..n {
            encoder.append(1_700_000_000_000 + i64::from(i) * 15_000 + i64::from(i % 3), value(i)).unwrap();
        }
        encoder.bytes().to_vec()
    };
    values.iter().flat_map(|v| [of(v, 1), of(v, 2), of(v, 120)]).collect()
}

/// A chunk of integer histograms as Prometheus writes it: schema 0, two spans, three samples.
fn histogram() -> Vec<Vec<u8>> {
    vec![b"\x00\x00\x00".to_vec()]
}

fn float_histogram() -> Vec<Vec<u8>> {
    let mut h = FloatHistogram {
        schema: 0,
        zero_threshold: 0.001,
        zero_count: 2.0,
        count: 12.0,
        sum: 18.4,
        positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 2 }],
        positive_buckets: vec![1.0, 2.0, 3.0, 4.0],
        ..FloatHistogram::default()
    };
    let mut encoder = HistogramEncoder::new(false, 0, 1_700_000_000_000, &h, None).unwrap();
    for i in 1..60 {
        h.count += 1.0;
        h.positive_buckets[1] += 1.0;
        assert!(matches!(encoder.append(0, 1_700_000_000_000 + i * 15_000, &h), Ok(Appended::Here)));
    }
    vec![encoder.bytes().to_vec()]
}

fn no_downsample_mark(b: &[u8]) -> Result<(), String> {
    said(NoDownsampleMark::read("no-downsample-mark.json", b))
}

fn json_bombs() -> Vec<Vec<u8>> {
    [nested("[", "", "]"), nested("{\"a\":", "1", "}"), nested("{\"thanos\":{\"extensions\":[", "", "")].concat()
}

/// As Thanos's compactor writes it.
pub(crate) fn meta() -> BlockMeta {
    let text = format!(
        r#"{{"ulid":"{ID}","minTime":1700000000000,"maxTime":1700007200000,
        "stats":{{"numSamples":553673,"numSeries":1346,"numChunks":4440}},
        "compaction":{{"level":2,"sources":["{ID}","01ARZ3NDEKTSV4RRFFQ69G5FAW"],
        "parents":[{{"ulid":"{ID}","minTime":1700000000000,"maxTime":1700007200000}}]}},"version":1,
        "thanos":{{"labels":{{"cluster":"prod","prometheus_replica":"0"}},"downsample":{{"resolution":300000}},
        "source":"compactor","segment_files":["000001"],"files":[{{"rel_path":"chunks/000001","size_bytes":4711}},
        {{"rel_path":"index","size_bytes":815,"hash":{{"hashFunc":"SHA256","value":"00ff"}}}},{{"rel_path":"meta.json"}}],
        "index_stats":{{"series_max_size":100}},"extensions":{{"parquet_migrated":true}},
        "upload_time":"2026-11-22T10:00:00Z"}},"unknown":[1,{{"a":null}}]}}"#
    );
    BlockMeta::read("meta.json", text.as_bytes()).unwrap()
}

fn metas() -> Vec<Vec<u8>> {
    vec![meta().write().unwrap()]
}

fn marks() -> Vec<Vec<u8>> {
    let plain = format!(r#"{{"id":"{ID}","version":1,"deletion_time":1700000000}}"#);
    [vec![DeletionMark::new(meta().id, 1_700_000_000, "by hand").write().unwrap()], texts(&[&plain])].concat()
}

fn no_compact_marks() -> Vec<Vec<u8>> {
    vec![NoCompactMark::new(meta().id, 1_700_000_000, "manual", "by hand").write().unwrap()]
}

fn no_downsample_marks() -> Vec<Vec<u8>> {
    vec![NoDownsampleMark::new(meta().id, 1_700_000_000, "manual", "by hand").write().unwrap()]
}

fn intents() -> Vec<Vec<u8>> {
    let files =
        vec![File { path: "index".to_owned(), size: 815 }, File { path: "chunks/000001".to_owned(), size: 4711 }];
    let intent = Intent { block: meta().id, time_ms: 1_700_000_000_000, writer: "w".to_owned(), files };
    vec![document::write("intent", &intent).unwrap()]
}

fn commits() -> Vec<Vec<u8>> {
    let commit = Commit { time_ms: 1_700_000_000_000, writer: "w".to_owned(), meta: meta() };
    vec![document::write("commit", &commit).unwrap()]
}

fn snapshots() -> Vec<Vec<u8>> {
    let snapshot = Snapshot { number: 7, blocks: vec![meta(), meta()], folded: vec![meta().id], ..Default::default() };
    vec![document::write("snapshot", &snapshot).unwrap()]
}

/// Makes the checksum in a document's first line right.
fn document_checksum(bytes: &mut Vec<u8>) {
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else { return };
    let (head, body) = bytes.split_at_mut(end + 1);
    let crc = format!("{:08x}", crc32c::crc32c(body));
    let key = b"\"crc32c\":\"";
    let Some(at) = head.windows(key.len()).position(|w| w == key) else { return };
    if let Some(old) = head.get_mut(at + key.len()..at + key.len() + 8) {
        old.copy_from_slice(crc.as_bytes());
    }
}
