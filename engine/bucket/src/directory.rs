//! A bucket in a directory, the same files as Thanos's FILESYSTEM: one file per object, empty directories removed.
//!
//! Writes go to a temporary file, are synced, and moved into place, so a reader sees all or nothing, also after a crash.
//! Conditions hold between all processes that use this module on the directory: every change happens under an exclusive
//! `flock` on `.panoptes/lock`. Object versions are file times, which this module makes strictly increasing per object.
//! A foreign writer (Thanos) takes no lock: against it a create is still exact (a hard link never replaces), an update isn't.
//!
//! A temporary file is locked while it is written, and a lock ends with its process: the first write of each process removes
//! the temporary files that nobody holds, which killed uploads have left.

use crate::error::{Error, Kind, Operation};
use crate::store::{Condition, Entry, Meta, Object, Page, Source, Store, Version};
use crate::{Result, path};
use async_trait::async_trait;
use bytes::Bytes;
use model::world::Entropy;
use std::fs::{self, File, FileTimes, Metadata};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Our own folder inside the directory; never listed.
const OURS: &str = ".panoptes";
/// The file in it whose lock every change holds.
const LOCK: &str = "lock";
/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// A bucket in a directory.
#[derive(Clone)]
pub struct Directory {
    root: PathBuf,
    entropy: Arc<dyn Entropy>,
    /// What killed processes left was removed.
    swept: Arc<AtomicBool>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "directory {}", self.root.display())
    }
}

impl Directory {
    /// The bucket in `root`. The directory is made with the first write.
    pub fn new(root: impl Into<PathBuf>, entropy: Arc<dyn Entropy>) -> Self {
        Self { root: root.into(), entropy, swept: Arc::default() }
    }

    fn file(&self, path: &str, operation: Operation) -> Result<PathBuf> {
        path::check(path, operation)?;
        Ok(self.root.join(path))
    }

