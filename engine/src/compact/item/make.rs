//! New blocks of fetched ones, checked before and after. Blocks: off the async threads.

use super::super::Fault;
use std::path::{Path, PathBuf};
use tsdb::BlockMeta;
use tsdb::block::health::{self, ChunkCheck, Kind, Options, Report, Severity};
use tsdb::block::{Block, Written};
use tsdb::compact::{self, Counts, Failure};
use tsdb::disk::Disk;
use tsdb::downsample;
use tsdb::marks::reason;
use tsdb::series::Dedup;

/// Problems that are looked for one by one.
const PROBLEMS: usize = 10;

fn health(disk: &dyn Disk, dir: &Path, chunks: ChunkCheck) -> Report {
    health::check(disk, dir, &Options { chunks, max_problems: PROBLEMS })
}

/// Whether a fetched block can be worked on. Its chunks are not read here: their checksums are looked at when they are.
pub(super) fn check_input(disk: &dyn Disk, dir: &Path, meta: &BlockMeta) -> Result<(), Fault> {
    judge(&health(disk, dir, ChunkCheck::Places), meta)
}

fn judge(report: &Report, meta: &BlockMeta) -> Result<(), Fault> {
    if let Some(refused) = report.problems.iter().find(|p| p.kind == Kind::UnreadableFile) {
        let error = std::io::Error::other(refused.what.clone());
        return Err(Fault::Disk(tsdb::Error::io(&refused.file, "read", error)));
    }
    // What can be put in order without a loss is: see `tsdb::compact`.
    let matters = |kind: Kind| {
        kind.severity() != Severity::Notice && !matches!(kind, Kind::ChunkOrder | Kind::ChunkDuplicate | Kind::NoChunks)
    };
    let first = report.problems.iter().filter(|p| matters(p.kind)).max_by_key(|p| p.kind.severity());
    let Some(first) = first else { return Ok(()) };
    let reason = match first.kind.severity() {
        Severity::Damage => reason::DAMAGED,
        _ => reason::OUT_OF_ORDER_CHUNK,
    };
    Err(Fault::Block { block: meta.id, reason, what: first.to_string() })
}

/// Opens blocks and compacts them into `out`. `None` if they hold no sample.
pub(super) fn compact(
    disk: &dyn Disk,
    folders: &[PathBuf],
    out: &Path,
    meta: BlockMeta,
    dedup: Dedup,
) -> Result<Option<Written>, Fault> {
    let blocks = folders.iter().map(|dir| open(disk, dir)).collect::<Result<Vec<_>, _>>()?;
    let compacted = match compact::blocks(disk, &blocks, out, meta, dedup) {
        Ok(compacted) => compacted,
        Err(failure) => return Err(blame(disk, folders, &failure)),
    };
    let told: u64 = blocks.iter().map(|b| b.meta().stats.num_samples).sum();
    let blocks_named = blocks.iter().map(|b| b.meta().id.to_string()).collect::<Vec<_>>().join(" ");
    drop(blocks);
    let counts = compacted.counts;
    if counts.repaired > 0 {
        tracing::warn!(
            blocks = blocks_named,
            series = counts.repaired,
            "chunks were out of order and were put in order; nothing was lost"
        );
    }
    if told != counts.samples_in {
        tracing::warn!(
            told,
            found = counts.samples_in,
            "the blocks hold another number of samples than their meta.json say"
        );
    }
    let Some(written) = compacted.written else {
        return match counts.samples_in {
            0 => Ok(None),
            n => Err(mistake(&format!("{n} samples became none"))),
        };
    };
    check_counts(&counts)?;
    check_output(disk, &written, if counts.opened == 0 { ChunkCheck::Checksums } else { ChunkCheck::Decode })?;
    if written.meta.stats.num_samples != counts.samples_out || written.meta.stats.num_series != counts.series {
        return Err(mistake("the new block holds another number of samples than went in"));
    }
    Ok(Some(written))
}

/// Where nothing overlaps no sample may be missing; where something does, only such may that were there twice.
fn check_counts(counts: &Counts) -> Result<(), Fault> {
    let lost =
        counts.samples_out > counts.samples_in || (counts.opened == 0 && counts.samples_out != counts.samples_in);
    if lost {
        return Err(mistake(&format!("{} samples became {}", counts.samples_in, counts.samples_out)));
    }
    Ok(())
}

