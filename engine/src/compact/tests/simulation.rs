//! G07 and G08: producers, compactors, stores and queries over one faulty bucket, in one process, in virtual time, from a seed.
//!
//! All are the real ones. Sidecars (all but their Prometheus) send the blocks that are cut, are killed, start again on their disk and
//! go on; compactors are killed and frozen (and wake as zombies, while what they had under way arrives); store gateways look at the
//! bucket, decide what they serve, and look again when a query meets a block that is gone; queries over what they serve must find
//! every sample that was committed, once, or be told which block is missing. Each way to the bucket fails, throttles, loses answers,
//! cuts bodies, hangs (what hangs may be done long after its sender gave up or was killed), and lists what was there half an hour
//! ago. The bucket judges every change (see `judge`). Then all faults end, and in ten cycles everything has to be compacted.

use super::judge::{Book, Judge, Origins, sources};
use super::rivals::{Freezing, Ice, Process, Told, Virtual};
use super::site::Dice;
use super::weather::{STALE, Weather, Wild};
use super::*;
use crate::server::Context;
use crate::sidecar::Sidecar;
use crate::store::blocks::{Block, Steps};
use bucket::store::Store;
use bytes::Bytes;
use model::world::World;
use model::{BlockId, Labels};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::goal::{Goal, Rng};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tsdb::disk::{Disk, MemoryDisk};
use tsdb::meta::BlockMeta;
use tsdb::plan::Retention;

/// Seeds that failed once, each in the world of its day: a block of ours was taken for another program's, since the catalogue was read
/// before it was committed and the bucket was listed after (`catalogue-again`); and one who had been frozen tried a request again that
/// had failed before, without the lease (`asked-awake`).
const CASES: [u64; 4] = [0x24f0_789f_5970_11c9, 0xb712_2369_fab7_13ca, 0x7135_1de7_447a_3da5, 0xa86b_aa7b_0b6f_2df9];
const MINUTE: Duration = Duration::from_secs(60);
/// How long all goes wrong.
const WILD: Duration = Duration::from_secs(120 * 60);
/// Between two passes of a compactor, and two looks of a store.
const PAUSE: Duration = Duration::from_secs(10 * 60);
/// Longest freeze.
const FREEZE: Duration = Duration::from_secs(45 * 60);
/// From mark to deletion, and how long stores serve what is marked, ms.
const DELAY: i64 = HOUR * 3 / 2;
const SERVED: i64 = HOUR / 4;
/// Passes of a compactor after the last fault in which all has to be done.
const CYCLES: u64 = 10;

/// A block that is cut: when, where it lies before, its id.
struct Cut {
    at: Duration,
    disk: MemoryDisk,
    dir: PathBuf,
    id: BlockId,
}

/// The blocks that were committed, and when.
type Arrived = Mutex<BTreeMap<BlockId, Instant>>;

/// The folder of a Prometheus.
const DATA: &str = "/data";

/// A Prometheus cuts a block: its folder is there.
fn cut(disk: &MemoryDisk, block: &Cut) {
    let dir = Path::new(DATA).join(block.id.to_string());
    disk.create_dir(&dir.join("chunks")).unwrap();
    for (path, bytes) in block.disk.files() {
        let file = path.strip_prefix(&block.dir).unwrap();
        tsdb::disk::replace(disk, &dir.join(file), &bytes).unwrap();
    }
}

/// A sidecar; one that is killed starts again on its disk.
async fn produce(site: &Site, way: Wild, labels: Labels, blocks: Vec<Cut>, begin: Instant, arrived: &Arrived) {
    let (disk, cuts) = (MemoryDisk::new(), Mutex::new(blocks.iter().peekable()));
    disk.create_dir(Path::new(DATA)).unwrap();
    loop {
        let life = async {
            let bucket = site.bucket(Arc::new(way.clone()) as Arc<dyn Store>);
            let context = Context::new("sidecar", site.world.clone());
            let at: (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new(DATA));
            let mut sidecar = Sidecar::start(&bucket, at, labels.clone(), &context).await;
            loop {
                while let Some(block) = cuts.lock().next_if(|block| begin + block.at <= Instant::now()) {
                    cut(&disk, block);
                }
                let outcome = sidecar.pass().await;
                let now = Instant::now();
                for id in sidecar.committed() {
                    arrived.lock().entry(id).or_insert(now);
                }
                let next = cuts.lock().peek().map(|block| begin + block.at);
                match next {
                    _ if outcome.is_err() => sleep(MINUTE).await,
                    Some(next) => sleep_until(next).await,
                    None => return,
                }
            }
        };
        tokio::select! {
            biased;
            () = life => return,
            () = way.killed.notified() => sleep(MINUTE).await,
        }
    }
}

