//! Goal G14: k of 16 stores hang, in five ways. The answer comes in time and names exactly those that are missing; in strict
//! mode it fails and names the same; afterwards nothing is left of it.

use super::fake_store::{Fake, Manner, Running};
use super::querier::{Querier, args};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Size};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const STORES: usize = 16;
/// What a query may take.
const DEADLINE: Duration = Duration::from_millis(800);
/// What its answer may be late.
const LATE: Duration = Duration::from_millis(250);

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
}

impl Fleet {
    async fn new() -> Self {
        let mut doors = Vec::new();
        for n in 0..STORES {
            doors.push(Door::new(n).await);
        }
        let endpoints: Vec<String> = doors.iter().map(|d| d.address.clone()).collect();
        Self { querier: Querier::start(args(&endpoints)).await, doors }
    }

    /// A query; its status, its answer, and how long it took.
    async fn ask(&self, partial: bool) -> (u16, Value, Duration) {
        let begin = Instant::now();
        let more = format!("&timeout={}ms&partial_response={partial}", DEADLINE.as_millis());
        let answer = tokio::time::timeout(DEADLINE * 4, self.querier.query("count by (s) (up)", &more)).await;
        let (status, answer) = answer.unwrap_or_else(|_| panic!("no answer within {:?}", DEADLINE * 4));
        (status, answer, begin.elapsed())
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
        let (status, answer, took) = self.ask(true).await;
        assert_eq!(status, 200, "{what}: {answer}");
        assert!(
            took <= DEADLINE + LATE,
            "{what}: the answer came {took:?} after the question, later than its deadline"
        );
        let missing = answer["missing"].as_array().into_iter().flatten();
        let missing: BTreeSet<&str> = missing.map(|m| m["store"].as_str().unwrap()).collect();
        assert_eq!(missing, want, "{what}: these are missing, and the answer says others: {answer}");
        let found = answer["data"]["result"].as_array().unwrap().len();
        assert_eq!(found, STORES - hung.len(), "{what}: {answer}");

        let (status, answer, took) = self.ask(false).await;
        assert!(took <= DEADLINE + LATE, "{what}: the error came {took:?} after the question, later than its deadline");
        assert!(status == 422 || status == 503, "{what}: {answer}");
        let text = answer["error"].as_str().unwrap();
        let named: BTreeSet<&str> =
            self.doors.iter().map(|d| d.address.as_str()).filter(|a| text.contains(&format!("{a}:"))).collect();
        assert_eq!(named, want, "{what}: in strict mode: {answer}");

        for i in hung {
            self.doors[*i].set(Way::Passes);
        }
        let begin = Instant::now();
        loop {
            let (status, answer, _) = self.ask(true).await;
            if status == 200 && answer.get("warnings").is_none() {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}: it does not recover: {answer}");
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
    let fleet = Fleet::new().await;
    let (_, answer, _) = fleet.ask(true).await;
    assert!(answer.get("warnings").is_none(), "{answer}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = (tasks(), handles());
    let numbers: Vec<usize> = match goal.size() {
        Size::Ci => vec![6],
        Size::Fast => vec![1, 8, 15],
        Size::Night => (1..STORES).collect(),
    };
    let mut runs = 0;
    for way in WAYS {
        for k in &numbers {
            let mut order: Vec<usize> = (0..STORES).collect();
            for i in 0..STORES {
                order.swap(i, i + rng.below(STORES - i));
            }
            fleet.one(way, &order[..*k], rng.below(2) == 0).await;
            runs += 1;
        }
    }
    let begin = Instant::now();
    let left = loop {
        let open =
            fleet.doors.iter().map(|d| d.store.fake.open.load(std::sync::atomic::Ordering::SeqCst)).sum::<usize>();
        let now = (tasks(), handles());
        if open == 0 && now.0 <= before.0 + 4 && now.1 <= before.1 + 4 {
            break now;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "left over: {open} calls, {now:?} tasks and handles, before {before:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    goal.figure(&format!(
        "{runs} runs of k of {STORES} hung in five ways: every answer in time with exactly the missing named, in strict mode \
         too; tasks and handles before {before:?}, after {left:?}"
    ));
}
