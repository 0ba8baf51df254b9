//! What was read from the bucket, kept on the local disk in pages of 32 KiB: a file of contents, one slot per page, and beside
//! it a file of names, which tells what lies in each slot, with a checksum over each 4 KiB of it. Both can be deleted at any
//! time; what is damaged, torn or somebody else's is read from the bucket again.
//!
//! ```text
//! name:  magic u32 | bucket u32 | content u64 | block 16 | file u32 | page u32 | length u32
//!        | CRC-32C of each 4 KiB of the bytes, 8 × u32 | CRC-32C of all before u32
//! ```
//!
//! Of a page only the sectors that are wanted are read, and what lies side by side in the file comes with one read into one
//! buffer. In memory a slot that is in use takes about 200 bytes. Which page goes for a new one is decided by the clock
//! algorithm.

use super::File;
use crate::store::blocks::Edition;
use bytes::Bytes;
use model::BlockId;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Bytes of a page.
pub(super) const PAGE: u64 = 32 << 10;
/// Bytes under one checksum.
const SECTOR: u64 = 4 << 10;
const SECTORS: usize = (PAGE / SECTOR) as usize;
/// Bytes of a name.
pub(super) const NAME: usize = 80;
const MAGIC: u32 = 0x7061_6733;
/// Sectors with no more than this between them are read together, in bytes: a copy of so much costs less than another read.
const NEAR: u64 = 16 << 10;
/// Writes that wait or run at the same time; what comes beyond is not kept. Each holds at most what one request read.
pub(super) const WRITES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    edition: Edition,
    /// 0 is the index.
    file: u32,
    page: u32,
}

#[derive(Default)]
struct Table {
    slot_of: HashMap<Key, u32>,
    /// Those that have been in use.
    slots: Vec<Slot>,
    /// As many there may be.
    max: usize,
    hand: usize,
    /// What lies on disk is known.
    is_loaded: bool,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Option<Key>,
    sums: [u32; SECTORS],
    used: bool,
    writing: bool,
}

/// A page that is there: its number, its slot, its checksums.
type There = (u32, u32, [u32; SECTORS]);

/// The cache; shared by all blocks.
pub struct Pages {
    contents: std::fs::File,
    names: std::fs::File,
    table: Mutex<Table>,
    pub(super) writes: Arc<Semaphore>,
    /// The disk did not take the last write.
    refused: AtomicBool,
    /// Pages that were asked for.
    pub requests: AtomicU64,
    /// Pages that were there.
    pub hits: AtomicU64,
    /// Pages that were there and damaged.
    pub damaged: AtomicU64,
}

/// What the cache has of some ranges.
#[derive(Debug, Default)]
pub(super) struct Had {
    /// Where each part begins, and its bytes; sorted, not overlapping.
    pub(super) parts: Vec<(u64, Bytes)>,
    /// Pages that are not there.
    pub(super) missing: Vec<Range<u64>>,
}

/// The pages that ranges of a file of `size` bytes touch, each once, in order.
pub(super) fn around(ranges: &[Range<u64>], size: u64) -> impl Iterator<Item = Range<u64>> {
    let mut pages: Vec<Range<u64>> =
        ranges.iter().filter(|r| !r.is_empty()).map(|r| r.start / PAGE..(r.end - 1) / PAGE + 1).collect();
    if !pages.is_sorted_by_key(|p| p.start) {
        pages.sort_unstable_by_key(|p| p.start);
    }
    let mut next = 0;
    pages.into_iter().flat_map(move |p| {
        let fresh = p.start.max(next)..p.end;
        next = next.max(p.end);
        fresh.map(move |n| n * PAGE..((n + 1) * PAGE).min(size))
    })
}

fn sums(content: &[u8]) -> [u32; SECTORS] {
    let mut out = [0; SECTORS];
    for (sum, sector) in out.iter_mut().zip(content.chunks(SECTOR as usize)) {
        *sum = crc32c::crc32c(sector);
    }
    out
}

/// What is written about a slot.
fn name(key: &Key, length: usize, sums: &[u32; SECTORS]) -> [u8; NAME] {
    let length = u32::try_from(length).unwrap_or(0);
    let mut all = Vec::with_capacity(NAME);
    all.extend_from_slice(&MAGIC.to_be_bytes());
    all.extend_from_slice(&key.edition.bucket.to_be_bytes());
    all.extend_from_slice(&key.edition.content.to_be_bytes());
    all.extend_from_slice(&key.edition.id.to_bytes());
    for word in [key.file, key.page, length].iter().chain(sums) {
        all.extend_from_slice(&word.to_be_bytes());
    }
    all.extend_from_slice(&crc32c::crc32c(&all).to_be_bytes());
    let mut out = [0; NAME];
    for (place, byte) in out.iter_mut().zip(all) {
        *place = byte;
    }
    out
}