/// Whether what a store serves has all samples of these blocks once: in raw data, or in its coarser copy; or tells which block is
/// missing. `served` are its blocks that can be read, and their resolutions.
fn query(book: &Book, served: &[(BlockId, i64)], missing: &[BlockId], known: &[BlockId]) -> Result<(), String> {
    let has = |block: &BlockId, id: &BlockId| {
        block == id || book.visible.get(block).is_some_and(|(m, _)| sources(m).contains(id))
    };
    for id in known {
        let holders = |coarse: bool| served.iter().filter(move |s| (s.1 > 0) == coarse).filter(|s| has(&s.0, id));
        let raw: Vec<BlockId> = holders(false).map(|s| s.0).collect();
        if raw.len() > 1 {
            return Err(format!("a query finds the samples of {id} twice, in {} and {}", raw[0], raw[1]));
        }
        if raw.is_empty() && holders(true).next().is_none() && !missing.iter().any(|m| has(m, id)) {
            return Err(format!("a query misses the samples of {id}"));
        }
    }
    Ok(())
}

/// A store gateway and the querier behind it.
struct Gateway<'a> {
    number: usize,
    steps: Steps,
    site: &'a Site,
    arrived: &'a Arrived,
    book: &'a Mutex<Book>,
    /// When the last good look began.
    looked: Option<Instant>,
    queries: u64,
}

impl Gateway<'_> {
    /// Looks when it is time, and answers from what it saw last.
    async fn run(mut self, stop: &CancellationToken) -> Result<u64, String> {
        while !stop.is_cancelled() {
            let begin = Instant::now();
            let is_good = self.steps.pass().await && self.steps.error().is_none();
            if is_good {
                self.looked = Some(begin);
            }
            self.note(is_good);
            self.ask()
                .await
                .map_err(|why| format!("of store {}, which looked {:?}: {why}", self.number, self.looked))?;
            let due = self.steps.due().saturating_sub(self.site.world.clock.elapsed());
            sleep(due.max(Duration::from_secs(5))).await;
        }
        Ok(self.queries)
    }

    /// What nobody may delete: what is served by all that a good look told; after another one, what is left of that.
    fn note(&self, is_good: bool) {
        let now: BTreeSet<BlockId> = self.steps.served().blocks().map(|b| b.id).collect();
        let mut book = self.book.lock();
        let noted = book.served.entry(self.number).or_default();
        *noted = if is_good { now } else { noted.intersection(&now).copied().collect() };
    }

    /// A query. One that meets a block that is gone looks again, as the gateway does; an honest failure is none of ours.
    async fn ask(&mut self) -> Result<(), String> {
        self.queries += 1;
        for _ in 0..3 {
            let (served, all) = (self.steps.served(), self.site.memory.snapshot());
            let gone: Vec<Arc<Block>> = {
                let book = self.book.lock();
                let is_whole = |b: &Block| book.visible.get(&b.id).is_some_and(|(m, _)| site::whole(&all, m).is_ok());
                served.blocks().filter(|b| b.wrong().is_none() && !is_whole(b)).cloned().collect()
            };
            if gone.is_empty() {
                let seen = |at: &Instant| self.looked.is_some_and(|l| l >= *at + STALE);
                let known: Vec<BlockId> =
                    self.arrived.lock().iter().filter(|(_, at)| seen(at)).map(|(id, _)| *id).collect();
                let (good, bad): (Vec<_>, Vec<_>) = served.blocks().partition(|b| b.wrong().is_none());
                let good: Vec<(BlockId, i64)> = good.iter().map(|b| (b.id, b.resolution)).collect();
                let missing: Vec<BlockId> =
                    served.missing.iter().map(|m| m.id).chain(bad.iter().map(|b| b.id)).collect();
                return query(&self.book.lock(), &good, &missing, &known);
            }
            if !self.steps.scout(gone).await {
                return Ok(());
            }
            self.note(false);
        }
        Err("a query meets blocks that are gone again and again".to_owned())
    }
}

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Trace {
    changes: Vec<String>,
    /// Cycles until all was done.
    cycles: u64,
    queries: u64,
    freezes: u64,
    kills: u64,
    hangs: u64,
    late: u64,
    /// All that was in the bucket at the end.
    left: BTreeMap<String, Bytes>,
}

