//! A block of the bucket as files in a folder of its own, removed when dropped.

use anyhow::Context as _;
use bucket::{Bucket, block};
use futures::TryStreamExt as _;
use model::BlockId;
use model::world::World;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tsdb::segment::{self, CHUNKS_DIR};
use tsdb::tombstones::TOMBSTONES_FILE;

/// Bytes that are fetched at once.
const PIECE: u64 = 4 << 20;

/// A folder of its own, removed when dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Makes it below the system's folder for such.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn new(world: &World, name: &str) -> anyhow::Result<Self> {
        Self::below(&std::env::temp_dir(), world, name)
    }

    /// Makes it below another folder.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn below(parent: &Path, world: &World, name: &str) -> anyhow::Result<Self> {
        let folder = parent.join(format!("{name}-{:016x}", world.entropy.next_u64()));
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), "a temporary folder can't be removed: {e}");
        }
    }
}

/// The folder.
pub(super) struct Downloaded {
    /// Removes it.
    _root: Scratch,
    /// The block inside of it.
    pub(super) block: PathBuf,
    /// Bytes of its files.
    pub(super) bytes: u64,
}

/// Whether an object belongs to a block's data. Names in a bucket may be anything, so only these ever become files.
pub(super) fn wanted(relative: &str) -> bool {
    matches!(relative, block::META | block::INDEX | TOMBSTONES_FILE)
        || relative.strip_prefix(CHUNKS_DIR).and_then(|r| r.strip_prefix('/')).and_then(segment::number).is_some()
}

/// Fetches a block.
///
/// # Errors
/// When the bucket or the disk refuses.
pub(super) async fn block(bucket: &Bucket, id: BlockId) -> anyhow::Result<Downloaded> {
    block_into(bucket, id, Scratch::new(bucket.world(), "panoptes-verify")?).await
}

/// Fetches a block into a folder of this one.
///
/// # Errors
/// When the bucket or the disk refuses.
pub(super) async fn block_into(bucket: &Bucket, id: BlockId, root: Scratch) -> anyhow::Result<Downloaded> {
    let folder = root.0.join(id.to_string());
    std::fs::create_dir_all(folder.join(CHUNKS_DIR)).with_context(|| format!("create {}", folder.display()))?;
    let mut downloaded = Downloaded { _root: root, block: folder, bytes: 0 };
    let mut objects = bucket.list(&block::directory(id));
    while let Some(meta) = objects.try_next().await? {
        let Some((_, relative)) = block::parse(&meta.path) else { continue };
        if wanted(relative) {
            object(bucket, &meta.path, meta.size, &downloaded.block.join(relative)).await?;
            downloaded.bytes += meta.size;
        }
    }
    Ok(downloaded)
}

/// Fetches an object into a file.
///
/// # Errors
/// When the bucket or the disk refuses.
pub(super) async fn object(bucket: &Bucket, path: &str, size: u64, target: &Path) -> anyhow::Result<()> {
    let full = || format!("write {}", target.display());
    let mut file = std::fs::File::create(target).with_context(full)?;
    let mut at = 0;
    while at < size {
        let end = (at + PIECE).min(size);
        let bytes = bucket.get_range(path, at..end).await?;
        file.write_all(&bytes).with_context(full)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_blocks_own_files_are_fetched() {
        assert!(["meta.json", "index", "tombstones", "chunks/000001"].into_iter().all(wanted));
        let foreign =
            ["chunks/../../x", "chunks/1", "chunks/000001/x", "index/x", "../index", "deletion-mark.json", ""];
        assert!(!foreign.into_iter().any(wanted));
    }
}
