//! The index of a block: symbols, series, postings.

use super::files::file_problem;
use super::{Kind, Problem, Report, brief, chunks};
use crate::disk::{Disk, Passing};
use crate::index::{INDEX_FILE, Reader, Series};
use crate::meta::BlockMeta;
use model::Labels;
use model::labels::METRIC_NAME;
use std::path::Path;

pub(super) fn check(
    disk: &dyn Disk,
    dir: &Path,
    meta: Option<&BlockMeta>,
    chunks: &mut chunks::Checker<'_>,
    report: &mut Report,
) {
    let path = dir.join(INDEX_FILE);
    let opened = disk.open_passing(&path).and_then(|file| Ok((Reader::open(INDEX_FILE, file.bytes())?, file)));
    let (index, file) = match opened {
        Ok(opened) => opened,
        Err(e) => return file_problem(report, Kind::Index, INDEX_FILE, &e),
    };
    let mut pages = Pages { file, read: u64::MAX };
    pages.read(0);
    symbols(&index, report);
    let mut seen = Membership::default();
    series(&index, meta, chunks, &mut seen, &mut pages, report);
    postings(&index, &mut seen, &mut pages, report);
}

/// Bytes of the index that are read before they are given back.
const HELD: u64 = 1 << 20;

/// Keeps the pages of the index that count as memory to a few.
struct Pages {
    file: Passing,
    /// Bytes that were read since.
    read: u64,
}

impl Pages {
    fn read(&mut self, bytes: u64) {
        self.read = self.read.saturating_add(bytes);
        if self.read > HELD {
            self.file.release();
            self.read = 0;
        }
    }
}

fn problem(kind: Kind, section: &'static str, offset: u64, series: Option<&Labels>, what: String) -> Problem {
    Problem { kind, file: INDEX_FILE.to_owned(), section, offset: Some(offset), series: series.cloned(), what }
}

fn symbols(index: &Reader, report: &mut Report) {
    let mut last: Option<&[u8]> = None;
    let at = index.toc().symbols;
    for (reference, symbol) in index.symbols().iter() {
        if last.is_some_and(|l| l >= symbol) {
            report.add(problem(Kind::Symbols, "symbols", at, None, format!("symbol {reference} is out of order")));
        }
        if std::str::from_utf8(symbol).is_err() {
            report.add(problem(Kind::Symbols, "symbols", at, None, format!("symbol {reference} is not UTF-8")));
        }
        last = Some(symbol);
    }
}

/// Who has which label, as a sum over all pairs of series and label: the same from the series and from the postings.
#[derive(Default)]
struct Membership {
    from_series: u64,
    from_postings: u64,
    /// Something could not be read, so the sums tell nothing.
    incomplete: bool,
}

fn pair_hash(name: &str, value: &str) -> u64 {
    use xxhash_rust::xxh3::xxh3_64_with_seed;
    xxh3_64_with_seed(value.as_bytes(), xxh3_64_with_seed(name.as_bytes(), 1))
}

