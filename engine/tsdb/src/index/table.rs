//! The postings offset table: for each label pair, where its postings list lies.

use super::symbols::sized;
use super::toc::Version;
use crate::error::{Error, Result};
use crate::read::{Cursor, Varint, framed, uvarint};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Every how many values of a label name a place is kept: a look-up steps over at most that many less one.
const STEP: usize = 32;

/// The table of an index or of an index-header, read in place: in memory are 4 bytes per 32 values and 8 per name.
#[derive(Clone, Debug)]
pub struct PostingsTable {
    file: Arc<str>,
    bytes: Bytes,
    /// Where the first entry lies, and where the last ends.
    start: usize,
    end: usize,
    names: Vec<Name>,
    /// Places of entries, from `start`: every [`STEP`]th of a name (version 2), or all of them by value (version 1, whose
    /// table is not sorted).
    samples: Vec<u32>,
    sorted: bool,
    entries: u32,
    /// Where the last list ends, its checksum included.
    lists_end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    /// Place of its first entry, from `start`.
    at: u32,
    /// Its first sample.
    sample: u32,
}

/// One entry: a label pair and where its list begins (at its length).
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    name: &'a [u8],
    value: &'a [u8],
    list: u64,
    /// Bytes of the entry.
    used: usize,
}

/// A label value and where the postings of the pair lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueEntry<'a> {
    /// The value.
    pub value: &'a str,
    /// Its list as it is framed in the index file: length, count, references, checksum, each of 4 bytes; perhaps padding.
    /// [`super::read_list`] reads it.
    pub list: Range<u64>,
}

impl PostingsTable {
    /// Reads the section at `at`; the lists that it points to end at `lists_end` in the index file.
    pub(crate) fn read(file: Arc<str>, bytes: Bytes, version: Version, at: u64, lists_end: u64) -> Result<Self> {
        let mut cursor = framed(&file, "postings table", &bytes, at, "index-crc")?;
        let entries = cursor.be32()?;
        let start = usize::try_from(cursor.offset()).unwrap_or(usize::MAX);
        let end = start + cursor.left();
        let sorted = version == Version::V2;
        let mut table = Self {
            names: Vec::new(),
            samples: Vec::new(),
            file: file.clone(),
            bytes: bytes.clone(),
            start,
            end,
            sorted,
            entries,
            lists_end,
        };
        let mut last: Option<Entry<'_>> = None;
        let mut of_name = 0;
        for _ in 0..entries {
            let place = (cursor.position() - 4) as u32;
            let entry = entry(&mut cursor)?;
            if entry.list >= lists_end {
                let what = format!("a postings list at {} is told, lists end at {lists_end}", entry.list);
                return Err(cursor.corrupt(what));
            }
            if !sorted {
                table.samples.push(place);
                continue;
            }
            let new_name = last.is_none_or(|l| l.name != entry.name);
            if let Some(l) = last
                && (l.name, l.value) >= (entry.name, entry.value)
            {
                return Err(cursor.corrupt("the entries are not sorted"));
            }
            if new_name {
                table.names.push(Name { at: place, sample: table.samples.len() as u32 });
                of_name = 0;
            }
            if of_name % STEP == 0 {
                table.samples.push(place);
            }
            of_name += 1;
            last = Some(entry);
        }
        if !sorted {
            table.sort();
        }
        Ok(table)
    }

    /// Version 1: brings the places into the order of names and values.
    fn sort(&mut self) {
        let mut samples = std::mem::take(&mut self.samples);
        samples.sort_by(|a, b| {
            let key = |at: u32| self.entry(at).map(|e| (e.name, e.value));
            key(*a).cmp(&key(*b))
        });
        let mut last: Option<&[u8]> = None;
        let mut names = Vec::new();
        for (i, at) in samples.iter().enumerate() {
            let name = self.entry(*at).map(|e| e.name);
            if last.is_none() || name != last {
                names.push(Name { at: *at, sample: i as u32 });
                last = name;
            }
        }
        (self.names, self.samples) = (names, samples);
    }

