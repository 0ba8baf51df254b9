//! What is wrong with a block, and where.
//!
//! Knows what Thanos's index health knows (chunks and labels out of order, duplicates, chunks outside of the block's time)
//! and checks every checksum, every reference, and what `meta.json` says of the files. Memory: 4 bytes per series, 1 MiB of
//! a segment, and the problems told; the index is mapped, and its pages are given back as they were read; segments are not.

mod chunks;
mod files;
mod index;
#[cfg(test)]
mod tests;

use crate::disk::Disk;
use crate::error::Error;
use model::Labels;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// How a block is checked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How far chunks are read.
    pub chunks: ChunkCheck,
    /// How many problems are told one by one; the others are counted.
    pub max_problems: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { chunks: ChunkCheck::Decode, max_problems: 1000 }
    }
}

/// How far chunks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkCheck {
    /// Not at all: only that their places are within the segments.
    Places,
    /// Their checksums are verified.
    Checksums,
    /// Their samples are decoded, and compared with the times in the index.
    Decode,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Odd, and harmless for readers and for compaction.
    Notice,
    /// All can be read, but Prometheus and Thanos refuse to compact it.
    Disorder,
    /// Something can't be read, or is not what it says it is.
    Damage,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file is not there.
    MissingFile,
    /// The disk refuses a file.
    UnreadableFile,
    /// A file has another size than meta.json says.
    FileSize,
    /// A segment is there that meta.json does not list.
    UnlistedFile,
    /// meta.json is damaged.
    Meta,
    /// meta.json says something else than the block shows.
    MetaMismatch,
    /// The index can't be opened.
    Index,
    /// The symbols are out of order or not UTF-8.
    Symbols,
    /// The entry of a series is damaged.
    Series,
    /// A series has no labels, one of them twice, or one without a name.
    SeriesLabels,
    /// A label of a series has no value: readers leave it out.
    EmptyLabel,
    /// Series are not in the order of their labels, or one is there twice.
    SeriesOrder,
    /// The labels of a series are out of order (Prometheus issue 5372, of 2.8 and older).
    LabelOrder,
    /// A series has no chunks.
    NoChunks,
    /// A postings list is damaged or out of order.
    Postings,
    /// Postings and series disagree about who has which label.
    PostingsMismatch,
    /// A chunk begins before the one before it ends.
    ChunkOrder,
    /// A chunk has the same time range as the one before it.
    ChunkDuplicate,
    /// A chunk is partly outside of the block's time.
    ChunkOutside,
    /// A chunk is completely outside of the block's time.
    ChunkCompletelyOutside,
    /// A chunk begins where the block's time ends (Prometheus issue 347): it is in the next block, too.
    ChunkIssue347,
    /// A chunk would lie where there is none.
    ChunkReference,
    /// A chunk segment can't be opened.
    Segment,
    /// A chunk is damaged.
    Chunk,
    /// A chunk has an encoding that this program does not know.
    ChunkEncoding,
    /// The samples of a chunk are not in the time range that the index says.
    ChunkTime,
    /// The samples of a chunk go back in time, or one time is there twice.
    SampleOrder,
    /// Bytes of a segment belong to no series.
    Unreferenced,
    /// Chunks are referenced so often that checking them was given up.
    TooManyReferences,
    /// The tombstones are damaged.
    Tombstones,
}

