//! The index of a block: symbols, series, postings.

use super::files::file_problem;
use super::{Kind, Problem, Report, brief, chunks};
use crate::disk::{Disk, Passing};
use crate::index::{CachedSymbols, INDEX_FILE, MAX_LABEL_BYTES, Reader, Series};
use crate::meta::BlockMeta;
use model::Labels;
use model::labels::METRIC_NAME;
use std::cell::OnceCell;
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

fn problem(kind: Kind, section: &'static str, offset: u64, series: Option<Labels>, what: String) -> Problem {
    Problem { kind, file: INDEX_FILE.to_owned(), section, offset: Some(offset), series, what }
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

/// Pairs of symbols that are remembered.
const PAIRS: usize = 4096;

/// What is known of a pair of symbols.
#[derive(Clone, Copy, Default)]
struct Pair {
    symbols: (u32, u32),
    hash: u64,
    /// Bytes of both; 0 where nothing is known, since a name has at least one.
    length: u64,
    has_value: bool,
}

/// Pairs that were asked for last: most labels of a series are those of many others.
struct Pairs<'a> {
    symbols: CachedSymbols<'a>,
    known: Box<[Pair]>,
    /// Bytes of symbols that were looked at.
    looked: u64,
}

impl Pairs<'_> {
    /// `None` if one can't be read, or the name is empty.
    fn of(&mut self, symbols: (u32, u32)) -> Option<Pair> {
        let place = (symbols.0.wrapping_mul(0x9e37_79b1) ^ symbols.1) as usize % PAIRS;
        let known = self.known.get_mut(place)?;
        if known.symbols != symbols || known.length == 0 {
            let (name, value) = (self.symbols.lookup(symbols.0).ok()?, self.symbols.lookup(symbols.1).ok()?);
            if name.is_empty() {
                return None;
            }
            let length = (name.len() + value.len()) as u64;
            self.looked = self.looked.saturating_add(length);
            *known = Pair { symbols, hash: pair_hash(name, value), length, has_value: !value.is_empty() };
        }
        Some(*known)
    }
}

/// Whether the symbols of an entry are labels as they should be, with nothing to put right; they are counted in then.
fn plain(symbols: &[(u32, u32)], reference: u32, pairs: &mut Pairs<'_>, seen: &mut Membership) -> bool {
    let (mut sum, mut length) = (0u64, 0u64);
    let fine = symbols.is_sorted_by(|a, b| a.0 < b.0)
        && symbols.iter().all(|symbols| {
            let Some(pair) = pairs.of(*symbols).filter(|p| p.has_value) else { return false };
            sum = sum.wrapping_add(member(pair.hash, reference));
            length += pair.length;
            length <= MAX_LABEL_BYTES as u64
        });
    if fine {
        seen.from_series = seen.from_series.wrapping_add(sum);
    }
    fine
}

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
    // Where symbols are sorted, labels are in the order of their numbers, and need not be read.
    let sorted = !report.counts.contains_key(&Kind::Symbols);
    let known = vec![Pair::default(); PAIRS].into_boxed_slice();
    let mut pairs = Pairs { symbols: index.symbols().cached(), known, looked: 0 };
    let mut entry = Series::default();
    let (mut last, mut last_reference) = (None::<Last>, None);
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
        let read = |symbols: &mut CachedSymbols<'_>| entry.labels(index.file(), at, symbols);
        let is_plain = sorted && plain(&entry.symbols, reference, &mut pairs, seen);
        let mut labels = None;
        if !is_plain {
            match read(&mut pairs.symbols) {
                Ok(read) => {
                    pairs.looked = pairs.looked.saturating_add(read.packed_len() as u64);
                    labels = Some(read);
                }
                Err(e) => {
                    seen.incomplete = true;
                    report.add_error(Kind::SeriesLabels, INDEX_FILE, &e, None);
                    continue;
                }
            }
        }
        budget = match budget.checked_sub(std::mem::take(&mut pairs.looked)) {
            Some(left) => left,
            None => {
                seen.incomplete = true;
                let what =
                    "the labels so far are far longer than an index of this size can mean; the rest was not read";
                report.add(problem(Kind::SeriesLabels, "series", at, None, what.to_owned()));
                return;
            }
        };
        if !is_plain {
            // As the entry tells them: the postings have a list of those without a value, too.
            for (name, value) in &entry.symbols {
                if let (Ok(name), Ok(value)) = (pairs.symbols.lookup(*name), pairs.symbols.lookup(*value)) {
                    seen.from_series = seen.from_series.wrapping_add(member(pair_hash(name, value), reference));
                }
            }
        }
        // At most once for a series, and out of the same budget: each of many chunks may be told.
        let told = OnceCell::new();
        let named = || {
            let all = || labels.clone().or_else(|| read(&mut index.symbols().cached()).ok());
            told.get_or_init(all).clone()
        };
        let this = match &labels {
            Some(labels) => Last::Labels(labels.clone()),
            None => Last::Symbols(entry.symbols.clone()),
        };
        check_labels(&entry, (&this, last.as_ref()), index, &named, at, report);
        check_times(&entry, &named, meta, at, report);
        chunks.series(&entry, &named, at, report);
        let told = told.get().and_then(Option::as_ref).map_or(0, Labels::packed_len);
        pairs.looked = pairs.looked.saturating_add(told as u64);
        last = Some(this);
    }
}

