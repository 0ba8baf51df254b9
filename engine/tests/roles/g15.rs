//! Goal G15: sources are lost at random, by a name that leads elsewhere, a crash, an expired or a foreign certificate, removal
//! from discovery, a block that can't be read. No answer may claim to be complete while something is missing, and hardly any
//! may claim that something is missing while it is there.

use super::common::until;
use super::fake_store::{Fake, Manner, Running};
use super::querier::{Names, Querier, args};
use ::args::{QueryArgs, ServerArgs};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testkit::certs::{Authority, Pair, Request};
use testkit::goal::{Goal, Rng, Size};
use testkit::thanos::Thanos;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Stores with an address of their own, with a name, and behind one name.
const STATIC: usize = 5;
const NAMED: usize = 4;
const TOGETHER: usize = 3;
const STORES: usize = STATIC + NAMED + TOGETHER;
const NAME: &str = "store.example";

#[derive(Clone, Copy, Debug)]
enum Loss {
    Crash,
    Expired,
    Foreign,
    Block,
    Elsewhere,
    Removed,
}

/// A store behind a gate that leads to it, elsewhere, or nowhere.
struct Gate {
    store: Running,
    address: String,
    to: watch::Sender<Option<String>>,
    task: JoinHandle<()>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gate {
    async fn new(n: usize, at: &str, tls: &ServerArgs) -> Self {
        let name = n.to_string();
        let store = Fake::live(&[&[("s", name.as_str())]]).start_with(tls.clone()).await;
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to, seen) = watch::channel(Some(store.address.clone()));
        Self { store, address, to, task: tokio::spawn(serve(listener, seen)) }
    }
}

async fn serve(listener: TcpListener, mut to: watch::Receiver<Option<String>>) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((mut near, _)) = listener.accept() => {
                let Some(address) = to.borrow().clone() else { continue };
                open.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(address).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
            changed = to.changed() => {
                if changed.is_err() {
                    return;
                }
                open.abort_all();
            }
        }
        while open.try_join_next().is_some() {}
    }
}

