//! Goal G14: k of 16 stores hang, in five ways. The answer comes in time and names exactly those that are missing; in strict
//! mode it fails and names the same; afterwards nothing is left of it.

use super::fake_store::{Fake, Manner, Running};
use super::querier::{Querier, args};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Rng, Size};
use testkit::thanos::Thanos;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const STORES: usize = 16;
/// What a query may take, and what its answer may be late.
#[derive(Clone, Copy)]
struct Limits {
    deadline: Duration,
    late: Duration,
}

/// What the goal says. In CI's size other work may be on the machine: there it is about who is named, and about the query's own
/// end, which comes without an answer.
const GOAL: Limits = Limits { deadline: Duration::from_millis(800), late: Duration::from_millis(250) };
const BUSY: Limits = Limits { deadline: Duration::from_secs(4), late: Duration::from_secs(12) };

/// How often a late answer is asked for again on a machine that held it up.
const TRIES: usize = 4;

/// How long each thread of this process has waited for a CPU (Linux' schedstat).
fn waited() -> BTreeMap<OsString, Duration> {
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let ns = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok());
        (task.file_name(), Duration::from_nanos(ns.unwrap_or_default()))
    };
    std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(of).collect()
}

/// The longest that one thread has waited since.
fn held_up(before: &BTreeMap<OsString, Duration>) -> Duration {
    let since = |(id, now): (OsString, Duration)| now.saturating_sub(before.get(&id).copied().unwrap_or_default());
    waited().into_iter().map(since).max().unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Passes,
    /// Connections break, and no new one is taken.
    NoAccept,
    /// Connections break, new ones are taken, and nothing is said.
    Accepts,
    /// Calls get their headers, and nothing else.
    Headers,
    /// One byte a second.
    Drips,
    /// What is sent vanishes.
    BlackHole,
}

const WAYS: [Way; 5] = [Way::NoAccept, Way::Accepts, Way::Headers, Way::Drips, Way::BlackHole];

/// A store behind a door that a test can shut.
struct Door {
    store: Running,
    address: String,
    way: watch::Sender<Way>,
    task: JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn new(n: usize) -> Self {
        let labels = [("s", n.to_string())];
        let external: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let store = Fake::live(&[&external]).start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (way, seen) = watch::channel(Way::Passes);
        let task = tokio::spawn(serve(listener, store.address.clone(), seen));
        Self { store, address, way, task }
    }

    fn set(&self, way: Way) {
        self.store.fake.set_manner(if way == Way::Headers { Manner::SilentAfterHeaders } else { Manner::Good });
        self.way.send_replace(way);
    }
}

async fn serve(listener: TcpListener, to: String, mut way: watch::Receiver<Way>) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        if *way.borrow_and_update() == Way::NoAccept {
            open.abort_all();
            way.changed().await.unwrap();
            continue;
        }
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                open.spawn(pass(stream, to.clone(), way.clone()));
            }
            changed = way.changed() => if changed.is_err() { return },
        }
        while open.try_join_next().is_some() {}
    }
}

