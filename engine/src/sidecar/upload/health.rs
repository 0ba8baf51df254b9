//! Whether a block is fit to be uploaded: what is damaged here would be damaged for good there.

use super::local::Bad;
use super::stage::{StageError, Staged};
use args::state::SkipReason;
use tsdb::block::health::{self, ChunkCheck, Kind, Options, Report, Severity};
use tsdb::disk::Disk;

/// Structure and every checksum. Samples stay undecoded: that costs several times as much, and a chunk whose checksum fits is
/// as Prometheus wrote it.
const OPTIONS: Options = Options { chunks: ChunkCheck::Checksums, max_problems: 10 };

/// Fails with what is damaged in a staged block. What is only out of order goes to the bucket, where compactors know how to
/// treat it; a disk that refuses says nothing about the block, so that it is tried again soon. Reads all of the block. Blocks.
pub(super) fn check(disk: &dyn Disk, staged: &Staged) -> Result<(), StageError> {
    judge(&health::check(disk, staged.dir(), &OPTIONS))
}

fn judge(report: &Report) -> Result<(), StageError> {
    if let Some(refused) = report.problems.iter().find(|p| p.kind == Kind::UnreadableFile) {
        let error = std::io::Error::other(refused.what.clone());
        return Err(StageError::Disk(tsdb::Error::io(&refused.file, "read", error)));
    }
    if report.worst() != Some(Severity::Damage) {
        return Ok(());
    }
    let Some(first) = report.first_of_worst() else { return Ok(()) };
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
    Err(StageError::Bad(Bad { reason, message }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsdb::block::health::Problem;

    fn report(kinds: &[Kind]) -> Report {
        let problem = |kind: &Kind| Problem {
            kind: *kind,
            file: "chunks/000001".to_owned(),
            section: "",
            offset: None,
            series: None,
            what: "it says no".to_owned(),
        };
        let mut report = Report::default();
        report.problems = kinds.iter().map(problem).collect();
        report.counts = kinds.iter().map(|k| (*k, 1)).collect();
        report
    }

    #[test]
    fn a_refusing_disk_is_no_damage_and_disorder_is_no_reason() {
        assert!(judge(&report(&[])).is_ok());
        assert!(judge(&report(&[Kind::ChunkOutside, Kind::ChunkDuplicate])).is_ok());
        let Err(StageError::Bad(bad)) = judge(&report(&[Kind::ChunkOutside, Kind::Chunk])) else { panic!("damage") };
        assert!(bad.reason == SkipReason::Damaged && bad.message.contains("chunks/000001"), "{bad:?}");
        let refused = judge(&report(&[Kind::Chunk, Kind::UnreadableFile]));
        assert!(matches!(refused, Err(StageError::Disk(e)) if e.to_string().contains("it says no")));
    }
}
