//! How much disk a piece of work needs.

use super::Fault;
use std::path::Path;

/// Room that is left for others, in bytes.
const MARGIN: u64 = 64 << 20;

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
        assert!(free(Path::new("/")).is_some_and(|free| free > 0));
    }
}
