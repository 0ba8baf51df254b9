//! Goal G18: a querier and a store gateway, each in a memory group of 512 MiB of its own, under queries that are made to cost. Each is
//! answered with data or an error that says which limit it met, nothing is killed, and light queries beside them go on.

use super::common::{matcher, until};
use super::querier::args;
use ::args::{Millis, QueryArgs, ServerArgs, StoreArgs};
use bytes::Bytes;
use model::Labels;
use model::world::World;
use proto::thanos::store_client::StoreClient;
use proto::thanos::{LabelValuesRequest, SeriesRequest};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Rng, Size};
use testkit::process::Process;
use testkit::thanos::Thanos;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tsdb::block::Writer;
use tsdb::chunk::{Encoding, XorEncoder};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;

/// The memory of a group, bytes.
const GROUP: u64 = 512 << 20;
const BEGIN: i64 = 1_700_000_000_000;
const SAMPLES: i64 = 240;
const STEP: i64 = 15_000;
/// How long hostile queries may take, seconds: most, and those of every fifth round, which have time to take more memory.
const SHORT: u64 = 1;
const LONG: u64 = 3;
const LONG_EVERY: usize = 5;
/// And without a budget, so that a busy machine, too, finds the time to take all memory.
const UNTIL_KILLED: u64 = 30;
/// The goal says that light queries take twice as long at most: the figure tells both. What fails the test is that they starve,
/// whatever else the machine does.
const LIGHT: Duration = Duration::from_secs(10);

/// How long the queries of a round may take, seconds.
fn patience(round: usize) -> u64 {
    match (std::env::var_os("PANOPTES_BREAK").is_some(), round % LONG_EVERY) {
        (true, _) => UNTIL_KILLED,
        (false, 0) => LONG,
        (false, _) => SHORT,
    }
}

/// What the process of a role is told by its environment.
const ROLE: &str = "PANOPTES_TEST_ROLE";
const AT: &str = "PANOPTES_TEST_AT";
const BUCKET: &str = "PANOPTES_TEST_BUCKET";
const STORE: &str = "PANOPTES_TEST_STORE";

/// No test: the process that [`Role`] starts.
#[test]
#[ignore = "the process of another test"]
fn role() {
    let get = |name: &str| std::env::var(name).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let at = get(AT);
    let (http, grpc) = at.split_once(',').unwrap();
    let server = ServerArgs { http_address: http.into(), grpc_address: grpc.into(), ..ServerArgs::default() };
    let (world, stop) = (World::real(), CancellationToken::new());
    let ended = match get(ROLE).as_str() {
        "query" => {
            let args = QueryArgs { server, timeout: Millis(30_000), ..args(&[get(STORE)]) };
            runtime.block_on(engine::query::run(args, world, stop))
        }
        _ => {
            let objstore_config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", get(BUCKET));
            let data_dir = format!("{}-data", get(BUCKET));
            runtime.block_on(engine::store::run(
                StoreArgs { server, objstore_config, data_dir, ..StoreArgs::default() },
                world,
                stop,
            ))
        }
    };
    ended.unwrap();
}

/// A role as a process in a memory group; both end when dropped.
struct Role {
    process: Option<Process>,
    group: Option<PathBuf>,
    http: String,
    grpc: String,
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.process.take());
        if let Some(group) = &self.group {
            // The kernel may still be about to let go of the process.
            for _ in 0..50 {
                if std::fs::remove_dir(group).is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A new memory group, where this machine lets us make one (as root, control groups of either version).
fn group(name: &str) -> Option<PathBuf> {
    for (root, limit) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
        let group = Path::new(root).join(format!("panoptes-test-{}-{name}", std::process::id()));
        if std::fs::create_dir(&group).is_err() {
            continue;
        }
        if std::fs::write(group.join(limit), GROUP.to_string()).is_ok() {
            return Some(group);
        }
        let _ = std::fs::remove_dir(&group);
    }
    None
}

impl Role {
    async fn start(role: &str, dir: &Path, store: &str) -> Self {
        let (http, grpc) = (testkit::ports::free().unwrap(), testkit::ports::free().unwrap());
        let (http, grpc) = (format!("127.0.0.1:{http}"), format!("127.0.0.1:{grpc}"));
        let group = group(role);
        let program = std::env::current_exe().unwrap();
        // It enters its group before it becomes the role.
        let enter =
            group.as_ref().map(|g| format!("echo $$ > {}; ", g.join("cgroup.procs").display())).unwrap_or_default();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{enter}exec \"$0\" \"$@\"")).arg(program);
        command.args(["--exact", "g18::role", "--ignored", "--nocapture"]);
        // As the product has it (operator/cli/src/arenas.rs); what arenas keep is no memory of queries.
        command.env("MALLOC_ARENA_MAX", "1");
        command.env(ROLE, role).env(AT, format!("{http},{grpc}")).env(STORE, store).env(BUCKET, dir.join("bucket"));
        let process = Process::spawn(role, &mut command, &dir.join(format!("{role}.log"))).unwrap();
        let me = Self { process: Some(process), group, http: format!("http://{http}"), grpc };
        until("the role to be ready", async || {
            reqwest::get(format!("{}/-/ready", me.http)).await.is_ok_and(|r| r.status().is_success())
        })
        .await;
        me
    }

    /// Resident memory, bytes: where there is no group, too much of it counts as killed.
    fn resident(&self) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let peak = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.map_or(0, |kb| kb.trim().parse::<u64>().unwrap() * 1024)
    }

    fn lives(&mut self) -> bool {
        let running = self.process.as_mut().unwrap().is_running();
        running && (self.group.is_some() || self.resident() <= GROUP)
    }

    fn log(&self) -> String {
        self.process.as_ref().unwrap().log()
    }
}

