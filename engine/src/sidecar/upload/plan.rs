//! Which local block goes to the bucket next, and why the others don't. Decides only; nothing is read or written here.

use super::local::{Bad, Local};
use args::state::{SkipReason, SkippedBlock};
use model::BlockId;
use std::collections::{BTreeMap, BTreeSet};

/// What is known besides the local blocks.
pub(super) struct Known<'a> {
    /// Blocks that are in the bucket, or were there once.
    pub(super) committed: &'a BTreeSet<BlockId>,
    /// Blocks that the progress file claims to be there; the bucket was not asked yet.
    pub(super) claims: &'a BTreeSet<BlockId>,
    /// Blocks that were looked into and found bad.
    pub(super) bad: &'a BTreeMap<BlockId, Bad>,
    /// Those of them that are to be looked into again.
    pub(super) due: &'a BTreeSet<BlockId>,
    /// Blocks that Prometheus has compacted are uploaded, too (`--shipper.upload-compacted`).
    pub(super) upload_compacted: bool,
}

/// What is to be done, and what is to be told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What to upload, in this order: oldest time first, as Thanos does.
    pub(super) next: Vec<BlockId>,
    /// Skipped blocks that are to be looked into again, after the others.
    pub(super) again: Vec<BlockId>,
    /// Local blocks that need no upload any more: what the progress file lists.
    pub(super) done: BTreeSet<BlockId>,
    /// Local blocks that may be there: what the progress file remembers, until the bucket was asked.
    pub(super) claimed: BTreeSet<BlockId>,
    /// Blocks that are left out until someone acts, oldest id first.
    pub(super) skipped: Vec<SkippedBlock>,
    /// End of the oldest block that waits, in ms.
    pub(super) oldest_end: Option<i64>,
}

/// Plans one pass.
pub(super) fn plan(local: &[Local], known: &Known<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut waiting = Vec::new();
    // Prometheus may be stopped before it has deleted what it compacted.
    let archived = local.iter().filter(|b| known.committed.contains(&b.id)).filter_map(|b| b.facts.as_ref().ok());
    let within: BTreeSet<&BlockId> = archived.flat_map(|facts| &facts.sources).collect();
    for block in local {
        let id = block.id;
        let facts = match (&block.facts, known.bad.get(&id)) {
            _ if known.committed.contains(&id) || within.contains(&id) => {
                plan.done.insert(id);
                continue;
            }
            (Err(bad), _) | (_, Some(bad)) => {
                plan.again.extend(known.due.contains(&id).then_some(id));
                plan.skipped.push(SkippedBlock { block: id.to_string(), reason: bad.reason, message: told(bad) });
                continue;
            }
            (Ok(facts), None) => facts,
        };
        if facts.empty {
            // Nothing to upload. Prometheus may compact it.
            plan.done.insert(id);
        } else if facts.level <= 1 {
            waiting.push((facts.min_time, facts.max_time, id));
        } else {
            // Compacted by Prometheus: what it was made of has been uploaded before, or is not wanted.
            let covered = !facts.sources.is_empty() && facts.sources.iter().all(|s| known.committed.contains(s));
            if known.upload_compacted && !covered {
                waiting.push((facts.min_time, facts.max_time, id));
            }
        }
    }
    plan.claimed =
        local.iter().map(|b| b.id).filter(|id| known.claims.contains(id) && !plan.done.contains(id)).collect();
    waiting.sort_unstable();
    plan.oldest_end = waiting.iter().map(|w| w.1).min();
    plan.next = waiting.into_iter().map(|w| w.2).collect();
    plan
}

