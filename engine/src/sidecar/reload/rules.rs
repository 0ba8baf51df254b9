//! Rule files on their way to Prometheus. It reads them from a folder of ours, in which lies only what it takes: a rule file
//! that it refuses would block every reload, and end Prometheus at its next start.
//!
//! `current/` is what Prometheus reads, `last-good/` what it is known to have loaded.

use super::files::{self, FileError};
use args::files::{hash_rule_file, hex};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Most bytes of all rule files together.
const MAX_BYTES: usize = 64 << 20;

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// Rule files by the names that they have for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleSet(BTreeMap<String, Vec<u8>>);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn current(&self) -> PathBuf {
        self.0.join("current")
    }

    fn last_good(&self) -> PathBuf {
        self.0.join("last-good")
    }

    /// What Prometheus is known to take; `None` if nothing is known.
    pub(super) fn good(&self) -> Result<Option<RuleSet>, FileError> {
        match RuleSet::read(&[self.last_good()]) {
            Ok(set) => Ok(Some(set)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Lets Prometheus find these.
    pub(super) fn offer(&self, set: &RuleSet) -> Result<(), FileError> {
        set.write(&self.current())
    }

    /// Notes that Prometheus has loaded these.
    pub(super) fn keep(&self, set: &RuleSet) -> Result<(), FileError> {
        set.write(&self.last_good())
    }
}

impl RuleSet {
    /// All rule files below these folders.
    pub(super) fn read(dirs: &[PathBuf]) -> Result<Self, FileError> {
        let mut set = BTreeMap::new();
        let mut bytes = 0usize;
        for (n, dir) in dirs.iter().enumerate() {
            let mut found = Vec::new();
            files::collect(dir, 0, &mut found)?;
            for path in found {
                let text = files::read(&path)?;
                bytes = bytes.saturating_add(text.len());
                if bytes > MAX_BYTES {
                    let what = format!("and the other rule files have more than {MAX_BYTES} bytes together");
                    return Err(FileError::TooLarge { path, what });
                }
                let inside = path.strip_prefix(dir).unwrap_or(&path);
                let name = inside.to_string_lossy().replace('/', "_");
                // One folder is the rule; of several, names may be equal.
                set.insert(if n == 0 { name } else { format!("{n}-{name}") }, text);
            }
        }
        Ok(Self(set))
    }

    /// Makes a folder hold these and nothing else. Files that stay as they are, are not touched.
    fn write(&self, dir: &Path) -> Result<(), FileError> {
        fs::create_dir_all(dir).map_err(FileError::io("make", dir))?;
        for (name, text) in &self.0 {
            let path = dir.join(name);
            if fs::read(&path).ok().as_ref() != Some(text) {
                files::write_bytes(&path, text)?;
            }
        }
        for entry in fs::read_dir(dir).map_err(FileError::io("read", dir))? {
            let entry = entry.map_err(FileError::io("read", dir))?;
            if !self.0.contains_key(entry.file_name().to_string_lossy().as_ref()) {
                let path = entry.path();
                fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Hash over names and contents, in hex.
    pub(super) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (name, text) in &self.0 {
            hash_rule_file(name.as_bytes(), text, |bytes| hash.update(bytes));
        }
        hex(&hash.finalize())
    }

    /// Names of files that are new here or have another content than in `good`.
    pub(super) fn suspects(&self, good: &Self) -> Vec<String> {
        self.0.iter().filter(|(name, text)| good.0.get(*name) != Some(*text)).map(|(name, _)| name.clone()).collect()
    }

    /// This set with some files as they are in another one, or without them if they are not there.
    pub(super) fn with(&self, names: &[String], of: &Self) -> Self {
        let mut set = self.0.clone();
        for name in names {
            match of.0.get(name) {
                Some(text) => set.insert(name.clone(), text.clone()),
                None => set.remove(name),
            };
        }
        Self(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: &[(&str, &str)]) -> RuleSet {
        RuleSet(files.iter().map(|(n, t)| ((*n).to_owned(), t.as_bytes().to_vec())).collect())
    }

    #[test]
    fn a_folder_holds_exactly_what_is_offered() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        assert_eq!(folder.good().unwrap(), None);
        let (one, two) = (set(&[("a.yaml", "1"), ("b.yaml", "2")]), set(&[("b.yaml", "3"), ("c.yaml", "4")]));
        folder.offer(&one).unwrap();
        folder.offer(&two).unwrap();
        assert_eq!(RuleSet::read(&[folder.current()]).unwrap(), two);
        folder.keep(&one).unwrap();
        assert_eq!(folder.good().unwrap(), Some(one.clone()));
        // A folder within a folder is flat for Prometheus.
        fs::create_dir_all(dir.path().join("in/x")).unwrap();
        fs::write(dir.path().join("in/x/d.yaml"), "5").unwrap();
        assert_eq!(RuleSet::read(&[dir.path().join("in")]).unwrap(), set(&[("x_d.yaml", "5")]));
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn suspects_are_what_has_changed() {
        let good = set(&[("a", "1"), ("b", "2"), ("gone", "0")]);
        let next = set(&[("a", "1"), ("b", "3"), ("new", "4")]);
        let suspects = next.suspects(&good);
        assert_eq!(suspects, ["b", "new"]);
        let base = next.with(&suspects, &good);
        assert_eq!(base, set(&[("a", "1"), ("b", "2")]));
        assert_eq!(base.with(&suspects[1..], &next), set(&[("a", "1"), ("b", "2"), ("new", "4")]));
    }
}