impl Kind {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::UnlistedFile | Self::Unreferenced | Self::ChunkDuplicate | Self::ChunkIssue347 | Self::EmptyLabel => {
                Severity::Notice
            }
            Self::LabelOrder | Self::ChunkOrder | Self::ChunkOutside | Self::ChunkCompletelyOutside => {
                Severity::Disorder
            }
            Self::SeriesOrder | Self::NoChunks | Self::SampleOrder => Severity::Disorder,
            _ => Severity::Damage,
        }
    }

    /// Its name, for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::MissingFile => "missing-file",
            Self::UnreadableFile => "unreadable-file",
            Self::FileSize => "file-size",
            Self::UnlistedFile => "unlisted-file",
            Self::Meta => "meta",
            Self::MetaMismatch => "meta-mismatch",
            Self::Index => "index",
            Self::Symbols => "symbols",
            Self::Series => "series",
            Self::SeriesLabels => "series-labels",
            Self::EmptyLabel => "empty-label",
            Self::SeriesOrder => "series-order",
            Self::LabelOrder => "label-order",
            Self::NoChunks => "no-chunks",
            Self::Postings => "postings",
            Self::PostingsMismatch => "postings-mismatch",
            Self::ChunkOrder => "chunk-order",
            Self::ChunkDuplicate => "chunk-duplicate",
            Self::ChunkOutside => "chunk-outside",
            Self::ChunkCompletelyOutside => "chunk-completely-outside",
            Self::ChunkIssue347 => "chunk-issue-347",
            Self::ChunkReference => "chunk-reference",
            Self::Segment => "segment",
            Self::Chunk => "chunk",
            Self::ChunkEncoding => "chunk-encoding",
            Self::ChunkTime => "chunk-time",
            Self::SampleOrder => "sample-order",
            Self::Unreferenced => "unreferenced",
            Self::TooManyReferences => "too-many-references",
            Self::Tombstones => "tombstones",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is.
    pub kind: Kind,
    /// The file within the block: `index`, `chunks/000001`, …
    pub file: String,
    /// The section of the file, in the words of its FORMAT.md; empty for the whole file.
    pub section: &'static str,
    /// Bytes from the start of the file, if known.
    pub offset: Option<u64>,
    /// The series that it is about, if it is about one and its labels can be read.
    pub series: Option<Labels>,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.file)?;
        if !self.section.is_empty() {
            write!(f, ", {}", self.section)?;
        }
        if let Some(at) = self.offset {
            write!(f, " at byte {at}")?;
        }
        if let Some(series) = &self.series {
            write!(f, ", series {series}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Counts of a block, by Thanos's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series.
    pub total_series: u64,
    /// Series with chunks out of order.
    pub out_of_order_series: u64,
    /// Chunks out of order.
    pub out_of_order_chunks: u64,
    /// Chunks with the time range of the one before.
    pub duplicated_chunks: u64,
    /// Chunks that are not within the block's time.
    pub outside_chunks: u64,
    /// Those of them that are completely outside.
    pub complete_outside_chunks: u64,
    /// Those of them that begin where the block ends.
    pub issue347_outside_chunks: u64,
    /// Labels that stand before one of a smaller name in their series.
    pub out_of_order_labels: u64,
    /// Chunks.
    pub total_chunks: u64,
    /// Chunks of a single point in time.
    pub single_sample_chunks: u64,
    /// Samples, as chunks announce them (if they were read).
    pub total_samples: u64,
    /// Bytes of the longest series entry.
    pub series_max_size: u64,
    /// Bytes of the largest chunk (if they were read).
    pub chunk_max_size: u64,
    /// Label names.
    pub label_names: u64,
    /// Metric names.
    pub metric_names: u64,
}

/// The longest text of a problem in bytes, and the most that its labels take: an index may point at 1 MiB of labels with a few
/// bytes, a thousand times.
const MAX_TEXT: usize = 1 << 10;

/// These labels, or as many of them as fit into a line for people.
fn brief(labels: &Labels) -> Labels {
    if labels.packed_len() <= MAX_TEXT {
        return labels.clone();
    }
    let mut left = MAX_TEXT;
    let mut kept = Vec::new();
    for (name, value) in labels {
        let short = value.get(..value.floor_char_boundary(MAX_TEXT / 8)).unwrap_or_default();
        let value = if short.len() < value.len() { format!("{short}…") } else { short.to_owned() };
        let size = name.len() + value.len() + 8;
        if size > left {
            break;
        }
        left -= size;
        kept.push((name, value));
    }
    Labels::from_pairs(kept)
}

/// What [`check`] found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, one by one, up to [`Options::max_problems`].
    pub problems: Vec<Problem>,
    /// How often each kind was found, all of them.
    pub counts: BTreeMap<Kind, u64>,
    /// Counts of the block.
    pub stats: Stats,
    max: usize,
}

impl Report {
    /// True if nothing is wrong, notices aside.
    pub fn is_healthy(&self) -> bool {
        self.worst().is_none_or(|s| s == Severity::Notice)
    }

    /// The worst severity found.
    pub fn worst(&self) -> Option<Severity> {
        self.counts.keys().map(|k| k.severity()).max()
    }

    /// The first problem of the worst severity: what to tell when there is room for one line.
    pub fn first_of_worst(&self) -> Option<&Problem> {
        let worst = self.worst()?;
        self.problems.iter().find(|p| p.kind.severity() == worst)
    }

    fn add(&mut self, mut problem: Problem) {
        let count = self.counts.entry(problem.kind).or_default();
        *count += 1;
        // The first of each kind is always told, however many others there are.
        if self.problems.len() < self.max || *count == 1 {
            problem.series = problem.series.map(|labels| brief(&labels));
            if problem.what.len() > MAX_TEXT {
                problem.what.truncate(problem.what.floor_char_boundary(MAX_TEXT));
                problem.what.push('…');
            }
            self.problems.push(problem);
        }
    }

    fn add_error(&mut self, kind: Kind, file: &str, error: &Error, series: Option<&Labels>) {
        self.add(Problem {
            kind,
            file: file.to_owned(),
            section: error.section,
            offset: Some(error.offset),
            series: series.cloned(),
            what: error.kind.to_string(),
        });
    }

    fn add_file(&mut self, kind: Kind, file: &str, what: String) {
        self.add(Problem { kind, file: file.to_owned(), section: "", offset: None, series: None, what });
    }
}

/// Checks the block in `dir`. What can't be read is a problem; nothing is changed.
pub fn check(disk: &dyn Disk, dir: &Path, options: &Options) -> Report {
    let mut report = Report { max: options.max_problems, ..Report::default() };
    let meta = files::meta(disk, dir, &mut report);
    let segments = files::segments(disk, dir, meta.as_ref(), &mut report);
    files::tombstones(disk, dir, &mut report);
    let mut chunks = chunks::Checker::new(disk, segments, options.chunks);
    index::check(disk, dir, meta.as_ref(), &mut chunks, &mut report);
    chunks.finish(&mut report);
    if let Some(meta) = meta {
        files::compare_stats(&meta, &mut report);
    }
    report
}
