//! What lies in blocks and buckets: chunks of every encoding, meta.json, marks, our catalogue.

use super::{Decoder, nested, said, texts};
use crate::made;
use bucket::catalogue::{Commit, File, Folded, Intent, Snapshot};
use bucket::document;
use bytes::Bytes;
use model::histogram::rows::Table;
use model::histogram::{FloatHistogram, Span};
use std::path::Path;
use testkit::goal::Rng;
use tsdb::chunk::{Columns, Encoding, HistogramEncoder, announced_words, check, floats, histograms};
use tsdb::header;
use tsdb::index::{self, Reader, Series};
use tsdb::marks::{DeletionMark, Mark as _, NoCompactMark, NoDownsampleMark};
use tsdb::meta::BlockMeta;
use tsdb::segment;
use tsdb::tombstones::{Stone, Tombstones};

/// Chunks and what holds them.
pub(crate) const CHUNKS: &[Decoder] = &[
    Decoder::new("chunk-xor", |b| chunk(Encoding::Xor, b), || chunks(0)),
    Decoder::new("chunk-xor2", |b| chunk(Encoding::Xor2, b), || chunks(1)),
    Decoder::new("chunk-histogram", |b| chunk(Encoding::Histogram, b), || real_chunks(Encoding::Histogram)),
    Decoder::new("chunk-float-histogram", |b| chunk(Encoding::FloatHistogram, b), || chunks(2)).bombs(unchanging),
    Decoder::new("chunk-histogram-st", |b| chunk(Encoding::HistogramSt, b), || real_chunks(Encoding::HistogramSt)),
    Decoder::new(
        "chunk-float-histogram-st",
        |b| chunk(Encoding::FloatHistogramSt, b),
        || real_chunks(Encoding::FloatHistogramSt),
    ),
    Decoder::new("chunk-aggregate", |b| chunk(Encoding::Aggregate, b), || chunks(4)),
    Decoder::new("segment", whole_segment, || real_files("chunks/000001")).repaired(segment_checksums),
    Decoder::new("tombstones", |b| said(Tombstones::read("tombstones", b)), tombstones).repaired(tombstones_checksum),
];

/// Indexes, and what is known of a block.
pub(crate) const BLOCKS: &[Decoder] = &[
    Decoder::new("index", whole_index, || real_files("index")).repaired(index_checksums),
    Decoder::new("index-header", whole_header, headers).repaired(header_checksums),
    Decoder::new("meta-json", |b| said(BlockMeta::read("meta.json", b)), metas).bombs(json_bombs).words(JSON),
    Decoder::new("deletion-mark", |b| said(DeletionMark::read("deletion-mark.json", b)), marks)
        .bombs(json_bombs)
        .words(JSON),
    Decoder::new("no-compact-mark", |b| said(NoCompactMark::read("no-compact-mark.json", b)), no_compact_marks)
        .bombs(json_bombs)
        .words(JSON),
    Decoder::new("no-downsample-mark", no_downsample_mark, no_downsample_marks).bombs(json_bombs).words(JSON),
    Decoder::new("catalogue-intent", |b| said(document::read::<Intent>("intent", b)), intents)
        .bombs(|| document_bombs("intent"))
        .words(JSON)
        .repaired(document_checksum),
    Decoder::new("catalogue-commit", |b| said(document::read::<Commit>("commit", b)), commits)
        .bombs(|| document_bombs("commit"))
        .words(JSON)
        .repaired(document_checksum),
    Decoder::new("catalogue-snapshot", |b| said(document::read_many::<Snapshot>("snapshot", b)), snapshots)
        .bombs(|| document_bombs("snapshot"))
        .words(JSON)
        .repaired(document_checksum),
    Decoder::new("catalogue-folded", |b| said(document::read::<Folded>("folded", b)), folded)
        .bombs(|| document_bombs("folded"))
        .words(JSON)
        .repaired(document_checksum),
];

const JSON: &[&str] =
    &["{", "}", "[", "]", "\"", ":", ",", "null", "true", "-1", "1e999", "\\u0000", "\"thanos\":", "\"ulid\":"];