/// What is written about a slot, read.
fn named(bytes: &[u8; NAME]) -> Option<(Key, [u32; SECTORS])> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let is_whole = u32::from_be_bytes(*sum) == crc32c::crc32c(content) || model::protection::off("page-crc");
    if word(0)? != MAGIC || !is_whole {
        return None;
    }
    let id = BlockId::from_bytes(bytes.get(16..32)?.try_into().ok()?);
    let edition = Edition { id, bucket: word(4)?, content: u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?) };
    let mut sums = [0; SECTORS];
    for (n, sum) in sums.iter_mut().enumerate() {
        *sum = word(44 + n * 4)?;
    }
    Some((Key { edition, file: word(32)?, page: word(36)? }, sums))
}

/// Where the file of names lies.
fn names_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".names");
    name.into()
}

impl Pages {
    /// The cache in the file `path`, of at most `max_bytes`. It gives and keeps nothing before [`Pages::load`].
    ///
    /// # Errors
    /// When a file can't be opened or made.
    pub fn open(path: &Path, max_bytes: u64) -> std::io::Result<Self> {
        let slots = u32::try_from(max_bytes / (PAGE + NAME as u64)).unwrap_or(u32::MAX);
        let open = |path: &Path, slot: u64| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            if file.metadata()?.len() > u64::from(slots) * slot {
                file.set_len(u64::from(slots) * slot)?;
            }
            Ok::<_, std::io::Error>(file)
        };
        Ok(Self {
            contents: open(path, PAGE)?,
            names: open(&names_of(path), NAME as u64)?,
            table: Mutex::new(Table { max: slots as usize, ..Table::default() }),
            writes: Arc::new(Semaphore::new(WRITES)),
            refused: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        })
    }

    /// Learns what the files hold already.
    pub fn load(&self) {
        let max = self.table.lock().max;
        let there = self.names.metadata().map_or(0, |m| m.len() / NAME as u64);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(max);
        let mut table = Table { slots: Vec::with_capacity(there), max, is_loaded: true, ..Table::default() };
        let mut names = std::io::BufReader::with_capacity(64 << 10, &self.names);
        let mut bytes = [0; NAME];
        for at in 0..u32::try_from(there).unwrap_or(u32::MAX) {
            if names.read_exact(&mut bytes).is_err() {
                break;
            }
            // Of two with the same name one is kept; the other one's slot is taken for another page some day.
            let found = named(&bytes).filter(|(key, _)| !table.slot_of.contains_key(key));
            let mut slot = Slot::default();
            if let Some((key, sums)) = found {
                table.slot_of.insert(key, at);
                slot = Slot { key: Some(key), sums, ..slot };
            }
            table.slots.push(slot);
        }
        *self.table.lock() = table;
    }

    /// Pages that are kept.
    pub fn len(&self) -> usize {
        self.table.lock().slot_of.len()
    }

    /// Bytes that it holds at most.
    pub(super) fn max_bytes(&self) -> u64 {
        self.table.lock().max as u64 * PAGE
    }

    /// True if what is written is there afterwards: it knows what it holds, and the disk took the last write.
    pub(super) fn is_keeping(&self) -> bool {
        self.table.lock().is_loaded && !self.refused.load(Ordering::Relaxed)
    }

    /// Pages of ranges of a file of `size` bytes that are not there.
    pub(super) fn missing(&self, edition: Edition, file: File, ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
        let table = self.table.lock();
        let is_there = |at| Self::key(edition, file, at).is_some_and(|key| table.slot_of.contains_key(&key));
        around(ranges, size).filter(|page| !is_there(page.start)).collect()
    }

    /// True if no page is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(edition: Edition, file: File, at: u64) -> Option<Key> {
        let file = match file {
            File::Index => 0,
            File::Segment(n) => n,
        };
        Some(Key { edition, file, page: u32::try_from(at / PAGE).ok()? })
    }

    /// What is there of ranges of a file of `size` bytes.
    pub(super) async fn get(self: &Arc<Self>, edition: Edition, file: File, ranges: &[Range<u64>], size: u64) -> Had {
        let (mut found, mut missing): (Vec<There>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
        {
            let mut table = self.table.lock();
            for page in around(ranges, size) {
                let slot = Self::key(edition, file, page.start).and_then(|key| {
                    let at = *table.slot_of.get(&key)?;
                    let slot = table.slots.get_mut(at as usize)?;
                    slot.used = true;
                    Some((key.page, at, slot.sums))
                });
                match slot {
                    Some(there) => found.push(there),
                    None => missing.push(page),
                }
            }
        }
        self.requests.fetch_add((found.len() + missing.len()) as u64, Ordering::Relaxed);
        if found.is_empty() {
            return Had { parts: Vec::new(), missing };
        }
        let runs = runs(ranges, size, &found);
        let this = Arc::clone(self);
        let pages = found.len();
        let read = move || {
            let (mut parts, mut bad) = (Vec::with_capacity(runs.len()), Vec::new());
            for run in &runs {
                this.read(run, size, &found, &mut parts, &mut bad);
            }
            this.forget(edition, file, &bad);
            (parts, bad)
        };
        let Ok((parts, bad)) = tokio::task::spawn_blocking(read).await else {
            return Had { parts: Vec::new(), missing: around(ranges, size).collect() };
        };
        let bad: BTreeSet<u32> = bad.iter().map(|(page, ..)| *page).collect();
        self.hits.fetch_add(pages.saturating_sub(bad.len()) as u64, Ordering::Relaxed);
        missing.extend(bad.into_iter().map(|page| {
            let at = u64::from(page) * PAGE;
            at..(at + PAGE).min(size)
        }));
        missing.sort_unstable_by_key(|page| page.start);
        Had { parts, missing }
    }

    /// Adds the bytes of a run of the file, sectors as a whole, in pages that are there; and the pages of it that are damaged,
    /// of which nothing is added.
    fn read(
        &self,
        run: &Range<u64>,
        size: u64,
        found: &[There],
        parts: &mut Vec<(u64, Bytes)>,
        all_bad: &mut Vec<There>,
    ) {
        let first = found.partition_point(|(page, ..)| u64::from(*page) < run.start / PAGE);
        let pages = found.get(first..).unwrap_or_default();
        let mut bytes = vec![0; usize::try_from(run.end - run.start).unwrap_or(0)];
        let (mut rest, mut at) = (&mut *bytes, run.start);
        let mut next = pages.iter().peekable();
        while at < run.end {
            let Some(begin) = next.next() else { break };
            // Slots side by side are one read.
            let (mut end, mut last) = (((at / PAGE + 1) * PAGE).min(run.end), begin);
            while end < run.end
                && let Some(one) = next.next_if(|one| one.1 == last.1 + 1 && one.0 == last.0 + 1)
            {
                (end, last) = ((end + PAGE).min(run.end), one);
            }
            let Some((part, tail)) = usize::try_from(end - at).ok().and_then(|n| rest.split_at_mut_checked(n)) else {
                break;
            };
            // What does not come stays zero, and its checksum says so.
            let _ = self.contents.read_exact_at(part, u64::from(begin.1) * PAGE + at % PAGE);
            (rest, at) = (tail, end);
        }
        // Every sector against its checksum.
        let (mut at, mut bad) = (run.start, Vec::<There>::new());
        for sector in bytes.chunks(SECTOR as usize) {
            let Some(page) = pages.get((at / PAGE - run.start / PAGE) as usize) else { break };
            let is_whole = |there: &There| {
                let expected = there.2.get((at % PAGE / SECTOR) as usize);
                expected == Some(&crc32c::crc32c(sector)) || model::protection::off("page-crc")
            };
            if !is_whole(page) && bad.last().is_none_or(|(last, ..)| *last != page.0) {
                bad.push(*page);
            }
            at += sector.len() as u64;
        }
        debug_assert!(at == run.end && (at.is_multiple_of(SECTOR) || at == size), "runs are of whole sectors");
        let bytes = Bytes::from(bytes);
        // What lies between damaged pages.
        let mut from = run.start;
        let holes = bad.iter().map(|(page, ..)| u64::from(*page) * PAGE);
        for (begin, end) in holes.map(|at| (at, at + PAGE)).chain([(at, at)]) {
            if let Some(range) = span(from..begin.min(at), run.start) {
                parts.push((from, bytes.slice(range)));
            }
            from = end;
        }
        all_bad.append(&mut bad);
    }

    /// Pages that are damaged are not given any more.
    fn forget(&self, edition: Edition, file: File, bad: &[There]) {
        let mut table = self.table.lock();
        for (page, at, _) in bad {
            let Some(key) = Self::key(edition, file, u64::from(*page) * PAGE) else { continue };
            // Unless its slot has been taken for another page meanwhile.
            if table.slot_of.get(&key) == Some(at) {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                table.slot_of.remove(&key);
                if let Some(slot) = table.slots.get_mut(*at as usize) {
                    slot.key = None;
                }
            }
        }
    }

    /// Keeps the whole pages of what was read, in the background; when too much is being written, not.
    pub(super) fn keep(self: &Arc<Self>, edition: Edition, file: File, size: u64, parts: Vec<(u64, Bytes)>) {
        let Ok(turn) = Arc::clone(&self.writes).try_acquire_owned() else { return };
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            for (at, bytes) in &parts {
                this.write(edition, file, size, *at, bytes);
            }
        });
    }

    /// Writes the whole pages of what was read from `at` on.
    pub(super) fn write(&self, edition: Edition, file: File, size: u64, at: u64, bytes: &Bytes) {
        let end = at + bytes.len() as u64;
        let all = at..end;
        let pages = around(std::slice::from_ref(&all), size).filter(|p| p.start >= at && p.end <= end);
        let slots: Vec<(Key, Range<u64>, u32)> = {
            let mut table = self.table.lock();
            let slot = |page: Range<u64>| {
                let key = Self::key(edition, file, page.start)?;
                Some((key, page, table.take_slot(&key)?))
            };
            pages.filter_map(slot).collect()
        };
        // Pages and slots side by side are one write.
        for run in slots.chunk_by(|(_, a, m), (_, b, n)| a.end == b.start && m + 1 == *n) {
            let [(_, first, slot), ..] = run else { continue };
            let last = run.last().map_or(first, |(_, page, _)| page);
            let from = usize::try_from(first.start - at).unwrap_or(usize::MAX);
            let to = usize::try_from(last.end - at).unwrap_or(usize::MAX);
            let Some(content) = bytes.get(from..to) else { continue };
            let of_pages: Vec<[u32; SECTORS]> = content.chunks(PAGE as usize).map(sums).collect();
            let mut names = Vec::with_capacity(run.len() * NAME);
            for ((key, page, _), sums) in run.iter().zip(&of_pages) {
                names.extend_from_slice(&name(key, usize::try_from(page.end - page.start).unwrap_or(0), sums));
            }
            // A disk that is full keeps nothing; the slots are tried again. Should it end between the two writes, the names are
            // those of other contents, and their checksums say so.
            let written = self.contents.write_all_at(content, u64::from(*slot) * PAGE).is_ok()
                && self.names.write_all_at(&names, u64::from(*slot) * NAME as u64).is_ok();
            self.refused.store(!written, Ordering::Relaxed);
            let mut table = self.table.lock();
            for ((key, _, at), sums) in run.iter().zip(of_pages) {
                let is_first = written && !table.slot_of.contains_key(key);
                if is_first {
                    table.slot_of.insert(*key, *at);
                }
                if let Some(slot) = table.slots.get_mut(*at as usize) {
                    *slot = Slot { key: is_first.then_some(*key), sums, used: false, writing: false };
                }
            }
        }
    }
}

