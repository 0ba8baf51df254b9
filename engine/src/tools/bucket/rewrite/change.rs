//! A block without some of its series or samples, or with other labels. Labels of all series are held, chunks of one series at a time.

use crate::storage::relabel::Relabel;
use anyhow::Context as _;
use model::Labels;
use model::matcher::Matcher;
use promql::parse::parse_metric_selector;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use tsdb::BlockMeta;
use tsdb::block::{Block, Writer, Written};
use tsdb::chunk::{Chunk, Encoding, Recoder, exact};
use tsdb::disk::Disk;
use tsdb::meta::{self, DeletedRange};
use tsdb::segment::NewChunk;
use tsdb::series::{Blocks, Series, join};

/// What is to go, as people write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    matchers: String,
    #[serde(default)]
    intervals: Vec<AskedInterval>,
    #[serde(default)]
    request_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedInterval {
    mint: i64,
    maxt: i64,
}

/// Time ranges in ms, both ends inclusive; sorted, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Intervals(Vec<(i64, i64)>);

impl Intervals {
    /// Adds a range; ranges that touch become one.
    pub(super) fn add(&mut self, min: i64, max: i64) {
        self.0.push((min, max));
        self.0.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(self.0.len());
        for (min, max) in self.0.drain(..) {
            match joined.last_mut() {
                Some(last) if min <= last.1.saturating_add(1) => last.1 = last.1.max(max),
                _ => joined.push((min, max)),
            }
        }
        self.0 = joined;
    }

    fn holds(&self, t: i64) -> bool {
        self.0.iter().any(|(min, max)| (*min..=*max).contains(&t))
    }

    /// Go's way to print them.
    fn go(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|(min, max)| format!("{{{min} {max}}}")).collect();
        format!("[{}]", all.join(" "))
    }
}

/// Series that are to go, whole or in part.
#[derive(Clone, Debug)]
pub(super) struct Deletion {
    matchers: Vec<Matcher>,
    intervals: Intervals,
    request_id: String,
}

impl Deletion {
    /// Reads the YAML.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(yaml: &str) -> anyhow::Result<Vec<Self>> {
        let asked: Vec<Asked> = args::yaml::read(yaml)?;
        asked.into_iter().enumerate().map(|(i, a)| Self::of(a).with_context(|| format!("deletion {}", i + 1))).collect()
    }

    fn of(asked: Asked) -> anyhow::Result<Self> {
        let matchers = parse_metric_selector(&asked.matchers)
            .map_err(|e| anyhow::anyhow!("matchers {:?}: {e}", asked.matchers))?;
        let mut intervals = Intervals::default();
        for AskedInterval { mint, maxt } in asked.intervals {
            anyhow::ensure!(mint <= maxt, "an interval from {mint} to {maxt} holds nothing: swap them");
            intervals.add(mint, maxt);
        }
        Ok(Self { matchers, intervals, request_id: asked.request_id })
    }

    /// Whether it is about a series: all matchers match, each a label that is there, as in Thanos.
    fn is_about(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| {
            let value = labels.value(&matcher.name);
            !value.is_empty() && matcher.matches(value)
        })
    }

    /// As meta.json tells it: matchers in Go's form.
    pub(super) fn written(&self) -> meta::Deletion {
        let matcher = |m: &Matcher| {
            let kind = match m.op.as_str() {
                "=" => 0,
                "!=" => 1,
                "=~" => 2,
                _ => 3,
            };
            serde_json::json!({"Type": kind, "Name": m.name, "Value": m.value})
        };
        meta::Deletion {
            matchers: self.matchers.iter().map(matcher).collect(),
            intervals: self
                .intervals
                .0
                .iter()
                .map(|(min, max)| DeletedRange { min_time: *min, max_time: *max, unknown: Default::default() })
                .collect(),
            request_id: self.request_id.clone(),
            unknown: Default::default(),
        }
    }
}

/// What of a series is to go.
enum Fate {
    Whole,
    Parts(Intervals),
}

fn fate(labels: &Labels, deletions: &[Deletion]) -> Fate {
    let mut parts = Intervals::default();
    for deletion in deletions.iter().filter(|deletion| deletion.is_about(labels)) {
        if deletion.intervals.0.is_empty() {
            return Fate::Whole;
        }
        deletion.intervals.0.iter().for_each(|(min, max)| parts.add(*min, *max));
    }
    Fate::Parts(parts)
}

