//! The disk as everybody uses it.

use super::tree::{Id, Node, State, fill, refused};
use super::{BUFFER, Change, MemoryDisk};
use crate::disk::{Disk, Entry, FileReader, FileWriter, bounded};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct MemoryFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    id: Id,
    /// Bytes handed over so far.
    size: u64,
    buffer: Vec<u8>,
}

impl MemoryFile {
    fn put(&self, offset: u64, more: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change(Change::Write { path: self.path.clone(), offset, length: more.len() })?;
        if let Some(Node::File { bytes, writes, .. }) = state.nodes.get_mut(&self.id) {
            fill(bytes, offset, more);
            writes.push((offset, more.to_vec()));
        }
        Ok(())
    }
}

impl io::Write for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.put(self.size, &self.buffer)?;
            self.size += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl FileWriter for MemoryFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        io::Write::flush(self)?;
        self.put(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        io::Write::flush(self)?;
        let mut state = self.state.lock();
        let done = state.change(Change::Sync(self.path.clone()));
        if let Some(Node::File { safe, writes, .. }) = state.nodes.get_mut(&self.id) {
            for (offset, more) in std::mem::take(writes) {
                // After a failure they are lost, whatever a later fsync says.
                if done.is_ok() {
                    fill(safe, offset, &more);
                }
            }
        }
        done
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // As a buffered file of the standard library does.
        let _ = io::Write::flush(self);
    }
}

struct MemoryReader {
    bytes: Bytes,
    path: PathBuf,
}

impl FileReader for MemoryReader {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = from.checked_add(buffer.len()).and_then(|end| self.bytes.get(from..end));
        let Some(found) = found else {
            let left = self.size().saturating_sub(offset).min(buffer.len() as u64);
            let kind = ErrorKind::Truncated { needed: buffer.len() as u64, left };
            return Err(Error::new(self.path.display(), "read", offset, kind));
        };
        buffer.copy_from_slice(found);
        Ok(())
    }
}

impl MemoryDisk {
    fn run<T>(&self, path: &Path, what: &'static str, f: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T> {
        f(&mut self.state.lock()).map_err(|e| Error::io(path.display(), what, e))
    }

    fn bytes(&self, path: &Path) -> Result<Bytes> {
        self.run(path, "open", |s| s.file(s.find(path)?).map(|b| b.clone().into()))
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> Result<Bytes> {
        self.bytes(path)
    }

    fn reader(&self, path: &Path) -> Result<Box<dyn FileReader>> {
        Ok(Box::new(MemoryReader { bytes: self.bytes(path)?, path: path.to_owned() }))
    }

    fn read(&self, path: &Path, max: u64) -> Result<Bytes> {
        let bytes = self.bytes(path)?;
        bounded(path, bytes.len() as u64, max)?;
        Ok(bytes)
    }

    fn size(&self, path: &Path) -> Result<u64> {
        self.run(path, "size", |s| {
            let id = s.find(path)?;
            Ok(s.file(id).map_or(0, |bytes| bytes.len() as u64))
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        self.run(dir, "list", |s| {
            let entry = |(name, id): (&String, &Id)| {
                let size = s.file(*id).ok().map(|b| b.len() as u64);
                Entry { name: name.clone(), is_dir: size.is_none(), size: size.unwrap_or(0) }
            };
            Ok(s.names(s.find(dir)?)?.iter().map(entry).collect())
        })
    }

    fn create(&self, path: &Path) -> Result<Box<dyn FileWriter>> {
        self.run(path, "create", |s| {
            let (folder, name) = s.place(path)?;
            if let Ok(old) = s.find(path) {
                s.file(old)?;
            }
            s.change(Change::Create(path.to_owned()))?;
            let id = s.add(folder, name, Node::File { bytes: Vec::new(), safe: Vec::new(), writes: Vec::new() });
            let state = Arc::clone(&self.state);
            Ok(Box::new(MemoryFile { state, path: path.to_owned(), id, size: 0, buffer: Vec::new() }) as _)
        })
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.run(dir, "create folder", |s| s.create_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.run(to, "rename", |s| s.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        self.run(to, "link", |s| {
            let id = s.find(from)?;
            s.file(id).map_err(|_| refused(io::ErrorKind::PermissionDenied))?;
            let (folder, name) = s.place(to)?;
            if s.find(to).is_ok() {
                return Err(refused(io::ErrorKind::AlreadyExists));
            }
            s.change(Change::Link(from.to_owned(), to.to_owned()))?;
            s.rename_all(vec![(folder, name.to_owned(), Some(id))]);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.run(dir, "fsync", |s| s.sync_dir(dir))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.run(path, "remove", |s| match s.find(path) {
            Ok(id) => s.file(id).map(|_| ()).and_then(|()| s.remove(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        })
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.run(dir, "remove", |s| match s.find(dir) {
            Ok(_) => s.remove_dir(dir),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        })
    }
}
