//! A block of the bucket as files in a folder.

use super::super::Fault;
use bucket::{Bucket, block};
use futures::{StreamExt as _, TryStreamExt as _};
use model::protection;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::disk::Disk;
use tsdb::marks::reason;
use tsdb::segment::{self, CHUNKS_DIR};
use tsdb::tombstones::TOMBSTONES_FILE;

/// Bytes that are fetched at once, and how many such pieces of a file at the same time. Each piece is a request that is paid for, and
/// all of them together are memory.
const PIECE: u64 = 4 << 20;
const PIECES: usize = 2;

/// Whether an object belongs to a block's data. Names in a bucket may be anything, so only these ever become files.
fn wanted(relative: &str) -> bool {
    matches!(relative, block::INDEX | TOMBSTONES_FILE)
        || relative.strip_prefix(CHUNKS_DIR).and_then(|r| r.strip_prefix('/')).and_then(segment::number).is_some()
}

/// Fetches a block into the folder `dir`. Files that are there already, as large as they are in the bucket, stay unless they are
/// to be fetched `again`.
pub(super) async fn block(
    bucket: &Bucket,
    disk: &Arc<dyn Disk>,
    meta: &BlockMeta,
    dir: &Path,
    again: bool,
) -> Result<(), Fault> {
    if again {
        disk.remove_dir(dir)?;
    }
    disk.create_dir(&dir.join(CHUNKS_DIR))?;
    let files = files(bucket, meta).await?;
    if files.is_empty() {
        let what = "none of its files is in the bucket; upload the block again, or delete it".to_owned();
        return Err(Fault::Block { block: meta.id, reason: reason::DAMAGED, what });
    }
    for (relative, size) in files {
        let target = dir.join(&relative);
        let whole = disk.exists(&target)? && (disk.size(&target)? == size || protection::off("whole-files"));
        if !whole {
            file(bucket, disk, &block::object(meta.id, &relative), size, &target).await?;
        }
    }
    tsdb::block::write_meta(&**disk, dir, meta)?;
    Ok(())
}

/// A block's files and their sizes: as its meta.json tells, or where that tells none, as they are listed.
async fn files(bucket: &Bucket, meta: &BlockMeta) -> Result<Vec<(String, u64)>, Fault> {
    let told = meta.thanos.iter().flat_map(|t| &t.files).filter(|f| f.size_bytes > 0 && wanted(&f.rel_path));
    let mut files: Vec<(String, u64)> = told.map(|f| (f.rel_path.clone(), f.size_bytes)).collect();
    if files.is_empty() {
        let mut objects = bucket.list(&block::directory(meta.id));
        while let Some(object) = objects.try_next().await? {
            if let Some((_, relative)) = block::parse(&object.path).filter(|(_, relative)| wanted(relative)) {
                files.push((relative.to_owned(), object.size));
            }
        }
    }
    Ok(files)
}

async fn file(bucket: &Bucket, disk: &Arc<dyn Disk>, path: &str, size: u64, target: &Path) -> Result<(), Fault> {
    let failed = |e: std::io::Error| Fault::Disk(tsdb::Error::io(target.display(), "write", e));
    let mut file = disk.create(target)?;
    let pieces = (0..size.div_ceil(PIECE)).map(|n| n * PIECE..((n + 1) * PIECE).min(size));
    let mut pieces = futures::stream::iter(pieces).map(|range| bucket.get_range(path, range)).buffered(PIECES);
    while let Some(bytes) = pieces.try_next().await? {
        // Handed to the page cache: short enough for an async thread.
        file.write_all(&bytes).map_err(failed)?;
    }
    file.flush().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_blocks_own_files_are_fetched() {
        assert!(["index", "tombstones", "chunks/000001"].into_iter().all(wanted));
        let foreign =
            ["meta.json", "chunks/../../x", "chunks/1", "chunks/000001/x", "../index", "deletion-mark.json", ""];
        assert!(!foreign.into_iter().any(wanted));
    }
}
