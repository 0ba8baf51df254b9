//! Random buckets: every plan keeps the laws, and a bucket that is worked on comes to rest with all its data.

use super::*;
use crate::marks::reason;
use crate::meta::{Compaction as Section, File, Thanos};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeSet;
use testkit::goal::Goal;

pub(super) const HOUR: i64 = 3_600_000;

/// A block of a random bucket.
#[derive(Debug, Clone)]
pub(super) struct Wild {
    begin: i64,
    width: i64,
    stream: u8,
    resolution: usize,
    parts: usize,
    index: u64,
    flags: u16,
    age: i64,
}

pub(super) fn wild() -> impl Strategy<Value = Wild> {
    let width = prop::sample::select(vec![1, 2, 2, 2, 2, 8, 8, 48, 39, 40, 336, 240, 239]);
    (-2i64..400, width, 0u8..3, 0usize..7, 1usize..5, 0u64..60, any::<u16>(), 0i64..100).prop_map(
        |(begin, width, stream, resolution, parts, index, flags, age)| {
            // Most lie on the grid of their width, as real ones do.
            let begin = if flags & 7 == 0 { begin } else { begin.div_euclid(width) * width };
            Wild { begin, width, stream, resolution: resolution.saturating_sub(4), parts, index, flags, age }
        },
    )
}

/// The bucket of these blocks at `now`. Some share sources.
pub(super) fn bucket(blocks: &[Wild], now: i64, tame: bool) -> Snapshot {
    let mut out = Snapshot::default();
    let mut before: Vec<BlockId> = Vec::new();
    for (i, w) in blocks.iter().enumerate() {
        let end = (w.begin + w.width) * HOUR;
        let made = if w.flags & 0xf0 == 0x10 { now - 600_000 } else { end };
        let id = BlockId::from_parts(made.max(0) as u64, i as u128);
        let mut meta = BlockMeta::new(id, w.begin * HOUR, end);
        if w.flags & 8 == 8 && !tame {
            let own = (0..w.parts).map(|p| before.get((i * 7 + p) % before.len().max(1)).copied().unwrap_or(id));
            let sources: BTreeSet<BlockId> = own.collect();
            meta.compaction = Section { level: 2, sources: sources.into_iter().collect(), ..Section::default() };
        }
        before.push(id);
        meta.compaction.failed = w.flags & 0x300 == 0x300 && w.flags & 0xc == 0 && !tame;
        meta.stats.num_series = 100;
        meta.stats.num_tombstones = if w.flags & 0x1c == 0x1c && !tame { 50 } else { 0 };
        let replica = if w.flags & 1 == 1 { "a" } else { "b" };
        let mut thanos = Thanos { source: source::SIDECAR.to_owned(), ..Thanos::default() };
        thanos.labels = [("replica", replica), ("cluster", ["eu", "us", "asia"][usize::from(w.stream)])]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into();
        thanos.downsample.resolution = RESOLUTIONS[if tame { 0 } else { w.resolution }];
        thanos.files = vec![File::new("index", if tame { 1 } else { w.index })];
        if w.resolution > 0 {
            thanos.source = source::COMPACTOR.to_owned();
        }
        meta.thanos = Some(thanos);
        let mut block = Block::new(meta);
        let flag = |bits: u16, value: u16| w.flags & bits == value && !tame;
        block.index_bytes = if w.index == 0 && !flag(0x400, 0x400) { Some(5) } else { None };
        if flag(0x1800, 0x1800) {
            let details = ["source of compacted block", "outdated block", "by hand", ""][usize::from(w.flags & 3)];
            block.marks.deletion = Some(DeletionMark::new(id, now / 1000 - w.age * 3600, details));
        }
        if flag(0x6000, 0x6000) {
            block.marks.no_compact = Some(NoCompactMark::new(id, 0, reason::MANUAL, ""));
        }
        if flag(0xa000, 0xa000) {
            let why = if w.flags & 1 == 0 { reason::MANUAL } else { "damage" };
            block.marks.no_downsample = Some(NoDownsampleMark::new(id, 0, why, ""));
        }
        if flag(0x5400, 0x5400) {
            block.problems = vec!["index is missing".to_owned()];
        }
        if flag(0x3f, 0x3f) {
            let newest_ms = (w.flags & 0x40 == 0).then(|| now - w.age * HOUR);
            let claimed = w.flags & 0x80 == 0;
            let partial = Partial { newest_ms, deletion: block.marks.deletion, claimed };
            out.partial.insert(id, partial);
        } else {
            out.blocks.insert(id, block);
        }
    }
    out
}

