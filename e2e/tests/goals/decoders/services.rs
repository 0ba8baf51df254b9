//! What the services beside the StoreAPI send each other: rules, targets, metadata, exemplars, statistics, PromQL; and messages
//! packed with snappy.

use super::wire::{bytes, key, labels, repeated};
use super::{Decoder, said};
use engine::server::snappy::Unpacked;
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use proto::bounded::{self, Bounded};
use proto::prometheus::{Sample, TimeSeries};
use proto::thanos::{
    ActiveTarget, Alert, AlertInstance, DroppedTarget, Exemplar, ExemplarData, ExemplarsRequest, ExemplarsResponse,
    LabelMatcher, LabelSet, Meta, MetricMetadata, MetricMetadataEntry, MetricMetadataResponse, QueryRangeRequest,
    QueryRangeResponse, QueryRequest, QueryResponse, RecordingRule, Rule, RuleGroup, RulesRequest, RulesResponse,
    ShardInfo, Statistic, StoreMatchers, TargetDiscovery, TargetsResponse, TimeSeriesBatch, TsdbStatistics,
    TsdbStatisticsEntry, TsdbStatisticsResponse, exemplars_response, metric_metadata_response, query_range_response,
    query_response, rule, rules_response, targets_response, tsdb_statistics_response,
};
use std::io::Write as _;

pub(crate) const SERVICES: &[Decoder] = &[
    Decoder::new("rules-request", read::<RulesRequest>, || {
        one(&RulesRequest { matcher_string: texts(), rule_name: texts(), file: texts(), ..Default::default() })
    })
    .bombs(|| every(&[])),
    Decoder::new("rules-response", read::<RulesResponse>, rules)
        .bombs(|| [every(&[1]), every(&[1, 3]), every(&[1, 3, 1]), every(&[1, 3, 2]), every(&[1, 3, 2, 7])].concat()),
    Decoder::new("targets-response", read::<TargetsResponse>, targets)
        .bombs(|| [every(&[1]), every(&[1, 1, 1]), every(&[1, 2, 1])].concat()),
    Decoder::new("metadata-response", read::<MetricMetadataResponse>, metadata)
        .bombs(|| [every(&[1]), every(&[1, 1]), every(&[1, 1, 2])].concat()),
    Decoder::new("exemplars-request", read::<ExemplarsRequest>, || {
        one(&ExemplarsRequest { query: "rate(a[5m])".to_owned(), start: 1, end: 2, ..Default::default() })
    }),
    Decoder::new("exemplars-response", read::<ExemplarsResponse>, exemplars)
        .bombs(|| [every(&[1]), every(&[1, 1]), every(&[1, 2, 1])].concat()),
    Decoder::new("statistics-response", read::<TsdbStatisticsResponse>, statistics)
        .bombs(|| [every(&[1]), every(&[1, 1]), every(&[1, 1, 2])].concat()),
    Decoder::new("query-request", read::<QueryRequest>, || {
        one(&QueryRequest {
            query: "up".to_owned(),
            replica_labels: texts(),
            store_matchers: matchers(),
            shard_info: shard(),
            ..Default::default()
        })
    })
    .bombs(|| [every(&[]), every(&[6]), every(&[11])].concat()),
    Decoder::new("query-range-request", read::<QueryRangeRequest>, || {
        one(&QueryRangeRequest {
            query: "up".to_owned(),
            replica_labels: texts(),
            store_matchers: matchers(),
            shard_info: shard(),
            ..Default::default()
        })
    })
    .bombs(|| [every(&[]), every(&[8]), every(&[13])].concat()),
    Decoder::new("query-response", read::<QueryResponse>, instants).bombs(results),
    Decoder::new("query-range-response", read::<QueryRangeResponse>, ranges).bombs(results),
    Decoder::new("snappy-body", snappy, bodies).bombs(body_bombs).repaired(piece_checksums),
];

fn read<M: Bounded>(b: &[u8]) -> Result<(), String> {
    said(bounded::decode::<M>(bytes(b)))
}

