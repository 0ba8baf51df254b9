//! Index-header: the part of an index that a reader of a bucket keeps at hand (Thanos's file format, version 1).
//!
//! It holds the symbols and the postings offset table, byte by byte, fetched from the index by ranged reads. See FORMAT.md.

use crate::disk::{Disk, TempFile};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{self, PostingsTable, Symbols, TOC_LEN, Toc, Version};
use crate::read::{Cursor, check_crc};
use bytes::Bytes;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The file's name in the folder of its block.
pub const HEADER_FILE: &str = "index-header";
/// The first four bytes.
pub const MAGIC: u32 = 0xBAAA_D792;
const VERSION: u8 = 1;
/// Magic, version, the index's version, place of the postings table.
const HEAD_LEN: usize = 4 + 1 + 1 + 8;
/// Table of contents at the end.
const OWN_TOC_LEN: usize = 8 + 8 + 4;
/// How much of the index [`build`] asks for at once.
const PART: u64 = 16 << 20;

/// Which parts of an index make up its index-header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The index's version.
    pub version: Version,
    /// Symbols, in bytes of the index.
    pub symbols: Range<u64>,
    /// Postings offset table up to the end of the file.
    pub table: Range<u64>,
}

impl Layout {
    /// From the first [`index::HEADER_LEN`] and the last [`TOC_LEN`] bytes of an index of `size` bytes, named `file`.
    ///
    /// # Errors
    /// When they are not those of an index.
    pub fn new(file: &str, size: u64, first: &[u8], last: &[u8]) -> Result<Self> {
        let version = index::read_header(file, first)?;
        let toc = Toc::read(file, last, size)?;
        Ok(Self { version, symbols: toc.symbols..toc.series, table: toc.postings_table..size })
    }

    /// Size of the index-header in bytes.
    pub fn size(&self) -> u64 {
        let parts = (self.symbols.end - self.symbols.start) + (self.table.end - self.table.start);
        parts + (HEAD_LEN + OWN_TOC_LEN) as u64
    }
}

/// Writes an index-header: symbols, then the table, in as many pieces as one likes.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    file: TempFile<'a>,
    /// The name that the file will have.
    name: String,
    layout: Layout,
    written: u64,
}

impl<'a> Writer<'a> {
    /// Begins the file `path` (as `<path>.tmp` until [`Writer::finish`]).
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(disk: &'a dyn Disk, path: &Path, layout: Layout) -> Result<Self> {
        let mut file = TempFile::create(disk, path)?;
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend_from_slice(&MAGIC.to_be_bytes());
        head.push(VERSION);
        head.push(layout.version.byte());
        head.extend_from_slice(&layout.table.start.to_be_bytes());
        file.write(&head)?;
        Ok(Self { disk, file, name: path.display().to_string(), layout, written: HEAD_LEN as u64 })
    }

    /// The next bytes of the index, of [`Layout::symbols`] and then of [`Layout::table`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.file.write(bytes)
    }

    /// Verifies what was written, and gives the file its name; it is open then.
    ///
    /// # Errors
    /// When bytes are missing or damaged, or the disk refuses; there is no file then.
    pub fn finish(mut self) -> Result<Reader> {
        let size = self.layout.size();
        let expected = size - OWN_TOC_LEN as u64;
        if self.written != expected {
            return Err(Error::refused(self.name, "parts", format!("{} bytes came, not {expected}", self.written)));
        }
        let mut toc = Vec::with_capacity(OWN_TOC_LEN);
        toc.extend_from_slice(&(HEAD_LEN as u64).to_be_bytes());
        let table = HEAD_LEN as u64 + (self.layout.symbols.end - self.layout.symbols.start);
        toc.extend_from_slice(&table.to_be_bytes());
        toc.extend_from_slice(&crc32c::crc32c(&toc).to_be_bytes());
        self.file.write(&toc)?;
        self.file.flush()?;
        let reader = Reader::open(self.name, self.disk.open(self.file.path())?)?;
        self.file.commit()?;
        Ok(reader)
    }
}

