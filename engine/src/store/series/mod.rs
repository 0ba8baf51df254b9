//! Series: the answer to one request, streamed.
//!
//! ```text
//!  open blocks ▶ cursors ─┐
//!                         ├─▶ merge ▶ stretch of windows ▶ window by window: read chunks ▶ frames ▶ caller
//!  feed (index ranges) ───┘      (next window is read while this one is sent)
//! ```
//!
//! Reads of the bucket are long, what is held is not: where there is a disk cache, all that a stretch of windows reads is
//! brought onto the disk first, and each window is read from there.
//!
//! Series are merged by their labels before a single chunk is read; chunks are read for one window of series after the other.
//! Of a window that was read, messages are made a few at a time, when there is room for them towards the caller.
//! So memory depends on the window and the number of blocks, not on the answer, and every moment has a label set up to which
//! the answer is complete: when a block turns out to be gone or damaged, the rest is planned anew from there.

pub mod build;
pub mod cursor;
pub mod encode;
pub mod fault;
pub mod merge;
pub mod metrics;
pub mod missing;
pub mod open;
pub mod request;
pub mod spans;
pub mod spec;
pub mod turn;

use super::blocks::{Block, Served, Set};
use super::cpu::Cpu;
use super::limits::{Held, Memory, Used};
use super::ranges::Budget;
use super::select::blocks::{Facts, choose, hinted};
use super::select::parts::Loaded;
use crate::storeapi::wire::Shard;
use crate::storeapi::{external, frames};
use build::Reading;
use cursor::Cursor;
use encode::Frame;
use fault::Fault;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use merge::{Merge, Planned, Window};
use missing::Lacks;
use model::world::World;
use model::{BlockId, Labels, Matcher};
use open::Opener;
use spec::{Aggregates, Spec, Stats, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use turn::Turn;

/// Blocks that one request opens, and files that it reads, at the same time.
const CONCURRENT: usize = 32;
/// Bytes of a window, chunks and all: of one that is read from the bucket, and of one that was brought near.
const WINDOW: u64 = 8 << 20;
const NEAR_WINDOW: u64 = 1 << 20;
/// Bytes of the first stretch; each next one may have twice as many. Nothing is sent before the first is near, and who asked waits
/// for 30 s: this much comes at 1 MB/s.
const FIRST: u64 = 24 << 20;
/// Windows of a request that are held at the same time: one whose last frames wait, one that is sent, one that is read or waits.
const WINDOWS: u64 = 3;
/// Bytes that the windows of a stretch take before they are read, about.
const PLANNED: u64 = 4 << 20;
/// Bytes of frames that wait for the caller, about, with the one that is made.
const FRAMES: u64 = (QUEUE as u64 + 1) * encode::TOGETHER as u64;
/// Bytes of index entries that a request holds in all its blocks, about, and what it reads of one block at least and at most:
/// from the bucket, and of what was brought near.
const ENTRIES: u64 = 32 << 20;
const PART: std::ops::RangeInclusive<u64> = 16 << 10..=8 << 20;
const NEAR_PART: u64 = 1 << 20;
/// Frames that wait for a slow reader: [`encode::TOGETHER`] bytes each, or one message.
pub const QUEUE: usize = 2;
/// How often a request is planned anew before it fails.
const ATTEMPTS: usize = 32;
/// How long a caller may not read at all: a querier that merges lazily reads nothing here while another store has its turn.
pub const STALL: Duration = Duration::from_secs(300);
/// How long a request that waits for its caller keeps its turn.
const LINGER: Duration = Duration::from_secs(2);

/// Where frames go.
pub type Out = mpsc::Sender<Result<Frame, Status>>;

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Oldest and newest sample in ms, both inclusive.
    pub range: (i64, i64),
    /// The matchers.
    pub matchers: Vec<Matcher>,
    /// Matchers on blocks, from the hints.
    pub block_matchers: Vec<Matcher>,
    /// Coarsest resolution in ms.
    pub max_resolution: i64,
    /// Which aggregates of downsampled chunks.
    pub aggregates: Aggregates,
    /// Labels only.
    pub skip_chunks: bool,
    /// Names to leave out.
    pub without: Vec<String>,
    /// The caller's share.
    pub shard: Option<Shard>,
    /// Most series.
    pub limit: Option<usize>,
    /// Most series in a message.
    pub batch: usize,
    /// The caller wants an error rather than an answer that lacks something.
    pub abort: bool,
}

