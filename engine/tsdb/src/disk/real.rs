//! The machine's disk.

use super::{Disk, Entry, FileReader, FileWriter, Passing, map};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are gathered before the operating system is asked.
const BUFFER: usize = 256 << 10;

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(BufWriter<File>);

impl io::Write for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl FileWriter for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().write_all_at(bytes, offset)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}

struct OpenFile {
    file: File,
    path: PathBuf,
    size: u64,
}

impl FileReader for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                let kind = ErrorKind::Truncated {
                    needed: buffer.len() as u64,
                    left: self.size.saturating_sub(offset).min(buffer.len() as u64),
                };
                return Error::new(self.path.display(), "read", offset, kind);
            }
            Error { offset, ..Error::io(self.path.display(), "read", e) }
        })
    }
}

fn named<T>(path: &Path, what: &'static str, result: io::Result<T>) -> Result<T> {
    result.map_err(|e| Error::io(path.display(), what, e))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r,
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> Result<Bytes> {
        named(path, "open", File::open(path).and_then(|mut f| map::bytes(&mut f)))
    }

    fn open_passing(&self, path: &Path) -> Result<Passing> {
        named(path, "open", File::open(path).and_then(|mut f| map::passing(&mut f)))
    }

    fn reader(&self, path: &Path) -> Result<Box<dyn FileReader>> {
        let file = named(path, "open", File::open(path))?;
        let size = named(path, "size", file.metadata())?.len();
        Ok(Box::new(OpenFile { file, path: path.to_owned(), size }))
    }

    fn read(&self, path: &Path, max: u64) -> Result<Bytes> {
        let mut buffer = Vec::new();
        let file = named(path, "open", File::open(path))?;
        named(path, "read", file.take(max.saturating_add(1)).read_to_end(&mut buffer))?;
        super::bounded(path, buffer.len() as u64, max)?;
        Ok(buffer.into())
    }

    fn size(&self, path: &Path) -> Result<u64> {
        named(path, "size", fs::metadata(path)).map(|m| m.len())
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in named(dir, "list", fs::read_dir(dir))? {
            let entry = named(dir, "list", entry)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let meta = match fs::metadata(entry.path()) {
                Ok(m) => m,
                // Gone between the listing and here, or a link to nowhere.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(entry.path().display(), "list", e)),
            };
            let size = if meta.is_dir() { 0 } else { meta.len() };
            entries.push(Entry { name, is_dir: meta.is_dir(), size });
        }
        entries.sort();
        Ok(entries)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn FileWriter>> {
        // A file of this name is a stray one, or another writer's, who may have mapped it.
        named(path, "create", missing_is_fine(fs::remove_file(path)))?;
        let file = named(path, "create", File::create_new(path))?;
        Ok(Box::new(RealFile(BufWriter::with_capacity(BUFFER, file))))
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        named(dir, "create folder", fs::create_dir_all(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        named(to, "rename", fs::rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        named(to, "link", fs::hard_link(from, to))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        named(dir, "fsync", File::open(dir).and_then(|d| d.sync_all()))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        named(path, "remove", missing_is_fine(fs::remove_file(path)))
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        named(dir, "remove", missing_is_fine(fs::remove_dir_all(dir)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::replace;
    use super::*;

    #[test]
    fn large_files_are_mapped_and_outlive_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let content: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        replace(&RealDisk, &path, &content).unwrap();
        let bytes = RealDisk.open(&path).unwrap();
        RealDisk.remove_file(&path).unwrap();
        RealDisk.remove_file(&path).unwrap();
        assert_eq!(&bytes[..], &content[..]);
        assert!(!RealDisk.exists(&path).unwrap());
        let error = RealDisk.open(&path).unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("index"), "{error}");
    }

    #[test]
    fn pages_that_were_given_back_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let content: Vec<u8> = (0..8_000_000u32).map(|i| (i / 7) as u8).collect();
        replace(&RealDisk, &path, &content).unwrap();
        let resident = || {
            let status = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut ours = status.lines().skip_while(|l| !l.ends_with(path.to_str().unwrap()));
            let line = ours.find(|l| l.starts_with("Rss:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let file = RealDisk.open_passing(&path).unwrap();
        let bytes = file.bytes();
        for _ in 0..2 {
            assert!(bytes[..] == content[..]);
            assert!(resident() > 7_000, "{} KiB", resident());
            file.release();
            assert!(resident() < 200, "{} KiB", resident());
        }
        drop(file);
        assert!(bytes[..] == content[..]);
    }

    #[test]
    fn small_reads_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.json");
        replace(&RealDisk, &path, &[b' '; 100]).unwrap();
        assert_eq!(RealDisk.read(&path, 100).unwrap().len(), 100);
        let reader = RealDisk.reader(&path).unwrap();
        assert_eq!(reader.size(), 100);
        reader.read_at(98, &mut [0; 2]).unwrap();
        let error = reader.read_at(98, &mut [0; 3]).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("at byte 98"), "{error}");
        let error = RealDisk.read(&path, 99).unwrap_err().to_string();
        assert!(error.contains("meta.json") && error.contains("larger than the 99 bytes"), "{error}");
    }
}
