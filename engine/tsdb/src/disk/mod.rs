//! The files of blocks: the only door to a disk for whoever reads and writes blocks.
//!
//! What is written for good goes through [`replace`] or [`TempFile`]: a temporary file beside the target, fsync, rename,
//! fsync of the folder. A crash leaves the old file or the new one, never half of one, and at most a stray `*.tmp`.
//! Files that lie under their final name are never changed, so they can be mapped into memory. A temporary file may be mapped by
//! its own writer, up to where it has been written: it is never made shorter, and another writer of the same name gets a file
//! of its own.

#[cfg(test)]
mod conformance;
mod map;
pub mod memory;
mod real;

pub use memory::MemoryDisk;
pub use real::RealDisk;

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// The ending of files that are being written. Whoever finds one at start may remove it.
pub const TEMP_SUFFIX: &str = ".tmp";

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name within its folder. Names that are not UTF-8 are left out of listings: no block file has one.
    pub name: String,
    /// True for a folder. Links are followed.
    pub is_dir: bool,
    /// Size in bytes; 0 for a folder.
    pub size: u64,
}

/// A file that is being written. Dropping it closes it without fsync.
pub trait FileWriter: io::Write + Send {
    /// Overwrites bytes that have been written before, at `offset` from the start; the end stays where it is.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Hands everything to the device (fsync).
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read in parts, without mapping it.
pub trait FileReader: Send + Sync {
    /// Size in bytes when it was opened.
    fn size(&self) -> u64;
    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the disk refuses, or the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// A whole file that is passed through once. Mapped pages count as memory of the process, so give back what was read from time
/// to time.
pub struct Passing {
    bytes: Bytes,
    release: Option<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Passing {
    /// A file whose bytes are in memory anyway.
    pub fn held(bytes: Bytes) -> Self {
        Self { bytes, release: None }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Gives back the memory of what was read so far; what is read again comes from the file again.
    pub fn release(&self) {
        if let Some(release) = &self.release {
            release();
        }
    }
}

/// A disk. All calls block: run them off the async threads.
///
/// # Errors
/// Every call names the file in its error; a missing one is told by [`Error::is_not_found`].
pub trait Disk: Send + Sync + 'static {
    /// A whole file, for reading in any order: mapped into memory, or in it. The file must not be changed afterwards;
    /// removing or renaming it is fine.
    fn open(&self, path: &Path) -> Result<Bytes>;
    /// As [`Disk::open`], for a large file that is read once, more or less in order.
    fn open_passing(&self, path: &Path) -> Result<Passing> {
        self.open(path).map(Passing::held)
    }
    /// A file for reading in parts: for large ones that are read once, since mapped pages count as memory.
    fn reader(&self, path: &Path) -> Result<Box<dyn FileReader>>;
    /// A whole small file, read into memory; one that is larger than `max` bytes is refused.
    fn read(&self, path: &Path, max: u64) -> Result<Bytes>;
    /// Size of a file in bytes.
    fn size(&self, path: &Path) -> Result<u64>;
    /// What a folder holds, by name.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>>;
    /// Creates a file for writing. What had this name loses it, and is not emptied: it may be mapped by whoever has it open.
    /// Buffered. Use [`TempFile`] for what must last.
    fn create(&self, path: &Path) -> Result<Box<dyn FileWriter>>;
    /// Creates a folder and those above it.
    fn create_dir(&self, dir: &Path) -> Result<()>;
    /// Renames a file or folder; a file in its place is replaced at once.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Gives a file a second name, which keeps its bytes when the first is removed.
    fn hard_link(&self, from: &Path, to: &Path) -> Result<()>;
    /// Makes what happened to the names of a folder last (fsync of the folder).
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    /// Removes a file; a missing one is fine.
    fn remove_file(&self, path: &Path) -> Result<()>;
    /// Removes a folder with all that is in it; a missing one is fine.
    fn remove_dir(&self, dir: &Path) -> Result<()>;
    /// True if the file or folder is there.
    fn exists(&self, path: &Path) -> Result<bool> {
        match self.size(path) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// A file that gets its name only when it is complete and on the device.
pub struct TempFile<'a> {
    disk: &'a dyn Disk,
    temp: PathBuf,
    target: PathBuf,
    file: Option<Box<dyn FileWriter>>,
}

impl<'a> TempFile<'a> {
    /// Begins `target`, as `<target>.tmp`.
    ///
    /// # Errors
    /// When the file can't be created.
    pub fn create(disk: &'a dyn Disk, target: &Path) -> Result<Self> {
        let mut temp = target.as_os_str().to_owned();
        temp.push(TEMP_SUFFIX);
        let temp = PathBuf::from(temp);
        let file = Some(disk.create(&temp)?);
        Ok(Self { disk, temp, target: target.to_owned(), file })
    }

    /// Where the bytes lie until [`TempFile::commit`].
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Appends.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.with(|f| f.write_all(bytes))
    }

    /// Overwrites bytes that were appended before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.with(|f| f.write_at(offset, bytes))
    }

    /// Hands buffered bytes to the operating system, so that [`Disk::open`] of [`TempFile::path`] sees them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&mut self) -> Result<()> {
        self.with(|f| f.flush())
    }

    fn with(&mut self, f: impl FnOnce(&mut dyn FileWriter) -> io::Result<()>) -> Result<()> {
        match &mut self.file {
            Some(file) => f(file.as_mut()).map_err(|e| Error::io(self.temp.display(), "write", e)),
            None => Err(Error::refused(self.temp.display(), "write", "the file is closed")),
        }
    }

    /// fsync, rename to the target, fsync of its folder.
    ///
    /// # Errors
    /// When the disk refuses; the target is then as it was before.
    pub fn commit(mut self) -> Result<()> {
        self.with(|f| f.flush().and_then(|()| f.sync()))?;
        drop(self.file.take());
        self.disk.rename(&self.temp, &self.target)?;
        self.disk.sync_dir(parent(&self.target))
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Given up: a stray temporary file does no harm, so a refusal here is none of the caller's business.
            let _ = self.disk.remove_file(&self.temp);
        }
    }
}

/// Writes a whole file for good: temporary file, fsync, rename, fsync of the folder.
///
/// # Errors
/// When the disk refuses; the file is then as it was before.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = TempFile::create(disk, path)?;
    file.write(bytes)?;
    file.commit()
}

/// Refuses a file of this size where such a file has `max` bytes at most.
fn bounded(path: &Path, size: u64, max: u64) -> Result<()> {
    if size > max {
        let what = format!("the file is larger than the {max} bytes that such a file may have");
        return Err(Error::new(path.display(), "read", max, ErrorKind::Corrupt(what)));
    }
    Ok(())
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}
