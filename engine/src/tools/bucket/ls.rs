//! `panoptes tools bucket ls`: one line per block, in the order of their ids.

use super::format::{duration, time};
use super::template::Template;
use super::{Objstore, Screen};
use crate::server::point::Point;
use args::Millis;
use model::world::World;
use tsdb::BlockMeta;

/// Flags of `ls`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// What is told of a block: nothing but its id (empty), wide, json, or a template as '{{.ULID}} {{.MinTime}}'
    #[arg(short = 'o', long, default_value = "", hide_default_value = true)]
    output: String,
    /// Leave out blocks that are marked for deletion
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    exclude_delete: bool,
    /// Only blocks with data after this time (2026-01-02T15:04:05Z, or -2w from now)
    #[arg(long, default_value = "0000-01-01T00:00:00Z", allow_hyphen_values = true)]
    min_time: Point,
    /// Only blocks with data before this time
    #[arg(long, default_value = "9999-12-31T23:59:59Z", allow_hyphen_values = true)]
    max_time: Point,
    /// Time in which the blocks must have been read
    #[arg(long, default_value = "5m")]
    timeout: Millis,
}

enum Output {
    Id,
    Wide,
    Json,
    Template(Template),
}

impl Output {
    fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "" => Self::Id,
            "wide" => Self::Wide,
            "json" => Self::Json,
            template => Self::Template(Template::parse(template)?),
        })
    }

    fn write(&self, meta: &BlockMeta) -> anyhow::Result<String> {
        Ok(match self {
            Self::Id => format!("{}\n", meta.id),
            Self::Wide => format!("{}\n", wide(meta)),
            Self::Json => String::from_utf8(meta.write()?)?,
            Self::Template(template) => format!("{}\n", template.line(meta)?),
        })
    }
}

pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let output = Output::parse(&args.output)?;
    let now = world.clock.now_ms();
    let (from, until) = (args.min_time.at(now), args.max_time.at(now));
    let view = super::view(objstore, world, args.timeout).await?;
    let mut blocks = 0u64;
    for block in view.blocks.values() {
        let marked = block.marks.deletion.is_some();
        if block.meta.max_time < from || block.meta.min_time > until || (args.exclude_delete && marked) {
            continue;
        }
        blocks += 1;
        screen.out.write_all(output.write(&block.meta)?.as_bytes())?;
    }
    screen.note(&format!("{blocks} blocks"));
    super::complete(&view, screen)
}

fn wide(meta: &BlockMeta) -> String {
    let seconds = |ms: i64| ms / 1000 * 1000;
    let source = meta.thanos.as_ref().map_or("", |t| t.source.as_str());
    format!(
        "{} -- {} - {} Diff: {}, Compaction: {}, Downsample: {}, Source: {source}",
        meta.id,
        time(meta.min_time),
        time(meta.max_time),
        duration(seconds(meta.max_time).saturating_sub(seconds(meta.min_time))),
        meta.compaction.level,
        meta.resolution(),
    )
}