fn tls(dir: &Path, name: &str, pair: &Pair) -> ServerArgs {
    let file = |end: &str, text: &str| {
        let path = dir.join(format!("{name}.{end}"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    ServerArgs { grpc_tls_cert: file("crt", &pair.cert), grpc_tls_key: file("key", &pair.key), ..ServerArgs::default() }
}

struct Fleet {
    gates: Vec<Gate>,
    expired: Running,
    foreign: Running,
    dir: tempfile::TempDir,
    port: u16,
    names: Names,
    losses: AtomicUsize,
    stop: AtomicBool,
}

fn ip(n: usize) -> String {
    format!("127.0.1.{}", n + 1)
}

impl Fleet {
    async fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other) = (Authority::new("ca").unwrap(), Authority::new("other").unwrap());
        let good = tls(dir.path(), "good", &ca.server(&[NAME]).unwrap());
        let old = Request { name: NAME.into(), hosts: vec![NAME.into()], expired: true, ..Request::default() };
        let old = tls(dir.path(), "old", &ca.issue(&old).unwrap());
        let bad = tls(dir.path(), "bad", &other.server(&[NAME]).unwrap());
        std::fs::write(dir.path().join("ca.pem"), ca.cert()).unwrap();
        let port = testkit::ports::free().unwrap();
        let names = Names::default();
        let mut gates = Vec::new();
        for n in 0..STORES {
            let at = if n < STATIC + NAMED { "127.0.0.1:0".to_owned() } else { format!("{}:{port}", ip(n)) };
            gates.push(Gate::new(n, &at, &good).await);
        }
        let (expired, foreign) = (Fake::live(&[]).start_with(old).await, Fake::live(&[]).start_with(bad).await);
        let losses = AtomicUsize::new(0);
        let fleet = Self { gates, expired, foreign, dir, port, names, losses, stop: AtomicBool::new(false) };
        for n in 0..STORES {
            fleet.set(n, None).await;
        }
        Arc::new(fleet)
    }

    /// The file of endpoints: static ones, names, and the name with three stores.
    fn endpoints(&self) -> QueryArgs {
        let mut text =
            format!("default_client_config:\n  tls_config: {{ca_file: ca.pem}}\n  server_name: {NAME}\nendpoints:\n");
        for (n, gate) in self.gates.iter().enumerate().take(STATIC + NAMED) {
            let port = gate.address.rsplit_once(':').unwrap().1;
            let address = if n < STATIC { gate.address.clone() } else { format!("dns+s{n}.test:{port}") };
            text.push_str(&format!("- address: {address}\n"));
        }
        text.push_str(&format!("- address: dns+together.test:{}\n  expected: {TOGETHER}\n", self.port));
        std::fs::write(self.dir.path().join("endpoints.yaml"), text).unwrap();
        QueryArgs { endpoints_dir: self.dir.path().display().to_string(), ..args(&[]) }
    }

    /// Loses a store, or gives it back.
    async fn set(&self, n: usize, loss: Option<Loss>) {
        let gate = &self.gates[n];
        let to = match loss {
            Some(Loss::Crash) => None,
            Some(Loss::Expired) => Some(self.expired.address.clone()),
            Some(Loss::Foreign) => Some(self.foreign.address.clone()),
            _ => Some(gate.store.address.clone()),
        };
        gate.store.fake.set_manner(if matches!(loss, Some(Loss::Block)) { Manner::Lacks } else { Manner::Good });
        gate.to.send_if_modified(|now| {
            let new = *now != to;
            now.clone_from(&to);
            new
        });
        if (STATIC..STATIC + NAMED).contains(&n) {
            let ip = if matches!(loss, Some(Loss::Elsewhere)) { "127.0.0.9" } else { "127.0.0.1" };
            self.names.set(&format!("s{n}.test"), &[ip]);
        } else if n >= STATIC + NAMED {
            let gone = self.names.ips_of("together.test");
            let mut there: BTreeSet<String> = match gone.is_empty() {
                true => (STATIC + NAMED..STORES).map(ip).collect(),
                false => gone.into_iter().collect(),
            };
            if matches!(loss, Some(Loss::Removed)) {
                there.remove(&ip(n));
            } else {
                there.insert(ip(n));
            }
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            self.names.set("together.test", &there);
        }
    }

    /// Loses one store after the other, and gives it back.
    async fn churn(self: Arc<Self>, n: usize, mut rng: Rng, least: u64) {
        while !self.stop.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(least + rng.below(300) as u64)).await;
            let kinds = match n {
                n if n < STATIC => vec![Loss::Crash, Loss::Expired, Loss::Foreign, Loss::Block],
                n if n < STATIC + NAMED => vec![Loss::Crash, Loss::Elsewhere, Loss::Block],
                // One of them at a time, so that the name never stands for nothing.
                n if n == STATIC + NAMED => vec![Loss::Removed, Loss::Crash],
                _ => vec![Loss::Crash, Loss::Block],
            };
            self.set(n, rng.choose(&kinds).copied()).await;
            self.losses.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(least + rng.below(300) as u64)).await;
            self.set(n, None).await;
        }
    }
}

/// What came of the answers.
#[derive(Default, Debug, Clone)]
struct Told {
    asked: usize,
    /// Nothing is said to be missing, and something is.
    falsely_complete: Vec<String>,
    /// Something is said to be missing, and nothing is.
    falsely_missing: usize,
    partial: usize,
}

impl Told {
    fn note(&mut self, status: u16, answer: &Value, stores: usize, lists: bool) {
        self.asked += 1;
        if status != 200 {
            return;
        }
        let found = answer["data"]["result"].as_array().map_or(0, Vec::len);
        let said = answer["warnings"].as_array().map_or(0, Vec::len);
        let listed = if lists { answer["missing"].as_array().map_or(0, Vec::len) } else { said };
        if found == stores {
            self.falsely_missing += usize::from(said > 0);
        } else {
            self.partial += 1;
            // Each of them is told of.
            if (lists && listed < stores - found) || listed == 0 {
                self.falsely_complete.push(answer.to_string());
            }
        }
    }
}

