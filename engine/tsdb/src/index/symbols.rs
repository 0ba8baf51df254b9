//! The symbol table: every label name and value once, sorted. Series name them by number.

use super::toc::Version;
use crate::error::{Error, Result};
use crate::read::{Varint, framed, uvarint};
use bytes::Bytes;
use std::cmp::Ordering;
use std::sync::Arc;

/// Every how many symbols a place is kept: a look-up steps over at most that many less one.
const STEP: usize = 16;

/// The symbols of an index or of an index-header, read in place.
#[derive(Clone, Debug)]
pub struct Symbols {
    file: Arc<str>,
    /// The whole file.
    bytes: Bytes,
    version: Version,
    /// Where the first symbol lies, and where the last ends.
    start: usize,
    end: usize,
    count: u32,
    /// Places of every [`STEP`]th symbol, from `start` (version 2).
    samples: Vec<u32>,
    /// What is added to a reference of version 1, which is an offset in the index, to have one in this file.
    shift: i64,
}

impl Symbols {
    /// Reads the section at `at`. In an index-header `shift` is by how much symbols moved.
    pub(crate) fn read(file: Arc<str>, bytes: Bytes, version: Version, at: u64, shift: i64) -> Result<Self> {
        let mut cursor = framed(&file, "symbols", &bytes, at, "index-crc")?;
        let count = cursor.be32()?;
        let start = usize::try_from(cursor.offset()).unwrap_or(usize::MAX);
        let end = start + cursor.left();
        if count as usize > cursor.left() {
            return Err(cursor.corrupt(format!("{count} symbols can't fit into {} bytes", cursor.left())));
        }
        let mut samples = Vec::with_capacity(count as usize / STEP + 1);
        for i in 0..count as usize {
            if i.is_multiple_of(STEP) {
                // The section's length is a u32, so places within it are, too.
                samples.push((cursor.position() - 4) as u32);
            }
            cursor.sized()?;
        }
        Ok(Self { file, version, start, end, count, samples, shift, bytes })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The symbol of a reference found in a series.
    ///
    /// # Errors
    /// When there is none, or it is not UTF-8.
    pub fn lookup(&self, reference: u32) -> Result<&str> {
        let found = match self.version {
            Version::V2 => self.nth(reference),
            Version::V1 => i64::from(reference)
                .checked_add(self.shift)
                .and_then(|at| usize::try_from(at).ok())
                .filter(|at| *at >= self.start)
                .and_then(|at| sized(self.bytes.get(at..self.end)?)),
        };
        let Some((symbol, _)) = found else {
            let what = format!("there is no symbol {reference}, only {}", self.count);
            return Err(Error::corrupt(&self.file, "symbols", self.start as u64, what));
        };
        std::str::from_utf8(symbol).map_err(|_e| {
            let what = format!("symbol {reference} is not UTF-8");
            Error::corrupt(&self.file, "symbols", self.start as u64, what)
        })
    }

    /// The n-th symbol and the bytes after it.
    fn nth(&self, n: u32) -> Option<(&[u8], &[u8])> {
        if n >= self.count {
            return None;
        }
        let n = n as usize;
        let place = *self.samples.get(n / STEP)? as usize;
        let mut found = sized(self.bytes.get(self.start + place..self.end)?)?;
        for _ in 0..n % STEP {
            found = sized(found.1)?;
        }
        Some(found)
    }

    /// The reference of a symbol (its number), if it is there (version 2 only).
    pub fn find(&self, symbol: &str) -> Option<u32> {
        if self.version == Version::V1 {
            return None;
        }
        let at = |i: usize| self.nth((i * STEP) as u32).map_or(&[][..], |(s, _)| s);
        let (mut low, mut high) = (0, self.samples.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if at(middle) <= symbol.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let first = low.checked_sub(1)? * STEP;
        let (mut found, mut n) = (self.nth(first as u32)?, first as u32);
        loop {
            match found.0.cmp(symbol.as_bytes()) {
                Ordering::Equal => return Some(n),
                Ordering::Greater => return None,
                Ordering::Less => {}
            }
            n += 1;
            if n >= self.count {
                return None;
            }
            found = sized(found.1)?;
        }
    }

    /// All symbols with their references, in the order of the file, which is that of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> + '_ {
        let mut rest = self.bytes.get(self.start..self.end).unwrap_or_default();
        (0..self.count).map_while(move |n| {
            let reference = match self.version {
                Version::V2 => n,
                Version::V1 => u32::try_from((self.end - rest.len()) as i64 - self.shift).ok()?,
            };
            let (symbol, tail) = sized(rest)?;
            rest = tail;
            Some((reference, symbol))
        })
    }

    /// A look-up that remembers: for whoever reads many series. Costs 24 KiB.
    pub fn cached(&self) -> CachedSymbols<'_> {
        CachedSymbols { symbols: self, cache: vec![(u32::MAX, ""); CACHE].into_boxed_slice() }
    }
}

/// Places of symbols that were asked last, without a tie to the file: for whoever reads the series of many blocks in turn.
/// Costs 12 KiB once it is used.
#[derive(Clone, Debug, Default)]
pub struct SymbolMemory(Vec<(u32, u32, u32)>);

impl Symbols {
    /// As [`Symbols::lookup`], with a memory that is used for these symbols only.
    ///
    /// # Errors
    /// As [`Symbols::lookup`].
    pub fn remembered(&self, reference: u32, memory: &mut SymbolMemory) -> Result<&str> {
        if memory.0.is_empty() {
            memory.0 = vec![(u32::MAX, 0, 0); CACHE];
        }
        let Some(place) = memory.0.get_mut(reference as usize % CACHE) else { return self.lookup(reference) };
        if place.0 == reference && reference != u32::MAX {
            let from = self.start + place.1 as usize;
            let known = self.bytes.get(from..from + place.2 as usize).and_then(|b| std::str::from_utf8(b).ok());
            if let Some(known) = known {
                return Ok(known);
            }
        }
        let symbol = self.lookup(reference)?;
        // The section's length is a u32, so places within it are, too.
        let from = (symbol.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize).wrapping_sub(self.start);
        *place = (reference, from as u32, symbol.len() as u32);
        Ok(symbol)
    }
}

const CACHE: usize = 1024;

/// Symbols with a small direct-mapped memory of what was asked last.
#[derive(Debug)]
pub struct CachedSymbols<'a> {
    symbols: &'a Symbols,
    cache: Box<[(u32, &'a str)]>,
}

impl<'a> CachedSymbols<'a> {
    /// As [`Symbols::lookup`].
    ///
    /// # Errors
    /// As [`Symbols::lookup`].
    pub fn lookup(&mut self, reference: u32) -> Result<&'a str> {
        let Some(place) = self.cache.get_mut(reference as usize % CACHE) else {
            return self.symbols.lookup(reference);
        };
        if place.0 != reference || reference == u32::MAX {
            *place = (reference, self.symbols.lookup(reference)?);
        }
        Ok(place.1)
    }
}

/// Bytes after their length, and the rest.
#[inline]
pub(super) fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match uvarint(bytes) {
        Varint::Value(n, used) => bytes.get(used..)?.split_at_checked(usize::try_from(n).ok()?),
        Varint::Short | Varint::Overflow => None,
    }
}
