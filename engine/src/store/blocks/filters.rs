//! Which blocks of a bucket are served: pure, in Thanos's order of steps.
//!
//! converted to Parquet → time → selector → consistency delay → deletion mark → damage → covered by a compacted block. A block
//! that is known to be damaged covers nothing, so its sources are served as long as they are there; where all of them are, it is
//! not needed itself.

use super::entry::Entry;
use super::served::Missing;
use crate::storage::selector::Selector;
use model::{BlockId, Labels};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What decides.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Oldest and newest time that is served, in ms, both inclusive.
    pub window: (i64, i64),
    /// This part's share.
    pub selector: Selector,
    /// Youngest age that is served, in ms.
    pub consistency_delay: i64,
    /// How long a marked block is still served, in ms.
    pub deletion_delay: i64,
}

/// A block of the bucket.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// What its meta.json says.
    pub entry: &'a Arc<Entry>,
    /// When it was marked for deletion, in seconds since the epoch.
    pub deletion_time: Option<i64>,
    /// It is marked as not to be compacted, and as not to be downsampled.
    pub held: (bool, bool),
    /// What is wrong with its files.
    pub problems: &'a [String],
    /// Something in it could not be read while it was served.
    pub is_damaged: bool,
}

/// How many blocks went where: the states of `thanos_blocks_meta_synced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// Served.
    pub loaded: u64,
    /// meta.json can't be read as one.
    pub corrupted_meta_json: u64,
    /// No meta.json.
    pub no_meta_json: u64,
    /// meta.json could not be read now.
    pub failed: u64,
    /// Outside of the time range.
    pub time_excluded: u64,
    /// Another part's share.
    pub label_excluded: u64,
    /// Younger than the consistency delay.
    pub too_fresh: u64,
    /// Marked for deletion, long enough ago.
    pub marked_for_deletion: u64,
    /// Marked as not to be compacted; served.
    pub marked_for_no_compact: u64,
    /// Marked as not to be downsampled; served.
    pub marked_for_no_downsample: u64,
    /// Its samples are in another block.
    pub duplicate: u64,
    /// Files are missing or have another size.
    pub damaged: u64,
}

impl States {
    /// Names (values of the label `state`) and numbers.
    pub fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("loaded", self.loaded),
            ("corrupted-meta-json", self.corrupted_meta_json),
            ("no-meta-json", self.no_meta_json),
            ("failed", self.failed),
            ("time-excluded", self.time_excluded),
            ("label-excluded", self.label_excluded),
            ("too-fresh", self.too_fresh),
            ("marked-for-deletion", self.marked_for_deletion),
            ("marked-for-no-compact", self.marked_for_no_compact),
            ("marked-for-no-downsample", self.marked_for_no_downsample),
            ("duplicate", self.duplicate),
            // Not in Thanos, where it shows at the first query.
            ("damaged", self.damaged),
        ]
    }
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// To be served.
    pub serve: Vec<Arc<Entry>>,
    /// Should be served and can't be.
    pub missing: Vec<Missing>,
    /// How many went where.
    pub states: States,
}

/// A block, and whether it is known to be damaged.
type Seen = (Arc<Entry>, bool);

/// Decides on all blocks of a bucket at `now_ms`.
pub fn decide<'a>(blocks: impl IntoIterator<Item = Candidate<'a>>, policy: &Policy, now_ms: i64) -> Decision {
    let mut decision = Decision::default();
    let states = &mut decision.states;
    let mut left: Vec<Seen> = Vec::new();
    for block in blocks {
        let entry = block.entry;
        if entry.max_t < policy.window.0 || entry.min_t > policy.window.1 {
            states.time_excluded += 1;
        } else if !policy.selector.selects(entry.id, &entry.external) {
            states.label_excluded += 1;
        } else if policy.consistency_delay > 0 && !entry.is_compacted && entry.age(now_ms) < policy.consistency_delay {
            states.too_fresh += 1;
        } else if is_dead(block.deletion_time, policy, now_ms) {
            states.marked_for_deletion += 1;
        } else {
            states.marked_for_no_compact += u64::from(block.held.0);
            states.marked_for_no_downsample += u64::from(block.held.1);
            if block.problems.is_empty() {
                left.push((Arc::clone(entry), block.is_damaged));
            } else {
                states.damaged += 1;
                decision.missing.push(Missing {
                    id: entry.id,
                    external: Some(entry.external.clone()),
                    min_t: entry.min_t,
                    max_t: entry.max_t,
                    reason: block.problems.join("; "),
                    strict: true,
                });
            }
        }
    }
    let all = left.len();
    decision.serve = uncovered(left);
    states.duplicate = (all - decision.serve.len()) as u64;
    states.loaded = decision.serve.len() as u64;
    decision
}

