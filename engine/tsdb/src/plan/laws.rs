//! The laws of a plan, checked by code that shares nothing with the planner: what an executor asks before it acts, and what
//! random buckets in tests are judged by.

use super::{Action, Block, Plan, Settings, Snapshot, Why};
use crate::marks::reason;
use model::{BlockId, Labels};
use std::collections::{BTreeMap, BTreeSet};

/// A plan that breaks a law. It must not be done; it is a mistake in the planner, or the bucket has changed since.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("the plan breaks the law \"{law}\" with block {block}; nothing is done, please report it with the plan")]
pub struct Broken {
    /// The law.
    pub law: &'static str,
    /// A block that it is broken with; zero if none in particular.
    pub block: BlockId,
}

/// What the plan does, by kinds.
#[derive(Default)]
struct Done {
    deleted: BTreeSet<BlockId>,
    marked: BTreeSet<BlockId>,
}

struct Judge<'a> {
    bucket: &'a Snapshot,
    now: i64,
    settings: &'a Settings,
    done: Done,
    broken: Vec<Broken>,
    /// Blocks by each of their sources, and by stream; what sound blocks of each coarser resolution that stay hold. So that a
    /// large bucket is judged in about one walk.
    by_source: BTreeMap<BlockId, Vec<&'a Block>>,
    streams: BTreeMap<(i64, Labels), Vec<&'a Block>>,
    copies: BTreeMap<i64, BTreeSet<BlockId>>,
}

/// All laws that a plan breaks, for the bucket and the time that it was made for.
pub fn check(bucket: &Snapshot, now: i64, settings: &Settings, plan: &Plan) -> Vec<Broken> {
    let mut done = Done::default();
    for item in &plan.items {
        match &item.action {
            Action::Delete(id) => drop(done.deleted.insert(*id)),
            Action::MarkForDeletion(id) => drop(done.marked.insert(*id)),
            Action::Compact(_) | Action::MarkNoCompact(..) | Action::Downsample(..) => {}
        }
    }
    let (by_source, streams, copies) = Default::default();
    let mut judge = Judge { bucket, now, settings, done, broken: Vec::new(), by_source, streams, copies };
    judge.index();
    judge.once(plan);
    for item in &plan.items {
        match &item.action {
            Action::Delete(id) => judge.deletion(*id),
            Action::MarkForDeletion(id) => judge.mark(*id, &item.why),
            Action::MarkNoCompact(id, _) => judge.law("only a block of the bucket is marked", *id, judge.exists(*id)),
            Action::Compact(c) => judge.compaction(&c.blocks),
            Action::Downsample(id, to) => judge.downsampling(*id, to, &item.why),
        }
    }
    judge.broken.sort();
    judge.broken
}

impl<'a> Judge<'a> {
    fn law(&mut self, law: &'static str, block: BlockId, holds: bool) {
        if !holds {
            self.broken.push(Broken { law, block });
        }
    }

    fn index(&mut self) {
        for block in self.bucket.blocks.values() {
            for source in sources(block) {
                self.by_source.entry(source).or_default().push(block);
            }
            let stream = (block.meta.resolution(), labels(block, &self.settings.replica_labels));
            self.streams.entry(stream).or_default().push(block);
        }
        for resolution in [300_000, 3_600_000] {
            // A copy that is superseded lives on in its successor.
            let stays = |b: &&Block| {
                b.meta.resolution() == resolution
                    && sound(b)
                    && !self.expired(b, resolution)
                    && !self.done.deleted.contains(&b.meta.id)
            };
            let copies = self.bucket.blocks.values().filter(stays).flat_map(sources).collect();
            self.copies.insert(resolution, copies);
        }
    }

    fn exists(&self, id: BlockId) -> bool {
        self.bucket.blocks.contains_key(&id)
    }

    fn once(&mut self, plan: &Plan) {
        let mut seen = BTreeSet::new();
        for id in plan.items.iter().flat_map(|i| i.action.blocks()) {
            let first = seen.insert(*id);
            self.law("a block is in one item at most", *id, first);
        }
        let idle = self.bucket.complete || plan.items.is_empty();
        self.law("nothing is decided of an incomplete view", BlockId::default(), idle);
        for id in seen {
            if let Some(block) = self.bucket.blocks.get(&id).filter(|b| b.marks.deletion.is_none()) {
                let thanos = block.meta.thanos.as_ref();
                let by_compactor =
                    thanos.is_some_and(|t| t.source.starts_with("compactor") || t.source == "bucket.repair");
                let uploaded = thanos.and_then(|t| t.upload_time.ms()).unwrap_or(id.time_ms() as i64);
                let old = self.now.saturating_sub(uploaded) >= self.settings.consistency_delay;
                self.law("a block that others may not see whole is let alone", id, by_compactor || old);
            }
        }
    }

