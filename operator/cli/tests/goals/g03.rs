//! G03: the sidecar is killed (SIGKILL) at chosen system calls and at random moments while it uploads, and its list of uploads is
//! deleted, broken and rolled back, and while Prometheus compacts two of the blocks and deletes them, with and without
//! `--shipper.upload-compacted`. Each block gets to the bucket exactly once, is never seen there in part, and what is there is
//! there once: as itself, or within what it was compacted to.

use super::doomed::{CALLS, Doomed, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::goal::{Goal, Rng};
use testkit::oracle::Oracle;
use testkit::prometheus_stub::{PrometheusStub, Told};

/// Blocks in one data directory.
const BLOCKS: i64 = 3;
/// A sidecar that is not killed is done within this.
const DONE: Duration = Duration::from_secs(20);

/// One data directory and its bucket, used until all its blocks are there.
struct World {
    dir: tempfile::TempDir,
    /// Files of each block, by path within it.
    blocks: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// The blocks that Prometheus cut, in the order of time.
    cut: Vec<String>,
    /// The block that Prometheus has compacted, and those that it was made of.
    compacted: Option<(String, [String; 2])>,
    /// Compacted blocks are uploaded, too.
    upload_compacted: bool,
    /// meta.json of each block as first seen in the bucket.
    committed: BTreeMap<String, Vec<u8>>,
    /// The list of uploads as it was at some time.
    old_list: Option<Vec<u8>>,
}

impl World {
    fn new(oracle: &mut Oracle, rng: &mut Rng, upload_compacted: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (blocks, cut, committed) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        let mut world = Self { dir, blocks, cut, compacted: None, upload_compacted, committed, old_list: None };
        let data = world.data();
        fs::create_dir(&data).unwrap();
        for n in 0..BLOCKS {
            let request = serde_json::json!({
                "op": "generate", "dir": data, "series": 40, "samples": 30, "start": 1_700_000_000_000i64 + n * 7_200_000,
                "interval": 15_000, "histograms": 5, "seed": rng.below(1 << 30),
            });
            let made = oracle.ask(&request).unwrap();
            let id = Path::new(made["dir"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
            world.take(&id);
            world.cut.push(id);
        }
        world
    }

    /// Remembers a block as it is on disk.
    fn take(&mut self, id: &str) {
        let block = self.data().join(id);
        let chunks = fs::read_dir(block.join("chunks")).unwrap();
        let chunks = chunks.map(|f| format!("chunks/{}", f.unwrap().file_name().to_str().unwrap()));
        let files = ["index".to_owned()].into_iter().chain(chunks);
        let files = files.map(|f| (f.clone(), fs::read(block.join(&f)).unwrap())).collect();
        assert!(self.blocks.insert(id.to_owned(), files).is_none(), "block {id} was made twice");
    }

    /// Prometheus compacts two neighbours, once, and deletes them, or is stopped before it has. It does not ask for the list if
    /// compacted blocks are taken, too; else it deletes nothing that was not uploaded.
    fn compact(&mut self, oracle: &mut Oracle, rng: &mut Rng) {
        if self.compacted.is_some() {
            return;
        }
        let first = rng.below(self.cut.len() - 1);
        let sources = [self.cut[first].clone(), self.cut[first + 1].clone()];
        let dirs: Vec<PathBuf> = sources.iter().map(|id| self.data().join(id)).collect();
        let made = oracle.ask(&serde_json::json!({"op": "compact", "dest": self.data(), "dirs": dirs})).unwrap();
        let id = made["ulids"][0].as_str().unwrap().to_owned();
        self.take(&id);
        for (source, dir) in sources.iter().zip(dirs) {
            if !rng.one_in(3) && (self.upload_compacted || self.committed.contains_key(source)) {
                fs::remove_dir_all(dir).unwrap();
            }
        }
        self.compacted = Some((id, sources));
    }

    /// The blocks that Prometheus cut which are in the bucket with this one.
    fn holds<'a>(&'a self, id: &'a String) -> Vec<&'a String> {
        match &self.compacted {
            Some((compacted, sources)) if compacted == id => sources.iter().collect(),
            _ => vec![id],
        }
    }

    /// The blocks that Prometheus cut whose samples are in the bucket.
    fn archived(&self) -> BTreeSet<&String> {
        let held: Vec<&String> = self.committed.keys().flat_map(|id| self.holds(id)).collect();
        let archived: BTreeSet<&String> = held.iter().copied().collect();
        assert_eq!(archived.len(), held.len(), "samples are in the bucket twice: {held:?}");
        archived
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

    /// What must hold at every moment, also while a sidecar runs.
    fn check(&mut self) {
        let commits = self.catalogue("commit");
        for (id, files) in &self.blocks {
            let there = self.bucket().join(id);
            let begun = there.exists();
            assert!(!begun || self.catalogue("intent").contains(id), "block {id} has objects and no intent");
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

    /// Blocks that must be in the catalogue as whole, by what is on disk now.
    fn owed(&self) -> BTreeSet<&String> {
        let local = |id: &String| self.data().join(id).exists();
        let archived = self.archived();
        let mut owed: BTreeSet<&String> = self.cut.iter().filter(|id| local(id)).collect();
        if let Some((id, sources)) = &self.compacted {
            if self.committed.contains_key(id) {
                owed.retain(|cut| !sources.contains(cut));
            }
            let parts = sources.iter().any(|source| self.committed.contains_key(source) || owed.contains(source));
            let whole = self.committed.contains_key(id) && sources.iter().all(|source| archived.contains(source));
            if self.upload_compacted && (whole || !parts) {
                owed.insert(id);
            }
        }
        owed
    }

    fn done(&self) -> bool {
        let commits = self.catalogue("commit");
        self.owed().into_iter().all(|id| commits.contains(id))
    }

    /// The local blocks that the list of uploads must name.
    fn to_list(&self) -> BTreeSet<String> {
        let archived = self.archived();
        let there = self.cut.iter().filter(|id| archived.contains(id));
        let whole = self.compacted.iter().map(|(id, _)| id).filter(|id| self.committed.contains_key(*id));
        there.chain(whole).filter(|id| self.data().join(id).exists()).cloned().collect()
    }

    fn listed(&self) -> bool {
        let list: Value = serde_json::from_slice(&fs::read(self.list()).unwrap_or_default()).unwrap_or_default();
        let Some(list) = list["uploaded"].as_array() else { return false };
        list.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect::<BTreeSet<_>>() == self.to_list()
    }

    /// What must hold when all is done.
    fn check_end(&self) {
        let archived = self.archived();
        for id in self.cut.iter().filter(|id| self.data().join(id).exists()) {
            assert!(archived.contains(id), "block {id} was not uploaded");
        }
        let (id, sources) = self.compacted.as_ref().unwrap();
        if self.upload_compacted {
            assert!(sources.iter().any(|s| archived.contains(s)), "nothing of the compacted block {id} was uploaded");
        } else {
            assert!(!self.catalogue("intent").contains(id), "the compacted block {id} was uploaded, and nobody asked");
        }
        let objects = fs::read_dir(self.bucket()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        for object in objects.filter(|n| n != "panoptes" && n != ".panoptes") {
            // Prometheus may have deleted it before it was whole.
            let given_up = !self.data().join(&object).exists() && self.blocks.contains_key(&object);
            assert!(self.committed.contains_key(&object) || given_up, "{object} lies about in the bucket");
        }
        for (id, meta) in &self.committed {
            let meta: Value = serde_json::from_slice(meta).unwrap();
            assert_eq!(meta["thanos"]["labels"]["cluster"], "ops");
            assert_eq!(meta["ulid"], id.as_str());
        }
        assert!(self.listed(), "the list should name {:?}", self.to_list());
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

/// A sidecar of this world.
fn sidecar(world: &World, prometheus: &PrometheusStub, kill_at: Option<(&str, usize)>) -> Doomed {
    let args = [
        format!("--prometheus.url={}", prometheus.url()),
        format!("--tsdb.path={}", world.data().display()),
        format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", world.bucket().display()),
    ];
    let more = world.upload_compacted.then(|| "--shipper.upload-compacted".to_owned());
    let args: Vec<String> = args.into_iter().chain(more).collect();
    Doomed::start("sidecar", &args, &world.dir.path().join("log"), kill_at)
}

/// True if it has looked at all blocks, and done what it could.
fn looked(sidecar: &Doomed) -> bool {
    sidecar.metric("thanos_shipper_dir_syncs_total").is_some_and(|n| n > 0.0)
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
    let (mut committed, mut compacted) = (0, 0);
    while kills < wanted {
        let mut world = World::new(&mut oracle, &mut rng, worlds % 2 == 1);
        worlds += 1;
        if rng.one_in(4) {
            world.compact(&mut oracle, &mut rng);
        }
        while kills < wanted && !world.done() {
            let calls = if rng.one_in(5) { None } else { rng.choose(CALLS).copied() };
            let mut process = sidecar(&world, &prometheus, calls.map(|c| (c, 1 + rng.below(6))));
            // At a moment by chance: most of them while it uploads.
            let moment = Duration::from_millis(if calls.is_none() { 60 + rng.below(200) as u64 } else { 3000 });
            let killed = until(moment, || process.ended() || world.done()) && process.ended();
            if killed || !world.done() {
                kills += 1;
                *by_call.entry(calls.unwrap_or("a random moment")).or_default() += 1;
            }
            process.kill();
            world.check();
            world.spoil(&mut rng);
            if rng.one_in(2) {
                world.compact(&mut oracle, &mut rng);
            }
        }
        world.compact(&mut oracle, &mut rng);
        // Nobody kills any more: all is done.
        let process = sidecar(&world, &prometheus, None);
        let done = until(DONE, || {
            world.check();
            looked(&process) && world.done() && world.listed() && !staged(&world.data())
        });
        drop(process);
        world.check();
        let log = fs::read_to_string(world.dir.path().join("log")).unwrap();
        assert!(done, "not all blocks were uploaded; the sidecar said:\n{log}");
        world.check_end();
        committed += world.committed.len();
        compacted += world.compacted.iter().filter(|(id, _)| world.committed.contains_key(id)).count();
    }
    let calls: Vec<String> = by_call.iter().map(|(call, n)| format!("{n} at {call}")).collect();
    println!("{}", calls.join("; "));
    goal.figure(&format!(
        "{kills} kills, {committed} blocks in {worlds} buckets, each committed exactly once, none seen in part; {compacted} of \
         them compacted by Prometheus, no sample archived twice"
    ));
}

/// True if links of an upload lie about.
fn staged(data: &Path) -> bool {
    fs::read_dir(data.join("thanos/upload")).is_ok_and(|mut d| d.next().is_some())
}
