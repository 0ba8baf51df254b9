//! Writing chunk segments, cut where Prometheus cuts them.

use super::{CRC_LEN, HEADER_LEN, MAGIC, MAX_LENGTH_LEN, MAX_SEGMENT_BYTES, VERSION, name, reference};
use crate::chunk::Encoding;
use crate::disk::{Disk, FileWriter};
use crate::error::{Error, Result};
use crate::read::put_uvarint;
use std::path::{Path, PathBuf};

/// A chunk that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewChunk<'a> {
    /// Its format.
    pub encoding: Encoding,
    /// Its bytes, without the encoding.
    pub data: &'a [u8],
    /// Time of its first sample in ms.
    pub min_time: i64,
    /// Time of its last sample in ms.
    pub max_time: i64,
}

/// Writes the segments of a block into a folder that has no reader yet.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    max: u64,
    file: Option<Box<dyn FileWriter>>,
    path: PathBuf,
    /// Segments that were begun.
    count: u32,
    /// Bytes in the current segment.
    position: u64,
    total: u64,
    largest: u64,
    out: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Begins in `dir`, which is created. `max` is the size at which segments are cut: [`MAX_SEGMENT_BYTES`] but in tests.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(disk: &'a dyn Disk, dir: &Path, max: u64) -> Result<Self> {
        disk.create_dir(dir)?;
        let (dir, path) = (dir.to_owned(), dir.to_owned());
        let max = max.clamp(HEADER_LEN as u64, MAX_SEGMENT_BYTES);
        Ok(Self { disk, dir, max, file: None, path, count: 0, position: 0, total: 0, largest: 0, out: Vec::new() })
    }

    fn io<T>(&self, result: std::io::Result<T>) -> Result<T> {
        result.map_err(|e| Error::io(self.path.display(), "chunk", e))
    }

    fn close(&mut self) -> Result<()> {
        if let Some(mut file) = self.file.take() {
            let done = file.sync();
            self.io(done)?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<()> {
        self.close()?;
        self.path = self.dir.join(name(self.count));
        self.count += 1;
        self.file = Some(self.disk.create(&self.path)?);
        self.position = 0;
        let mut header = [0u8; HEADER_LEN];
        header[..4].copy_from_slice(&MAGIC.to_be_bytes());
        header[4] = VERSION;
        self.put(&header)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Err(Error::refused(self.path.display(), "chunk", "no segment is open"));
        };
        let done = file.write_all(bytes);
        self.io(done)?;
        self.position += bytes.len() as u64;
        self.total += bytes.len() as u64;
        Ok(())
    }

    /// Writes the chunks of one series and appends their references to `references`.
    ///
    /// Where a segment ends is decided as Prometheus does for the same call: each chunk is counted with the largest
    /// length field, against the segment as it was when the call began.
    ///
    /// # Errors
    /// When a chunk has more than 4 GiB, or the disk refuses.
    pub fn write(&mut self, chunks: &[NewChunk<'_>], references: &mut Vec<u64>) -> Result<()> {
        if self.count == 0 {
            self.cut()?;
        }
        let begin = self.position;
        let (mut batch, mut same_segment) = (0u64, true);
        for (i, chunk) in chunks.iter().enumerate() {
            if u32::try_from(chunk.data.len()).is_err() {
                return Err(Error::refused(self.path.display(), "chunk", "a chunk is larger than 4 GiB"));
            }
            let size = (MAX_LENGTH_LEN + 1 + CRC_LEN + chunk.data.len()) as u64;
            batch += size;
            let full = if same_segment && begin > HEADER_LEN as u64 {
                batch + begin > self.max
            } else {
                i != 0 && batch + HEADER_LEN as u64 > self.max
            };
            if full {
                same_segment = false;
                batch = size;
                self.cut()?;
            }
            let Ok(offset) = u32::try_from(self.position) else {
                return Err(Error::refused(self.path.display(), "chunk", "a segment is larger than 4 GiB"));
            };
            references.push(reference(self.count - 1, offset));
            let mut out = std::mem::take(&mut self.out);
            out.clear();
            put_uvarint(&mut out, chunk.data.len() as u64);
            let body = out.len();
            out.push(chunk.encoding.to_prometheus());
            out.extend_from_slice(chunk.data);
            let crc = crc32c::crc32c(out.get(body..).unwrap_or_default());
            out.extend_from_slice(&crc.to_be_bytes());
            self.largest = self.largest.max(out.len() as u64);
            self.put(&out)?;
            self.out = out;
        }
        Ok(())
    }

    /// Bytes of all segments so far.
    pub fn size(&self) -> u64 {
        self.total
    }

    /// Bytes of the largest chunk so far, as it lies in its segment (Thanos's `chunk_max_size`).
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// Ends the last segment. Everything is on the device then.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        self.disk.sync_dir(&self.dir)
    }
}