/// Builds the index-header `path` of an index named `file` of `size` bytes, and opens it; `fetch` gives bytes of the index, of
/// at most 16 MiB at once.
///
/// # Errors
/// Those of `fetch`, those of the disk, and when the index is damaged.
pub fn build(
    disk: &dyn Disk,
    path: &Path,
    file: &str,
    size: u64,
    mut fetch: impl FnMut(Range<u64>) -> Result<Bytes>,
) -> Result<Reader> {
    let first = fetch(0..(index::HEADER_LEN as u64).min(size))?;
    let last = fetch(size.saturating_sub(TOC_LEN as u64)..size)?;
    let layout = Layout::new(file, size, &first, &last)?;
    let parts = [layout.symbols.clone(), layout.table.clone()];
    let mut writer = Writer::create(disk, path, layout)?;
    for part in parts {
        let mut at = part.start;
        while at < part.end {
            let end = at.saturating_add(PART).min(part.end);
            writer.write(&fetch(at..end)?)?;
            at = end;
        }
    }
    writer.finish()
}

/// An index-header, read in place.
#[derive(Clone, Debug)]
pub struct Reader {
    version: Version,
    symbols: Symbols,
    table: PostingsTable,
    series: Range<u64>,
    size: u64,
}

impl Reader {
    /// Opens an index-header; `file` is named in errors. All of it is verified.
    ///
    /// # Errors
    /// When it is damaged or its version is not known: build it again.
    pub fn open(file: impl Into<Arc<str>>, bytes: Bytes) -> Result<Self> {
        let file = file.into();
        let mut head = Cursor::new(&file, "header", &bytes, 0);
        let magic = head.be32()?;
        if magic != MAGIC {
            let what = format!("it begins with {magic:08x}, an index-header with {MAGIC:08x}");
            return Err(Error::corrupt(&file, "header", 0, what));
        }
        let version = head.u8()?;
        if version != VERSION {
            let what = format!("version {version} of the index-header is not known, only {VERSION}");
            return Err(Error::new(&file, "header", 4, ErrorKind::Version(what)));
        }
        let version = Version::from_byte(&file, 5, head.u8()?)?;
        let lists_end = head.be64()?;
        let size = bytes.len();
        let toc_at = size.saturating_sub(OWN_TOC_LEN);
        let mut toc = Cursor::new(&file, "table of contents", bytes.get(toc_at..).unwrap_or_default(), toc_at as u64);
        let content = toc.take(OWN_TOC_LEN - 4)?;
        let expected = toc.be32()?;
        if !model::protection::off("header-crc") {
            check_crc(&file, "table of contents", toc_at as u64, content, expected)?;
        }
        let mut toc = Cursor::new(&file, "table of contents", content, toc_at as u64);
        let (symbols_at, table_at) = (toc.be64()?, toc.be64()?);
        // The copy of the table goes to the end of the index, so the index's table of contents is there, too: in front of
        // ours. It tells where the symbols began, by which references of version 1 move.
        let copy_at = toc_at.saturating_sub(TOC_LEN);
        let original = Toc::read_copy(&file, bytes.get(copy_at..toc_at).unwrap_or_default(), copy_at as u64)?;
        if original.postings_table != lists_end || symbols_at < HEAD_LEN as u64 {
            let what = format!("the postings table is told at {lists_end} and at {}", original.postings_table);
            return Err(Error::corrupt(&file, "header", 6, what));
        }
        let shift = (symbols_at as i64).wrapping_sub(original.symbols as i64);
        let symbols = Symbols::read(file.clone(), bytes.clone(), version, symbols_at, shift)?;
        let table = PostingsTable::read(file.clone(), bytes.clone(), version, table_at, lists_end)?;
        let series = original.series..original.series_end();
        Ok(Self { version, symbols, table, series, size: size as u64 })
    }

    /// The version of the index.
    pub fn index_version(&self) -> Version {
        self.version
    }

    /// The symbols: references in series of the index are looked up here.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Label names, values, and where their lists lie in the index.
    pub fn table(&self) -> &PostingsTable {
        &self.table
    }

    /// Where the entries of the series lie, in bytes of the index.
    pub fn series(&self) -> Range<u64> {
        self.series.clone()
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}
