//! The files of a block, and what meta.json says of them.

use super::{Kind, Report};
use crate::block::{read_meta, read_tombstones};
use crate::disk::Disk;
use crate::error::Error;
use crate::index::INDEX_FILE;
use crate::meta::{BlockMeta, META_FILE};
use crate::segment::{CHUNKS_DIR, name, number};
use crate::tombstones::TOMBSTONES_FILE;
use model::BlockId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A segment that is there.
pub(super) struct SegmentFile {
    /// Its path within the block.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// Segments by their numbers from 0.
pub(super) type Segments = BTreeMap<u32, SegmentFile>;

pub(super) fn file_problem(report: &mut Report, damaged: Kind, file: &str, error: &Error) {
    match &error.kind {
        _ if error.is_not_found() => report.add_file(Kind::MissingFile, file, "the file is not there".to_owned()),
        crate::ErrorKind::Io(e) => report.add_file(Kind::UnreadableFile, file, e.to_string()),
        _ => report.add_error(damaged, file, error, None),
    }
}

pub(super) fn meta(disk: &dyn Disk, dir: &Path, report: &mut Report) -> Option<BlockMeta> {
    let meta = match read_meta(disk, dir) {
        Ok(meta) => meta,
        Err(e) => {
            file_problem(report, Kind::Meta, META_FILE, &e);
            return None;
        }
    };
    let folder = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<BlockId>().ok());
    if let Some(folder) = folder.filter(|f| *f != meta.id)
        && !model::protection::off("meta-check")
    {
        report.add_file(Kind::MetaMismatch, META_FILE, format!("it is of block {}, the folder of {folder}", meta.id));
    }
    Some(meta)
}

pub(super) fn tombstones(disk: &dyn Disk, dir: &Path, report: &mut Report) {
    if let Err(e) = read_tombstones(disk, dir) {
        file_problem(report, Kind::Tombstones, TOMBSTONES_FILE, &e);
    }
}

pub(super) fn segments(disk: &dyn Disk, dir: &Path, meta: Option<&BlockMeta>, report: &mut Report) -> Segments {
    let folder = dir.join(CHUNKS_DIR);
    let mut segments = Segments::new();
    match disk.list(&folder) {
        Ok(entries) => {
            let mut next = 0;
            for entry in entries.into_iter().filter(|e| !e.is_dir) {
                let Some(n) = number(&entry.name) else { continue };
                let rel = format!("{CHUNKS_DIR}/{}", entry.name);
                if n != next {
                    let more = match n.saturating_sub(next) {
                        0 | 1 => String::new(),
                        missing => format!("; {missing} segments are missing here"),
                    };
                    let first = format!("{CHUNKS_DIR}/{}", name(next));
                    report.add_file(Kind::MissingFile, &first, format!("{rel} follows{more}"));
                }
                next = n.saturating_add(1);
                segments.insert(n, SegmentFile { name: rel, path: folder.join(&entry.name), size: entry.size });
            }
        }
        Err(e) => file_problem(report, Kind::UnreadableFile, CHUNKS_DIR, &e),
    }
    if let Some(thanos) = meta.and_then(|m| m.thanos.as_ref())
        && !model::protection::off("meta-check")
    {
        for file in &thanos.files {
            let real = if file.rel_path == INDEX_FILE {
                disk.size(&dir.join(INDEX_FILE)).ok()
            } else if file.rel_path.starts_with(CHUNKS_DIR) {
                let found = segments.values().find(|s| s.name == file.rel_path);
                if found.is_none() {
                    report.add_file(Kind::MissingFile, &file.rel_path, "meta.json lists it".to_owned());
                }
                found.map(|s| s.size)
            } else {
                None
            };
            if let Some(real) = real.filter(|r| *r != file.size_bytes && file.size_bytes > 0) {
                let what = format!("it has {real} bytes, meta.json says {}", file.size_bytes);
                report.add_file(Kind::FileSize, &file.rel_path, what);
            }
        }
        if !thanos.files.is_empty() {
            for segment in segments.values().filter(|s| !thanos.files.iter().any(|f| f.rel_path == s.name)) {
                report.add_file(Kind::UnlistedFile, &segment.name, "meta.json does not list it".to_owned());
            }
        }
    }
    segments
}

/// Compares the stats in meta.json with what was found.
pub(super) fn compare_stats(meta: &BlockMeta, report: &mut Report) {
    if model::protection::off("meta-check") || report.worst() == Some(super::Severity::Damage) {
        // What can't be read can't be counted; the damage is told already.
        return;
    }
    let found = &report.stats;
    let mut wrong = Vec::new();
    for (what, says, is) in [
        ("series", meta.stats.num_series, found.total_series),
        ("chunks", meta.stats.num_chunks, found.total_chunks),
        ("samples", meta.stats.num_samples, found.total_samples),
    ] {
        // Samples are known only if chunks were read, and stats are left out by some writers.
        let unknown = what == "samples" && is == 0 || says == 0;
        if says != is && !unknown {
            wrong.push(format!("{says} {what}, there are {is}"));
        }
    }
    if !wrong.is_empty() {
        report.add_file(Kind::MetaMismatch, META_FILE, format!("it says {}", wrong.join("; ")));
    }
}