/// What all requests share.
#[derive(Clone)]
pub struct Shared {
    /// The blocks.
    pub set: Set,
    /// Time.
    pub world: World,
    /// Where the CPU's work goes.
    pub cpu: Cpu,
    /// What the process may hold.
    pub memory: Memory,
    /// Bytes that are read for an entry at most, where a block does not tell.
    pub series_estimate: u64,
    /// Bytes that are read for a chunk, where a block does not tell.
    pub chunk_estimate: u32,
}

/// One request under way.
pub struct Answer<'a> {
    shared: &'a Shared,
    asked: Asked,
    used: Arc<Used>,
    budget: Arc<Budget>,
    stop: Stop,
    /// What was done.
    pub stats: Arc<Stats>,
    /// Blocks that were read.
    pub queried: BTreeSet<BlockId>,
    /// How long it looked for series in them.
    pub looked: Duration,
    lacks: Lacks,
    excluded: BTreeSet<BlockId>,
    /// The answer is complete up to here.
    last: Option<Labels>,
    given: usize,
    turn: Turn,
    out: &'a Out,
}

/// Which of the blocks that are served a request wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Oldest and newest sample in ms, both inclusive.
    pub range: (i64, i64),
    /// Coarsest resolution in ms; none: the finest that there is.
    pub max_resolution: Option<i64>,
    /// The matchers.
    pub matchers: &'a [Matcher],
    /// Matchers on blocks.
    pub block_matchers: &'a [Matcher],
    /// Blocks to leave out.
    pub excluded: &'a BTreeSet<BlockId>,
}

/// A block, and the matchers that its series have to pass.
pub type Chosen = (Arc<Block>, Arc<[Matcher]>);

/// Which blocks answer a request.
pub fn choose_blocks(served: &Served, wanted: Wanted<'_>) -> Vec<Chosen> {
    let Wanted { range, max_resolution, matchers, block_matchers, excluded } = wanted;
    let mut blocks = Vec::new();
    // Most groups have the same external names, so the same matchers are left: they may be long, and are kept once.
    let mut rests: BTreeMap<Vec<usize>, Arc<[Matcher]>> = BTreeMap::new();
    for group in &served.groups {
        if !external::touches(&group.external, matchers) {
            continue;
        }
        let own = |(i, m): (usize, &Matcher)| group.external.get(&m.name).is_none().then_some(i);
        let left: Vec<usize> = matchers.iter().enumerate().filter_map(own).collect();
        let take = |left: &Vec<usize>| left.iter().filter_map(|i| matchers.get(*i).cloned()).collect();
        let rest = Arc::clone(rests.entry(left).or_insert_with_key(take));
        let there: Vec<&Arc<Block>> = group.blocks.iter().filter(|b| !excluded.contains(&b.id)).collect();
        // The other way round, the finest come first and the coarser fill the holes.
        let rank = |b: &Block| if max_resolution.is_some() { b.resolution } else { i64::MAX - b.resolution };
        let facts = there.iter().map(|b| Facts { min_t: b.min_t, max_t: b.max_t, resolution: rank(b) });
        for place in choose(facts, range, max_resolution.unwrap_or(i64::MAX)) {
            let Some(block) = there.get(place) else { continue };
            if block_matchers.is_empty() || hinted(&block.id.to_string(), &group.external, block_matchers) {
                blocks.push((Arc::clone(block), Arc::clone(&rest)));
            }
        }
    }
    blocks
}