/// A block that is still to be compacted, or to go by retention since `then`.
fn behind(site: &Site, raw: i64, then: i64) -> Option<BlockMeta> {
    let is_behind = |(m, marked): &(BlockMeta, bool)| {
        let is_raw = !marked && m.resolution() == 0;
        // Windows that are past lie in one block; what is too old is gone.
        let narrow = m.max_time <= T0 + 8 * HOUR && m.max_time - m.min_time == 2 * HOUR;
        is_raw && (narrow || raw > 0 && m.max_time + raw < then)
    };
    site.blocks().into_values().find(is_behind).map(|(m, _)| m)
}

/// A run; what fails is told with all that happened to its block.
async fn run(seed: u64) -> Result<Trace, String> {
    let book = Arc::new(Mutex::new(Book::default()));
    let outcome = course(seed, &book).await;
    outcome.map_err(|why| {
        let is_block = |w: &&str| w.parse::<BlockId>().is_ok();
        let block = why.split(|c: char| !c.is_ascii_alphanumeric()).find(is_block);
        let book = book.lock();
        let about = |l: &&String| block.is_some_and(|b| l.contains(b));
        let lines = book.log.iter().filter(about).map(|l| format!("\n  {l}"));
        format!("{why}{}", lines.collect::<String>())
    })
}