/// Passes one connection on, until the way changes so that it breaks.
async fn pass(near: TcpStream, to: String, mut way: watch::Receiver<Way>) {
    let begun = *way.borrow_and_update();
    if begun != Way::Passes && begun != Way::Headers {
        // It was taken in a bad time: it hangs until that is over.
        let _ = way.changed().await;
        return;
    }
    let Ok(far) = TcpStream::connect(to).await else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let both = async {
        tokio::select! {
            () = copy(near_in, far_out, way.clone(), false) => {}
            () = copy(far_in, near_out, way.clone(), true) => {}
        }
    };
    let mut ends = way.clone();
    let broken = async {
        let mut hung = false;
        loop {
            match *ends.borrow_and_update() {
                Way::NoAccept | Way::Accepts => return,
                Way::Passes if hung => return,
                Way::Passes | Way::Headers => {}
                Way::Drips | Way::BlackHole => hung = true,
            }
            if ends.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = both => {}
        () = broken => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: watch::Receiver<Way>,
    answers: bool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let part = &buffer[..n];
        let now = *way.borrow();
        match now {
            Way::BlackHole => {}
            Way::Drips if answers => {
                for byte in part {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if to.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
            }
            _ => {
                if to.write_all(part).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Fleet {
    doors: Vec<Door>,
    querier: Querier,
    limits: Limits,
    /// The longest that an answer took, milliseconds.
    slowest: AtomicU64,
    /// Answers that were asked for again.
    again: AtomicU64,
}

impl Fleet {
    async fn new(limits: Limits) -> Self {
        let mut doors = Vec::new();
        for n in 0..STORES {
            doors.push(Door::new(n).await);
        }
        let endpoints: Vec<String> = doors.iter().map(|d| d.address.clone()).collect();
        let querier = Querier::start(args(&endpoints)).await;
        Self { querier, doors, limits, slowest: AtomicU64::new(0), again: AtomicU64::new(0) }
    }

    /// A query; its status, its answer, and how long it took.
    async fn ask(&self, partial: bool) -> (u16, Value, Duration) {
        let (begin, Limits { deadline, .. }) = (Instant::now(), self.limits);
        let more = format!("&timeout={}ms&partial_response={partial}", deadline.as_millis());
        let answer = tokio::time::timeout(deadline * 4, self.querier.query("count by (s) (up)", &more)).await;
        let (status, answer) = answer.unwrap_or_else(|_| panic!("no answer within {:?}", deadline * 4));
        (status, answer, begin.elapsed())
    }

    /// Both modes. What comes late while a thread of this process got no CPU for as long as the querier has between its stores'
    /// deadline and its own is asked for again.
    async fn both(&self) -> [(u16, Value, Duration); 2] {
        let Limits { deadline, late } = self.limits;
        for left in (0..TRIES).rev() {
            let before = waited();
            let answers: [_; 2] = tokio::join!(self.ask(true), self.ask(false)).into();
            let timed_out = |error: &Value| error.as_str().is_some_and(|e| e.contains("query timed out"));
            let in_time = answers.iter().all(|(_, a, took)| *took <= deadline + late && !timed_out(&a["error"]));
            let slower = answers.iter().map(|(_, _, took)| *took).max().unwrap_or_default();
            self.slowest.fetch_max(u64::try_from(slower.as_millis()).unwrap(), Ordering::SeqCst);
            if in_time || left == 0 || held_up(&before) < deadline / 4 {
                return answers;
            }
            self.again.fetch_add(1, Ordering::SeqCst);
        }
        unreachable!("the last try counts")
    }

    async fn one(&self, way: Way, hung: &[usize], known: bool) {
        for i in hung {
            self.doors[*i].set(way);
        }
        if known {
            // Probes have seen it.
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        let want: BTreeSet<&str> = hung.iter().map(|i| self.doors[*i].address.as_str()).collect();
        let what = format!("{way:?}, {} of {STORES}, known before: {known}", hung.len());
        let [partial, strict] = self.both().await;
        let (status, answer, took) = partial;
        assert_eq!(status, 200, "{what}: {answer}");
        let most = self.limits.deadline + self.limits.late;
        assert!(took <= most, "{what}: the answer came {took:?} after the question, later than its deadline");
        let missing = answer["missing"].as_array().into_iter().flatten();
        let missing: BTreeSet<&str> = missing.map(|m| m["store"].as_str().unwrap()).collect();
        assert_eq!(missing, want, "{what}: these are missing, and the answer says others: {answer}");
        let found = answer["data"]["result"].as_array().unwrap().len();
        assert_eq!(found, STORES - hung.len(), "{what}: {answer}");

        let (status, answer, took) = strict;
        assert!(took <= most, "{what}: the error came {took:?} after the question, later than its deadline");
        assert!(status == 422 || status == 503, "{what}: {answer}");
        let text = answer["error"].as_str().unwrap();
        let named: BTreeSet<&str> =
            self.doors.iter().map(|d| d.address.as_str()).filter(|a| text.contains(&format!("{a}:"))).collect();
        assert_eq!(named, want, "{what}: in strict mode: {answer}");

        for i in hung {
            self.doors[*i].set(Way::Passes);
        }
        // Whole, and still whole a moment later: connections that hung end only now.
        let (begin, mut whole) = (Instant::now(), 0);
        loop {
            let (status, answer, _) = self.ask(true).await;
            let all = answer["data"]["result"].as_array().is_some_and(|r| r.len() == STORES);
            whole = if status == 200 && answer.get("warnings").is_none() && all { whole + 1 } else { 0 };
            if whole == 3 {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{what}: it does not recover: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn handles() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn goal_g14_k_of_n_hung() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let goal = Goal::start("G14");
    let mut rng = goal.rng("stores");
    // A fleet for some of the ways, so that they run side by side.
    let (fleets, runs) = (goal.pick(WAYS.len(), 3, 3), Arc::new(AtomicUsize::new(0)));
    let mut all = Vec::new();
    for _ in 0..fleets {
        let fleet = Fleet::new(goal.pick(BUSY, GOAL, GOAL)).await;
        let (_, answer, _) = fleet.ask(true).await;
        assert!(answer.get("warnings").is_none(), "{answer}");
        all.push(Arc::new(fleet));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = (tasks(), handles());
    let numbers: Vec<usize> = match goal.size() {
        Size::Ci => vec![6],
        Size::Fast => (1..STORES).collect(),
        Size::Night => (0..1000).map(|i| 1 + i % (STORES - 1)).collect(),
    };
    let mut plans: Vec<(Way, Vec<usize>, bool)> = Vec::new();
    for way in WAYS {
        for k in &numbers {
            let order = shuffled(&mut rng);
            plans.push((way, order[..*k].to_vec(), rng.below(2) == 0));
        }
    }
    let mut running = tokio::task::JoinSet::new();
    for (n, fleet) in all.iter().enumerate() {
        let mine: Vec<_> = plans.iter().skip(n).step_by(fleets).cloned().collect();
        let (fleet, runs) = (Arc::clone(fleet), Arc::clone(&runs));
        running.spawn(async move {
            for (way, hung, known) in mine {
                fleet.one(way, &hung, known).await;
                runs.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let runs = runs.load(Ordering::SeqCst);
    let begin = Instant::now();
    let left = loop {
        let doors = all.iter().flat_map(|f| &f.doors);
        let open = doors.map(|d| d.store.fake.open.load(Ordering::SeqCst)).sum::<usize>();
        let now = (tasks(), handles());
        // The client of this test keeps some connections of its own.
        let room = 12 * fleets;
        if open == 0 && now.0 <= before.0 + room && now.1 <= before.1 + room {
            break now;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "left over: {open} calls, {now:?} tasks and handles, before {before:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let over = begin.elapsed();
    let slowest = all.iter().map(|f| f.slowest.load(Ordering::SeqCst)).max().unwrap_or_default();
    let again: u64 = all.iter().map(|f| f.again.load(Ordering::SeqCst)).sum();
    let deadline = all[0].limits.deadline;
    drop(all);
    let mut figure = format!(
        "{runs} runs of k of {STORES} hung in five ways: every answer with exactly the missing named, in strict mode too, the \
         slowest {slowest} ms after its question (deadline {deadline:?}, {again} asked again on a busy machine); tasks and handles before {before:?}, {over:?} after \
         the last {left:?}"
    );
    if goal.size() != Size::Ci && std::env::var_os("PANOPTES_BREAK").is_none() && !testkit::peers::skip(&["thanos"]) {
        figure.push_str(&baseline(&mut rng).await);
    }
    goal.figure(&figure);
}

fn shuffled(rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..STORES).collect();
    for i in 0..STORES {
        order.swap(i, i + rng.below(STORES - i));
    }
    order
}

/// The same of Thanos's querier, once as it is and once told not to wait longer for a store than ours does.
async fn baseline(rng: &mut Rng) -> String {
    let mut text = String::from("; Thanos's querier, k = 6 in each way, in time with exactly the missing named:");
    for (how, flags) in
        [("by default", &[][..]), ("with --store.response-timeout=600ms", &["--store.response-timeout=600ms"])]
    {
        let mut running = Vec::new();
        for way in WAYS {
            let hung = shuffled(rng)[..6].to_vec();
            running.push(async move {
                let mut doors = Vec::new();
                for n in 0..STORES {
                    doors.push(Door::new(n).await);
                }
                let mut all: Vec<String> = doors.iter().map(|d| format!("--endpoint={}", d.address)).collect();
                all.extend(flags.iter().map(|f| (*f).to_owned()));
                let thanos = tokio::task::spawn_blocking(move || Thanos::start("query", &all).unwrap()).await.unwrap();
                let ask = async || {
                    let query = testkit::http::encode("count by (s) (up)");
                    let url =
                        format!("{}/api/v1/query?query={query}&timeout={}ms", thanos.url(), GOAL.deadline.as_millis());
                    let begin = Instant::now();
                    let answer = tokio::task::spawn_blocking(move || testkit::http::get(&url));
                    let answer = tokio::time::timeout(GOAL.deadline * 10, answer).await.ok()?.ok()?.ok()?;
                    Some((serde_json::from_str::<Value>(&answer.body).ok()?, begin.elapsed()))
                };
                let found = |a: &Value| a["data"]["result"].as_array().map_or(0, Vec::len);
                super::common::until("Thanos to see its stores", async || {
                    ask().await.is_some_and(|(a, _)| found(&a) == STORES)
                })
                .await;
                for i in &hung {
                    doors[*i].set(way);
                }
                let Some((answer, took)) = ask().await else { return false };
                let said = answer["warnings"].to_string();
                let named = |d: &Door| said.contains(&d.address);
                took <= GOAL.deadline + GOAL.late
                    && found(&answer) == STORES - hung.len()
                    && doors.iter().enumerate().all(|(i, d)| named(d) == hung.contains(&i))
            });
        }
        let good = futures::future::join_all(running).await.into_iter().filter(|good| *good).count();
        text.push_str(&format!(" {good} of {} {how}", WAYS.len()));
    }
    text
}
