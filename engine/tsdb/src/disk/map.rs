//! Files mapped into memory: the safe wall around the one unsafe call.

use super::Passing;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

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

/// The bytes of an open file, whose pages can be given back.
pub(super) fn passing(file: &mut File) -> io::Result<Passing> {
    if file.metadata()?.len() < MAP_FROM {
        return Ok(Passing { bytes: bytes(file)?, release: None });
    }
    let map = Arc::new(map(file)?);
    let bytes = Bytes::from_owner(Shared(Arc::clone(&map)));
    Ok(Passing { bytes, release: Some(Box::new(move || release(&map))) })
}

struct Shared(Arc<memmap2::Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[allow(unsafe_code, reason = "the kernel is told about pages; the reason why this is sound stands below")]
fn release(map: &memmap2::Mmap) {
    // SAFETY: the advice takes changed bytes away from a private mapping. This one is shared and can't be written, so whoever
    // reads its pages again gets the same bytes of the file.
    // A kernel that refuses keeps the pages, and they can be read all the same.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
}

#[allow(unsafe_code, reason = "memory maps can't be made by safe code; the reason why this one is sound stands below")]
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the bytes of a mapping must not change while they are borrowed, and a page must not vanish (SIGBUS).
    // Files of blocks are written under a temporary name, fsynced, renamed and never changed or truncated afterwards,
    // by Prometheus, by Thanos and by us; removing or renaming one keeps the mapping alive. A temporary file that its own
    // writer maps only grows behind what was mapped, and `RealDisk::create` never empties a file that has the name already.
    unsafe { memmap2::Mmap::map(file) }
}
