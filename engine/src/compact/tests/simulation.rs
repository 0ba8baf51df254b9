//! G07 and G08: producers, compactors, stores and queries over one faulty bucket, in one process, in virtual time, from a seed.
//!
//! Producers send blocks as sidecars do, are killed, start again and go on; compactors are the real ones, are killed and frozen (and
//! wake as zombies); stores look and decide by the store gateway's own rules, and queries over what they serve must find every
//! sample that was committed, once. Each way to the bucket fails, throttles, loses answers, cuts bodies, hangs (what hangs may be
//! done long after its sender gave up), and lists what was there half an hour ago. The bucket judges every change (see `judge`).
//! Then all faults end, and in ten cycles everything has to be compacted.

use super::judge::{Book, Judge, Origins, sources};
use super::rivals::{Freezing, Process, Told, Virtual};
use super::site::Dice;
use super::weather::{STALE, Weather, Wild};
use super::*;
use crate::storage::selector::Selector;
use crate::store::blocks::Entry;
use crate::store::blocks::filters::{Candidate, Policy, decide};
use bucket::catalogue::Producer;
use bucket::fetch::{Depth, Fetcher, View};
use bucket::store::Store;
use bucket::{Bucket, Kind, block};
use bytes::Bytes;
use model::BlockId;
use model::world::World;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use testkit::goal::{Goal, Rng};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tsdb::disk::{Disk as _, MemoryDisk};
use tsdb::meta::{BlockMeta, File};
use tsdb::plan::Retention;

/// Seeds that failed once: a block of ours was taken for another program's, since the catalogue was read before it was committed and
/// the bucket was listed after; and one who had been frozen tried a request again that had failed before, without the lease.
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

/// A block on its way: when it is sent, where it lies, its id.
struct Parcel {
    at: Duration,
    disk: MemoryDisk,
    dir: PathBuf,
    id: BlockId,
}

/// The blocks that were committed, and when.
type Arrived = Mutex<BTreeMap<BlockId, Instant>>;

/// Sends a block as a sidecar does; what arrived whole before is not sent again.
async fn send(bucket: &Bucket, producer: &Producer, parcel: &Parcel) -> bucket::Result<()> {
    let mut meta = tsdb::block::read_meta(&parcel.disk, &parcel.dir).unwrap();
    let files = ["chunks/000001", "index"].map(|f| (f, parcel.disk.size(&parcel.dir.join(f)).unwrap()));
    let listed = files.iter().map(|(f, size)| File::new(*f, *size));
    meta.thanos.as_mut().unwrap().files = listed.chain([File::new("meta.json", 0)]).collect();
    producer.intent(meta.id, Vec::new()).await?;
    for (file, size) in files {
        let path = block::object(meta.id, file);
        let there = match bucket.head(&path).await {
            Ok(there) => there.size == size,
            Err(e) if e.is_not_found() => false,
            Err(e) => return Err(e),
        };
        if !there {
            bucket.upload_file(&path, &parcel.disk, &parcel.dir.join(file)).await?;
        }
    }
    match bucket.create(&block::object(meta.id, block::META), meta.write().unwrap()).await {
        Err(e) if e.kind != Kind::Exists => return Err(e),
        _ => {}
    }
    producer.commit(&meta).await
}

/// A sidecar; one that is killed starts again, and goes on with what had not arrived as far as it knows.
async fn produce(site: &Site, way: Wild, name: &str, parcels: Vec<Parcel>, begin: Instant, arrived: &Arrived) {
    for parcel in parcels {
        sleep_until(begin + parcel.at).await;
        loop {
            let bucket = site.bucket(Arc::new(way.clone()) as Arc<dyn Store>);
            let producer = Producer::new(bucket.clone(), name).unwrap();
            let sent = tokio::select! {
                biased;
                sent = send(&bucket, &producer, &parcel) => sent.is_ok(),
                () = way.killed.notified() => false,
            };
            if sent {
                break;
            }
            sleep(MINUTE).await;
        }
        arrived.lock().insert(parcel.id, Instant::now());
    }
}

/// What a store serves of a view, by the gateway's rules.
fn serve(view: &View, now: i64) -> Vec<Arc<Entry>> {
    let policy = Policy {
        window: (i64::MIN, i64::MAX),
        selector: Selector::default(),
        consistency_delay: 0,
        deletion_delay: SERVED,
    };
    let entries: Vec<Arc<Entry>> = view.blocks.values().map(|b| Arc::new(Entry::new(&b.meta))).collect();
    let candidates = view.blocks.values().zip(&entries).map(|(b, entry)| Candidate {
        entry,
        deletion_time: b.marks.deletion.as_ref().map(|m| m.deletion_time),
        held: (false, false),
        problems: &b.problems,
        is_damaged: false,
    });
    decide(candidates, &policy, now).serve
}

