//! `panoptes tools bucket verify`: all that is wrong, and nothing changed.

use super::issues::{self, Finding, Issue};
use super::{Objstore, Screen, download};
use args::Millis;
use bucket::Bucket;
use bucket::fetch::{Fetcher, View};
use model::BlockId;
use model::world::World;
use std::collections::BTreeSet;
use std::path::Path;
use tsdb::block::health::{self, Severity};
use tsdb::disk::RealDisk;

/// Flags of `verify`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// What to look for; all of it by default
    #[arg(short = 'i', long = "issues", value_name = "ISSUE")]
    issues: Vec<Issue>,
    /// Only these blocks
    #[arg(long = "id", value_name = "ULID")]
    ids: Vec<BlockId>,
    /// Of Thanos, and refused: nothing is repaired here
    #[arg(short = 'r', long, hide = true, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    repair: bool,
    /// Of Thanos's repairs, without an effect
    #[arg(long = "objstore-backup.config", hide = true, default_value = "")]
    _backup: String,
    /// Of Thanos's repairs, without an effect
    #[arg(long = "objstore-backup.config-file", hide = true, default_value = "")]
    _backup_file: String,
    /// Of Thanos's repairs, without an effect
    #[arg(long = "delete-delay", hide = true, default_value = "0s")]
    _delete_delay: Millis,
}

pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.repair,
        "--repair is not offered: repairs are the compactor's, which rewrites what can be rewritten and keeps the source. \
         Take a block out of compaction with `tools bucket mark --marker=no-compact-mark.json`, or out of the bucket with \
         --marker=deletion-mark.json"
    );
    let bucket = super::open(objstore, world)?;
    screen.note("listing the bucket");
    let view = Fetcher::new(bucket.clone()).sync().await?;
    let chosen: Vec<Issue> = if args.issues.is_empty() { Issue::ALL.to_vec() } else { args.issues.clone() };
    let ids: BTreeSet<BlockId> = args.ids.iter().copied().collect();
    for id in &ids {
        anyhow::ensure!(view.blocks.contains_key(id) || view.partial.contains_key(id), "there is no block {id}");
    }
    let mut problems = 0u64;
    let mut tell = |finding: &Finding, screen: &mut Screen<'_>| -> anyhow::Result<()> {
        if !finding.notice {
            problems += 1;
        }
        Ok(writeln!(screen.out, "{finding}")?)
    };
    for finding in issues::of(&view) {
        let about = ids.is_empty() || finding.blocks.iter().any(|id| ids.contains(id));
        if about && chosen.contains(&finding.issue) {
            tell(&finding, screen)?;
        }
    }
    if chosen.contains(&Issue::Index) {
        let blocks = to_read(&view, &ids);
        for (n, id) in blocks.iter().enumerate() {
            screen.note(&format!("[{}/{}] reading {id}", n + 1, blocks.len()));
            for finding in inside(&bucket, *id).await? {
                tell(&finding, screen)?;
            }
        }
    }
    super::complete(&view, screen)?;
    anyhow::ensure!(problems == 0, "{problems} problems in {} blocks; nothing was changed", view.blocks.len());
    screen.note(&format!("{} blocks, no problem", view.blocks.len()));
    Ok(())
}

/// Blocks whose data is read. Those marked for deletion are not, unless they were asked for.
fn to_read(view: &View, ids: &BTreeSet<BlockId>) -> Vec<BlockId> {
    let wanted = |id: &BlockId, marked: bool| if ids.is_empty() { !marked } else { ids.contains(id) };
    view.blocks.iter().filter(|(id, b)| wanted(id, b.marks.deletion.is_some())).map(|(id, _)| *id).collect()
}

async fn inside(bucket: &Bucket, id: BlockId) -> anyhow::Result<Vec<Finding>> {
    let downloaded = download::block(bucket, id).await?;
    Ok(tokio::task::spawn_blocking(move || {
        let found = health(id, &downloaded.block);
        drop(downloaded);
        found
    })
    .await?)
}

fn health(id: BlockId, folder: &Path) -> Vec<Finding> {
    let report = health::check(&RealDisk, folder, &health::Options::default());
    let mut all: Vec<Finding> = report
        .problems
        .iter()
        .map(|p| Finding {
            issue: Issue::Index,
            blocks: vec![id],
            notice: p.kind.severity() == Severity::Notice,
            what: p.to_string(),
        })
        .collect();
    let told = report.problems.len() as u64;
    let counted: u64 = report.counts.values().sum();
    if counted > told {
        let what = format!("{} more of the same", counted - told);
        all.push(Finding { issue: Issue::Index, blocks: vec![id], notice: true, what });
    }
    all
}