/// One block of so many series, written into the bucket as a sidecar would.
fn fill(bucket: &Path, series: usize) {
    std::fs::create_dir_all(bucket).unwrap();
    let id = "01HF7YASR0000000000000000A";
    let end = BEGIN + SAMPLES * STEP;
    let meta = format!(
        r#"{{"ulid":"{id}","minTime":{BEGIN},"maxTime":{end},"version":1,
        "stats":{{"numSamples":1,"numSeries":1,"numChunks":1}},"compaction":{{"level":1,"sources":["{id}"]}},
        "thanos":{{"labels":{{"cluster":"c"}},"downsample":{{"resolution":0}},"source":"sidecar","segment_files":["000001"]}}}}"#
    );
    let meta = BlockMeta::read("meta.json", meta.as_bytes()).unwrap();
    let mut all: Vec<Labels> = (0..series)
        .map(|n| {
            let pod = format!("pod-{n:06}-{}", "x".repeat(40));
            Labels::from_pairs([
                ("__name__", "m".to_owned()),
                ("job", format!("job-{}", n % 20)),
                ("pod", pod),
                ("n", format!("{n:06}")),
            ])
        })
        .collect();
    all.sort();
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    let mut symbols: Vec<&str> = all.iter().flat_map(|l| l.iter().flat_map(|(n, v)| [n, v])).collect();
    symbols.sort_unstable();
    symbols.dedup();
    symbols.iter().for_each(|s| writer.add_symbol(s).unwrap());
    let chunks: Vec<(i64, i64, Bytes)> = (0..SAMPLES / 120)
        .map(|c| {
            let mut e = XorEncoder::default();
            for n in c * 120..(c + 1) * 120 {
                e.append(BEGIN + n * STEP, (n * 37 % 1000) as f64 / 8.0 + n as f64).unwrap();
            }
            let (from, to) = e.range();
            (from, to, e.bytes())
        })
        .collect();
    let new: Vec<NewChunk<'_>> = chunks
        .iter()
        .map(|(min, max, data)| NewChunk { min_time: *min, max_time: *max, encoding: Encoding::Xor, data })
        .collect();
    all.iter().for_each(|labels| writer.add_series(labels, &new).unwrap());
    writer.finish().unwrap();
}

/// Queries that would take all memory, and more.
const HOSTILE: &[&str] = &[
    "{__name__=~\".+\"}",
    "m * on (n) group_left m",
    "sort(m) or sort(m offset 1s)",
    "max_over_time(m[2h:1s])",
    "quantile_over_time(0.5, m[2h:1s])",
    "label_replace(label_join(m, \"a\", \"-\", \"pod\", \"n\", \"pod\", \"n\"), \"b\", \"$1$1$1$1\", \"a\", \"(.*)\")",
    "count_values(\"v\", m)",
    "topk(100000, m) + on (n) bottomk(100000, m)",
    "m + m offset 1s + m offset 2s + m offset 3s + m offset 4s + m offset 5s",
    "sum by (pod, n, job) (rate(m[1h])) / on (pod) group_right sum by (pod) (m)",
    "m{pod=~\"(a|b|pod-[0-9]{1,900}){1,60}.*\"}",
    "{__name__=~\".+\", n=~\".*0.*\"} or {__name__=~\".+\", n=~\".*1.*\"} or {n=~\".*\", job=~\".+\"}",
];