/// Whether what a store serves is there, and has all samples of these blocks once: in raw data, or in its coarser copy.
fn query(site: &Site, book: &Book, served: &[Arc<Entry>], known: &[BlockId]) -> Result<(), String> {
    let (all, there) = (site.memory.snapshot(), &book.visible);
    for entry in served {
        let (meta, _) = there.get(&entry.id).ok_or_else(|| format!("a query asks for {}, which is gone", entry.id))?;
        site::whole(&all, meta)?;
    }
    for id in known {
        let holders = |coarse: bool| {
            let some = served.iter().filter(move |e| (e.resolution > 0) == coarse);
            some.filter(|e| there.get(&e.id).is_some_and(|(m, _)| sources(m).contains(id))).map(|e| e.id)
        };
        let raw: Vec<BlockId> = holders(false).collect();
        if raw.len() > 1 {
            return Err(format!("a query finds the samples of {id} twice, in {} and {}", raw[0], raw[1]));
        }
        if raw.is_empty() && holders(true).next().is_none() {
            return Err(format!("a query misses the samples of {id}"));
        }
    }
    Ok(())
}

/// A store and the querier behind it: looks now and then, and answers from what it saw last.
async fn store(
    site: &Site,
    way: Wild,
    (number, mut rng): (usize, Rng),
    arrived: &Arrived,
    book: &Mutex<Book>,
    stop: &CancellationToken,
) -> Result<u64, String> {
    let bucket = site.bucket(Arc::new(way) as Arc<dyn Store>);
    let mut fetcher = Fetcher::new(bucket).trusting(8);
    let (mut served, mut looked, mut listed, mut queries) = (Vec::new(), None, None::<Instant>, 0);
    while !stop.is_cancelled() {
        let begin = Instant::now();
        let is_listed = listed.is_some_and(|at| at + PAUSE * 2 > begin);
        let depth =
            if is_listed { [Depth::Catalogue, Depth::Names, Depth::Objects][rng.below(3)] } else { Depth::Objects };
        let mut pause = MINUTE;
        if let Ok(view) = fetcher.look(depth).await
            && view.errors.is_empty()
        {
            served = serve(view, site.world.clock.now_ms());
            book.lock().served.insert(number, served.iter().map(|e| e.id).collect());
            if depth == Depth::Objects {
                listed = Some(begin);
            }
            (looked, pause) = (Some(begin), PAUSE);
        }
        let seen = |at: &Instant| looked.is_some_and(|l| l >= *at + STALE);
        let known: Vec<BlockId> = arrived.lock().iter().filter(|(_, at)| seen(at)).map(|(id, _)| *id).collect();
        let told = |why| format!("of store {number}, which looked {looked:?} and listed {listed:?}: {why}");
        query(site, &book.lock(), &served, &known).map_err(told)?;
        queries += 1;
        sleep(pause).await;
    }
    Ok(queries)
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
        let mut times: Vec<Duration> = (0..count).map(|_| WILD * rng.below(80) as u32 / 100).collect();
        times.sort();
        let mut parcels = Vec::new();
        for (k, at) in (0..count).zip(times) {
            let (disk, dir) = site.made(k * width, width, &[("cluster", &cluster)]);
            let id = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).unwrap();
            origins.insert(id, (cluster.clone(), (T0 + k * width, T0 + (k + 1) * width)));
            parcels.push(Parcel { at, disk, dir, id });
        }
        producers.push((format!("sidecar-{cluster}"), parcels));
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
        let state = Arc::new(Mutex::new((Rng(rng.next_u64()), Instant::now())));
        let wild = way(name, &mut rng);
        let freezing = Freezing {
            memory: site.memory.clone(),
            inner: Arc::new(wild.clone()),
            name,
            state: Arc::clone(&state),
            share: Arc::clone(&weather.freezes),
            longest: FREEZE,
            told: Arc::clone(&told),
            begin,
        };
        let mut compactor = site.compactor(name, Arc::new(MemoryDisk::new()));
        (compactor.options.lease, compactor.options.inline) = (PAUSE, true);
        states.push((name, compactor.progress.clone()));
        thaws.push(Arc::clone(&state));
        let (bucket, stop) = (site.bucket(freezing), stop.clone());
        working.push(Process::new(state, async move {
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
    let producing = producers.into_iter().map(|(name, parcels)| {
        let (site, arrived, wild) = (&site, &arrived, way(&name, &mut rng));
        async move { produce(site, wild, &name, parcels, begin, arrived).await }
    });
    let producing: Vec<_> = producing.collect();
    let storing = (0..2).map(|n| {
        let way = way(&format!("store-{n}"), &mut rng);
        store(&site, way, (n, Rng(rng.next_u64())), &arrived, book, &stop)
    });
    let storing: Vec<_> = storing.collect();
    let course = async {
        sleep(WILD).await;
        weather.calm();
        // Whoever is frozen thaws, all blocks arrive; then ten cycles, and what is marked goes.
        let end = Instant::now() + FREEZE + PAUSE;
        let is_frozen = |now: Instant| thaws.iter().any(|state| state.lock().1 > now);
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
                let state = state.state();
                let law = state.error.filter(|e| e.contains("breaks the law"));
                if let Some(why) = law.or(state.deletions_stopped) {
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
    let fenced = told.fenced_off.load(Ordering::SeqCst);
    if fenced > 0 {
        let log = told.log.lock();
        let lines =
            log.iter().filter(|l| l.contains("without the lease") || l.contains("/lease/")).map(|l| format!("\n  {l}"));
        return Err(format!("{fenced} changes were begun without the lease{}", lines.collect::<String>()));
    }
    if let Some(why) = book.lock().broken.take() {
        return Err(why);
    }
    watched?;
    let queries = answers.into_iter().sum::<Result<u64, String>>()?;
    let cycles = course?;
    site.verify(true).map_err(|e| format!("at the end: {e}"))?;
    let of = |n: &AtomicU64| n.load(Ordering::SeqCst);
    let changes = std::mem::take(&mut book.lock().log);
    let (freezes, kills, hangs) = (of(&told.freezes), of(&told.kills), of(&told.hangs));
    Ok(Trace { changes, cycles, queries, freezes, kills, hangs, left: site.memory.snapshot() })
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
}

impl Sum {
    fn add(self, run: &Trace) -> Self {
        let Trace { cycles, queries, freezes, kills, hangs, .. } = *run;
        self.with(Self { changes: run.changes.len() as u64, cycles, queries, freezes, kills, hangs })
    }

    fn with(self, other: Self) -> Self {
        Self {
            changes: self.changes + other.changes,
            cycles: self.cycles.max(other.cycles),
            queries: self.queries + other.queries,
            freezes: self.freezes + other.freezes,
            kills: self.kills + other.kills,
            hangs: self.hangs + other.hangs,
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
    let failed = AtomicBool::new(false);
    let half = |seeds: &[u64]| {
        let mut sum = Sum::default();
        for seed in seeds {
            if failed.load(Ordering::SeqCst) {
                break;
            }
            let trace = simulate(*seed);
            failed.fetch_or(trace.is_err(), Ordering::SeqCst);
            sum = sum.add(&trace?);
        }
        Ok(sum)
    };
    let (a, b) = all.split_at(all.len() / 2);
    let halves: [Result<Sum, String>; 2] = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(b));
        [half(a), other.join().unwrap_or_else(|e| std::panic::resume_unwind(e))]
    });
    let [a, b] = halves.map(|sum| sum.unwrap_or_else(|e| panic!("{e}")));
    let Sum { changes, cycles, queries, freezes, kills, hangs } = a.with(b);
    goal.figure(&format!(
        "{seeds} seeds, {} cases: {changes} changes, {kills} kills, {freezes} freezes, {hangs} hung changes, {queries} queries: 0 \
         without the lease, 0 samples missed, lost or doubled, all done within {cycles} cycles",
        CASES.len()
    ));
    assert!(freezes.min(kills).min(hangs) > seeds / 4, "hardly anything went wrong");
}

#[test]
fn goal_g08_one_seed_one_course() {
    let goal = Goal::start("G08");
    let mut rng = goal.rng("seeds");
    let seeds = goal.pick(5, 100, 1_000);
    for _ in 0..seeds {
        let seed = rng.next_u64();
        let (first, second) = (simulate(seed).unwrap(), simulate(seed).unwrap());
        let differs = first.changes.iter().zip(&second.changes).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed:#x} takes two courses");
        assert!(first == second, "seed {seed:#x} takes two courses");
    }
    goal.figure(&format!("{seeds} of {seeds} seeds took the same course twice"));
}

/// What a simulation relies on: a query that misses samples, finds them twice, or asks for what is gone, says so.
#[tokio::test(start_paused = true)]
async fn every_wrong_answer_is_named() {
    let mut site = Site::new(raw());
    let ids = [site.block(0, 2 * HOUR, &[("cluster", "a")]).await, site.block(0, 2 * HOUR, &[("cluster", "a")]).await];
    let mut metas: Vec<BlockMeta> = ids.iter().map(|id| site.blocks()[id].0.clone()).collect();
    let entries: Vec<Arc<Entry>> = metas.iter().map(|m| Arc::new(Entry::new(m))).collect();
    metas[1].compaction.sources = vec![ids[0]];
    let visible = metas.into_iter().map(|m| (m.id, (Arc::new(m), true))).collect();
    let mut book = Book { visible, ..Book::default() };
    let ask = |book: &Book, served: &[Arc<Entry>]| query(&site, book, served, &ids[..1]).err().unwrap_or_default();
    assert_eq!(ask(&book, &entries[..1]), "");
    assert!(ask(&book, &entries).contains("twice"));
    assert!(ask(&book, &[]).contains("misses the samples"));
    book.visible.remove(&ids[0]);
    assert!(ask(&book, &entries[..1]).contains("is gone"));
}
