//! The same buckets shown to Thanos's own planner and its own filter of duplicates (`e2e/peers/thanos-blocks`).

use super::tests::{HOUR, bucket, wild};
use super::*;
use crate::marks::reason;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeSet;
use testkit::oracle::Oracle;
use testkit::peers;

const CASES: usize = 4000;

fn strings<'a>(ids: impl IntoIterator<Item = &'a BlockId>) -> Vec<String> {
    ids.into_iter().map(BlockId::to_string).collect()
}

#[test]
fn thanos_plans_the_same() {
    if peers::skip(&["thanos-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("thanos-blocks").unwrap();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[8; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let blocks = (prop::collection::vec(wild(), 1..16), any::<bool>(), 50u64..400);
    let (mut planned, mut marked, mut merged) = (0, 0, 0);
    for case in 0..CASES {
        let (blocks, merge, limit) = blocks.new_tree(&mut runner).unwrap().current();
        let now = 5000 * HOUR;
        let mut state = bucket(&blocks, now, false);
        // One stream, of blocks that only this planner decides about. Its size rule reads sizes in meta.json only.
        let resolution = state.blocks.values().next().map_or(0, |b| b.meta.resolution());
        for block in state.blocks.values_mut() {
            let meta = Arc::make_mut(&mut block.meta);
            let thanos = meta.thanos.as_mut().unwrap();
            thanos.labels = [("cluster".to_owned(), "eu".to_owned())].into();
            thanos.downsample.resolution = resolution;
            thanos.files[0].size_bytes = thanos.files[0].size_bytes.max(1);
            block.problems.clear();
            block.marks.deletion = None;
            block.marks.no_downsample = None;
            meta.compaction.sources = vec![meta.id];
        }
        let mut stream: Vec<&Block> = state.blocks.values().collect();
        stream.sort_by_key(|b| (b.meta.min_time, b.meta.id));
        if stream.is_empty() {
            continue;
        }
        let settings = Settings {
            merge: true,
            downsample: false,
            consistency_delay: 0,
            max_index_bytes: if merge { limit } else { 1 << 40 },
            ..Settings::default()
        };
        let plan = make(&state, now, &settings);
        let ours: Vec<BlockId> = plan.compactions().flat_map(|c| c.blocks.clone()).collect();
        let marks: BTreeSet<(String, &str)> = plan
            .items
            .iter()
            .filter_map(|i| match &i.action {
                Action::MarkNoCompact(id, reason) => Some((id.to_string(), *reason)),
                _ => None,
            })
            .collect();
        let kinds: BTreeSet<&str> = marks.iter().map(|(_, r)| *r).collect();
        // Between its two rules Thanos forgets what the first has marked.
        if kinds.len() > 1 || plan.held.iter().any(|h| matches!(h.why, Hold::InTheWay(_))) {
            continue;
        }
        let excluded = stream.iter().filter(|b| b.marks.no_compact.is_some()).map(|b| &b.meta.id);
        let metas: Vec<&BlockMeta> = stream.iter().map(|b| &*b.meta).collect();
        let theirs = oracle
            .ask(&serde_json::json!({
                "op": "plan", "metas": metas, "excluded": strings(excluded), "ranges": settings.ranges,
                "limit": settings.max_index_bytes,
            }))
            .unwrap();
        assert_eq!(theirs["plan"], serde_json::json!(strings(&ours)), "case {case}: {plan:#?}\n{metas:#?}");
        let ours_marked: BTreeSet<String> = marks.iter().map(|(id, _)| id.clone()).collect();
        let theirs_marked: BTreeSet<String> = serde_json::from_value(theirs["marked"].clone()).unwrap();
        assert_eq!(theirs_marked, ours_marked, "case {case}: {plan:#?}");
        planned += usize::from(!ours.is_empty());
        merged += usize::from(plan.compactions().any(|c| c.overlap));
        marked +=
            usize::from(kinds.contains(reason::INDEX_SIZE)) + usize::from(kinds.contains(reason::DOWNSAMPLE_VERTICAL));
    }
    assert!(planned > CASES / 10 && marked > CASES / 50 && merged > CASES / 50, "{planned} {marked} {merged}");
}

#[test]
fn thanos_finds_the_same_duplicates() {
    if peers::skip(&["thanos-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("thanos-blocks").unwrap();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let blocks = prop::collection::vec(wild(), 1..16);
    let mut found = 0;
    for case in 0..CASES / 4 {
        let blocks = blocks.new_tree(&mut runner).unwrap().current();
        let mut state = bucket(&blocks, 5000 * HOUR, false);
        for block in state.blocks.values_mut() {
            block.problems.clear();
            block.marks.deletion = None;
            // Thanos looks at sources only; with equal times so do we.
            let meta = Arc::make_mut(&mut block.meta);
            (meta.min_time, meta.max_time) = (0, HOUR);
        }
        let settings = Settings { downsample: false, consistency_delay: 0, ..Settings::default() };
        let plan = make(&state, 5000 * HOUR, &settings);
        let ours: BTreeSet<String> = plan
            .items
            .iter()
            .filter(|i| matches!(i.why, Why::Superseded { .. }))
            .flat_map(|i| strings(i.action.blocks()))
            .collect();
        let metas: Vec<&BlockMeta> = state.blocks.values().map(|b| &*b.meta).collect();
        let theirs = oracle.ask(&serde_json::json!({"op": "duplicates", "metas": metas})).unwrap();
        let theirs: BTreeSet<String> = serde_json::from_value(theirs).unwrap();
        assert_eq!(ours, theirs, "case {case}");
        found += ours.len();
    }
    assert!(found > 100, "{found}");
}
