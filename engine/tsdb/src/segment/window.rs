//! Reading a segment's chunks in order through a window of memory, without mapping the file.

use super::{CRC_LEN, Chunk, HEADER_LEN, MAX_LENGTH_LEN, check_header, read_chunk};
use crate::disk::FileReader;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{Varint, uvarint};
use std::sync::Arc;

/// Bytes that are read at once.
const WINDOW: usize = 1 << 20;
/// Bytes that are read at least.
const SMALL: usize = 4 << 10;

/// A segment, read through a window. Memory: 1 MiB, or the size of the largest chunk.
pub struct Window {
    file: Arc<str>,
    reader: Box<dyn FileReader>,
    buffer: Vec<u8>,
    start: u64,
}

impl Window {
    /// Opens a segment; `file` is named in errors.
    ///
    /// # Errors
    /// When it has no proper header.
    pub fn open(file: impl Into<Arc<str>>, reader: Box<dyn FileReader>) -> Result<Self> {
        let mut window = Self { file: file.into(), reader, buffer: Vec::new(), start: 0 };
        window.load(0, HEADER_LEN)?;
        check_header(&window.file, window.buffer.get(..HEADER_LEN).unwrap_or(&window.buffer))?;
        Ok(window)
    }

    /// Size of the segment in bytes.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// The segment's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Has at least `length` bytes from `at` in the buffer, or all that there are.
    fn load(&mut self, at: u64, length: usize) -> Result<()> {
        let have = self.start..self.start + self.buffer.len() as u64;
        let end = at.saturating_add(length as u64).min(self.size());
        if at >= have.start && end <= have.end {
            return Ok(());
        }
        // Forward by little: the next one is likely close. Else only what is asked for, so that places told in any order
        // don't cost a window each.
        let ahead = at >= have.start && at <= have.end.saturating_add(WINDOW as u64);
        let n = length
            .max(if ahead { WINDOW } else { SMALL })
            .min(usize::try_from(self.size().saturating_sub(at)).unwrap_or(usize::MAX));
        self.buffer.clear();
        self.buffer.resize(n, 0);
        self.start = at;
        let read = self.reader.read_at(at, &mut self.buffer);
        if read.is_err() {
            // Else the zeros would be taken for what the file holds.
            self.buffer.clear();
        }
        read
    }

    /// The chunk at this place, and its size there.
    ///
    /// # Errors
    /// When it is damaged, or lies beyond the end.
    pub fn chunk(&mut self, offset: u32) -> Result<(Chunk<'_>, usize)> {
        let at = u64::from(offset);
        if at < HEADER_LEN as u64 || at >= self.size() {
            let what = format!("a chunk would lie here; chunks lie from {HEADER_LEN} to {}", self.size());
            return Err(Error::corrupt(&self.file, "chunk", at, what));
        }
        self.load(at, MAX_LENGTH_LEN)?;
        let head = self.from(at);
        if let Varint::Value(length, used) = uvarint(head) {
            let total = length.saturating_add((used + 1 + CRC_LEN) as u64);
            let left = self.size() - at;
            if total > left {
                // Told before so much memory is taken.
                let kind = ErrorKind::Truncated { needed: total, left };
                return Err(Error::new(&self.file, "chunk", at, kind));
            }
            self.load(at, usize::try_from(total).unwrap_or(usize::MAX))?;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        read_chunk(&self.file, self.buffer.get(from..).unwrap_or_default(), at)
    }

    fn from(&self, at: u64) -> &[u8] {
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        self.buffer.get(from..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Encoding, XorEncoder};
    use crate::disk::{Disk as _, RealDisk};
    use crate::segment::{MAX_SEGMENT_BYTES, NewChunk, Writer, split};

    /// Fails one read, after so many good ones.
    struct Once {
        reader: Box<dyn FileReader>,
        good: std::sync::atomic::AtomicUsize,
    }

    impl FileReader for Once {
        fn size(&self) -> u64 {
            self.reader.size()
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            use std::sync::atomic::Ordering;
            if self.good.fetch_sub(1, Ordering::Relaxed) == 0 {
                return Err(Error::io("chunks/000001", "read", std::io::Error::other("the disk is tired")));
            }
            self.reader.read_at(offset, buffer)
        }
    }

    #[test]
    fn a_failed_read_is_no_damage_of_what_is_read_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(&RealDisk, &dir.path().join("chunks"), MAX_SEGMENT_BYTES).unwrap();
        let mut encoder = XorEncoder::default();
        encoder.append(1, 1.0).unwrap();
        let data = encoder.bytes();
        let chunk = NewChunk { encoding: Encoding::Xor, data: &data, min_time: 1, max_time: 1 };
        let mut references = Vec::new();
        // More than a window holds.
        writer.write(&vec![chunk; 100_000], &mut references).unwrap();
        writer.finish().unwrap();
        let reader = RealDisk.reader(&dir.path().join("chunks/000001")).unwrap();
        let good = std::sync::atomic::AtomicUsize::new(1);
        let mut window = Window::open("chunks/000001", Box::new(Once { reader, good })).unwrap();
        let last = references.len() - 1;
        let (first, second) = (split(references[last - 1]).1, split(references[last]).1);
        assert!(u64::from(first) > WINDOW as u64);
        let error = window.chunk(first).map(|_| ()).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Io(_)), "{error}");
        // Told damaged if the zeros of the failed read were taken for the file's.
        assert!(window.chunk(second).is_ok());
        assert!(window.chunk(first).is_ok());
    }
}
