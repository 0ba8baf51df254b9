//! A block that stays while it is uploaded: hard links under `thanos/upload/<ULID>`, where Thanos has them, too. Prometheus may
//! delete or compact the block meanwhile; its bytes live until the links go.

use super::local::{self, Bad};
use args::state::SkipReason;
use model::BlockId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tsdb::disk::Disk;
use tsdb::index::INDEX_FILE;
use tsdb::meta::META_FILE;
use tsdb::segment::{CHUNKS_DIR, number};

/// Where blocks are staged, inside the data directory.
const FOLDER: &str = "thanos/upload";

/// A file to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Path within the block: `chunks/000001`, `index`.
    pub(super) rel_path: String,
    /// Size in bytes.
    pub(super) size: u64,
}

/// A staged block. Dropping it removes the links.
pub(super) struct Staged {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Segments in order, then the index.
    pub(super) files: Vec<File>,
}

/// Why a block could not be staged.
#[derive(Debug)]
pub(super) enum StageError {
    /// It is not there any more, which is normal.
    Gone,
    /// It lacks a file.
    Bad(Bad),
    /// The disk refuses.
    Disk(tsdb::Error),
}

impl Staged {
    /// Links the files of a block. What an earlier, killed process left in the same place is removed first.
    pub(super) fn new(disk: &Arc<dyn Disk>, data: &Path, id: BlockId) -> Result<Self, StageError> {
        let from = local::dir(data, id);
        let dir = data.join(FOLDER).join(id.to_string());
        let mut staged = Self { disk: Arc::clone(disk), dir, files: Vec::new() };
        match staged.link(&from) {
            Ok(()) => Ok(staged),
            Err(e) if !disk.exists(&from).unwrap_or(true) => {
                tracing::debug!(block = %id, error = ?e, "the block vanished before it could be staged");
                Err(StageError::Gone)
            }
            Err(e) => Err(e),
        }
    }

    fn link(&mut self, from: &Path) -> Result<(), StageError> {
        let disk = Arc::clone(&self.disk);
        disk.remove_dir(&self.dir).map_err(StageError::Disk)?;
        disk.create_dir(&self.dir.join(CHUNKS_DIR)).map_err(StageError::Disk)?;
        let missing = |what: &str| {
            let message = format!("{} has no {what}: take the block from a copy", from.display());
            StageError::Bad(Bad { reason: SkipReason::MissingFile, message })
        };
        let not_there = |e: tsdb::Error, what: &str| if e.is_not_found() { missing(what) } else { StageError::Disk(e) };
        let segments = disk.list(&from.join(CHUNKS_DIR)).map_err(|e| not_there(e, CHUNKS_DIR))?;
        let mut names: Vec<String> =
            segments.into_iter().filter(|s| !s.is_dir && number(&s.name).is_some()).map(|s| s.name).collect();
        names.sort();
        let link = |rel_path: &str| {
            let to = self.dir.join(rel_path);
            disk.hard_link(&from.join(rel_path), &to).map_err(|e| not_there(e, rel_path))?;
            disk.size(&to).map_err(StageError::Disk)
        };
        for rel_path in names.iter().map(|n| format!("{CHUNKS_DIR}/{n}")).chain([INDEX_FILE.to_owned()]) {
            let size = link(&rel_path)?;
            self.files.push(File { rel_path, size });
        }
        link(META_FILE)?;
        Ok(())
    }

    /// The folder with the links.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove_dir(&self.dir) {
            tracing::warn!(%error, "can't remove the links of an upload; the next start does");
        }
    }
}

/// Removes what a killed process has left.
pub(super) fn clean(disk: &dyn Disk, data: &Path) -> tsdb::Result<()> {
    disk.remove_dir(&data.join(FOLDER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tsdb::disk::RealDisk;

    fn block(data: &Path, files: &[&str]) -> BlockId {
        let id = BlockId::from_parts(1, 1);
        let dir = local::dir(data, id);
        fs::create_dir_all(dir.join(CHUNKS_DIR)).unwrap();
        for f in files {
            fs::write(dir.join(f), f).unwrap();
        }
        id
    }

    #[test]
    fn a_staged_block_outlives_its_folder() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path(), &["chunks/000002", "chunks/000001", "index", "meta.json", "tombstones"]);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        // Left by a killed process.
        fs::create_dir_all(data.path().join(FOLDER).join(id.to_string()).join("chunks/old")).unwrap();
        let staged = Staged::new(&disk, data.path(), id).unwrap();
        fs::remove_dir_all(local::dir(data.path(), id)).unwrap();
        let files: Vec<&str> = staged.files.iter().map(|f| f.rel_path.as_str()).collect();
        assert_eq!(files, ["chunks/000001", "chunks/000002", "index"], "tombstones stay, as with Thanos");
        assert_eq!(fs::read_to_string(staged.dir().join("chunks/000002")).unwrap(), "chunks/000002");
        assert_eq!(staged.files[2].size, 5);
        drop(staged);
        assert_eq!(fs::read_dir(data.path().join(FOLDER)).unwrap().count(), 0);
        assert!(matches!(Staged::new(&disk, data.path(), id), Err(StageError::Gone)));
        clean(&*disk, data.path()).unwrap();
        assert!(!data.path().join(FOLDER).exists());
    }

    #[test]
    fn a_missing_file_is_named() {
        for (files, missing) in
            [(&["chunks/000001", "meta.json"][..], "index"), (&["chunks/000001", "index"], "meta.json")]
        {
            let data = tempfile::tempdir().unwrap();
            let id = block(data.path(), files);
            let disk: Arc<dyn Disk> = Arc::new(RealDisk);
            match Staged::new(&disk, data.path(), id) {
                Err(StageError::Bad(bad)) => {
                    assert!(bad.reason == SkipReason::MissingFile && bad.message.contains(missing), "{bad:?}");
                }
                other => panic!("{:?}", other.err()),
            }
            assert!(!data.path().join(FOLDER).join(id.to_string()).exists());
        }
    }
}