/// A series to be: its labels, and where its chunks are.
struct Planned {
    labels: Labels,
    references: Vec<u32>,
    /// Its times, as the index tells them.
    range: Option<(i64, i64)>,
}

/// What is done to a block.
pub(super) struct Change {
    /// First, as in Thanos.
    pub(super) relabel: Option<Relabel>,
    /// Then, by the labels that series have by then.
    pub(super) deletions: Vec<Deletion>,
}

impl Change {
    /// Makes the new block in a folder of `parent`, or with `None` only tells. `log` takes a line per change, as Thanos writes it;
    /// `progress` is told series done, and all. `None` if nothing is left.
    ///
    /// # Errors
    /// When the block can't be read, the new one can't be written, or a part of a downsampled chunk is to go.
    pub(super) fn make(
        &self,
        disk: &dyn Disk,
        block: &Block,
        into: Option<(&Path, BlockMeta)>,
        log: &mut dyn Write,
        progress: &mut dyn FnMut(usize, usize),
    ) -> anyhow::Result<Option<Written>> {
        let planned = self.plan(block, log)?;
        let mut writer = match into {
            Some((parent, meta)) if !planned.is_empty() => Some(Writer::create(disk, parent, meta)?),
            _ => None,
        };
        if let Some(writer) = &mut writer {
            let symbols: BTreeSet<&str> =
                planned.iter().flat_map(|p| p.labels.iter().flat_map(|(name, value)| [name, value])).collect();
            symbols.into_iter().try_for_each(|symbol| writer.add_symbol(symbol))?;
        }
        let mut series = 0u64;
        for (done, plan) in planned.iter().enumerate() {
            let chunks = self.chunks(block, plan, log)?;
            if let Some(writer) = writer.as_mut().filter(|_| !chunks.is_empty()) {
                let new: Vec<NewChunk<'_>> = chunks
                    .iter()
                    .map(|c| NewChunk { encoding: c.encoding, data: &c.data, min_time: c.min_t, max_time: c.max_t })
                    .collect();
                writer.add_series(&plan.labels, &new)?;
                series += 1;
            }
            progress(done + 1, planned.len());
        }
        log.flush()?;
        writer.filter(|_| series > 0).map(|writer| Ok(writer.finish()?)).transpose()
    }

    /// The series to be, sorted; those that go as a whole are told, and those that change their labels.
    fn plan(&self, block: &Block, log: &mut dyn Write) -> anyhow::Result<Vec<Planned>> {
        let mut planned: Vec<Planned> = Vec::new();
        let mut scan = block.scan()?;
        while let Some(series) = scan.next() {
            let series = series?;
            let range = series.chunks.iter().fold(None, |range: Option<(i64, i64)>, c| {
                Some(range.map_or((c.min_time, c.max_time), |(a, b)| (a.min(c.min_time), b.max(c.max_time))))
            });
            let labels = match &self.relabel {
                None => series.labels,
                Some(relabel) => match relabel.apply(&series.labels) {
                    None => {
                        deleted(log, &series.labels, range)?;
                        continue;
                    }
                    Some(new) => {
                        if new != series.labels {
                            writeln!(log, "Relabelled {} {new}", series.labels)?;
                        }
                        new
                    }
                },
            };
            planned.push(Planned { labels, references: vec![series.reference], range });
        }
        if self.relabel.is_some() {
            planned.sort_by(|a, b| a.labels.cmp(&b.labels));
            planned.dedup_by(|next, first| {
                let same = next.labels == first.labels;
                if same {
                    first.references.append(&mut next.references);
                    first.range =
                        [first.range, next.range].into_iter().flatten().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
                }
                same
            });
        }
        let mut kept = Vec::with_capacity(planned.len());
        for plan in planned {
            match fate(&plan.labels, &self.deletions) {
                Fate::Whole => deleted(log, &plan.labels, plan.range)?,
                Fate::Parts(_) => kept.push(plan),
            }
        }
        Ok(kept)
    }