fn member(pair: u64, series: u32) -> u64 {
    // Any mixing that is not linear in both.
    let x = (pair ^ u64::from(series)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(pair | 1)
}

/// Bytes of labels that are looked at in any index, and more for each byte of its size: a few bytes may point at a long symbol
/// again and again, and each time costs.
const LABEL_BYTES: u64 = 64 << 20;
const LABEL_BYTES_PER_INDEX_BYTE: u64 = 256;

fn series(
    index: &Reader,
    meta: Option<&BlockMeta>,
    chunks: &mut chunks::Checker<'_>,
    seen: &mut Membership,
    pages: &mut Pages,
    report: &mut Report,
) {
    let all = match index.all() {
        Ok(all) => all,
        Err(e) => {
            seen.incomplete = true;
            return report.add_error(Kind::Postings, INDEX_FILE, &e, None);
        }
    };
    let mut cache = index.symbols().cached();
    let (mut entry, mut last, mut last_reference) = (Series::default(), None::<Labels>, None);
    let mut budget = LABEL_BYTES.saturating_add(index.size().saturating_mul(LABEL_BYTES_PER_INDEX_BYTE));
    for reference in all.iter() {
        let at = index.series_offset(reference);
        if last_reference.is_some_and(|l| l >= reference) {
            let what = format!("series {reference} is out of order in the list of all");
            report.add(problem(Kind::Postings, "postings", at, None, what));
        }
        last_reference = Some(reference);
        report.stats.total_series += 1;
        match index.series(reference, &mut entry) {
            Ok(size) => {
                report.stats.series_max_size = report.stats.series_max_size.max(size as u64);
                pages.read(size as u64 + 4);
            }
            Err(e) => {
                seen.incomplete = true;
                report.add_error(Kind::Series, INDEX_FILE, &e, None);
                continue;
            }
        }
        let labels = match entry.labels(index.file(), at, &mut cache) {
            Ok(labels) => labels,
            Err(e) => {
                seen.incomplete = true;
                report.add_error(Kind::SeriesLabels, INDEX_FILE, &e, None);
                continue;
            }
        };
        budget = match budget.checked_sub(labels.packed_len() as u64) {
            Some(left) => left,
            None => {
                seen.incomplete = true;
                let what =
                    "the labels so far are far longer than an index of this size can mean; the rest was not read";
                report.add(problem(Kind::SeriesLabels, "series", at, None, what.to_owned()));
                return;
            }
        };
        // As the entry tells them: the postings have a list of those without a value, too.
        for (name, value) in &entry.symbols {
            if let (Ok(name), Ok(value)) = (cache.lookup(*name), cache.lookup(*value)) {
                seen.from_series = seen.from_series.wrapping_add(member(pair_hash(name, value), reference));
            }
        }
        check_labels(&entry, &labels, last.as_ref(), at, report);
        check_times(&entry, &labels, meta, at, report);
        chunks.series(&entry, &labels, at, report);
        last = Some(labels);
    }
}

fn check_labels(entry: &Series, labels: &Labels, last: Option<&Labels>, at: u64, report: &mut Report) {
    if labels.is_empty() {
        report.add(problem(Kind::SeriesLabels, "series", at, None, "a series without labels".to_owned()));
    }
    if labels.len() < entry.symbols.len() {
        let what = "a label has no value, which is as if it was not there".to_owned();
        report.add(problem(Kind::EmptyLabel, "series", at, Some(labels), what));
    }
    let inversions = entry.label_inversions();
    if inversions > 0 {
        report.stats.out_of_order_labels += inversions as u64;
        let what = "its labels are out of order".to_owned();
        report.add(problem(Kind::LabelOrder, "series", at, Some(labels), what));
    }
    if let Some(last) = last.filter(|l| *l >= labels) {
        let what = format!("it comes after {}", brief(last));
        report.add(problem(Kind::SeriesOrder, "series", at, Some(labels), what));
    }
    if entry.chunks.is_empty() {
        report.add(problem(Kind::NoChunks, "series", at, Some(labels), "it has no chunks".to_owned()));
    }
}

/// Chunks against each other and against the block's time, by Thanos's rules.
fn check_times(entry: &Series, labels: &Labels, meta: Option<&BlockMeta>, at: u64, report: &mut Report) {
    let mut disorder = 0;
    let mut previous = None::<crate::index::ChunkMeta>;
    for c in &entry.chunks {
        report.stats.total_chunks += 1;
        if c.min_time == c.max_time {
            report.stats.single_sample_chunks += 1;
        }
        let range = || format!("a chunk from {} to {} ms", c.min_time, c.max_time);
        if let Some(m) = meta
            && (c.min_time < m.min_time || c.max_time > m.max_time)
        {
            report.stats.outside_chunks += 1;
            let kind = if c.min_time > m.max_time || c.max_time < m.min_time {
                report.stats.complete_outside_chunks += 1;
                Kind::ChunkCompletelyOutside
            } else if c.min_time == m.max_time {
                report.stats.issue347_outside_chunks += 1;
                Kind::ChunkIssue347
            } else {
                Kind::ChunkOutside
            };
            let what = format!("{}, the block from {} to {}", range(), m.min_time, m.max_time);
            report.add(problem(kind, "series", at, Some(labels), what));
        }
        if let Some(p) = previous.filter(|p| c.min_time <= p.max_time) {
            let what = format!("{} after one from {} to {}", range(), p.min_time, p.max_time);
            if (p.min_time, p.max_time) == (c.min_time, c.max_time) {
                report.stats.duplicated_chunks += 1;
                report.add(problem(Kind::ChunkDuplicate, "series", at, Some(labels), what));
            } else {
                disorder += 1;
                report.add(problem(Kind::ChunkOrder, "series", at, Some(labels), what));
            }
        }
        previous = Some(*c);
    }
    if disorder > 0 {
        report.stats.out_of_order_series += 1;
        report.stats.out_of_order_chunks += disorder;
    }
}

fn postings(index: &Reader, seen: &mut Membership, pages: &mut Pages, report: &mut Report) {
    let table = index.table();
    for name in table.names() {
        let name = match name {
            Ok(name) => name,
            Err(e) => {
                seen.incomplete = true;
                report.add_error(Kind::Postings, INDEX_FILE, &e, None);
                continue;
            }
        };
        report.stats.label_names += 1;
        for entry in table.values(name) {
            let found = entry.and_then(|e| Ok((index.list(&e.list)?, e)));
            let (list, entry) = match found {
                Ok(found) => found,
                Err(e) => {
                    seen.incomplete = true;
                    report.add_error(Kind::Postings, INDEX_FILE, &e, None);
                    continue;
                }
            };
            pages.read(entry.list.end.saturating_sub(entry.list.start).saturating_add(32));
            if name == METRIC_NAME {
                report.stats.metric_names += 1;
            }
            let pair = pair_hash(name, entry.value);
            let mut last = None;
            for reference in list.iter() {
                if last.is_some_and(|l| l >= reference) {
                    let what = format!("series {reference} is out of order in the list of {name}={:?}", entry.value);
                    report.add(problem(Kind::Postings, "postings", entry.list.start, None, what));
                    break;
                }
                last = Some(reference);
                seen.from_postings = seen.from_postings.wrapping_add(member(pair, reference));
            }
        }
    }
    if !seen.incomplete && seen.from_series != seen.from_postings {
        let what = "some series are not in the lists of their labels, or in lists of others".to_owned();
        report.add(problem(Kind::PostingsMismatch, "postings", index.toc().postings, None, what));
    }
}
