//! Free ports on loopback, each for one caller on this machine: no other test process is given the same one, and no outgoing
//! connection takes it between the moment it is found free and the moment a peer listens on it.
//!
//! The ports lie below the kernel's ephemeral range, in blocks; a process owns the blocks whose lock files it holds, and they
//! are free again when it ends, however that happens.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

const FIRST: u16 = 20_000;
const END: u16 = 32_000;
const BLOCK: u16 = 50;

#[derive(Debug)]
struct Owned {
    next: u16,
    end: u16,
    blocks: Vec<File>,
}

static OWNED: Mutex<Owned> = Mutex::new(Owned { next: 0, end: 0, blocks: Vec::new() });

/// A TCP port that nobody listens on, different at every call on this machine as long as the caller lives.
///
/// # Errors
/// When all blocks are taken, or their lock files can't be written.
pub fn free() -> anyhow::Result<u16> {
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while owned.next < owned.end {
            let port = owned.next;
            owned.next += 1;
            // Something else than a test may listen there.
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(port);
            }
        }
        let (lock, first) = claim()?;
        owned.blocks.push(lock);
        (owned.next, owned.end) = (first, first + BLOCK);
    }
}

/// A block that no other process owns: its lock, and its first port.
fn claim() -> anyhow::Result<(File, u16)> {
    let dir = folder()?;
    let blocks = (end() - FIRST) / BLOCK;
    // Those who begin at different places rarely meet.
    let start = u16::try_from(std::process::id() % u32::from(blocks))?;
    for n in 0..blocks {
        let first = FIRST + (start + n) % blocks * BLOCK;
        let path = dir.join(first.to_string());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        if file.try_lock().is_ok() {
            return Ok((file, first));
        }
    }
    anyhow::bail!("all ports between {FIRST} and {} belong to running tests (locks in {})", end(), dir.display())
}

fn folder() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    // One per user: nobody can lock another's files.
    let user = fs::metadata("/proc/self")?.uid();
    let dir = std::env::temp_dir().join(format!("panoptes-ports-{user}"));
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// Where the ephemeral range begins, if it leaves room.
fn end() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = text.split_whitespace().next().and_then(|n| n.parse::<u16>().ok());
    ephemeral.filter(|n| *n >= FIRST + 10 * BLOCK).map_or(END, |n| n.min(END))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_gives_another_and_a_block_has_one_owner() {
        let ports: BTreeSet<u16> = (0..3 * BLOCK).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), usize::from(3 * BLOCK));
        assert!(ports.iter().all(|p| (FIRST..end()).contains(p)));
        // As another process would see it: the locks of all blocks that these ports are of are held.
        for port in &ports {
            let block = FIRST + (port - FIRST) / BLOCK * BLOCK;
            let file = File::options().write(true).open(folder().unwrap().join(block.to_string())).unwrap();
            assert!(file.try_lock().is_err(), "the block {block} can be had twice");
        }
    }
}
