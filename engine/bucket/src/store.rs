//! What every provider must be able to do, one request at a time. Services use [`crate::Bucket`].

use crate::Result;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tsdb::disk::{Disk, FileReader};

/// The state of an object at one moment, opaque. An update based on it fails when the object changed since.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Version {
    /// The entity tag.
    pub etag: Option<String>,
    /// The generation (GCS), which conditions need there.
    pub generation: Option<String>,
}

impl Version {
    /// Whether nothing is known: an update can't be based on it.
    pub fn is_unknown(&self) -> bool {
        self.etag.is_none() && self.generation.is_none()
    }
}

/// What the store tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its name inside the bucket, without the configured prefix.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, in ms since the epoch, by the store's clock.
    pub modified_ms: i64,
    /// Its version, where a listing tells it.
    pub version: Version,
}

/// A whole object.
#[derive(Debug, Clone)]
pub struct Object {
    /// What the store tells of it.
    pub meta: Meta,
    /// All its bytes.
    pub bytes: Bytes,
}

/// One name of a one-level listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A "directory": a name that others begin with; ends with a slash.
    Directory(String),
    /// An object.
    Object(Meta),
}

impl Entry {
    /// The name.
    pub fn path(&self) -> &str {
        match self {
            Self::Directory(path) => path,
            Self::Object(meta) => &meta.path,
        }
    }
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The names, in no particular order.
    pub entries: Vec<Entry>,
    /// Ask with this for the next page; none: this was the last one.
    pub next: Option<String>,
}

/// Under which condition a write happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// In any case.
    None,
    /// Only when there is no such object.
    Absent,
    /// Only when the object still has this version.
    Unchanged(Version),
}

/// Where the bytes of an upload come from. Read more than once when the upload is tried again.
pub trait Source: Send + Sync + Debug + 'static {
    /// All bytes, a length that must not change while the upload runs.
    fn size(&self) -> u64;
    /// Reads exactly `length` bytes at `offset`; may block.
    ///
    /// # Errors
    /// When the file can't be read or became shorter.
    fn read(&self, offset: u64, length: usize) -> std::io::Result<Bytes>;
}

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match start.checked_add(length) {
            Some(end) if end <= self.len() => Ok(self.slice(start..end)),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A file of a block on disk.
pub struct FileSource {
    reader: Box<dyn FileReader>,
    path: PathBuf,
}

impl Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl FileSource {
    /// Opens a file.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(disk: &dyn Disk, path: &Path) -> tsdb::Result<Self> {
        Ok(Self { reader: disk.reader(path)?, path: path.to_owned() })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        let mut buffer = vec![0; length];
        self.reader.read_at(offset, &mut buffer).map_err(std::io::Error::other)?;
        Ok(buffer.into())
    }
}

/// Bytes that a store which can't give them as they come gives at a time.
const STEP: u64 = 512 << 10;

/// Where the bytes of a read go while they come, so that nobody has to hold all of them.
#[async_trait]
pub trait Sink: Send {
    /// The next bytes, behind `before` bytes of the range. An attempt that broke off begins again at 0.
    async fn take(&mut self, before: u64, bytes: Bytes);
}

/// A provider. Every call is one attempt; paths are checked and carry the configured prefix already. An implementation gives
/// each failure its meaning and sets `uncertain` on writes whose answer was lost.
#[async_trait]
pub trait Store: Send + Sync + Debug + 'static {
    /// The bytes of an object, or of a part of it, at most `max` bytes.
    ///
    /// # Errors
    /// `NotFound`; `TooLarge` before more than `max` bytes were read; `Corrupt` when fewer came than announced.
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object>;

    /// The bytes of a part of an object as they come; gives how many came.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    async fn get_into(&self, path: &str, range: Range<u64>, sink: &mut dyn Sink) -> Result<u64> {
        // Where bytes can't be had as they come: step by step, since nobody is to hold all of them.
        let mut at = range.start;
        while at < range.end {
            let step = STEP.min(range.end - at);
            let bytes = self.get(path, Some(at..at + step), step).await?.bytes;
            let before = at - range.start;
            at += bytes.len() as u64;
            let is_short = (bytes.len() as u64) < step;
            sink.take(before, bytes).await;
            if is_short {
                break;
            }
        }
        Ok(at - range.start)
    }

    /// What the store tells of an object.
    ///
    /// # Errors
    /// `NotFound`.
    async fn head(&self, path: &str) -> Result<Meta>;

    /// One page of the names that begin with `prefix` (empty, or with a slash at its end): all of them, or with `one_level` the
    /// objects and directories directly under it.
    ///
    /// # Errors
    /// As the store says; a prefix that nothing begins with is an empty page.
    async fn list(&self, prefix: &str, one_level: bool, token: Option<String>) -> Result<Page>;

    /// Writes a whole small object at once, atomically.
    ///
    /// # Errors
    /// `Exists`, `Changed`, `Unsupported`.
    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version>;

    /// Writes a whole object from a source, atomically, in one request, without holding it in memory.
    ///
    /// # Errors
    /// `Local` when the source fails, `Corrupt` when the store's checksum differs.
    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version>;

    /// Begins an upload in parts; nothing is visible until it is completed.
    ///
    /// # Errors
    /// `Unsupported` where there is no such thing: use [`upload`](Self::upload).
    async fn begin_parts(&self, path: &str) -> Result<String>;

    /// Sends part `index` (from 0); gives what completing needs.
    ///
    /// # Errors
    /// As the store says.
    async fn put_part(&self, path: &str, id: &str, index: usize, body: Bytes) -> Result<String>;

    /// Makes the object of its parts, atomically.
    ///
    /// # Errors
    /// As the store says.
    async fn complete_parts(&self, path: &str, id: &str, parts: Vec<String>) -> Result<Version>;

    /// Gives up an upload in parts.
    ///
    /// # Errors
    /// As the store says.
    async fn abort_parts(&self, path: &str, id: &str) -> Result<()>;

    /// Deletes an object; one that is not there is a success.
    ///
    /// # Errors
    /// `Denied` and the like.
    async fn delete(&self, path: &str) -> Result<()>;
}
