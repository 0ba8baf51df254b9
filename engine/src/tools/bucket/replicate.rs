//! `panoptes tools bucket replicate`: copies blocks into another bucket, oldest first, meta.json last.

use super::{Objstore, Screen, download};
use crate::server::point::Point;
use anyhow::Context as _;
use args::Millis;
use bucket::fetch::Fetcher;
use bucket::{Bucket, block};
use futures::TryStreamExt as _;
use model::matcher::Matcher;
use model::world::World;
use model::{BlockId, Labels};
use promql::parse::parse_metric_selector;
use std::sync::Arc;
use std::time::Duration;
use tsdb::BlockMeta;
use tsdb::disk::RealDisk;
use tsdb::meta::MAX_META_BYTES;

/// Between two runs, as in Thanos.
const INTERVAL: Duration = Duration::from_secs(60);

/// Flags of `replicate`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// The bucket that blocks are copied into: Thanos's object-storage configuration as YAML
    #[arg(long = "objstore-to.config", default_value = "", hide_default_value = true, value_name = "YAML")]
    to: String,
    /// The same, in a file
    #[arg(long = "objstore-to.config-file", default_value = "", hide_default_value = true, value_name = "FILE")]
    to_file: String,
    /// Only blocks of these resolutions
    #[arg(long = "resolution", value_name = "DURATION", default_values = ["0s", "5m", "1h"])]
    resolutions: Vec<Millis>,
    /// Only blocks of this level of compaction or more
    #[arg(long = "compaction-min", default_value = "1", value_name = "LEVEL")]
    compaction_min: u32,
    /// Only blocks of this level of compaction or less
    #[arg(long = "compaction-max", default_value = "4", value_name = "LEVEL")]
    compaction_max: u32,
    /// Only blocks of these levels of compaction, instead of the two above
    #[arg(long = "compaction", value_name = "LEVEL")]
    compactions: Vec<u32>,
    /// Only blocks whose external labels match, as in --matcher='cluster="prod",replica=~"a|b"'
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MATCHERS")]
    matcher: String,
    /// End after one run; else there is one each minute
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    single_run: bool,
    /// These blocks, whatever the other flags say; then there is only one run
    #[arg(long = "id", value_name = "ULID")]
    ids: Vec<BlockId>,
    /// Leave out blocks that are marked for deletion
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ignore_marked_for_deletion: bool,
    /// Only blocks with data after this time (2026-01-02T15:04:05Z, or -2w from now)
    #[arg(long, default_value = "0000-01-01T00:00:00Z", allow_hyphen_values = true)]
    min_time: Point,
    /// Only blocks with data before this time
    #[arg(long, default_value = "9999-12-31T23:59:59Z", allow_hyphen_values = true)]
    max_time: Point,
}

/// Which blocks are copied.
struct Choice {
    ids: Vec<BlockId>,
    matchers: Vec<Matcher>,
    resolutions: Vec<i64>,
    levels: Vec<u32>,
    from: i64,
    until: i64,
    marked: bool,
}

impl Choice {
    fn takes(&self, meta: &BlockMeta, marked: bool) -> bool {
        let labels = meta.labels();
        if labels.is_empty() || (marked && !self.marked) {
            return false;
        }
        if !self.ids.is_empty() {
            return self.ids.contains(&meta.id);
        }
        meta.max_time >= self.from
            && meta.min_time <= self.until
            && matches(&self.matchers, &labels)
            && self.resolutions.contains(&meta.resolution())
            && self.levels.contains(&u32::try_from(meta.compaction.level).unwrap_or(u32::MAX))
    }
}

fn matches(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches_labels(labels))
}

/// Matchers as people write them, with or without braces and quotes: `a=b`, `{a="b",c!~"d"}`.
fn parse(text: &str) -> anyhow::Result<Vec<Matcher>> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}').trim();
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    let quoted = if inner.contains('"') { inner.to_owned() } else { quote(inner) };
    parse_metric_selector(&format!("{{{quoted}}}"))
        .map_err(|e| anyhow::anyhow!("--matcher={text}: {e}; write it as 'cluster=\"prod\",replica=~\"a|b\"'"))
}

fn quote(text: &str) -> String {
    let one = |part: &str| {
        let part = part.trim();
        let at = part.find(['=', '!']).unwrap_or(part.len());
        let (name, rest) = part.split_at(at);
        let value = rest.trim_start_matches(['=', '!', '~']);
        let operator = rest.get(..rest.len() - value.len()).unwrap_or_default();
        format!("{}{operator}{:?}", name.trim(), value.trim())
    };
    text.split(',').map(one).collect::<Vec<_>>().join(",")
}

pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let from = super::open(objstore, world.clone())?;
    anyhow::ensure!(
        !(args.to.is_empty() && args.to_file.is_empty()),
        "give --objstore-to.config-file or --objstore-to.config: into which bucket?"
    );
    let to = crate::storage::open((&args.to, &args.to_file), world.clone())?;
    anyhow::ensure!(
        args.compaction_min <= args.compaction_max || !args.compactions.is_empty(),
        "--compaction-min is more than --compaction-max, so no block would be copied"
    );
    let levels = match args.compactions.as_slice() {
        [] => (args.compaction_min..=args.compaction_max.min(100)).collect(),
        some => some.to_vec(),
    };
    let matchers = parse(&args.matcher)?;
    let mut fetcher = Fetcher::new(from.clone());
    loop {
        let now = world.clock.now_ms();
        let choice = Choice {
            ids: args.ids.clone(),
            matchers: matchers.clone(),
            resolutions: args.resolutions.iter().map(|r| r.0).collect(),
            levels: levels.clone(),
            from: args.min_time.at(now),
            until: args.max_time.at(now),
            marked: !args.ignore_marked_for_deletion,
        };
        let done = once(&mut fetcher, &from, &to, &choice, screen).await;
        if args.single_run || !args.ids.is_empty() {
            return done;
        }
        // As in Thanos: one that failed is tried again with the next run.
        if let Err(error) = done {
            screen.note(&format!("failed, and is tried again in a minute: {error:#}"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn once(
    fetcher: &mut Fetcher,
    from: &Bucket,
    to: &Bucket,
    choice: &Choice,
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    let view = fetcher.sync().await?;
    for id in &choice.ids {
        let Some(block) = view.blocks.get(id) else { anyhow::bail!("there is no block {id} in {}", from.name()) };
        anyhow::ensure!(!block.meta.labels().is_empty(), "block {id} has no external labels: such are not copied");
    }
    let mut chosen: Vec<Arc<BlockMeta>> = view
        .blocks
        .values()
        .filter(|block| choice.takes(&block.meta, block.marks.deletion.is_some()))
        .map(|block| Arc::clone(&block.meta))
        .collect();
    // Oldest first: a compactor over there then never sees a later block before an earlier one.
    chosen.sort_by_key(|meta| (meta.min_time, meta.id));
    let (mut copied, mut there) = (0u64, 0u64);
    for (n, meta) in chosen.iter().enumerate() {
        match one(from, to, meta.id).await? {
            Some(objects) => {
                copied += 1;
                screen.note(&format!("[{}/{}] {}: {objects} objects copied", n + 1, chosen.len(), meta.id));
            }
            None => there += 1,
        }
    }
    screen.note(&format!("{copied} blocks copied, {there} were there already"));
    super::complete(&view, screen)
}

/// Copies one block; the number of objects, or none if it was there.
async fn one(from: &Bucket, to: &Bucket, id: BlockId) -> anyhow::Result<Option<u64>> {
    let path = block::object(id, block::META);
    let meta = from.get(&path, MAX_META_BYTES).await?.bytes;
    match to.get(&path, MAX_META_BYTES).await {
        Ok(there) if there.bytes == meta => return Ok(None),
        Ok(_) => {}
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e.into()),
    }
    let mut objects: Vec<(String, u64)> = Vec::new();
    let mut listed = from.list(&block::directory(id));
    while let Some(object) = listed.try_next().await? {
        let Some((_, relative)) = block::parse(&object.path) else { continue };
        // Marks stay where they are: what is to happen to a copy is decided over there.
        if download::wanted(relative) && relative != block::META {
            objects.push((object.path.clone(), object.size));
        }
    }
    let parsed = BlockMeta::read(&path, &meta)?;
    whole(&parsed, &objects).with_context(|| format!("block {id} is not whole in {}", from.name()))?;
    // Segments, then the index, then meta.json, so that a block that is visible is whole.
    objects.sort_by_key(|(path, _)| (path.ends_with(block::INDEX), path.clone()));
    let mut copied = 1;
    for (path, size) in &objects {
        match to.head(path).await {
            Ok(there) if there.size == *size => continue,
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
        let file = download::Scratch::new(from.world(), "panoptes-replicate")?;
        let target = file.0.join("object");
        download::object(from, path, *size, &target).await?;
        to.upload_file(path, &RealDisk, &target).await?;
        copied += 1;
    }
    // One that is being deleted loses its meta.json first.
    anyhow::ensure!(from.exists(&path).await?, "block {id} was deleted in {} while it was copied", from.name());
    to.put(&path, meta).await?;
    Ok(Some(copied))
}

/// Whether all is there that a block's meta.json tells of, and what every block has.
fn whole(meta: &BlockMeta, objects: &[(String, u64)]) -> anyhow::Result<()> {
    let size = |relative: &str| {
        let path = block::object(meta.id, relative);
        objects.iter().find(|(found, _)| *found == path).map(|(_, size)| *size)
    };
    anyhow::ensure!(size(block::INDEX).is_some(), "there is no index");
    let thanos = meta.thanos.as_ref();
    for file in thanos.into_iter().flat_map(|t| &t.files).filter(|file| file.rel_path != block::META) {
        let found = size(&file.rel_path).with_context(|| format!("there is no {}", file.rel_path))?;
        anyhow::ensure!(
            file.size_bytes == 0 || file.size_bytes == found,
            "{} has {found} bytes, meta.json says {}",
            file.rel_path,
            file.size_bytes
        );
    }
    for segment in thanos.into_iter().flat_map(|t| &t.segment_files) {
        size(&format!("chunks/{segment}")).with_context(|| format!("there is no chunks/{segment}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_with_and_without_quotes() {
        let labels = Labels::from_pairs([("cluster", "prod"), ("replica", "a")]);
        for (text, is) in [
            ("", true),
            ("cluster=prod", true),
            ("cluster=prod, replica=~a|b", true),
            ("{cluster=\"prod\",replica!=\"a\"}", false),
            ("cluster!~p.*", false),
        ] {
            assert_eq!(matches(&parse(text).unwrap(), &labels), is, "{text}");
        }
        assert!(parse("cluster").unwrap_err().to_string().contains("write it as"));
    }
}
