//! What was read from the bucket, kept on the local disk in pages of 32 KiB: one file of slots, each with a checksum over its
//! name and its bytes. It can be deleted at any time; what is damaged, torn or somebody else's is read from the bucket again.
//!
//! ```text
//! slot:  magic u32 | bucket u32 | content u64 | block 16 | file u32 | page u32 | length u32
//!        | CRC-32C of all before and of the bytes u32 | bytes
//! ```
//!
//! In memory a slot that is in use takes about 150 bytes. Which page goes for a new one is decided by the clock algorithm.

use super::File;
use crate::store::blocks::Edition;
use bytes::Bytes;
use model::BlockId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Bytes of a page.
pub(super) const PAGE: u64 = 32 << 10;
const HEAD: usize = 48;
const SLOT: u64 = HEAD as u64 + PAGE;
const MAGIC: u32 = 0x7061_6732;
/// Writes that wait or run at the same time; what comes beyond is not kept. Each holds at most what one request read.
const WRITES: usize = 8;

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
    used: bool,
    writing: bool,
}

/// The cache; shared by all blocks.
pub struct Pages {
    file: std::fs::File,
    table: Mutex<Table>,
    writes: Arc<Semaphore>,
    /// Pages that were asked for.
    pub requests: AtomicU64,
    /// Pages that were there.
    pub hits: AtomicU64,
    /// Pages that were there and damaged.
    pub damaged: AtomicU64,
}

/// The pages that ranges of a file of `size` bytes touch, each once, in order.
pub(super) fn around(ranges: &[Range<u64>], size: u64) -> impl Iterator<Item = Range<u64>> {
    let ranges = ranges.iter().filter(|r| !r.is_empty());
    let pages: std::collections::BTreeSet<u64> = ranges.flat_map(|r| r.start / PAGE..=(r.end - 1) / PAGE).collect();
    pages.into_iter().map(move |n| n * PAGE..((n + 1) * PAGE).min(size))
}

fn head(key: &Key, bytes: &[u8]) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    let fields = [MAGIC.to_be_bytes(), key.edition.bucket.to_be_bytes()];
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    let tail = [key.file.to_be_bytes(), key.page.to_be_bytes(), length.to_be_bytes()];
    let all = fields
        .iter()
        .flatten()
        .copied()
        .chain(key.edition.content.to_be_bytes())
        .chain(key.edition.id.to_bytes())
        .chain(tail.iter().flatten().copied());
    for (place, byte) in out.iter_mut().zip(all) {
        *place = byte;
    }
    let (named, crc) = out.split_at_mut(HEAD - 4);
    crc.copy_from_slice(&crc32c::crc32c_append(crc32c::crc32c(named), bytes).to_be_bytes());
    out
}

/// The name in the head of a slot.
fn name(head: &[u8; HEAD]) -> Option<Key> {
    let word = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let content = u64::from_be_bytes(head.get(8..16)?.try_into().ok()?);
    let id = BlockId::from_bytes(head.get(16..32)?.try_into().ok()?);
    let edition = Edition { id, bucket: word(4)?, content };
    (word(0)? == MAGIC).then_some(Key { edition, file: word(32)?, page: word(36)? })
}

impl Pages {
    /// The cache in the file `path`, of at most `max_bytes`. It gives and keeps nothing before [`Pages::load`].
    ///
    /// # Errors
    /// When the file can't be opened or made.
    pub fn open(path: &Path, max_bytes: u64) -> std::io::Result<Self> {
        let slots = u32::try_from(max_bytes / SLOT).unwrap_or(u32::MAX);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        if length > u64::from(slots) * SLOT {
            file.set_len(u64::from(slots) * SLOT)?;
        }
        Ok(Self {
            file,
            table: Mutex::new(Table { max: slots as usize, ..Table::default() }),
            writes: Arc::new(Semaphore::new(WRITES)),
            requests: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        })
    }

