//! A real Prometheus that holds given series, and the same series read back from it bit by bit.

use crate::data::Series;
use model::sample::Value;
use model::{FloatHistogram, Labels};
use promql::exec::memory::MemorySource;
use prost::Message as _;
use proto::prometheus::{
    BucketSpan, ChunkedReadResponse, Histogram, Query, ReadRequest, Sample, TimeSeries, histogram, read_request,
};
use proto::thanos::{Label, LabelMatcher, label_matcher};
use std::time::Duration;
use testkit::prometheus::{Options, Prometheus};
use tsdb::chunk::{self, Encoding};

const FEATURES: &str = "promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers";

/// Starts one with these series; `features` are added to those that open the language.
pub(crate) fn start(series: &[Series], features: &str) -> Prometheus {
    let args = vec![
        format!("--enable-feature={FEATURES}{features}"),
        "--web.enable-remote-write-receiver".to_owned(),
        "--query.max-samples=500000000".to_owned(),
    ];
    // Nothing is scraped, and whatever comes in the wrong order is taken all the same.
    let config = "global: {scrape_interval: 1h, external_labels: {cluster: c}}\nstorage: {tsdb: {out_of_order_time_window: 1d}}\n";
    let options = Options { args, config: Some(config.to_owned()), ..Options::default() };
    let peer = Prometheus::start(&options).unwrap();
    let mut body = Vec::new();
    for (labels, samples) in series {
        let message = time_series(labels, samples).encode_to_vec();
        body.push(0x0a);
        prost::encoding::encode_varint(message.len() as u64, &mut body);
        body.extend(message);
    }
    let packed = snap::raw::Encoder::new().compress_vec(&body).unwrap();
    let headers = [
        ("Content-Encoding", "snappy"),
        ("Content-Type", "application/x-protobuf"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    let url = format!("{}/api/v1/write", peer.url());
    let answer = testkit::http::request("POST", &url, &headers, packed, Duration::from_secs(30)).unwrap();
    assert!((200..300).contains(&answer.status), "remote write: {} {}", answer.status, answer.body);
    peer
}

fn label(name: &str, value: &str) -> Label {
    Label { name: name.to_owned().into(), value: value.to_owned().into() }
}

fn time_series(labels: &Labels, samples: &[model::sample::Sample]) -> TimeSeries {
    let mut out = TimeSeries { labels: labels.iter().map(|(n, v)| label(n, v)).collect(), ..TimeSeries::default() };
    for s in samples {
        match &s.v {
            Value::Float(v) => out.samples.push(Sample { value: *v, timestamp: s.t }),
            Value::Histogram(h) => out.histograms.push(histogram(s.t, h)),
        }
    }
    out
}

fn histogram(timestamp: i64, h: &FloatHistogram) -> Histogram {
    let spans = |all: &[model::histogram::Span]| {
        all.iter().map(|s| BucketSpan { offset: s.offset, length: s.length }).collect::<Vec<_>>()
    };
    Histogram {
        count: Some(histogram::Count::CountFloat(h.count)),
        sum: h.sum,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: Some(histogram::ZeroCount::ZeroCountFloat(h.zero_count)),
        negative_spans: spans(&h.negative_spans),
        negative_counts: h.negative_buckets.clone(),
        positive_spans: spans(&h.positive_spans),
        positive_counts: h.positive_buckets.clone(),
        reset_hint: match h.reset_hint {
            model::histogram::ResetHint::Gauge => 3,
            _ => 0,
        },
        timestamp,
        custom_values: h.custom_values.clone(),
        ..Histogram::default()
    }
}

/// All that a Prometheus holds between two times, decoded from its own chunks: resets of histograms are marked as it
/// marks them, and markers are there.
pub(crate) fn read_back(peer: &Prometheus, from: i64, to: i64) -> MemorySource {
    let any = LabelMatcher { r#type: label_matcher::Type::Re.into(), name: "__name__".into(), value: ".+".into() };
    let query = Query { start_timestamp_ms: from, end_timestamp_ms: to, matchers: vec![any], hints: None };
    let request = ReadRequest {
        queries: vec![query],
        accepted_response_types: vec![read_request::ResponseType::StreamedXorChunks.into()],
    };
    let packed = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).unwrap();
    let body = post(&format!("{}/api/v1/read", peer.url()), packed);
    let mut source = MemorySource::new();
    let mut rest = &body[..];
    while !rest.is_empty() {
        let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
        let message = &rest[4..4 + length];
        for series in ChunkedReadResponse::decode(message).unwrap().chunked_series {
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
            let pairs: Vec<(String, String)> =
                series.labels.iter().map(|l| (text(&l.name), text(&l.value))).filter(|(n, _)| n != "cluster").collect();
            let labels = Labels::from_pairs(pairs);
            for c in series.chunks {
                let encoding = Encoding::from_prometheus(u8::try_from(c.r#type).unwrap());
                for sample in chunk::decode(encoding, c.data).unwrap() {
                    let s = sample.unwrap();
                    source.push_value(&labels, s.t, 0, s.v);
                }
            }
        }
        rest = &rest[4 + length..];
    }
    source
}

/// The test client reads text; this answer is bytes.
fn post(url: &str, body: Vec<u8>) -> Vec<u8> {
    use std::io::{Read as _, Write as _};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\nContent-Encoding: snappy\r\n\
         Content-Type: application/x-protobuf\r\nX-Prometheus-Remote-Read-Version: 0.1.0\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    assert!(head.contains(" 200 "), "{head}\n{}", String::from_utf8_lossy(&bytes[split..]));
    bytes.split_off(split + 4)
}
