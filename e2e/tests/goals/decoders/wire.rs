//! What comes over connections: Thanos's gRPC messages, remote read, answers of Prometheus and of other parts.

use super::{Decoder, nested, said};
use bytes::Bytes;
use engine::sidecar::foreign;
use prost::Message;
use proto::bounded;
use proto::prometheus::{Chunk as RemoteChunk, ChunkedReadResponse, ChunkedSeries, QueryResult, ReadResponse};
use proto::prometheus::{Sample, TimeSeries};
use proto::thanos::{
    AggrChunk, Chunk, Label, LabelMatcher, LabelNamesRequest, LabelNamesResponse, LabelSet, LabelValuesRequest,
    LabelValuesResponse, Series, SeriesBatch, SeriesRequest, SeriesResponse, series_response,
};

const JSON: &[&str] = &["{", "}", "[", "]", "\"", ":", ",", "null", "true", "-1", "1e999", "\\u0000", "\"format\":"];

pub(crate) const WIRE: &[Decoder] = &[
    Decoder::new("series-request", series_request, series_requests).bombs(series_request_bombs).allowed(automata),
    Decoder::new("series-response", series_response, series_responses).bombs(series_response_bombs),
    Decoder::new("label-names-request", |b| said(bounded::decode::<LabelNamesRequest>(bytes(b))), label_names_requests)
        .bombs(string_bombs),
    Decoder::new(
        "label-names-response",
        |b| said(bounded::decode::<LabelNamesResponse>(bytes(b))),
        label_names_responses,
    ),
    Decoder::new(
        "label-values-request",
        |b| said(bounded::decode::<LabelValuesRequest>(bytes(b))),
        label_values_requests,
    ),
    Decoder::new(
        "label-values-response",
        |b| said(bounded::decode::<LabelValuesResponse>(bytes(b))),
        label_values_responses,
    ),
    Decoder::new("info-response", info, infos).bombs(info_bombs),
    Decoder::new("remote-read-stream", |b| foreign::remote_read_stream(b).map(drop), streams)
        .bombs(stream_bombs)
        .repaired(frame_checksums),
    Decoder::new("remote-read-samples", |b| foreign::remote_read_samples(b).map(drop), samples)
        .bombs(samples_bombs)
        .sized(unpacked),
    Decoder::new("state-document", |b| said(args::state::State::parse(b)), states)
        .bombs(|| nested("[", "", "]"))
        .words(JSON),
];

pub(super) fn bytes(b: &[u8]) -> Bytes {
    Bytes::copy_from_slice(b)
}

fn label(name: &str, value: &str) -> Label {
    Label { name: name.to_owned().into(), value: value.to_owned().into() }
}

pub(super) fn labels() -> Vec<Label> {
    vec![label("__name__", "up"), label("cluster", "prod"), label("instance", "10.0.0.1:9100")]
}

