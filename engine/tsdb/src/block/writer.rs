//! Writing a block: sorted series in, a folder out.

use crate::chunk::{self, Encoding};
use crate::disk::{Disk, replace};
use crate::error::{Error, Result};
use crate::index::{self, ChunkMeta, INDEX_FILE};
use crate::meta::{BlockMeta, META_FILE, Stats};
use crate::segment::{self, CHUNKS_DIR, MAX_SEGMENT_BYTES, NewChunk};
use crate::tombstones::{TOMBSTONES_FILE, Tombstones};
use model::Labels;
use std::path::{Path, PathBuf};

/// The ending of a block's folder while it is written. Prometheus and Thanos remove such folders at start.
pub const TEMP_DIR_SUFFIX: &str = ".tmp-for-creation";

/// Writes a block into a folder: symbols, then series, then [`Writer::finish`], which gives the folder its name.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    parent: PathBuf,
    temp: PathBuf,
    meta: BlockMeta,
    index: index::Writer<'a>,
    chunks: segment::Writer<'a>,
    stats: Stats,
    references: Vec<u64>,
    metas: Vec<ChunkMeta>,
}

/// A block that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its folder.
    pub dir: PathBuf,
    /// Its meta.json.
    pub meta: BlockMeta,
    /// What its index holds; with [`Written::chunk_max_size`] what Thanos calls index stats.
    pub index: index::Stats,
    /// Bytes of the largest chunk in its segment.
    pub chunk_max_size: u64,
}

impl<'a> Writer<'a> {
    /// Begins the block of `meta` in the folder `parent`. Its stats are filled in at the end; its times and compaction
    /// section are the caller's.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(disk: &'a dyn Disk, parent: &Path, meta: BlockMeta) -> Result<Self> {
        Self::with_segment_size(disk, parent, meta, MAX_SEGMENT_BYTES)
    }

    /// As [`Writer::create`], with segments cut at another size, for tests.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn with_segment_size(disk: &'a dyn Disk, parent: &Path, meta: BlockMeta, segment: u64) -> Result<Self> {
        let temp = parent.join(format!("{}{TEMP_DIR_SUFFIX}", meta.id));
        disk.remove_dir(&temp)?;
        disk.create_dir(&temp)?;
        let index = index::Writer::create(disk, &temp.join(INDEX_FILE))?;
        let chunks = segment::Writer::create(disk, &temp.join(CHUNKS_DIR), segment)?;
        let (stats, references, metas) = (Stats::default(), Vec::new(), Vec::new());
        Ok(Self { disk, parent: parent.to_owned(), temp, meta, index, chunks, stats, references, metas })
    }

    /// Adds a symbol: every label name and value of the block, sorted, each once; before the first series.
    ///
    /// # Errors
    /// See [`index::Writer::add_symbol`].
    pub fn add_symbol(&mut self, symbol: &str) -> Result<()> {
        self.index.add_symbol(symbol)
    }

    /// Adds a series with its chunks, in order.
    ///
    /// # Errors
    /// When series or chunks are out of order (see [`index::Writer::add_series`]) or the disk refuses. The block can't be
    /// finished then.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[NewChunk<'_>]) -> Result<()> {
        self.put_chunks(chunks)?;
        self.index.add_series(labels, &self.metas)?;
        Ok(())
    }

    /// As [`Writer::add_series`], its labels told by the numbers of name and value among the symbols that were added, from 0.
    ///
    /// # Errors
    /// As [`Writer::add_series`].
    pub fn add_numbered(&mut self, labels: &[(u32, u32)], chunks: &[NewChunk<'_>]) -> Result<()> {
        self.put_chunks(chunks)?;
        self.index.add_numbered(labels, &self.metas)?;
        Ok(())
    }

    fn put_chunks(&mut self, chunks: &[NewChunk<'_>]) -> Result<()> {
        self.references.clear();
        self.chunks.write(chunks, &mut self.references)?;
        self.metas.clear();
        for (c, reference) in chunks.iter().zip(&self.references) {
            let samples = announced_samples(c.encoding, c.data);
            self.stats.num_samples += samples;
            match c.encoding {
                Encoding::Histogram | Encoding::FloatHistogram | Encoding::HistogramSt | Encoding::FloatHistogramSt => {
                    self.stats.num_histogram_samples += samples;
                }
                Encoding::Xor | Encoding::Xor2 => self.stats.num_float_samples += samples,
                Encoding::Aggregate | Encoding::Unknown(_) => {}
            }
            self.metas.push(ChunkMeta { min_time: c.min_time, max_time: c.max_time, reference: *reference });
        }
        self.stats.num_series += 1;
        self.stats.num_chunks += chunks.len() as u64;
        Ok(())
    }

    /// Ends the block: everything is on the device, then its folder gets its name.
    ///
    /// # Errors
    /// When the disk refuses, or there is such a block already; `*.tmp-for-creation` may be left.
    pub fn finish(mut self) -> Result<Written> {
        let dir = self.parent.join(self.meta.id.to_string());
        if self.disk.exists(&dir)? {
            return Err(Error::refused(dir.display(), "folder", "there is a block of this id already"));
        }
        let chunk_max_size = self.chunks.largest();
        self.chunks.finish()?;
        let index = self.index.finish()?;
        let tombstones = Tombstones::default();
        replace(self.disk, &self.temp.join(TOMBSTONES_FILE), &tombstones.write())?;
        self.stats.unknown = std::mem::take(&mut self.meta.stats.unknown);
        self.meta.stats = self.stats;
        replace(self.disk, &self.temp.join(META_FILE), &self.meta.write()?)?;
        self.disk.rename(&self.temp, &dir)?;
        self.disk.sync_dir(&self.parent)?;
        Ok(Written { dir, meta: self.meta, index, chunk_max_size })
    }
}

/// How many samples a chunk announces; of a downsampled one, how many its count aggregate does. 0 if it is too short.
pub fn announced_samples(encoding: Encoding, data: &[u8]) -> u64 {
    chunk::announced_samples(encoding, data).map_or(0, u64::from)
}
