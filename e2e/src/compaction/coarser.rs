//! T15 and T16: which blocks get coarser copies, and what is in them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::http;
use tsdb::block::Block;
use tsdb::chunk::aggregate::{Aggregate, Container};
use tsdb::chunk::{Columns, Encoding, floats};
use tsdb::disk::RealDisk;

use super::{DAY, HOUR, Shelf, add, blocks, idle, quick, window};
use crate::fleet::Stack;
use crate::made::{STEP_MS, Wish, scattered};
use crate::say;
use crate::stories::world::{CHANGE, eventually};

const FIVE_MINUTES: i64 = 300_000;
const AN_HOUR: i64 = 3_600_000;
/// A counter that begins anew, one that never does, and a gauge.
const SERIES: usize = 3;

/// Value of a sample; see [`SERIES`].
fn value(series: usize, sample: usize) -> f64 {
    match series {
        0 => (sample % 1_000) as f64 * 2.5,
        1 => sample as f64 * 0.25,
        _ => scattered(series, sample),
    }
}

fn wish<'a>(stack: &'a Stack, replica: &'a str, metric: &'a str, start_ms: i64, span_ms: i64) -> Wish<'a> {
    Wish { cluster: &stack.name, replica, metric, prefix: "d", series: SERIES, start_ms, span_ms, value }
}

/// The resolutions of a replica's blocks, with the widths in hours of those blocks.
fn resolutions(shelf: &dyn Shelf, replica: &str) -> anyhow::Result<Vec<(i64, i64)>> {
    let mut found: Vec<_> =
        blocks(shelf, replica)?.iter().map(|block| (block.resolution, (block.max - block.min) / HOUR)).collect();
    found.sort_unstable();
    Ok(found)
}

/// T15: of a block that spans 48 hours there is one of 5 minutes, of one that spans 38 there is none; and it holds what raw data says.
///
/// # Errors
/// When anything of it is not so.
pub fn five_minutes(stack: &Stack, shelf: &dyn Shelf) -> anyhow::Result<()> {
    let (start, dir) = (window(2 * DAY, 4 * DAY), tempfile::tempdir()?);
    let wide = wish(stack, "seed-48h", "five_minutes", start, 48 * HOUR);
    let narrow = wish(stack, "seed-38h", "five_minutes", start, 38 * HOUR);
    add(shelf, dir.path(), &narrow, 15)?;
    add(shelf, dir.path(), &wide, 16)?;
    stack.patch(&json!({"compactor": on()}))?;
    eventually("a block of 5 minutes", CHANGE, || {
        let found = resolutions(shelf, wide.replica)?;
        anyhow::ensure!(found.contains(&(FIVE_MINUTES, 48)), "there are {found:?}");
        Ok(())
    })?;
    idle(stack)?;
    anyhow::ensure!(resolutions(shelf, wide.replica)? == [(0, 48), (FIVE_MINUTES, 48)], "more than that was made");
    anyhow::ensure!(resolutions(shelf, narrow.replica)? == [(0, 38)], "38 hours were downsampled");

    let coarse = blocks(shelf, wide.replica)?.into_iter().find(|block| block.resolution == FIVE_MINUTES);
    let block = shelf.fetch(&coarse.context("it is gone")?.id, dir.path())?;
    as_recomputed(&block, &wide, FIVE_MINUTES)?;
    say::step(&format!("  {}: 48h have a copy of 5m, 38h have none; its aggregates are right", stack.name));
    Ok(())
}