async fn hostile(querier: &str, rng: &mut Rng, seconds: u64) -> Result<bool, String> {
    let (begin, end) = (BEGIN / 1000, BEGIN / 1000 + SAMPLES * STEP / 1000);
    let query = testkit::http::encode(rng.choose(HOSTILE).unwrap());
    let path = match rng.below(6) {
        0 => format!("query?query={query}&time={end}"),
        1 => format!("series?match[]={query}&start={begin}&end={end}"),
        2 => format!("label/pod/values?start={begin}&end={end}"),
        // As many points as are allowed.
        _ => format!("query_range?query={query}&start={}&end={end}&step=1", end - 10_900),
    };
    let answer = reqwest::get(format!("{querier}/api/v1/{path}&timeout={seconds}s"))
        .await
        .map_err(|e| format!("{path}: {e}"))?;
    let status = answer.status().as_u16();
    let mut begin = Vec::new();
    let mut answer = answer;
    loop {
        // A large answer is read to its end, but not kept.
        match answer.chunk().await {
            Ok(Some(piece)) if begin.len() < 2000 => begin.extend_from_slice(&piece),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(e) => return Err(format!("{path}: an answer of status {status} broke: {e}")),
        }
    }
    let text = String::from_utf8_lossy(&begin);
    match status {
        200 => Ok(true),
        // Not every error is about a limit: series of two kinds of labels can't be matched.
        400 | 422 | 503 if text.contains("\"errorType\"") => Ok(false),
        _ => Err(format!("{path}: {status}: {text:.300}")),
    }
}

/// Requests of the store itself: everything, of which little is read.
async fn hostile_calls(grpc: String, stop: &AtomicBool) -> usize {
    let channel = Channel::from_shared(format!("http://{grpc}")).unwrap().connect().await.unwrap();
    let client = StoreClient::new(channel).max_decoding_message_size(64 << 20);
    let mut calls = 0;
    let mut stalled = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mut client = client.clone();
        let request = SeriesRequest {
            max_time: i64::MAX,
            matchers: vec![matcher(2, "pod", ".+"), matcher(3, "n", "(.*9){1,20}x")],
            response_batch_size: if calls % 2 == 0 { 1 } else { 10_000 },
            ..SeriesRequest::default()
        };
        if let Ok(stream) = client.series(request).await {
            let mut stream = stream.into_inner();
            let _ = tokio::time::timeout(Duration::from_millis(200), stream.message()).await;
            // A dozen that stand still at a time.
            stalled.push(stream);
        }
        let names = LabelValuesRequest { label: "pod".into(), end: i64::MAX, ..LabelValuesRequest::default() };
        let _ = tokio::time::timeout(Duration::from_secs(2), client.label_values(names)).await;
        if stalled.len() > 12 {
            stalled.clear();
        }
        calls += 2;
    }
    calls
}

/// Light queries until told to stop: how long each took.
async fn light(querier: &str, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    let url = format!(
        "{querier}/api/v1/query?query={}&time={}",
        testkit::http::encode("m{n=\"000001\"}"),
        BEGIN / 1000 + 600
    );
    while !stop.load(Ordering::SeqCst) {
        let begin = Instant::now();
        let answer = reqwest::get(&url).await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status == 200 && text.contains("\"000001\""), "a light query got {status}: {text:.300}");
        took.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took
}

