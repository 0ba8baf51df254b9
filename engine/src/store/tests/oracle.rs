//! Random requests over random blocks, compared with brute force.

use super::{Chunk, Content, House, by_labels};
use args::StoreArgs;
use model::{Labels, MatchOp, Matcher};
use proptest::prelude::*;
use proto::thanos::store_server::Store as _;
use proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest, ShardInfo};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Request;

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["__name__", "a", "b", "c", "pod", "replica"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[ab]{1,2}", 1 => "[0-9]{1,2}", 1 => Just("é".to_owned())]
}

fn content() -> impl Strategy<Value = Content> {
    let labels = prop::collection::btree_map(name(), value(), 1..5);
    let size = prop_oneof![4 => 2usize..60, 2 => 400usize..700, 1 => Just(20_000usize)];
    let chunk = (0i64..40, 0i64..60, 1u8..7, size);
    let series = (labels, prop::collection::vec(chunk, 1..5));
    prop::collection::vec(series, 1..50).prop_map(|all| {
        let mut sorted: BTreeMap<Labels, Vec<Chunk>> = BTreeMap::new();
        for (i, (labels, chunks)) in all.into_iter().enumerate() {
            let mut at = 0;
            let chunks = chunks.into_iter().map(|(gap, length, encoding, size)| {
                let (from, to) = (at + gap, at + gap + length);
                at = to + 1;
                (from, to, encoding, vec![i as u8; size])
            });
            sorted.insert(Labels::from_pairs(labels), chunks.collect());
        }
        sorted.into_iter().collect()
    })
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let op = prop_oneof![Just(MatchOp::Equal), Just(MatchOp::NotEqual), Just(MatchOp::Regex), Just(MatchOp::NotRegex)];
    let pattern = prop_oneof![
        value(),
        Just(String::new()),
        Just("a|b|12".to_owned()),
        Just("a.*".to_owned()),
        Just(".*".to_owned()),
        Just(".+".to_owned()),
        Just("|a".to_owned()),
        Just("[0-9]+".to_owned()),
        Just("(?i:A)b?".to_owned()),
    ];
    (op, name(), pattern).prop_map(|(op, name, pattern)| Matcher::new(op, name, pattern).unwrap())
}

fn externals() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(prop::sample::select(vec!["c", "replica", "zone"]), "[ab]", 1..3)
        .prop_map(Labels::from_pairs)
}

/// What a request must give.
fn want(
    blocks: &[(Labels, Content)],
    matchers: &[Matcher],
    (min_t, max_t): (i64, i64),
    without: &[String],
) -> Vec<(Labels, Vec<Chunk>)> {
    let mut all: BTreeMap<Labels, BTreeSet<Chunk>> = BTreeMap::new();
    for (external, content) in blocks {
        for (labels, chunks) in content {
            let over = labels.overlay(external);
            let chunks: Vec<_> = chunks.iter().filter(|c| c.1 >= min_t && c.0 <= max_t).cloned().collect();
            if !chunks.is_empty() && matchers.iter().all(|m| m.matches_labels(&over)) {
                all.entry(over.without(without)).or_default().extend(chunks);
            }
        }
    }
    all.into_iter().map(|(l, c)| (l, c.into_iter().collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn as_brute_force(
        blocks in prop::collection::vec((externals(), content()), 1..4),
        requests in prop::collection::vec((
            prop::collection::vec(matcher(), 1..4), (0i64..200, 0i64..200), prop::collection::vec(name(), 0..3),
            (0i64..4, prop_oneof![Just(0i64), Just(64i64)]), any::<bool>(), prop::option::of((1i64..4, any::<bool>(), prop::collection::vec(name(), 0..3))),
        ), 6),
        on_disk in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let args = StoreArgs { estimated_chunk_size: args::Size(300), ..StoreArgs::default() };
        let mut house = if on_disk { House::on_disk(args, 64 << 20) } else { House::new(args) };
        let served: Vec<_> = (1u64..).zip(&blocks).map(|(n, (external, content))| house.write(n, external, 0, content)).collect();
        house.serve(served, Vec::new());
        for (matchers, (from, length), without, (limit, batch), skip_chunks, shard) in requests {
            let range = (from, from + length);
            let wire = proto::matchers::encode(&matchers);
            let request = SeriesRequest {
                min_time: range.0,
                max_time: range.1,
                matchers: wire.clone(),
                without_replica_labels: without.clone(),
                skip_chunks,
                limit,
                response_batch_size: batch,
                shard_info: shard.clone().map(|(n, by, labels)| ShardInfo { shard_index: 0, total_shards: n, by, labels }),
                ..Default::default()
            };
            let got = runtime.block_on(house.series(request.clone())).unwrap();
            prop_assert_eq!(&got.warnings, &Vec::<String>::new());
            let mut found = by_labels(&got.series);
            prop_assert!(found.windows(2).all(|w| w[0].0 < w[1].0), "{:?}", found);
            prop_assert!(found.iter().all(|(_, c)| c.windows(2).all(|w| w[0].0 <= w[1].0)), "{:?}", found);
            // Of chunks of the same times any may come first.
            found.iter_mut().for_each(|(_, c)| c.sort());
            let mut want = want(&blocks, &matchers, range, &without);
            if let Some(info) = &request.shard_info {
                let shard = crate::storeapi::wire::Shard::read(info).unwrap();
                want.retain(|(l, _)| shard.has_labels(l));
            }
            if limit > 0 {
                want.truncate(limit as usize);
            }
            if skip_chunks {
                want.iter_mut().for_each(|(_, c)| c.clear());
            }
            prop_assert_eq!(&found, &want, "{:?}", request);
            let batch = batch.max(1) as usize;
            prop_assert!(got.messages >= got.series.len().div_ceil(batch));

            // Names and values. Without matchers on series, time chooses blocks, not series.
            let all: Vec<_> = blocks.iter().filter(|(_, content)| {
                let (min, max) = content.iter().flat_map(|(_, c)| c).fold((i64::MAX, i64::MIN), |(a, b), c| (a.min(c.0), b.max(c.1)));
                min <= range.1 && max >= range.0
            }).cloned().collect();
            let series = self::want(&all, &matchers, (i64::MIN, i64::MAX), &[]);
            let names: BTreeSet<&str> = series.iter().flat_map(|(l, _)| l.iter().map(|(n, _)| n)).filter(|n| !without.iter().any(|w| w == n)).collect();
            let request = LabelNamesRequest { start: range.0, end: range.1, matchers: wire.clone(), without_replica_labels: without.clone(), ..Default::default() };
            let got = runtime.block_on(house.gateway.label_names(Request::new(request))).unwrap().into_inner();
            prop_assert_eq!(got.names, names.into_iter().collect::<Vec<_>>(), "{:?}", matchers);
            for label in ["a", "c", "pod", "zone", "nowhere"] {
                let mut values: BTreeSet<&str> = series.iter().filter_map(|(l, _)| l.get(label)).collect();
                let request = LabelValuesRequest { label: label.into(), start: range.0, end: range.1, matchers: wire.clone(), limit, ..Default::default() };
                let got = runtime.block_on(house.gateway.label_values(Request::new(request))).unwrap().into_inner();
                while limit > 0 && values.len() > limit as usize {
                    values.pop_last();
                }
                prop_assert_eq!(got.values, values.into_iter().collect::<Vec<_>>(), "{} {:?}", label, matchers);
            }
        }
    }
}
