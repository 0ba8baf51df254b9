//! The items of a plan and their reasons, as programs and as people read them.

use super::Kind;
use crate::marks::reason;
use model::BlockId;
use std::fmt;

/// What a deletion mark of a block says that went into another one (Thanos's words).
pub const SOURCE_OF_COMPACTED: &str = "source of compacted block";
/// What a deletion mark of a block says whose sources another one has, too (Thanos's words).
pub const OUTDATED: &str = "outdated block";

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What.
    pub action: Action,
    /// Why.
    pub why: Why,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Remove all objects of the block.
    Delete(BlockId),
    /// Mark the block for deletion; it goes when the delay is over.
    MarkForDeletion(BlockId),
    /// Mark the block as never to be compacted, with this reason of [`crate::marks::reason`].
    MarkNoCompact(BlockId, &'static str),
    /// Make one block of several.
    Compact(Compaction),
    /// Make coarser blocks of the block, of these resolutions in ms.
    Downsample(BlockId, Vec<i64>),
}

impl Action {
    /// The blocks that it is about.
    pub fn blocks(&self) -> &[BlockId] {
        match self {
            Self::Delete(id) | Self::MarkForDeletion(id) | Self::MarkNoCompact(id, _) | Self::Downsample(id, _) => {
                std::slice::from_ref(id)
            }
            Self::Compact(c) => &c.blocks,
        }
    }
}

/// Blocks that become one.
#[derive(Debug, Clone, PartialEq)]
pub struct Compaction {
    /// The stream that they are of, as [`super::Stream::name`] gives it.
    pub stream: String,
    /// The blocks, by their begin.
    pub blocks: Vec<BlockId>,
    /// Time range of the result in ms, the end exclusive.
    pub range: (i64, i64),
    /// Whether some of them overlap, so that their samples are merged.
    pub overlap: bool,
}

/// Why something is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// The mark is older than the delay (both in ms).
    MarkIsOld {
        /// Age of the mark.
        age: i64,
        /// The delay.
        delay: i64,
        /// What the mark says.
        details: String,
    },
    /// Its meta.json is gone and a mark older than the delay is left.
    DeletionBrokeOff,
    /// It never became a block, and nothing was written for so long (ms).
    UploadBrokeOff {
        /// Since the last write.
        age: i64,
    },
    /// This block holds all its sources.
    Superseded {
        /// The other block.
        by: BlockId,
    },
    /// It is older than its resolution is kept (ms).
    Retention {
        /// How long that is.
        keep: i64,
    },
    /// They overlap.
    Overlap,
    /// They fill a window of this width in ms, or the window is past.
    Window {
        /// The width.
        range: i64,
        /// Whether they span it from end to end.
        full: bool,
    },
    /// More than 5% of its series have tombstones.
    Tombstones,
    /// The index of the compacted block could exceed this size in bytes.
    IndexSize {
        /// The limit.
        limit: u64,
    },
    /// Downsampled blocks that overlap can't be merged.
    DownsampledOverlap,
    /// It is wide enough for that, in ms.
    Wide {
        /// Its width.
        width: i64,
    },
    /// Retention (ms) wants it gone, and there is no coarser copy yet.
    BeforeRetention {
        /// How long its resolution is kept.
        keep: i64,
    },
}

/// Something that is left alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// What.
    pub what: Subject,
    /// Why.
    pub why: Hold,
}

/// What is left alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Everything.
    Bucket,
    /// The compaction of a stream, by its name.
    Stream(String),
    /// A block.
    Block(BlockId),
}

/// Why something is left alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Hold {
    /// Not all of the bucket could be read.
    Incomplete,
    /// Two blocks overlap, and merging is not wished.
    Overlaps(BlockId, BlockId),
    /// Two blocks have a source in common, so that compacting both would double samples.
    SharedSource(BlockId, BlockId),
    /// The result would overlap this block, which is to stay out.
    InTheWay(BlockId),
    /// Files are missing or differ from what its meta.json says.
    Damaged(String),
    /// Nobody knows how large its index is.
    IndexSizeUnknown,
    /// Its mark says that another block holds its samples, and there is none that is sound.
    SuccessorGone,
    /// Neither raw, 5m nor 1h.
    Resolution(i64),
    /// Retention wants it gone and it has no coarser copy, and one can't be made.
    NoCoarserCopy,
    /// It is too old, and lacks the labels of those that retention is for.
    OtherLabels,
}