fn p99(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took.get((took.len() * 99 / 100).min(took.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// The same queries to Thanos's querier and store in groups of the same size.
async fn baseline(dir: &Path, rng: &mut Rng, count: usize, at_once: usize) -> String {
    let config = dir.join("objstore.yml");
    let text = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", dir.join("bucket").display());
    std::fs::write(&config, text).unwrap();
    let flags = [
        format!("--objstore.config-file={}", config.display()),
        format!("--data-dir={}", dir.join("thanos").display()),
        // It is given the chance to keep within it.
        "--enable-auto-gomemlimit".to_owned(),
    ];
    let more = ["--query.replica-label=replica".to_owned(), "--enable-auto-gomemlimit".to_owned()];
    let (store, querier) = tokio::task::block_in_place(|| {
        let store = Thanos::start("store", &flags).unwrap();
        let args = [&[format!("--endpoint={}", store.grpc_address())][..], &more].concat();
        let querier = Thanos::start("query", &args).unwrap();
        (store, querier)
    });
    let all = [&querier, &store];
    let groups: Vec<Option<PathBuf>> =
        all.iter().zip(["thanos-query", "thanos-store"]).map(|(_, name)| group(name)).collect();
    for (part, group) in all.iter().zip(&groups) {
        if let Some(group) = group {
            std::fs::write(group.join("cgroup.procs"), part.process().id().to_string()).unwrap();
        }
    }
    let end = BEGIN / 1000 + SAMPLES * STEP / 1000 - 30;
    until("Thanos to see the block", async || {
        let answer = reqwest::get(format!("{}/api/v1/query?query=count(m)&time={end}", querier.url())).await;
        answer.is_ok_and(|a| a.status().is_success())
    })
    .await;
    let status =
        |part: &Thanos| std::fs::read_to_string(format!("/proc/{}/status", part.process().id())).unwrap_or_default();
    let killed = |part: &Thanos| status(part).is_empty() || status(part).contains("State:\tZ");
    let (mut answered, mut refused, mut broke, mut asked) = (0, 0, 0, 0);
    while asked < count && !all.iter().any(|part| killed(part)) {
        let mut each: Vec<Rng> = (0..at_once).map(|_| Rng(rng.next_u64())).collect();
        let (url, seconds) = (querier.url(), patience(asked / at_once));
        for outcome in futures::future::join_all(each.iter_mut().map(|r| hostile(&url, r, seconds))).await {
            asked += 1;
            match outcome {
                Ok(true) => answered += 1,
                Ok(false) => refused += 1,
                Err(_) => broke += 1,
            }
        }
    }
    let peak = |part: &Thanos| {
        let text = status(part);
        let peak = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.map_or("killed".to_owned(), |kb| format!("{} MiB", kb.trim().parse::<u64>().unwrap() >> 10))
    };
    let text = format!(
        "; Thanos's querier and store, {asked} of them: {answered} answered, {refused} refused, {broke} broke; querier {}, store {}",
        peak(&querier),
        peak(&store)
    );
    drop((store, querier));
    tokio::time::sleep(Duration::from_secs(1)).await;
    groups.iter().flatten().for_each(|group| drop(std::fs::remove_dir(group)));
    text
}

#[test]
fn goal_g18_no_oom() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let goal = Goal::start("G18");
    let dir = tempfile::tempdir().unwrap();
    let (series, count, at_once) = goal.pick((2_000, 6, 3), (20_000, 100, 4), (20_000, 10_000, 4));
    fill(&dir.path().join("bucket"), series);
    let mut store = Role::start("store", dir.path(), "").await;
    let mut querier = Role::start("query", dir.path(), &store.grpc).await;
    let until_quiet = AtomicBool::new(false);
    let quiet = async {
        tokio::time::sleep(goal.pick(Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10))).await;
        until_quiet.store(true, Ordering::SeqCst);
    };
    let (mut quiet, ()) = tokio::join!(light(&querier.http, &until_quiet), quiet);
    let quiet = p99(&mut quiet);

    let stop = AtomicBool::new(false);
    let mut rng = goal.rng("queries");
    let work = async {
        let (mut answered, mut refused, mut bad) = (0, 0, Vec::new());
        for round in 0..count / at_once {
            let mut each: Vec<Rng> = (0..at_once).map(|_| Rng(rng.next_u64())).collect();
            let all = each.iter_mut().map(|r| hostile(&querier.http, r, patience(round)));
            for outcome in futures::future::join_all(all).await {
                match outcome {
                    Ok(true) => answered += 1,
                    Ok(false) => refused += 1,
                    Err(e) => bad.push(e),
                }
            }
            if !bad.is_empty() {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        (answered, refused, bad)
    };
    let lights = async {
        // Where the querier is gone, this is not the reason that counts.
        let took = std::panic::AssertUnwindSafe(light(&querier.http, &stop));
        futures::FutureExt::catch_unwind(took).await.ok()
    };
    let (outcome, beside, calls) = tokio::join!(work, lights, hostile_calls(store.grpc.clone(), &stop));
    let (answered, refused, bad) = outcome;
    let memory = (querier.resident() >> 20, store.resident() >> 20);
    for role in [&mut querier, &mut store] {
        let log = role.log();
        assert!(role.lives(), "killed in its group of {} MiB: {log:.2000}", GROUP >> 20);
    }
    assert!(bad.is_empty(), "no answer and no error with a reason: {}", bad[0]);
    let mut beside = beside.expect("light queries failed beside hostile ones");
    let beside = p99(&mut beside);
    if goal.size() != Size::Ci {
        let most = LIGHT.max(2 * quiet);
        assert!(beside <= most, "light queries take {beside:?} (p99) beside hostile ones, {quiet:?} alone");
    }
    let mut figure = format!(
        "{count} hostile queries ({answered} answered, {refused} refused), {calls} hostile calls of the store: 0 kills, at most {} and \
         {} MiB of {} each; light queries p99 {quiet:?} alone, {beside:?} beside",
        memory.0,
        memory.1,
        GROUP >> 20
    );
    if goal.size() != Size::Ci && std::env::var_os("PANOPTES_BREAK").is_none() && !testkit::peers::skip(&["thanos"]) {
        drop((querier, store));
        let some = goal.pick(0, 12, count);
        figure.push_str(&baseline(dir.path(), &mut goal.rng("Thanos"), some, at_once).await);
    }
    goal.figure(&figure);
}