/// The labels of a series, to be compared with those of the one behind it.
enum Last {
    /// Sorted, of sorted symbols.
    Symbols(Vec<(u32, u32)>),
    Labels(Labels),
}

impl Last {
    fn labels(&self, index: &Reader) -> Labels {
        match self {
            Self::Labels(labels) => labels.clone(),
            Self::Symbols(symbols) => {
                let text = |n: &u32| index.symbols().lookup(*n).unwrap_or_default();
                Labels::from_sorted(symbols.iter().map(|(n, v)| (text(n), text(v))))
            }
        }
    }

    fn is_before(&self, other: &Self, index: &Reader) -> bool {
        match (self, other) {
            (Self::Symbols(a), Self::Symbols(b)) => a < b,
            _ => self.labels(index) < other.labels(index),
        }
    }
}

fn check_labels(
    entry: &Series,
    (this, last): (&Last, Option<&Last>),
    index: &Reader,
    labels: &dyn Fn() -> Option<Labels>,
    at: u64,
    report: &mut Report,
) {
    let count = match this {
        Last::Symbols(symbols) => symbols.len(),
        Last::Labels(labels) => labels.len(),
    };
    if count == 0 {
        report.add(problem(Kind::SeriesLabels, "series", at, None, "a series without labels".to_owned()));
    }
    if count < entry.symbols.len() {
        let what = "a label has no value, which is as if it was not there".to_owned();
        report.add(problem(Kind::EmptyLabel, "series", at, labels(), what));
    }
    let inversions = entry.label_inversions();
    if inversions > 0 {
        report.stats.out_of_order_labels += inversions as u64;
        let what = "its labels are out of order".to_owned();
        report.add(problem(Kind::LabelOrder, "series", at, labels(), what));
    }
    if let Some(last) = last.filter(|last| !last.is_before(this, index)) {
        let what = format!("it comes after {}", brief(&last.labels(index)));
        report.add(problem(Kind::SeriesOrder, "series", at, labels(), what));
    }
    if entry.chunks.is_empty() {
        report.add(problem(Kind::NoChunks, "series", at, labels(), "it has no chunks".to_owned()));
    }
}

/// Chunks against each other and against the block's time, by Thanos's rules.
fn check_times(
    entry: &Series,
    labels: &dyn Fn() -> Option<Labels>,
    meta: Option<&BlockMeta>,
    at: u64,
    report: &mut Report,
) {
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
            report.add(problem(kind, "series", at, labels(), what));
        }
        if let Some(p) = previous.filter(|p| c.min_time <= p.max_time) {
            let what = format!("{} after one from {} to {}", range(), p.min_time, p.max_time);
            if (p.min_time, p.max_time) == (c.min_time, c.max_time) {
                report.stats.duplicated_chunks += 1;
                report.add(problem(Kind::ChunkDuplicate, "series", at, labels(), what));
            } else {
                disorder += 1;
                report.add(problem(Kind::ChunkOrder, "series", at, labels(), what));
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
