//! The series of all blocks as one, cut into windows: so many series as their chunks fit into a bounded read. Sans-IO.

use super::cursor::{Cursor, Step};
use super::spans::Spans;
use super::spec::Stop;
use crate::store::limits::{Refused, Used};
use crate::store::select::chunks::Place;
use model::Labels;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Bytes that a chunk takes before it is read: its place, and which read it is in.
const PLACE: u64 = (size_of::<(u32, Place)>() + size_of::<u32>()) as u64;
/// How many series are merged between two looks at whether anybody waits.
const LOOK_EVERY: usize = 64;

/// Series whose chunks are read together.
#[derive(Debug, Default)]
pub struct Window {
    /// Final labels, and where the chunks of the next series begin.
    pub series: Vec<(Labels, u32)>,
    /// Chunks: the number of their block's cursor, and their place.
    pub chunks: Vec<(u32, Place)>,
    /// Bytes that this takes in memory, about.
    pub planned: u64,
    /// Bytes that are read for it, about.
    pub read: u64,
}

/// Where merging stopped.
#[derive(Debug)]
pub enum Planned {
    /// A window; more may follow.
    Window(Window),
    /// Some cursors need to be fed.
    Need,
    /// Nothing more.
    Done,
}

/// The merge.
pub struct Merge {
    /// The cursors, by number; one that has ended is none.
    pub cursors: Vec<Option<Cursor>>,
    heads: BinaryHeap<Reverse<(Labels, u32, Chunks)>>,
    /// Cursors without a head.
    waiting: Vec<u32>,
    current: Option<(Labels, Vec<(u32, Place)>)>,
    window: Window,
    /// What the window reads.
    spans: Spans,
    used: Arc<Used>,
    limit: Option<usize>,
    given: usize,
    /// It ended at the limit.
    pub is_cut: bool,
    most: u64,
    /// The first damage of each cursor that has ended.
    pub damage: Vec<(u32, String, u64)>,
}

/// Chunks, which don't take part in the order.
#[derive(Debug)]
struct Chunks(Box<[Place]>);

impl PartialEq for Chunks {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Chunks {}
impl PartialOrd for Chunks {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Chunks {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Merge {
    /// Of these cursors, into windows of `most` bytes; `limit` series at most, of which `given` were given before.
    pub fn new(cursors: Vec<Cursor>, used: Arc<Used>, limit: Option<usize>, given: usize, most: u64) -> Self {
        let count = cursors.len();
        Self {
            cursors: cursors.into_iter().map(Some).collect(),
            heads: BinaryHeap::with_capacity(count),
            waiting: (0..count as u32).collect(),
            current: None,
            window: Window::default(),
            spans: Spans::default(),
            used,
            limit,
            given,
            is_cut: false,
            most,
            damage: Vec::new(),
        }
    }

    /// Goes on until a window is full, or bytes are needed.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn plan(&mut self, stop: &Stop) -> Result<Planned, Refused> {
        for turn in 0.. {
            if turn % LOOK_EVERY == 0 && stop.is_set() {
                return Ok(Planned::Done);
            }
            if !self.fill()? {
                return Ok(Planned::Need);
            }
            let same = match (self.heads.peek(), &self.current) {
                (Some(Reverse((labels, ..))), Some((current, _))) => labels == current,
                _ => false,
            };
            if !same && let Some((labels, chunks)) = self.current.take() {
                self.finish(labels, chunks)?;
                if self.limit.is_some_and(|l| self.given >= l) {
                    self.is_cut = true;
                    self.heads.clear();
                    self.waiting.clear();
                    self.cursors.iter_mut().for_each(|c| *c = None);
                }
                if self.window.planned + self.window.read >= self.most {
                    return Ok(Planned::Window(self.take()));
                }
            }
            let Some(Reverse((labels, cursor, Chunks(places)))) = self.heads.pop() else { break };
            self.waiting.push(cursor);
            let chunks = places.into_iter().map(|p| (cursor, p));
            match &mut self.current {
                Some((_, current)) => current.extend(chunks),
                None => self.current = Some((labels, chunks.collect())),
            }
        }
        if self.window.series.is_empty() {
            return Ok(Planned::Done);
        }
        Ok(Planned::Window(self.take()))
    }

    fn take(&mut self) -> Window {
        self.spans.clear();
        std::mem::take(&mut self.window)
    }

    /// Gives each cursor a head; false if some need to be fed.
    fn fill(&mut self) -> Result<bool, Refused> {
        let mut needs = Vec::new();
        while let Some(number) = self.waiting.pop() {
            let Some(place) = self.cursors.get_mut(number as usize) else { continue };
            let Some(cursor) = place else { continue };
            match cursor.advance()? {
                Step::Ready => {
                    if let Some((labels, places)) = cursor.pop() {
                        self.heads.push(Reverse((labels, number, Chunks(places))));
                    }
                }
                Step::Need => needs.push(number),
                Step::End => {
                    if let Some((text, count)) = cursor.damage.take() {
                        self.damage.push((number, text, count));
                    }
                    *place = None;
                }
            }
        }
        self.waiting = needs;
        Ok(self.waiting.is_empty())
    }

    fn finish(&mut self, labels: Labels, mut chunks: Vec<(u32, Place)>) -> Result<(), Refused> {
        self.used.chunks(chunks.len())?;
        chunks.sort_by_key(|(block, p)| (p.min_t, p.max_t, *block));
        for (block, place) in &chunks {
            self.window.read += self.spans.add((*block, place.segment), place.start..place.end);
        }
        self.window.planned += 64 + labels.packed_len() as u64 + chunks.len() as u64 * PLACE;
        self.window.chunks.append(&mut chunks);
        self.window.series.push((labels, u32::try_from(self.window.chunks.len()).unwrap_or(u32::MAX)));
        self.given += 1;
        Ok(())
    }

    /// The numbers of the cursors that have to be fed, and of those that soon will.
    pub fn hungry(&self) -> Vec<u32> {
        let is_low = |n: &u32| self.cursors.get(*n as usize).and_then(Option::as_ref).is_some_and(Cursor::is_low);
        (0..self.cursors.len() as u32).filter(is_low).collect()
    }

    /// What was found wrong with cursors so far.
    pub fn take_damage(&mut self) -> Vec<(u32, String, u64)> {
        for (number, cursor) in self.cursors.iter_mut().enumerate() {
            if let Some((text, count)) = cursor.as_mut().and_then(|c| c.damage.take()) {
                self.damage.push((number as u32, text, count));
            }
        }
        std::mem::take(&mut self.damage)
    }
}
