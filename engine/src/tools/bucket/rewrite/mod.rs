//! `panoptes tools bucket rewrite`: a new block of one, without some of its series or samples, or with other labels.

mod change;

use super::download::{self, Scratch};
use super::format::duration;
use super::{Objstore, Screen};
use crate::compact::alone;
use crate::server::expand::expand;
use crate::storage::relabel::{Relabel, Use};
use anyhow::Context as _;
use bucket::fetch::Fetcher;
use bucket::lease::Lease;
use bucket::{Bucket, block, mark};
use change::{Change, Deletion};
use model::BlockId;
use model::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tsdb::BlockMeta;
use tsdb::block::{Block, Written, health};
use tsdb::disk::RealDisk;
use tsdb::index::INDEX_FILE;
use tsdb::marks::DeletionMark;
use tsdb::meta::{File, MAX_META_BYTES, META_FILE, Rewrite, UploadTime, source};
use tsdb::segment::CHUNKS_DIR;

/// What Thanos's mark says of a block that was rewritten.
const REWRITTEN: &str = "block rewritten";
/// The list of changes, beside the block's files.
const CHANGE_LOG: &str = "change.log";

/// Flags of `rewrite`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Deletions are a list: each takes all series that all its matchers match, whole, or in its intervals (ms, both ends \
inclusive):
  - matchers: '{__name__=\"secrets_seen\",job=\"web\"}'
    intervals: [{mint: 1700000000000, maxt: 1700003600000}]
Relabelling is Prometheus's, done first; a series that loses all labels is deleted, series that become equal become one:
  - {action: labeldrop, regex: user}

First without --no-dry-run: the changes are printed. Then with it, and --delete-blocks, so that the old block is not served beside the new \
one. The block's own time and external labels stay."
)]
pub(super) struct Args {
    /// The blocks
    #[arg(long = "id", value_name = "ULID", required = true)]
    ids: Vec<BlockId>,
    /// Folder for temporary files; one of its own is made inside
    #[arg(long = "tmp.dir", value_name = "FOLDER")]
    tmp: Option<PathBuf>,
    /// Only print the changes
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: bool,
    /// What is to be deleted, as YAML
    #[arg(long = "rewrite.to-delete-config", default_value = "", hide_default_value = true, value_name = "YAML")]
    delete: String,
    /// The same, in a file
    #[arg(long = "rewrite.to-delete-config-file", default_value = "", hide_default_value = true, value_name = "FILE")]
    delete_file: String,
    /// How series are relabelled, as YAML
    #[arg(long = "rewrite.to-relabel-config", default_value = "", hide_default_value = true, value_name = "YAML")]
    relabel: String,
    /// The same, in a file
    #[arg(long = "rewrite.to-relabel-config-file", default_value = "", hide_default_value = true, value_name = "FILE")]
    relabel_file: String,
    /// Put the list of changes beside the new block, as change.log
    #[arg(long = "rewrite.add-change-log", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    change_log: bool,
    /// The blocks are a Prometheus's own, without Thanos's part in their meta.json
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    prom_blocks: bool,
    /// Mark the old blocks for deletion
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    delete_blocks: bool,
}

/// The text of a setting that comes as content or as a file.
fn text(flag: &str, content: &str, file: &str) -> anyhow::Result<Option<String>> {
    let text = match (content.is_empty(), file.is_empty()) {
        (true, true) => return Ok(None),
        (false, true) => content.to_owned(),
        (true, false) => std::fs::read_to_string(file).with_context(|| format!("--{flag}-file: read {file}"))?,
        (false, false) => anyhow::bail!("--{flag} and --{flag}-file are two forms of one setting: give one of them"),
    };
    Ok(Some(expand(&text, |name| std::env::var(name).ok()).map_err(|e| anyhow::anyhow!("--{flag}: {e}"))?))
}

