//! The folder that work is done in: how much room it needs, and that nobody else uses it.

use super::Fault;
use anyhow::{Context as _, bail};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Room that is left for others, in bytes.
const MARGIN: u64 = 64 << 20;

/// The sum of sizes that anybody may have written.
pub(super) fn total(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

/// What work on blocks of so many bytes takes: they themselves, and what is made of them, which is not larger, but for their
/// index, of which parts are written twice.
pub(super) fn needed(bytes: u64, outputs: u64) -> u64 {
    let made = bytes.saturating_add(bytes / 4).saturating_mul(outputs.max(1));
    bytes.saturating_add(made).saturating_add(MARGIN)
}

/// Free bytes of the disk that a folder lies on.
#[allow(clippy::unnecessary_cast, reason = "its type differs between systems")]
pub(super) fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

/// Makes this process the only one that uses a folder, until what it gives is dropped: another one would take away what this one
/// makes. None where the file system knows no locks.
///
/// # Errors
/// When another one uses it.
pub(super) fn lock(dir: &Path) -> anyhow::Result<Option<File>> {
    // The folder itself: no file is left behind.
    let folder = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => {
            bail!("another compactor uses --data-dir={}: give each its own", dir.display())
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "--data-dir can't be locked: make sure that no other compactor uses it");
            Ok(None)
        }
    }
}

/// Whether there is room.
///
/// # Errors
/// [`Fault::Space`].
pub(super) fn check(needed: u64, free: Option<u64>) -> Result<(), Fault> {
    match free {
        Some(free) if free < needed && !model::protection::off("disk-space") => Err(Fault::Space { needed, free }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_what_is_fetched_and_what_is_made() {
        assert_eq!(needed(100 << 20, 1), (100 << 20) + (125 << 20) + MARGIN);
        assert!(check(needed(1000, 2), Some(MARGIN)).is_err());
        assert!(check(needed(1000, 2), Some(MARGIN + 3500)).is_ok() && check(u64::MAX, None).is_ok());
        assert_eq!(needed(total([u64::MAX, 1]), 2), u64::MAX);
        assert!(free(Path::new("/")).is_some_and(|free| free > 0));
    }

    #[test]
    fn one_uses_a_folder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let says = lock(dir.path()).unwrap_err().to_string();
        assert!(says.contains("another compactor uses --data-dir="), "{says}");
        drop(first);
        assert!(lock(dir.path()).unwrap().is_some());
    }
}