async fn course(seed: u64, book: &Arc<Mutex<Book>>) -> Result<Trace, String> {
    let mut rng = Rng(seed);
    // Some buckets are older, and raw data is dropped once it has coarser copies.
    let raw_days = if rng.one_in(4) { 3 * DAY } else { 0 };
    let retention = Retention { raw: raw_days, ..Retention::default() };
    let mut site = Site::new(Settings { retention, delete_delay: DELAY, ..raw() });
    let begin = Instant::now();
    let is_old = raw_days > 0;
    let now = T0 + if is_old { raw_days + (rng.below(50) as i64) * HOUR } else { 60 * HOUR };
    let dice = Arc::new(Dice(AtomicU64::new(rng.next_u64())));
    site.world = World { clock: Arc::new(Virtual(begin, now)), entropy: dice };
    let weather = Weather::wild(&mut rng);
    let (mut producers, mut origins) = (Vec::new(), Origins::new());
    for n in 0..3 {
        let cluster = format!("c{n}");
        let (count, width) = if is_old { (6, 8 * HOUR) } else { (5 + rng.below(3) as i64, 2 * HOUR) };
        // The oldest first, as sidecars do: what comes late into a window that was compacted overlaps it.
        let mut times: Vec<Duration> = (0..count).map(|_| WILD * rng.below(40) as u32 / 100).collect();
        times.sort();
        let mut blocks = Vec::new();
        for (k, at) in (0..count).zip(times) {
            let (disk, dir) = site.made(k * width, width, &[("cluster", &cluster)]);
            let id = site::id(&dir);
            origins.insert(id, (cluster.clone(), (T0 + k * width, T0 + (k + 1) * width)));
            blocks.push(Cut { at, disk, dir, id });
        }
        producers.push((cluster, blocks));
    }
    let (site, all) = (site, origins.len());
    let (told, stop) = (Arc::new(Told::default()), CancellationToken::new());
    let arrived = Arrived::default();
    let judge = Judge {
        memory: site.memory.clone(),
        clock: Arc::clone(&site.world.clock),
        begin,
        name: String::new(),
        delay: DELAY,
        raw: raw_days,
        samples: Arc::new(site.samples.clone()),
        origins: Arc::new(origins),
        book: Arc::clone(book),
    };
    let way = |name: &str, rng: &mut Rng| weather.way(Judge { name: name.to_owned(), ..judge.clone() }, rng, &told);
    let (mut working, mut states, mut thaws) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["one", "two", "three"].into_iter().take(2 + rng.below(2)) {
        let ice = Ice::new(Rng(rng.next_u64()));
        let wild = way(name, &mut rng);
        let freezing = Freezing {
            memory: site.memory.clone(),
            inner: Arc::new(wild.clone()),
            name,
            ice: Arc::clone(&ice),
            share: Arc::clone(&weather.freezes),
            longest: FREEZE,
            told: Arc::clone(&told),
            begin,
        };
        let mut compactor = site.compactor(name, Arc::new(MemoryDisk::new()));
        (compactor.options.lease, compactor.options.inline) = (PAUSE, true);
        states.push((name, compactor.progress.clone()));
        thaws.push(Arc::clone(&ice));
        let (bucket, stop) = (site.bucket(freezing), stop.clone());
        working.push(Process::new(ice, async move {
            // Killed, it starts again, on its disk.
            loop {
                tokio::select! {
                    biased;
                    _ = compactor.work(&bucket, Some(PAUSE), &stop) => return,
                    () = wild.killed.notified() => sleep(MINUTE).await,
                }
            }
        }));
    }
    let producing = producers.into_iter().map(|(cluster, blocks)| {
        let (site, arrived, wild) = (&site, &arrived, way(&format!("sidecar-{cluster}"), &mut rng));
        let labels = Labels::from_pairs([("cluster", cluster.as_str())]);
        async move { produce(site, wild, labels, blocks, begin, arrived).await }
    });
    let producing: Vec<_> = producing.collect();
    let storing = (0..2).map(|number| {
        let bucket = site.bucket(Arc::new(way(&format!("store-{number}"), &mut rng)) as Arc<dyn Store>);
        let context = Context::new("store", site.world.clone());
        let steps = Steps::new(bucket, SERVED, (PAUSE, PAUSE * 2), &context);
        let (looked, queries) = (None, 0);
        Gateway { number, steps, site: &site, arrived: &arrived, book, looked, queries }.run(&stop)
    });
    let storing: Vec<_> = storing.collect();
    let course = async {
        sleep(WILD).await;
        weather.calm();
        // Whoever is frozen thaws, all blocks arrive; then ten cycles, and what is marked goes.
        let end = Instant::now() + FREEZE + PAUSE;
        let is_frozen = |now: Instant| thaws.iter().any(|ice| ice.lock().until > now);
        while Instant::now() < end && (is_frozen(Instant::now()) || arrived.lock().len() < all) {
            sleep(MINUTE).await;
        }
        let (then, missing) = (site.world.clock.now_ms(), all - arrived.lock().len());
        let mut cycles = 0;
        let mut late = behind(&site, raw_days, then);
        while late.is_some() && cycles < CYCLES {
            sleep(PAUSE).await;
            cycles += 1;
            late = behind(&site, raw_days, then);
        }
        let end = Instant::now() + Duration::from_millis(DELAY.unsigned_abs()) + PAUSE * 3;
        while Instant::now() < end && site.blocks().values().any(|(_, marked)| *marked) {
            sleep(PAUSE).await;
        }
        sleep(PAUSE * 2).await;
        stop.cancel();
        match late {
            _ if missing > 0 => Err(format!("{missing} blocks were never sent")),
            Some(meta) => Err(format!("after ten cycles {} is not compacted or dropped", meta.id)),
            None => Ok(cycles),
        }
    };
    // What compactors say of themselves: a failed pass is repeated after half a minute.
    let watch = async {
        while !stop.is_cancelled() {
            for (name, state) in &states {
                if let Some(why) = state.wrong() {
                    return Err(format!("{name} says after {:?}: {why}", begin.elapsed()));
                }
            }
            sleep(Duration::from_secs(20)).await;
        }
        Ok(())
    };
    let (_, _, answers, course, watched) = tokio::join!(
        futures::future::join_all(working),
        futures::future::join_all(producing),
        futures::future::join_all(storing),
        course,
        watch
    );
    told.fenced()?;
    if let Some(why) = book.lock().broken.take() {
        return Err(why);
    }
    watched?;
    let queries = answers.into_iter().sum::<Result<u64, String>>()?;
    let cycles = course?;
    site.verify(true).map_err(|e| format!("at the end: {e}"))?;
    let of = |n: &AtomicU64| n.load(Ordering::SeqCst);
    let changes = std::mem::take(&mut book.lock().log);
    let (freezes, kills, hangs, late) = (of(&told.freezes), of(&told.kills), of(&told.hangs), of(&told.late));
    Ok(Trace { changes, cycles, queries, freezes, kills, hangs, late, left: site.memory.snapshot() })
}

/// What many runs did: the sums, and the most cycles.
#[derive(Default)]
struct Sum {
    changes: u64,
    cycles: u64,
    queries: u64,
    freezes: u64,
    kills: u64,
    hangs: u64,
    late: u64,
}