    /// Runs file work away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        path: &str,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || work(&this)).await {
            Ok(result) => result,
            Err(e) => Err(Error::new(Kind::Unavailable, operation, path, format!("the file work ended: {e}"))),
        }
    }

    /// All changes happen under this lock; it ends with the file.
    fn lock(&self) -> std::io::Result<File> {
        let dir = self.root.join(OURS);
        fs::create_dir_all(&dir)?;
        let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }

    /// A new temporary file, locked as long as it is open. Made under the lock, so that nobody finds it before it is locked.
    fn begin(&self) -> std::io::Result<(PathBuf, File)> {
        let _lock = self.lock()?;
        let dir = self.root.join(OURS);
        if !self.swept.swap(true, Ordering::Relaxed) {
            sweep(&dir)?;
        }
        let name = dir.join(format!("{}-{:016x}", std::process::id(), self.entropy.next_u64()));
        let file = File::options().write(true).create_new(true).open(&name)?;
        file.lock()?;
        Ok((name, file))
    }

    /// A synced temporary file with the bytes of `source`.
    fn temporary(&self, source: &dyn Source) -> std::io::Result<(PathBuf, File)> {
        let (name, mut file) = self.begin()?;
        let written = (|| {
            let size = source.size();
            let mut offset = 0u64;
            while offset < size {
                let length = usize::try_from(size - offset).map_or(COPY, |rest| rest.min(COPY));
                file.write_all(&source.read(offset, length)?)?;
                offset += length as u64;
            }
            file.sync_all()
        })();
        match written {
            Ok(()) => Ok((name, file)),
            Err(e) => {
                let _ = fs::remove_file(&name);
                Err(e)
            }
        }
    }

    fn write(&self, path: &str, source: &dyn Source, condition: &Condition) -> Result<Version> {
        let operation = Operation::Upload;
        let target = self.file(path, operation)?;
        let failed = |e: std::io::Error| io_error(operation, path, &e);
        let (temporary, file) = self.temporary(source).map_err(failed)?;
        let placed = (|| {
            let _lock = self.lock().map_err(failed)?;
            let old = match fs::symlink_metadata(&target) {
                Ok(old) if old.is_dir() => {
                    let what = "there are objects below this name, so a directory can't hold it";
                    return Err(Error::new(Kind::Invalid, operation, path, what));
                }
                Ok(old) => Some(old),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
                Err(e) => return Err(failed(e)),
            };
            match (condition, &old) {
                (Condition::Absent, Some(_)) => {
                    return Err(Error::new(Kind::Exists, operation, path, "the object is there already"));
                }
                (Condition::Unchanged(wanted), old)
                    if old.as_ref().map(version).as_ref() != Some(wanted) || wanted.is_unknown() =>
                {
                    return Err(Error::new(Kind::Changed, operation, path, "somebody else wrote the object"));
                }
                _ => {}
            }
            // Two writes within one tick of the clock must not look the same.
            if let Some(old) = old.as_ref().and_then(|o| o.modified().ok()) {
                let new = file.metadata().and_then(|m| m.modified()).map_err(failed)?;
                if new <= old {
                    let later = FileTimes::new().set_modified(old + Duration::from_nanos(1));
                    file.set_times(later).and_then(|()| file.sync_all()).map_err(failed)?;
                }
            }
            let made = version(&file.metadata().map_err(failed)?);
            let parent = target.parent().unwrap_or(&self.root);
            self.make_directories(parent).map_err(failed)?;
            match condition {
                Condition::Absent => match fs::hard_link(&temporary, &target) {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                        return Err(Error::new(Kind::Exists, operation, path, "the object is there already"));
                    }
                    // A file system without hard links: the lock keeps our own processes apart.
                    Err(e) if has_no_links(&e) => fs::rename(&temporary, &target).map_err(failed)?,
                    Err(e) => return Err(failed(e)),
                },
                Condition::None | Condition::Unchanged(_) => fs::rename(&temporary, &target).map_err(failed)?,
            }
            // The object is there; whether it outlives a crash is not known.
            sync_directory(parent).map_err(|e| Error { uncertain: true, ..failed(e) })?;
            Ok(made)
        })();
        let _ = fs::remove_file(&temporary);
        placed
    }

    /// As `create_dir_all`, each new directory synced into its parent.
    fn make_directories(&self, dir: &Path) -> std::io::Result<()> {
        let mut missing = Vec::new();
        let mut at = dir;
        while at.starts_with(&self.root) && !at.is_dir() {
            missing.push(at);
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for dir in missing.into_iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
                Err(e) => return Err(e),
            }
            if let Some(parent) = dir.parent() {
                sync_directory(parent)?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<()> {
        let operation = Operation::Delete;
        let target = self.file(path, operation)?;
        let failed = |e: std::io::Error| io_error(operation, path, &e);
        match fs::symlink_metadata(&target) {
            Ok(m) if m.is_dir() => return Ok(()), // no object has this name
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        let _lock = self.lock().map_err(failed)?;
        match fs::remove_file(&target) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        let mut parent = target.parent();
        while let Some(dir) = parent.filter(|d| *d != self.root && d.starts_with(&self.root)) {
            if fs::remove_dir(dir).is_err() {
                sync_directory(dir).map_err(failed)?;
                return Ok(());
            }
            parent = dir.parent();
        }
        sync_directory(&self.root).map_err(failed)
    }

    fn open(&self, path: &str, operation: Operation) -> Result<(File, Metadata)> {
        let file = self.file(path, operation)?;
        let missing = || Error::new(Kind::NotFound, operation, path, "there is no such object");
        let open = File::open(file).and_then(|f| f.metadata().map(|m| (f, m)));
        match open {
            Ok((_, m)) if !m.is_file() => Err(missing()),
            Ok(found) => Ok(found),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(missing()),
            Err(e) => Err(io_error(operation, path, &e)),
        }
    }

    fn read(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        let operation = if range.is_some() { Operation::GetRange } else { Operation::Get };
        let (mut file, found) = self.open(path, operation)?;
        let size = found.len();
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            let what = format!("bytes {}..{} of an object of {size}", range.start, range.end);
            return Err(Error::new(Kind::Invalid, operation, path, what));
        }
        let length = range.end - range.start;
        let too_large =
            || Error::new(Kind::TooLarge, operation, path, format!("{length} bytes, at most {max} are taken"));
        let length = usize::try_from(length).ok().filter(|_| length <= max).ok_or_else(too_large)?;
        let mut bytes = vec![0; length];
        let read = file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes));
        match read {
            Ok(()) => Ok(Object { meta: meta(path, &found), bytes: bytes.into() }),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Err(Error::new(Kind::Corrupt, operation, path, "the file became shorter while it was read"))
            }
            Err(e) => Err(io_error(operation, path, &e)),
        }
    }

    fn walk(&self, prefix: &str, one_level: bool, out: &mut Vec<Entry>) -> Result<()> {
        let failed = |e: std::io::Error| io_error(Operation::Iter, prefix, &e);
        let dir = self.root.join(prefix);
        let mut names = match fs::read_dir(&dir) {
            Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>().map_err(failed)?,
            // Removed meanwhile, or never there: nothing begins with this prefix. The root itself must be there.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return if prefix.is_empty() { self.root_is_missing() } else { Ok(()) };
            }
            Err(e) => return Err(failed(e)),
        };
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if prefix.is_empty() && name == OURS {
                continue;
            }
            let path = format!("{prefix}{name}");
            let Ok(found) = entry.metadata() else { continue };
            if found.is_file() {
                out.push(Entry::Object(meta(&path, &found)));
            } else if found.is_dir() {
                let below = format!("{path}/");
                if !one_level {
                    self.walk(&below, false, out)?;
                } else if has_files(&entry.path()).map_err(failed)? {
                    out.push(Entry::Directory(below));
                }
            }
        }
        Ok(())
    }

    /// An empty bucket is one whose directory is there or can be made; a path that is something else is a missing bucket.
    fn root_is_missing(&self) -> Result<()> {
        if self.root.exists() {
            let what = format!("{} is not a directory", self.root.display());
            return Err(Error::new(Kind::MissingBucket, Operation::Iter, "", what));
        }
        Ok(())
    }
}

