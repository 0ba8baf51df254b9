//! The series of one block that match, in the order of their final labels. Sans-IO: it says what to read and is fed.

use super::spec::{Spec, add, final_labels, passes};
use crate::store::blocks::Block;
use crate::store::limits::{Held, Refused};
use crate::store::select::chunks::{Place, places};
use crate::store::select::order::Order;
use crate::store::select::parts::{Loaded, Part, Parts};
use bytes::Bytes;
use model::labels::is_sorted;
use model::{Labels, Matcher};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tsdb::header::Reader;
use tsdb::index::{INDEX_FILE, MAX_LABEL_BYTES, Series, SymbolMemory};

/// After so many collected bytes they are counted: labels may be as long as a mebibyte.
const COUNT_EVERY: usize = 1 << 20;

/// What a cursor can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its next series is there.
    Ready,
    /// It has to be fed.
    Need,
    /// There are no more.
    End,
}

/// What a cursor wants to be read of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The next entries.
    Part(Part),
    /// An entry that is longer than expected.
    Longer(Range<u64>),
}

impl Want {
    /// The ranges to read.
    pub fn ranges(&self) -> &[Range<u64>] {
        match self {
            Self::Part(part) => &part.ranges,
            Self::Longer(range) => std::slice::from_ref(range),
        }
    }
}

/// The matching series of a block.
pub struct Cursor {
    /// The block.
    pub block: Arc<Block>,
    header: Arc<Reader>,
    spec: Arc<Spec>,
    /// Matchers that the postings did not answer.
    lazy: Vec<Matcher>,
    parts: Parts,
    loaded: VecDeque<(Range<usize>, Loaded)>,
    /// The series whose entry is read next, by place.
    next: usize,
    longer: Option<Range<u64>>,
    extra: Option<(u64, Bytes)>,
    symbols: SymbolMemory,
    entry: Series,
    places: Vec<Place>,
    order: Order<Box<[Place]>>,
    ready: VecDeque<(Labels, Box<[Place]>)>,
    /// Bytes that wait in `order` and `ready`, counted only when all are collected.
    collected: Option<usize>,
    /// Of these, the bytes that `held` knows of.
    counted: usize,
    ended: bool,
    held: Held,
    /// The first entry that could not be read, and how many.
    pub damage: Option<(String, u64)>,
}

impl Cursor {
    /// Over the series of these references; `all` if some of them have own labels under a name that is set or removed.
    pub fn new(
        block: Arc<Block>,
        header: Arc<Reader>,
        spec: Arc<Spec>,
        lazy: Vec<Matcher>,
        parts: Parts,
        all: bool,
        held: Held,
    ) -> Self {
        Self {
            block,
            header,
            spec,
            lazy,
            parts,
            loaded: VecDeque::new(),
            next: 0,
            longer: None,
            extra: None,
            symbols: SymbolMemory::default(),
            entry: Series::default(),
            places: Vec::new(),
            order: Order::new(all),
            ready: VecDeque::new(),
            collected: all.then_some(0),
            counted: 0,
            ended: false,
            held,
            damage: None,
        }
    }

    /// Goes on until a series is ready, or bytes are needed.
    ///
    /// # Errors
    /// When the process has no memory for what has to be held.
    pub fn advance(&mut self) -> Result<Step, Refused> {
        loop {
            if !self.ready.is_empty() {
                return Ok(Step::Ready);
            }
            if self.ended {
                return Ok(Step::End);
            }
            if self.next >= self.parts.len() || self.spec.stop.is_set() {
                self.ended = true;
                self.loaded.clear();
                self.order.finish(&mut self.ready);
                continue;
            }
            while self.loaded.front().is_some_and(|(series, _)| series.end <= self.next) {
                self.loaded.pop_front();
                self.hold()?;
            }
            if self.loaded.is_empty() || self.longer.is_some() {
                return Ok(Step::Need);
            }
            if !self.read()? {
                return Ok(Step::Need);
            }
        }
    }

    /// The next series, after [`Step::Ready`].
    pub fn pop(&mut self) -> Option<(Labels, Box<[Place]>)> {
        self.ready.pop_front()
    }

    /// What to read next: after [`Step::Need`], or ahead of it.
    pub fn want(&mut self) -> Option<Want> {
        match self.longer.take() {
            Some(range) => Some(Want::Longer(range)),
            None => self.parts.ask().map(Want::Part),
        }
    }

    /// What to bring near before that, so many bytes at a time.
    pub fn ahead(&mut self, most: u64) -> Vec<Range<u64>> {
        if self.longer.is_some() { Vec::new() } else { self.parts.ahead(most) }
    }