impl Hold {
    /// Whether it may pass without anybody's doing.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Incomplete | Self::IndexSizeUnknown | Self::OtherLabels)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Delete(id) => write!(f, "delete {id}"),
            Action::MarkForDeletion(id) => write!(f, "mark {id} for deletion"),
            Action::MarkNoCompact(id, reason) => write!(f, "mark {id} no-compact ({reason})"),
            Action::Compact(c) => {
                f.write_str(if c.overlap { "merge" } else { "compact" })?;
                c.blocks.iter().try_for_each(|id| write!(f, " {id}"))
            }
            Action::Downsample(id, to) => {
                write!(f, "downsample {id} to")?;
                to.iter().enumerate().try_for_each(|(i, r)| {
                    f.write_str(if i == 0 { " " } else { " and " })?;
                    f.write_str(&resolution(*r))
                })
            }
        }?;
        write!(f, ": {}", self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MarkIsOld { age, delay, details } => {
                write!(f, "marked {} ago, the delay is {}", span(*age), span(*delay))?;
                if details.is_empty() { Ok(()) } else { write!(f, " ({details})") }
            }
            Self::DeletionBrokeOff => f.write_str("its deletion broke off"),
            Self::UploadBrokeOff { age } => write!(f, "its upload broke off {} ago", span(*age)),
            Self::Superseded { by } => write!(f, "{by} holds all its sources"),
            Self::Retention { keep } => write!(f, "older than {}", span(*keep)),
            Self::Overlap => f.write_str("they overlap"),
            Self::Window { range, full: true } => write!(f, "they fill {}", span(*range)),
            Self::Window { range, full: false } => write!(f, "nothing more comes into their {}", span(*range)),
            Self::Tombstones => f.write_str("more than 5% of its series have tombstones"),
            Self::IndexSize { limit } => write!(f, "with it the index could exceed {limit} bytes"),
            Self::DownsampledOverlap => f.write_str("downsampled blocks that overlap can't be merged"),
            Self::Wide { width } => write!(f, "it is {} wide", span(*width)),
            Self::BeforeRetention { keep } => write!(f, "older than {}, and there is no coarser copy", span(*keep)),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Subject::Bucket => f.write_str("everything waits"),
            Subject::Stream(name) => write!(f, "{name} waits"),
            Subject::Block(id) => write!(f, "{id} waits"),
        }?;
        write!(f, ": {}", self.why)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("the bucket could not be read whole; see the errors of the sync"),
            Self::Overlaps(a, b) => write!(f, "{a} and {b} overlap; allow merging, or delete one of them"),
            Self::SharedSource(a, b) => write!(f, "{a} and {b} have a source in common; delete the smaller one"),
            Self::InTheWay(id) => write!(f, "the result would overlap {id}, which stays out; delete it or its mark"),
            Self::Damaged(what) => write!(f, "{what}; upload the block again, or delete it"),
            Self::IndexSizeUnknown => f.write_str("the size of its index is not known; list the bucket again"),
            Self::SuccessorGone => {
                f.write_str("marked as superseded, but no sound block holds its sources; remove its mark")
            }
            Self::Resolution(ms) => write!(f, "a resolution of {ms} ms is not known; delete the block"),
            Self::OtherLabels => f.write_str(
                "older than retention keeps it, and kept: it lacks the external labels that retention is for",
            ),
            Self::NoCoarserCopy => {
                f.write_str("retention wants it gone, it has no coarser copy, and none can be made; delete it by hand")
            }
        }
    }
}

/// The name of a resolution: `raw`, `5m`, `1h`.
pub(super) fn resolution(ms: i64) -> String {
    if ms == 0 { "raw".to_owned() } else { span(ms) }
}

/// A span of time in its largest units: `2d`, `1h30m`.
pub(super) fn span(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let (sign, mut rest) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
    let mut out = sign.to_owned();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    out
}

impl Compaction {
    /// Why these blocks were chosen.
    pub(super) fn why(kind: Kind) -> Why {
        match kind {
            Kind::Overlap => Why::Overlap,
            Kind::Window { range, full } => Why::Window { range, full },
            Kind::Tombstones => Why::Tombstones,
        }
    }
}

/// The reasons of marks that a plan sets.
pub(super) const INDEX_SIZE: &str = reason::INDEX_SIZE;
/// See [`INDEX_SIZE`].
pub(super) const DOWNSAMPLE_VERTICAL: &str = reason::DOWNSAMPLE_VERTICAL;
