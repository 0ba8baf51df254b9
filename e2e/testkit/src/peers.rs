//! Where the peers' binaries are. `make peers` builds them once, outside the checkout.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The folder with everything that outlives a checkout: `$PANOPTES_CACHE`, or else `~/.cache/panoptes`.
pub fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("PANOPTES_CACHE") {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".cache").join("panoptes")
}

/// The folder of the peers' binaries: `$PANOPTES_PEERS_DIR`, or else `peers/bin` in the cache.
pub fn dir() -> PathBuf {
    std::env::var_os("PANOPTES_PEERS_DIR").map_or_else(|| cache().join("peers").join("bin"), PathBuf::from)
}

/// The path of the peer `name`, as in `path("prometheus")`. Packages of the distribution (`etcd`) are found in `PATH`.
///
/// # Errors
/// When there is no such binary; the message says which target builds it.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    let built = dir().join(name);
    if built.is_file() {
        return Ok(built);
    }
    if let Some(found) = in_path(name) {
        return Ok(found);
    }
    anyhow::bail!(
        "the peer {name} is not there ({}): run `make peers` first, or set PANOPTES_NO_PEERS=1 to pass over tests that need peers",
        built.display()
    )
}

/// Whether the tests that need these peers are to be passed over (`PANOPTES_NO_PEERS=1`). Prints a line when so.
pub fn skip(names: &[&str]) -> bool {
    let skip = std::env::var("PANOPTES_NO_PEERS").is_ok_and(|v| v == "1");
    if skip {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        let _ =
            writeln!(std::io::stderr(), "skipped {test}: it needs {} and PANOPTES_NO_PEERS=1 is set", names.join(", "));
    }
    skip
}

/// The first executable of that name in `PATH` or in the system's sbin folders.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_peer_says_what_to_do() {
        let error = super::path("no-such-peer").unwrap_err().to_string();
        assert!(error.contains("make peers"), "{error}");
    }
}
