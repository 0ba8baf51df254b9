//! G02: real compactors are killed (SIGKILL) at chosen system calls and at random moments, one after the other on one bucket, while
//! blocks go on arriving. Whatever a reader sees is whole, no sample is lost, doubled or altered, and when nobody kills any more all
//! is compacted, nothing lies about, and Thanos finds nothing wrong.

use super::doomed::{CALLS, Doomed, until};
use model::{BlockId, Labels};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::goal::{Goal, Rng};
use tsdb::block::{Block, Writer};
use tsdb::chunk::{Columns, Encoding, XorEncoder, floats};
use tsdb::disk::RealDisk;
use tsdb::meta::{BlockMeta, File, Thanos as Section};
use tsdb::segment::NewChunk;
use tsdb::series::Blocks;

const HOUR: i64 = 3_600_000;
/// The begin of the blocks: the begin of a window of two weeks.
const T0: i64 = 1_407 * 14 * 24 * HOUR;
/// The streams, by their label `cluster`.
const STREAMS: [&str; 2] = ["a", "b"];
/// Blocks of each stream that lie there before the first compactor starts.
const BEFORE: usize = 14;
/// Most blocks of a stream.
const MOST: usize = 60;
/// A compactor that holds the lease is killed after this, if it wasn't at a system call.
const ALIVE: Duration = Duration::from_millis(1500);
/// What is still to do when nobody kills any more is done within this, however busy the machine is.
const DONE: Duration = Duration::from_secs(300);

/// Series with their samples: time to the bits of the value.
type Samples = BTreeMap<Labels, BTreeMap<i64, u64>>;

