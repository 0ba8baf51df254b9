//! Blocks of days that nobody has lived through: by our own writer, and by promtool, a stranger's; and their way into a bucket.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use model::{BlockId, Labels};
use serde_json::json;
use testkit::gcs::Remote;
use testkit::peers;
use tsdb::block::Writer;
use tsdb::chunk::Recoder;
use tsdb::disk::RealDisk;
use tsdb::meta::BlockMeta;
use tsdb::segment::NewChunk;

/// The span of a block as Prometheus cuts it, ms.
pub const SPAN_MS: i64 = 7_200_000;
/// Between two samples, ms.
pub const STEP_MS: i64 = 15_000;

/// What a block should hold: one metric, its series told apart by `instance="PREFIX-N"`.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Value of the external label `cluster`.
    pub cluster: &'a str,
    /// Value of the external label `prometheus_replica`.
    pub replica: &'a str,
    /// Name of the metric.
    pub metric: &'a str,
    /// What stands before the number in `instance`.
    pub prefix: &'a str,
    /// How many series.
    pub series: usize,
    /// Begin, ms since the epoch: a multiple of [`SPAN_MS`].
    pub start_ms: i64,
    /// How long it is, ms: mostly [`SPAN_MS`].
    pub span_ms: i64,
    /// Value of the n-th sample of a series.
    pub value: fn(usize, usize) -> f64,
}

impl Wish<'_> {
    fn samples(&self) -> usize {
        usize::try_from(self.span_ms / STEP_MS).unwrap_or_default()
    }

    fn time(&self, sample: usize) -> i64 {
        self.start_ms + i64::try_from(sample).unwrap_or_default() * STEP_MS
    }

    fn instance(&self, series: usize) -> String {
        format!("{}-{series:05}", self.prefix)
    }

    fn thanos(&self, source: &str) -> serde_json::Value {
        json!({
            "labels": {"cluster": self.cluster, "prometheus_replica": self.replica},
            "downsample": {"resolution": 0}, "source": source,
        })
    }
}

/// Begin of the block in which a time lies.
pub fn block_of(ms: i64) -> i64 {
    ms - ms.rem_euclid(SPAN_MS)
}

/// A value for each sample that nobody can guess, and that doesn't compress well.
pub fn scattered(series: usize, sample: usize) -> f64 {
    let mixed = (series as u64 * 100_003 + sample as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)) >> 24) as f64 / 64.0
}

/// Writes it with our own writer; gives its folder, inside `parent`. `number` makes its id, with its end.
///
/// # Errors
/// When the disk refuses.
pub fn own(parent: &Path, wish: &Wish<'_>, number: u64) -> anyhow::Result<PathBuf> {
    let id = BlockId::from_parts(u64::try_from(wish.start_ms + wish.span_ms)?, u128::from(number));
    let meta = json!({
        "ulid": id.to_string(), "minTime": wish.start_ms, "maxTime": wish.start_ms + wish.span_ms, "version": 1,
        "compaction": {"level": 1, "sources": [id.to_string()]}, "thanos": wish.thanos("e2e"),
    });
    let meta = BlockMeta::read("meta.json", meta.to_string().as_bytes())?;
    let mut writer = Writer::create(&RealDisk, parent, meta)?;
    let mut symbols: Vec<String> = (0..wish.series).map(|series| wish.instance(series)).collect();
    symbols.extend(["__name__", "instance", wish.metric].map(str::to_owned));
    symbols.sort();
    for symbol in symbols {
        writer.add_symbol(&symbol)?;
    }
    for series in 0..wish.series {
        let mut recoder = Recoder::new(false);
        for sample in 0..wish.samples() {
            recoder.push_float(wish.time(sample), (wish.value)(series, sample))?;
        }
        let chunks = recoder.finish();
        let chunks: Vec<NewChunk<'_>> = chunks
            .iter()
            .map(|c| NewChunk { min_time: c.min_t, max_time: c.max_t, encoding: c.encoding, data: &c.data })
            .collect();
        let labels = Labels::from_pairs([("__name__", wish.metric), ("instance", &wish.instance(series))]);
        writer.add_series(&labels, &chunks)?;
    }
    Ok(writer.finish()?.dir)
}

