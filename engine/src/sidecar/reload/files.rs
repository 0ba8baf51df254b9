//! Files of the reloader: reading what should be loaded, writing it for Prometheus.

use args::files::{CONFIG_SLOTS, hash_rule_file, hex};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest configuration or rule file, unpacked, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Deepest directory below a rule directory.
const MAX_DEPTH: usize = 8;
/// Most rule files.
const MAX_FILES: usize = 20_000;

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system refuses.
    #[error("{action} {path}: {error}")]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Packed, but broken: of a split file perhaps not all parts have arrived.
    #[error("{path} can't be unpacked: {error}")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not text.
    #[error("{path} is not valid UTF-8")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Too large, too many, too deep.
    #[error("{path} {what}")]
    TooLarge {
        /// The file or directory.
        path: PathBuf,
        /// In which way.
        what: String,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, error }
    }

    /// True if the file is not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == std::io::ErrorKind::NotFound)
    }
}

/// A configuration as handed in: unpacked, before variables are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Input {
    /// The text.
    pub(crate) text: String,
    /// Its SHA-256 in hex.
    pub(crate) hash: String,
}

/// Reads a configuration: the file, joined with its further parts (`.1`, `.2`, …), unpacked if it is packed.
pub(crate) fn read_input(path: &Path) -> Result<Input, FileError> {
    let mut bytes = read(path)?;
    for n in 1..CONFIG_SLOTS {
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{n}"));
        match read(Path::new(&part)) {
            Ok(more) => bytes.extend(more),
            Err(e) if e.is_absent() => break,
            Err(e) => return Err(e),
        }
    }
    unpack(path, bytes)
}

/// What the bytes of a configuration say; `path` is for the error.
pub(crate) fn unpack(path: &Path, mut bytes: Vec<u8>) -> Result<Input, FileError> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let broken = |error| FileError::Unpack { path: path.to_owned(), error };
        GzDecoder::new(bytes.as_slice()).take(MAX_BYTES + 1).read_to_end(&mut unpacked).map_err(broken)?;
        bytes = unpacked;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_large(path));
    }
    let hash = hex(&Sha256::digest(&bytes));
    let text = String::from_utf8(bytes).map_err(|_e| FileError::NotText { path: path.to_owned() })?;
    Ok(Input { text, hash })
}

fn too_large(path: &Path) -> FileError {
    FileError::TooLarge { path: path.to_owned(), what: format!("has more than {MAX_BYTES} bytes") }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(FileError::io("read", path))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES { Err(too_large(path)) } else { Ok(bytes) }
}

/// Hash over names and contents of all files below the directories, in hex. Symbolic links are followed, as a mounted
/// ConfigMap consists of them; names that begin with `..` are its inner workings and are passed over.
pub(crate) fn hash_rules(dirs: &[PathBuf]) -> Result<String, FileError> {
    let mut files = Vec::new();
    for dir in dirs {
        collect(dir, 0, &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let text = read(&file)?;
        hash_rule_file(file.as_os_str().as_encoded_bytes(), &text, |bytes| hash.update(bytes));
    }
    Ok(hex(&hash.finalize()))
}

/// All files below a directory.
pub(crate) fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let too = |what: String| FileError::TooLarge { path: dir.to_owned(), what };
    if depth > MAX_DEPTH {
        return Err(too(format!("is more than {MAX_DEPTH} directories deep")));
    }
    for entry in fs::read_dir(dir).map_err(FileError::io("read", dir))? {
        let entry = entry.map_err(FileError::io("read", dir))?;
        if entry.file_name().as_encoded_bytes().starts_with(b"..") {
            continue;
        }
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(m) if m.is_dir() => collect(&path, depth + 1, files)?,
            Ok(m) if m.is_file() => files.push(path),
            Ok(_) => {}
            // Swapped away between listing and looking.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(FileError::io("read", &path)(e)),
        }
        if files.len() > MAX_FILES {
            return Err(too(format!("has more than {MAX_FILES} files")));
        }
    }
    Ok(())
}

/// Writes a file as a whole or not at all: a reader sees the old or the new text, also after a crash.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), FileError> {
    write_bytes(path, text.as_bytes())
}

/// The same for bytes.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let put = || -> std::io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    };
    put().map_err(FileError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;

    #[test]
    fn reads_plain_packed_and_split_with_the_same_hash() {
        let dir = tempfile::tempdir().unwrap();
        let text = "global: {}\n".repeat(1000);
        let plain = dir.path().join("plain.yaml");
        fs::write(&plain, &text).unwrap();
        let mut gz = GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(text.as_bytes()).unwrap();
        let packed = gz.finish().unwrap();
        let split = dir.path().join("split.yaml");
        fs::write(&split, &packed[..20]).unwrap();
        let half = read_input(&split).unwrap_err();
        assert!(matches!(half, FileError::Unpack { .. }), "{half}");
        fs::write(dir.path().join("split.yaml.1"), &packed[20..30]).unwrap();
        fs::write(dir.path().join("split.yaml.2"), &packed[30..]).unwrap();
        let a = read_input(&plain).unwrap();
        assert_eq!(a.text, text);
        assert_eq!(a.hash, hex(&Sha256::digest(text.as_bytes())));
        assert_eq!(read_input(&split).unwrap(), a);
        assert!(read_input(&dir.path().join("none")).unwrap_err().is_absent());
    }

    #[test]
    fn rule_hash_follows_config_map_links_and_sees_content_only() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let dirs = [d.to_owned()];
        let put = |version: &str, text: &str| {
            fs::create_dir(d.join(version)).unwrap();
            fs::write(d.join(version).join("a.yaml"), text).unwrap();
            let _ = fs::remove_file(d.join("..data"));
            symlink(version, d.join("..data")).unwrap();
        };
        put("..1", "groups: []");
        symlink("..data/a.yaml", d.join("a.yaml")).unwrap();
        let first = hash_rules(&dirs).unwrap();
        put("..2", "groups: []");
        assert_eq!(hash_rules(&dirs).unwrap(), first, "the same content");
        put("..3", "groups: [x]");
        assert_ne!(hash_rules(&dirs).unwrap(), first, "another content");
        assert!(hash_rules(&[d.join("none")]).unwrap_err().is_absent());
    }

    #[test]
    fn writes_as_a_whole_with_readable_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.yaml");
        write(&path, "a").unwrap();
        write(&path, "b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        assert!(write(&dir.path().join("no/such/out.yaml"), "x").unwrap_err().to_string().contains("no/such"));
    }
}
