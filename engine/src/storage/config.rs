//! The configuration of object storage as it is handed in: content of a flag, or a file that may change.

use crate::server::expand::expand;
use args::files::hex;
use sha2::{Digest, Sha256};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A larger file is none.
const MAX_BYTES: u64 = 1 << 20;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// `--objstore.config`.
    Content(String),
    /// `--objstore.config-file`.
    File(PathBuf),
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or nothing but space: the Secret is still to come.
    Nothing(String),
    /// A text, with its SHA-256 in hex.
    Text { hash: String, text: String },
}

/// The source that the two flags name; `None` if they name none.
pub(super) fn source(content: &str, file: &str) -> anyhow::Result<Option<Source>> {
    match (content.is_empty(), file.is_empty()) {
        (true, true) => Ok(None),
        (false, true) => Ok(Some(Source::Content(content.to_owned()))),
        (true, false) => Ok(Some(Source::File(PathBuf::from(file)))),
        (false, false) => {
            anyhow::bail!("--objstore.config and --objstore.config-file are two forms of one setting: give one of them")
        }
    }
}

impl Source {
    /// Reads it. An error says why it can't be used.
    pub(super) fn read(&self) -> Result<Found, String> {
        let text = match self {
            Self::Content(text) => text.clone(),
            Self::File(path) => match read(path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Found::Nothing(format!("{} is missing", path.display())));
                }
                Err(e) => return Err(format!("read {}: {e}", path.display())),
            },
        };
        if text.trim().is_empty() {
            return Ok(Found::Nothing(match self {
                Self::Content(_) => "--objstore.config is empty".to_owned(),
                Self::File(path) => format!("{} is empty", path.display()),
            }));
        }
        Ok(Found::Text { hash: hex(&Sha256::digest(text.as_bytes())), text })
    }
}

/// The bucket that a text describes, with `$(NAME)` replaced by the environment as in Thanos. No secret is in the error.
pub(super) fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<bucket::Config, String> {
    let text = expand(text, environment).map_err(|e| e.to_string())?;
    bucket::Config::parse(&text).map_err(|e| e.to_string())
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("it is larger than 1 MiB, which no configuration of object storage is"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_flags() {
        assert!(source("", "").unwrap().is_none());
        assert!(source("a", "b").unwrap_err().to_string().contains("give one of them"));
        let Some(Source::Content(text)) = source("type: X", "").unwrap() else { panic!("content") };
        assert_eq!(text, "type: X");
    }

    #[test]
    fn a_missing_or_empty_file_is_no_error_and_variables_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objstore.yml");
        let source = source("", path.to_str().unwrap()).unwrap().unwrap();
        let Found::Nothing(why) = source.read().unwrap() else { panic!("nothing") };
        assert!(why.contains("objstore.yml is missing"), "{why}");
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(source.read().unwrap(), Found::Nothing(why) if why.contains("is empty")));
        let text = "type: FILESYSTEM\nconfig: {directory: $(DIR)/bucket}\n";
        std::fs::write(&path, text).unwrap();
        let Found::Text { hash, text: read } = source.read().unwrap() else { panic!("text") };
        assert_eq!((hash.len(), read.as_str()), (64, text));
        let config = parse(&read, |n| (n == "DIR").then(|| "/x".to_owned())).unwrap();
        assert!(config.bucket_name().contains("/x/bucket"), "{}", config.bucket_name());
        assert!(parse(&read, |_| None).unwrap_err().contains("$(DIR) is not set"));
        assert!(parse("type: FILESYSTEM\nconfig: {directory: a, b: c}\n", |_| None).is_err());
    }
}