const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn chunk(encoding: Encoding, bytes: &[u8]) -> Result<(), String> {
    let mut columns = Columns::default();
    let fast = floats(encoding, bytes, &mut columns).map_err(|e| e.to_string());
    std::hint::black_box(announced_words(encoding, bytes));
    let rows = histograms(encoding, bytes, &mut Table::default(), |_| true).map_err(|e| e.to_string());
    check(encoding, &Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
    rows?;
    if encoding.is_float() { fast } else { Ok(()) }
}

fn chunks(kind: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(kind as u64);
    [1, 2, 120].iter().flat_map(|n| made::chunks(kind, *n, &mut rng)).map(|c| c.data.to_vec()).collect()
}

/// Wide histograms that do not change: a bit a bucket.
fn unchanging() -> Vec<Vec<u8>> {
    let chunk = |buckets: u32, samples: i64| {
        let h = FloatHistogram {
            positive_spans: vec![Span { offset: 0, length: buckets }],
            positive_buckets: vec![1.0; buckets as usize],
            count: f64::from(buckets),
            ..FloatHistogram::default()
        };
        let mut encoder = HistogramEncoder::new(false, 0, 0, &h, None).unwrap();
        (1..samples).for_each(|t| drop(encoder.append(0, t * 15_000, &h).unwrap()));
        encoder.bytes().to_vec()
    };
    vec![chunk(160, 120), chunk(1_000, 1_000), chunk(160, 10_000)]
}

/// Files of the same name in the blocks of real writers (engine/tsdb/testdata).
fn real_files(name: &str) -> Vec<Vec<u8>> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|d| d.join("engine/tsdb/testdata/blocks"));
    let blocks = found.into_iter().find(|d| d.is_dir()).unwrap();
    let mut all = Vec::new();
    for writer in std::fs::read_dir(blocks).unwrap() {
        for block in std::fs::read_dir(writer.unwrap().path()).unwrap() {
            all.extend(std::fs::read(block.unwrap().path().join(name)).ok());
        }
    }
    all.sort();
    assert!(!all.is_empty(), "no {name}");
    all
}

/// Chunks of an encoding in those blocks; one without samples if none has it.
fn real_chunks(encoding: Encoding) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for file in real_files("chunks/000001") {
        each_chunk(&file, |found, data| {
            if found == encoding && all.len() < 20 {
                all.push(data.to_vec());
            }
        });
    }
    if all.is_empty() { vec![vec![0; 5]] } else { all }
}

fn each_chunk(file: &[u8], mut take: impl FnMut(Encoding, &[u8])) {
    let mut at = segment::HEADER_LEN;
    while let Some(rest) = file.get(at..).filter(|r| !r.is_empty()) {
        let Ok((chunk, size)) = segment::read_chunk("segment", rest, at as u64) else { return };
        take(chunk.encoding, chunk.data);
        at += size;
    }
}

/// Every series, every list, every chunk place, and a selection.
fn whole_index(b: &[u8]) -> Result<(), String> {
    let reader = Reader::open("index", Bytes::copy_from_slice(b)).map_err(|e| e.to_string())?;
    let mut series = Series::default();
    let mut symbols = reader.symbols().cached();
    let mut first_error = None;
    let mut keep = |e: tsdb::Error| {
        first_error.get_or_insert_with(|| e.to_string());
    };
    // A list may name the same series again and again: as many are read as can be there.
    let most = b.len() / 8;
    match reader.all() {
        Ok(all) => {
            for reference in all.iter().take(most) {
                let read = reader.series(reference, &mut series).and_then(|_| series.labels("index", 0, &mut symbols));
                if let Err(e) = read {
                    keep(e);
                }
            }
        }
        Err(e) => keep(e),
    }
    for name in reader.table().names() {
        let Ok(name) = name.map_err(&mut keep) else { continue };
        for value in reader.table().values(name) {
            let list = value.and_then(|v| reader.list(&v.list));
            match list {
                Ok(list) => drop(std::hint::black_box(list.iter().take(most).last())),
                Err(e) => keep(e),
            }
        }
    }
    let matchers = [model::Matcher::new(model::MatchOp::Regex, "__name__", ".+").unwrap()];
    if let Err(e) = reader.select(&matchers) {
        keep(e);
    }
    first_error.map_or(Ok(()), Err)
}