    /// The chunks of a series, without what is to go.
    fn chunks(&self, block: &Block, plan: &Planned, log: &mut dyn Write) -> anyhow::Result<Vec<Chunk>> {
        let mut parts = Vec::with_capacity(plan.references.len());
        for series in Blocks::selected(block, &plan.references) {
            let Series { chunks, .. } = series?;
            parts.push(chunks);
        }
        let chunks = match parts.len() {
            0 | 1 => parts.pop().unwrap_or_default(),
            _ => join(parts, false).with_context(|| plan.labels.to_string())?,
        };
        let Fate::Parts(gone) = fate(&plan.labels, &self.deletions) else { return Ok(Vec::new()) };
        if gone.0.is_empty() {
            return Ok(chunks);
        }
        let (mut left, mut told) = (Vec::with_capacity(chunks.len()), Intervals::default());
        for chunk in chunks {
            let touching = || gone.0.iter().filter(|(min, max)| *min <= chunk.max_t && chunk.min_t <= *max);
            for (min, max) in touching() {
                told.add((*min).max(chunk.min_t), (*max).min(chunk.max_t));
            }
            if touching().any(|(min, max)| *min <= chunk.min_t && chunk.max_t <= *max) {
                continue;
            }
            match touching().next() {
                None => left.push(chunk),
                Some(_) => left.extend(without(&chunk, &gone).with_context(|| plan.labels.to_string())?),
            }
        }
        if !told.0.is_empty() {
            writeln!(log, "Deleted {} {}", plan.labels, told.go())?;
        }
        Ok(left)
    }
}

fn deleted(log: &mut dyn Write, labels: &Labels, range: Option<(i64, i64)>) -> anyhow::Result<()> {
    let mut all = Intervals::default();
    if let Some((min, max)) = range {
        all.add(min, max);
    }
    Ok(writeln!(log, "Deleted {labels} {}", all.go())?)
}

