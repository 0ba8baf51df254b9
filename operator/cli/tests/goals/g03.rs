//! G03: the sidecar is killed (SIGKILL) at chosen system calls and at random moments while it uploads, and its list of uploads is
//! deleted, broken and rolled back. Each block gets to the bucket exactly once, and is never seen there in part.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Rng};
use testkit::oracle::Oracle;
use testkit::prometheus_stub::{PrometheusStub, Told};

/// System calls at which the process is killed: those that touch the blocks, the bucket (a directory) and the list.
const CALLS: &[&str] = &[
    "link,linkat",
    "rename,renameat,renameat2",
    "fsync,fdatasync",
    "unlink,unlinkat",
    "mkdir,mkdirat",
    "openat",
    "pwrite64,write",
    "pread64,read",
    "flock",
    "getdents64",
    "utimensat",
    "copy_file_range,sendfile",
];
/// Blocks in one data directory.
const BLOCKS: i64 = 3;
/// A sidecar that is not killed is done within this.
const DONE: Duration = Duration::from_secs(20);

/// One data directory and its bucket, used until all its blocks are there.
struct World {
    dir: tempfile::TempDir,
    /// Files of each block, by path within it.
    blocks: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// meta.json of each block as first seen in the bucket.
    committed: BTreeMap<String, Vec<u8>>,
    /// The list of uploads as it was at some time.
    old_list: Option<Vec<u8>>,
}

impl World {
    fn new(oracle: &mut Oracle, rng: &mut Rng) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        for n in 0..BLOCKS {
            let request = serde_json::json!({
                "op": "generate", "dir": data, "series": 40, "samples": 30, "start": 1_700_000_000_000i64 + n * 7_200_000,
                "interval": 15_000, "histograms": 5, "seed": rng.below(1 << 30),
            });
            oracle.ask(&request).unwrap();
        }
        let mut blocks = BTreeMap::new();
        for entry in fs::read_dir(&data).unwrap().map(Result::unwrap) {
            let files = ["index".to_owned()].into_iter().chain(
                fs::read_dir(entry.path().join("chunks"))
                    .unwrap()
                    .map(|f| format!("chunks/{}", f.unwrap().file_name().to_str().unwrap())),
            );
            let files = files.map(|f| (f.clone(), fs::read(entry.path().join(&f)).unwrap())).collect();
            blocks.insert(entry.file_name().into_string().unwrap(), files);
        }
        assert_eq!(blocks.len(), usize::try_from(BLOCKS).unwrap());
        Self { dir, blocks, committed: BTreeMap::new(), old_list: None }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn list(&self) -> PathBuf {
        self.data().join("thanos.shipper.json")
    }

    /// Entries of the catalogue, by block, of one kind.
    fn catalogue(&self, kind: &str) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.bucket().join("panoptes/v1/catalogue");
        for producer in fs::read_dir(root).into_iter().flatten().map(Result::unwrap) {
            for entry in fs::read_dir(producer.path()).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                found.extend(name.strip_suffix(&format!(".{kind}")).map(str::to_owned));
            }
        }
        found.sort();
        found
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        let intents = self.catalogue("intent");
        let commits = self.catalogue("commit");
        for (id, files) in &self.blocks {
            let there = self.bucket().join(id);
            assert!(!there.exists() || intents.contains(id), "block {id} has objects and no intent");
            let Ok(meta) = fs::read(there.join("meta.json")) else {
                assert!(!commits.contains(id), "block {id} is committed and has no meta.json");
                assert!(!self.committed.contains_key(id), "meta.json of block {id} is gone");
                continue;
            };
            for (path, bytes) in files {
                let sent = fs::read(there.join(path));
                assert!(
                    sent.is_ok_and(|sent| sent == *bytes),
                    "meta.json of block {id} is there and {path} is not, or is not whole"
                );
            }
            let first = self.committed.entry(id.clone()).or_insert_with(|| meta.clone());
            assert!(*first == meta, "meta.json of block {id} was written twice");
        }
    }

    fn done(&self) -> bool {
        self.catalogue("commit").len() == self.blocks.len()
    }

    /// What must hold when all is done.
    fn check_end(&self) {
        let all: Vec<String> = self.blocks.keys().cloned().collect();
        assert_eq!((self.catalogue("intent"), self.catalogue("commit")), (all.clone(), all.clone()));
        let mut objects: Vec<String> = fs::read_dir(self.bucket())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n != "panoptes" && n != ".panoptes")
            .collect();
        objects.sort();
        assert_eq!(objects, all, "objects at the top of the bucket");
        for id in &all {
            let meta: Value = serde_json::from_slice(&self.committed[id]).unwrap();
            assert_eq!(meta["thanos"]["labels"]["cluster"], "ops");
            assert_eq!(meta["ulid"], id.as_str());
        }
        let list: Value = serde_json::from_slice(&fs::read(self.list()).unwrap()).unwrap();
        assert_eq!(list["uploaded"].as_array().unwrap().len(), all.len(), "{list}");
    }

    /// The list of uploads is no truth: it may be lost, broken or old.
    fn spoil(&mut self, rng: &mut Rng) {
        let now = fs::read(self.list()).ok();
        match rng.below(5) {
            0 => drop(fs::remove_file(self.list())),
            1 => fs::write(self.list(), b"{\"version\": 1, \"uploaded\": [\"01").unwrap(),
            2 => {
                if let Some(old) = &self.old_list {
                    fs::write(self.list(), old).unwrap();
                }
            }
            3 => {
                // It claims what is not there.
                let ids: Vec<&String> = self.blocks.keys().collect();
                fs::write(self.list(), serde_json::json!({"version": 1, "uploaded": ids}).to_string()).unwrap();
            }
            _ => self.old_list = now,
        }
    }
}

