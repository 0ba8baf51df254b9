//! A block: a folder with `meta.json`, an index, chunk segments and perhaps tombstones.

pub mod health;
mod writer;

pub use writer::{TEMP_DIR_SUFFIX, Writer, Written, announced_samples};

use crate::chunk::Encoding;
use crate::disk::{Disk, Passing};
use crate::error::Result;
use crate::index::{self, CachedSymbols, ChunkMeta, INDEX_FILE, Postings, Series};
use crate::meta::{BlockMeta, MAX_META_BYTES, META_FILE};
use crate::segment::{self, CHUNKS_DIR, Chunk};
use crate::tombstones::{MAX_TOMBSTONES_BYTES, TOMBSTONES_FILE, Tombstones};
use bytes::Bytes;
use model::Labels;
use std::path::Path;
use std::sync::Arc;

/// An open block. Index and segments are read in place.
#[derive(Clone, Debug)]
pub struct Block {
    meta: BlockMeta,
    index: index::Reader,
    chunks: segment::Reader,
    tombstones: Tombstones,
    /// Its files, if it is passed through once.
    pages: Arc<[Passing]>,
}

impl Block {
    /// Opens the block in `dir`.
    ///
    /// # Errors
    /// When a file is missing or damaged as far as opening looks: see [`index::Reader::open`] and
    /// [`segment::Reader::open`]; [`health::check`] tells all that is wrong.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        Self::open_by(disk, dir, |path| disk.open(path))
    }

    /// As [`Block::open`], for whoever reads it once, in its order, and calls [`Block::release`] from time to time.
    ///
    /// # Errors
    /// As [`Block::open`].
    pub fn open_passing(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        let mut pages = Vec::new();
        let block = Self::open_by(disk, dir, |path| {
            let file = disk.open_passing(path)?;
            let bytes = file.bytes();
            pages.push(file);
            Ok(bytes)
        })?;
        Ok(Self { pages: pages.into(), ..block })
    }

    fn open_by(disk: &dyn Disk, dir: &Path, mut open: impl FnMut(&Path) -> Result<Bytes>) -> Result<Self> {
        let meta = read_meta(disk, dir)?;
        let path = dir.join(INDEX_FILE);
        let index = index::Reader::open(path.display().to_string(), open(&path)?)?;
        let chunks = segment::Reader::open_by(disk, &dir.join(CHUNKS_DIR), open)?;
        let tombstones = read_tombstones(disk, dir)?;
        Ok(Self { meta, index, chunks, tombstones, pages: Arc::new([]) })
    }

    /// Gives back the memory of what was read of its files, if it was opened by [`Block::open_passing`]. They can be read on.
    pub fn release(&self) {
        self.pages.iter().for_each(Passing::release);
    }

    /// What the block is.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Its index.
    pub fn index(&self) -> &index::Reader {
        &self.index
    }

    /// Its chunk segments.
    pub fn chunks(&self) -> &segment::Reader {
        &self.chunks
    }

    /// Its tombstones; none if there is no such file.
    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Bytes of index and segments.
    pub fn size(&self) -> u64 {
        self.index.size() + self.chunks.size()
    }

    /// The chunk that a series tells, in place.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn chunk(&self, meta: &ChunkMeta) -> Result<Chunk<'_>> {
        self.chunks.chunk(meta.reference)
    }

    /// The chunk that a series tells, as bytes that share the segment.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn chunk_bytes(&self, meta: &ChunkMeta) -> Result<(Encoding, Bytes)> {
        self.chunks.chunk_bytes(meta.reference)
    }

    /// All series, in the order of their labels.
    ///
    /// # Errors
    /// When the list of all series is damaged.
    pub fn scan(&self) -> Result<Scan<'_>> {
        Ok(Scan::new(&self.index, References::List(self.index.all()?)))
    }

    /// These series, in the order given: what [`index::Reader::select`] found.
    pub fn scan_selected<'a>(&'a self, references: &'a [u32]) -> Scan<'a> {
        Scan::new(&self.index, References::Slice(references))
    }
}

/// Reads the meta.json of the block in `dir`.
///
/// # Errors
/// When it is missing or damaged.
pub fn read_meta(disk: &dyn Disk, dir: &Path) -> Result<BlockMeta> {
    let path = dir.join(META_FILE);
    BlockMeta::read(&path.display().to_string(), &disk.read(&path, MAX_META_BYTES)?)
}

/// Writes the meta.json of the block in `dir`, in place of what was there.
///
/// # Errors
/// When the disk refuses.
pub fn write_meta(disk: &dyn Disk, dir: &Path, meta: &BlockMeta) -> Result<()> {
    crate::disk::replace(disk, &dir.join(META_FILE), &meta.write()?)
}

/// Reads the tombstones of the block in `dir`; none if there is no such file.
///
/// # Errors
/// When they are damaged.
pub fn read_tombstones(disk: &dyn Disk, dir: &Path) -> Result<Tombstones> {
    let path = dir.join(TOMBSTONES_FILE);
    match disk.read(&path, MAX_TOMBSTONES_BYTES) {
        Ok(bytes) => Tombstones::read(&path.display().to_string(), &bytes),
        Err(e) if e.is_not_found() => Ok(Tombstones::default()),
        Err(e) => Err(e),
    }
}

enum References<'a> {
    List(Postings<'a>),
    Slice(&'a [u32]),
}

/// Series of a block, one after the other, read into the same memory.
pub struct Scan<'a> {
    index: &'a index::Reader,
    references: References<'a>,
    next: usize,
    symbols: CachedSymbols<'a>,
    series: Series,
}

/// A series of a [`Scan`].
#[derive(Debug)]
pub struct SeriesView<'s> {
    /// Its reference, as postings have it.
    pub reference: u32,
    /// Its labels.
    pub labels: Labels,
    /// Its chunks, in the order of the index.
    pub chunks: &'s [ChunkMeta],
}

impl<'a> Scan<'a> {
    fn new(index: &'a index::Reader, references: References<'a>) -> Self {
        Self { index, references, next: 0, symbols: index.symbols().cached(), series: Series::default() }
    }

    /// How many series there are in all.
    pub fn len(&self) -> usize {
        match &self.references {
            References::List(l) => l.len(),
            References::Slice(s) => s.len(),
        }
    }

    /// True if there is no series at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next series. After an error the one behind it follows: a damaged series costs that series.
    #[allow(
        clippy::should_implement_trait,
        reason = "what it gives borrows from the scan, which an Iterator can't say"
    )]
    pub fn next(&mut self) -> Option<Result<SeriesView<'_>>> {
        let reference = match &self.references {
            References::List(l) => l.get(self.next)?,
            References::Slice(s) => *s.get(self.next)?,
        };
        self.next += 1;
        Some(self.read(reference))
    }

    fn read(&mut self, reference: u32) -> Result<SeriesView<'_>> {
        self.index.series(reference, &mut self.series)?;
        let at = self.index.series_offset(reference);
        let labels = self.series.labels(self.index.file(), at, &mut self.symbols)?;
        Ok(SeriesView { reference, labels, chunks: &self.series.chunks })
    }
}