/// The samples of a chunk that stay. (Thanos can do that with floats only.)
fn without(chunk: &Chunk, gone: &Intervals) -> anyhow::Result<Vec<Chunk>> {
    anyhow::ensure!(
        chunk.encoding != Encoding::Aggregate,
        "a part of a downsampled chunk ({} to {}) can't be deleted: delete the whole series, or choose intervals that hold whole \
         chunks",
        chunk.min_t,
        chunk.max_t
    );
    let mut recoder = Recoder::new(matches!(chunk.encoding, Encoding::Xor2));
    for sample in exact(chunk.encoding, chunk.data.clone())? {
        let sample = sample?;
        if !gone.holds(sample.t) {
            recoder.push(&sample)?;
        }
    }
    Ok(recoder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::relabel::Use;
    use model::BlockId;
    use tsdb::disk::RealDisk;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut all = Intervals::default();
        for (min, max) in [(10, 20), (1, 2), (21, 25), (3, 3), (24, 40)] {
            all.add(min, max);
        }
        assert_eq!(all.go(), "[{1 3} {10 40}]");
        assert!(all.holds(3) && !all.holds(4) && all.holds(40));
        assert_eq!(Intervals::default().go(), "[]");
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let yaml = "- matchers: '{__name__=\"up\", a=~\"b|c\"}'\n  intervals: [{mint: 5, maxt: 9}]\n  request_id: r\n- matchers: '{x!=\"\"}'\n";
        let all = Deletion::parse(yaml).unwrap();
        let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        assert!(all[0].is_about(&labels(&[("__name__", "up"), ("a", "c")])));
        assert!(!all[0].is_about(&labels(&[("__name__", "up")])));
        assert!(all[1].is_about(&labels(&[("x", "y")])) && !all[1].is_about(&labels(&[("y", "y")])));
        let told = serde_json::to_value(all[0].written()).unwrap();
        assert_eq!(
            told,
            serde_json::json!({"matchers": [{"Type": 0, "Name": "__name__", "Value": "up"}, {"Type": 2, "Name": "a", "Value": "b|c"}],
                "intervals": [{"Mint": 5, "Maxt": 9}], "request_id": "r"})
        );
        for (yaml, says) in [
            ("- matchers: 'up{'", "deletion 1"),
            ("- matchers: '{a=\"b\"}'\n  intervals: [{mint: 9, maxt: 5}]", "swap them"),
            ("- matcher: '{a=\"b\"}'", "matcher"),
        ] {
            let error = format!("{:#}", Deletion::parse(yaml).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    /// Three series of five samples each; 0, 10, …, 40.
    fn block(dir: &Path) -> Block {
        let mut meta = BlockMeta::new(BlockId::from_parts(1, 1), 0, 50);
        meta.thanos = Some(Default::default());
        let mut writer = Writer::create(&RealDisk, dir, meta).unwrap();
        for symbol in ["__name__", "i", "up", "x", "y", "z"] {
            writer.add_symbol(symbol).unwrap();
        }
        for (n, i) in ["x", "y", "z"].into_iter().enumerate() {
            let mut recoder = Recoder::new(false);
            (0..5).for_each(|s| recoder.push_float(s * 10, (n * 100) as f64 + s as f64).unwrap());
            let chunks = recoder.finish();
            let new = NewChunk { encoding: chunks[0].encoding, data: &chunks[0].data, min_time: 0, max_time: 40 };
            writer.add_series(&Labels::from_pairs([("__name__", "up"), ("i", i)]), &[new]).unwrap();
        }
        Block::open(&RealDisk, &writer.finish().unwrap().dir).unwrap()
    }

    fn after(change: &Change) -> (Vec<(String, Vec<i64>)>, String) {
        let dir = tempfile::tempdir().unwrap();
        let block = block(dir.path());
        let meta = BlockMeta::new(BlockId::from_parts(2, 2), 0, 50);
        let (mut log, mut dry) = (Vec::new(), Vec::new());
        let mut seen = (0, 0);
        let made =
            change.make(&RealDisk, &block, Some((dir.path(), meta)), &mut log, &mut |a, b| seen = (a, b)).unwrap();
        assert!(change.make(&RealDisk, &block, None, &mut dry, &mut |_, _| {}).unwrap().is_none());
        assert_eq!(dry, log, "a trial tells the same");
        assert_eq!(seen.0, seen.1);
        let log = String::from_utf8(log).unwrap();
        let Some(written) = made else { return (Vec::new(), log) };
        let block = Block::open(&RealDisk, &written.dir).unwrap();
        let times = |chunks: Vec<Chunk>| {
            chunks.iter().flat_map(|c| exact(c.encoding, c.data.clone()).unwrap()).map(|s| s.unwrap().t).collect()
        };
        (
            Blocks::all(&block).unwrap().map(|s| s.unwrap()).map(|s| (s.labels.to_string(), times(s.chunks))).collect(),
            log,
        )
    }

    #[test]
    fn series_and_samples_go_and_labels_change() {
        let deletions = Deletion::parse(
            "- matchers: '{i=\"x\"}'\n- matchers: '{i=\"y\"}'\n  intervals: [{mint: 5, maxt: 10}, {mint: 35, maxt: 99}]\n",
        )
        .unwrap();
        let (left, log) = after(&Change { relabel: None, deletions: deletions.clone() });
        let all = vec![0, 10, 20, 30, 40];
        assert_eq!(
            left,
            [(r#"{__name__="up", i="y"}"#.into(), vec![0, 20, 30]), (r#"{__name__="up", i="z"}"#.into(), all.clone())]
        );
        assert_eq!(
            log,
            "Deleted {__name__=\"up\", i=\"x\"} [{0 40}]\nDeleted {__name__=\"up\", i=\"y\"} [{5 10} {35 40}]\n"
        );

        // Two become one, and what was deleted before is deleted by the new name.
        let relabel =
            Relabel::parse("- {source_labels: [i], regex: 'y|z', target_label: i, replacement: w}", Use::Change)
                .unwrap();
        let deletions = Deletion::parse("- matchers: '{i=\"w\"}'\n  intervals: [{mint: 0, maxt: 0}]").unwrap();
        let (left, log) = after(&Change { relabel: Some(relabel), deletions });
        assert_eq!(
            left,
            [(r#"{__name__="up", i="w"}"#.into(), all[1..].to_vec()), (r#"{__name__="up", i="x"}"#.into(), all)]
        );
        assert!(log.starts_with("Relabelled {__name__=\"up\", i=\"y\"} {__name__=\"up\", i=\"w\"}\n"), "{log}");
        assert!(log.ends_with("Deleted {__name__=\"up\", i=\"w\"} [{0 0}]\n"), "{log}");

        let all = Deletion::parse("- matchers: '{__name__=\"up\"}'").unwrap();
        let (left, log) = after(&Change { relabel: None, deletions: all });
        assert!(left.is_empty() && log.lines().count() == 3, "{log}");
    }
}