impl<'a> Answer<'a> {
    /// An answer that goes to `out`, with its turn.
    pub fn new(
        shared: &'a Shared,
        asked: Asked,
        used: Used,
        budget: Budget,
        stop: Stop,
        (turn, out): (Turn, &'a Out),
    ) -> Self {
        Self {
            shared,
            asked,
            used: Arc::new(used),
            budget: Arc::new(budget),
            stop,
            stats: Arc::default(),
            queried: BTreeSet::new(),
            looked: Duration::ZERO,
            lacks: Lacks::default(),
            excluded: BTreeSet::new(),
            last: None,
            given: 0,
            turn,
            out,
        }
    }

    /// What was read.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Answers.
    ///
    /// # Errors
    /// When a limit is reached, the caller is gone, or something is missing and the caller wants an error then.
    pub async fn run(&mut self) -> Result<(), Fault> {
        if self.asked.range.0 > self.asked.range.1 {
            return Ok(());
        }
        let mut served = self.shared.set.snapshot();
        let mut is_cut = false;
        for _ in 0..ATTEMPTS {
            self.lacks.served(&served, self.asked.range, &self.asked.matchers, self.asked.abort);
            self.tell(None).await?;
            let troubles = match self.attempt(&served).await {
                // Of what was counted something had no samples that are wanted: what follows may.
                Ok(true) if self.asked.limit.is_some_and(|limit| self.given < limit) => {
                    is_cut = true;
                    continue;
                }
                Ok(_) => return self.end().await,
                Err(Fault::Blocks(troubles)) => troubles,
                Err(other) => return Err(other),
            };
            is_cut = false;
            let set = &self.shared.set;
            served = self.lacks.around(set, served, troubles, &mut self.excluded).await?;
            self.tell(None).await?;
        }
        if is_cut {
            return self.end().await;
        }
        Err(Status::aborted(format!("blocks changed under the request more than {ATTEMPTS} times: ask again")).into())
    }

    /// Says what is missing; an error if the caller wants one.
    async fn tell(&mut self, last: Option<String>) -> Result<(), Fault> {
        for text in self.lacks.take().into_iter().chain(last) {
            if self.asked.abort {
                return Err(Status::aborted(text).into());
            }
            self.send(Frame::of(&frames::warning(text))).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Fault> {
        let rest = self.lacks.rest();
        self.tell(rest).await
    }

    /// Sends messages. While the caller does not read, others have the turn.
    pub(super) async fn send(&mut self, frame: Frame) -> Result<(), Fault> {
        let mut sent = self.out.send_timeout(Ok(frame), LINGER).await;
        if let Err(SendTimeoutError::Timeout(frame)) = sent {
            self.turn.give_back();
            sent = self.out.send_timeout(frame, STALL).await;
        }
        match sent {
            Ok(()) => Ok(self.turn.again().await?),
            Err(SendTimeoutError::Closed(_)) => Err(Status::cancelled("the caller is gone").into()),
            Err(SendTimeoutError::Timeout(_)) => {
                Err(Status::deadline_exceeded(format!("the caller has read nothing for {STALL:?}")).into())
            }
        }
    }

    /// Answers from what is served now, from where the answer stands; true if there may be more, behind the limit.
    async fn attempt(&mut self, served: &Served) -> Result<bool, Fault> {
        let Asked { range, matchers, block_matchers, max_resolution, .. } = &self.asked;
        let wanted = Wanted {
            range: *range,
            max_resolution: Some(*max_resolution),
            matchers,
            block_matchers,
            excluded: &self.excluded,
        };
        let blocks = choose_blocks(served, wanted);
        self.used = Arc::new(self.used.anew());
        let spec = Arc::new(Spec {
            min_t: self.asked.range.0,
            max_t: self.asked.range.1,
            without: self.asked.without.clone(),
            shard: self.asked.shard.clone(),
            skip_chunks: self.asked.skip_chunks,
            aggregates: self.asked.aggregates,
            chunk_estimate: self.shared.chunk_estimate,
            after: self.last.clone(),
            stop: self.stop.clone(),
            stats: Arc::clone(&self.stats),
        });
        let clock = Arc::clone(&self.shared.world.clock);
        let begin = clock.elapsed();
        let cursors = self.open(blocks, &spec).await;
        self.looked += clock.elapsed().saturating_sub(begin);
        let cursors = cursors?;
        let blocks: Vec<Arc<Block>> = cursors.iter().map(|c| Arc::clone(&c.block)).collect();
        let near = blocks.first().map_or(0, |b| b.near());
        let window = if near > 0 { NEAR_WINDOW } else { WINDOW };
        let merge = Merge::new(cursors, Arc::clone(&self.used), self.asked.limit, self.given, window);
        let line = Line {
            cpu: self.shared.cpu.clone(),
            memory: self.shared.memory.clone(),
            budget: Arc::clone(&self.budget),
            near,
            next_stretch: AtomicU64::new(FIRST.min(near)),
            // Few series are asked for: not more of the entries is read.
            near_entries: if self.asked.limit.is_some() { 0 } else { near / blocks.len().max(1) as u64 },
            blocks,
            spec,
            batch: self.asked.batch,
            in_use: Arc::default(),
            is_cut: AtomicBool::new(false),
        };
        // What is read waits here until what is before it was sent; both go on at the same time.
        let (to, mut from) = mpsc::channel::<Result<Job, Fault>>(1);
        let line = Arc::new(line);
        let reading = Arc::clone(&line).read(merge, to);
        let line = &*line;
        let sending = async {
            while let Some(next) = from.recv().await {
                self.pass_on(next?, line).await?;
            }
            Ok::<_, Fault>(())
        };
        tokio::pin!(reading, sending);
        tokio::select! {
            outcome = &mut sending => outcome?,
            () = &mut reading => sending.await?,
        }
        Ok(line.is_cut.load(Ordering::Relaxed))
    }

    async fn pass_on(&mut self, job: Job, line: &Line) -> Result<(), Fault> {
        let Job { reading: mut window, room } = job;
        let room = Arc::new(room);
        loop {
            self.damage(&mut window, line).await?;
            let (frame, back) = line.frame(window).await?;
            window = back;
            match frame {
                // It is counted until the caller has it.
                Some(frame) => self.send(frame.with(Arc::clone(&room))).await?,
                None => break,
            }
        }
        // What was left may have been nothing but damage.
        self.damage(&mut window, line).await?;
        let (given, last) = window.end();
        self.given += given;
        if last.is_some() {
            self.last = last;
        }
        Ok(())
    }

    /// Tells what was found damaged in a window so far.
    async fn damage(&mut self, window: &mut Reading, line: &Line) -> Result<(), Fault> {
        for (number, text, count) in window.damage() {
            if let Some(block) = line.blocks.get(number as usize) {
                let more = if count > 1 { format!(" (and {} more like it)", count - 1) } else { String::new() };
                let reason = format!("a part of it can't be read: {text}{more}");
                block.flawed(&reason);
                self.lacks.block(block, &reason);
            }
        }
        self.tell(None).await
    }

    /// Opens blocks, several at a time. What can't be read is told all at once.
    async fn open(&mut self, blocks: Vec<Chosen>, spec: &Arc<Spec>) -> Result<Vec<Cursor>, Fault> {
        let opener = Opener {
            cpu: self.shared.cpu.clone(),
            memory: self.shared.memory.clone(),
            budget: Arc::clone(&self.budget),
            used: Arc::clone(&self.used),
            series_estimate: self.shared.series_estimate,
        };
        // Few series are asked for: not more of the entries is read.
        let part = ENTRIES / blocks.len().max(1) as u64;
        let part = self.asked.limit.map_or(part, |l| part.min((l as u64).saturating_mul(opener.series_estimate)));
        let near = blocks.first().map_or(0, |(b, _)| b.near());
        let part = part.clamp(*PART.start(), if near > 0 { NEAR_PART } else { *PART.end() });
        self.queried.extend(blocks.iter().map(|(b, _)| b.id));
        let mut opened = stream::iter(blocks.into_iter().map(|(block, matchers)| {
            let (opener, spec) = (opener.clone(), Arc::clone(spec));
            async move { opener.open(block, matchers, spec, part).await }
        }))
        .buffered(CONCURRENT);
        let (mut cursors, mut troubles) = (Vec::new(), Vec::new());
        while let Some(one) = opened.next().await {
            match one {
                Ok(cursor) => cursors.extend(cursor),
                Err(Fault::Blocks(t)) => troubles.extend(t),
                Err(other) => return Err(other),
            }
        }
        if troubles.is_empty() { Ok(cursors) } else { Err(Fault::Blocks(troubles)) }
    }
}

/// Runs in a task of its own, which ends when what is given back is dropped: reads hold turns towards the bucket, and must go
/// on and give them back although the caller of this request does not read now.
pub(super) fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> impl Future<Output = Result<T, Fault>> {
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    async move { task.await.unwrap_or_else(|e| Err(Status::internal(format!("a read ended early: {e}")).into())) }
}

/// The way of windows from the merge to frames.
struct Line {
    cpu: Cpu,
    memory: Memory,
    budget: Arc<Budget>,
    /// Bytes that are brought near together, of chunks and of the index entries of a block; 0 without a disk cache.
    near: u64,
    near_entries: u64,
    /// Bytes of chunks of the next stretch.
    next_stretch: AtomicU64,
    /// The blocks by the number of their cursor.
    blocks: Vec<Arc<Block>>,
    spec: Arc<Spec>,
    batch: usize,
    /// One more for each stretch that holds memory.
    in_use: Arc<()>,
    /// The merge ended at the limit.
    is_cut: AtomicBool,
}

/// The memory of a stretch.
struct Stretch {
    _chunks: OwnedSemaphorePermit,
    _in_use: Arc<()>,
}

/// The memory of a window: of its stretch, and of chunks that were longer than expected.
struct Room {
    _stretch: Arc<Stretch>,
    longer: Held,
}

/// A window that is to be read, or was, and the memory for it.
struct Job {
    reading: Reading,
    room: Room,
}

impl Line {
    /// Reads all windows, one after the other: not more than one besides that which is being sent.
    async fn read(self: Arc<Self>, mut merge: Merge, to: mpsc::Sender<Result<Job, Fault>>) {
        let mut jobs = Vec::new().into_iter();
        while let Ok(place) = to.reserve().await {
            if jobs.len() == 0 {
                let line = Arc::clone(&self);
                match apart(async move { line.stretch(merge).await }).await {
                    Ok(None) => return,
                    Ok(Some((next, back))) => (jobs, merge) = (next.into_iter(), back),
                    Err(fault) => return place.send(Err(fault)),
                }
            }
            let Some(job) = jobs.next() else { return };
            let line = Arc::clone(&self);
            let built = apart(async move { line.build(job).await }).await;
            let is_last = built.is_err();
            place.send(built);
            if is_last {
                return;
            }
        }
    }

    /// Merges until there is a stretch of windows, feeds the cursors on the way, and brings near what the windows will read.
    async fn stretch(&self, mut merge: Merge) -> Result<Option<(Vec<Job>, Merge)>, Fault> {
        let (mut readings, mut planned, mut read, mut largest) = (Vec::new(), 0, 0, 0);
        let most = self.next_stretch.load(Ordering::Relaxed);
        self.next_stretch.store(self.near.min(most.saturating_mul(2)), Ordering::Relaxed);
        self.feed(&mut merge).await?;
        loop {
            let stop = self.spec.stop.clone();
            let (next, back) = self.cpu.run(move || (merge.plan(&stop), merge)).await?;
            merge = back;
            let (window, is_over) = match next? {
                Planned::Need => {
                    self.feed(&mut merge).await?;
                    continue;
                }
                Planned::Window(window) => (window, false),
                Planned::Done => {
                    self.is_cut.fetch_or(merge.is_cut, Ordering::Relaxed);
                    (Window::default(), true)
                }
            };
            let damage = merge.take_damage();
            if !window.series.is_empty() || !damage.is_empty() {
                planned += window.planned;
                read += window.read;
                largest = window.read.max(largest);
                readings.push(Reading::new(window, damage));
            }
            if is_over || read >= most || planned >= PLANNED {
                break;
            }
        }
        if readings.is_empty() {
            return Ok(None);
        }
        let bytes = planned + FRAMES + read.min(largest.saturating_mul(WINDOWS));
        let chunks = self.memory.chunks(bytes, || Arc::strong_count(&self.in_use) > 1).await?;
        let stretch = Arc::new(Stretch { _chunks: chunks, _in_use: Arc::clone(&self.in_use) });
        if readings.len() > 1 {
            self.bring(&readings).await?;
        }
        let job = |reading| {
            let room = Room { _stretch: Arc::clone(&stretch), longer: self.memory.hold() };
            Job { reading, room }
        };
        Ok(Some((readings.into_iter().map(job).collect(), merge)))
    }

    /// Brings near what windows read.
    async fn bring(&self, readings: &[Reading]) -> Result<(), Fault> {
        let mut wanted: BTreeMap<(u32, u32), Vec<std::ops::Range<u64>>> = BTreeMap::new();
        for read in readings.iter().flat_map(|r| &r.reads) {
            wanted.entry((read.block, read.segment)).or_default().extend(read.ranges.iter().cloned());
        }
        let brought = stream::iter(wanted.into_iter().map(|((block, segment), ranges)| async move {
            let block = self.block(block)?;
            let brought = block.segment_ahead(segment.saturating_add(1), &ranges, &self.budget).await;
            brought.map_err(Fault::from_block(&block))
        }));
        let mut brought = brought.buffer_unordered(CONCURRENT).boxed();
        let mut troubles = Vec::new();
        while let Some(one) = brought.next().await {
            match one {
                Ok(()) => {}
                Err(Fault::Blocks(t)) => troubles.extend(t),
                Err(other) => return Err(other),
            }
        }
        if troubles.is_empty() { Ok(()) } else { Err(Fault::Blocks(troubles)) }
    }

    /// Reads what cursors need, and what others will need soon, at the same time.
    async fn feed(&self, merge: &mut Merge) -> Result<(), Fault> {
        let mut wants = Vec::new();
        for number in merge.hungry() {
            let cursor = merge.cursors.get_mut(number as usize).and_then(Option::as_mut);
            if let Some(cursor) = cursor {
                let ahead = cursor.ahead(self.near_entries);
                wants.extend(cursor.want().map(|want| (number, ahead, want, Arc::clone(&cursor.block))));
            }
        }
        let mut reads = stream::iter(wants.into_iter().map(|(number, ahead, want, block)| async move {
            let read = async {
                if !ahead.is_empty() {
                    block.index_ahead(&ahead, &self.budget).await?;
                }
                block.index(want.ranges(), &self.budget).await
            };
            let read = read.await;
            (number, want, read.map_err(Fault::from_block(&block)))
        }))
        .buffer_unordered(CONCURRENT);
        let mut troubles = Vec::new();
        while let Some((number, want, read)) = reads.next().await {
            match read {
                Ok(bytes) => {
                    if let Some(cursor) = merge.cursors.get_mut(number as usize).and_then(Option::as_mut) {
                        cursor.feed(want, bytes)?;
                    }
                }
                Err(Fault::Blocks(t)) => troubles.extend(t),
                Err(other) => return Err(other),
            }
        }
        if troubles.is_empty() { Ok(()) } else { Err(Fault::Blocks(troubles)) }
    }

    /// Reads the chunks of a window.
    async fn build(&self, job: Job) -> Result<Job, Fault> {
        let Job { mut reading, mut room } = job;
        let reads: Vec<_> = reading.reads.clone();
        let reads = stream::iter(reads.into_iter().map(|read| async move {
            let block = self.block(read.block)?;
            let bytes = block.segment(read.segment.saturating_add(1), &read.ranges, &self.budget).await;
            let bytes = bytes.map_err(Fault::from_block(&block))?;
            let size: u64 = bytes.iter().map(|b| b.len() as u64).sum();
            self.spec.stats.data.fetched(read.ranges.len(), size, read.ranges.len());
            Ok::<_, Fault>(Loaded::new(&read.ranges, bytes))
        }));
        let mut reads = reads.buffered(CONCURRENT).boxed();
        let (mut loaded, mut troubles) = (Vec::new(), Vec::new());
        while let Some(one) = reads.next().await {
            match one {
                Ok(one) => loaded.push(one),
                // All that can't be read is told at once: each attempt may take as long as a read that never answers.
                Err(Fault::Blocks(t)) => troubles.extend(t),
                Err(other) => return Err(other),
            }
        }
        drop(reads);
        if !troubles.is_empty() {
            return Err(Fault::Blocks(troubles));
        }
        reading.feed(loaded);
        let spec = Arc::clone(&self.spec);
        let (longer, mut reading) = self.cpu.run(move || (reading.take(&spec), reading)).await?;
        if !longer.is_empty() {
            self.again(longer, &mut reading, &mut room.longer).await?;
        }
        Ok(Job { reading, room })
    }

    /// The next messages of a window; of none are left, nothing.
    async fn frame(&self, mut window: Reading) -> Result<(Option<Frame>, Reading), Fault> {
        if window.is_over() {
            return Ok((None, window));
        }
        let (spec, batch) = (Arc::clone(&self.spec), self.batch);
        Ok(self.cpu.run(move || (window.frame(&spec, batch), window)).await?)
    }

    /// Reads the chunks that are longer than what was read of them, so many at a time as fit into a window: a length that is
    /// damaged costs no more than that. What is kept of them is counted.
    async fn again(
        &self,
        longer: Vec<(usize, std::ops::Range<u64>)>,
        reading: &mut Reading,
        held: &mut Held,
    ) -> Result<(), Fault> {
        let mut longer = longer.into_iter().peekable();
        while longer.peek().is_some() {
            let (mut reads, mut bytes) = (Vec::new(), 0);
            while let Some((chunk, range)) =
                longer.next_if(|(_, range)| bytes == 0 || bytes + (range.end - range.start) <= WINDOW)
            {
                bytes += range.end - range.start;
                reads.extend(reading.place(chunk).map(|place| (chunk, range, place)));
            }
            held.set(reading.longer() + usize::try_from(bytes).unwrap_or(usize::MAX))?;
            let mut reads = stream::iter(reads.into_iter().map(|(chunk, range, (number, place))| async move {
                let block = self.block(number)?;
                let segment = place.segment.saturating_add(1);
                let bytes = block.segment(segment, std::slice::from_ref(&range), &self.budget).await;
                let bytes = bytes.map_err(Fault::from_block(&block))?.into_iter().next().unwrap_or_default();
                self.spec.stats.data.fetched(1, bytes.len() as u64, 1);
                spec::add(&self.spec.stats.chunk_refetches, 1u64);
                Ok::<_, Fault>((chunk, range, bytes))
            }))
            .buffer_unordered(CONCURRENT);
            while let Some((chunk, range, bytes)) = reads.try_next().await? {
                reading.take_one(chunk, range, bytes);
            }
        }
        Ok(held.set(reading.longer())?)
    }

    fn block(&self, number: u32) -> Result<Arc<Block>, Fault> {
        let block = self.blocks.get(number as usize).map(Arc::clone);
        block.ok_or_else(|| Status::internal(format!("there is no cursor {number}")).into())
    }
}
