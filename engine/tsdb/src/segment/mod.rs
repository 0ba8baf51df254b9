//! Chunk segments: the files `chunks/000001`, … of a block. See FORMAT.md.

mod window;
mod writer;

pub use window::Window;
pub use writer::{NewChunk, Writer};

use crate::chunk::Encoding;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{Cursor, check_crc};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The folder of the segments in the folder of their block.
pub const CHUNKS_DIR: &str = "chunks";
/// The first four bytes of a segment.
pub const MAGIC: u32 = 0x85BD_40DD;
/// Bytes before the first chunk: magic, version, padding.
pub const HEADER_LEN: usize = 8;
/// A segment grows no larger than this, unless a single chunk does.
pub const MAX_SEGMENT_BYTES: u64 = 512 << 20;
const VERSION: u8 = 1;
/// The length of a chunk's data has at most this many bytes.
const MAX_LENGTH_LEN: usize = 5;
const CRC_LEN: usize = 4;

/// A chunk as it lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Its format.
    pub encoding: Encoding,
    /// Its bytes, without the encoding.
    pub data: &'a [u8],
}

/// The name of the segment of this number, which counts from 0: `000001`, ….
pub fn name(number: u32) -> String {
    format!("{:06}", u64::from(number) + 1)
}

/// A chunk's reference: the segment's number from 0 and the place in its file.
pub fn reference(segment: u32, offset: u32) -> u64 {
    (u64::from(segment) << 32) | u64::from(offset)
}

/// The segment's number from 0 and the place in its file.
pub fn split(reference: u64) -> (u32, u32) {
    ((reference >> 32) as u32, reference as u32)
}

/// Verifies the first bytes of a segment.
///
/// # Errors
/// When they are not those of a segment, or its version is not known.
pub fn check_header(file: &str, bytes: &[u8]) -> Result<()> {
    let mut cursor = Cursor::new(file, "header", bytes, 0);
    let magic = cursor.be32()?;
    if magic != MAGIC {
        let what = format!("it begins with {magic:08x}, a chunk segment with {MAGIC:08x}");
        return Err(Error::corrupt(file, "header", 0, what));
    }
    let version = cursor.u8()?;
    if version != VERSION {
        let what = format!("version {version} of the segment format is not known, only {VERSION}");
        return Err(Error::new(file, "header", 4, ErrorKind::Version(what)));
    }
    cursor.take(HEADER_LEN - 5)?;
    Ok(())
}

/// Reads the chunk at the begin of `bytes`, which lie at `at` in `file` and may go on behind it. Gives its size there.
///
/// # Errors
/// When it ends early or its checksum does not fit.
pub fn read_chunk<'a>(file: &'a str, bytes: &'a [u8], at: u64) -> Result<(Chunk<'a>, usize)> {
    let mut cursor = Cursor::new(file, "chunk", bytes, at);
    let length = cursor.length()?;
    if cursor.position() > MAX_LENGTH_LEN {
        return Err(Error::corrupt(file, "chunk", at, "its length has more than 32 bits"));
    }
    let body = cursor.take(length.saturating_add(1))?;
    let expected = cursor.be32()?;
    if !model::protection::off("chunk-crc") {
        check_crc(file, "chunk", at, body, expected)?;
    }
    let Some((encoding, data)) = body.split_first() else { return Err(cursor.corrupt("no encoding")) };
    Ok((Chunk { encoding: Encoding::from_prometheus(*encoding), data }, cursor.position()))
}

/// The segments of a block, read in place. One that can't be opened costs its own chunks only.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    segments: BTreeMap<u32, Result<(Arc<str>, Bytes)>>,
}

impl Reader {
    /// Opens segments by their numbers from 0; the names are for errors.
    pub fn new(segments: impl IntoIterator<Item = (u32, Arc<str>, Bytes)>) -> Self {
        let opened = |file: Arc<str>, bytes: Bytes| check_header(&file, &bytes).map(|()| (file, bytes));
        Self { segments: segments.into_iter().map(|(n, file, bytes)| (n, opened(file, bytes))).collect() }
    }

    /// Opens the segments in a folder.
    ///
    /// # Errors
    /// When the folder can't be listed. A segment that can't be opened is an error of each of its chunks.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        Self::open_by(disk, dir, |path| disk.open(path))
    }

    /// As [`Reader::open`], with each file opened by `open`.
    pub(crate) fn open_by(disk: &dyn Disk, dir: &Path, mut open: impl FnMut(&Path) -> Result<Bytes>) -> Result<Self> {
        let mut reader = Self::default();
        for entry in disk.list(dir)? {
            let Some(segment) = number(&entry.name).filter(|_| !entry.is_dir) else { continue };
            let path = dir.join(&entry.name);
            let file: Arc<str> = path.display().to_string().into();
            let opened = open(&path).and_then(|bytes| {
                check_header(&file, &bytes)?;
                Ok((file.clone(), bytes))
            });
            reader.segments.insert(segment, opened);
        }
        Ok(reader)
    }

    /// How many segments there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.segments.values().flatten().map(|(_, b)| b.len() as u64).sum()
    }

    fn at(&self, reference: u64) -> Result<(&str, &Bytes, u32)> {
        let (segment, offset) = split(reference);
        let (file, bytes) = match self.segments.get(&segment) {
            Some(Ok((file, bytes))) => (file, bytes),
            Some(Err(e)) => return Err(e.clone()),
            None => {
                let what = "a chunk would lie in this segment, which is not there";
                return Err(Error::corrupt(
                    format!("{CHUNKS_DIR}/{}", name(segment)),
                    "chunk",
                    u64::from(offset),
                    what,
                ));
            }
        };
        if (offset as usize) < HEADER_LEN {
            let what = "a chunk would lie in the header of its segment";
            return Err(Error::corrupt(file, "chunk", u64::from(offset), what));
        }
        Ok((file, bytes, offset))
    }

    /// The chunk of a reference, in place.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn chunk(&self, reference: u64) -> Result<Chunk<'_>> {
        let (file, bytes, offset) = self.at(reference)?;
        read_chunk(file, bytes.get(offset as usize..).unwrap_or_default(), u64::from(offset)).map(|(c, _)| c)
    }

    /// The chunk of a reference as bytes that share the segment.
    ///
    /// # Errors
    /// As [`Reader::chunk`].
    pub fn chunk_bytes(&self, reference: u64) -> Result<(Encoding, Bytes)> {
        let (file, bytes, offset) = self.at(reference)?;
        let (chunk, _) = read_chunk(file, bytes.get(offset as usize..).unwrap_or_default(), u64::from(offset))?;
        Ok((chunk.encoding, bytes.slice_ref(chunk.data)))
    }
}

/// The number from 0 of the segment of this name; `None` for other files.
///
/// Prometheus counts the files, so that a missing one moves all behind it, and chunks of others are read. Writers number
/// them without gaps; by their names a missing one costs its own chunks only.
pub fn number(file: &str) -> Option<u32> {
    let number = file.parse::<u32>().ok()?.checked_sub(1)?;
    (name(number) == file).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for n in [0, 1, 998, 999_999, 1_234_567] {
            assert_eq!(number(&name(n)), Some(n));
        }
        assert_eq!(name(0), "000001");
        for other in ["", "0", "1", "000000", "+00001", "0000001", "000001.tmp", "99999999999"] {
            assert_eq!(number(other), None, "{other}");
        }
        assert_eq!(split(reference(7, 9)), (7, 9));
    }
}