/// One bucket, and the disk of its compactors.
struct World {
    dir: tempfile::TempDir,
    /// Blocks that each stream has so far.
    blocks: [usize; STREAMS.len()],
    /// All that is in blocks with a meta.json.
    samples: Samples,
    /// Uploads that broke off for good.
    broken: BTreeSet<String>,
    made: u64,
    log: PathBuf,
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (samples, broken) = (Samples::new(), BTreeSet::new());
        let mut world = Self { dir, blocks: [0; STREAMS.len()], samples, broken, made: 0, log };
        for folder in [world.bucket(), world.data(), world.staging()] {
            fs::create_dir(folder).unwrap();
        }
        for _ in 0..BEFORE * STREAMS.len() {
            world.arrive(rng);
        }
        world
    }

    fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn staging(&self) -> PathBuf {
        self.dir.path().join("staging")
    }

    /// The next block of a stream is uploaded as Thanos's sidecar does, meta.json last; now and then one breaks off before it, and
    /// is sent again with another id.
    fn arrive(&mut self, rng: &mut Rng) {
        let stream = if self.blocks[0] <= self.blocks[1] { 0 } else { 1 };
        if self.blocks[stream] >= MOST {
            return;
        }
        if rng.one_in(10) {
            let (dir, _) = self.make(stream);
            let id = dir.file_name().unwrap().to_str().unwrap().to_owned();
            fs::create_dir_all(self.bucket().join(&id)).unwrap();
            fs::rename(dir.join("chunks"), self.bucket().join(&id).join("chunks")).unwrap();
            self.broken.insert(id);
        }
        let (dir, samples) = self.make(stream);
        let there = self.bucket().join(dir.file_name().unwrap());
        fs::create_dir(&there).unwrap();
        for part in ["chunks", "index"] {
            fs::rename(dir.join(part), there.join(part)).unwrap();
        }
        fs::rename(dir.join("meta.json"), there.join("meta.json")).unwrap();
        for (labels, samples) in samples {
            self.samples.entry(labels).or_default().extend(samples);
        }
        self.blocks[stream] += 1;
    }

    /// Makes the next block of a stream, beside the bucket.
    fn make(&mut self, stream: usize) -> (PathBuf, Samples) {
        self.made += 1;
        let begin = T0 + self.blocks[stream] as i64 * 2 * HOUR;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let mut meta = BlockMeta::new(BlockId::from_parts(now as u64, u128::from(self.made)), begin, begin + 2 * HOUR);
        let external = [("cluster", STREAMS[stream])];
        let labels = external.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        meta.thanos = Some(Section { labels, source: "sidecar".into(), ..Section::default() });
        let mut writer = Writer::create(&RealDisk, &self.staging(), meta).unwrap();
        let names = ["i0", "i1", "i2", "i3", "i4", "i5"];
        for symbol in ["__name__", "i0", "i1", "i2", "i3", "i4", "i5", "instance", "requests_total"] {
            writer.add_symbol(symbol).unwrap();
        }
        let mut all = Samples::new();
        for (n, instance) in names.iter().enumerate() {
            let own = [("__name__", "requests_total"), ("instance", *instance)];
            let samples = all.entry(Labels::from_pairs(own.into_iter().chain(external))).or_default();
            let mut encoder = XorEncoder::default();
            for t in (begin..begin + 2 * HOUR).step_by(300_000) {
                let value = (t - T0) as f64 / 1e3 + n as f64 / 8.0;
                encoder.append(t, value).unwrap();
                samples.insert(t, value.to_bits());
            }
            let data = encoder.bytes();
            let (min_time, max_time) = (begin, begin + 2 * HOUR - 300_000);
            let chunk = NewChunk { encoding: Encoding::Xor, data: &data, min_time, max_time };
            writer.add_series(&Labels::from_pairs(own), &[chunk]).unwrap();
        }
        let written = writer.finish().unwrap();
        let mut meta = written.meta;
        let size = |name: &str| File::new(name, fs::metadata(written.dir.join(name)).unwrap().len());
        meta.thanos.as_mut().unwrap().files = vec![size("chunks/000001"), size("index"), File::new("meta.json", 0)];
        fs::write(written.dir.join("meta.json"), meta.write().unwrap()).unwrap();
        (written.dir, all)
    }

    /// A compactor of this world, whose lease lasts so long.
    fn compactor(&self, lease: &str, kill_at: Option<(&str, usize)>) -> Doomed {
        let args = [
            format!("--data-dir={}", self.data().display()),
            format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", self.bucket().display()),
            format!("--lease.duration={lease}"),
            "--wait".to_owned(),
            "--wait-interval=100ms".to_owned(),
            "--consistency-delay=0s".to_owned(),
            "--delete-delay=0s".to_owned(),
        ];
        let _ = fs::remove_file(&self.log);
        Doomed::start("compact", &args, &self.log, kill_at)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the compactor said last.
    fn said(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn holds_lease(&self) -> bool {
        self.log().contains("the lease is held")
    }

    /// The names of all folders of blocks.
    fn ids(&self) -> BTreeSet<String> {
        let names = fs::read_dir(self.bucket()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.parse::<BlockId>().is_ok()).collect()
    }

    fn is_marked(&self, id: &str) -> bool {
        self.bucket().join(id).join("deletion-mark.json").exists()
    }

    /// What must hold at every moment, also while a compactor runs: the blocks that a reader sees are whole.
    fn look(&self) -> Vec<BlockMeta> {
        let mut metas = Vec::new();
        for id in self.ids() {
            let dir = self.bucket().join(&id);
            let Ok(bytes) = fs::read(dir.join("meta.json")) else { continue };
            if is_closed(&bytes) {
                continue;
            }
            let meta = BlockMeta::read("meta.json", &bytes).unwrap_or_else(|e| panic!("block {id}: {e}"));
            for file in &meta.thanos.as_ref().unwrap().files {
                let size = fs::metadata(dir.join(&file.rel_path)).map(|m| m.len());
                let good = size.as_ref().is_ok_and(|size| file.rel_path == "meta.json" || *size == file.size_bytes);
                let is_gone = || !dir.join("meta.json").exists();
                assert!(good || is_gone(), "a visible block is not whole: {id}/{}: {size:?}", file.rel_path);
            }
            metas.push(meta);
        }
        metas
    }

    /// While no compactor runs: together the blocks hold every sample.
    fn check(&self) -> Vec<BlockMeta> {
        let (mut found, metas) = (Samples::new(), self.look());
        for meta in &metas {
            read(&self.bucket().join(meta.id.to_string()), &mut found);
        }
        for (labels, samples) in &self.samples {
            let got = found.get(labels).cloned().unwrap_or_default();
            let lost = samples.iter().filter(|(t, v)| got.get(*t) != Some(*v)).count();
            assert!(lost == 0, "{lost} of {} samples of {labels} are lost or altered", samples.len());
            assert!(got.len() == samples.len(), "{labels} has samples that nobody wrote");
        }
        assert!(found.len() == self.samples.len(), "there are series that nobody wrote");
        metas
    }

    /// What must hold when all is done.
    fn check_end(&self) {
        let metas = self.check();
        for (i, a) in metas.iter().enumerate() {
            for b in metas.iter().skip(i + 1).filter(|b| b.group_key() == a.group_key()) {
                let apart = a.max_time <= b.min_time || b.max_time <= a.min_time;
                assert!(apart, "{} and {} overlap", a.id, b.id);
            }
        }
        for stream in STREAMS {
            let of = metas.iter().filter(|m| m.resolution() == 0 && m.labels().get("cluster") == Some(stream));
            let short = of.filter(|m| m.max_time - m.min_time == 2 * HOUR).count();
            assert!(short <= 4, "{short} blocks of 2 h of {stream} were not compacted");
        }
        let seen: BTreeSet<String> = metas.iter().map(|m| m.id.to_string()).collect();
        let ids = self.ids();
        let unseen = ids.iter().filter(|id| !seen.contains(*id) && !self.broken.contains(*id));
        // The id of an upload of ours that broke off stays closed for some days.
        let lies = unseen.flat_map(|id| files(&self.bucket().join(id)));
        let garbage: Vec<PathBuf> = lies.filter(|path| !fs::read(path).is_ok_and(|bytes| is_closed(&bytes))).collect();
        assert!(garbage.is_empty(), "in the bucket lies garbage: {garbage:?}");
        let left = files(&self.data());
        assert!(left.is_empty(), "on the disk of the compactor lies garbage: {left:?}");
        self.ask_thanos();
    }

    /// Thanos's own verifier finds nothing.
    fn ask_thanos(&self) {
        let mut command = Command::new(testkit::peers::path("thanos").unwrap());
        command.args(["tools", "bucket", "verify", "-i", "index_known_issues", "-i", "overlapped_blocks"]);
        command.args(["-i", "duplicated_compaction"]);
        command
            .arg(format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {}}}}}", self.bucket().display()));
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let is_bad = |l: &&str| l.contains("level=error") || (l.contains("level=warn") && !l.contains("GLOBAL"));
        // It tells of uploads that broke off: of ours and of the sidecar's.
        let ids = self.ids();
        let partial = ids
            .iter()
            .filter(|id| fs::read(self.bucket().join(id).join("meta.json")).map_or(true, |bytes| is_closed(&bytes)));
        let partial: Vec<&String> = partial.collect();
        let known = |l: &&str| !partial.iter().any(|id| l.contains(id.as_str()));
        let bad = said.lines().filter(is_bad).find(known);
        assert!(done.status.success() && bad.is_none(), "Thanos: {}\n{said}", bad.unwrap_or_default());
    }
}