pub(super) async fn run(
    args: &Args,
    objstore: &Objstore,
    (world, stop): (World, &CancellationToken),
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    let relabel = text("rewrite.to-relabel-config", &args.relabel, &args.relabel_file)?;
    let delete = text("rewrite.to-delete-config", &args.delete, &args.delete_file)?;
    anyhow::ensure!(
        relabel.is_some() || delete.is_some(),
        "what is to change? Give --rewrite.to-delete-config-file or --rewrite.to-relabel-config-file"
    );
    let change = Arc::new(Change {
        relabel: relabel
            .map(|yaml| Relabel::parse(&yaml, Use::Change))
            .transpose()
            .context("--rewrite.to-relabel-config")?,
        deletions: delete
            .map(|yaml| Deletion::parse(&yaml))
            .transpose()
            .context("--rewrite.to-delete-config")?
            .unwrap_or_default(),
    });
    let bucket = super::open(objstore, world)?;
    // All of them, before the first is rewritten.
    let mut streams = BTreeSet::new();
    for id in &args.ids {
        let path = block::object(*id, block::META);
        let meta = match bucket.get(&path, MAX_META_BYTES).await {
            Err(e) if e.is_not_found() => anyhow::bail!("there is no block {id} in {}", bucket.name()),
            meta => BlockMeta::read(&path, &meta?.bytes)?,
        };
        streams.insert(meta.labels());
        if marked(&bucket, *id).await? {
            // Where they can't be told, the refusal is the same.
            let left = copies(&bucket, &meta).await.unwrap_or_default();
            let left: Vec<String> = left.keys().map(BlockId::to_string).collect();
            let of_it =
                if left.is_empty() { String::new() } else { format!("; downsampled of it: {}", left.join(" ")) };
            anyhow::bail!(
                "block {id} is marked for deletion: its data is in another block, which is the one to rewrite{of_it}"
            );
        }
    }
    let mut all = async |lease: Option<&Lease>| {
        for id in &args.ids {
            one(args, (&bucket, lease), *id, &change, screen).await.with_context(|| format!("block {id}"))?;
        }
        Ok(())
    };
    if args.dry_run {
        return all(None).await;
    }
    // A compaction that is under way would bring back what goes here.
    alone(&bucket, &streams, stop, async |lease| all(Some(lease)).await).await
}

/// Blocks of a coarser resolution that hold some of a block, which keep what goes: whether all that they hold is of this block.
async fn copies(bucket: &Bucket, old: &BlockMeta) -> anyhow::Result<BTreeMap<BlockId, (i64, bool)>> {
    let sources = |meta: &BlockMeta| -> BTreeSet<BlockId> {
        let own = meta.compaction.sources.is_empty().then_some(meta.id);
        meta.compaction.sources.iter().copied().chain(own).collect()
    };
    let view = Fetcher::new(bucket.clone()).sync().await?;
    // One that was rewritten before names what it was then.
    let before = old.thanos.iter().flat_map(|t| &t.rewrites).flat_map(|r| r.sources.iter().copied());
    let of_old: BTreeSet<BlockId> = sources(old).into_iter().chain(before).collect();
    if let Some(error) = view.errors.first() {
        anyhow::bail!("which coarser blocks hold its data can't be told: {error}");
    }
    let coarser = view.blocks.values().filter(|b| b.marks.deletion.is_none() && b.meta.resolution() > old.resolution());
    let of_it = coarser.filter_map(|b| {
        let all = sources(&b.meta);
        let some = !all.is_disjoint(&of_old) && b.meta.labels() == old.labels();
        some.then(|| (b.meta.id, (b.meta.resolution(), all.is_subset(&of_old))))
    });
    Ok(of_it.collect())
}

async fn marked(bucket: &Bucket, id: BlockId) -> anyhow::Result<bool> {
    Ok(bucket.exists(&block::object(id, block::DELETION_MARK)).await?)
}