async fn ask(base: &str, more: &str) -> (u16, Value) {
    let url = format!("{base}/api/v1/query?query={}&timeout=3s{more}", testkit::http::encode("count by (s) (up)"));
    let answer = tokio::task::spawn_blocking(move || testkit::http::get(&url)).await.unwrap().unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

/// Asks until so many losses have been, in rounds that end with everything given back.
async fn rounds(
    fleet: &Arc<Fleet>,
    base: &str,
    goal: &Goal,
    stores: usize,
    losses: usize,
    least: u64,
    lists: bool,
) -> Told {
    let mut told = Told::default();
    let mut round = 0;
    while fleet.losses.load(Ordering::SeqCst) < losses {
        fleet.stop.store(false, Ordering::SeqCst);
        let mut churning = tokio::task::JoinSet::new();
        for n in 0..stores {
            churning.spawn(Arc::clone(fleet).churn(n, goal.rng(&format!("store {n} {round}")), least));
        }
        let (begin, until_losses) = (Instant::now(), losses.min(fleet.losses.load(Ordering::SeqCst) + 16 * stores));
        while fleet.losses.load(Ordering::SeqCst) < until_losses && begin.elapsed() < Duration::from_secs(20) {
            let (partial, strict) = tokio::join!(ask(base, ""), ask(base, "&partial_response=false"));
            told.note(partial.0, &partial.1, stores, lists);
            // What is answered in strict mode claims to be complete.
            told.note(strict.0, &strict.1, stores, lists);
        }
        fleet.stop.store(true, Ordering::SeqCst);
        while churning.join_next().await.is_some() {}
        let whole = async || {
            let (_, answer) = ask(base, "").await;
            answer.get("warnings").is_none() && answer["data"]["result"].as_array().is_some_and(|r| r.len() == stores)
        };
        until("everything to be back", whole).await;
        for _ in 0..10 {
            let (status, answer) = ask(base, "").await;
            told.note(status, &answer, stores, lists);
        }
        round += 1;
    }
    told
}

#[test]
fn goal_g15_no_false_completeness() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let goal = Goal::start("G15");
    let fleet = Fleet::new().await;
    let querier = Querier::with_names(fleet.endpoints(), fleet.names.clone()).await;
    let losses = goal.pick(100, 1_000, 100_000);
    let told = rounds(&fleet, &querier.http, &goal, STORES, losses, 50, true).await;
    assert!(
        told.falsely_complete.is_empty(),
        "{} of {} answers claim to be complete while something is missing: {}",
        told.falsely_complete.len(),
        told.asked,
        told.falsely_complete[0]
    );
    assert!(told.partial > 0, "nothing was ever missing: {told:?}");
    assert!(
        told.falsely_missing * 1000 <= told.asked,
        "{} of {} answers claim that something is missing while all is there",
        told.falsely_missing,
        told.asked
    );
    let mut figure = format!(
        "{} losses of {STORES} stores, {} answers, {} of them partial: 0 claim to be complete, {} claim a loss that is none",
        fleet.losses.load(Ordering::SeqCst),
        told.asked,
        told.partial,
        told.falsely_missing
    );
    drop(querier);
    if goal.size() != Size::Ci && std::env::var_os("PANOPTES_BREAK").is_none() && !testkit::peers::skip(&["thanos"]) {
        // Those with an address of their own; it looks at its endpoints every five seconds.
        fleet.losses.store(0, Ordering::SeqCst);
        let mut flags: Vec<String> =
            fleet.gates[..STATIC].iter().map(|g| format!("--endpoint={}", g.address)).collect();
        flags.extend([
            "--grpc-client-tls-secure".to_owned(),
            format!("--grpc-client-tls-ca={}", fleet.dir.path().join("ca.pem").display()),
            format!("--grpc-client-server-name={NAME}"),
        ]);
        let thanos = tokio::task::block_in_place(|| Thanos::start("query", &flags).unwrap());
        let whole =
            async || ask(&thanos.url(), "").await.1["data"]["result"].as_array().is_some_and(|r| r.len() == STATIC);
        until("Thanos to see all stores", whole).await;
        let told = rounds(&fleet, &thanos.url(), &goal, STATIC, 60, 200, false).await;
        figure.push_str(&format!(
            "; Thanos's querier, {} losses: of {} answers, {} partial, {} claim to be complete, {} claim a loss that is none",
            fleet.losses.load(Ordering::SeqCst),
            told.asked,
            told.partial,
            told.falsely_complete.len(),
            told.falsely_missing
        ));
    }
    goal.figure(&figure);
}