/// T16: of a block of 14 days there is one of an hour, of one of 8 days only one of 5 minutes; ranges that are read from it are as
/// those from raw data; and without a word in the spec all of it is kept.
///
/// # Errors
/// When anything of it is not so.
pub fn an_hour(stack: &Stack, shelf: &dyn Shelf) -> anyhow::Result<()> {
    let (start, dir) = (window(14 * DAY, 0), tempfile::tempdir()?);
    let wide = wish(stack, "seed-14d", "an_hour", start, 14 * DAY);
    let narrow = wish(stack, "seed-8d", "an_hour", start, 8 * DAY);
    add(shelf, dir.path(), &narrow, 17)?;
    add(shelf, dir.path(), &wide, 18)?;
    stack.patch(&json!({"compactor": on()}))?;
    eventually("a block of an hour", CHANGE, || {
        let found = resolutions(shelf, wide.replica)?;
        anyhow::ensure!(found == [(0, 336), (FIVE_MINUTES, 336), (AN_HOUR, 336)], "there are {found:?}");
        Ok(())
    })?;
    idle(stack)?;
    let found = resolutions(shelf, narrow.replica)?;
    anyhow::ensure!(found == [(0, 192), (FIVE_MINUTES, 192)], "8 days have {found:?}");

    let coarse = blocks(shelf, wide.replica)?.into_iter().find(|block| block.resolution == AN_HOUR);
    let block = shelf.fetch(&coarse.context("it is gone")?.id, dir.path())?;
    as_recomputed(&block, &wide, AN_HOUR)?;
    // What people ask, of both.
    // Of a counter: where a chunk of aggregates ends it has a sample more, so that Prometheus guesses less beyond its samples.
    for (function, series, nearly) in
        [("avg_over_time", "d-00002", 0.02), ("max_over_time", "d-00002", 0.02), ("rate", "d-00001", 0.1)]
    {
        let query = format!("{function}(an_hour{{prometheus_replica=\"seed-14d\",instance=\"{series}\"}}[6h])");
        let of = |resolution: &str| range(stack, &query, start + DAY, start + 13 * DAY, resolution);
        eventually("nearly the same from an hour as from raw data", CHANGE, || {
            let (coarse, raw) = (of("1h")?, of("0s")?);
            // Averages differ a little, since an hour begins a sample earlier; else both are of raw data.
            anyhow::ensure!(function != "avg_over_time" || coarse != raw, "the store has not taken up the hours yet");
            near(&coarse, &raw, nearly)
        })
        .with_context(|| query.clone())?;
    }
    let set = stack.json(&["get", "statefulset", &format!("{}-compact", stack.name)])?;
    let args = set["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    anyhow::ensure!(
        !args.contains("--retention."),
        "something is not kept for ever, and nobody asked for that: {args}"
    );
    say::step(&format!("  {}: 14 days have a copy of 1h, 8 days have none; ranges agree", stack.name));
    Ok(())
}

fn on() -> Value {
    let mut compactor = quick();
    compactor["enabled"] = json!(true);
    compactor
}

/// By labels: times and values.
type Matrix = BTreeMap<String, Vec<(i64, f64)>>;

fn range(stack: &Stack, query: &str, from: i64, to: i64, resolution: &str) -> anyhow::Result<Matrix> {
    let path = format!(
        "/api/v1/query_range?query={}&start={}&end={}&step=21600&dedup=false&max_source_resolution={resolution}",
        http::encode(query),
        from / 1000,
        to / 1000
    );
    let answer = stack.get_query(&path)?;
    let rows = answer["data"]["result"].as_array().with_context(|| format!("it says {answer}"))?;
    let sample = |sample: &Value| {
        let value = sample[1].as_str().context("a sample without a value")?.parse::<f64>()?;
        Ok((sample[0].as_f64().context("a sample without a time")? as i64, value))
    };
    rows.iter()
        .map(|row| {
            let values = row["values"].as_array().into_iter().flatten().map(sample).collect::<anyhow::Result<_>>()?;
            Ok((row["metric"].to_string(), values))
        })
        .collect()
}

/// Whether all are within a part of the value.
fn near(coarse: &Matrix, raw: &Matrix, nearly: f64) -> anyhow::Result<()> {
    anyhow::ensure!(!raw.is_empty() && coarse.keys().eq(raw.keys()), "series differ: {coarse:?} and {raw:?}");
    for (series, raw) in raw {
        let coarse = &coarse[series];
        anyhow::ensure!(
            coarse.len() == raw.len() && raw.len() > 40,
            "{series}: {} and {} points",
            coarse.len(),
            raw.len()
        );
        for ((at, a), (then, b)) in coarse.iter().zip(raw) {
            anyhow::ensure!(
                at == then && (a - b).abs() <= nearly * b.abs(),
                "{series} at {at}: {a}, from raw data {b}"
            );
        }
    }
    Ok(())
}

/// Aggregates of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Window {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
    /// How much the counter has grown since the first sample, resets taken out.
    grown: f64,
}

/// Fails unless a block holds exactly the aggregates of what was wished for.
fn as_recomputed(block: &Path, wish: &Wish<'_>, resolution: i64) -> anyhow::Result<()> {
    let block = Block::open(&RealDisk, block)?;
    anyhow::ensure!(block.meta().resolution() == resolution, "it is of {} ms", block.meta().resolution());
    let mut scan = block.scan()?;
    let mut seen = 0;
    while let Some(series) = scan.next() {
        let series = series?;
        let instance = series.labels.get("instance").context("no instance")?;
        let n: usize = instance.rsplit('-').next().unwrap_or_default().parse()?;
        let mut found: BTreeMap<i64, Window> = BTreeMap::new();
        let mut grown = Growth::default();
        for meta in series.chunks {
            let (encoding, bytes) = block.chunk_bytes(meta)?;
            anyhow::ensure!(encoding == Encoding::Aggregate, "a chunk of {encoding:?}");
            let container = Container::parse(&bytes)?;
            let mut each = |aggregate, put: &mut dyn FnMut(&mut Window, f64)| -> anyhow::Result<()> {
                let (encoding, bytes) = container.get(aggregate).context("an aggregate is missing")?;
                let mut columns = Columns::default();
                floats(*encoding, bytes, &mut columns)?;
                columns.iter().for_each(|(t, v)| put(found.entry(t.div_euclid(resolution)).or_default(), v));
                Ok(())
            };
            each(Aggregate::Count, &mut |w, v| w.count = v)?;
            each(Aggregate::Sum, &mut |w, v| w.sum = v)?;
            each(Aggregate::Min, &mut |w, v| w.min = v)?;
            each(Aggregate::Max, &mut |w, v| w.max = v)?;
            let (encoding, bytes) = container.get(Aggregate::Counter).context("no counter")?;
            let mut columns = Columns::default();
            floats(*encoding, bytes, &mut columns)?;
            grown.chunk(&columns, resolution, &mut found);
        }
        let wanted = recomputed(wish, n, resolution);
        anyhow::ensure!(found.len() == wanted.len(), "{instance}: {} of {} windows", found.len(), wanted.len());
        for ((at, is), (_, should)) in found.iter().zip(&wanted) {
            let same = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
            let all = same(is.count, should.count)
                && same(is.sum, should.sum)
                && same(is.min, should.min)
                && same(is.max, should.max)
                && same(is.grown, should.grown);
            anyhow::ensure!(all, "{instance}, window {at}: {is:?} instead of {should:?}");
        }
        seen += 1;
    }
    anyhow::ensure!(seen == wish.series, "{seen} series");
    Ok(())
}