/// Prometheus compacts in the order of time, and stops at the first block that the progress file does not list.
fn told(bad: &Bad) -> String {
    match bad.reason {
        SkipReason::Overlaps => bad.message.clone(),
        _ => format!("{}; until it is gone from here, Prometheus compacts no newer block on disk", bad.message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::local::Facts;
    use super::*;

    fn id(n: u64) -> BlockId {
        BlockId::from_parts(n, 1)
    }

    fn block(n: u64, min_time: i64, level: i64, sources: &[u64]) -> Local {
        let sources = sources.iter().map(|s| id(*s)).collect();
        Local { id: id(n), facts: Ok(Facts { min_time, max_time: min_time + 10, level, sources, empty: false }) }
    }

    fn run(local: &[Local], committed: &[u64], upload_compacted: bool) -> Plan {
        let committed = committed.iter().map(|n| id(*n)).collect();
        let (claims, bad) = (BTreeSet::from([id(1), id(99)]), BTreeMap::new());
        let due = BTreeSet::new();
        plan(local, &Known { committed: &committed, claims: &claims, bad: &bad, due: &due, upload_compacted })
    }

    #[test]
    fn oldest_time_first_and_nothing_twice() {
        let local = [block(1, 30, 1, &[]), block(2, 10, 1, &[]), block(3, 20, 1, &[])];
        let plan = run(&local, &[3], false);
        assert_eq!(plan.next, [id(2), id(1)]);
        assert_eq!((plan.done, plan.oldest_end), (BTreeSet::from([id(3)]), Some(20)));
        assert_eq!(plan.claimed, BTreeSet::from([id(1)]), "of the blocks on disk");
        let plan = run(&local, &[1, 2, 3], false);
        assert!(plan.next.is_empty() && plan.oldest_end.is_none() && plan.claimed.is_empty());
    }

    #[test]
    fn a_bad_block_holds_up_nobody() {
        let bad = |n: u64| Bad { reason: SkipReason::Damaged, message: format!("block {n} is damaged") };
        let mut local = vec![block(1, 10, 1, &[]), block(2, 20, 1, &[]), block(3, 30, 1, &[])];
        local[0].facts = Err(bad(1));
        let found = BTreeMap::from([(id(2), bad(2))]);
        let committed = BTreeSet::new();
        let due = BTreeSet::from([id(2)]);
        let known =
            Known { committed: &committed, claims: &committed, bad: &found, due: &due, upload_compacted: false };
        let plan = plan(&local, &known);
        assert_eq!(plan.again, [id(2)], "looked into again, and told as it is until then");
        assert_eq!(plan.next, [id(3)]);
        let messages: Vec<&str> = plan.skipped.iter().map(|s| s.message.as_str()).collect();
        assert!(messages[0].starts_with("block 1 is damaged;") && messages[1].starts_with("block 2 is damaged;"));
        assert!(messages[0].ends_with("Prometheus compacts no newer block on disk"), "{messages:?}");
        assert_eq!(plan.oldest_end, Some(40), "what waits for a person is not late");
    }

    #[test]
    fn compacted_blocks_only_on_request_and_never_what_is_there_in_parts() {
        let local = [block(5, 0, 2, &[1, 2]), block(6, 20, 2, &[3, 4]), block(7, 40, 1, &[7])];
        assert_eq!(run(&local, &[1, 2], false).next, [id(7)]);
        assert_eq!(run(&local, &[1, 2], true).next, [id(6), id(7)]);
        assert_eq!(run(&local, &[1, 2, 3], true).next, [id(6), id(7)], "half of it is missing in the bucket");
        assert!(!run(&local, &[1, 2], true).done.contains(&id(5)), "Prometheus does not ask for compacted blocks");
    }

    #[test]
    fn what_is_there_within_a_compacted_block_is_done() {
        let local = [block(1, 0, 1, &[1]), block(2, 10, 1, &[2]), block(5, 0, 2, &[1, 2])];
        let plan = run(&local, &[5], true);
        assert!(plan.next.is_empty(), "{plan:?}");
        assert_eq!(plan.done, BTreeSet::from([id(1), id(2), id(5)]));
    }

    #[test]
    fn an_empty_block_is_done() {
        let mut local = [block(1, 0, 1, &[])];
        local[0].facts.as_mut().unwrap().empty = true;
        let plan = run(&local, &[], false);
        assert!(plan.next.is_empty() && plan.done.contains(&id(1)));
    }
}
