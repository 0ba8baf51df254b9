//! `panoptes tools bucket …`: look at a bucket, check it, mark, copy and rewrite blocks. Flags and outputs are those of Thanos's tools.

mod download;
mod format;
mod inspect;
mod issues;
mod ls;
mod mark;
mod plan;
mod replicate;
mod rewrite;
mod table;
mod template;
mod upkeep;
mod verify;
mod web;

use anyhow::Context as _;
use args::Millis;
use bucket::Bucket;
use bucket::fetch::{Fetcher, View};
use model::world::World;
use std::io::Write;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Flags of `bucket`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    objstore: Objstore,
    #[command(subcommand)]
    tool: Tool,
}

/// Flags of `plan`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    objstore: Objstore,
    #[command(flatten)]
    plan: plan::Args,
}

/// Which bucket.
#[derive(Clone, Debug, clap::Args)]
struct Objstore {
    /// The bucket: Thanos's object-storage configuration as YAML; $(NAME) is replaced by the environment
    #[arg(long = "objstore.config", global = true, default_value = "", hide_default_value = true, value_name = "YAML")]
    config: String,
    /// The same, in a file
    #[arg(
        long = "objstore.config-file",
        global = true,
        default_value = "",
        hide_default_value = true,
        value_name = "FILE"
    )]
    config_file: String,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Tool {
    /// List all blocks.
    Ls(ls::Args),
    /// All blocks as a table.
    Inspect(inspect::Args),
    /// Look for everything that is wrong with a bucket and its blocks, and change nothing. Ends with 1 if something is.
    Verify(verify::Args),
    /// Mark blocks for deletion, or as not to be compacted or downsampled; or take such a mark away.
    Mark(mark::Args),
    /// Make the coarser copies (5m, 1h) that are due, as a compactor would.
    Downsample(upkeep::Downsample),
    /// Mark for deletion what is older than it is kept, once. What has no coarser copy yet gets one first.
    Retention(upkeep::Keep),
    /// Delete what is marked for deletion for long enough, and what uploads left that broke off, once.
    Cleanup(upkeep::Cleanup),
    /// Copy blocks into another bucket, again and again or once. What is there already is not copied again.
    Replicate(replicate::Args),
    /// Make a new block of one, without some of its series or samples, or with other labels. Only shows what would change, unless
    /// --no-dry-run is given. The old block stays, unless --delete-blocks is given: then it is marked for deletion. Stop compactors of
    /// this bucket meanwhile.
    Rewrite(rewrite::Args),
    /// Serve the list of blocks at /api/v1/blocks, as Thanos's page of a bucket asks for it.
    Web(web::Args),
}

/// Where a tool writes: what scripts read, and what it tells a person meanwhile.
struct Screen<'a> {
    out: &'a mut dyn Write,
    notes: &'a mut dyn Write,
}

impl Screen<'_> {
    fn note(&mut self, text: &str) {
        // Nobody may be listening.
        let _ = writeln!(self.notes, "{text}");
    }
}

/// Longest time in which a tool that holds a lease gives it back.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Runs the tool.
///
/// # Errors
/// When the bucket can't be read, or something that the tool checks does not hold.
pub(super) async fn run(args: Args, world: World, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut out, mut notes) = (std::io::stdout(), std::io::stderr());
    let mut screen = Screen { out: &mut out, notes: &mut notes };
    // What holds a lease ends by itself, and gives it back.
    let ends = (world.clone(), &stop);
    let work = async {
        match &args.tool {
            Tool::Ls(a) => ls::run(a, &args.objstore, world, &mut screen).await,
            Tool::Inspect(a) => inspect::run(a, &args.objstore, world, &mut screen).await,
            Tool::Verify(a) => verify::run(a, &args.objstore, world, &mut screen).await,
            Tool::Mark(a) => mark::run(a, &args.objstore, world, &mut screen).await,
            Tool::Downsample(a) => upkeep::downsample(a, &args.objstore, ends, &mut screen).await,
            Tool::Retention(a) => upkeep::retention(a, &args.objstore, ends, &mut screen).await,
            Tool::Cleanup(a) => upkeep::cleanup(a, &args.objstore, ends, &mut screen).await,
            Tool::Replicate(a) => replicate::run(a, &args.objstore, world, &mut screen).await,
            Tool::Rewrite(a) => rewrite::run(a, &args.objstore, ends, &mut screen).await,
            Tool::Web(a) => web::run(a, &args.objstore, world, &mut screen).await,
        }
    };
    let late = async {
        stop.cancelled().await;
        let leased =
            matches!(args.tool, Tool::Downsample(_) | Tool::Retention(_) | Tool::Cleanup(_) | Tool::Rewrite(_));
        if leased {
            tokio::time::sleep(GIVE_BACK).await;
        }
    };
    tokio::select! {
        biased;
        result = work => result,
        () = late => anyhow::bail!("interrupted"),
    }
}

/// Runs `plan`.
///
/// # Errors
/// When the bucket can't be read, or the settings defeat themselves.
pub(super) async fn plan(args: PlanArgs, world: World, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut out, mut notes) = (std::io::stdout(), std::io::stderr());
    let mut screen = Screen { out: &mut out, notes: &mut notes };
    tokio::select! {
        result = plan::run(&args.plan, &args.objstore, world, &mut screen) => result,
        () = stop.cancelled() => anyhow::bail!("interrupted"),
    }
}

fn open(objstore: &Objstore, world: World) -> anyhow::Result<Bucket> {
    crate::storage::open((&objstore.config, &objstore.config_file), world)
}

/// All blocks of the bucket.
async fn view(objstore: &Objstore, world: World, timeout: Millis) -> anyhow::Result<View> {
    let mut fetcher = Fetcher::new(open(objstore, world)?);
    let synced = tokio::time::timeout(timeout.duration(), fetcher.sync()).await;
    let late = || format!("the blocks could not be read within {timeout}: raise --timeout");
    Ok(synced.ok().with_context(late)??)
}

/// Says what could not be read; an incomplete answer is not a success.
fn complete(view: &View, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    for error in &view.errors {
        screen.note(&error.to_string());
    }
    anyhow::ensure!(
        view.errors.is_empty(),
        "{} objects could not be read: the answer is incomplete",
        view.errors.len()
    );
    Ok(())
}