    /// True if it needs more, or will soon, so that it is read together with what others need.
    pub fn is_low(&self) -> bool {
        let asked = self.loaded.back().map_or(self.next, |(s, _)| s.end);
        let last = self.loaded.back().map_or(0, |(s, _)| s.len());
        let is_last = asked >= self.parts.len() || self.ended;
        self.longer.is_some() || (!is_last && asked.saturating_sub(self.next) <= last / 4)
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// When the process has no memory for it.
    pub fn feed(&mut self, want: Want, bytes: Vec<Bytes>) -> Result<(), Refused> {
        let stats = &self.spec.stats;
        let read: u64 = bytes.iter().map(|b| b.len() as u64).sum();
        match want {
            Want::Part(part) => {
                stats.entries.fetched(part.series.len(), read, part.ranges.len());
                self.loaded.push_back((part.series, Loaded::new(&part.ranges, bytes)));
            }
            Want::Longer(range) => {
                stats.entries.fetched(1, read, 1);
                add(&stats.entry_refetches, 1u64);
                self.extra = Some((range.start, bytes.into_iter().next().unwrap_or_default()));
            }
        }
        self.hold()
    }

    fn hold(&mut self) -> Result<(), Refused> {
        let loaded: usize = self.loaded.iter().map(|(_, l)| l.memory()).sum();
        let extra = self.extra.as_ref().map_or(0, |(_, bytes)| bytes.len());
        self.counted = self.collected.unwrap_or(0);
        self.held.set(self.parts.memory() + loaded + extra + self.counted)
    }

    /// Reads the next entry; false if more of it is needed.
    fn read(&mut self) -> Result<bool, Refused> {
        let (Some(at), Some((_, loaded))) = (self.parts.offset(self.next), self.loaded.front()) else {
            return Ok(false);
        };
        let extra = self.extra.take_if(|(start, _)| *start == at);
        let bytes = extra.as_ref().map_or_else(|| loaded.view(at), |(_, b)| b.as_ref());
        match self.entry.read(INDEX_FILE, bytes, at) {
            Ok(size) => add(&self.spec.stats.entries.touched_bytes, size as u64),
            Err(error) => {
                let longer = self.parts.whole(at, bytes).filter(|w| w.end - at > bytes.len() as u64);
                if let Some(range) = longer.filter(|_| extra.is_none()) {
                    self.longer = Some(range);
                    return Ok(false);
                }
                self.damaged(&error);
                self.next += 1;
                return Ok(true);
            }
        }
        add(&self.spec.stats.entries.touched, 1u64);
        self.next += 1;
        let estimate = match self.block.chunk_max {
            0 => self.spec.chunk_estimate,
            // The longest chunk, with the length before it and the checksum behind it.
            n => n.saturating_add(16),
        };
        places(&self.entry.chunks, self.spec.min_t, self.spec.max_t, estimate, &mut self.places);
        if self.places.is_empty() {
            return Ok(true);
        }
        if self.spec.skip_chunks {
            self.places.clear();
        }
        match self.labels(at) {
            Ok(Some(labels)) => {
                let places: Box<[Place]> = self.places.as_slice().into();
                if let Some(collected) = &mut self.collected {
                    *collected += labels.packed_len() + 64 + size_of_val(&*places);
                }
                self.order.push(labels, places, &mut self.ready);
                if self.collected.is_some_and(|all| all - self.counted >= COUNT_EVERY) {
                    self.hold()?;
                }
            }
            Ok(None) => {}
            Err(error) => self.damaged(&error),
        }
        Ok(true)
    }

    /// The final labels of the entry that was read; `None` if the request does not want it.
    fn labels(&mut self, at: u64) -> tsdb::Result<Option<Labels>> {
        let corrupt = |what: &str| tsdb::Error::corrupt(INDEX_FILE, "series", at, what);
        let symbols = self.header.symbols();
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(self.entry.symbols.len().min(256));
        let mut size = 0usize;
        for (name, value) in &self.entry.symbols {
            let name = symbols.remembered(*name, &mut self.symbols)?;
            let value = symbols.remembered(*value, &mut self.symbols)?;
            size += name.len() + value.len();
            if size > MAX_LABEL_BYTES {
                return Err(corrupt("the labels of a series are longer than a mebibyte"));
            }
            pairs.push((name, value));
        }
        if !is_sorted(pairs.iter().copied()) {
            pairs.sort_unstable();
            if !is_sorted(pairs.iter().copied()) {
                return Err(corrupt("a label is there twice, or has no value"));
            }
        }
        if !passes(&pairs, &self.lazy) {
            return Ok(None);
        }
        let labels = final_labels(&pairs, &self.block.external, &self.spec.without);
        let sent = self.spec.after.as_ref().is_some_and(|after| labels <= *after);
        let wanted = !sent && self.spec.shard.as_ref().is_none_or(|s| s.has_labels(&labels));
        Ok(wanted.then_some(labels))
    }

    fn damaged(&mut self, error: &tsdb::Error) {
        self.damage.get_or_insert_with(|| (error.to_string(), 0)).1 += 1;
    }
}
