//! A disk in memory, for simulations: deterministic, and with what a real one does when the power goes.
//!
//! Every change is counted, so that a test can end a process before any of them ([`MemoryDisk::stop_before`], or all at once
//! with [`each_crash`]). What a machine finds then is told by [`MemoryDisk::killed`] (the process ended, the machine goes on)
//! and [`MemoryDisk::power_lost`] (what was not synced may be there, not be there, or be there in part):
//!
//! * bytes are safe after the fsync of their file. Of those written since, each write is there, or not, or its begin is, in
//!   any order, with zeros where nothing was written;
//! * names are safe after the fsync of their folder. Of what happened to a folder's names since, the first so many changes are
//!   there, in each folder independently; a rename from one folder to another is there as a whole or not at all;
//! * a fsync that failed has lost the bytes, though they can still be read: a later one that succeeds does not bring them back.

mod files;
mod tree;

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tree::{Id, Node, ROOT, State, dir, fill, set};

/// Bytes that a file gathers before a write is one.
const BUFFER: usize = 64 << 10;

/// What changes a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file is made; one that had the name loses it.
    Create(PathBuf),
    /// Bytes are handed to the operating system.
    Write {
        /// The file, by the name that it was made with.
        path: PathBuf,
        /// From the start of the file.
        offset: u64,
        /// How many.
        length: usize,
    },
    /// The fsync of a file, by the name that it was made with.
    Sync(PathBuf),
    /// A folder is made.
    CreateDir(PathBuf),
    /// A file or folder is renamed.
    Rename(PathBuf, PathBuf),
    /// A file has a second name.
    Link(PathBuf, PathBuf),
    /// The fsync of a folder.
    SyncDir(PathBuf),
    /// A name is removed, of a file or of an empty folder.
    Remove(PathBuf),
}

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::over(BTreeMap::from([(ROOT, dir())]), 1)
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn over(nodes: BTreeMap<Id, Node>, next: Id) -> Self {
        let state =
            State { nodes, unsafe_names: Vec::new(), next, changes: Vec::new(), stop_before: usize::MAX, faults: None };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// All changes so far.
    pub fn changes(&self) -> Vec<Change> {
        self.state.lock().changes.clone()
    }

    /// The process ends right before the change of this number (from 0, counted from the disk's beginning): that one and all
    /// later ones fail.
    pub fn stop_before(&self, number: usize) {
        self.state.lock().stop_before = number;
    }

    /// Asked before each change, with its number: an answer makes it fail with this error.
    pub fn faults(&self, faults: impl FnMut(usize, &Change) -> Option<io::ErrorKind> + Send + 'static) {
        self.state.lock().faults = Some(Box::new(faults));
    }

    /// All files and their bytes.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.lock();
        let (mut out, mut rest) = (BTreeMap::new(), vec![(PathBuf::from("/"), ROOT)]);
        while let Some((path, id)) = rest.pop() {
            match state.nodes.get(&id) {
                Some(Node::Dir { names, .. }) => rest.extend(names.iter().map(|(n, id)| (path.join(n), *id))),
                Some(Node::File { bytes, .. }) => {
                    out.insert(path, bytes.clone());
                }
                None => {}
            }
        }
        out
    }

    /// What the next process finds when this one is killed now.
    #[must_use]
    pub fn killed(&self) -> Self {
        let state = self.state.lock();
        let next = Self::over(state.nodes.clone(), state.next);
        next.state.lock().unsafe_names = state.unsafe_names.clone();
        next
    }

    /// What a machine finds when the power goes now. Each `seed` is another way how it may be.
    #[must_use]
    pub fn power_lost(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut nodes = BTreeMap::new();
        for (id, node) in &state.nodes {
            let found = match node {
                Node::Dir { safe, .. } => Node::Dir { names: safe.clone(), safe: safe.clone() },
                Node::File { safe, writes, .. } => {
                    let mut bytes = safe.clone();
                    for (offset, more) in writes {
                        match random.below(3) {
                            0 => {}
                            1 => fill(&mut bytes, *offset, more),
                            _ => fill(&mut bytes, *offset, more.get(..random.below(more.len())).unwrap_or_default()),
                        }
                    }
                    Node::File { safe: bytes.clone(), bytes, writes: Vec::new() }
                }
            };
            nodes.insert(*id, found);
        }
        let mut lost = BTreeSet::new();
        for change in &state.unsafe_names {
            if change.touches(&lost) || random.below(3) == 0 {
                lost.extend(change.dirs());
                continue;
            }
            for (folder, name, id) in &change.0 {
                if let Some(Node::Dir { names, safe }) = nodes.get_mut(folder) {
                    set(names, name, *id);
                    set(safe, name, *id);
                }
            }
        }
        Self::over(nodes, state.next)
    }
}

