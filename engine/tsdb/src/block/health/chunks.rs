//! The chunks of a block: places, checksums, samples.

use super::files::{Segments, file_problem};
use super::{ChunkCheck, Kind, Problem, Report};
use crate::chunk::{self, Encoding};
use crate::disk::Disk;
use crate::error::ErrorKind;
use crate::index::{ChunkMeta, INDEX_FILE, Series};
use crate::segment::{HEADER_LEN, Window, name, split};
use bytes::Bytes;
use model::Labels;

/// Reads the chunks that series tell, segment by segment, through a window.
pub(super) struct Checker<'a> {
    disk: &'a dyn Disk,
    segments: Segments,
    check: ChunkCheck,
    /// The segment that is open, or could not be opened.
    open: Option<(u32, Option<Window>)>,
    /// Bytes of chunks that were read.
    read: u64,
    given_up: bool,
    /// Something could not be read, so bytes that seem to belong to nobody may not.
    incomplete: bool,
}

impl<'a> Checker<'a> {
    pub(super) fn new(disk: &'a dyn Disk, segments: Segments, check: ChunkCheck) -> Self {
        Self { disk, segments, check, open: None, read: 0, given_up: false, incomplete: false }
    }

    fn total(&self) -> u64 {
        self.segments.values().map(|s| s.size).sum()
    }

    pub(super) fn series(&mut self, entry: &Series, labels: &dyn Fn() -> Option<Labels>, at: u64, report: &mut Report) {
        for c in &entry.chunks {
            if self.given_up {
                return;
            }
            self.chunk(c, labels, at, report);
        }
    }

    fn chunk(&mut self, meta: &ChunkMeta, labels: &dyn Fn() -> Option<Labels>, at: u64, report: &mut Report) {
        let (number, offset) = split(meta.reference);
        let Some(segment) = self.segments.get(&number) else {
            let what = format!("a chunk would lie in segment {}, which is not there", name(number));
            return self.place(what, labels, at, report);
        };
        if u64::from(offset) < HEADER_LEN as u64 || u64::from(offset) >= segment.size {
            let what = format!("a chunk would lie at {offset} of {}, which has {} bytes", segment.name, segment.size);
            return self.place(what, labels, at, report);
        }
        if self.check == ChunkCheck::Places {
            return;
        }
        if self.open.as_ref().is_none_or(|(n, _)| *n != number) {
            let opened = self.disk.reader(&segment.path).and_then(|r| Window::open(segment.name.as_str(), r));
            let window = match opened {
                Ok(window) => Some(window),
                Err(e) => {
                    file_problem(report, Kind::Segment, &segment.name, &e);
                    None
                }
            };
            self.open = Some((number, window));
        }
        let Some((_, Some(window))) = &mut self.open else {
            self.incomplete = true;
            return;
        };
        let mut samples = 0;
        let problem = match window.chunk(offset) {
            Ok((chunk, size)) => {
                self.read += size as u64;
                report.stats.chunk_max_size = report.stats.chunk_max_size.max(size as u64);
                samples = super::super::announced_samples(chunk.encoding, chunk.data);
                match self.check {
                    ChunkCheck::Decode => look(chunk.encoding, chunk.data, meta),
                    ChunkCheck::Places | ChunkCheck::Checksums => None,
                }
                .map(|(kind, what)| (kind, "chunk", u64::from(offset), what))
            }
            Err(e) => {
                self.incomplete = true;
                let kind = if matches!(e.kind, ErrorKind::Io(_)) { Kind::UnreadableFile } else { Kind::Chunk };
                Some((kind, e.section, e.offset, e.kind.to_string()))
            }
        };
        report.stats.total_samples += samples;
        if let Some((kind, section, offset, what)) = problem {
            let file = window.file().to_owned();
            report.add(Problem { kind, file, section, offset: Some(offset), series: labels(), what });
        }
        if self.read > self.total().saturating_mul(2) {
            self.given_up = true;
            let what = "chunks are referenced more than once; the rest was not read".to_owned();
            report.add_file(Kind::TooManyReferences, INDEX_FILE, what);
        }
    }

    fn place(&mut self, what: String, labels: &dyn Fn() -> Option<Labels>, at: u64, report: &mut Report) {
        self.incomplete = true;
        report.add(Problem {
            kind: Kind::ChunkReference,
            file: INDEX_FILE.to_owned(),
            section: "series",
            offset: Some(at),
            series: labels(),
            what,
        });
    }

    pub(super) fn finish(self, report: &mut Report) {
        if self.check == ChunkCheck::Places
            || self.incomplete
            || self.given_up
            || report.counts.contains_key(&Kind::Index)
        {
            return;
        }
        let headers = (self.segments.len() * HEADER_LEN) as u64;
        let left = self.total().saturating_sub(headers).saturating_sub(self.read);
        if left > 0 {
            let what = format!("{left} bytes of the segments belong to no series");
            report.add_file(Kind::Unreferenced, crate::segment::CHUNKS_DIR, what);
        }
    }
}

/// Decodes a chunk and compares its times with those in the index.
fn look(encoding: Encoding, data: &[u8], meta: &ChunkMeta) -> Option<(Kind, String)> {
    if let Encoding::Unknown(_) = encoding {
        return Some((Kind::ChunkEncoding, format!("encoding {encoding} can't be read by this version")));
    }
    let stats = match chunk::check(encoding, &Bytes::copy_from_slice(data)) {
        Ok(stats) => stats,
        Err(e) => return Some((Kind::Chunk, e.to_string())),
    };
    if stats.samples == 0 {
        return Some((Kind::Chunk, "it holds no samples".to_owned()));
    }
    if stats.out_of_order > 0 {
        let what = format!("{} of its {} samples are not later than the one before", stats.out_of_order, stats.samples);
        return Some((Kind::SampleOrder, what));
    }
    let fits = match encoding {
        // The counter of a downsampled chunk begins at the first raw sample, before the first window's time; and the time
        // that Thanos writes for a chunk without some aggregate begins at 0.
        Encoding::Aggregate => stats.max_t <= meta.max_time && stats.max_t >= meta.min_time,
        _ => (stats.min_t, stats.max_t) == (meta.min_time, meta.max_time),
    };
    if fits {
        return None;
    }
    let (from, to) = (stats.min_t, stats.max_t);
    let what = format!("its samples go from {from} to {to} ms, the index says {} to {}", meta.min_time, meta.max_time);
    Some((Kind::ChunkTime, what))
}