    /// Learns what the file holds already: one small read per slot, which takes seconds where there are millions.
    pub fn load(&self) {
        let max = self.table.lock().max;
        let length = self.file.metadata().map_or(0, |m| m.len());
        let there = usize::try_from(length.div_ceil(SLOT)).unwrap_or(usize::MAX).min(max);
        let mut table = Table { slots: Vec::with_capacity(there), max, is_loaded: true, ..Table::default() };
        let mut bytes = [0; HEAD];
        for at in 0..u32::try_from(there).unwrap_or(u32::MAX) {
            if self.file.read_exact_at(&mut bytes, u64::from(at) * SLOT).is_err() {
                break;
            }
            // Of two with the same name one is kept; the other one's slot is taken for another page some day.
            let key = name(&bytes).filter(|key| !table.slot_of.contains_key(key));
            table.slot_of.extend(key.map(|key| (key, at)));
            table.slots.push(Slot { key, ..Slot::default() });
        }
        *self.table.lock() = table;
    }

    /// Pages that are kept.
    pub fn len(&self) -> usize {
        self.table.lock().slot_of.len()
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

    /// The pages that are there of those that ranges touch: where each begins, and its bytes.
    pub(super) async fn get(
        self: &Arc<Self>,
        edition: Edition,
        file: File,
        ranges: &[Range<u64>],
        size: u64,
    ) -> Vec<(u64, Bytes)> {
        let mut found = Vec::new();
        {
            let mut table = self.table.lock();
            for page in around(ranges, size) {
                self.requests.fetch_add(1, Ordering::Relaxed);
                let Some(key) = Self::key(edition, file, page.start) else { continue };
                if let Some(slot) = table.slot_of.get(&key).copied() {
                    if let Some(slot) = table.slots.get_mut(slot as usize) {
                        slot.used = true;
                    }
                    found.push((key, slot, page));
                }
            }
        }
        if found.is_empty() {
            return Vec::new();
        }
        let this = Arc::clone(self);
        let read = move || {
            let read = |(key, slot, page): &(Key, u32, Range<u64>)| Some((page.start, this.read(key, *slot, page)?));
            found.iter().filter_map(read).collect::<Vec<_>>()
        };
        let pages = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        self.hits.fetch_add(pages.len() as u64, Ordering::Relaxed);
        pages
    }

    fn read(&self, key: &Key, slot: u32, page: &Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(page.end - page.start).ok()?;
        let mut bytes = vec![0; HEAD + length];
        let read = self.file.read_exact_at(&mut bytes, u64::from(slot) * SLOT);
        let (found, content) = bytes.split_at(HEAD);
        if read.is_ok() && (*found == head(key, content) || model::protection::off("page-crc")) {
            return Some(Bytes::from(bytes).slice(HEAD..));
        }
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table.lock();
        // Unless it has been taken for another page meanwhile.
        if table.slot_of.get(key) == Some(&slot) {
            table.slot_of.remove(key);
            if let Some(slot) = table.slots.get_mut(slot as usize) {
                slot.key = None;
            }
        }
        None
    }

    /// Keeps the whole pages of what was read, in the background; when too much is being written, not.
    pub(super) fn keep(self: &Arc<Self>, edition: Edition, file: File, size: u64, parts: Vec<(u64, Bytes)>) {
        let Ok(turn) = Arc::clone(&self.writes).try_acquire_owned() else { return };
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            for (at, bytes) in &parts {
                let end = at + bytes.len() as u64;
                for page in around(std::slice::from_ref(&(*at..end)), size).filter(|p| p.start >= *at && p.end <= end) {
                    let from = usize::try_from(page.start - at).unwrap_or(usize::MAX);
                    let to = usize::try_from(page.end - at).unwrap_or(usize::MAX);
                    if let (Some(key), Some(content)) = (Self::key(edition, file, page.start), bytes.get(from..to)) {
                        this.write(key, content);
                    }
                }
            }
        });
    }

    fn write(&self, key: Key, content: &[u8]) {
        let Some(at) = self.table.lock().take_slot(&key) else { return };
        let mut slot = Vec::with_capacity(HEAD + content.len());
        slot.extend_from_slice(&head(&key, content));
        slot.extend_from_slice(content);
        let written = self.file.write_all_at(&slot, u64::from(at) * SLOT).is_ok();
        let mut table = self.table.lock();
        // A disk that is full keeps nothing; the slot is tried again.
        let is_first = written && !table.slot_of.contains_key(&key);
        if is_first {
            table.slot_of.insert(key, at);
        }
        if let Some(slot) = table.slots.get_mut(at as usize) {
            *slot = Slot { key: is_first.then_some(key), used: false, writing: false };
        }
    }
}

impl Table {
    /// A slot to write to: an empty one, or the next that was not used since the hand went by.
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