fn is_dead(deletion_time: Option<i64>, policy: &Policy, now_ms: i64) -> bool {
    deletion_time.is_some_and(|at| now_ms.saturating_sub(at.saturating_mul(1000)) > policy.deletion_delay)
}

/// Without the blocks whose sources all went into one other block of the same labels and resolution. Of two with the same
/// sources the older stays, as in Thanos; it compares all pairs, here only blocks that share a source are compared. A damaged one
/// (`true`) is left out where several others have all its sources, and is never why another one is.
fn uncovered(blocks: Vec<Seen>) -> Vec<Arc<Entry>> {
    let mut groups: BTreeMap<(i64, Labels), Vec<Seen>> = BTreeMap::new();
    for block in blocks {
        groups.entry((block.0.resolution, block.0.external.clone())).or_default().push(block);
    }
    let mut out = Vec::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|(b, is_damaged)| (*is_damaged, std::cmp::Reverse(b.sources.len()), b.id));
        let mut kept: Vec<Arc<Entry>> = Vec::with_capacity(group.len());
        let mut with_source: HashMap<BlockId, Vec<usize>> = HashMap::new();
        for (block, is_damaged) in group {
            let is_covered = match block.sources.first() {
                Some(_) if is_damaged => block.sources.iter().all(|s| with_source.contains_key(s)),
                None => !kept.is_empty(),
                Some(first) => with_source.get(first).is_some_and(|holders| {
                    let holders = holders.iter().filter_map(|at| kept.get(*at));
                    holders.into_iter().any(|h| block.sources.iter().all(|s| h.sources.contains(s)))
                }),
            };
            if !is_covered {
                for source in block.sources.iter().filter(|_| !is_damaged) {
                    with_source.entry(*source).or_default().push(kept.len());
                }
                kept.push(block);
            }
        }
        out.append(&mut kept);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tsdb::BlockMeta;
    use tsdb::meta::{Thanos, UploadTime};

    const HOUR: i64 = 3_600_000;

    fn id(n: u128) -> BlockId {
        BlockId::from_parts(1_000_000, n)
    }

    fn entry(n: u128, change: impl FnOnce(&mut BlockMeta)) -> Arc<Entry> {
        let mut meta = BlockMeta::new(id(n), 0, HOUR);
        meta.thanos = Some(Thanos::default());
        change(&mut meta);
        Arc::new(Entry::new(&meta))
    }

    fn policy() -> Policy {
        let window = (i64::MIN, i64::MAX);
        Policy { window, selector: Selector::default(), consistency_delay: 0, deletion_delay: HOUR }
    }

    fn good(entry: &Arc<Entry>) -> Candidate<'_> {
        Candidate { entry, deletion_time: None, held: (false, false), problems: &[], is_damaged: false }
    }

    fn served(decision: &Decision) -> Vec<BlockId> {
        let mut ids: Vec<_> = decision.serve.iter().map(|e| e.id).collect();
        ids.sort();
        ids
    }

    #[test]
    fn each_step_counts_what_it_leaves_out() {
        let old = entry(1, |m| (m.min_time, m.max_time) = (-10 * HOUR, -9 * HOUR));
        let touching = entry(2, |m| (m.min_time, m.max_time) = (-2 * HOUR, -HOUR));
        let foreign = entry(3, |m| {
            m.thanos.as_mut().unwrap().labels.insert("cluster".into(), "b".into());
        });
        let fresh = entry(4, |m| m.thanos.as_mut().unwrap().upload_time = UploadTime::from_ms(10 * HOUR - 1));
        let made = entry(5, |m| {
            let thanos = m.thanos.as_mut().unwrap();
            (thanos.upload_time, thanos.source) = (UploadTime::from_ms(10 * HOUR), "compactor".into());
        });
        let (dead, dying, broken) = (entry(6, |_| ()), entry(7, |_| ()), entry(8, |_| ()));
        let missing = ["index is missing".to_owned()];
        let policy = Policy {
            window: (-HOUR, 5 * HOUR),
            selector: Selector::parse("- {action: drop, source_labels: [cluster], regex: b}").unwrap(),
            consistency_delay: HOUR,
            ..policy()
        };
        let now = 10 * HOUR;
        let candidates = [
            good(&old),
            good(&touching),
            good(&foreign),
            good(&fresh),
            good(&made),
            Candidate { deletion_time: Some((9 * HOUR) / 1000 - 1), ..good(&dead) },
            Candidate { deletion_time: Some((9 * HOUR) / 1000), held: (true, false), ..good(&dying) },
            Candidate { problems: &missing, ..good(&broken) },
        ];
        let decision = decide(candidates, &policy, now);
        assert_eq!(served(&decision), [id(2), id(5), id(7)]);
        assert_eq!((decision.missing[0].id, decision.missing[0].reason.as_str()), (id(8), "index is missing"));
        let expected = States {
            loaded: 3,
            time_excluded: 1,
            label_excluded: 1,
            too_fresh: 1,
            marked_for_deletion: 1,
            marked_for_no_compact: 1,
            damaged: 1,
            ..States::default()
        };
        assert_eq!(decision.states, expected);
    }

    #[test]
    fn a_damaged_block_covers_nothing() {
        let compacted = entry(9, |m| m.compaction.sources = vec![id(1), id(2)]);
        let (a, b) = (entry(1, |_| ()), entry(2, |_| ()));
        let whole = decide([good(&compacted), good(&a), good(&b)], &policy(), 0);
        assert_eq!((served(&whole), whole.states.duplicate), (vec![id(9)], 2));
        let problems = ["chunks/000001 is missing".to_owned()];
        let broken = Candidate { problems: &problems, ..good(&compacted) };
        assert_eq!(served(&decide([broken, good(&a), good(&b)], &policy(), 0)), [id(1), id(2)]);
        // Found damaged while it was served: not needed where its sources are, and all that there is where they are not.
        let found = || Candidate { is_damaged: true, ..good(&compacted) };
        assert_eq!(served(&decide([found(), good(&a), good(&b)], &policy(), 0)), [id(1), id(2)]);
        assert_eq!(served(&decide([found(), good(&b)], &policy(), 0)), [id(2), id(9)]);
        assert_eq!(served(&decide([found()], &policy(), 0)), [id(9)]);
        // A source that is damaged is not needed where it was compacted.
        let source = Candidate { is_damaged: true, ..good(&a) };
        assert_eq!(served(&decide([good(&compacted), source], &policy(), 0)), [id(9)]);
    }

    /// Thanos's rule, pair by pair.
    fn by_pairs(mut blocks: Vec<Arc<Entry>>) -> Vec<BlockId> {
        blocks.sort_by_key(|b| (std::cmp::Reverse(b.sources.len()), b.id));
        let mut kept: Vec<Arc<Entry>> = Vec::new();
        for block in blocks {
            if !kept.iter().any(|k| block.sources.iter().all(|s| k.sources.contains(s))) {
                kept.push(block);
            }
        }
        let mut ids: Vec<_> = kept.iter().map(|b| b.id).collect();
        ids.sort();
        ids
    }

    proptest! {
        #[test]
        fn covered_blocks_are_those_of_thanos(sources in prop::collection::vec(prop::collection::vec(0u128..12, 0..5), 0..40)) {
            let blocks: Vec<_> = sources
                .iter()
                .enumerate()
                .map(|(n, s)| entry(n as u128, |m| m.compaction.sources = s.iter().map(|s| id(*s)).collect()))
                .collect();
            let whole = blocks.iter().map(|b| (Arc::clone(b), false)).collect();
            let mut ours: Vec<_> = uncovered(whole).iter().map(|b| b.id).collect();
            ours.sort();
            prop_assert_eq!(ours, by_pairs(blocks));
        }
    }
}