async fn one(
    args: &Args,
    (bucket, lease): (&Bucket, Option<&Lease>),
    id: BlockId,
    change: &Arc<Change>,
    screen: &mut Screen<'_>,
) -> anyhow::Result<()> {
    let world = bucket.world();
    let scratch = match &args.tmp {
        Some(folder) => Scratch::below(folder, world, "panoptes-rewrite")?,
        None => Scratch::new(world, "panoptes-rewrite")?,
    };
    let (out, log) = (scratch.0.join("new"), scratch.0.join(CHANGE_LOG));
    std::fs::create_dir_all(&out)?;
    screen.note(&format!("{id}: fetching"));
    let fetched = download::block_into(bucket, id, Scratch::below(&scratch.0, world, "old")?).await?;
    let new_id = BlockId::new(world.clock.now_ms(), &*world.entropy);
    let (sender, mut progress) = tokio::sync::mpsc::channel::<String>(16);
    let work = {
        let (change, folder, log, dry) = (Arc::clone(change), fetched.block.clone(), log.clone(), args.dry_run);
        let prom = args.prom_blocks;
        let mut told = 0;
        let mut tell = move |done: usize, all: usize| {
            let tenth = done * 10 / all.max(1);
            if tenth > told {
                told = tenth;
                // Nobody may be listening.
                let _ = sender.try_send(format!("{id}: {}% of {all} series", tenth * 10));
            }
        };
        tokio::task::spawn_blocking(move || {
            make(&change, &folder, (!dry).then_some((&*out, new_id, prom)), &log, &mut tell)
        })
    };
    while let Some(line) = progress.recv().await {
        screen.note(&line);
    }
    let made = work.await??;
    let lines = told(&log, screen)?;
    let copies = copies(bucket, &tsdb::block::read_meta(&RealDisk, &fetched.block)?).await?;
    for (copy, (resolution, is_whole)) in &copies {
        let what = match (args.delete_blocks, is_whole) {
            (true, true) => "it is marked, too, and made anew of the new block",
            (_, true) => "mark it for deletion when the new block is there, so that it is made anew",
            (_, false) => "and data of other blocks: rewrite it, too",
        };
        screen
            .note(&format!("{id}: block {copy} ({}) holds what was downsampled of it: {what}", duration(*resolution)));
    }
    let check = || lease.map_or(Ok(()), Lease::check);
    if args.dry_run {
        screen.note(&format!("{id}: {lines} changes, and nothing was written; --no-dry-run makes the new block"));
        return Ok(());
    }
    match made {
        Some(written) => {
            let there = bucket.exists(&block::object(id, block::META)).await?;
            anyhow::ensure!(
                there && !marked(bucket, id).await?,
                "it was compacted or deleted meanwhile: stop the compactor, and rewrite the block that has its data now"
            );
            let meta = send((bucket, lease), &written, args, &log).await?;
            screen.note(&format!("{id}: {lines} changes; the new block is {}", meta.id));
        }
        None => screen.note(&format!("{id}: {lines} changes; no series is left, so there is no new block")),
    }
    if args.delete_blocks {
        // The block itself last: until it is marked, the same can be done once more.
        let copies = copies.into_iter().filter(|(_, (_, is_whole))| *is_whole).map(|(copy, _)| copy);
        for id in copies.chain([id]) {
            let mark = DeletionMark::new(id, world.clock.now_ms() / 1000, REWRITTEN);
            check()?;
            mark::create(bucket, &mark).await?;
            screen.note(&format!("{id}: marked for deletion"));
        }
    } else {
        screen.note(&format!("{id}: stays; mark it with --delete-blocks or `tools bucket mark`, else both are served"));
    }
    Ok(())
}

/// Prints the list of changes; how many there are.
fn told(log: &Path, screen: &mut Screen<'_>) -> anyhow::Result<u64> {
    let mut lines = 0;
    for line in std::io::BufReader::new(std::fs::File::open(log)?).lines() {
        writeln!(screen.out, "{}", line?)?;
        lines += 1;
    }
    Ok(lines)
}

