//! What can be wrong with the blocks of a bucket among themselves: pure, from what a listing gave.

use super::format::{duration, time};
use bucket::fetch::{Block, Reason, View};
use model::BlockId;
use std::collections::BTreeMap;
use std::fmt;
use tsdb::BlockMeta;

/// What is looked for. The first three are Thanos's issues, with its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Issue {
    /// What is wrong inside of blocks.
    #[value(name = "index_known_issues")]
    Index,
    /// Blocks of one stream with a time range in common.
    #[value(name = "overlapped_blocks")]
    Overlap,
    /// Blocks of one stream that were compacted twice.
    #[value(name = "duplicated_compaction")]
    Duplicate,
    /// Objects that make up no whole block.
    #[value(name = "partial_blocks")]
    Partial,
    /// Marks that can't be read and so mark nothing.
    #[value(name = "broken_marks")]
    Mark,
    /// Our catalogue and the bucket disagree.
    #[value(name = "catalogue")]
    Catalogue,
}

impl Issue {
    pub(super) const ALL: [Self; 6] =
        [Self::Index, Self::Overlap, Self::Duplicate, Self::Partial, Self::Mark, Self::Catalogue];
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "index_known_issues",
            Self::Overlap => "overlapped_blocks",
            Self::Duplicate => "duplicated_compaction",
            Self::Partial => "partial_blocks",
            Self::Mark => "broken_marks",
            Self::Catalogue => "catalogue",
        })
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) issue: Issue,
    /// The blocks that it is about; none for the whole bucket.
    pub(super) blocks: Vec<BlockId>,
    /// Odd, and harmless.
    pub(super) notice: bool,
    pub(super) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.issue)?;
        for id in &self.blocks {
            write!(f, " {id}")?;
        }
        write!(f, "{}: {}", if self.notice { " (notice)" } else { "" }, self.what)
    }
}

fn finding(issue: Issue, blocks: &[BlockId], what: String) -> Finding {
    Finding { issue, blocks: blocks.to_vec(), notice: false, what }
}

/// All that a listing shows.
pub(super) fn of(view: &View) -> Vec<Finding> {
    let mut all = Vec::new();
    for (id, partial) in &view.partial {
        let why = match &partial.reason {
            // As it should be.
            Reason::Closed if partial.objects <= 1 => continue,
            Reason::Closed => "its upload was cleared away, and something came late".to_owned(),
            Reason::NoMeta => "it has no meta.json: an upload that runs, or one that never ended".to_owned(),
            Reason::BrokenMeta(why) => format!("its meta.json can't be read: {why}"),
        };
        let since = time(partial.newest_ms);
        let what = format!("{} objects, {} bytes, the newest of {since}; {why}", partial.objects, partial.bytes);
        all.push(finding(Issue::Partial, &[*id], what));
        all.extend(partial.marks.broken.iter().map(|why| finding(Issue::Mark, &[*id], why.clone())));
    }
    for (id, block) in &view.blocks {
        all.extend(block.problems.iter().map(|what| finding(Issue::Partial, &[*id], what.clone())));
        all.extend(block.marks.broken.iter().map(|why| finding(Issue::Mark, &[*id], why.clone())));
    }
    all.extend(view.catalogue_problem.iter().map(|why| finding(Issue::Catalogue, &[], why.clone())));
    let mut streams: BTreeMap<String, Vec<&BlockMeta>> = BTreeMap::new();
    for Block { meta, marks, .. } in view.blocks.values() {
        // One that will be deleted may overlap its successor.
        if marks.deletion.is_none() {
            streams.entry(meta.group_key()).or_default().push(meta);
        }
    }
    for stream in streams.values() {
        all.extend(overlaps(stream));
        all.extend(duplicates(stream));
    }
    all
}

