//! The index of a block: which series there are, by which labels they are found, where their chunks lie.
//!
//! Version 2 is read and written, version 1 is read. See FORMAT.md.

pub mod postings;
mod select;
mod series;
mod symbols;
mod table;
mod toc;
mod writer;

pub use postings::Postings;
pub use select::{ASK_EVERY, Group, Plan};
pub use series::{ChunkMeta, MAX_LABEL_BYTES, Series};
pub use symbols::{CachedSymbols, SymbolMemory, Symbols};
pub use table::{PostingsTable, ValueEntry, Values};
pub use toc::{HEADER_LEN, MAGIC, TOC_LEN, Toc, Version, read_header};
pub use writer::{Stats, Writer};

use crate::error::{Error, Result};
use crate::read::framed;
use bytes::Bytes;
use model::Matcher;
use std::ops::Range;
use std::sync::Arc;

/// The file's name in the folder of its block.
pub const INDEX_FILE: &str = "index";

/// Series of version 2 begin at multiples of this.
const ALIGN: u64 = 16;

/// An index, read in place: in memory are some bytes per 16 symbols and per 32 label values.
#[derive(Clone, Debug)]
pub struct Reader {
    file: Arc<str>,
    bytes: Bytes,
    version: Version,
    toc: Toc,
    symbols: Symbols,
    table: PostingsTable,
}

impl Reader {
    /// Opens the index in `bytes`; `file` is named in errors. Header, table of contents, symbols and postings table are
    /// verified; series and postings lists are when they are read.
    ///
    /// # Errors
    /// When one of those is damaged, or the version is not known.
    pub fn open(file: impl Into<Arc<str>>, bytes: Bytes) -> Result<Self> {
        let file = file.into();
        let version = read_header(&file, &bytes)?;
        let toc_at = bytes.len().saturating_sub(TOC_LEN);
        let toc = Toc::read(&file, bytes.get(toc_at..).unwrap_or_default(), bytes.len() as u64)?;
        let symbols = Symbols::read(file.clone(), bytes.clone(), version, toc.symbols, 0)?;
        let table = PostingsTable::read(file.clone(), bytes.clone(), version, toc.postings_table, toc.postings_table)?;
        Ok(Self { file, bytes, version, toc, symbols, table })
    }

    /// The name that errors carry.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The format's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the sections begin.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The symbols.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The postings offset table: label names, values, and where their lists lie.
    pub fn table(&self) -> &PostingsTable {
        &self.table
    }

    /// The list at a place that the table told.
    ///
    /// # Errors
    /// When the list is damaged.
    pub fn list(&self, place: &Range<u64>) -> Result<Postings<'_>> {
        let frame = framed(&self.file, "postings", &self.bytes, place.start, "index-crc")?;
        list_of(frame)
    }

    /// The series that have this label pair; none if no series has it.
    ///
    /// # Errors
    /// When the list is damaged.
    pub fn postings(&self, name: &str, value: &str) -> Result<Postings<'_>> {
        self.table.find(name, value).map_or(Ok(Postings::default()), |place| self.list(&place))
    }

    /// All series, in the order of their labels.
    ///
    /// # Errors
    /// When the list is damaged.
    pub fn all(&self) -> Result<Postings<'_>> {
        self.postings("", "")
    }

    /// The series that pass all matchers, ascending.
    ///
    /// # Errors
    /// When a list is damaged.
    pub fn select(&self, matchers: &[Matcher]) -> Result<Vec<u32>> {
        Plan::new(&self.table, matchers)?.evaluate(|place| self.list(place))
    }

    /// Where the entry of a series begins, in bytes from the start of the file.
    pub fn series_offset(&self, reference: u32) -> u64 {
        series_offset(self.version, reference)
    }

    /// Reads the entry of a series into `series`. Gives its size in bytes.
    ///
    /// # Errors
    /// When there is no entry at this place, or it is damaged.
    pub fn series(&self, reference: u32, series: &mut Series) -> Result<usize> {
        let at = self.series_offset(reference);
        let section = self.toc.series..self.toc.series_end().min(self.size());
        if !section.contains(&at) {
            let what = format!(
                "series {reference} would lie at {at}, the series are from {} to {}",
                section.start, section.end
            );
            return Err(Error::corrupt(&self.file, "series", at, what));
        }
        let (from, to) = (at as usize, section.end as usize);
        series.read(&self.file, self.bytes.get(from..to).unwrap_or_default(), at)
    }
}

/// Where the entry of a series begins in an index of this version.
pub fn series_offset(version: Version, reference: u32) -> u64 {
    match version {
        Version::V1 => u64::from(reference),
        Version::V2 => u64::from(reference) * ALIGN,
    }
}

/// Reads a list that was fetched alone: `bytes` are those of [`ValueEntry::list`], which begin at `at` in the index.
///
/// # Errors
/// When the list is damaged.
pub fn read_list<'a>(file: &'a str, bytes: &'a [u8], at: u64) -> Result<Postings<'a>> {
    let frame = framed(file, "postings", bytes, 0, "index-crc").map_err(|mut e| {
        e.offset = e.offset.saturating_add(at);
        e
    })?;
    list_of(frame)
}

fn list_of(mut frame: crate::read::Cursor<'_>) -> Result<Postings<'_>> {
    let count = frame.be32()? as usize;
    if frame.left() != count.saturating_mul(4) {
        return Err(frame.corrupt(format!("{count} references are announced, {} bytes are there", frame.left())));
    }
    let left = frame.left();
    Ok(Postings::from_bytes(frame.take(left)?))
}
