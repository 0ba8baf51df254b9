//! The table of contents: where the sections of an index begin.

use crate::error::{Error, ErrorKind, Result};
use crate::read::{Cursor, check_crc};

/// Bytes of the table of contents at the end of an index.
pub const TOC_LEN: usize = 6 * 8 + 4;
/// Bytes of the header at the begin of an index: magic and version.
pub const HEADER_LEN: usize = 5;
/// The first four bytes of an index.
pub const MAGIC: u32 = 0xBAAA_D700;

/// Where the sections of an index begin, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toc {
    /// Symbols.
    pub symbols: u64,
    /// Series.
    pub series: u64,
    /// Label indices: no longer written, ignored; the end of the series.
    pub label_indices: u64,
    /// Table of label indices: no longer written, ignored.
    pub label_indices_table: u64,
    /// Postings lists.
    pub postings: u64,
    /// Postings offset table.
    pub postings_table: u64,
}

/// An index's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Read only: references to symbols and series are offsets in the file.
    V1,
    /// The current one.
    V2,
}

impl Version {
    /// The byte in the file.
    pub fn byte(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// From the byte in the file `file`, where it lies at `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::Version`] for any other.
    pub fn from_byte(file: &str, offset: u64, byte: u8) -> Result<Self> {
        match byte {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            n => {
                let what = format!("version {n} of the index format is not known, only 1 and 2");
                Err(Error::new(file, "header", offset, ErrorKind::Version(what)))
            }
        }
    }
}

/// Reads the first bytes of an index.
///
/// # Errors
/// When they are not those of an index, or its version is not known.
pub fn read_header(file: &str, bytes: &[u8]) -> Result<Version> {
    let mut cursor = Cursor::new(file, "header", bytes, 0);
    let magic = cursor.be32()?;
    if magic != MAGIC {
        return Err(Error::corrupt(
            file,
            "header",
            0,
            format!("it begins with {magic:08x}, an index with {MAGIC:08x}"),
        ));
    }
    Version::from_byte(file, 4, cursor.u8()?)
}

impl Toc {
    /// Reads the table from the last [`TOC_LEN`] bytes (`bytes`) of an index of `size` bytes.
    ///
    /// # Errors
    /// When the checksum does not fit, or a section lies outside of the file.
    pub fn read(file: &str, bytes: &[u8], size: u64) -> Result<Self> {
        let toc = Self::read_copy(file, bytes, size.saturating_sub(TOC_LEN as u64))?;
        let end = size.saturating_sub(TOC_LEN as u64);
        for (section, at) in [
            ("symbols", toc.symbols),
            ("series", toc.series),
            ("label indices", toc.label_indices),
            ("postings", toc.postings),
            ("postings table", toc.postings_table),
        ] {
            if at > end {
                let what = format!("{section} begin at {at}, the file's last section ends at {end}");
                return Err(Error::corrupt(file, "table of contents", end, what));
            }
        }
        if toc.symbols > toc.series || (toc.symbols as usize) < HEADER_LEN {
            let what = format!("symbols at {}, series at {}: that order is impossible", toc.symbols, toc.series);
            return Err(Error::corrupt(file, "table of contents", end, what));
        }
        Ok(toc)
    }

    /// Reads the table from its bytes, which lie at `at` in `file`; the places are those of another file.
    ///
    /// # Errors
    /// When the checksum does not fit.
    pub fn read_copy(file: &str, bytes: &[u8], at: u64) -> Result<Self> {
        let mut cursor = Cursor::new(file, "table of contents", bytes, at);
        let content = cursor.take(TOC_LEN - 4)?;
        let expected = cursor.be32()?;
        if !model::protection::off("index-crc") {
            check_crc(file, "table of contents", at, content, expected)?;
        }
        let mut c = Cursor::new(file, "table of contents", content, at);
        Ok(Self {
            symbols: c.be64()?,
            series: c.be64()?,
            label_indices: c.be64()?,
            label_indices_table: c.be64()?,
            postings: c.be64()?,
            postings_table: c.be64()?,
        })
    }

    /// Where the series end: what follows them depends on the writer, so it is the next section that begins behind them.
    pub fn series_end(&self) -> u64 {
        let behind = [self.label_indices, self.label_indices_table, self.postings, self.postings_table];
        behind.into_iter().filter(|s| *s >= self.series).min().unwrap_or(self.series)
    }

    /// The bytes of the table.
    pub fn write(&self) -> [u8; TOC_LEN] {
        let mut out = [0; TOC_LEN];
        let fields = [
            self.symbols,
            self.series,
            self.label_indices,
            self.label_indices_table,
            self.postings,
            self.postings_table,
        ];
        for (place, value) in out.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        let crc = crc32c::crc32c(&out[..TOC_LEN - 4]);
        out[TOC_LEN - 4..].copy_from_slice(&crc.to_be_bytes());
        out
    }
}