/// Where a range of a file lies in a buffer that begins at `start`; nothing for an empty one.
fn span(range: Range<u64>, start: u64) -> Option<Range<usize>> {
    let at = |n: u64| usize::try_from(n.checked_sub(start)?).ok();
    (range.start < range.end).then_some(at(range.start)?..at(range.end)?)
}

/// What to read of the pages that were found: whole sectors, what is near to each other as one, sorted.
fn runs(ranges: &[Range<u64>], size: u64, found: &[There]) -> Vec<Range<u64>> {
    let mut wanted: Vec<Range<u64>> = ranges
        .iter()
        .filter(|r| !r.is_empty())
        .map(|r| r.start / SECTOR * SECTOR..(r.end.div_ceil(SECTOR) * SECTOR).min(size))
        .collect();
    wanted.sort_unstable_by_key(|r| r.start);
    let mut out: Vec<Range<u64>> = Vec::with_capacity(wanted.len());
    for want in wanted {
        let mut at = want.start;
        while at < want.end {
            let place = found.partition_point(|(page, ..)| u64::from(*page) < at / PAGE);
            let Some((page, ..)) = found.get(place) else { break };
            let page = u64::from(*page) * PAGE..((u64::from(*page) + 1) * PAGE).min(size);
            if page.start >= want.end {
                break;
            }
            let piece = at.max(page.start)..want.end.min(page.end);
            match out.last_mut() {
                // In one page, or in the next one: what is between is there, too.
                Some(last)
                    if piece.start <= last.end
                        || piece.start - last.end <= NEAR && piece.start / PAGE == (last.end - 1) / PAGE =>
                {
                    last.end = last.end.max(piece.end);
                }
                _ => out.push(piece.clone()),
            }
            at = piece.end;
        }
    }
    out
}

impl Table {
    /// A slot to write to: a new one, or the next that was not used since the hand went by.
    fn take_slot(&mut self, key: &Key) -> Option<u32> {
        if !self.is_loaded || self.slot_of.contains_key(key) {
            return None;
        }
        if self.slots.len() < self.max {
            self.slots.push(Slot { writing: true, ..Slot::default() });
            return u32::try_from(self.slots.len() - 1).ok();
        }
        for _ in 0..self.slots.len().saturating_mul(2) {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = self.slots.get_mut(at)?;
            if slot.writing {
                continue;
            }
            if slot.used {
                slot.used = false;
                continue;
            }
            slot.writing = true;
            if let Some(old) = slot.key.take() {
                self.slot_of.remove(&old);
            }
            return u32::try_from(at).ok();
        }
        None
    }
}