/// The same by promtool, with Thanos's part of meta.json added as its tools do; gives its folder, inside `parent`.
///
/// # Errors
/// When promtool is missing or makes no block, or more than one.
pub fn foreign(parent: &Path, wish: &Wish<'_>) -> anyhow::Result<PathBuf> {
    let mut text = format!("# TYPE {} gauge\n", wish.metric);
    for series in 0..wish.series {
        for sample in 0..wish.samples() {
            let (instance, value) = (wish.instance(series), (wish.value)(series, sample));
            writeln!(text, "{}{{instance=\"{instance}\"}} {value} {}", wish.metric, wish.time(sample) / 1000)?;
        }
    }
    text.push_str("# EOF\n");
    let dir = tempfile::tempdir_in(parent)?;
    let (input, output) = (dir.path().join("input"), dir.path().join("output"));
    std::fs::write(&input, text)?;
    let mut command = Command::new(peers::path("promtool")?);
    command.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&input).arg(&output);
    let done = command.output()?;
    anyhow::ensure!(done.status.success(), "promtool: {}", String::from_utf8_lossy(&done.stderr));
    let mut made = std::fs::read_dir(&output)?.collect::<Result<Vec<_>, _>>()?;
    made.retain(|entry| entry.path().join("meta.json").exists());
    anyhow::ensure!(made.len() == 1, "promtool made {} blocks", made.len());
    let from = made.remove(0).path();
    let file = from.join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    meta["thanos"] = wish.thanos("bucket.rewrite");
    std::fs::write(&file, meta.to_string())?;
    let to = parent.join(from.file_name().context("a block without a name")?);
    std::fs::rename(from, &to)?;
    Ok(to)
}

/// Uploads a block as its producers do: meta.json last. Gives its id and its bytes.
///
/// # Errors
/// When the server doesn't answer.
pub fn upload(server: &Remote, bucket: &str, block: &Path) -> anyhow::Result<(String, u64)> {
    let id = block.file_name().and_then(|name| name.to_str()).context("a block without a name")?.to_owned();
    let mut names: Vec<String> = Vec::new();
    for segment in std::fs::read_dir(block.join("chunks"))? {
        names.push(format!("chunks/{}", segment?.file_name().to_string_lossy()));
    }
    names.extend(["index", "meta.json"].map(str::to_owned));
    let mut bytes = 0;
    for name in names {
        let body = std::fs::read(block.join(&name))?;
        bytes += body.len() as u64;
        server.put(bucket, &format!("{id}/{name}"), &body)?;
    }
    Ok((id, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::count;

    #[test]
    fn both_writers_hold_the_same() {
        if peers::skip(&["promtool"]) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let value = |series: usize, sample: usize| (series * 7 + sample) as f64;
        let start_ms = block_of(1_790_000_000_000);
        let (cluster, replica, metric, prefix) = ("c", "c-prometheus-0", "up", "i");
        let wish = Wish { cluster, replica, metric, prefix, series: 3, start_ms, span_ms: SPAN_MS, value };
        let (own, foreign) = (own(dir.path(), &wish, 1).unwrap(), foreign(dir.path(), &wish).unwrap());
        let held = count(&own).unwrap();
        assert_eq!(held.samples, 3 * 480);
        assert_eq!(held, count(&foreign).unwrap());
        for block in [own, foreign] {
            let text = std::fs::read(block.join("meta.json")).unwrap();
            let meta = BlockMeta::read("meta.json", &text).unwrap();
            assert_eq!((meta.min_time, meta.thanos.unwrap().labels["cluster"].as_str()), (start_ms, "c"));
        }
    }
}
