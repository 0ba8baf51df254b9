//! A small language for buckets and plans. Its description, and the scenarios, are in `testdata/plan`.

use super::*;
use crate::marks::reason;
use crate::meta::{Compaction as Section, File, Stats, Thanos};
use std::fmt::Write as _;
use std::path::Path;

/// A scenario while it runs.
#[derive(Default)]
struct Stage {
    bucket: Snapshot,
    settings: Settings,
    now: i64,
    names: BTreeMap<BlockId, String>,
    plan: Option<Plan>,
    made: u32,
}

/// Runs a scenario; gives its text with what was really planned.
pub(super) fn run(text: &str) -> String {
    let (mut stage, mut out) = (Stage::default(), String::new());
    for line in text.lines() {
        // What was expected is put anew.
        if line.starts_with("  ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        let Some((verb, rest)) = words.split_first() else { continue };
        match *verb {
            "now" => stage.now = time(rest[0]),
            "later" => stage.now += time(rest[0]),
            "settings" => rest.iter().for_each(|w| stage.setting(w)),
            "block" => stage.block(rest),
            "partial" => stage.partial(rest),
            "incomplete" => stage.bucket.complete = false,
            "check" => {
                for finding in stage.settings.check() {
                    let (kind, what) = match finding {
                        Finding::Refused(what) => ("refused", what),
                        Finding::Warning(what) => ("warning", what),
                    };
                    writeln!(out, "  {kind}: {what}").unwrap();
                }
            }
            "forecast" => {
                let f = forecast(&stage.bucket, stage.now, &stage.settings, 1000);
                writeln!(
                    out,
                    "  {} compactions of {} blocks, {} downsamplings, {} marks for deletion",
                    f.compactions, f.compaction_blocks, f.downsamples, f.deletions
                )
                .unwrap();
                assert!(!f.more);
            }
            "plan" => {
                let plan = make(&stage.bucket, stage.now, &stage.settings);
                assert_eq!(laws::check(&stage.bucket, stage.now, &stage.settings, &plan), [], "{plan:#?}");
                let lines = plan.items.iter().map(Item::to_string).chain(plan.held.iter().map(Held::to_string));
                for line in lines {
                    writeln!(out, "  {}", stage.named(line)).unwrap();
                }
                stage.plan = Some(plan);
            }
            "do" => {
                let plan = stage.plan.take().expect("a plan before it is done");
                let before: Vec<BlockId> = stage.bucket.blocks.keys().copied().collect();
                let (now, made) = (stage.now, &mut stage.made);
                apply(&mut stage.bucket, &plan, now, &stage.settings, &mut || {
                    *made += 1;
                    BlockId::from_parts(now as u64, u128::from(*made) << 32)
                });
                let new: Vec<BlockId> = stage.bucket.blocks.keys().copied().filter(|b| !before.contains(b)).collect();
                for id in new {
                    let name =
                        format!("N{}", id.to_bytes().iter().fold(0u128, |n, b| n << 8 | u128::from(*b)) as u64 >> 32);
                    let m = &stage.bucket.blocks[&id].meta;
                    writeln!(
                        out,
                        "  {name} = {}..{} {} level {}",
                        item::span(m.min_time),
                        item::span(m.max_time),
                        item::resolution(m.resolution()),
                        m.compaction.level
                    )
                    .unwrap();
                    stage.names.insert(id, name);
                }
            }
            other => panic!("no verb {other:?}: {line}"),
        }
    }
    out
}

impl Stage {
    fn setting(&mut self, word: &str) {
        let s = &mut self.settings;
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "merge" => s.merge = true,
            "replicas" => {
                s.merge = true;
                s.replica_labels = value.split(',').map(str::to_owned).collect();
            }
            "replicas-only" => s.replica_labels = value.split(',').map(str::to_owned).collect(),
            "raw" => s.retention.raw = time(value),
            "5m" => s.retention.five_minutes = time(value),
            "1h" => s.retention.one_hour = time(value),
            "max-index" => s.max_index_bytes = value.parse().unwrap(),
            "delete-delay" => s.delete_delay = time(value),
            "no-downsampling" => s.downsample = false,
            other => panic!("no setting {other:?}"),
        }
    }

    fn id(&mut self, name: &str, at: i64) -> BlockId {
        let id = BlockId::from_parts(at as u64, self.names.len() as u128);
        assert!(self.names.values().all(|n| n != name), "{name} twice");
        self.names.insert(id, name.to_owned());
        id
    }

    fn find(&self, name: &str) -> BlockId {
        *self.names.iter().find(|(_, n)| *n == name).unwrap_or_else(|| panic!("no block {name}")).0
    }

    /// Blocks `A`, or `A1…A4` one behind the other.
    fn block(&mut self, words: &[&str]) {
        let [names, range, rest @ ..] = words else { panic!("block <name> <from>..<to> …") };
        let (from, to) = range.split_once("..").expect("<from>..<to>");
        let (from, to) = (time(from), time(to));
        let names: Vec<String> = match names.split_once('…') {
            None => vec![(*names).to_owned()],
            Some((first, last)) => {
                let (stem, first) = first.split_at(first.len() - 1);
                let last: u32 = last.parse().unwrap();
                (first.parse::<u32>().unwrap()..=last).map(|i| format!("{stem}{i}")).collect()
            }
        };
        let step = (to - from) / names.len() as i64;
        for (i, name) in names.iter().enumerate() {
            let from = from + step * i as i64;
            self.one_block(name, from, from + step, rest);
        }
    }

    fn one_block(&mut self, name: &str, from: i64, to: i64, words: &[&str]) {
        let uploaded = words.iter().find_map(|w| w.strip_prefix("uploaded=")).map_or(to, time);
        let id = self.id(name, uploaded);
        let mut meta = BlockMeta::new(id, from, to);
        meta.stats = Stats { num_series: 99, ..Stats::default() };
        let mut thanos = Thanos { source: source::SIDECAR.to_owned(), ..Thanos::default() };
        thanos.labels = [("cluster".to_owned(), "eu".to_owned())].into();
        thanos.files = vec![File::new("index", 1)];
        let mut block = Block::new(meta.clone());
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "uploaded" => {}
                "labels" => {
                    let pair = |p: &str| p.split_once(':').map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap();
                    thanos.labels = value.split(',').map(pair).collect();
                }
                "res" => {
                    thanos.downsample.resolution = time(value);
                    thanos.source = source::COMPACTOR.to_owned();
                }
                "of" => {
                    let sources = value.split(',').map(|n| self.find(n)).collect();
                    meta.compaction = Section { level: 2, sources, ..Section::default() };
                    thanos.source = source::COMPACTOR.to_owned();
                }
                "index" => thanos.files = vec![File::new("index", value.parse().unwrap())],
                "no-index-size" => thanos.files.clear(),
                "tombstones" => meta.stats.num_tombstones = value.parse().unwrap(),
                "failed" => meta.compaction.failed = true,
                "damaged" => block.problems = vec!["chunks/000001 is missing".to_owned()],
                "marked" => {
                    let (ago, details) = value.split_once(':').unwrap_or((value, ""));
                    let at = (self.now - time(ago)).div_euclid(1000);
                    block.marks.deletion = Some(DeletionMark::new(id, at, details.replace('_', " ")));
                }
                "no-compact" => block.marks.no_compact = Some(NoCompactMark::new(id, 0, reason::MANUAL, "")),
                "no-downsample" => {
                    let why = if value.is_empty() { reason::MANUAL } else { value };
                    block.marks.no_downsample = Some(NoDownsampleMark::new(id, 0, why, ""));
                }
                other => panic!("a block is not {other:?}"),
            }
        }
        meta.thanos = Some(thanos);
        block.meta = Arc::new(meta);
        self.bucket.blocks.insert(id, block);
    }

    fn partial(&mut self, words: &[&str]) {
        let [name, rest @ ..] = words else { panic!("partial <name> …") };
        let id = self.id(name, 0);
        let mut partial = Partial { newest_ms: None, deletion: None, claimed: false };
        for word in rest {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "written" => partial.newest_ms = Some(self.now - time(value)),
                "marked" => {
                    partial.deletion = Some(DeletionMark::new(id, (self.now - time(value)).div_euclid(1000), ""));
                }
                "claimed" => partial.claimed = true,
                other => panic!("a partial block is not {other:?}"),
            }
        }
        self.bucket.partial.insert(id, partial);
    }

    fn named(&self, mut line: String) -> String {
        for (id, name) in &self.names {
            line = line.replace(&id.to_string(), name);
        }
        line
    }
}

/// `1d12h`, `90m`, `-2h`, `0` as ms.
fn time(text: &str) -> i64 {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |t| (-1, t));
    let mut total = 0;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or_else(|| panic!("no unit in {text}"));
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let size = match unit {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            other => panic!("no unit {other} in {text}"),
        };
        total += number.parse::<i64>().unwrap() * size;
        rest = tail;
    }
    sign * total
}

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let real = run(&text);
        if std::env::var_os("PANOPTES_UPDATE").is_some() {
            std::fs::write(&file, &real).unwrap();
        }
        assert_eq!(
            text,
            real,
            "{} (PANOPTES_UPDATE=1 writes what is planned; read it before you keep it)",
            file.display()
        );
    }
}
