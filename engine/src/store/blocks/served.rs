//! What is served at one moment. It never changes; a request holds the one that it began with.

use super::Block;
use model::{BlockId, Labels};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A block that should be served and can't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its id.
    pub id: BlockId,
    /// Its external labels; none where meta.json can't be read.
    pub external: Option<Labels>,
    /// Begin of its time range in ms, inclusive; all time where meta.json can't be read.
    pub min_t: i64,
    /// End of its time range in ms, exclusive.
    pub max_t: i64,
    /// What is wrong, where.
    pub reason: String,
    /// Whether a request that wants all or nothing fails because of it. Not so where meta.json is none: it may never have been
    /// a block, nobody knows whose samples it has, and one upload that broke off must not fail every such request.
    pub strict: bool,
}

/// The blocks with the same external labels.
#[derive(Clone, Debug)]
pub struct Group {
    /// Their external labels.
    pub external: Labels,
    /// They, by begin of their time, then end, then id; all resolutions.
    pub blocks: Vec<Arc<Block>>,
}

/// A stretch of time for which there are blocks with these labels: what Info tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tsdb {
    /// External labels.
    pub external: Labels,
    /// Begin in ms, inclusive.
    pub min_t: i64,
    /// End in ms, exclusive.
    pub max_t: i64,
}

/// What is served at one moment.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// One more than that of the set before it; 0 before the first pass over the bucket.
    pub generation: u64,
    /// By external labels.
    pub groups: Vec<Group>,
    /// What should be there and is not, as far as the pass over the bucket has told; [`Block::trouble`] tells more.
    pub missing: Vec<Missing>,
}

impl Served {
    /// Puts blocks in order.
    pub fn new(generation: u64, blocks: impl IntoIterator<Item = Arc<Block>>, missing: Vec<Missing>) -> Self {
        let mut groups: BTreeMap<Labels, Vec<Arc<Block>>> = BTreeMap::new();
        for block in blocks {
            groups.entry(block.external.clone()).or_default().push(block);
        }
        let groups = groups.into_iter().map(|(external, mut blocks)| {
            blocks.sort_by_key(|b| (b.min_t, b.max_t, b.id));
            blocks.shrink_to_fit();
            Group { external, blocks }
        });
        Self { generation, groups: groups.collect(), missing }
    }

    /// All blocks.
    pub fn blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.groups.iter().flat_map(|g| &g.blocks)
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|g| g.blocks.len()).sum()
    }

    /// True if there is no block.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Begin and end of all blocks in ms, the end exclusive; none without blocks.
    pub fn range(&self) -> Option<(i64, i64)> {
        let begin = self.groups.iter().filter_map(|g| g.blocks.first()).map(|b| b.min_t).min()?;
        let end = self.blocks().map(|b| b.max_t).max()?;
        Some((begin, end))
    }

    /// The stretches of time that are covered, by external labels; blocks that touch are one stretch.
    pub fn tsdbs(&self) -> Vec<Tsdb> {
        let mut out: Vec<Tsdb> = Vec::new();
        for group in &self.groups {
            let first = out.len();
            for block in &group.blocks {
                match out.get_mut(first..).and_then(<[Tsdb]>::last_mut) {
                    Some(last) if block.min_t <= last.max_t => last.max_t = last.max_t.max(block.max_t),
                    _ => {
                        let (external, min_t, max_t) = (group.external.clone(), block.min_t, block.max_t);
                        out.push(Tsdb { external, min_t, max_t });
                    }
                }
            }
        }
        out
    }
}
