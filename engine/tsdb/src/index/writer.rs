//! Writing an index of version 2, byte by byte as Prometheus's writer does for the same input.
//!
//! Symbols first, then series, then [`Writer::finish`]. In memory are about 20 bytes per symbol, if series are told by their
//! labels and not by the numbers of symbols, and, at the end, 12 bytes for each of a million series at least; postings are gathered
//! from the series section that was just written, some label names at a time.

use super::series::{self, ChunkMeta, Series};
use super::symbols::{Symbols, sized};
use super::toc::{MAGIC, Toc, Version};
use super::{ALIGN, HEADER_LEN};
use crate::disk::{Disk, Passing, TempFile};
use crate::error::{Error, Result};
use crate::read::{Cursor, put_sized, put_uvarint};
use bytes::Bytes;
use model::Labels;
use model::labels::is_sorted;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Series references have 32 bits, in units of 16 bytes.
const MAX_SIZE: u64 = 16 * (u32::MAX as u64);
/// Pairs of label value and series that are held at once, at least.
const BATCH: usize = 1 << 20;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series.
    pub series: u64,
    /// Chunks.
    pub chunks: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// Bytes of the longest series entry (Thanos's `series_max_size`).
    pub series_max_size: u64,
}

/// Writes an index.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    name: Arc<str>,
    file: TempFile<'a>,
    position: u64,
    toc: Toc,
    symbol_count: u32,
    /// The number of the empty symbol, if it was added: a label can't have it as its value.
    empty: Option<u32>,
    last_symbol: String,
    symbols: Option<Written>,
    /// Made when the first series is told by its labels.
    lookup: Option<Lookup>,
    /// How many series have each label name, by the number of its symbol.
    uses: hashbrown::HashMap<u32, u64>,
    /// The labels of the series before.
    last: Vec<(u32, u32)>,
    last_chunk: u64,
    stats: Stats,
    out: Vec<u8>,
    body: Vec<u8>,
    references: Vec<(u32, u32)>,
    /// Whether what no writer does is refused; tests of readers have no other way to a block in disorder.
    checked: bool,
    /// See [`BATCH`].
    batch: usize,
}

/// The symbols as they were written.
struct Written {
    symbols: Symbols,
    file: Passing,
}

/// Finds the numbers of symbols by the bytes in the file.
struct Lookup {
    bytes: Bytes,
    /// Place of the symbol in the file (at its length) and its number.
    table: hashbrown::HashTable<(u64, u32)>,
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

impl Lookup {
    fn at(bytes: &Bytes, place: u64) -> &[u8] {
        bytes.get(place as usize..).and_then(sized).map_or(&[], |(s, _)| s)
    }

    fn find(&self, symbol: &str) -> Option<u32> {
        let same = |(place, _): &(u64, u32)| Self::at(&self.bytes, *place) == symbol.as_bytes();
        self.table.find(hash(symbol.as_bytes()), same).map(|(_, n)| *n)
    }
}

impl<'a> Writer<'a> {
    /// Begins the file `path` (as `<path>.tmp` until [`Writer::finish`]).
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(disk: &'a dyn Disk, path: &Path) -> Result<Self> {
        let file = TempFile::create(disk, path)?;
        let mut writer = Self {
            disk,
            path: path.to_owned(),
            name: path.display().to_string().into(),
            file,
            position: 0,
            toc: Toc::default(),
            symbol_count: 0,
            empty: None,
            last_symbol: String::new(),
            symbols: None,
            lookup: None,
            uses: hashbrown::HashMap::new(),
            last: Vec::new(),
            last_chunk: 0,
            stats: Stats::default(),
            out: Vec::new(),
            body: Vec::new(),
            references: Vec::new(),
            checked: true,
            batch: BATCH,
        };
        writer.put(&MAGIC.to_be_bytes())?;
        writer.put(&[Version::V2.byte()])?;
        writer.toc.symbols = writer.position;
        // Length and count: written when they are known.
        writer.put(&[0; 8])?;
        Ok(writer)
    }

