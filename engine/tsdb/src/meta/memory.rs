//! What a meta takes in memory, so that readers of many can stop in time.

use super::{BlockMeta, File, Parent, Rewrite, Thanos};
use crate::json::Unknown;
use serde_json::Value;
use std::mem::size_of;

/// A map's node holds up to 11 entries, and as few as 5.
const NODE: usize = 11;
const LEAST: usize = 5;

impl BlockMeta {
    /// About how many bytes it takes, itself included; rather too many than too few.
    pub fn memory(&self) -> usize {
        let (stats, from) = (&self.stats, &self.compaction);
        let compaction = list(&from.sources)
            + list(&from.parents)
            + from.parents.iter().map(|p: &Parent| unknown(&p.unknown)).sum::<usize>()
            + texts(&from.hints)
            + unknown(&from.unknown);
        let thanos = self.thanos.as_ref().map_or(0, of_thanos);
        size_of::<Self>() + unknown(&self.unknown) + unknown(&stats.unknown) + compaction + thanos
    }
}

fn of_thanos(thanos: &Thanos) -> usize {
    let file = |f: &File| {
        let hash = f.hash.as_ref().map_or(0, |h| text(&h.function) + text(&h.value) + unknown(&h.unknown));
        text(&f.rel_path) + hash + unknown(&f.unknown)
    };
    let rewrite = |r: &Rewrite| {
        let deletions = r.deletions_applied.iter().map(|d| {
            let ranges = list(&d.intervals) + d.intervals.iter().map(|i| unknown(&i.unknown)).sum::<usize>();
            json(&d.matchers) + ranges + text(&d.request_id) + unknown(&d.unknown)
        });
        let relabels = list(&r.relabels_applied) + r.relabels_applied.iter().map(json).sum::<usize>();
        list(&r.sources) + list(&r.deletions_applied) + deletions.sum::<usize>() + relabels + unknown(&r.unknown)
    };
    let labels = map::<(String, String)>(thanos.labels.len())
        + thanos.labels.iter().map(|(name, value)| text(name) + text(value)).sum::<usize>();
    let rest = unknown(&thanos.unknown) + unknown(&thanos.downsample.unknown) + unknown(&thanos.index_stats.unknown);
    labels
        + text(&thanos.source)
        + texts(&thanos.segment_files)
        + list(&thanos.files)
        + thanos.files.iter().map(file).sum::<usize>()
        + list(&thanos.rewrites)
        + thanos.rewrites.iter().map(rewrite).sum::<usize>()
        + thanos.extensions.as_ref().map_or(0, json)
        + rest
}

fn text(text: &String) -> usize {
    match text.capacity() {
        0 => 0,
        n => n.max(8) + 8,
    }
}

fn texts(all: &Vec<String>) -> usize {
    list(all) + all.iter().map(text).sum::<usize>()
}

fn list<T>(list: &Vec<T>) -> usize {
    list.capacity() * size_of::<T>()
}

fn map<T>(len: usize) -> usize {
    if len == 0 { 0 } else { len.div_ceil(LEAST) * (NODE * size_of::<T>() + 16) }
}

fn unknown(fields: &Unknown) -> usize {
    map::<(String, Value)>(fields.len()) + fields.iter().map(|(k, v)| text(k) + json(v)).sum::<usize>()
}

/// Beside the value itself.
fn json(value: &Value) -> usize {
    match value {
        Value::String(s) => text(s),
        Value::Array(items) => list(items) + items.iter().map(json).sum::<usize>(),
        Value::Object(fields) => unknown(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