/// Reads a counter from chunk to chunk: each begins with the first true value, and ends with the last one, at the time of the
/// running total before it.
#[derive(Default)]
struct Growth {
    /// The last true value.
    last: Option<f64>,
    total: f64,
}

impl Growth {
    fn chunk(&mut self, columns: &Columns, resolution: i64, found: &mut BTreeMap<i64, Window>) {
        let all: Vec<(i64, f64)> = columns.iter().collect();
        let [(_, first), totals @ .., (_, last)] = all.as_slice() else { return };
        if let Some(before) = self.last {
            self.total += if *first < before { *first } else { first - before };
        }
        for (t, running) in totals {
            found.entry(t.div_euclid(resolution)).or_default().grown = self.total + (running - first);
        }
        self.total += totals.last().map_or(0.0, |(_, running)| running - first);
        self.last = Some(*last);
    }
}

fn recomputed(wish: &Wish<'_>, series: usize, resolution: i64) -> BTreeMap<i64, Window> {
    let mut windows: BTreeMap<i64, Window> = BTreeMap::new();
    let (mut last, mut grown) = (None, 0.0);
    for sample in 0..usize::try_from(wish.span_ms / STEP_MS).unwrap_or_default() {
        let v = (wish.value)(series, sample);
        if let Some(last) = last {
            grown += if v < last { v } else { v - last };
        }
        last = Some(v);
        let t = wish.start_ms + i64::try_from(sample).unwrap_or_default() * STEP_MS;
        let new = Window { min: f64::INFINITY, max: f64::NEG_INFINITY, ..Window::default() };
        let window = windows.entry(t.div_euclid(resolution)).or_insert(new);
        window.count += 1.0;
        window.sum += v;
        window.min = window.min.min(v);
        window.max = window.max.max(v);
        window.grown = grown;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::LAB;
    use crate::made::own;
    use model::BlockId;

    /// What the stories look for in pods, in one process: and that they would see it if it were wrong.
    #[test]
    fn what_downsampling_makes_is_what_is_recomputed() {
        let dir = tempfile::tempdir().unwrap();
        let stack = Stack { cluster: LAB, namespace: "n".to_owned(), name: "n".to_owned() };
        let wide = wish(&stack, "r", "m", 1_699_488_000_000, 48 * HOUR);
        let raw = Block::open(&RealDisk, &own(dir.path(), &wide, 1).unwrap()).unwrap();
        let metas = [FIVE_MINUTES, AN_HOUR].iter().zip(1u128..).map(|(resolution, n)| {
            tsdb::plan::downsampled(BlockId::from_parts(1_700_000_000_000, n), raw.meta(), *resolution)
        });
        let metas: Vec<_> = metas.collect();
        let folders: Vec<_> = metas.iter().map(|meta| dir.path().join(meta.id.to_string())).collect();
        tsdb::downsample::block(&RealDisk, &raw, dir.path(), metas).unwrap();
        as_recomputed(&folders[0], &wide, FIVE_MINUTES).unwrap();
        as_recomputed(&folders[1], &wide, AN_HOUR).unwrap();
        let other = Wish { value: |series, sample| value(series, sample) + 1.0, ..wide };
        let error = as_recomputed(&folders[0], &other, FIVE_MINUTES).unwrap_err().to_string();
        assert!(error.contains("instead of"), "{error}");
        // A counter that is off by one reset only.
        let other = Wish { value: |s, n| if s == 0 { (n % 1_001) as f64 * 2.5 } else { value(s, n) }, ..wide };
        assert!(as_recomputed(&folders[0], &other, FIVE_MINUTES).is_err());
    }
}