    /// Takes series and chunks in any order, and writes labels backwards where one is called `reversed`.
    #[cfg(test)]
    pub(crate) fn allow_disorder(&mut self) {
        self.checked = false;
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        if self.position > MAX_SIZE {
            return Err(self.refused("index", "an index can't be larger than 64 GiB"));
        }
        self.file.write(bytes)
    }

    fn refused(&self, section: &'static str, what: impl Into<String>) -> Error {
        Error::refused(&self.name, section, what)
    }

    fn pad(&mut self, to: u64) -> Result<()> {
        let over = self.position % to;
        let zeros = [0u8; ALIGN as usize];
        if over > 0 { self.put(zeros.get(..(to - over) as usize).unwrap_or_default()) } else { Ok(()) }
    }

    /// Adds a symbol: every label name and value of the block, sorted, each once; before the first series.
    ///
    /// # Errors
    /// When it is out of order, or series were added already, or the disk refuses.
    pub fn add_symbol(&mut self, symbol: &str) -> Result<()> {
        if self.symbols.is_some() {
            return Err(self.refused("symbols", "a symbol after the first series"));
        }
        if self.symbol_count > 0 && symbol <= self.last_symbol.as_str() {
            let what = format!("symbol {symbol:?} comes after {:?}: they must be sorted", self.last_symbol);
            return Err(self.refused("symbols", what));
        }
        let Some(count) = self.symbol_count.checked_add(1) else {
            return Err(self.refused("symbols", "more than 2^32 symbols"));
        };
        if symbol.is_empty() {
            self.empty = Some(0);
        }
        self.symbol_count = count;
        symbol.clone_into(&mut self.last_symbol);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        put_sized(&mut out, symbol.as_bytes());
        let done = self.put(&out);
        self.out = out;
        done
    }

    fn finish_symbols(&mut self) -> Result<()> {
        if self.symbols.is_some() {
            return Ok(());
        }
        let length = self.position - self.toc.symbols - 4;
        let Ok(length) = u32::try_from(length) else {
            return Err(self.refused("symbols", "the symbols are larger than 4 GiB"));
        };
        self.file.write_at(self.toc.symbols, &length.to_be_bytes())?;
        self.file.write_at(self.toc.symbols + 4, &self.symbol_count.to_be_bytes())?;
        self.file.flush()?;
        let content = self.disk.open(self.file.path())?;
        let from = self.toc.symbols as usize + 4;
        let crc = crc32c::crc32c(content.get(from..).unwrap_or_default());
        drop(content);
        self.put(&crc.to_be_bytes())?;
        self.file.flush()?;
        let file = self.disk.open_passing(self.file.path())?;
        let symbols = Symbols::read(self.name.clone(), file.bytes(), Version::V2, self.toc.symbols, 0)?;
        file.release();
        self.symbols = Some(Written { symbols, file });
        self.toc.series = self.position;
        Ok(())
    }

    /// The way from symbols to their numbers.
    fn lookup(&mut self) -> Result<()> {
        if self.lookup.is_some() {
            return Ok(());
        }
        let bytes = self.disk.open(self.file.path())?;
        let mut table = hashbrown::HashTable::with_capacity(self.symbol_count as usize);
        let mut place = self.toc.symbols + 8;
        for n in 0..self.symbol_count {
            let symbol = Lookup::at(&bytes, place);
            table.insert_unique(hash(symbol), (place, n), |(p, _)| hash(Lookup::at(&bytes, *p)));
            self.out.clear();
            put_uvarint(&mut self.out, symbol.len() as u64);
            place += (self.out.len() + symbol.len()) as u64;
        }
        self.lookup = Some(Lookup { bytes, table });
        Ok(())
    }