/// A hundred thousand elements of nothing in each field of a message.
fn every(path: &[u8]) -> Vec<Vec<u8>> {
    (1..=8).map(|field| repeated(path, key(field), 100_000)).collect()
}

fn results() -> Vec<Vec<u8>> {
    [every(&[2]), every(&[2, 4]), every(&[4]), every(&[4, 1]), every(&[4, 1, 4])].concat()
}

fn one(message: &impl Message) -> Vec<Vec<u8>> {
    vec![message.encode_to_vec()]
}

fn texts() -> Vec<String> {
    vec!["{cluster=\"ops\"}".to_owned(), "b".to_owned()]
}

fn matchers() -> Vec<StoreMatchers> {
    let matcher = LabelMatcher { r#type: 2, name: "cluster".to_owned(), value: "o.*".to_owned() };
    vec![StoreMatchers { label_matchers: vec![matcher.clone(), matcher] }]
}

fn shard() -> Option<ShardInfo> {
    Some(ShardInfo { shard_index: 1, total_shards: 2, by: true, labels: texts() })
}

fn set() -> Option<LabelSet> {
    Some(LabelSet { labels: labels() })
}

fn rules() -> Vec<Vec<u8>> {
    let instance = AlertInstance { labels: set(), annotations: set(), value: "1e+00".to_owned(), ..Default::default() };
    let alert = Alert {
        name: "Down".to_owned(),
        query: "up == 0".to_owned(),
        labels: set(),
        annotations: set(),
        alerts: vec![instance.clone(), instance],
        ..Default::default()
    };
    let recording =
        RecordingRule { name: "a:b".to_owned(), query: "sum(up)".to_owned(), labels: set(), ..Default::default() };
    let rules = [rule::Result::Alert(alert), rule::Result::Recording(recording)];
    let rules = rules.map(|result| Rule { result: Some(result) }).to_vec();
    let group = RuleGroup { name: "g".to_owned(), file: "f.yaml".to_owned(), rules, ..Default::default() };
    one(&RulesResponse { result: Some(rules_response::Result::Group(group)) })
}

fn targets() -> Vec<Vec<u8>> {
    let active = ActiveTarget { discovered_labels: set(), labels: set(), ..Default::default() };
    let found = TargetDiscovery {
        active_targets: vec![active],
        dropped_targets: vec![DroppedTarget { discovered_labels: set() }],
    };
    one(&TargetsResponse { result: Some(targets_response::Result::Targets(found)) })
}

fn metadata() -> Vec<Vec<u8>> {
    let meta = Meta { r#type: "counter".to_owned(), help: "Requests.".to_owned(), unit: String::new() };
    let metadata = [("a_total".to_owned(), MetricMetadataEntry { metas: vec![meta.clone(), meta] })];
    let metadata = MetricMetadata { metadata: metadata.into_iter().collect() };
    one(&MetricMetadataResponse { result: Some(metric_metadata_response::Result::Metadata(metadata)) })
}

fn exemplars() -> Vec<Vec<u8>> {
    let exemplar = Exemplar { labels: set(), value: 1.5, ts: 7 };
    let data = ExemplarData { series_labels: set(), exemplars: vec![exemplar.clone(), exemplar] };
    one(&ExemplarsResponse { result: Some(exemplars_response::Result::Data(data)) })
}

fn statistics() -> Vec<Vec<u8>> {
    let counts = vec![Statistic { name: "up".to_owned(), value: 3 }; 3];
    let entry = TsdbStatisticsEntry {
        series_count_by_metric_name: counts.clone(),
        series_count_by_label_value_pair: counts,
        ..Default::default()
    };
    let statistics = TsdbStatistics { statistics: std::iter::once(("ops".to_owned(), entry)).collect() };
    one(&TsdbStatisticsResponse { result: Some(tsdb_statistics_response::Result::Statistics(statistics)) })
}

fn series() -> TimeSeries {
    let samples = (0..50).map(|i| Sample { value: f64::from(i), timestamp: i64::from(i) * 1000 }).collect();
    TimeSeries { labels: labels(), samples, ..Default::default() }
}

fn instants() -> Vec<Vec<u8>> {
    let batch = TimeSeriesBatch { series: vec![series(), series()] };
    let all = [
        query_response::Result::Timeseries(series()),
        query_response::Result::TimeseriesBatch(batch),
        query_response::Result::Warnings("a store is away".to_owned()),
    ];
    all.map(|result| QueryResponse { result: Some(result) }.encode_to_vec()).to_vec()
}

fn ranges() -> Vec<Vec<u8>> {
    let batch = TimeSeriesBatch { series: vec![series(), series()] };
    let all =
        [query_range_response::Result::Timeseries(series()), query_range_response::Result::TimeseriesBatch(batch)];
    all.map(|result| QueryRangeResponse { result: Some(result) }.encode_to_vec()).to_vec()
}

/// A body of gRPC messages, read to its end.
fn snappy(b: &[u8]) -> Result<(), String> {
    let mut body = Unpacked::new(tonic::body::Body::new(Full::new(bytes(b))));
    loop {
        match body.frame().now_or_never() {
            Some(Some(frame)) => drop(frame.map_err(|status| status.message().to_owned())?),
            Some(None) => return Ok(()),
            None => return Err("it waits for more than there is".to_owned()),
        }
    }
}

/// A message: whether it is packed, its length, its bytes.
fn framed(packed: bool, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[u8::from(packed)], &length[..], message].concat()
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(content).unwrap();
    encoder.into_inner().unwrap()
}

fn bodies() -> Vec<Vec<u8>> {
    let text = "a message of many words ".repeat(40);
    let (small, large) = (packed(text.as_bytes()), packed(text.repeat(200).as_bytes()));
    let noise: Vec<u8> = (0u32..500).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![
        framed(true, &small),
        [framed(false, text.as_bytes()), framed(true, &large), framed(true, &packed(&noise))].concat(),
    ]
}

fn body_bombs() -> Vec<Vec<u8>> {
    let piece = |claim: &[u8]| {
        let body = [&[0; 4], claim].concat();
        [&[0], &u32::try_from(body.len()).unwrap().to_le_bytes()[..3], &body[..]].concat()
    };
    let zeros = packed(&vec![0; 1 << 20]);
    vec![
        framed(true, &zeros.repeat(20)),
        framed(true, &piece(&[0xff, 0xff, 0xff, 0x7f, 0]).repeat(1000)),
        framed(true, &piece(&[0x80, 0x80, 4, 0]).repeat(50_000)),
        framed(true, &[0x80, 0, 0, 0].repeat(100_000)),
        [&[1], &u32::MAX.to_be_bytes()[..]].concat(),
    ]
}

/// Makes the checksum of each whole piece right.
fn piece_checksums(body: &mut [u8]) {
    let mut at = 0;
    while let Some(&[is_packed, a, b, c, d]) = body.get(at..at + 5) {
        let end = (at + 5).saturating_add(u32::from_be_bytes([a, b, c, d]) as usize).min(body.len());
        let mut piece = at + 5;
        while is_packed == 1 && piece + 8 <= end {
            let length = u32::from_le_bytes([body[piece + 1], body[piece + 2], body[piece + 3], 0]) as usize;
            let Some(data) = body.get(piece + 8..(piece + 4 + length).min(end)) else { break };
            let unpacked = match body[piece] {
                0 if snap::raw::decompress_len(data).is_ok_and(|n| n <= 1 << 16) => {
                    snap::raw::Decoder::new().decompress_vec(data).ok()
                }
                1 => Some(data.to_vec()),
                _ => None,
            };
            if let Some(unpacked) = unpacked {
                let crc = crc32c::crc32c(&unpacked).rotate_right(15).wrapping_add(0xa282_ead8);
                body[piece + 4..piece + 8].copy_from_slice(&crc.to_le_bytes());
            }
            piece += 4 + length;
        }
        at = end;
    }
}