/// Makes the new block, if there is a place for it, and the list of changes. Blocks.
fn make(
    change: &Change,
    folder: &Path,
    into: Option<(&Path, BlockId, bool)>,
    log: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Option<Written>> {
    let block = Block::open(&RealDisk, folder)?;
    anyhow::ensure!(
        block.tombstones().stones().is_empty(),
        "it has tombstones, which would be lost: let the compactor apply them first"
    );
    let mut log = std::io::BufWriter::new(std::fs::File::create(log)?);
    let into = into.map(|(parent, id, prom)| (parent, rewritten(block.meta(), id, prom, change)));
    let made = change.make(&RealDisk, &block, into, &mut log, progress)?;
    if let Some(written) = &made {
        let report = health::check(&RealDisk, &written.dir, &health::Options::default());
        anyhow::ensure!(
            report.is_healthy(),
            "a mistake of ours, please report it: the new block is not sound: {}; nothing was changed",
            report.first_of_worst().map(ToString::to_string).unwrap_or_default()
        );
    }
    Ok(made)
}

/// The meta.json of the new block.
fn rewritten(old: &BlockMeta, id: BlockId, prom: bool, change: &Change) -> BlockMeta {
    let mut meta = old.clone();
    let sources = std::mem::replace(&mut meta.compaction.sources, vec![id]);
    meta.id = id;
    if prom && meta.thanos.is_none() {
        return meta;
    }
    let thanos = meta.thanos.get_or_insert_default();
    thanos.rewrites.push(Rewrite {
        sources,
        deletions_applied: change.deletions.iter().map(Deletion::written).collect(),
        relabels_applied: change.relabel.as_ref().map(Relabel::written).unwrap_or_default(),
        unknown: Default::default(),
    });
    source::BUCKET_REWRITE.clone_into(&mut thanos.source);
    thanos.upload_time = UploadTime::default();
    meta
}

/// Sends the new block, meta.json last.
async fn send(
    (bucket, lease): (&Bucket, Option<&Lease>),
    written: &Written,
    args: &Args,
    log: &Path,
) -> anyhow::Result<BlockMeta> {
    let check = || lease.map_or(Ok(()), Lease::check);
    let mut meta = written.meta.clone();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(written.dir.join(CHUNKS_DIR))? {
        let entry = entry?;
        files.push((format!("{CHUNKS_DIR}/{}", entry.file_name().to_string_lossy()), entry.metadata()?.len()));
    }
    files.sort();
    files.push((INDEX_FILE.to_owned(), std::fs::metadata(written.dir.join(INDEX_FILE))?.len()));
    if let Some(thanos) = &mut meta.thanos {
        anyhow::ensure!(
            args.prom_blocks || !thanos.labels.is_empty(),
            "it has no external labels, so it would be nobody's; --prom-blocks allows that"
        );
        let segment = |(path, _): &(String, u64)| path.strip_prefix("chunks/").map(str::to_owned);
        thanos.segment_files = files.iter().filter_map(segment).collect();
        thanos.index_stats.series_max_size = written.index.series_max_size;
        thanos.index_stats.chunk_max_size = written.chunk_max_size;
        thanos.files =
            files.iter().map(|(path, size)| File::new(path, *size)).chain([File::new(META_FILE, 0)]).collect();
        thanos.files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
        thanos.upload_time = UploadTime::from_ms(bucket.world().clock.now_ms());
    }
    for (path, _) in &files {
        check()?;
        bucket.upload_file(&block::object(meta.id, path), &RealDisk, &written.dir.join(path)).await?;
    }
    if args.change_log {
        check()?;
        bucket.upload_file(&block::object(meta.id, CHANGE_LOG), &RealDisk, log).await?;
    }
    if let Some(lease) = lease {
        lease.confirm().await?;
    }
    bucket.create(&block::object(meta.id, block::META), meta.write()?).await?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsdb::meta::Thanos;

    #[tokio::test]
    async fn coarser_copies_are_found_and_those_of_other_blocks_told_apart() {
        let bucket = Bucket::memory(bucket::Options::new(World::real()));
        let id = |n: u64| BlockId::from_parts(n, 1);
        let block = |n: u64, resolution: i64, sources: &[u64], cluster: &str| {
            let mut meta = BlockMeta::new(id(n), 0, 1);
            meta.compaction.sources = sources.iter().map(|n| id(*n)).collect();
            let mut thanos =
                Thanos { labels: [("cluster".to_owned(), cluster.to_owned())].into(), ..Thanos::default() };
            thanos.downsample.resolution = resolution;
            meta.thanos = Some(thanos);
            meta
        };
        let old = block(9, 0, &[1, 2], "a");
        let others = [
            block(10, 300_000, &[1, 2], "a"),
            block(11, 3_600_000, &[1, 2, 3], "a"),
            block(12, 300_000, &[4], "a"),
            block(13, 300_000, &[1, 2], "b"),
            block(14, 0, &[1, 2, 3], "a"),
        ];
        for meta in others.iter().chain([&old]) {
            bucket.put(&block::object(meta.id, block::META), meta.write().unwrap()).await.unwrap();
        }
        let found = copies(&bucket, &old).await.unwrap();
        assert_eq!(found, [(id(10), (300_000, true)), (id(11), (3_600_000, false))].into());
        // As it is after it was rewritten.
        let mut anew = block(20, 0, &[20], "a");
        let rewrite = Rewrite { sources: vec![id(1), id(2)], ..Rewrite::default() };
        anew.thanos.as_mut().unwrap().rewrites.push(rewrite);
        assert_eq!(copies(&bucket, &anew).await.unwrap(), found);
    }
}