/// What a request may take: more if it has as many automata as one may have.
fn automata(b: &[u8]) -> usize {
    let matchers = bounded::decode::<SeriesRequest>(bytes(b)).map(|r| r.matchers).unwrap_or_default();
    let asks = matchers.iter().any(|m| m.r#type > 1);
    (1 << 20) + if asks { model::matcher::MOST_COMPILED + (32 << 20) } else { 0 }
}

/// A caller's request, with its matchers compiled as a store does it.
fn series_request(b: &[u8]) -> Result<(), String> {
    let request = bounded::decode::<SeriesRequest>(bytes(b)).map_err(|e| e.to_string())?;
    proto::matchers::decode(&request.matchers).map_err(|e| e.to_string())?;
    let shard = request.shard_info.as_ref().map(engine::storeapi::wire::Shard::read);
    shard.transpose().map(drop).map_err(|e| e.message().to_owned())
}

/// A store's answer, with its labels read and its chunks opened as the querier does it.
fn series_response(b: &[u8]) -> Result<(), String> {
    let response = bounded::decode::<SeriesResponse>(bytes(b)).map_err(|e| e.to_string())?;
    let all = match response.result {
        Some(series_response::Result::Series(series)) => vec![series],
        Some(series_response::Result::Batch(batch)) => batch.series,
        _ => Vec::new(),
    };
    for series in all {
        proto::labels::decode(&series.labels).map_err(|e| e.to_string())?;
        for raw in series.chunks.into_iter().filter_map(|c| c.raw) {
            let encoding = tsdb::chunk::Encoding::from_store_api(raw.r#type);
            for sample in tsdb::chunk::decode(encoding, raw.data).map_err(|e| e.to_string())? {
                sample.map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(())
}

fn info(b: &[u8]) -> Result<(), String> {
    let info = bounded::decode::<proto::info::InfoResponse>(bytes(b)).map_err(|e| e.to_string())?;
    info.label_sets.iter().try_for_each(|set| said(proto::labels::decode_any_order(&set.labels)))
}

fn series_requests() -> Vec<Vec<u8>> {
    let matchers = [(0, "__name__", "up"), (1, "job", ""), (2, "instance", "10[.].*:(9100|9090)"), (3, "x", "y+")];
    let matchers = matchers.map(|(kind, name, value)| LabelMatcher {
        r#type: kind,
        name: name.to_owned(),
        value: value.to_owned(),
    });
    let request = SeriesRequest { min_time: 1, max_time: i64::MAX, matchers: matchers.to_vec(), ..Default::default() };
    let sharded = SeriesRequest {
        shard_info: Some(proto::thanos::ShardInfo {
            shard_index: 1,
            total_shards: 4,
            by: true,
            labels: vec!["cluster".to_owned()],
        }),
        ..request.clone()
    };
    vec![request.encode_to_vec(), sharded.encode_to_vec()]
}

fn series_responses() -> Vec<Vec<u8>> {
    let mut encoder = tsdb::chunk::XorEncoder::default();
    for i in 0..20 {
        encoder.append(i * 1000, i as f64).unwrap();
    }
    let raw = Some(Chunk { r#type: 0, data: encoder.bytes(), hash: 7 });
    let chunk = AggrChunk { min_time: 0, max_time: 19_000, raw, ..AggrChunk::default() };
    let series = Series { labels: labels(), chunks: vec![chunk.clone(), chunk] };
    let results = [
        series_response::Result::Series(series.clone()),
        series_response::Result::Batch(SeriesBatch { series: vec![series.clone(), series] }),
        series_response::Result::Warning("a store is away".to_owned()),
    ];
    results.map(|result| SeriesResponse { result: Some(result) }.encode_to_vec()).to_vec()
}

fn label_names_requests() -> Vec<Vec<u8>> {
    let request = LabelNamesRequest { start: 1, end: 2, ..LabelNamesRequest::default() };
    vec![request.encode_to_vec()]
}

fn label_names_responses() -> Vec<Vec<u8>> {
    let names = vec!["cluster".to_owned(), "job".to_owned()];
    vec![LabelNamesResponse { names, ..LabelNamesResponse::default() }.encode_to_vec()]
}

fn label_values_requests() -> Vec<Vec<u8>> {
    vec![LabelValuesRequest { label: "job".to_owned(), start: 1, end: 2, ..Default::default() }.encode_to_vec()]
}

fn label_values_responses() -> Vec<Vec<u8>> {
    let values = vec!["node".to_owned(), "prometheus".to_owned()];
    vec![LabelValuesResponse { values, ..LabelValuesResponse::default() }.encode_to_vec()]
}

fn infos() -> Vec<Vec<u8>> {
    let store = proto::info::StoreInfo { min_time: 1, max_time: 2, ..Default::default() };
    let info = proto::info::InfoResponse {
        label_sets: vec![LabelSet { labels: labels() }, LabelSet { labels: labels() }],
        component_type: "sidecar".to_owned(),
        store: Some(store),
        ..Default::default()
    };
    vec![info.encode_to_vec()]
}

/// Two frames: length, checksum, message.
fn streams() -> Vec<Vec<u8>> {
    let frame = |n: u64| {
        let chunk = RemoteChunk { min_time_ms: 1, max_time_ms: 2, r#type: 1, data: vec![7; 40].into() };
        let series = ChunkedSeries { labels: labels(), chunks: vec![chunk.clone(), chunk] };
        let message = ChunkedReadResponse { chunked_series: vec![series], query_index: n as i64 }.encode_to_vec();
        let mut out = crate::mutate::uvarint(message.len() as u64);
        out.extend(crc32c::crc32c(&message).to_be_bytes());
        out.extend(message);
        out
    };
    vec![frame(0), [frame(0), frame(1)].concat()]
}

/// Makes the checksum of each whole frame right.
fn frame_checksums(stream: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = stream.get(at..) {
        let head = rest.iter().take(5).position(|b| b & 0x80 == 0);
        let Some(head) = head else { return };
        let length = rest.iter().take(head + 1).rev().fold(0usize, |n, b| n << 7 | usize::from(b & 0x7f));
        let start = at + head + 5;
        let Some(message) = stream.get(start..start.saturating_add(length)) else { return };
        let checksum = crc32c::crc32c(message).to_be_bytes();
        stream[start - 4..start].copy_from_slice(&checksum);
        at = start + length;
    }
}

fn samples() -> Vec<Vec<u8>> {
    let series = TimeSeries {
        labels: labels(),
        samples: (0..200).map(|i| Sample { value: f64::from(i), timestamp: i64::from(i) * 1000 }).collect(),
        ..TimeSeries::default()
    };
    let response = ReadResponse { results: vec![QueryResult { timeseries: vec![series.clone(), series] }] };
    vec![snap::raw::Encoder::new().compress_vec(&response.encode_to_vec()).unwrap()]
}

/// What a packed input says that it unpacks to, as far as the format allows: a copy of 64 bytes takes three.
fn unpacked(packed: &[u8]) -> usize {
    snap::raw::decompress_len(packed).unwrap_or(0).min(packed.len() * 22).max(packed.len())
}

fn states() -> Vec<Vec<u8>> {
    vec![serde_json::to_vec(&args::state::State::default()).unwrap()]
}

/// Half a million elements of nothing, inside the fields of the path.
fn nothings(path: &[u8], element: u8) -> Vec<u8> {
    repeated(path, element, 500_000)
}

/// So many elements of nothing, behind a path of fields.
pub(super) fn repeated(path: &[u8], element: u8, count: usize) -> Vec<u8> {
    let mut message = [element, 0].repeat(count);
    for field in path.iter().rev() {
        let mut outer = vec![field << 3 | 2];
        outer.extend(crate::mutate::uvarint(message.len() as u64));
        outer.extend(message);
        message = outer;
    }
    message
}

pub(super) const fn key(field: u8) -> u8 {
    field << 3 | 2
}

fn series_request_bombs() -> Vec<Vec<u8>> {
    let dear = LabelMatcher { r#type: 2, name: "a".to_owned(), value: "\\pL{1000}".to_owned() };
    let request = SeriesRequest { matchers: vec![dear; 1000], ..Default::default() };
    let dear = request.encode_to_vec();
    vec![nothings(&[], key(3)), nothings(&[13], key(4)), nothings(&[12, 4], key(3)), nothings(&[], 5 << 3), dear]
}

fn series_response_bombs() -> Vec<Vec<u8>> {
    vec![nothings(&[1], key(1)), nothings(&[1], key(2)), nothings(&[4], key(1)), nothings(&[4, 1], key(2))]
}

fn string_bombs() -> Vec<Vec<u8>> {
    (1..=8).map(|field| nothings(&[], key(field))).collect()
}

fn info_bombs() -> Vec<Vec<u8>> {
    vec![nothings(&[], key(1)), nothings(&[1], key(1)), nothings(&[3], key(6)), nothings(&[3, 6, 1], key(1))]
}

fn samples_bombs() -> Vec<Vec<u8>> {
    let all = [
        nothings(&[], key(1)),
        nothings(&[1], key(1)),
        nothings(&[1, 1], key(2)),
        nothings(&[1, 1], key(3)),
        nothings(&[1, 1], key(4)),
        nothings(&[1, 1, 4], key(8)),
    ];
    let packed = all.map(|message| snap::raw::Encoder::new().compress_vec(&message).unwrap());
    [packed.to_vec(), vec![vec![0xff, 0xff, 0xff, 0x3f, 0, 0], vec![0xff, 0xff, 0xff, 0x7f, 0, 0]]].concat()
}

fn stream_bombs() -> Vec<Vec<u8>> {
    let framed = |message: Vec<u8>| {
        let mut out = crate::mutate::uvarint(message.len() as u64);
        out.extend([0; 4]);
        out.extend(message);
        frame_checksums(&mut out);
        out
    };
    vec![
        framed(nothings(&[], key(1))),
        framed(nothings(&[1], key(1))),
        framed(nothings(&[1], key(2))),
        vec![0xff, 0xff, 0xff, 0x1f, 1, 2, 3, 4],
    ]
}