/// A sidecar, and `strace` around it if it is to be killed at a system call.
struct Sidecar(Child);

impl Sidecar {
    fn start(world: &World, prometheus: &PrometheusStub, kill_at: Option<(&str, usize)>) -> Self {
        let sidecar = env!("CARGO_BIN_EXE_panoptes");
        let mut command = match kill_at {
            None => Command::new(sidecar),
            Some((calls, n)) => {
                let mut command = Command::new(testkit::peers::path("strace").unwrap());
                command.args(["-f", "-qq", "-o", "/dev/null"]);
                command.arg(format!("--trace={calls}")).arg(format!("--inject={calls}:signal=KILL:when={n}"));
                command.arg(sidecar);
                command
            }
        };
        let log = fs::File::options().create(true).append(true).open(world.dir.path().join("log")).unwrap();
        command
            .arg("sidecar")
            .arg(format!("--prometheus.url={}", prometheus.url()))
            .arg(format!("--tsdb.path={}", world.data().display()))
            .arg(format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", world.bucket().display()))
            .args(["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // strace and what it traces end together.
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
        Self(command.spawn().unwrap())
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn kill(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if !self.ended() {
            self.kill();
        }
    }
}

fn until(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn goal_g03_kills_during_upload() {
    if testkit::peers::skip(&["prometheus-blocks", "strace"]) {
        return;
    }
    let goal = Goal::start("G03");
    // Without a protection it takes some kills until one of them shows it.
    let few = if std::env::var_os("PANOPTES_BREAK").is_some() { 100 } else { 10 };
    let wanted = goal.pick(few, 100, 2000);
    let mut rng = goal.rng("kills");
    let mut oracle = Oracle::start("prometheus-blocks").unwrap();
    let prometheus = PrometheusStub::start(Told::new(&[("cluster", "ops"), ("replica", "a")])).unwrap();
    let (mut kills, mut worlds, mut by_call) = (0, 0, BTreeMap::<&str, u32>::new());
    while kills < wanted {
        let mut world = World::new(&mut oracle, &mut rng);
        worlds += 1;
        while kills < wanted && !world.done() {
            let calls = if rng.one_in(5) { None } else { rng.choose(CALLS).copied() };
            let mut sidecar = Sidecar::start(&world, &prometheus, calls.map(|c| (c, 1 + rng.below(6))));
            // At a moment by chance: most of them while it uploads.
            let moment = Duration::from_millis(if calls.is_none() { 60 + rng.below(200) as u64 } else { 3000 });
            let killed = until(moment, || sidecar.ended() || world.done()) && sidecar.ended();
            if killed || !world.done() {
                kills += 1;
                *by_call.entry(calls.unwrap_or("a random moment")).or_default() += 1;
            }
            sidecar.kill();
            world.check();
            world.spoil(&mut rng);
        }
        // Nobody kills any more: all is done.
        let sidecar = Sidecar::start(&world, &prometheus, None);
        let listed = |w: &World| {
            let list: Value = serde_json::from_slice(&fs::read(w.list()).unwrap_or_default()).unwrap_or_default();
            list["uploaded"].as_array().is_some_and(|l| l.len() == w.blocks.len())
        };
        let done = until(DONE, || world.done() && listed(&world) && !staged(&world.data()));
        drop(sidecar);
        world.check();
        let log = fs::read_to_string(world.dir.path().join("log")).unwrap();
        assert!(done, "not all blocks were uploaded; the sidecar said:\n{log}");
        world.check_end();
    }
    let calls: Vec<String> = by_call.iter().map(|(call, n)| format!("{n} at {call}")).collect();
    println!("{}", calls.join("; "));
    goal.figure(&format!("{kills} kills, {} blocks, each committed exactly once, none seen in part", worlds * BLOCKS));
}

/// True if links of an upload lie about.
fn staged(data: &Path) -> bool {
    fs::read_dir(data.join("thanos/upload")).is_ok_and(|mut d| d.next().is_some())
}
