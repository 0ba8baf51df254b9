//! T14: blocks of two hours become blocks of eight hours and of two days; their sources are marked, later deleted; and the answers
//! are the same, sample for sample.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::http;

use super::{DAY, HOUR, Seen, Shelf, add, blocks, idle, quick, window};
use crate::fleet::Stack;
use crate::made::{SPAN_MS, Wish, scattered};
use crate::say;
use crate::stories::world::{CHANGE, eventually, labels};

/// Blocks of two hours: two days, eight hours, and one more.
const BLOCKS: i64 = 24 + 4 + 1;

/// Blocks that a compactor has to merge.
#[derive(Debug)]
pub struct Seeds {
    /// Value of the replica label, which no Prometheus has.
    replica: String,
    /// Name of the metric.
    metric: &'static str,
    /// How many series.
    series: usize,
    /// Begin of the first block, ms since the epoch.
    start: i64,
}

/// All samples of all series, as the querier gives them: by labels.
pub type Answer = BTreeMap<String, Value>;

impl Seeds {
    /// Makes the blocks and puts them onto the shelf. `days` is how long ago they end, at least.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn put(
        stack: &Stack,
        shelf: &dyn Shelf,
        metric: &'static str,
        series: usize,
        days: i64,
    ) -> anyhow::Result<Self> {
        let (replica, start) = (format!("seed-{metric}"), window(2 * DAY, days * DAY));
        let seeds = Self { replica, metric, series, start };
        let dir = tempfile::tempdir()?;
        for n in 0..BLOCKS {
            let wish = Wish {
                cluster: &stack.name,
                replica: &seeds.replica,
                metric,
                prefix: "m",
                series,
                start_ms: start + n * SPAN_MS,
                span_ms: SPAN_MS,
                value: scattered,
            };
            add(shelf, dir.path(), &wish, n.unsigned_abs() + 1)?;
        }
        Ok(seeds)
    }

    /// All samples, of raw data only; fails unless all are there and nobody is missed.
    ///
    /// # Errors
    /// While something is missing.
    pub fn answer(&self, stack: &Stack) -> anyhow::Result<Answer> {
        let span = BLOCKS * SPAN_MS;
        let query = format!("{}[{}ms]", self.metric, span);
        let at = self.start + span - 1;
        let path = format!(
            "/api/v1/query?query={}&time={}.{:03}&max_source_resolution=0s",
            http::encode(&query),
            at.div_euclid(1000),
            at.rem_euclid(1000)
        );
        let answer = stack.get_query(&path)?;
        anyhow::ensure!(answer["warnings"].as_array().is_none_or(Vec::is_empty), "it warns: {}", answer["warnings"]);
        let rows = answer["data"]["result"].as_array().with_context(|| format!("it says {answer}"))?;
        let found: Answer = rows.iter().map(|row| (labels(row, &[]), row["values"].clone())).collect();
        let samples: usize = found.values().filter_map(Value::as_array).map(Vec::len).sum();
        let wanted = self.series * usize::try_from(span / crate::made::STEP_MS)?;
        anyhow::ensure!(found.len() == self.series && samples == wanted, "{samples} of {wanted} samples are there");
        Ok(found)
    }

    /// The widths of the blocks of raw data that are there to stay, in hours, by their times.
    fn widths(&self, shelf: &dyn Shelf) -> anyhow::Result<Vec<i64>> {
        Ok(self.kept(shelf)?.iter().map(|block| (block.max - block.min) / HOUR).collect())
    }

    fn kept(&self, shelf: &dyn Shelf) -> anyhow::Result<Vec<Seen>> {
        let mut found = blocks(shelf, &self.replica)?;
        found.retain(|block| block.resolution == 0 && !block.marked);
        Ok(found)
    }

    /// Waits until the blocks are merged as far as they can be, and looks at what is left of their sources.
    ///
    /// # Errors
    /// When they are not in time, or blocks overlap.
    pub fn merged(&self, shelf: &dyn Shelf) -> anyhow::Result<()> {
        eventually("blocks of two days and of eight hours", CHANGE * 2, || {
            let now = self.widths(shelf)?;
            anyhow::ensure!(now == [48, 8, 2], "they are {now:?} hours wide");
            Ok(())
        })?;
        let kept = self.kept(shelf)?;
        for pair in kept.windows(2) {
            anyhow::ensure!(pair[0].max <= pair[1].min, "{} and {} overlap", pair[0].id, pair[1].id);
        }
        Ok(())
    }
}

/// The whole row, but for kills and rivals. The stack's compactor is off at first, and on at the end.
///
/// # Errors
/// When anything of it is not so.
pub fn merges(stack: &Stack, shelf: &dyn Shelf) -> anyhow::Result<()> {
    let seeds = Seeds::put(stack, shelf, "merge_me", 8, 2)?;
    let before = eventually("every sample in the answers", CHANGE, || seeds.answer(stack))?;
    let sources = seeds.kept(shelf)?;

    let mut compactor = quick();
    compactor["enabled"] = json!(true);
    stack.patch(&json!({"compactor": compactor}))?;
    seeds.merged(shelf)?;
    let healthy = ["UpToDate", "Compacting"];
    stack.wait_reason(&stack.object(), "CompactionHealthy", "True", &healthy, CHANGE)?;
    idle(stack)?;
    let left = blocks(shelf, &seeds.replica)?;
    let last = sources.last().context("no block")?;
    for source in &sources {
        let now = left.iter().find(|block| block.id == source.id).with_context(|| format!("{} is gone", source.id))?;
        anyhow::ensure!(now.marked == (source.id != last.id), "{} is marked: {}", source.id, now.marked);
    }
    let after = seeds.answer(stack)?;
    anyhow::ensure!(before == after, "the answers differ");

    // The sources deleted, what was made of them is all there is.
    compactor["deleteDelay"] = json!("1s");
    stack.patch(&json!({"compactor": compactor}))?;
    eventually("the end of the sources", CHANGE, || {
        let left = blocks(shelf, &seeds.replica)?;
        let there = sources.iter().filter(|s| left.iter().any(|block| block.id == s.id)).count();
        anyhow::ensure!(there == 1, "{there} of {} sources are there", sources.len());
        Ok(())
    })?;
    let alone = eventually("the same answers without the sources", CHANGE, || seeds.answer(stack))?;
    anyhow::ensure!(before == alone, "the answers differ once the sources are gone");
    compactor["deleteDelay"] = json!("48h");
    stack.patch(&json!({"compactor": compactor}))?;
    say::step(&format!("  {}: {} blocks became 3, the answers are the same", stack.name, sources.len()));
    Ok(())
}
