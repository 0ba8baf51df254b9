//! Names, folders and files, what of them is safe, and how they change.

use super::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

pub(super) type Faults = Box<dyn FnMut(usize, &Change) -> Option<io::ErrorKind> + Send>;
pub(super) type Id = u64;
pub(super) const ROOT: Id = 0;

pub(super) struct State {
    pub(super) nodes: BTreeMap<Id, Node>,
    /// What happened to names and is not safe yet, in order.
    pub(super) unsafe_names: Vec<NameChange>,
    pub(super) next: Id,
    pub(super) changes: Vec<Change>,
    pub(super) stop_before: usize,
    pub(super) faults: Option<Faults>,
}

#[derive(Clone)]
pub(super) enum Node {
    Dir {
        names: BTreeMap<String, Id>,
        safe: BTreeMap<String, Id>,
    },
    File {
        bytes: Vec<u8>,
        safe: Vec<u8>,
        /// Writes since the last fsync.
        writes: Vec<(u64, Vec<u8>)>,
    },
}

/// Names that are set or taken away, of one folder or two: all or nothing.
#[derive(Clone)]
pub(super) struct NameChange(pub(super) Vec<(Id, String, Option<Id>)>);

impl NameChange {
    pub(super) fn touches(&self, dirs: &BTreeSet<Id>) -> bool {
        self.0.iter().any(|(dir, ..)| dirs.contains(dir))
    }

    pub(super) fn dirs(&self) -> impl Iterator<Item = Id> + '_ {
        self.0.iter().map(|(dir, ..)| *dir)
    }
}

pub(super) fn dir() -> Node {
    Node::Dir { names: BTreeMap::new(), safe: BTreeMap::new() }
}

pub(super) fn set(names: &mut BTreeMap<String, Id>, name: &str, id: Option<Id>) {
    match id {
        Some(id) => names.insert(name.to_owned(), id),
        None => names.remove(name),
    };
}

pub(super) fn fill(bytes: &mut Vec<u8>, offset: u64, more: &[u8]) {
    let from = offset as usize;
    let end = from + more.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(from..end) {
        place.copy_from_slice(more);
    }
}

pub(super) fn refused(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

/// The names on the way to a path.
pub(super) fn parts(path: &Path) -> io::Result<Vec<&str>> {
    path.components()
        .filter(|c| !matches!(c, Component::RootDir | Component::CurDir))
        .map(|c| match c {
            Component::Normal(name) => name.to_str().ok_or_else(|| refused(io::ErrorKind::InvalidFilename)),
            _ => Err(refused(io::ErrorKind::InvalidInput)),
        })
        .collect()
}

impl State {
    /// A change is about to happen.
    pub(super) fn change(&mut self, change: Change) -> io::Result<()> {
        let number = self.changes.len();
        if number >= self.stop_before {
            return Err(io::Error::other("the process has ended"));
        }
        let fault = self.faults.as_mut().and_then(|faults| faults(number, &change));
        self.changes.push(change);
        fault.map_or(Ok(()), |kind| Err(refused(kind)))
    }

    pub(super) fn names(&self, id: Id) -> io::Result<&BTreeMap<String, Id>> {
        match self.nodes.get(&id) {
            Some(Node::Dir { names, .. }) => Ok(names),
            Some(Node::File { .. }) => Err(refused(io::ErrorKind::NotADirectory)),
            None => Err(refused(io::ErrorKind::NotFound)),
        }
    }

    pub(super) fn walk(&self, parts: &[&str]) -> io::Result<Id> {
        parts.iter().try_fold(ROOT, |at, name| {
            self.names(at)?.get(*name).copied().ok_or_else(|| refused(io::ErrorKind::NotFound))
        })
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Id> {
        self.walk(&parts(path)?)
    }

    /// The folder of a path, and the name in it.
    pub(super) fn place<'p>(&self, path: &'p Path) -> io::Result<(Id, &'p str)> {
        let parts = parts(path)?;
        let (name, folder) = parts.split_last().ok_or_else(|| refused(io::ErrorKind::InvalidInput))?;
        let folder = self.walk(folder)?;
        self.names(folder)?;
        Ok((folder, name))
    }

    pub(super) fn file(&self, id: Id) -> io::Result<&Vec<u8>> {
        match self.nodes.get(&id) {
            Some(Node::File { bytes, .. }) => Ok(bytes),
            Some(Node::Dir { .. }) => Err(refused(io::ErrorKind::IsADirectory)),
            None => Err(refused(io::ErrorKind::NotFound)),
        }
    }

    pub(super) fn rename_all(&mut self, changes: Vec<(Id, String, Option<Id>)>) {
        for (folder, name, id) in &changes {
            if let Some(Node::Dir { names, .. }) = self.nodes.get_mut(folder) {
                set(names, name, *id);
            }
        }
        self.unsafe_names.push(NameChange(changes));
    }

    pub(super) fn add(&mut self, folder: Id, name: &str, node: Node) -> Id {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.rename_all(vec![(folder, name.to_owned(), Some(id))]);
        id
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::new();
        for name in parts(path)? {
            at.push(name);
            match self.find(&at) {
                Ok(id) => {
                    self.names(id).map_err(|_| refused(io::ErrorKind::AlreadyExists))?;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let (folder, name) = self.place(&at)?;
                    self.change(Change::CreateDir(Path::new("/").join(&at)))?;
                    self.add(folder, name, dir());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.place(from)?;
        let id = self.find(from)?;
        let (to_dir, to_name) = self.place(to)?;
        if let Ok(old) = self.find(to) {
            match (self.nodes.get(&id), self.nodes.get(&old)) {
                (Some(Node::File { .. }), Some(Node::Dir { .. })) => {
                    return Err(refused(io::ErrorKind::IsADirectory));
                }
                (Some(Node::Dir { .. }), Some(Node::File { .. })) => {
                    return Err(refused(io::ErrorKind::NotADirectory));
                }
                (_, Some(Node::Dir { names, .. })) if !names.is_empty() && id != old => {
                    return Err(refused(io::ErrorKind::DirectoryNotEmpty));
                }
                _ => {}
            }
            if id == old {
                return Ok(());
            }
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()))?;
        self.rename_all(vec![(from_dir, from_name.to_owned(), None), (to_dir, to_name.to_owned(), Some(id))]);
        Ok(())
    }

    /// Makes safe what happened to the names of a folder, and to others that a rename ties to it.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let id = self.find(path)?;
        self.change(Change::SyncDir(path.to_owned()))?;
        let mut dirs = BTreeSet::from([id]);
        for change in self.unsafe_names.iter().rev() {
            if change.touches(&dirs) {
                dirs.extend(change.dirs());
            }
        }
        // Later changes of a folder that came in by an earlier one need not be, but may be.
        let (safe, rest) = std::mem::take(&mut self.unsafe_names).into_iter().partition(|c| c.touches(&dirs));
        self.unsafe_names = rest;
        let safe: Vec<NameChange> = safe;
        for (folder, name, id) in safe.into_iter().flat_map(|c| c.0) {
            if let Some(Node::Dir { safe, .. }) = self.nodes.get_mut(&folder) {
                set(safe, &name, id);
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        self.change(Change::Remove(path.to_owned()))?;
        self.rename_all(vec![(folder, name.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let names: Vec<String> = self.names(self.find(path)?)?.keys().cloned().collect();
        for name in names {
            let inner = path.join(name);
            match self.nodes.get(&self.find(&inner)?) {
                Some(Node::Dir { .. }) => self.remove_dir(&inner)?,
                _ => self.remove(&inner)?,
            }
        }
        self.remove(path)
    }
}
