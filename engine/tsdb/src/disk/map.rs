//! Files mapped into memory: the safe wall around the one unsafe call.

use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read as _};

/// Smaller files are read: a mapping costs a page and two system calls.
const MAP_FROM: u64 = 64 << 10;

/// The bytes of an open file.
pub(super) fn bytes(file: &mut File) -> io::Result<Bytes> {
    let size = file.metadata()?.len();
    if size < MAP_FROM {
        let mut buffer = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.read_to_end(&mut buffer)?;
        return Ok(buffer.into());
    }
    Ok(Bytes::from_owner(map(file)?))
}

#[allow(unsafe_code, reason = "memory maps can't be made by safe code; the reason why this one is sound stands below")]
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the bytes of a mapping must not change while they are borrowed, and a page must not vanish (SIGBUS).
    // Files of blocks are written under a temporary name, fsynced, renamed and never changed or truncated afterwards,
    // by Prometheus, by Thanos and by us; removing or renaming one keeps the mapping alive. A temporary file that its own
    // writer maps only grows behind what was mapped, and `RealDisk::create` never empties a file that has the name already.
    unsafe { memmap2::Mmap::map(file) }
}