fn whole_header(b: &[u8]) -> Result<(), String> {
    let reader = header::Reader::open("index-header", Bytes::copy_from_slice(b)).map_err(|e| e.to_string())?;
    std::hint::black_box(reader.symbols().iter().count());
    for name in reader.table().names() {
        for value in reader.table().values(name.map_err(|e| e.to_string())?) {
            value.map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// Headers of the real indexes.
fn headers() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(header::HEADER_FILE);
    let mut all = Vec::new();
    for file in real_files("index") {
        let index = Bytes::from(file);
        let fetch = |r: std::ops::Range<u64>| Ok(index.slice(r.start as usize..r.end as usize));
        header::build(&tsdb::disk::RealDisk, &path, "index", index.len() as u64, fetch).unwrap();
        all.push(std::fs::read(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
    all
}

fn whole_segment(b: &[u8]) -> Result<(), String> {
    segment::check_header("segment", b).map_err(|e| e.to_string())?;
    let mut at = segment::HEADER_LEN;
    while let Some(rest) = b.get(at..).filter(|r| !r.is_empty()) {
        let (found, size) = segment::read_chunk("segment", rest, at as u64).map_err(|e| e.to_string())?;
        std::hint::black_box(found.data.len());
        at += size;
    }
    Ok(())
}

fn tombstones() -> Vec<Vec<u8>> {
    let stone = |series, min_time, max_time| Stone { series, min_time, max_time };
    vec![
        Tombstones::default().write(),
        Tombstones::new(vec![stone(1, 5, 9), stone(1 << 40, i64::MIN, i64::MAX)]).write(),
    ]
}

fn fix(bytes: &mut [u8], content: std::ops::Range<usize>) {
    let Some(crc) = bytes.get(content.clone()).map(crc32c::crc32c) else { return };
    if let Some(place) = bytes.get_mut(content.end..content.end + 4) {
        place.copy_from_slice(&crc.to_be_bytes());
    }
}

/// A frame: length of four bytes, content, checksum. Gives its end.
fn fix_frame(bytes: &mut [u8], at: usize) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?) as usize;
    let content = at + 4..(at + 4).checked_add(length)?;
    bytes.get(content.clone())?;
    let end = content.end + 4;
    fix(bytes, content);
    Some(end)
}

/// A length as uvarint, content, checksum. Gives its end.
fn fix_record(bytes: &mut [u8], at: usize, extra: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let head = rest.iter().take(5).position(|b| b & 0x80 == 0)? + 1;
    let length = rest.iter().take(head).rev().fold(0usize, |n, b| n << 7 | usize::from(b & 0x7f));
    let content = at + head..(at + head).checked_add(length)?.checked_add(extra)?;
    bytes.get(content.clone())?;
    let end = content.end + 4;
    fix(bytes, content);
    Some(end)
}

fn be64(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_be_bytes(*bytes.get(at..)?.first_chunk::<8>()?)).ok()
}

/// Makes the checksums of an index right: table of contents, symbols, series, lists, tables.
fn index_checksums(bytes: &mut [u8]) {
    let Some(toc) = bytes.len().checked_sub(index::TOC_LEN) else { return };
    let places: Vec<usize> = (0..6).filter_map(|n| be64(bytes, toc + 8 * n)).collect();
    let &[symbols, series, indices, indices_table, postings, postings_table] = places.as_slice() else { return };
    for frame in [symbols, indices_table, postings_table] {
        fix_frame(bytes, frame);
    }
    let mut at = series;
    while let Some(end) = fix_record(bytes, at, 0).filter(|end| *end < indices.min(postings)) {
        at = end.next_multiple_of(16);
    }
    let mut at = postings;
    while let Some(end) = fix_frame(bytes, at).filter(|end| *end < toc) {
        at = end.next_multiple_of(4);
    }
    fix(bytes, toc..toc + 48);
}

fn header_checksums(bytes: &mut [u8]) {
    let Some(toc) = bytes.len().checked_sub(20) else { return };
    for n in 0..2 {
        if let Some(at) = be64(bytes, toc + 8 * n) {
            fix_frame(bytes, at);
        }
    }
    fix(bytes, toc..toc + 16);
}

fn segment_checksums(bytes: &mut [u8]) {
    let mut at = segment::HEADER_LEN;
    while let Some(end) = fix_record(bytes, at, 1) {
        at = end;
    }
}

fn tombstones_checksum(bytes: &mut [u8]) {
    let end = bytes.len().saturating_sub(4);
    if end > 5 {
        fix(bytes, 5..end);
    }
}

fn no_downsample_mark(b: &[u8]) -> Result<(), String> {
    said(NoDownsampleMark::read("no-downsample-mark.json", b))
}

fn json_bombs() -> Vec<Vec<u8>> {
    [nested("[", "", "]"), nested("{\"a\":", "1", "}"), nested("{\"thanos\":{\"extensions\":[", "", "")].concat()
}

/// Bodies that are made to harm, behind a first line that is right.
fn document_bombs(kind: &str) -> Vec<Vec<u8>> {
    let meta = String::from_utf8(meta().write().unwrap()).unwrap();
    let many = |item: &str, size: usize| vec![item; size / (item.len() + 1)].join(",");
    let bodies = [
        json_bombs(),
        texts(&[
            &format!("{{\"blocks\":[{}]}}", many("{}", 1 << 20)),
            &format!("{{\"blocks\":[{}]}}", many("0", 1 << 20)),
            &format!("{{\"blocks\":[{}]}}", many(&meta, 1 << 20)),
            // Metas that are small to write and large to hold: engine/bucket/src/catalogue/snapshot.rs.
            &format!(
                "{{\"blocks\":[{}]}}",
                many(
                    &format!(
                        "{{\"ulid\":\"{ID}\",\"minTime\":0,\"maxTime\":0,\"version\":1,\"thanos\":{{\"rewrites\":[{}{{}}]}}}}",
                        "{},".repeat(500)
                    ),
                    1 << 20
                )
            ),
            &format!("{{\"folded\":[{}]}}", many(&format!("\"{ID}\""), 1 << 20)),
            &format!("{{\"files\":[{}]}}", many("{\"path\":\"\",\"size\":0}", 1 << 20)),
            &format!("{{\"meta\":{{\"thanos\":{{\"extensions\":[{}]}}}}}}", many("[]", 1 << 20)),
        ]),
    ];
    let whole = |body: Vec<u8>| {
        let mut bytes = format!("{{\"panoptes\":\"{kind}\",\"format\":1,\"crc32c\":\"00000000\"}}\n").into_bytes();
        bytes.extend(body);
        document_checksum(&mut bytes);
        bytes
    };
    bodies.concat().into_iter().map(whole).collect()
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

fn folded() -> Vec<Vec<u8>> {
    vec![document::write("folded", &Folded { blocks: vec![meta().id; 3] }).unwrap()]
}

fn snapshots() -> Vec<Vec<u8>> {
    let snapshot = Snapshot {
        number: 7,
        blocks: vec![meta().into(), meta().into()],
        folded: vec![meta().id],
        ..Default::default()
    };
    vec![document::write("snapshot", &snapshot).unwrap()]
}

/// Makes the checksum in a document's first line right.
fn document_checksum(bytes: &mut [u8]) {
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else { return };
    let (head, body) = bytes.split_at_mut(end + 1);
    let crc = format!("{:08x}", crc32c::crc32c(body));
    let key = b"\"crc32c\":\"";
    let Some(at) = head.windows(key.len()).position(|w| w == key) else { return };
    if let Some(old) = head.get_mut(at + key.len()..at + key.len() + 8) {
        old.copy_from_slice(crc.as_bytes());
    }
}
