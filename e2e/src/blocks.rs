//! Blocks in a bucket, read with the engine's own reader.

use std::path::Path;

use anyhow::Context as _;
use model::Labels;
use model::sample::is_stale;
use serde_json::Value;
use testkit::gcs::Remote;
use tsdb::block::{Block, health};
use tsdb::chunk::{Columns, floats};
use tsdb::disk::RealDisk;

use crate::fleet::Stack;

/// What samples there are. Markers of series that went stale don't count: no query sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Held {
    /// How many, of all series.
    pub samples: u64,
    /// Sum of the values of the series in [`SUMMED`].
    pub sum: f64,
}

/// Metrics that every Prometheus has of itself, with values that are numbers.
pub const SUMMED: [&str; 4] =
    ["up", "scrape_samples_scraped", "process_cpu_seconds_total", "prometheus_tsdb_head_samples_appended_total"];

/// Fetches a block and counts what it holds.
///
/// # Errors
/// When an object is missing, or the reader or the health check finds something wrong.
pub fn held(server: &Remote, bucket: &str, id: &str) -> anyhow::Result<Held> {
    let dir = tempfile::tempdir()?;
    for name in server.names(bucket)?.iter().filter(|name| name.starts_with(&format!("{id}/"))) {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().context("a name without a folder")?)?;
        std::fs::write(file, server.object(bucket, name)?)?;
    }
    count(&dir.path().join(id)).with_context(|| format!("block {id} in the bucket {bucket}"))
}

/// Counts what a block's folder holds.
///
/// # Errors
/// When the reader or the health check finds something wrong.
pub fn count(dir: &Path) -> anyhow::Result<Held> {
    let report = health::check(&RealDisk, dir, &health::Options::default());
    anyhow::ensure!(report.is_healthy(), "it is damaged: {:?}", report.problems);
    let block = Block::open(&RealDisk, dir)?;
    let (mut held, mut columns) = (Held::default(), Columns::default());
    let mut scan = block.scan()?;
    while let Some(series) = scan.next() {
        let series = series?;
        let summed = is_summed(&series.labels);
        for meta in series.chunks {
            let (encoding, bytes) = block.chunk_bytes(meta)?;
            columns.clear();
            floats(encoding, &bytes, &mut columns)?;
            for value in columns.values.iter().filter(|value| !is_stale(**value)) {
                held.samples += 1;
                held.sum += if summed { *value } else { 0.0 };
            }
        }
    }
    Ok(held)
}

fn is_summed(labels: &Labels) -> bool {
    labels.get("__name__").is_some_and(|name| SUMMED.contains(&name))
}

/// What a Prometheus itself says that it has from `min` to before `max`, milliseconds since the epoch.
///
/// # Errors
/// When it doesn't answer.
pub fn local(stack: &Stack, replica: usize, min: i64, max: i64) -> anyhow::Result<Held> {
    counted(&stack.query_prometheus(replica, &all("__name__!=\"\"", min, max), "")?)
}

/// What the querier says that this replica had from `min` to before `max`, milliseconds since the epoch.
///
/// # Errors
/// When it doesn't answer.
pub fn asked(stack: &Stack, replica: &str, min: i64, max: i64) -> anyhow::Result<Held> {
    let selector = format!("__name__!=\"\",prometheus_replica={replica:?}");
    counted(&stack.query(&all(&selector, min, max), "&dedup=false")?)
}

/// Every sample from `min` to before `max`: a range selector is open at its left end.
fn all(selector: &str, min: i64, max: i64) -> String {
    let at = max - 1;
    format!("{{{selector}}}[{}ms] @ {}.{:03}", max - min, at.div_euclid(1000), at.rem_euclid(1000))
}

fn counted(rows: &Value) -> anyhow::Result<Held> {
    let mut held = Held::default();
    for row in rows.as_array().context("not a matrix")? {
        let summed = row["metric"]["__name__"].as_str().is_some_and(|name| SUMMED.contains(&name));
        for sample in row["values"].as_array().into_iter().flatten() {
            let value: f64 = sample[1].as_str().context("a sample without a value")?.parse()?;
            held.samples += 1;
            held.sum += if summed { value } else { 0.0 };
        }
    }
    Ok(held)
}

/// Fails unless both have the same samples. Sums may differ in their last digits: they are added up in another order.
///
/// # Errors
/// With both.
pub fn same(bucket: Held, local: Held) -> anyhow::Result<()> {
    let near = (bucket.sum - local.sum).abs() <= 1e-9 * local.sum.abs();
    anyhow::ensure!(
        bucket.samples == local.samples && bucket.samples > 0 && near,
        "the bucket has {bucket:?}, Prometheus {local:?}"
    );
    Ok(())
}