/// Runs `work` on a disk that `prepare` made, and then again for every change that it makes, with a process that ends before
/// this change, and once with one that ends after the last: each time `check` is given what the next process finds, killed and
/// in `seeds` ways without power, and words for it.
pub fn each_crash(
    seeds: u64,
    prepare: impl Fn(&MemoryDisk),
    mut work: impl FnMut(&MemoryDisk),
    mut check: impl FnMut(&str, MemoryDisk),
) {
    let fresh = || {
        let disk = MemoryDisk::new();
        prepare(&disk);
        // What was there before is safe.
        let disk = disk.synced();
        disk.state.lock().changes.clear();
        disk
    };
    let whole = fresh();
    work(&whole);
    let changes = whole.changes();
    for number in 0..=changes.len() {
        let disk = fresh();
        disk.stop_before(number);
        work(&disk);
        let before = match changes.get(number) {
            Some(change) => format!("before change {number}, {change:?}"),
            None => format!("after all {number} changes"),
        };
        check(&format!("killed {before}"), disk.killed());
        for seed in 0..seeds {
            check(&format!("power lost {before} (seed {seed})"), disk.power_lost(seed));
        }
    }
}

impl MemoryDisk {
    /// The same disk when all of it is safe.
    #[must_use]
    pub fn synced(&self) -> Self {
        let mut state = self.state.lock();
        for node in state.nodes.values_mut() {
            match node {
                Node::Dir { names, safe } => safe.clone_from(names),
                Node::File { bytes, safe, writes } => {
                    safe.clone_from(bytes);
                    writes.clear();
                }
            }
        }
        state.unsafe_names.clear();
        drop(state);
        self.clone()
    }
}

/// SplitMix64: the same seed, the same disk.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % (n as u64).max(1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk as _, replace};
    use std::path::Path;

    fn path(name: &str) -> PathBuf {
        Path::new("/d").join(name)
    }

    fn prepared(disk: &MemoryDisk) {
        disk.create_dir(Path::new("/d")).unwrap();
        replace(disk, &path("f"), b"old").unwrap();
    }

    #[test]
    fn a_file_that_is_replaced_is_old_or_new_whenever_the_power_goes() {
        let (mut old, mut new) = (0, 0);
        let check = |what: &str, disk: MemoryDisk| match &disk.open(&path("f")).unwrap()[..] {
            b"old" => old += 1,
            b"new bytes" => new += 1,
            other => panic!("{what}: {other:?}"),
        };
        each_crash(20, prepared, |disk| drop(replace(disk, &path("f"), b"new bytes")), check);
        assert!(old > 30 && new > 20, "{old} {new}");
    }

    #[test]
    fn what_is_not_synced_may_be_lost_torn_or_out_of_order() {
        // The same without fsync: anything may be there after a loss of power, and the new file after a kill.
        let without = |disk: &MemoryDisk| {
            let Ok(mut file) = disk.create(&path("f.tmp")) else { return };
            let written = file.write_all(b"new").and_then(|()| file.flush()).and_then(|()| file.write_all(b" bytes"));
            drop(file);
            if written.is_ok() {
                let _ = disk.rename(&path("f.tmp"), &path("f"));
            }
        };
        let mut seen = BTreeSet::new();
        each_crash(200, prepared, without, |what, disk| {
            let bytes = disk.open(&path("f")).unwrap();
            if what.starts_with("killed") {
                assert!(matches!(&bytes[..], b"old" | b"new bytes"), "{what}: {bytes:?}");
            }
            seen.insert(bytes);
        });
        for found in [&b"old"[..], b"", b"new", b"new bytes", b"ne", b"\0\0\0 bytes", b"\0\0\0 by"] {
            assert!(seen.contains(found), "{:?} is not among {seen:?}", String::from_utf8_lossy(found));
        }
        // A rename that came through, and the folder's fsync: it stays.
        let disk = MemoryDisk::new();
        prepared(&disk);
        let disk = disk.synced();
        disk.create_dir(&path("e")).unwrap();
        disk.rename(&path("f"), &path("e/f")).unwrap();
        let found = |disk: &MemoryDisk| (disk.exists(&path("f")).unwrap(), disk.exists(&path("e/f")).unwrap());
        let ways: BTreeSet<_> = (0..50).map(|seed| found(&disk.power_lost(seed))).collect();
        assert_eq!(ways, BTreeSet::from([(true, false), (false, true)]), "both names or none");
        disk.sync_dir(&path("e")).unwrap();
        assert!((0..50).all(|seed| found(&disk.power_lost(seed)) == (false, true)));
    }

    #[test]
    fn a_fsync_that_failed_has_lost_the_bytes() {
        let disk = MemoryDisk::new();
        prepared(&disk);
        let disk = disk.synced();
        disk.faults(|_, change| matches!(change, Change::Sync(_)).then_some(io::ErrorKind::StorageFull));
        assert!(replace(&disk, &path("f"), b"new").is_err());
        assert_eq!(&disk.open(&path("f")).unwrap()[..], b"old");
        let mut file = disk.create(&path("g")).unwrap();
        file.write_all(b"lost").unwrap();
        file.sync().unwrap_err();
        disk.faults(|_, _| None);
        file.write_all(b" kept").unwrap();
        file.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(&disk.open(&path("g")).unwrap()[..], b"lost kept");
        assert_eq!(&disk.power_lost(1).open(&path("g")).unwrap()[..], b"\0\0\0\0 kept");
    }
}