    /// Adds a series. Gives its reference, as postings have it.
    ///
    /// # Errors
    /// When its labels are not behind those of the series before, a symbol was not added, chunks overlap, go back in time
    /// or in the files, or the disk refuses.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[ChunkMeta]) -> Result<u32> {
        self.finish_symbols()?;
        self.lookup()?;
        if self.checked && !is_sorted(labels) {
            return Err(self.refused("series", format!("a series must have labels, sorted: {labels}")));
        }
        let mut numbers = std::mem::take(&mut self.references);
        numbers.clear();
        for (name, value) in labels {
            let find = |s: &str| self.lookup.as_ref()?.find(s);
            let (Some(n), Some(v)) = (find(name), find(value)) else {
                return Err(self.refused("series", format!("of {name:?} and {value:?} one is not among the symbols")));
            };
            numbers.push((n, v));
        }
        if !self.checked && labels.get("reversed").is_some() {
            numbers.reverse();
        }
        let added = self.add_numbered(&numbers, chunks);
        self.references = numbers;
        added
    }

    /// As [`Writer::add_series`], its labels told by the numbers of name and value among the symbols, from 0: nothing is looked up
    /// then.
    ///
    /// # Errors
    /// As [`Writer::add_series`].
    pub fn add_numbered(&mut self, labels: &[(u32, u32)], chunks: &[ChunkMeta]) -> Result<u32> {
        self.finish_symbols()?;
        if self.checked {
            self.check(labels, chunks)?;
        }
        for (n, _) in labels {
            *self.uses.entry(*n).or_default() += 1;
        }
        self.pad(ALIGN)?;
        let Ok(reference) = u32::try_from(self.position / ALIGN) else {
            return Err(self.refused("series", "an index can't be larger than 64 GiB"));
        };
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        series::write(&mut out, &mut self.body, labels, chunks);
        self.put(&out)?;
        self.stats.series_max_size = self.stats.series_max_size.max(out.len() as u64);
        self.out = out;
        self.stats.series += 1;
        self.stats.chunks += chunks.len() as u64;
        self.last.clear();
        self.last.extend_from_slice(labels);
        if let Some(c) = chunks.last() {
            self.last_chunk = c.reference;
        }
        Ok(reference)
    }

    /// Labels by their numbers, for errors.
    fn named(&self, labels: &[(u32, u32)]) -> String {
        let Some(Written { symbols, .. }) = &self.symbols else { return String::new() };
        let text = |n: u32| symbols.lookup(n).unwrap_or("?");
        Labels::from_pairs(labels.iter().map(|(n, v)| (text(*n), text(*v)))).to_string()
    }

