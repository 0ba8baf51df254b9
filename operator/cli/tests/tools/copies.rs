//! What makes blocks of blocks: replicate and rewrite, beside Thanos's.

use super::{A, B, C, HOUR, START, good, meta, metas, ours, said, tree};
use model::Labels;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use testkit::peers;
use tsdb::block::{Block, Writer};
use tsdb::chunk::{Recoder, exact};
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;
use tsdb::series::Blocks;

/// Files below a folder, by relative names, without the lock that we keep in a folder that is a bucket, and without tombstones, which
/// Thanos leaves behind: what was deleted then comes back.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let relative = |name: String| Path::new(&name).strip_prefix(dir).unwrap().to_string_lossy().into_owned();
    let all = tree(dir).into_iter().map(|(name, bytes)| (relative(name), String::from_utf8_lossy(&bytes).into_owned()));
    all.filter(|(name, _)| !name.starts_with('.') && !name.ends_with("/tombstones")).collect()
}

/// A block of eight series, in four chunks each.
pub(super) fn block(bucket: &Path, id: &str) {
    let rest = format!(
        r#""compaction":{{"level":1,"sources":["{id}"]}},"thanos":{{"labels":{{"cluster":"prod","replica":"a"}},
        "downsample":{{"resolution":0}},"source":"sidecar"}}"#
    );
    let meta = BlockMeta::read("meta.json", meta(id, START, 2, &rest).as_bytes()).unwrap();
    let mut writer = Writer::create(&RealDisk, bucket, meta).unwrap();
    let instances: Vec<String> = (0..4).map(|n| format!("i{n}")).collect();
    let mut symbols: Vec<&str> = instances.iter().map(String::as_str).collect();
    symbols.extend(["__name__", "errors", "instance", "job", "user", "visits", "web"]);
    symbols.sort_unstable();
    symbols.iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
    for (n, metric) in ["errors", "visits"].into_iter().enumerate() {
        for instance in &instances {
            let mut recoder = Recoder::new(false);
            (0..480).for_each(|s| recoder.push_float(START + s * 15_000, (s * 7 % 31 + n as i64) as f64).unwrap());
            let chunks = recoder.finish();
            let new: Vec<NewChunk<'_>> = chunks
                .iter()
                .map(|c| NewChunk { min_time: c.min_t, max_time: c.max_t, encoding: c.encoding, data: &c.data })
                .collect();
            let labels = Labels::from_pairs([("__name__", metric), ("instance", instance), ("job", "web")]);
            writer.add_series(&labels, &new).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// The samples of all series of a block.
fn samples(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let block = Block::open(&RealDisk, dir).unwrap();
    let of = |series: tsdb::series::Series| {
        let all = series.chunks.iter().flat_map(|c| exact(c.encoding, c.data.clone()).unwrap());
        (series.labels.to_string(), all.map(|s| format!("{:?}", s.unwrap())).collect())
    };
    Blocks::all(&block).unwrap().map(|series| of(series.unwrap())).collect()
}

#[test]
fn replicate_copies_what_thanos_copies_and_only_once() {
    if peers::skip(&["thanos"]) {
        return;
    }
    let thanos = peers::path("thanos").unwrap();
    let from = tempfile::tempdir().unwrap();
    metas(from.path());
    let whole = "01ARZ3NDEKTSV4RRFFQ69G5FAE";
    block(from.path(), whole);
    // Blocks without an index can't be copied by Thanos.
    for id in [A, B, C] {
        std::fs::create_dir_all(from.path().join(id).join("chunks")).unwrap();
        // As long as the one meta.json that tells it says.
        std::fs::write(from.path().join(id).join("index"), "7 bytes").unwrap();
        std::fs::write(from.path().join(id).join("chunks/000001"), "chunks").unwrap();
    }
    good(from.path(), &["mark", &format!("--id={A}"), "--marker=deletion-mark.json", "--details=x"]);
    let (only_b, level) = (format!("--id={B}"), "--compaction=4");
    let cases: &[&[&str]] = &[
        &[],
        &["--ignore-marked-for-deletion"],
        &["--resolution=5m", "--resolution=1h"],
        &["--matcher=cluster=\"prod\",replica=\"a\""],
        &["--compaction-min=2", "--compaction-max=3"],
        &[level],
        &[&only_b, "--matcher=cluster=\"nobody\""],
        &["--max-time=2023-11-15T00:00:00Z", "--min-time=2023-11-14T12:00:00Z"],
    ];
    for args in cases {
        let copy = |program: &Path| {
            let to = tempfile::tempdir().unwrap();
            let target =
                format!("--objstore-to.config={{type: FILESYSTEM, config: {{directory: {}}}}}", to.path().display());
            let mut all = vec!["replicate", "--single-run", &target];
            all.extend_from_slice(args);
            let port = format!("--http-address=127.0.0.1:{}", testkit::ports::free().unwrap());
            if program == thanos {
                all.push(&port);
            }
            let done = said(program, from.path(), &all);
            assert!(done.good, "{args:?}: {}", done.err);
            to
        };
        let (theirs, mine) = (copy(&thanos), copy(Path::new(env!("CARGO_BIN_EXE_panoptes"))));
        assert_eq!(files(mine.path()), files(theirs.path()), "{args:?}");
        let again = ours(
            from.path(),
            &[
                &["replicate", "--single-run"][..],
                &[&format!(
                    "--objstore-to.config={{type: FILESYSTEM, config: {{directory: {}}}}}",
                    theirs.path().display()
                )],
                args,
            ]
            .concat(),
        );
        assert!(again.good && again.err.contains("0 blocks copied"), "{args:?}: {}", again.err);
    }
    // A copy that broke off: what arrived in part is sent again.
    let to = tempfile::tempdir().unwrap();
    let target = format!("--objstore-to.config={{type: FILESYSTEM, config: {{directory: {}}}}}", to.path().display());
    std::fs::create_dir_all(to.path().join(whole)).unwrap();
    std::fs::write(to.path().join(whole).join("index"), "cut").unwrap();
    good(from.path(), &["replicate", "--single-run", &target, &format!("--id={whole}")]);
    assert_eq!(samples(&to.path().join(whole)), samples(&from.path().join(whole)));
    // One without an index is none: nothing of it becomes visible over there.
    std::fs::remove_file(from.path().join(B).join("index")).unwrap();
    let broken = ours(from.path(), &["replicate", &target, &only_b]);
    assert!(!broken.good && broken.err.contains(B) && broken.err.contains("no index"), "{}", broken.err);
    assert!(!to.path().join(B).join("meta.json").exists());
    let absent = ours(from.path(), &["replicate", &target, "--id=01ARZ3NDEKTSV4RRFFQ69G5FAZ"]);
    assert!(!absent.good && absent.err.contains("there is no block"), "{}", absent.err);
    let nowhere = ours(from.path(), &["replicate", "--single-run"]);
    assert!(!nowhere.good && nowhere.err.contains("--objstore-to.config-file"), "{}", nowhere.err);
}

/// The block that was made, beside those that were there.
fn made(bucket: &Path) -> PathBuf {
    let is_new = |path: &PathBuf| path.join("meta.json").exists() && !path.ends_with(A);
    let mut new: Vec<PathBuf> = std::fs::read_dir(bucket).unwrap().map(|e| e.unwrap().path()).filter(is_new).collect();
    assert_eq!(new.len(), 1, "one new block");
    new.remove(0)
}

#[test]
fn rewrite_makes_the_block_that_thanos_makes() {
    if peers::skip(&["thanos"]) {
        return;
    }
    let thanos = peers::path("thanos").unwrap();
    let id = format!("--id={A}");
    let middle = START + HOUR;
    let deletions = format!(
        "- matchers: '{{__name__=\"errors\",instance=~\"i[01]\"}}'\n- matchers: '{{__name__=\"visits\",instance=\"i1\"}}'\n  intervals: \
         [{{mint: {START}, maxt: {}}}, {{mint: {middle}, maxt: {}}}]\n  request_id: 'x-1'\n",
        START + 100_000,
        middle + 2_000_000
    );
    let relabel = "- {action: labeldrop, regex: job}\n- {source_labels: [instance], regex: 'i([23])', target_label: user, replacement: 'u$1'}\n\
                   - {action: drop, source_labels: [__name__, instance], regex: 'errors;i0'}\n";
    let equal = "- {source_labels: [instance], regex: 'i[12]', target_label: instance, replacement: both}\n";
    for (title, delete, relabel) in [
        ("delete", deletions.as_str(), ""),
        ("relabel", "", relabel),
        ("both", deletions.as_str(), relabel),
        ("series that become equal", "", equal),
    ] {
        let mut flags: Vec<String> = Vec::new();
        if !delete.is_empty() {
            flags.push(format!("--rewrite.to-delete-config={delete}"));
        }
        if !relabel.is_empty() {
            flags.push(format!("--rewrite.to-relabel-config={relabel}"));
        }
        let args = |more: &[&str]| -> Vec<String> {
            [&["rewrite", &id], more].concat().iter().map(|s| (*s).to_owned()).chain(flags.clone()).collect()
        };
        let run = |program: &Path, bucket: &Path, more: &[&str]| {
            let all = args(more);
            let done = said(program, bucket, &all.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(done.good, "{title}: {}", done.err);
            done
        };
        let (theirs, mine, tmp) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        block(theirs.path(), A);
        block(mine.path(), A);
        let tmp_flag = format!("--tmp.dir={}", tmp.path().join("t").display());
        run(&thanos, theirs.path(), &["--no-dry-run", "--delete-blocks", &tmp_flag]);

        // Without a word it is a trial: the changes are told, and nothing is written.
        let before = tree(mine.path());
        let panoptes = Path::new(env!("CARGO_BIN_EXE_panoptes"));
        let trial = run(panoptes, mine.path(), &[]);
        assert!(trial.err.contains("nothing was written"), "{}", trial.err);
        assert_eq!(tree(mine.path()), before);
        let done = run(panoptes, mine.path(), &["--no-dry-run", "--delete-blocks"]);
        assert_eq!(done.out, trial.out, "{title}");

        let (theirs_new, mine_new) = (made(theirs.path()), made(mine.path()));
        assert_eq!(samples(&mine_new), samples(&theirs_new), "{title}");
        let changes = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let name = theirs_new.file_name().unwrap();
        let their_log = std::fs::read_to_string(tmp.path().join("t").join(name).join("change.log")).unwrap();
        assert_eq!(changes(&done.out), changes(&their_log), "{title}");
        assert_eq!(std::fs::read_to_string(mine_new.join("change.log")).unwrap(), done.out);

        let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let of = |dir: &Path| {
            let mut meta = read(&dir.join("meta.json"));
            let own = meta["ulid"].take();
            assert_eq!(meta["compaction"]["sources"], json!([own]), "{title}");
            meta["compaction"]["sources"].take();
            // When it was made, and files that differ by nothing but how chunks are laid out.
            let thanos = meta["thanos"].as_object_mut().unwrap();
            for field in ["upload_time", "files", "segment_files", "index_stats"] {
                thanos.remove(field);
            }
            meta["stats"].as_object_mut().unwrap().remove("numFloatSamples");
            meta["stats"].as_object_mut().unwrap().remove("numChunks");
            meta
        };
        assert_eq!(of(&mine_new), of(&theirs_new), "{title}");
        let mark = |bucket: &Path| read(&bucket.join(A).join("deletion-mark.json"))["details"].clone();
        assert_eq!(mark(mine.path()), mark(theirs.path()));
    }
}

#[test]
fn rewrite_refuses_what_makes_no_sense() {
    let bucket = tempfile::tempdir().unwrap();
    block(bucket.path(), A);
    let id = format!("--id={A}");
    let all = "--rewrite.to-delete-config=[{matchers: '{job=\"web\"}'}]";
    for (args, says) in [
        (vec!["rewrite", &id], "what is to change"),
        (vec!["rewrite", &id, "--rewrite.to-delete-config=[{matchers: 'up{'}]"], "deletion 1"),
        (vec!["rewrite", &id, "--rewrite.to-relabel-config=[{action: twist}]"], "step 1"),
        (vec!["rewrite", "--id=01ARZ3NDEKTSV4RRFFQ69G5FAZ", all], "there is no block"),
        (vec!["rewrite", &id, all, "--rewrite.to-delete-config-file=x"], "give one of them"),
    ] {
        let done = ours(bucket.path(), &args);
        assert!(!done.good && done.err.contains(says), "{args:?}: {}", done.err);
    }
    // What is marked for deletion lives on elsewhere.
    let mark = bucket.path().join(A).join("deletion-mark.json");
    std::fs::write(&mark, "{}").unwrap();
    let marked = ours(bucket.path(), &["rewrite", &id, all, "--no-dry-run"]);
    assert!(!marked.good && marked.err.contains("marked for deletion"), "{}", marked.err);
    std::fs::remove_file(&mark).unwrap();
    // Of nothing there is no block, and the old one goes only when that is asked for.
    let none = ours(bucket.path(), &["rewrite", &id, all, "--no-dry-run"]);
    assert!(none.good && none.err.contains("no series is left"), "{}", none.err);
    assert_eq!(none.out.lines().count(), 8);
    assert!(!bucket.path().join(A).join("deletion-mark.json").exists());
}