    fn deletion(&mut self, id: BlockId) {
        let (block, partial) = (self.bucket.blocks.get(&id), self.bucket.partial.get(&id));
        let mark = block.and_then(|b| b.marks.deletion.as_ref()).or(partial.and_then(|p| p.deletion.as_ref()));
        let old = |since: i64, delay: i64| self.now.saturating_sub(since) > delay;
        let allowed = match (block, partial, mark) {
            (Some(_), _, Some(mark)) => old(mark.deletion_time.saturating_mul(1000), self.settings.delete_delay),
            (None, Some(p), Some(mark)) => {
                !p.claimed && old(mark.deletion_time.saturating_mul(1000), self.settings.delete_delay)
            }
            (None, Some(p), None) => {
                !p.claimed && old(p.newest_ms.unwrap_or(id.time_ms() as i64), self.settings.partial_age)
            }
            _ => false,
        };
        self.law("only what was marked long ago, or broke off long ago, is deleted", id, allowed);
        if let Some(block) = block
            && mark.is_some_and(|m| m.details.starts_with("source of") || m.details.starts_with("outdated"))
        {
            let holds = self.expired(block, block.meta.resolution()) || self.successor(block, false);
            self.law("what was superseded is deleted only while its successor is there", id, holds);
        }
    }

    /// Whether another block of the resolution holds its sources and time, soundly; with `stays`, and is not touched by this plan
    /// in a way that takes it away.
    fn successor(&self, block: &Block, stays: bool) -> bool {
        let wanted: BTreeSet<BlockId> = sources(block);
        let holders = wanted.first().and_then(|first| self.by_source.get(first));
        holders.into_iter().flatten().any(|other| {
            let id = other.meta.id;
            id != block.meta.id
                && sound(other)
                && !(stays
                    && (self.done.deleted.contains(&id) || self.done.marked.contains(&id) && !self.goes_on(other)))
                && other.meta.resolution() == block.meta.resolution()
                && other.meta.min_time <= block.meta.min_time
                && other.meta.max_time >= block.meta.max_time
                && wanted.is_subset(&sources(other))
        })
    }

    /// Whether what is marked in this plan goes by retention, so that what it supersedes is as old and may go, too.
    fn goes_on(&self, block: &Block) -> bool {
        self.expired(block, block.meta.resolution())
    }

    fn expired(&self, block: &Block, resolution: i64) -> bool {
        let (r, own) = (&self.settings.retention, block.meta.labels());
        if self.settings.retention_labels.iter().any(|(n, v)| own.value(n) != v) {
            return false;
        }
        let keep = [(0, r.raw), (300_000, r.five_minutes), (3_600_000, r.one_hour)]
            .into_iter()
            .find_map(|(of, keep)| (of == resolution).then_some(keep))
            .unwrap_or(0);
        keep != 0 && self.now.saturating_sub(keep) > block.meta.max_time.saturating_sub(block.meta.max_time % 1000)
    }

    fn mark(&mut self, id: BlockId, why: &Why) {
        let Some(block) = self.bucket.blocks.get(&id) else {
            return self.law("only a block of the bucket is marked", id, false);
        };
        self.law("a block is marked for deletion once", id, block.marks.deletion.is_none());
        match why {
            Why::Superseded { .. } => {
                let holds = self.successor(block, true);
                self.law("a block is superseded only by a sound one that stays and holds all of it", id, holds);
            }
            Why::Retention { .. } => {
                let resolution = block.meta.resolution();
                self.law("only what is too old is dropped by retention", id, self.expired(block, resolution));
                let coarser: Vec<i64> = [300_000, 3_600_000].into_iter().filter(|r| *r > resolution).collect();
                let kept = coarser.iter().any(|r| !self.expired(block, *r));
                let by_hand = block.marks.no_downsample.as_ref().is_some_and(|m| m.reason == reason::MANUAL);
                let copied = coarser.iter().any(|r| self.copied(block, *r));
                let holds = !self.settings.downsample || !kept || by_hand || copied;
                self.law("retention drops nothing that has no coarser copy", id, holds);
            }
            _ => self.law("a block is marked because it is too old or superseded", id, false),
        }
    }

    /// Whether every source is in a sound block of the resolution that this plan does not take away.
    fn copied(&self, block: &Block, resolution: i64) -> bool {
        self.copies.get(&resolution).is_some_and(|copies| sources(block).is_subset(copies))
    }