    /// The entry at a place that [`PostingsTable::read`] has seen.
    fn entry(&self, at: u32) -> Option<Entry<'_>> {
        let rest = self.bytes.get(self.start.checked_add(at as usize)?..self.end)?;
        let (_, after_count) = number(rest)?;
        let (name, after_name) = sized(after_count)?;
        let (value, after_value) = sized(after_name)?;
        let (list, tail) = number(after_value)?;
        Some(Entry { name, value, list, used: rest.len() - tail.len() })
    }

    /// Where the list of the entry lies. It ends where the next one in the table begins (some bytes of padding before
    /// that may be left to read), or with the section.
    fn list(&self, at: u32, entry: &Entry<'_>) -> Range<u64> {
        let next = u32::try_from(entry.used).ok().and_then(|n| at.checked_add(n)).and_then(|n| self.entry(n));
        let end = next.map_or(self.lists_end, |n| n.list);
        entry.list..end.max(entry.list)
    }

    /// How many label pairs there are.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// True if there is no pair.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes that this table holds in memory beside the file.
    pub fn memory(&self) -> usize {
        self.names.capacity() * size_of::<Name>() + self.samples.capacity() * 4
    }

    fn name_index(&self, name: &str) -> Option<usize> {
        let at = |n: &Name| self.entry(n.at).map_or(&[][..], |e| e.name);
        self.names.binary_search_by(|n| at(n).cmp(name.as_bytes())).ok()
    }

    fn samples_of(&self, index: usize) -> &[u32] {
        let first = self.names.get(index).map_or(0, |n| n.sample as usize);
        let end = self.names.get(index + 1).map_or(self.samples.len(), |n| n.sample as usize);
        self.samples.get(first..end).unwrap_or_default()
    }

    /// Label names in order. The pair ("", ""), which stands for all series, is no name.
    ///
    /// # Errors
    /// When a name is not UTF-8.
    pub fn names(&self) -> impl Iterator<Item = Result<&str>> + '_ {
        self.names
            .iter()
            .filter_map(|n| self.entry(n.at))
            .filter(|e| !e.name.is_empty())
            .map(|e| std::str::from_utf8(e.name).map_err(|_e| self.not_utf8(e.name)))
    }

    #[cold]
    fn not_utf8(&self, bytes: &[u8]) -> Error {
        let what = format!("{:?} is not UTF-8", String::from_utf8_lossy(bytes));
        Error::corrupt(&self.file, "postings table", self.start as u64, what)
    }

    /// The list of a label pair, if any series has it.
    pub fn find(&self, name: &str, value: &str) -> Option<Range<u64>> {
        let index = self.name_index(name)?;
        let (at, entry) = self.seek(index, value.as_bytes())?;
        (entry.value == value.as_bytes()).then(|| self.list(at, &entry))
    }

    /// The list of all series.
    pub fn all(&self) -> Option<Range<u64>> {
        self.find("", "")
    }

    /// The first entry of a name whose value is not below `value`.
    fn seek(&self, index: usize, value: &[u8]) -> Option<(u32, Entry<'_>)> {
        let samples = self.samples_of(index);
        let below = |at: &u32| self.entry(*at).is_some_and(|e| e.value < value);
        let first_not_below = samples.partition_point(below);
        if !self.sorted {
            let at = *samples.get(first_not_below)?;
            return Some((at, self.entry(at)?));
        }
        let mut at = *samples.get(first_not_below.saturating_sub(1))?;
        let name = self.entry(at)?.name;
        loop {
            let entry = self.entry(at)?;
            if entry.name != name {
                return None;
            }
            if entry.value >= value {
                return Some((at, entry));
            }
            at = at.checked_add(u32::try_from(entry.used).ok()?)?;
        }
    }

    /// The values of a label name in order, with their lists, from the first that is not below `from`.
    ///
    /// # Errors
    /// When a value is not UTF-8.
    pub fn values_from<'a>(&'a self, name: &str, from: &str) -> Values<'a> {
        let Some(index) = self.name_index(name) else {
            return Values { table: self, name: b"", next: None, rest: &[] };
        };
        let next = self.seek(index, from.as_bytes());
        let name = next.as_ref().map_or(&[][..], |(_, e)| e.name);
        let rest = match &next {
            Some((at, _)) if !self.sorted => {
                let samples = self.samples_of(index);
                let here = samples.iter().position(|s| s == at).map_or(samples.len(), |p| p + 1);
                samples.get(here..).unwrap_or_default()
            }
            _ => &[],
        };
        Values { table: self, name, next, rest }
    }

    /// The values of a label name in order, with their lists.
    pub fn values<'a>(&'a self, name: &str) -> Values<'a> {
        self.values_from(name, "")
    }
}

/// Iterator over the values of a label name; see [`PostingsTable::values`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    table: &'a PostingsTable,
    name: &'a [u8],
    next: Option<(u32, Entry<'a>)>,
    /// Places that follow in version 1.
    rest: &'a [u32],
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<ValueEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (at, entry) = self.next.take()?;
        let list = if self.table.sorted {
            let after = at.checked_add(u32::try_from(entry.used).ok()?)?;
            let following = self.table.entry(after);
            let end = following.map_or(self.table.lists_end, |f| f.list);
            self.next = following.filter(|f| f.name == self.name).map(|f| (after, f));
            entry.list..end.max(entry.list)
        } else {
            if let Some((first, rest)) = self.rest.split_first() {
                self.next = self.table.entry(*first).map(|e| (*first, e));
                self.rest = rest;
            }
            self.table.list(at, &entry)
        };
        Some(match std::str::from_utf8(entry.value) {
            Ok(value) => Ok(ValueEntry { value, list }),
            Err(_) => Err(self.table.not_utf8(entry.value)),
        })
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    match uvarint(bytes) {
        Varint::Value(n, used) => Some((n, bytes.get(used..)?)),
        Varint::Short | Varint::Overflow => None,
    }
}

fn entry<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>> {
    let before = cursor.position();
    let keys = cursor.uvarint()?;
    if keys != 2 {
        return Err(cursor.corrupt(format!("an entry of {keys} keys; a label pair has 2")));
    }
    let name = cursor.sized()?;
    let value = cursor.sized()?;
    let list = cursor.uvarint()?;
    Ok(Entry { name, value, list, used: cursor.position() - before })
}