/// What lies as meta.json where an upload that broke off was cleared away.
fn is_closed(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|meta| meta["panoptes"] == "closed")
}

/// All files below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Adds the samples of a block; of a coarser one only that it can be read.
fn read(dir: &Path, found: &mut Samples) {
    let block = Block::open(&RealDisk, dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for series in Blocks::all(&block).unwrap() {
        let series = series.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        if block.meta().resolution() > 0 {
            continue;
        }
        let labels = block.meta().labels().iter().fold(series.labels.clone(), |all, (n, v)| all.with(n, v));
        let samples = found.entry(labels).or_default();
        for chunk in &series.chunks {
            let mut columns = Columns::default();
            floats(chunk.encoding, &chunk.data, &mut columns).unwrap();
            for (t, v) in columns.times.iter().zip(&columns.values) {
                let before = samples.insert(*t, v.to_bits());
                assert!(before.is_none_or(|b| b == v.to_bits()), "altered: {} at {t}", series.labels);
            }
        }
    }
}

/// What came of one world.
#[derive(Default)]
struct Told {
    by_call: BTreeMap<&'static str, usize>,
    blocks: usize,
    left: usize,
}

/// Ends the other worlds when one has failed.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Kills compactors of one bucket while there are kills left, and lets the last one do all that is left.
fn one(mut rng: Rng, kills: &AtomicUsize, failed: &AtomicBool) -> Told {
    let _alarm = Alarm(failed);
    let failed = || failed.load(Ordering::SeqCst);
    let mut world = World::new(&mut rng);
    let mut told = Told::default();
    while kills.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        let call = if rng.one_in(4) { None } else { rng.choose(CALLS).copied() };
        let most = if rng.one_in(2) { 8 } else { 80 };
        let at = 1 + rng.below(most);
        let mut process = world.compactor("1s", call.map(|c| (c, at)));
        let at_work = until(DONE, || {
            if rng.one_in(100) {
                world.arrive(&mut rng);
            }
            failed() || process.ended() || world.holds_lease()
        });
        assert!(at_work, "no compactor got the lease; it said:\n{}", world.said());
        let moment = if call.is_some() { ALIVE } else { Duration::from_millis(rng.below(700) as u64) };
        let at_call = until(moment, || {
            if rng.one_in(50) {
                world.arrive(&mut rng);
            }
            if rng.one_in(8) {
                world.look();
            }
            process.ended()
        });
        process.kill();
        *told.by_call.entry(call.filter(|_| at_call).unwrap_or("a random moment")).or_default() += 1;
        if failed() {
            return told;
        }
        world.check();
    }
    world.arrive(&mut rng);
    // Nobody kills any more: all is done, which a compactor knows when it looked twice and changed nothing.
    let process = world.compactor("10s", None);
    let (mut ids, mut since) = (BTreeSet::new(), 0.0);
    let done = until(DONE, || {
        std::thread::sleep(Duration::from_millis(50));
        world.look();
        let (now, rounds) = (world.ids(), process.metric("thanos_compact_iterations_total"));
        let Some(rounds) = rounds else { return failed() };
        if now != ids || now.iter().any(|id| world.is_marked(id)) {
            (ids, since) = (now, rounds);
        }
        failed() || rounds >= since + 2.0
    });
    drop(process);
    if failed() {
        return told;
    }
    assert!(done, "it does not come to an end; it said:\n{}", world.said());
    world.check_end();
    told.blocks = world.blocks.iter().sum();
    told.left = world.check().len();
    told
}

