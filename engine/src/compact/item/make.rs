//! New blocks of fetched ones, checked before and after. Blocks: off the async threads.

use super::super::{Fault, space};
use std::path::{Path, PathBuf};
use tsdb::BlockMeta;
use tsdb::block::health::{self, ChunkCheck, Kind, Options, Report, Severity};
use tsdb::block::{Block, Written};
use tsdb::compact::{self, Counts, Failure};
use tsdb::disk::Disk;
use tsdb::downsample::{self, Coarser};
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
    let told = space::total(blocks.iter().map(|b| b.meta().stats.num_samples));
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
    check_counts(&counts)?;
    let Some(written) = compacted.written else {
        return match counts.samples_in {
            0 => Ok(None),
            n => Err(mistake(&format!("{n} samples became none"))),
        };
    };
    check_output(disk, &written, if counts.opened == 0 { ChunkCheck::Checksums } else { ChunkCheck::Decode })?;
    if written.meta.stats.num_samples != counts.samples_out || written.meta.stats.num_series != counts.series {
        return Err(mistake("the new block holds another number of samples than went in"));
    }
    Ok(Some(written))
}

/// Of series of which nothing overlaps no sample may be missing; of the others, only such may that were there twice.
fn check_counts(counts: &Counts) -> Result<(), Fault> {
    let passed = (
        counts.samples_in.checked_sub(counts.opened_in).unwrap_or(u64::MAX),
        counts.samples_out.checked_sub(counts.opened_out),
    );
    if counts.series_seen != counts.series_in {
        return Err(mistake(&format!("{} of {} series were looked at", counts.series_seen, counts.series_in)));
    }
    if Some(passed.0) != passed.1 || counts.opened_out > counts.opened_in {
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
    for Coarser { written, samples_in, samples_out } in &made {
        let (samples_in, samples_out) = (*samples_in, *samples_out);
        check_coarser(block.meta(), samples_in, samples_out)?;
        if written.meta.stats.num_series > block.meta().stats.num_series && block.meta().stats.num_series > 0 {
            return Err(mistake("a downsampled block has more series than its source"));
        }
        if written.meta.stats.num_series == 0 && block.meta().stats.num_samples > 0 {
            return Err(mistake("a block with samples was downsampled to nothing"));
        }
        check_output(disk, written, ChunkCheck::Decode)?;
    }
    Ok(made.into_iter().map(|coarser| coarser.written).collect())
}

/// A copy stands for all samples of its source: when retention deletes the source, it is all that is left.
fn check_coarser(source: &BlockMeta, samples_in: f64, samples_out: f64) -> Result<(), Fault> {
    if samples_in == samples_out {
        return Ok(());
    }
    let what = format!("{samples_in} samples became aggregates of {samples_out}");
    if source.resolution() == 0 {
        return Err(mistake(&what));
    }
    // Other programs make aggregates, too.
    let next =
        "its aggregates don't fit each other, and no coarser copy is made; make it anew from raw data, or delete it";
    Err(Fault::Held(format!("block {}: {what}: {next}", source.id)))
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
    Block::open_passing(disk, dir).map_err(|e| {
        match dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) {
            Some(block) if e.is_damage() => Fault::Block { block, reason: reason::DAMAGED, what: e.to_string() },
            _ => Fault::Disk(e),
        }
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
    use model::Labels;
    use model::histogram::FloatHistogram;
    use tsdb::block::Writer;
    use tsdb::chunk::aggregate::{Aggregate, Container};
    use tsdb::chunk::histogram::Appended;
    use tsdb::chunk::{Encoding, HistogramEncoder, XorEncoder};
    use tsdb::disk::RealDisk;
    use tsdb::segment::NewChunk;

    /// Aggregates of histograms that lack their sums can't be made coarser: the copy would be short.
    #[test]
    fn a_copy_that_lost_samples_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (begin, five) = (1_700_006_400_000i64, 300_000i64);
        let [mut counts, mut values] = std::array::from_fn(|_| XorEncoder::default());
        let mut histograms = None::<HistogramEncoder<f64>>;
        for i in 1..=12 {
            let t = begin + i * five - 1;
            counts.append(t, 20.0).unwrap();
            values.append(t, i as f64).unwrap();
            let h = FloatHistogram { count: i as f64, zero_count: i as f64, sum: 1.0, ..FloatHistogram::default() };
            match &mut histograms {
                Some(encoder) => assert!(matches!(encoder.append(0, t, &h).unwrap(), Appended::Here)),
                None => histograms = Some(HistogramEncoder::new(false, 0, t, &h, None).unwrap()),
            }
        }
        let (mut whole, mut short) = (Container::default(), Container::default());
        for aggregate in Aggregate::ALL {
            let encoder = if aggregate == Aggregate::Count { &counts } else { &values };
            whole.set(aggregate, Encoding::Xor, encoder.bytes());
        }
        short.set(Aggregate::Count, Encoding::Xor, counts.bytes());
        short.set(Aggregate::Counter, Encoding::FloatHistogram, histograms.unwrap().bytes());
        let make = |folder: &str, containers: &[(&str, &Container)]| {
            let parent = dir.path().join(folder);
            let id = tsdb::BlockId::from_parts(1, containers.len() as u128);
            let text = format!(
                r#"{{"ulid":"{id}","minTime":{begin},"maxTime":{},"version":1,"compaction":{{"level":1,"sources":["{id}"]}},
                "thanos":{{"labels":{{"a":"b"}},"downsample":{{"resolution":{five}}},"source":"compactor"}}}}"#,
                begin + 12 * five
            );
            let meta = BlockMeta::read("meta.json", text.as_bytes()).unwrap();
            let mut writer = Writer::create(&RealDisk, &parent, meta.clone()).unwrap();
            ["__name__", "short", "whole"].iter().for_each(|s| writer.add_symbol(s).unwrap());
            for (name, container) in containers {
                let data = container.bytes();
                let (min_time, max_time) = counts.range();
                let new = NewChunk { encoding: Encoding::Aggregate, data: &data, min_time, max_time };
                writer.add_series(&Labels::from_pairs([("__name__", *name)]), &[new]).unwrap();
            }
            let folder = writer.finish().unwrap().dir;
            let hour = tsdb::plan::downsampled(tsdb::BlockId::from_parts(2, 2), &meta, 3_600_000);
            downsample(&RealDisk, &[folder], &parent.join("out"), vec![hour])
        };
        let made = make("whole", &[("whole", &whole)]).unwrap();
        assert_eq!(made[0].meta.stats.num_samples, 1, "one window");
        let error = make("short", &[("short", &short), ("whole", &whole)]).unwrap_err();
        let Fault::Held(what) = error else { panic!("{error:?}") };
        assert!(what.contains("480 samples became aggregates of 240"), "{what}");
    }

    #[test]
    fn lost_samples_are_noticed() {
        let counts = |samples_in, samples_out, opened_in, opened_out| {
            check_counts(&Counts { samples_in, samples_out, opened_in, opened_out, ..Counts::default() })
        };
        assert!(counts(10, 10, 0, 0).is_ok() && counts(10, 9, 4, 3).is_ok());
        assert!(counts(10, 9, 0, 0).is_err() && counts(9, 10, 4, 5).is_err());
        // A series that overlaps does not excuse the others.
        assert!(counts(100, 90, 4, 3).is_err() && counts(100, 98, 4, 3).is_err());
        let raw = BlockMeta::new(tsdb::BlockId::from_parts(1, 1), 0, 1);
        let coarser = |samples_in, samples_out| check_coarser(&raw, samples_in, samples_out);
        assert!(coarser(10.0, 10.0).is_ok() && coarser(10.0, 0.0).is_err() && coarser(10.0, 11.0).is_err());
        assert!(coarser(f64::INFINITY, 1.0).is_err());
        assert!(check_counts(&Counts { series_in: 5, series_seen: 4, ..Counts::default() }).is_err());
    }
}