/// Opens a block and makes coarser copies of it in `out`.
pub(super) fn downsample(
    disk: &dyn Disk,
    folders: &[PathBuf],
    out: &Path,
    metas: Vec<BlockMeta>,
) -> Result<Vec<Written>, Fault> {
    let Some(folder) = folders.first() else { return Ok(Vec::new()) };
    let block = open(disk, folder)?;
    let id = block.meta().id;
    let made = downsample::block(disk, &block, out, metas).map_err(|failure| match failure {
        downsample::Failure::File(e) if e.is_damage() => {
            Fault::Block { block: id, reason: reason::DAMAGED, what: e.to_string() }
        }
        downsample::Failure::File(e) => Fault::Disk(e),
        downsample::Failure::Series { error: downsample::Error::Overlap { .. }, .. } => {
            Fault::Block { block: id, reason: reason::OUT_OF_ORDER_CHUNK, what: failure.to_string() }
        }
        downsample::Failure::Series { .. } => {
            Fault::Block { block: id, reason: reason::DAMAGED, what: failure.to_string() }
        }
        downsample::Failure::Targets { .. } => Fault::Held(failure.to_string()),
    })?;
    for written in &made {
        if written.meta.stats.num_series > block.meta().stats.num_series && block.meta().stats.num_series > 0 {
            return Err(mistake("a downsampled block has more series than its source"));
        }
        if written.meta.stats.num_series == 0 && block.meta().stats.num_samples > 0 {
            return Err(mistake("a block with samples was downsampled to nothing"));
        }
        check_output(disk, written, ChunkCheck::Decode)?;
    }
    Ok(made)
}

fn check_output(disk: &dyn Disk, written: &Written, chunks: ChunkCheck) -> Result<(), Fault> {
    let report = health(disk, &written.dir, chunks);
    if !report.is_healthy() {
        if let Some(refused) = report.problems.iter().find(|p| p.kind == Kind::UnreadableFile) {
            let error = std::io::Error::other(refused.what.clone());
            return Err(Fault::Disk(tsdb::Error::io(&refused.file, "read", error)));
        }
        let what = report.first_of_worst().map(ToString::to_string).unwrap_or_default();
        return Err(mistake(&format!("the new block is not sound: {what}")));
    }
    Ok(())
}

fn open(disk: &dyn Disk, dir: &Path) -> Result<Block, Fault> {
    Block::open(disk, dir).map_err(|e| match dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) {
        Some(block) if e.is_damage() => Fault::Block { block, reason: reason::DAMAGED, what: e.to_string() },
        _ => Fault::Disk(e),
    })
}

/// Who is to blame for a failed compaction.
fn blame(disk: &dyn Disk, folders: &[PathBuf], failure: &Failure) -> Fault {
    let what = failure.to_string();
    match (failure, failure.block()) {
        (Failure::Block { error, .. }, _) if !error.is_damage() => Fault::Disk(error.clone()),
        (Failure::Write(error), _) => Fault::Disk(error.clone()),
        (Failure::Block { .. }, Some(block)) => Fault::Block { block, reason: reason::DAMAGED, what },
        (Failure::Chunks { .. }, Some(block)) => Fault::Block { block, reason: reason::OUT_OF_ORDER_CHUNK, what },
        (_, Some(block)) => Fault::Block { block, reason: reason::DAMAGED, what },
        // Chunks of several blocks: whose can't be read?
        (_, None) => {
            let damaged = folders.iter().find_map(|dir| {
                let report = health(disk, dir, ChunkCheck::Decode);
                let meta = tsdb::block::read_meta(disk, dir).ok()?;
                judge(&report, &meta).err()
            });
            damaged.unwrap_or(Fault::Held(what))
        }
    }
}

fn mistake(what: &str) -> Fault {
    Fault::Held(format!("a mistake of ours, please report it: {what}; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_samples_are_noticed() {
        let counts = |samples_in, samples_out, opened| Counts { samples_in, samples_out, opened, ..Counts::default() };
        assert!(check_counts(&counts(10, 10, 0)).is_ok() && check_counts(&counts(10, 9, 2)).is_ok());
        assert!(check_counts(&counts(10, 9, 0)).is_err() && check_counts(&counts(9, 10, 2)).is_err());
    }
}