#[test]
fn goal_g02_kills_of_compactors() {
    if testkit::peers::skip(&["strace", "thanos"]) {
        return;
    }
    let goal = Goal::start("G02");
    // Without a protection it takes some kills until one of them shows it.
    let few = if std::env::var_os("PANOPTES_BREAK").is_some() { 100 } else { 8 };
    let (wanted, worlds) = (goal.pick(few, 100, 2000), goal.pick(4, 8, 8));
    let (kills, failed) = (AtomicUsize::new(wanted), AtomicBool::new(false));
    let told: Vec<Told> = std::thread::scope(|scope| {
        let worlds: Vec<_> = (0..worlds)
            .map(|n| {
                let rng = goal.rng(&format!("world {n}"));
                scope.spawn(|| one(rng, &kills, &failed))
            })
            .collect();
        worlds.into_iter().map(|w| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    let mut by_call = BTreeMap::<&str, usize>::new();
    for (call, n) in told.iter().flat_map(|t| &t.by_call) {
        *by_call.entry(call).or_default() += n;
    }
    let calls: Vec<String> = by_call.iter().map(|(call, n)| format!("{n} at {call}")).collect();
    println!("{}", calls.join("; "));
    let (blocks, left): (usize, usize) = told.iter().fold((0, 0), |(b, l), t| (b + t.blocks, l + t.left));
    goal.figure(&format!(
        "{wanted} kills over {worlds} buckets, {blocks} blocks became {left}: 0 samples lost, doubled or altered, every visible block \
         whole, garbage 0, nothing that Thanos finds"
    ));
}