impl Sum {
    fn add(self, run: &Trace) -> Self {
        let Trace { cycles, queries, freezes, kills, hangs, late, .. } = *run;
        self.with(Self { changes: run.changes.len() as u64, cycles, queries, freezes, kills, hangs, late })
    }

    fn with(self, other: Self) -> Self {
        Self {
            changes: self.changes + other.changes,
            cycles: self.cycles.max(other.cycles),
            queries: self.queries + other.queries,
            freezes: self.freezes + other.freezes,
            kills: self.kills + other.kills,
            hangs: self.hangs + other.hangs,
            late: self.late + other.late,
        }
    }
}

fn simulate(seed: u64) -> Result<Trace, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(seed)).map_err(|e| format!("the simulation of seed {seed:#x}: {e}"))
}

#[test]
fn goal_g07_simulation() {
    let goal = Goal::start("G07");
    let mut rng = goal.rng("seeds");
    // One seed alone, to look at it.
    let one = std::env::var("PANOPTES_SIMULATE").ok();
    if let Some(seed) = one.and_then(|s| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok()) {
        simulate(seed).unwrap().changes.iter().for_each(|change| println!("{change}"));
        return;
    }
    let seeds = goal.pick(100, 1_000, 100_000);
    let all: Vec<u64> = CASES.into_iter().chain((0..seeds).map(|_| rng.next_u64())).collect();
    // Each seed is a world of its own, so two cores take half of them each.
    let sums = site::on_two_cores(&all, |seed| Ok(Sum::default().add(&simulate(*seed)?)));
    let sum = sums.unwrap_or_else(|e| panic!("{e}")).into_iter().fold(Sum::default(), Sum::with);
    let Sum { changes, cycles, queries, freezes, kills, hangs, late } = sum;
    goal.figure(&format!(
        "{seeds} seeds, {} cases: {changes} changes, {kills} kills, {freezes} freezes, {hangs} hung changes, {late} that came when another one \
         had the lease, {queries} queries: 0 begun without it, 0 samples missed, lost or doubled, all done within {cycles} cycles",
        CASES.len()
    ));
    assert!(freezes.min(kills).min(hangs) > seeds / 4, "hardly anything went wrong");
}

#[test]
fn goal_g08_one_seed_one_course() {
    let goal = Goal::start("G08");
    let mut rng = goal.rng("seeds");
    let seeds = goal.pick(5, 100, 1_000);
    let all: Vec<u64> = (0..seeds).map(|_| rng.next_u64()).collect();
    let same = site::on_two_cores(&all, |seed| {
        let (first, second) = (simulate(*seed)?, simulate(*seed)?);
        let differs = first.changes.iter().zip(&second.changes).find(|(a, b)| a != b);
        match differs {
            None if first == second => Ok(()),
            _ => Err(format!("seed {seed:#x} takes two courses: {differs:?}")),
        }
    });
    same.unwrap_or_else(|e| panic!("{e}"));
    goal.figure(&format!("{seeds} of {seeds} seeds took the same course twice"));
}

/// What a simulation relies on: a query that misses samples, or finds them twice, says so.
#[tokio::test(start_paused = true)]
async fn every_wrong_answer_is_named() {
    let mut site = Site::new(raw());
    let ids = [site.block(0, 2 * HOUR, &[("cluster", "a")]).await, site.block(0, 2 * HOUR, &[("cluster", "a")]).await];
    let mut metas: Vec<BlockMeta> = ids.iter().map(|id| site.blocks()[id].0.clone()).collect();
    metas[1].compaction.sources = vec![ids[0]];
    let visible = metas.into_iter().map(|m| (m.id, (Arc::new(m), true))).collect();
    let book = Book { visible, ..Book::default() };
    let both = [(ids[0], 0), (ids[1], 0)];
    let ask = |served: &[(BlockId, i64)], missing: &[BlockId]| {
        query(&book, served, missing, &ids[..1]).err().unwrap_or_default()
    };
    assert_eq!(ask(&both[..1], &[]), "");
    assert_eq!(ask(&[(ids[1], 300_000)], &[]), "");
    assert!(ask(&both, &[]).contains("twice"));
    assert!(ask(&[], &[]).contains("misses the samples"));
    assert_eq!(ask(&[], &ids[1..]), "", "it is told");
}
