//! SHA-256 of the files of blocks, as meta.json tells it.

use sha2::{Digest as _, Sha256};
use std::path::Path;
use tsdb::disk::Disk;

/// Bytes that are read at once.
pub(crate) const PART: usize = 256 << 10;

/// SHA-256 of a file, read in parts, in hex. Blocks.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn sha256(disk: &dyn Disk, path: &Path) -> tsdb::Result<String> {
    let reader = disk.reader(path)?;
    let (mut hash, mut part, mut offset) = (Sha256::new(), vec![0; PART], 0);
    while offset < reader.size() {
        let left = usize::try_from(reader.size() - offset).unwrap_or(PART);
        let part = part.get_mut(..left.min(PART)).unwrap_or_default();
        reader.read_at(offset, part)?;
        hash.update(&*part);
        offset += part.len() as u64;
    }
    Ok(args::files::hex(&hash.finalize()))
}
