//! Whether a block is fit to be uploaded: what is damaged here would be damaged for good there.

use super::local::Bad;
use super::stage::Staged;
use args::state::SkipReason;
use tsdb::block::health::{self, ChunkCheck, Kind, Options, Severity};
use tsdb::disk::Disk;

/// Structure and every checksum. Samples stay undecoded: that costs several times as much, and a chunk whose checksum fits is
/// as Prometheus wrote it.
const OPTIONS: Options = Options { chunks: ChunkCheck::Checksums, max_problems: 10 };

/// What is damaged in a staged block; `None` if all can be read. What is only out of order goes to the bucket, where
/// compactors know how to treat it. Reads all of the block. Blocks.
pub(super) fn check(disk: &dyn Disk, staged: &Staged) -> Option<Bad> {
    let report = health::check(disk, staged.dir(), &OPTIONS);
    if report.worst() != Some(Severity::Damage) {
        return None;
    }
    let first = report.first_of_worst()?;
    let reason = match first.kind {
        Kind::MissingFile => SkipReason::MissingFile,
        Kind::Meta => SkipReason::BadMeta,
        _ => SkipReason::Damaged,
    };
    let damages: u64 = report.counts.iter().filter(|(k, _)| k.severity() == Severity::Damage).map(|(_, n)| n).sum();
    let more = match damages.saturating_sub(1) {
        0 => String::new(),
        n => format!(" (and {n} more damages)"),
    };
    let message = format!("{first}{more}; take the block from another copy, or move its folder away");
    Some(Bad { reason, message })
}
