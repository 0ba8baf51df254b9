//! Where blocks are: a bucket of the emulated Google storage, or a folder that is one.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;
use testkit::gcs::Remote;

use crate::made;
use crate::stories::world::Bucket;

/// A bucket, as stories fill it and look into it.
pub trait Shelf {
    /// Puts a block's folder into it, meta.json last.
    ///
    /// # Errors
    /// When it can't be written.
    fn put(&self, block: &Path) -> anyhow::Result<()>;
    /// The metas of all whole blocks.
    ///
    /// # Errors
    /// When it can't be read, or one is none.
    fn metas(&self) -> anyhow::Result<Vec<Value>>;
    /// The names of all objects below a name.
    ///
    /// # Errors
    /// When it can't be read.
    fn names(&self, below: &str) -> anyhow::Result<Vec<String>>;
    /// An object.
    ///
    /// # Errors
    /// When there is none.
    fn object(&self, name: &str) -> anyhow::Result<Vec<u8>>;

    /// Whether there is an object of this name.
    ///
    /// # Errors
    /// When it can't be read.
    fn has(&self, name: &str) -> anyhow::Result<bool> {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        Ok(self.names(folder)?.iter().any(|found| found == name))
    }

    /// Fetches a block into a folder; gives its own folder in there.
    ///
    /// # Errors
    /// When it can't be read or written.
    fn fetch(&self, id: &str, to: &Path) -> anyhow::Result<PathBuf> {
        for name in self.names(id)? {
            let file = to.join(&name);
            std::fs::create_dir_all(file.parent().context("a name without a folder")?)?;
            std::fs::write(file, self.object(&name)?)?;
        }
        Ok(to.join(id))
    }
}

fn names(server: &Remote, bucket: &str, below: &str) -> anyhow::Result<Vec<String>> {
    let below = format!("{below}/");
    Ok(server.names(bucket)?.into_iter().filter(|name| name.starts_with(&below)).collect())
}

impl Shelf for Bucket {
    fn put(&self, block: &Path) -> anyhow::Result<()> {
        made::upload(&self.server, &self.name, block).map(|_| ())
    }

    fn metas(&self) -> anyhow::Result<Vec<Value>> {
        Ok(self.blocks()?.into_values().flatten().collect())
    }

    fn names(&self, below: &str) -> anyhow::Result<Vec<String>> {
        names(&self.server, &self.name, below)
    }

    fn object(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        self.server.object(&self.name, name)
    }
}

/// A folder that is a bucket.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Shelf for Folder {
    fn put(&self, block: &Path) -> anyhow::Result<()> {
        let name = block.file_name().context("a block without a name")?;
        let to = self.0.join(name);
        std::fs::create_dir_all(to.join("chunks"))?;
        let mut files = vec![PathBuf::from("index")];
        for segment in std::fs::read_dir(block.join("chunks"))? {
            files.push(Path::new("chunks").join(segment?.file_name()));
        }
        files.push(PathBuf::from("meta.json"));
        for file in &files {
            std::fs::copy(block.join(file), to.join(file))?;
        }
        // The pods are nobody: they have to be able to delete it.
        for path in [to.join("chunks"), to.clone()].iter().chain(&files.iter().map(|f| to.join(f)).collect::<Vec<_>>())
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        Ok(())
    }

    fn metas(&self) -> anyhow::Result<Vec<Value>> {
        let mut found: Vec<Value> = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            if let Ok(text) = std::fs::read(entry?.path().join("meta.json")) {
                found.push(serde_json::from_slice(&text)?);
            }
        }
        Ok(found)
    }

    fn names(&self, below: &str) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from(below)];
        while let Some(folder) = folders.pop() {
            // One that vanishes while it is looked at has nothing in it.
            for entry in std::fs::read_dir(self.0.join(&folder)).into_iter().flatten().flatten() {
                let name = folder.join(entry.file_name());
                match entry.file_type()?.is_dir() {
                    true => folders.push(name),
                    false => found.push(name.to_string_lossy().into_owned()),
                }
            }
        }
        Ok(found)
    }

    fn object(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        std::fs::read(self.0.join(name)).with_context(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_bucket() {
        let dir = tempfile::tempdir().unwrap();
        let block = dir.path().join("made/01A");
        std::fs::create_dir_all(block.join("chunks")).unwrap();
        for (name, text) in [("index", "i"), ("meta.json", r#"{"ulid": "01A"}"#), ("chunks/000001", "c")] {
            std::fs::write(block.join(name), text).unwrap();
        }
        let folder = Folder(dir.path().join("bucket"));
        std::fs::create_dir(&folder.0).unwrap();
        folder.put(&block).unwrap();
        std::fs::create_dir(folder.0.join("panoptes")).unwrap();
        assert_eq!(folder.metas().unwrap()[0]["ulid"], "01A");
        assert!(folder.has("01A/chunks/000001").unwrap() && !folder.has("01A/deletion-mark.json").unwrap());
        let back = folder.fetch("01A", &dir.path().join("back")).unwrap();
        assert_eq!(std::fs::read(back.join("chunks/000001")).unwrap(), b"c");
    }
}
