//! G41: hostile names of blocks, labels, tenants, rule files and prefixes never lead to a file or an object outside of the
//! prefix.

use bucket::catalogue::Producer;
use bucket::{Bucket, Config, Options, block};
use futures::TryStreamExt as _;
use model::world::World;
use std::path::{Path, PathBuf};
use testkit::goal::{Goal, Rng};

const PIECES: &[&str] = &[
    "..",
    ".",
    "/",
    "//",
    "\\",
    "\0",
    "\n",
    "%2e%2e",
    "%2f",
    "~",
    "$(HOME)",
    "C:",
    "a",
    "é",
    "\u{202e}",
    "..;",
    " ",
    "canary",
    "etc/passwd",
    "panoptes/v1",
    "meta.json",
    "chunks/000001",
    ".lock",
    ".tmp",
    "x.tmp",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "|",
    "*",
    "\u{2215}",
    "\u{ff0e}\u{ff0e}",
];

/// Pieces of a name, at most; fewer than the sandbox is deep.
const MOST: usize = 5;

fn name(rng: &mut Rng) -> String {
    let mut out = String::new();
    for _ in 0..=rng.below(MOST) {
        out.push_str(rng.choose(PIECES).unwrap());
        if rng.one_in(2) {
            out.push('/');
        }
    }
    if rng.one_in(50) {
        out.push_str(&"x".repeat(rng.below(3000)));
    }
    out
}

#[test]
fn goal_g41_names() {
    let goal = Goal::start("G41");
    let mut rng = goal.rng("names");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sandbox = tempfile::tempdir().unwrap();
    // Deeper than any of the names climbs: a run with the protection off stays in its sandbox.
    let root = sandbox.path().join("1/2/3/4/5/6/7/8/root");
    let prefix = root.join("bucket/tenants/a");
    std::fs::create_dir_all(&prefix).unwrap();
    for place in root.join("bucket/tenants").ancestors().take_while(|p| p.starts_with(sandbox.path())) {
        std::fs::write(place.join("canary"), "sings").unwrap();
    }
    let text =
        format!("type: FILESYSTEM\nconfig: {{directory: {}}}\nprefix: tenants/a\n", root.join("bucket").display());
    let bucket = Bucket::open(&Config::parse(&text).unwrap(), Options::new(World::real())).unwrap();
    // The directory's own lock file lies beside the prefix.
    runtime.block_on(bucket.put("honest", "x")).unwrap();
    let outside = tree(sandbox.path(), &prefix);
    let count = goal.pick(200, 10_000, 1_000_000);
    let (mut done, mut written, mut refused) = (0, 0, 0);
    while done < count {
        done += 1;
        let name = name(&mut rng);
        if runtime.block_on(attack(&bucket, &name, done)) {
            written += 1;
        } else {
            refused += 1;
        }
        if done % 100 == 0 || done == count {
            assert_eq!(
                tree(sandbox.path(), &prefix),
                outside,
                "a name led outside of the prefix, the last was {name:?}"
            );
        }
    }
    let rules = rule_files(&mut rng, goal.pick(50, 300, 100_000));
    let prefixes = prefixes(&mut rng, goal.pick(50, 300, 100_000), &root);
    assert_eq!(tree(sandbox.path(), &prefix), outside, "a prefix led outside of its directory");
    goal.figure(&format!(
        "{done} names ({written} written, {refused} refused), {rules} names of rule files, {prefixes} prefixes: 0 outside"
    ));
}

/// Every call with this name, in every part of a path. True if anything was written.
async fn attack(bucket: &Bucket, name: &str, n: usize) -> bool {
    let id = crate::made::id(n as u64);
    let paths =
        [name.to_owned(), format!("{name}/x"), block::object(id, name), format!("{}{name}", block::directory(id))];
    let mut written = false;
    for path in &paths {
        if let Ok(object) = bucket.get(path, 1 << 20).await {
            assert_ne!(&object.bytes[..], b"sings", "{path:?} reads what lies outside");
        }
        let _ = bucket.head(path).await;
        let seen: Result<Vec<_>, _> = bucket.list(path).try_collect().await;
        assert!(
            !seen.is_ok_and(|all| all.iter().any(|m| m.path.contains("canary") && m.size == 5)),
            "{path:?} lists what lies outside"
        );
        let wrote = bucket.put(path, "by an attacker").await.is_ok();
        let _ = bucket.create(path, "by an attacker").await;
        written |= wrote;
        let _ = bucket.delete(path).await;
    }
    if let Ok(producer) = Producer::new(bucket.clone(), name) {
        let _ = producer.intent(id, Vec::new()).await;
        let _ = producer.own().await;
    }
    written
}

/// All files below a folder, but those below `except`, with their contents.
fn tree(dir: &Path, except: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path == except {
            continue;
        }
        if path.is_dir() {
            all.extend(tree(&path, except));
        } else if path.file_name().is_none_or(|n| n != ".lock") {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// Names of rule files become names of files in Prometheus's pod.
fn rule_files(rng: &mut Rng, count: usize) -> usize {
    use k8s_openapi::api::core::v1::ConfigMap;
    use operator::observe::Found;
    for _ in 0..count {
        let (map, key) = (name(rng), format!("{}.yaml", name(rng)));
        let cluster = crate::decoders::wish("");
        let mut observed = crate::decoders::world(&cluster);
        let data = std::collections::BTreeMap::from([(key.clone(), "groups: []\n".to_owned())]);
        observed
            .config_maps
            .insert(map.clone(), Found::Present(ConfigMap { data: Some(data), ..ConfigMap::default() }));
        observed.rule_config_maps.insert(map);
        if let Ok(valid) = operator::cluster::validate(&cluster, &observed) {
            for file in valid.rule_files.keys() {
                let plain = !file.contains(['/', '\\', '\0', '\n']) && !file.starts_with('.');
                assert!(plain, "the rule file {key:?} becomes {file:?}, outside of its folder");
            }
        }
    }
    count
}

/// Prefixes of buckets in a directory.
fn prefixes(rng: &mut Rng, count: usize, root: &Path) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..count {
        let prefix = serde_json::to_string(&name(rng)).unwrap();
        let inside = root.join("bucket/tenants/a/own");
        let text = format!("type: FILESYSTEM\nconfig: {{directory: {}}}\nprefix: {prefix}\n", inside.display());
        let Ok(config) = Config::parse(&text) else { continue };
        let Ok(bucket) = Bucket::open(&config, Options::new(World::real())) else { continue };
        let _ = runtime.block_on(bucket.put("x", "by an attacker"));
    }
    count
}
