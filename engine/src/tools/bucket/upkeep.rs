//! `panoptes tools bucket downsample|retention|cleanup`: what a compactor does, one kind of it, by hand. The same plan, laws and lease as
//! the compactor's: while one runs on the bucket, it has the lease, and the tool says so.

use super::download::Scratch;
use super::{Objstore, Screen};
use crate::compact::{Once, once};
use args::Millis;
use model::world::World;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;
use tsdb::plan::{Action, Item, Retention, Settings, Why};

/// Flags of `downsample`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Downsample {
    /// Time between two runs
    #[arg(long, default_value = "5m")]
    wait_interval: Millis,
    /// End after one run
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    single_run: bool,
    /// Blocks that are downsampled at the same time
    #[arg(long = "downsample.concurrency", default_value = "1", value_name = "N")]
    concurrency: usize,
    /// Files of a block that are sent at the same time (of Thanos; here as many as blocks)
    #[arg(long, default_value = "1", hide = true)]
    block_files_concurrency: usize,
    /// Where blocks lie while they are worked on. All of it can be deleted
    #[arg(long, default_value = "./data", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// Of Thanos, where it serves metrics; nothing is served here
    #[arg(long, default_value = "", hide = true)]
    http_address: String,
}

/// Flags of `retention`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Keep {
    /// How long raw data is kept; 0d: for ever
    #[arg(long = "retention.resolution-raw", default_value = "0d")]
    raw: Millis,
    /// How long 5m data is kept; 0d: for ever
    #[arg(long = "retention.resolution-5m", default_value = "0d")]
    five_minutes: Millis,
    /// How long 1h data is kept; 0d: for ever
    #[arg(long = "retention.resolution-1h", default_value = "0d")]
    one_hour: Millis,
    /// Mark data that has no coarser copy, too; else such a copy is made first
    #[arg(long = "downsampling.disable", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_downsampling: bool,
    #[command(flatten)]
    common: Common,
}

/// Flags of `cleanup`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Cleanup {
    #[command(flatten)]
    common: Common,
}

/// Flags of both.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// From the mark to the deletion of a block
    #[arg(long, default_value = "48h")]
    delete_delay: Millis,
    /// Blocks of others that were uploaded less than this ago are not looked at
    #[arg(long, default_value = "30m")]
    consistency_delay: Millis,
    /// Of Thanos, without an effect
    #[arg(long, default_value = "20", hide = true)]
    block_sync_concurrency: usize,
}

impl Common {
    fn settings(&self) -> Settings {
        Settings {
            delete_delay: self.delete_delay.0,
            consistency_delay: self.consistency_delay.0,
            ..Settings::default()
        }
    }
}

/// Makes the coarser copies that are due, again and again.
pub(super) async fn downsample(
    args: &Downsample,
    objstore: &Objstore,
    (world, stop): (World, &CancellationToken),
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    loop {
        let what = Once {
            // Thanos's tool takes a block however young it is.
            settings: Settings { consistency_delay: 0, ..Settings::default() },
            wanted: |item| matches!(item.action, Action::Downsample(..)),
            dir: args.data_dir.clone(),
            at_once: args.concurrency,
        };
        let done = pass(what, objstore, (world.clone(), stop), screen).await;
        if args.single_run || stop.is_cancelled() {
            return done;
        }
        if let Err(error) = done {
            screen.note(&format!("failed, and is tried again in {}: {error:#}", args.wait_interval));
        }
        tokio::select! {
            () = tokio::time::sleep(args.wait_interval.duration()) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Marks for deletion what is older than it is kept.
pub(super) async fn retention(
    args: &Keep,
    objstore: &Objstore,
    (world, stop): (World, &CancellationToken),
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    let scratch = Scratch::new(&world, "panoptes-retention")?;
    let what = Once {
        settings: Settings {
            retention: Retention { raw: args.raw.0, five_minutes: args.five_minutes.0, one_hour: args.one_hour.0 },
            downsample: !args.no_downsampling,
            ..args.common.settings()
        },
        // Nothing goes before it has a coarser copy, where one is wanted.
        wanted: |item: &Item| {
            matches!(
                (&item.action, &item.why),
                (Action::MarkForDeletion(_), Why::Retention { .. })
                    | (Action::Downsample(..), Why::BeforeRetention { .. })
            )
        },
        dir: scratch.0.clone(),
        at_once: 1,
    };
    pass(what, objstore, (world, stop), screen).await
}

/// Deletes what is marked for deletion for long enough, and what uploads left that broke off; marks what another block holds.
pub(super) async fn cleanup(
    args: &Cleanup,
    objstore: &Objstore,
    (world, stop): (World, &CancellationToken),
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    let scratch = Scratch::new(&world, "panoptes-cleanup")?;
    let what = Once {
        settings: args.common.settings(),
        wanted: |item: &Item| {
            matches!(
                (&item.action, &item.why),
                (Action::Delete(_), _) | (Action::MarkForDeletion(_), Why::Superseded { .. })
            )
        },
        dir: scratch.0.clone(),
        at_once: 1,
    };
    pass(what, objstore, (world, stop), screen).await
}

async fn pass(
    what: Once,
    objstore: &Objstore,
    (world, stop): (World, &CancellationToken),
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    let bucket = super::open(objstore, world.clone())?;
    let mut items = 0u64;
    let mut tell = |line: String| {
        items += u64::from(!line.starts_with("left alone"));
        screen.note(&line);
    };
    once(world, &bucket, what, &mut tell, stop).await?;
    screen.note(&format!("{items} done, nothing is left to do"));
    Ok(())
}