/// Runs of blocks in which each overlaps one before it.
fn overlaps(stream: &[&BlockMeta]) -> Vec<Finding> {
    let mut sorted = stream.to_vec();
    sorted.sort_by_key(|m| (m.min_time, m.max_time, m.id));
    let mut all = Vec::new();
    let mut run: Vec<&BlockMeta> = Vec::new();
    let mut end = i64::MIN;
    for meta in sorted {
        if meta.min_time >= end {
            all.extend(overlap(&run));
            run.clear();
        }
        end = end.max(meta.max_time);
        run.push(meta);
    }
    all.extend(overlap(&run));
    all
}

fn overlap(run: &[&BlockMeta]) -> Option<Finding> {
    let from = run.iter().skip(1).map(|m| m.min_time).min()?;
    let mut ends: Vec<i64> = run.iter().map(|m| m.max_time).collect();
    ends.sort_unstable();
    // The second-latest end: behind it there is one block only.
    let until = ends.iter().rev().nth(1).copied()?;
    let ids: Vec<BlockId> = run.iter().map(|m| m.id).collect();
    let what = format!(
        "{} blocks of {} overlap within {} – {} ({}); vertical compaction merges them, or mark those that are superseded",
        run.len(),
        stream_name(run.first()?),
        time(from),
        time(until),
        duration(until.saturating_sub(from)),
    );
    Some(finding(Issue::Overlap, &ids, what))
}

/// Blocks with the same range, level, sources and counts.
fn duplicates(stream: &[&BlockMeta]) -> Vec<Finding> {
    let mut left = stream.to_vec();
    let mut all = Vec::new();
    while let Some(first) = left.first().copied() {
        let same = |m: &BlockMeta| {
            (m.min_time, m.max_time) == (first.min_time, first.max_time)
                && m.compaction.level == first.compaction.level
                && sources(m) == sources(first)
                && m.stats == first.stats
        };
        let (twins, others): (Vec<&BlockMeta>, Vec<&BlockMeta>) = left.iter().partition(|m| same(m));
        if twins.len() > 1 {
            let ids: Vec<BlockId> = twins.iter().map(|m| m.id).collect();
            let what = format!(
                "{} blocks of {} were made of the same blocks: keep one and mark the others with deletion-mark.json",
                twins.len(),
                stream_name(first),
            );
            all.push(finding(Issue::Duplicate, &ids, what));
        }
        left = others;
    }
    all
}

fn sources(meta: &BlockMeta) -> Vec<BlockId> {
    let mut all = meta.compaction.sources.clone();
    all.sort_unstable();
    all
}

fn stream_name(meta: &BlockMeta) -> String {
    format!("{} at resolution {}", meta.labels(), duration(meta.resolution()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(id: char, min: i64, max: i64, sources: &str) -> BlockMeta {
        let sources: Vec<String> = sources.chars().map(|c| format!("\"01ARZ3NDEKTSV4RRFFQ69G5FA{c}\"")).collect();
        let text = format!(
            r#"{{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FA{id}","minTime":{min},"maxTime":{max},"version":1,
            "compaction":{{"level":2,"sources":[{}]}},"thanos":{{"labels":{{"cluster":"prod"}}}}}}"#,
            sources.join(",")
        );
        BlockMeta::read("meta.json", text.as_bytes()).unwrap()
    }

    #[test]
    fn overlaps_are_runs_and_neighbours_are_none() {
        let all = [meta('1', 0, 10, "1"), meta('2', 10, 20, "2"), meta('3', 15, 30, "3"), meta('4', 18, 19, "4")];
        let all: Vec<&BlockMeta> = all.iter().collect();
        let found = overlaps(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].blocks.len(), 3);
        assert!(
            found[0].what.contains("3 blocks of {cluster=\"prod\"}") && found[0].what.contains("(5ms)"),
            "{}",
            found[0]
        );
        assert!(overlaps(&all[..2]).is_empty());
    }

    #[test]
    fn duplicates_have_the_same_sources() {
        let all = [meta('1', 0, 10, "89"), meta('2', 0, 10, "98"), meta('3', 0, 10, "87")];
        let all: Vec<&BlockMeta> = all.iter().collect();
        let found = duplicates(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].blocks, [all[0].id, all[1].id]);
    }
}