    fn check(&self, labels: &[(u32, u32)], chunks: &[ChunkMeta]) -> Result<()> {
        // Symbols are sorted, so the order of their numbers is that of the texts.
        if labels.is_empty() || !labels.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(self.refused("series", format!("a series must have labels, sorted: {}", self.named(labels))));
        }
        let empty = |(n, v): &(u32, u32)| self.empty.is_some_and(|empty| *n == empty || *v == empty);
        if labels.iter().any(|label| label.0.max(label.1) >= self.symbol_count || empty(label)) {
            return Err(self.refused("series", "a label has no name or no value, or is not among the symbols"));
        }
        if self.stats.series > 0 && self.last.as_slice() >= labels {
            let (this, last) = (self.named(labels), self.named(&self.last));
            return Err(self.refused("series", format!("series {this} comes after {last}: they must be sorted")));
        }
        let (mut reference, mut end) = (self.last_chunk, None);
        for c in chunks {
            if c.reference < reference {
                let what =
                    format!("a chunk of {} lies at {}, the one before at {reference}", self.named(labels), c.reference);
                return Err(self.refused("series", what));
            }
            if c.max_time < c.min_time || end.is_some_and(|e| c.min_time <= e) {
                let what = format!(
                    "a chunk of {} goes from {} to {} ms, after one that ends at {end:?}",
                    self.named(labels),
                    c.min_time,
                    c.max_time
                );
                return Err(self.refused("series", what));
            }
            (reference, end) = (c.reference, Some(c.max_time));
        }
        Ok(())
    }

    /// Writes postings and tables, and gives the file its name.
    ///
    /// # Errors
    /// When the disk refuses; there is no file then.
    pub fn finish(mut self) -> Result<Stats> {
        self.finish_symbols()?;
        self.file.flush()?;
        self.lookup = None;
        let file = self.disk.open_passing(self.file.path())?;
        let section = Section { bytes: file.bytes().slice(self.toc.series as usize..), file };
        // No label indices: their place is where the series end.
        self.toc.label_indices = self.position;
        self.toc.postings = self.position;

        let mut spill_path = self.path.clone().into_os_string();
        spill_path.push("_postings_table");
        // The table follows the lists but grows with them; it waits in a file of its own, which is never committed.
        let mut spill = TempFile::create(self.disk, Path::new(&spill_path))?;
        let entries = self.write_lists(&section, &mut spill)?;
        drop(section);
        spill.flush()?;
        let spilled = self.disk.open_passing(spill.path())?;
        let table = spilled.bytes();

        self.toc.label_indices_table = self.position;
        self.toc.postings_table = self.position;
        let Ok(length) = u32::try_from(table.len() + 4) else {
            return Err(self.refused("postings table", "it is larger than 4 GiB"));
        };
        self.put(&length.to_be_bytes())?;
        self.put(&entries.to_be_bytes())?;
        let mut crc = crc32c::crc32c(&entries.to_be_bytes());
        for part in table.chunks(HELD as usize) {
            self.put(part)?;
            crc = crc32c::crc32c_append(crc, part);
            spilled.release();
        }
        self.put(&crc.to_be_bytes())?;
        drop((table, spilled, spill));
        let toc = self.toc.write();
        self.put(&toc)?;
        let stats = Stats { size: self.position, ..self.stats };
        self.file.commit()?;
        Ok(stats)
    }

    fn write_lists(&mut self, section: &Section, spill: &mut TempFile<'_>) -> Result<u32> {
        let mut all = Vec::with_capacity(self.stats.series as usize);
        section.walk(&self.name, self.toc.series, |reference, _| all.push(reference))?;
        let mut entries = 0;
        self.write_list(spill, &mut entries, "", "", &all)?;
        let limit = all.len().max(self.batch);
        drop(all);

        let Some(written) = self.symbols.take() else { return Ok(entries) };
        let mut read = 0;
        // Symbols are sorted, so the order of their numbers is that of the names.
        let mut names: Vec<(u32, u64)> = std::mem::take(&mut self.uses).into_iter().collect();
        names.sort_unstable();
        let mut pairs: Vec<(u32, u32, u32)> = Vec::new();
        let mut rest = names.as_slice();
        while let Some((_, first_uses)) = rest.first() {
            let (mut take, mut total) = (1, *first_uses);
            while let Some((_, uses)) = rest.get(take).filter(|(_, u)| total + u <= limit as u64) {
                total += uses;
                take += 1;
            }
            let (batch, tail) = rest.split_at_checked(take).unwrap_or((rest, &[]));
            rest = tail;
            pairs.clear();
            pairs.reserve_exact(usize::try_from(total).unwrap_or(0));
            section.walk(&self.name, self.toc.series, |reference, labels| {
                for (name, value) in labels {
                    if batch.binary_search_by_key(name, |(n, _)| *n).is_ok() {
                        pairs.push((*name, *value, reference));
                    }
                }
            })?;
            pairs.sort_unstable();
            let mut references = Vec::new();
            for list in pairs.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
                let Some((name, value, _)) = list.first() else { continue };
                references.clear();
                references.extend(list.iter().map(|p| p.2));
                let (name, value) = (written.symbols.lookup(*name)?, written.symbols.lookup(*value)?);
                read += value.len() as u64 + 1;
                if read > HELD {
                    written.file.release();
                    read = 0;
                }
                self.write_list(spill, &mut entries, name, value, &references)?;
            }
        }
        Ok(entries)
    }

    fn write_list(
        &mut self,
        spill: &mut TempFile<'_>,
        entries: &mut u32,
        name: &str,
        value: &str,
        references: &[u32],
    ) -> Result<()> {
        self.pad(4)?;
        let place = self.position;
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let count = references.len() as u32;
        let Some(length) = count.checked_mul(4).and_then(|n| n.checked_add(4)) else {
            return Err(self.refused("postings", "a list is larger than 4 GiB"));
        };
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        for r in references {
            out.extend_from_slice(&r.to_be_bytes());
        }
        let crc = crc32c::crc32c(out.get(4..).unwrap_or_default());
        out.extend_from_slice(&crc.to_be_bytes());
        self.put(&out)?;
        out.clear();
        put_uvarint(&mut out, 2);
        put_sized(&mut out, name.as_bytes());
        put_sized(&mut out, value.as_bytes());
        put_uvarint(&mut out, place);
        spill.write(&out)?;
        self.out = out;
        *entries =
            entries.checked_add(1).ok_or_else(|| self.refused("postings table", "more than 2^32 label pairs"))?;
        Ok(())
    }
}