/// Removes the temporary files whose writers are gone: their locks are free.
fn sweep(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK || !entry.file_type()?.is_file() {
            continue;
        }
        // One that can't be looked at now is no reason to fail a write.
        let free = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if free && !model::protection::off("directory-sweep") {
            tracing::info!(file = %entry.path().display(), "removing what a killed upload left");
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Whether a link was refused because the file system has none (Linux: EPERM, ENOSYS, EOPNOTSUPP), not because it failed.
fn has_no_links(e: &std::io::Error) -> bool {
    const EPERM: i32 = 1;
    e.kind() == ErrorKind::Unsupported || e.raw_os_error() == Some(EPERM)
}

fn has_files(dir: &Path) -> std::io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() || (kind.is_dir() && has_files(&entry.path())?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sync_directory(dir: &Path) -> std::io::Result<()> {
    match File::open(dir) {
        Ok(dir) => dir.sync_all(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn since_epoch(time: std::io::Result<SystemTime>) -> Duration {
    time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default()
}

fn version(found: &Metadata) -> Version {
    use std::os::unix::fs::MetadataExt as _;
    let time = since_epoch(found.modified()).as_nanos();
    Version { etag: Some(format!("\"{:x}-{:x}-{:x}\"", time, found.len(), found.ino())), generation: None }
}

fn meta(path: &str, found: &Metadata) -> Meta {
    Meta {
        path: path.to_owned(),
        size: found.len(),
        modified_ms: i64::try_from(since_epoch(found.modified()).as_millis()).unwrap_or(i64::MAX),
        version: version(found),
    }
}

fn io_error(operation: Operation, path: &str, e: &std::io::Error) -> Error {
    let kind = match e.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Kind::Denied,
        ErrorKind::NotFound | ErrorKind::NotADirectory => Kind::NotFound,
        ErrorKind::InvalidFilename => Kind::Invalid,
        ErrorKind::Unsupported => Kind::Unsupported,
        _ => Kind::Unavailable,
    };
    Error::new(kind, operation, path, e.to_string())
}

#[async_trait]
impl Store for Directory {
    async fn get(&self, path: &str, range: Option<Range<u64>>, max: u64) -> Result<Object> {
        let operation = if range.is_some() { Operation::GetRange } else { Operation::Get };
        let name = path.to_owned();
        self.blocking(operation, path, move |this| this.read(&name, range, max)).await
    }

    async fn head(&self, path: &str) -> Result<Meta> {
        let name = path.to_owned();
        self.blocking(Operation::Attributes, path, move |this| {
            this.open(&name, Operation::Attributes).map(|(_, found)| meta(&name, &found))
        })
        .await
    }

    async fn list(&self, prefix: &str, one_level: bool, _token: Option<String>) -> Result<Page> {
        let name = path::directory(prefix, Operation::Iter)?;
        self.blocking(Operation::Iter, prefix, move |this| {
            let mut entries = Vec::new();
            this.walk(&name, one_level, &mut entries)?;
            Ok(Page { entries, next: None })
        })
        .await
    }

    async fn put(&self, path: &str, body: Bytes, condition: Condition) -> Result<Version> {
        let name = path.to_owned();
        self.blocking(Operation::Upload, path, move |this| this.write(&name, &body, &condition)).await
    }

    async fn upload(&self, path: &str, source: Arc<dyn Source>) -> Result<Version> {
        let name = path.to_owned();
        self.blocking(Operation::Upload, path, move |this| this.write(&name, &*source, &Condition::None)).await
    }

    async fn begin_parts(&self, path: &str) -> Result<String> {
        Err(no_parts(path))
    }

    async fn put_part(&self, path: &str, _id: &str, _index: usize, _body: Bytes) -> Result<String> {
        Err(no_parts(path))
    }

    async fn complete_parts(&self, path: &str, _id: &str, _parts: Vec<String>) -> Result<Version> {
        Err(no_parts(path))
    }

    async fn abort_parts(&self, _path: &str, _id: &str) -> Result<()> {
        Ok(())
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let name = path.to_owned();
        self.blocking(Operation::Delete, path, move |this| this.remove(&name)).await
    }
}

fn no_parts(path: &str) -> Error {
    Error::new(Kind::Unsupported, Operation::Upload, path, "a directory takes files whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that somebody else's first write happens to while it is read.
    #[derive(Debug)]
    struct Meanwhile(PathBuf);

    impl Source for Meanwhile {
        fn size(&self) -> u64 {
            4
        }

        fn read(&self, _: u64, length: usize) -> std::io::Result<Bytes> {
            let other = Directory::new(&self.0, model::world::World::real().entropy);
            other.write("other", &Bytes::from_static(b"x"), &Condition::None).unwrap();
            Ok(vec![7; length].into())
        }
    }

    #[test]
    fn what_a_killed_upload_left_goes_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join(OURS);
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("4711-00000000000000ff"), "half").unwrap();
        let directory = Directory::new(dir.path(), model::world::World::real().entropy);
        directory.write("a/b", &Meanwhile(dir.path().to_owned()), &Condition::Absent).unwrap();
        assert_eq!(fs::read(dir.path().join("a/b")).unwrap(), [7; 4]);
        let left: Vec<_> = fs::read_dir(&ours).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
    }

    #[test]
    fn only_a_file_system_without_links_is_taken_for_one() {
        let [perm, io, access, full, unsupported] = [1, 5, 13, 28, 95].map(std::io::Error::from_raw_os_error);
        assert!(has_no_links(&perm) && has_no_links(&unsupported));
        assert!(![io, access, full].iter().any(has_no_links));
    }
}
