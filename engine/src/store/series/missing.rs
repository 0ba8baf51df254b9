//! What an answer lacks, in words: each block once, a bounded number of them.

use super::fault::Fault;
use crate::store::Trouble;
use crate::store::blocks::{Block, Missing, Served, Set};
use crate::store::limits::Refused;
use crate::storeapi::external;
use model::{BlockId, Labels, Matcher};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

/// Most blocks that one answer names.
const MOST: usize = 24;

/// What one answer lacks.
#[derive(Debug, Default)]
pub struct Lacks {
    told: BTreeSet<BlockId>,
    fresh: Vec<String>,
    more: usize,
}

impl Lacks {
    /// A block is missing, or a part of it.
    pub fn block(&mut self, block: &Block, reason: &str) {
        let external = Some(&block.external);
        self.note(block.id, external, (block.min_t, block.max_t), reason);
    }

    /// All that is missing of what is served and touches a request, which wants all or nothing if it is `strict`.
    pub fn served(&mut self, served: &Served, (min_t, max_t): (i64, i64), matchers: &[Matcher], strict: bool) {
        for m in served.missing.iter().filter(|m| m.min_t <= max_t && min_t < m.max_t && (m.strict || !strict)) {
            if m.external.as_ref().is_none_or(|l| external::touches(l, matchers)) {
                let Missing { id, external, min_t, max_t, reason, .. } = m;
                self.note(*id, external.as_ref(), (*min_t, *max_t), reason);
            }
        }
    }

    /// Blocks that can't be read: what to do about each. Gives the set to go on with; what is in `excluded` then is left out.
    ///
    /// # Errors
    /// When a limit was the reason.
    pub async fn around(
        &mut self,
        set: &Set,
        mut served: Arc<Served>,
        troubles: Vec<(Arc<Block>, Trouble)>,
        excluded: &mut BTreeSet<BlockId>,
    ) -> Result<Arc<Served>, Fault> {
        // All of them were in this one: a newer one that lacks them is news for each. And all are asked for at once, so that
        // many sources that one compaction took away are one look.
        let seen = Arc::clone(&served);
        let news = troubles.into_iter().map(|(block, trouble)| async {
            let news = match &trouble {
                Trouble::Gone(_) => set.gone(&block, &seen).await,
                _ => Ok(Arc::clone(&seen)),
            };
            (block, trouble, news)
        });
        let news = futures::future::join_all(news).await;
        for now in news.iter().filter_map(|(_, _, news)| news.as_ref().ok()) {
            if now.generation > served.generation {
                served = Arc::clone(now);
            }
        }
        for (block, trouble, news) in news {
            let reason = match trouble {
                Trouble::Gone(what) => match news {
                    Ok(_) => {
                        let found = served.blocks().find(|b| b.id == block.id).map(|b| b.trouble());
                        match found {
                            // Deleted: what took its place is served, if anything did.
                            None => continue,
                            Some(found) => found.unwrap_or(what),
                        }
                    }
                    Err(trouble) => trouble.to_string(),
                },
                Trouble::Damaged(what) => {
                    // One that can't be used at all knows that itself.
                    if block.trouble().is_none() {
                        block.flawed(&what);
                    }
                    what
                }
                Trouble::Unavailable(what) => what,
                Trouble::OverBudget { limit } => return Err(Refused::Bytes(limit).into()),
            };
            excluded.insert(block.id);
            self.block(&block, &reason);
        }
        Ok(served)
    }

    fn note(&mut self, id: BlockId, external: Option<&Labels>, (min_t, max_t): (i64, i64), reason: &str) {
        if !self.told.insert(id) {
            return;
        }
        if self.told.len() > MOST {
            self.more += 1;
            return;
        }
        let mut text = format!("block {id}");
        if let Some(external) = external {
            let _infallible = write!(text, " of {external}");
        }
        if let (Ok(from), Ok(to)) = (jiff::Timestamp::from_millisecond(min_t), jiff::Timestamp::from_millisecond(max_t))
        {
            let _infallible = write!(text, " from {from} to {to}");
        }
        let _infallible = write!(text, " is missing: {reason}");
        self.fresh.push(text);
    }

    /// What was noted since the last call.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// What is said at the end of those that were not named.
    pub fn rest(&self) -> Option<String> {
        (self.more > 0).then(|| format!("{} more blocks are missing: see the list of blocks of this store", self.more))
    }
}