/// Bytes of a file that are read before its pages are given back.
const HELD: u64 = 1 << 20;

/// The series as they were written.
struct Section {
    bytes: Bytes,
    file: Passing,
}

impl Section {
    /// Calls `f` with the reference and the labels of each series; the section lies at `at` in the file.
    fn walk(&self, file: &str, at: u64, mut f: impl FnMut(u32, &[(u32, u32)])) -> Result<()> {
        let mut series = Series::default();
        let mut place = at.next_multiple_of(ALIGN);
        let mut given_back = place;
        while let Some(rest) = self.bytes.get((place - at) as usize..).filter(|r| !r.is_empty()) {
            let mut cursor = Cursor::new(file, "series", rest, place);
            let length = cursor.length()?;
            let body = cursor.take(length)?;
            series.read_labels(Cursor::new(file, "series", body, cursor.offset()))?;
            cursor.be32()?;
            f((place / ALIGN) as u32, &series.symbols);
            place = (place + cursor.position() as u64).next_multiple_of(ALIGN);
            if place - given_back > HELD {
                self.file.release();
                given_back = place;
            }
        }
        Ok(())
    }
}

const _: () = assert!(HEADER_LEN == 5, "the symbols begin behind magic and version");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    /// Label names that are gathered in several rounds make the same file.
    #[test]
    fn rounds_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let write = |batch: usize| {
            let path = dir.path().join(format!("index-{batch}"));
            let mut writer = Writer::create(&RealDisk, &path).unwrap();
            writer.batch = batch;
            let mut symbols: Vec<String> = (0..50).map(|i| format!("v{i:02}")).collect();
            symbols.extend(["a", "b", "c", "d"].map(str::to_owned));
            symbols.sort();
            for symbol in &symbols {
                writer.add_symbol(symbol).unwrap();
            }
            for i in 0..50i64 {
                let v = |n: i64| format!("v{:02}", n);
                let mut pairs = vec![("a", v(i)), ("b", v(i % 7)), ("c", v(0))];
                if i % 3 == 0 {
                    pairs.push(("d", v(i % 5)));
                }
                let chunk = ChunkMeta { min_time: i, max_time: i, reference: i as u64 };
                writer.add_series(&Labels::from_pairs(pairs), &[chunk]).unwrap();
            }
            let stats = writer.finish().unwrap();
            assert_eq!((stats.series, stats.chunks), (50, 50));
            std::fs::read(path).unwrap()
        };
        // 167 pairs: at once, and name by name (a round holds one pair per series at least).
        assert!(write(BATCH) == write(1));
    }
}
