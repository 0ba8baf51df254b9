//! `panoptes tools plan`: what a compactor would do with a bucket now, and why. Nothing is written.

use super::format::{duration, time};
use super::table::{Shape, Table};
use super::{Objstore, Screen};
use crate::compact::{Share, retention_labels};
use crate::server::expand;
use args::{Millis, Size};
use model::BlockId;
use model::world::World;
use tsdb::plan::{Action, Finding, Held, Item, Plan, Retention, Settings, Snapshot, Subject, forecast, laws, make};

const COLUMNS: [&str; 8] = ["ACTION", "FROM", "UNTIL", "RANGE", "RESOLUTION", "LABELS", "REASON", "BLOCKS"];
/// So many rounds of planning are looked ahead.
const ROUNDS: usize = 1000;

/// Flags of `plan`: those of Thanos's compactor that decide what it does.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// How long raw data is kept; 0d: for ever
    #[arg(long = "retention.resolution-raw", default_value = "0d")]
    retention_raw: Millis,
    /// How long 5m data is kept; 0d: for ever
    #[arg(long = "retention.resolution-5m", default_value = "0d")]
    retention_5m: Millis,
    /// How long 1h data is kept; 0d: for ever
    #[arg(long = "retention.resolution-1h", default_value = "0d")]
    retention_1h: Millis,
    /// From the mark to the deletion of a block
    #[arg(long, default_value = "48h")]
    delete_delay: Millis,
    /// Blocks of others that were uploaded less than this ago are not looked at
    #[arg(long, default_value = "30m")]
    consistency_delay: Millis,
    /// Make no coarser copies
    #[arg(long = "downsampling.disable", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_downsampling: bool,
    /// Expire only blocks that carry all of these external labels, as NAME=VALUE
    #[arg(long = "retention.external-label", value_name = "NAME=VALUE")]
    retention_labels: Vec<String>,
    /// Which blocks a compactor works on, as YAML: its relabel configuration over the external labels
    #[arg(long = "selector.relabel-config", default_value = "", hide_default_value = true, value_name = "YAML")]
    selector: String,
    /// The same, in a file
    #[arg(long = "selector.relabel-config-file", default_value = "", hide_default_value = true, value_name = "FILE")]
    selector_file: String,
    /// Oldest data that it works on: RFC 3339, or a duration before now, as -2w
    #[arg(long, default_value = "0000-01-01T00:00:00Z", allow_hyphen_values = true)]
    min_time: String,
    /// Newest data that it works on, in the same form
    #[arg(long, default_value = "9999-12-31T23:59:59Z", allow_hyphen_values = true)]
    max_time: String,
    /// External labels that tell replicas apart: their blocks are merged
    #[arg(long = "deduplication.replica-label", value_name = "LABEL")]
    replica_labels: Vec<String>,
    /// Merge blocks that overlap
    #[arg(long = "compact.enable-vertical-compaction", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    merge: bool,
    /// The index of a compacted block is not to exceed this
    #[arg(long = "compact.block-max-index-size", default_value = "64GB")]
    max_index_size: Size,
    /// Highest level of compaction: 1 is 2h, 2 is 8h, 3 is 2d, 4 is 14d
    #[arg(long = "debug.max-compaction-level", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=4))]
    max_level: u8,
    /// How the plan is written
    #[arg(long, default_value = "table")]
    output: Shape,
    /// Time in which the blocks must have been read
    #[arg(long, default_value = "5m")]
    timeout: Millis,
}

impl Args {
    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings {
            merge: self.merge || !self.replica_labels.is_empty(),
            replica_labels: self.replica_labels.clone(),
            max_index_bytes: self.max_index_size.0,
            downsample: !self.no_downsampling,
            retention: Retention {
                raw: self.retention_raw.0,
                five_minutes: self.retention_5m.0,
                one_hour: self.retention_1h.0,
            },
            retention_labels: retention_labels(&self.retention_labels)?,
            delete_delay: self.delete_delay.0,
            consistency_delay: self.consistency_delay.0,
            ..Settings::default()
        };
        settings.ranges.truncate(usize::from(self.max_level) + 1);
        Ok(settings)
    }
}

pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let selector = expand::option("selector.relabel-config", &args.selector, &args.selector_file)?;
    let share = Share::new(&selector, &args.min_time, &args.max_time, &settings.replica_labels)?;
    let mut refused = Vec::new();
    for finding in settings.check() {
        match finding {
            Finding::Refused(what) => refused.push(what),
            Finding::Warning(what) => screen.note(&format!("warning: {what}")),
        }
    }
    anyhow::ensure!(refused.is_empty(), "these settings can't be used: {}", refused.join("; "));
    let now = world.clock.now_ms();
    let mut view = super::view(objstore, world, args.timeout).await?;
    view.blocks.retain(|_, block| share.has(&block.meta, now));
    let snapshot = view.snapshot();
    let plan = make(&snapshot, now, &settings);
    if let Some(broken) = laws::check(&snapshot, now, &settings, &plan).first() {
        anyhow::bail!("{broken}");
    }
    let table = Table { header: &COLUMNS, lines: lines(&snapshot, &plan) };
    screen.out.write_all(table.write(args.output).as_bytes())?;
    screen.note(&summary(&snapshot, &plan, now, &settings));
    super::complete(&view, screen)
}

fn lines(snapshot: &Snapshot, plan: &Plan) -> Vec<Vec<String>> {
    plan.items.iter().map(|i| item(snapshot, i)).chain(plan.held.iter().map(|h| held(snapshot, h))).collect()
}

fn item(snapshot: &Snapshot, item: &Item) -> Vec<String> {
    let action = match &item.action {
        Action::Delete(_) => "delete".to_owned(),
        Action::MarkForDeletion(_) => "mark for deletion".to_owned(),
        Action::MarkNoCompact(_, reason) => format!("mark no-compact ({reason})"),
        Action::Compact(c) if c.overlap => "merge".to_owned(),
        Action::Compact(_) => "compact".to_owned(),
        Action::Downsample(_, to) => {
            let to: Vec<String> = to.iter().map(|r| duration(*r)).collect();
            format!("downsample to {}", to.join(" and "))
        }
    };
    line(action, item.why.to_string(), item.action.blocks(), snapshot)
}

fn held(snapshot: &Snapshot, held: &Held) -> Vec<String> {
    match &held.what {
        Subject::Block(id) => line("wait".to_owned(), held.why.to_string(), &[*id], snapshot),
        Subject::Stream(name) => {
            let mut line = line("wait".to_owned(), held.why.to_string(), &[], snapshot);
            if let Some(labels) = line.get_mut(5) {
                labels.clone_from(name);
            }
            line
        }
        Subject::Bucket => line("wait".to_owned(), held.why.to_string(), &[], snapshot),
    }
}

/// One line of the table. All blocks of an item are of one stream.
fn line(action: String, why: String, ids: &[BlockId], snapshot: &Snapshot) -> Vec<String> {
    let metas: Vec<_> = ids.iter().filter_map(|id| snapshot.blocks.get(id)).map(|b| &b.meta).collect();
    let range = metas.iter().map(|m| m.min_time).min().zip(metas.iter().map(|m| m.max_time).max());
    let (from, until, width) = match range {
        Some((min, max)) => (time(min), time(max), duration(max.saturating_sub(min))),
        None => Default::default(),
    };
    let first = metas.first();
    let labels = first.map(|m| m.labels().to_string()).unwrap_or_default();
    let resolution = first.map(|m| duration(m.resolution())).unwrap_or_default();
    let blocks: Vec<String> = ids.iter().map(BlockId::to_string).collect();
    vec![action, from, until, width, resolution, labels, why, blocks.join(" ")]
}

fn summary(snapshot: &Snapshot, plan: &Plan, now: i64, settings: &Settings) -> String {
    let all = forecast(snapshot, now, settings, ROUNDS);
    format!(
        "{} items now, {} wait; until nothing is left to do: {} compactions of {} blocks, {} blocks to downsample, {} to mark for \
         deletion{}",
        plan.items.len(),
        plan.held.len(),
        all.compactions,
        all.compaction_blocks,
        all.downsamples,
        all.deletions,
        if all.more { ", and more" } else { "" },
    )
}
