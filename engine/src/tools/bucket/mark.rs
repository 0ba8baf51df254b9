//! `panoptes tools bucket mark`: writes or removes marks.

use super::{Objstore, Screen};
use bucket::{Bucket, block, mark};
use futures::TryStreamExt as _;
use model::BlockId;
use model::world::World;
use tsdb::marks::{DeletionMark, NoCompactMark, NoDownsampleMark};

/// The reason in marks that a person wrote.
const MANUAL: &str = "manual";

/// Flags of `mark`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// The blocks
    #[arg(long = "id", value_name = "ULID", required = true)]
    ids: Vec<BlockId>,
    /// The mark
    #[arg(long)]
    marker: Marker,
    /// Why, for people; needed for a new mark
    #[arg(long, default_value = "", hide_default_value = true)]
    details: String,
    /// Take the mark away
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    remove: bool,
}

/// A mark, by the name of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Marker {
    #[value(name = "deletion-mark.json")]
    Deletion,
    #[value(name = "no-compact-mark.json")]
    NoCompact,
    #[value(name = "no-downsample-mark.json")]
    NoDownsample,
}

impl Marker {
    fn file(self) -> &'static str {
        match self {
            Self::Deletion => block::DELETION_MARK,
            Self::NoCompact => block::NO_COMPACT_MARK,
            Self::NoDownsample => block::NO_DOWNSAMPLE_MARK,
        }
    }
}

pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.remove || !args.details.is_empty(),
        "--details is missing: say why, for whoever finds the mark"
    );
    let now = world.clock.now_ms() / 1000;
    let bucket = super::open(objstore, world)?;
    // All of them, before the first is marked.
    for id in &args.ids {
        anyhow::ensure!(exists(&bucket, *id).await?, "there is no block {id} in {}", bucket.name());
    }
    for id in &args.ids {
        let path = block::object(*id, args.marker.file());
        let done = if args.remove {
            remove(&bucket, &path).await?
        } else {
            create(&bucket, *id, args.marker, now, &args.details).await?
        };
        screen.note(&match (done, args.remove) {
            (true, false) => format!("{path} written"),
            (false, false) => format!("{path} is there already and stays as it is"),
            (true, true) => format!("{path} removed; a running Thanos compactor remembers it until it restarts"),
            (false, true) => format!("{path} is not there"),
        });
    }
    Ok(())
}

/// Whether there is any object of the block: also a part of one may have to be deleted.
async fn exists(bucket: &Bucket, id: BlockId) -> anyhow::Result<bool> {
    Ok(bucket.list_dir(&block::directory(id)).try_next().await?.is_some())
}

async fn remove(bucket: &Bucket, path: &str) -> anyhow::Result<bool> {
    let there = bucket.exists(path).await?;
    if there {
        bucket.delete(path).await?;
    }
    Ok(there)
}

async fn create(bucket: &Bucket, id: BlockId, marker: Marker, now_s: i64, details: &str) -> anyhow::Result<bool> {
    Ok(match marker {
        Marker::Deletion => mark::create(bucket, &DeletionMark::new(id, now_s, details)).await?,
        Marker::NoCompact => mark::create(bucket, &NoCompactMark::new(id, now_s, MANUAL, details)).await?,
        Marker::NoDownsample => mark::create(bucket, &NoDownsampleMark::new(id, now_s, MANUAL, details)).await?,
    })
}