    fn compaction(&mut self, ids: &[BlockId]) {
        let (bucket, settings): (&'a Snapshot, &'a Settings) = (self.bucket, self.settings);
        let blocks: Vec<&Block> = ids.iter().filter_map(|id| bucket.blocks.get(id)).collect();
        let Some(first) = blocks.first().copied() else {
            return self.law("blocks of the bucket are compacted", BlockId::default(), false);
        };
        self.law("blocks of the bucket are compacted", first.meta.id, blocks.len() == ids.len());
        let replicas = &settings.replica_labels;
        let stream = |b: &Block| (b.meta.resolution(), labels(b, replicas));
        let of_first = stream(first);
        let peers: Vec<&Block> = self.streams.get(&of_first).cloned().unwrap_or_default();
        for block in &blocks {
            let id = block.meta.id;
            let same = stream(block) == of_first;
            self.law("blocks of one stream are compacted", id, same);
            self.law("what is marked for deletion is not compacted", id, block.marks.deletion.is_none());
            self.law("what is marked no-compact is not compacted", id, block.marks.no_compact.is_none());
            self.law("what is damaged is not compacted", id, block.problems.is_empty());
        }
        let mut times: Vec<(i64, i64)> = blocks.iter().map(|b| (b.meta.min_time, b.meta.max_time)).collect();
        times.sort_unstable();
        // If any two overlap, so do two neighbours.
        let overlap = times.iter().zip(times.iter().skip(1)).any(|(a, b)| b.0 < a.1 && a.0 < b.1);
        self.law("blocks that overlap are merged only on request", first.meta.id, !overlap || self.settings.merge);
        self.law("downsampled blocks that overlap are not merged", first.meta.id, !overlap || of_first.0 == 0);
        if !overlap {
            let mut seen = BTreeMap::new();
            for source in blocks.iter().flat_map(|b| sources(b).into_iter().map(|s| (s, b.meta.id))) {
                let twice = seen.insert(source.0, source.1).is_some();
                self.law("no source is compacted twice", source.1, !twice);
            }
            let newest = peers.iter().map(|b| (b.meta.min_time, b.meta.id)).max();
            let waits = newest.is_none_or(|(_, id)| !ids.contains(&id));
            self.law("the newest block waits", newest.map_or(first.meta.id, |(_, id)| id), waits);
        }
        let (Some(min), Some(max)) =
            (blocks.iter().map(|b| b.meta.min_time).min(), blocks.iter().map(|b| b.meta.max_time).max())
        else {
            return;
        };
        if blocks.len() > 1 && !overlap {
            let fits = self.settings.ranges.iter().any(|r| min.div_euclid(*r) == max.saturating_sub(1).div_euclid(*r));
            self.law("a compacted block lies in one window", first.meta.id, fits);
        }
        for other in peers {
            let id = other.meta.id;
            let free = ids.contains(&id)
                || other.marks.deletion.is_some()
                || self.done.marked.contains(&id)
                || other.meta.max_time <= min
                || other.meta.min_time >= max
                || (self.settings.merge && sound(other));
            self.law("a compacted block overlaps nothing that stays", id, free);
        }
        let sizes: Option<u64> = blocks.iter().map(|b| index_size(b)).sum();
        let fits = sizes.is_some_and(|s| (s as f64) < self.settings.max_index_bytes as f64 * 0.85);
        self.law("the index of a compacted block stays below the limit", first.meta.id, fits);
    }

    fn downsampling(&mut self, id: BlockId, to: &[i64], why: &Why) {
        let Some(block) = self.bucket.blocks.get(&id) else {
            return self.law("blocks of the bucket are downsampled", id, false);
        };
        let (resolution, width) = (block.meta.resolution(), block.meta.max_time.saturating_sub(block.meta.min_time));
        let sound = sound(block) && block.marks.no_downsample.is_none();
        self.law("only sound blocks without marks are downsampled", id, sound);
        self.law("downsampling is wished", id, self.settings.downsample);
        self.law("something is made", id, !to.is_empty());
        let hours = |n: i64| n * 3_600_000;
        for target in to {
            let known = matches!(target, 300_000 | 3_600_000) && *target > resolution;
            self.law("a coarser block is made of a finer one", id, known);
            let expires = matches!(why, Why::BeforeRetention { .. }) && self.expired(block, resolution);
            let wide = width >= hours(if resolution == 0 && *target == 300_000 { 40 } else { 240 });
            self.law("blocks are downsampled when they are wide or about to go", id, wide || expires);
            self.law("no second copy is made", id, !self.copied(block, *target));
            self.law("what would be too old is not made", id, !self.expired(block, *target));
        }
    }
}

fn labels(block: &Block, replicas: &[String]) -> Labels {
    let rest = Labels::from_pairs(block.meta.labels().iter().filter(|(n, _)| !replicas.iter().any(|r| r == n)));
    match replicas.first() {
        Some(first) if rest.is_empty() => Labels::from_pairs([(first.as_str(), "deduped")]),
        _ => rest,
    }
}

fn sound(block: &Block) -> bool {
    block.marks.deletion.is_none() && block.problems.is_empty()
}

fn sources(block: &Block) -> BTreeSet<BlockId> {
    let told: BTreeSet<BlockId> = block.meta.compaction.sources.iter().copied().collect();
    if told.is_empty() { BTreeSet::from([block.meta.id]) } else { told }
}

fn index_size(block: &Block) -> Option<u64> {
    let files = block.meta.thanos.as_ref().map(|t| t.files.as_slice()).unwrap_or_default();
    let told = files.iter().find(|f| f.rel_path == "index" && f.size_bytes != 0).map(|f| f.size_bytes);
    told.or(block.index_bytes)
}
