//! What is known of blocks and a bucket: built from the catalogue and from what the progress file claims, kept in memory.

use super::local::Bad;
use bucket::catalogue::Stage;
use model::BlockId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// After so long a bad block is looked at again: disks recover, people repair.
const RECHECK: Duration = Duration::from_secs(3600);

/// What is known with respect to one bucket.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Blocks that are in the bucket, or were there once.
    pub(super) committed: BTreeSet<BlockId>,
    /// Blocks of which objects may be in the bucket: it is looked at before anything is sent.
    tried: BTreeSet<BlockId>,
    /// Blocks that may have been whole in the bucket, and compacted and deleted there since.
    doubtful: BTreeSet<BlockId>,
    /// Blocks that the progress file claims to be there; the bucket was not asked yet.
    pub(super) claims: BTreeSet<BlockId>,
    /// Blocks that were found bad.
    pub(super) bad: BTreeMap<BlockId, Bad>,
    /// Those of them that were found so long ago that they are looked into again.
    pub(super) due: BTreeSet<BlockId>,
    found: BTreeMap<BlockId, Duration>,
}

impl Ledger {
    /// From the catalogue's entries of this producer, and what the progress file claims.
    pub(super) fn new(own: BTreeMap<BlockId, Stage>, claims: BTreeSet<BlockId>) -> Self {
        let of = |stage: Stage| own.iter().filter(move |e| *e.1 == stage).map(|e| *e.0).collect::<BTreeSet<_>>();
        let committed = of(Stage::Commit);
        let claims: BTreeSet<BlockId> = claims.difference(&committed).copied().collect();
        let tried: BTreeSet<BlockId> = of(Stage::Intent).union(&claims).copied().collect();
        Self { doubtful: tried.clone(), tried, claims, committed, ..Self::default() }
    }

    /// Objects of it may be in the bucket.
    pub(super) fn tried(&self, id: BlockId) -> bool {
        self.tried.contains(&id)
    }

    /// It may have been whole in the bucket: a file or an intent says so, and no commit.
    pub(super) fn doubtful(&self, id: BlockId) -> bool {
        self.doubtful.contains(&id)
    }

    /// An attempt has begun: objects of it may be there.
    pub(super) fn attempt(&mut self, id: BlockId) {
        self.tried.insert(id);
    }

    /// Its meta.json may have been written.
    pub(super) fn doubt(&mut self, id: BlockId) {
        self.doubtful.insert(id);
    }

    /// The bucket was asked: it is not there, neither as itself nor within another block.
    pub(super) fn absent(&mut self, id: BlockId) {
        self.doubtful.remove(&id);
        self.claims.remove(&id);
    }

    /// It is there.
    pub(super) fn commit(&mut self, id: BlockId) {
        self.committed.insert(id);
        self.tried.remove(&id);
        self.doubtful.remove(&id);
        self.claims.remove(&id);
        self.good(id);
    }

    /// It was found bad.
    pub(super) fn bad(&mut self, id: BlockId, bad: Bad, now: Duration) {
        self.found.insert(id, now);
        self.due.remove(&id);
        self.bad.insert(id, bad);
    }

    /// Forgets what has vanished from disk. Bad findings that are old are due to be looked into again, and stand until then.
    pub(super) fn forget(&mut self, local: &BTreeSet<BlockId>, now: Duration) {
        self.found.retain(|id, _| local.contains(id));
        self.bad.retain(|id, _| local.contains(id));
        let old = self.found.iter().filter(|(_, at)| now.saturating_sub(**at) >= RECHECK);
        self.due = old.map(|(id, _)| *id).collect();
    }

    /// A block that was bad can be taken, or is gone.
    pub(super) fn good(&mut self, id: BlockId) {
        self.bad.remove(&id);
        self.due.remove(&id);
        self.found.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::state::SkipReason;

    fn id(n: u64) -> BlockId {
        BlockId::from_parts(n, 1)
    }

    #[test]
    fn the_catalogue_is_believed_and_the_file_is_not() {
        let own = BTreeMap::from([(id(1), Stage::Commit), (id(2), Stage::Intent)]);
        let mut ledger = Ledger::new(own, BTreeSet::from([id(1), id(2), id(3)]));
        assert_eq!(ledger.committed, BTreeSet::from([id(1)]));
        let which = |f: &dyn Fn(BlockId) -> bool| (1..=4).filter(|n| f(id(*n))).collect::<Vec<_>>();
        assert_eq!(which(&|id| ledger.tried(id) && ledger.doubtful(id)), [2, 3]);
        assert_eq!(ledger.claims, BTreeSet::from([id(2), id(3)]));
        ledger.commit(id(3));
        ledger.absent(id(2));
        ledger.attempt(id(4));
        assert_eq!(which(&|id| ledger.tried(id)), [2, 4], "an attempt of ours is looked for");
        assert_eq!(which(&|id| ledger.doubtful(id) || ledger.claims.contains(&id)), [0; 0]);
        ledger.doubt(id(4));
        assert_eq!(which(&|id| ledger.doubtful(id)), [4]);
    }

    #[test]
    fn bad_findings_grow_old() {
        let bad = Bad { reason: SkipReason::Damaged, message: "m".into() };
        let mut ledger = Ledger::default();
        ledger.bad(id(1), bad.clone(), Duration::ZERO);
        ledger.bad(id(2), bad, Duration::ZERO);
        ledger.forget(&BTreeSet::from([id(1)]), Duration::from_secs(60));
        assert_eq!((ledger.bad.keys().copied().collect::<Vec<_>>(), ledger.due.len()), (vec![id(1)], 0));
        ledger.forget(&BTreeSet::from([id(1)]), RECHECK);
        assert_eq!(
            (ledger.bad.len(), ledger.due.clone()),
            (1, BTreeSet::from([id(1)])),
            "it stands until it was looked at"
        );
        ledger.bad(id(1), Bad { reason: SkipReason::Damaged, message: "m".into() }, RECHECK);
        ledger.forget(&BTreeSet::from([id(1)]), RECHECK);
        assert!(ledger.due.is_empty());
        ledger.good(id(1));
        assert!(ledger.bad.is_empty());
    }
}