pub(super) fn settings() -> impl Strategy<Value = Settings> {
    let keep = || prop::sample::select(vec![0, 40, 240, 500, 2000]);
    (any::<bool>(), any::<bool>(), any::<bool>(), keep(), keep(), keep(), 50u64..400, 0usize..3).prop_map(
        |(merge, replicas, downsample, raw, five, hour, max_index_bytes, delay)| Settings {
            merge: merge || replicas,
            replica_labels: if replicas { vec!["replica".to_owned()] } else { Vec::new() },
            downsample,
            retention: Retention { raw: raw * HOUR, five_minutes: five * HOUR, one_hour: hour * HOUR },
            max_index_bytes,
            delete_delay: [0, 48 * HOUR, 10 * HOUR][delay],
            ..Settings::default()
        },
    )
}

/// All sources and the time that they stand for, by resolution, that a reader of the bucket finds.
fn data(bucket: &Snapshot) -> BTreeSet<BlockId> {
    let visible = bucket.blocks.values().filter(|b| b.marks.deletion.is_none());
    visible.flat_map(|b| b.sources().to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_the_laws(
        blocks in prop::collection::vec(wild(), 0..24),
        settings in settings(),
        now in 300i64..1200,
    ) {
        let now = now * HOUR + 123;
        let mut state = bucket(&blocks, now, false);
        let mut made = 0u128;
        for round in 0.. {
            let plan = make(&state, now, &settings);
            let broken = laws::check(&state, now, &settings, &plan);
            prop_assert!(broken.is_empty(), "{broken:?}\n{plan:#?}");
            prop_assert_eq!(make(&state, now, &settings), plan.clone());
            if plan.items.is_empty() {
                break;
            }
            prop_assert!(round < 100, "it does not come to rest: {plan:#?}");
            apply(&mut state, &plan, now, &settings, &mut || {
                made += 1;
                BlockId::from_parts(now as u64, made << 40)
            });
        }
    }

    /// Without retention nothing is lost; with it, what has no coarser copy stays.
    #[test]
    fn data_stays_until_it_has_a_copy_or_is_unwanted(
        blocks in prop::collection::vec(wild(), 0..24),
        settings in settings(),
        now in 300i64..1200,
        tame in any::<bool>(),
    ) {
        let now = now * HOUR;
        let mut settings = settings;
        settings.downsample = true;
        // The coarsest data is kept: then all sources must be found at the end, but for those that nobody can copy.
        settings.retention.one_hour = 0;
        let mut state = bucket(&blocks, now, tame);
        state.blocks.values_mut().for_each(|b| b.marks.no_downsample = None);
        let before = data(&state);
        let mut made = 0u128;
        for later in 0..12 {
            let now = now + later * 25 * HOUR;
            for _ in 0..100 {
                let plan = make(&state, now, &settings);
                if plan.items.is_empty() {
                    break;
                }
                apply(&mut state, &plan, now, &settings, &mut || {
                    made += 1;
                    BlockId::from_parts(now as u64, made << 40)
                });
            }
            let after = data(&state);
            let lost: Vec<_> = before.difference(&after).collect();
            prop_assert!(lost.is_empty(), "lost {lost:?} after {later} rounds: {state:#?}");
        }
    }

    #[test]
    fn settings_that_are_not_refused_plan(settings in settings(), ranges in prop::collection::vec(-3i64..50, 0..5)) {
        let settings = Settings { ranges, ..settings };
        // Whatever is asked, nothing panics.
        let blocks = bucket(&[], 0, true);
        prop_assert!(make(&blocks, 0, &settings).items.is_empty());
        settings.check();
    }
}

/// Each law is broken by a plan that breaks it: the judge has teeth.
#[test]
fn the_judge_sees_what_is_wrong() {
    let wild = |begin, width, resolution, flags| Wild {
        begin,
        width,
        stream: 0,
        resolution,
        parts: 1,
        index: 1,
        flags,
        age: 0,
    };
    let blocks: Vec<Wild> =
        vec![wild(0, 2, 0, 7), wild(2, 2, 0, 7), wild(4, 2, 0, 7), wild(1, 2, 0, 7), wild(6, 2, 1, 7)];
    let now = 900 * HOUR;
    let mut state = bucket(&blocks, now, false);
    let ids: Vec<BlockId> = {
        let mut by_begin: Vec<_> = state.blocks.values().collect();
        by_begin.sort_by_key(|b| b.meta.id.to_bytes()[15]);
        by_begin.iter().map(|b| b.meta.id).collect()
    };
    let [a, b, c, x, coarse] = ids[..] else { panic!("{ids:?}") };
    let damaged = state.blocks.get_mut(&b).unwrap();
    damaged.problems = vec!["gone".to_owned()];
    let compact = |blocks: &[BlockId]| {
        let c = Compaction { stream: String::new(), blocks: blocks.to_vec(), range: (0, 0), overlap: false };
        Item { action: Action::Compact(c), why: Why::Overlap }
    };
    let item = |action, why| Item { action, why };
    let keep = 1;
    let settings = Settings {
        retention: Retention { raw: 100 * HOUR, ..Retention::default() },
        max_index_bytes: 2,
        ..Settings::default()
    };
    let plan = Plan {
        items: vec![
            compact(&[a, b]),
            compact(&[a, x]),
            compact(&[c, coarse]),
            item(Action::Delete(a), Why::DeletionBrokeOff),
            item(Action::MarkForDeletion(a), Why::Superseded { by: b }),
            item(Action::MarkForDeletion(c), Why::Retention { keep }),
            item(Action::MarkForDeletion(coarse), Why::Retention { keep }),
            item(Action::MarkForDeletion(x), Why::Overlap),
            item(Action::Downsample(b, vec![300_000]), Why::Wide { width: 1 }),
            item(Action::Downsample(coarse, vec![300_000]), Why::Wide { width: 1 }),
            item(Action::MarkNoCompact(BlockId::default(), ""), Why::Overlap),
        ],
        held: Vec::new(),
    };
    state.complete = false;
    let broken: BTreeSet<&str> = laws::check(&state, now, &settings, &plan).into_iter().map(|b| b.law).collect();
    for law in [
        "a block is in one item at most",
        "nothing is decided of an incomplete view",
        "only what was marked long ago, or broke off long ago, is deleted",
        "a block is superseded only by a sound one that stays and holds all of it",
        "only what is too old is dropped by retention",
        "retention drops nothing that has no coarser copy",
        "a block is marked because it is too old or superseded",
        "blocks of one stream are compacted",
        "what is damaged is not compacted",
        "blocks that overlap are merged only on request",
        "the newest block waits",
        "a compacted block overlaps nothing that stays",
        "the index of a compacted block stays below the limit",
        "only sound blocks without marks are downsampled",
        "blocks are downsampled when they are wide or about to go",
        "a coarser block is made of a finer one",
        "only a block of the bucket is marked",
    ] {
        assert!(broken.contains(law), "not seen: {law}; {broken:#?}");
    }
}

/// Whether nobody wants this data any more: it is too old for its own resolution and for every coarser one that is made.
fn is_unwanted(block: &Block, now: i64, settings: &Settings) -> bool {
    let keep = [settings.retention.raw, settings.retention.five_minutes, settings.retention.one_hour];
    let by_hand = block.marks.no_downsample.as_ref().is_some_and(|m| m.reason == reason::MANUAL);
    let coarser = if settings.downsample && !by_hand { 3 } else { 0 };
    let own = RESOLUTIONS.iter().position(|r| *r == block.meta.resolution()).unwrap();
    let old = |keep: &i64| *keep > 0 && now - keep >= block.meta.max_time;
    keep[own..coarser.max(own + 1)].iter().all(old)
}

/// G10: random settings, random buckets, a month of virtual time: what is neither copied nor unwanted is there at the end of each
/// round; settings that defeat themselves are refused.
#[test]
fn goal_g10_retention_never_outruns_downsampling() {
    let goal = Goal::start("G10");
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&goal.rng("buckets").next_u64().to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let keep = || prop::sample::select(vec![0i64, 1, 39, 40, 100, 239, 240, 500, 2000]);
    let all = (prop::collection::vec(wild(), 1..16), settings(), keep(), keep(), keep(), 300i64..1500);
    let (runs, mut refused, mut dropped) = (goal.pick(800, 10_000, 1_000_000), 0u64, 0u64);
    for run in 0..runs {
        let (blocks, mut settings, raw, five, hour, begin) = all.new_tree(&mut runner).unwrap().current();
        settings.retention = Retention { raw: raw * HOUR, five_minutes: five * HOUR, one_hour: hour * HOUR };
        let impossible = settings.downsample && ((1..40).contains(&raw) || (1..240).contains(&five));
        let is_refused = settings.check().iter().any(|f| matches!(f, Finding::Refused(_)));
        assert_eq!(is_refused, impossible, "run {run}: {settings:?}");
        if is_refused {
            refused += 1;
            continue;
        }
        let mut state = bucket(&blocks, begin * HOUR, run % 2 == 0);
        let mut made = 0u128;
        for round in 0..10 {
            let now = (begin + round * 72) * HOUR;
            for _ in 0..50 {
                let plan = make(&state, now, &settings);
                if plan.items.is_empty() {
                    break;
                }
                let before = state.clone();
                apply(&mut state, &plan, now, &settings, &mut || {
                    made += 1;
                    BlockId::from_parts(now as u64, made << 40)
                });
                let after = data(&state);
                for block in before.blocks.values().filter(|b| b.marks.deletion.is_none()) {
                    if block.sources().iter().any(|s| !after.contains(s)) {
                        // What was compacted goes as what it was compacted to goes: a mark by hand on that one holds for all in it.
                        let has_all = |b: &&Block| block.sources().iter().all(|s| b.sources().contains(s));
                        let mut visible = before.blocks.values().filter(|b| b.marks.deletion.is_none()).filter(has_all);
                        assert!(
                            visible.any(|b| is_unwanted(b, now, &settings)),
                            "run {run}: lost by retention: {block:?}\n{settings:?}"
                        );
                        dropped += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 0 && dropped > 0);
    goal.figure(&format!(
        "{runs} settings, {refused} refused, {dropped} blocks dropped, 0 without a coarser copy or a wish"
    ));
}

/// A bucket of 100,000 blocks is planned and judged in about the time of one walk: how long it takes grows with the number of
/// blocks, not with its square. `cargo test --release -p tsdb --lib large_bucket -- --ignored --nocapture` measures it.
#[test]
#[ignore = "it measures time"]
#[allow(clippy::disallowed_methods, reason = "it measures time")]
fn a_large_bucket_is_planned_in_seconds() {
    let mut took = Vec::new();
    for streams in [100u32, 1000] {
        let now = 1200 * HOUR;
        let mut state = Snapshot::default();
        for stream in 0..streams {
            for n in 0..100i64 {
                let id = BlockId::from_parts((n * 2 * HOUR) as u64, u128::from(stream) << 16 | n as u128);
                let mut meta = BlockMeta::new(id, n * 2 * HOUR, (n + 1) * 2 * HOUR);
                meta.compaction.sources = vec![id];
                let labels = [("cluster".to_owned(), stream.to_string())].into();
                let files = vec![File::new("index", 5)];
                meta.thanos = Some(Thanos { labels, files, source: source::SIDECAR.to_owned(), ..Thanos::default() });
                let mut block = Block::new(meta);
                if n < 20 {
                    block.marks.deletion = Some(DeletionMark::new(id, 0, SOURCE_OF_COMPACTED));
                }
                state.blocks.insert(id, block);
            }
        }
        let settings =
            Settings { retention: Retention { raw: 1100 * HOUR, ..Retention::default() }, ..Settings::default() };
        let begin = std::time::Instant::now();
        let plan = make(&state, now, &settings);
        let planned = begin.elapsed();
        assert_eq!(laws::check(&state, now, &settings, &plan), []);
        println!(
            "{} blocks, {} items: planned in {planned:?}, judged in {:?}",
            state.blocks.len(),
            plan.items.len(),
            begin.elapsed() - planned
        );
        took.push(begin.elapsed().as_secs_f64());
    }
    assert!(took[1] < took[0] * 30.0, "ten times the blocks took {:.0} times as long", took[1] / took[0]);
}

/// Retention is for blocks that carry its labels; others are kept, whoever asks, and it is told.
#[test]
fn retention_leaves_blocks_with_other_labels_alone() {
    let now = 5000 * HOUR;
    let mut state = Snapshot::default();
    for (n, cluster) in ["a", "b"].into_iter().enumerate() {
        let id = BlockId::from_parts(1, n as u128);
        let mut meta = BlockMeta::new(id, 0, 48 * HOUR);
        let labels = [("cluster".to_owned(), cluster.to_owned())].into();
        meta.thanos = Some(Thanos { labels, files: vec![File::new("index", 1)], ..Thanos::default() });
        state.blocks.insert(id, Block::new(meta));
    }
    let mut settings = Settings {
        retention: Retention { raw: 100 * HOUR, five_minutes: 300 * HOUR, one_hour: 400 * HOUR },
        retention_labels: [("cluster".to_owned(), "a".to_owned())].into(),
        ..Settings::default()
    };
    let goes = |settings: &Settings| -> Vec<BlockId> {
        let plan = make(&state, now, settings);
        assert_eq!(laws::check(&state, now, settings, &plan), []);
        let gone = plan.items.iter().filter(|i| matches!(i.action, Action::MarkForDeletion(_)));
        gone.flat_map(|i| i.action.blocks().to_vec()).collect()
    };
    assert_eq!(goes(&settings), [BlockId::from_parts(1, 0)]);
    let held: Vec<String> = make(&state, now, &settings).held.iter().map(ToString::to_string).collect();
    assert!(held.iter().any(|h| h.contains("cluster=\"b\"") && h.contains("labels that retention is for")), "{held:?}");
    // A plan that took the other one would break a law.
    let b = BlockId::from_parts(1, 1);
    let item = Item { action: Action::MarkForDeletion(b), why: Why::Retention { keep: 1 } };
    let broken = laws::check(&state, now, &settings, &Plan { items: vec![item], held: Vec::new() });
    assert!(broken.iter().any(|law| law.block == b), "{broken:?}");
    settings.retention_labels.clear();
    assert_eq!(goes(&settings).len(), 2);
}

/// Times as far as numbers go are planned and judged without a panic.
#[test]
fn the_ends_of_time_hold_up_nobody() {
    let mut state = Snapshot::default();
    for (n, (min, max)) in [(i64::MIN, i64::MAX), (i64::MIN, 0), (0, i64::MAX)].into_iter().enumerate() {
        let id = BlockId::from_parts(1, n as u128);
        let mut meta = BlockMeta::new(id, min, max);
        let labels = [("n".to_owned(), n.to_string())].into();
        meta.thanos = Some(Thanos { labels, files: vec![File::new("index", 1)], ..Thanos::default() });
        let mut block = Block::new(meta);
        if n == 2 {
            block.marks.deletion = Some(DeletionMark::new(id, i64::MIN, ""));
        }
        state.blocks.insert(id, block);
    }
    let settings = Settings { retention: Retention { raw: 100 * HOUR, ..Retention::default() }, ..Settings::default() };
    for now in [0, 5000 * HOUR] {
        let plan = make(&state, now, &settings);
        assert_eq!(laws::check(&state, now, &settings, &plan), [], "{plan:#?}");
    }
}
