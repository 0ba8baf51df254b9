//! `thanos.shipper.json`: the list of local blocks that are in the bucket, in the form of Thanos's shipper.
//!
//! Prometheus reads it when it has `--storage.tsdb.delay-compact-file.path`: a block of level 1 that is not listed is not
//! compacted, and a missing or broken file lets it compact everything. For us it is a hint and never the truth: what it
//! claims is asked of the bucket, so it may be lost, stale or broken. A claim that was not asked yet is kept in a list of its
//! own, which Prometheus and Thanos pass over: a kill must not lose it, and nobody may believe it.

use model::BlockId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tsdb::disk::{self, Disk};

/// The version that Thanos writes.
const VERSION: u32 = 1;
/// A file that is larger is broken: it has room for a hundred thousand blocks.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Go writes an empty list as null.
    uploaded: Option<Vec<String>>,
    /// Ours only.
    #[serde(default)]
    claimed: Option<Vec<String>>,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Blocks that need no upload any more.
    pub(super) uploaded: BTreeSet<BlockId>,
    /// Blocks that an earlier file called uploaded, and of which the bucket was not asked yet.
    pub(super) claimed: BTreeSet<BlockId>,
}

impl Listed {
    /// All that is to be asked of a bucket that does not know them.
    pub(super) fn all(self) -> BTreeSet<BlockId> {
        let mut all = self.uploaded;
        all.extend(self.claimed);
        all
    }
}

/// The file.
#[derive(Clone)]
pub(super) struct Progress {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Progress {
    /// The file at `path`.
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self { disk, path }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it claims; without a readable file, nothing, and why.
    pub(super) fn read(&self) -> (Listed, Option<String>) {
        match self.disk.read(&self.path, MAX_BYTES) {
            Ok(bytes) => match parse(&bytes) {
                Ok(listed) => (listed, None),
                Err(e) => (Listed::default(), Some(format!("{}: {e}", self.path.display()))),
            },
            Err(e) if e.is_not_found() => (Listed::default(), None),
            Err(e) => (Listed::default(), Some(e.to_string())),
        }
    }

    /// Writes it for good, unless that is what it says already.
    pub(super) fn write(&self, listed: &Listed) -> tsdb::Result<()> {
        let bytes = render(listed);
        if self.disk.read(&self.path, MAX_BYTES).is_ok_and(|now| now == bytes) {
            return Ok(());
        }
        disk::replace(&*self.disk, &self.path, &bytes)
    }
}

fn parse(bytes: &[u8]) -> Result<Listed, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| format!("not the expected JSON: {e}"))?;
    if document.version != VERSION {
        return Err(format!("version {} is unknown", document.version));
    }
    // A name that is no block can't be one of ours.
    let ids = |list: Option<Vec<String>>| list.unwrap_or_default().iter().filter_map(|id| id.parse().ok()).collect();
    Ok(Listed { uploaded: ids(document.uploaded), claimed: ids(document.claimed) })
}

/// As Go's encoder writes it: tabs, and a newline at the end.
fn render(listed: &Listed) -> Vec<u8> {
    let list = |ids: &BTreeSet<BlockId>| {
        let list: Vec<String> = ids.iter().map(|id| format!("\n\t\t\"{id}\"")).collect();
        if list.is_empty() { "[]".to_owned() } else { format!("[{}\n\t]", list.join(",")) }
    };
    let claimed = match listed.claimed.is_empty() {
        true => String::new(),
        false => format!(",\n\t\"claimed\": {}", list(&listed.claimed)),
    };
    let uploaded = list(&listed.uploaded);
    format!("{{\n\t\"version\": {VERSION},\n\t\"uploaded\": {uploaded}{claimed}\n}}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsdb::disk::RealDisk;

    fn ids(texts: &[&str]) -> Listed {
        Listed { uploaded: texts.iter().map(|t| t.parse().unwrap()).collect(), ..Listed::default() }
    }

    const A: &str = "01JDAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "01JDBBBBBBBBBBBBBBBBBBBBBB";

    #[test]
    fn what_is_written_is_what_thanos_writes_and_reads_back() {
        let text = format!("{{\n\t\"version\": 1,\n\t\"uploaded\": [\n\t\t\"{A}\",\n\t\t\"{B}\"\n\t]\n}}\n");
        assert_eq!(render(&ids(&[A, B])), text.as_bytes());
        assert_eq!(parse(text.as_bytes()).unwrap(), ids(&[A, B]));
        assert_eq!(parse(&render(&ids(&[]))).unwrap(), ids(&[]));
        assert_eq!(parse(br#"{"version": 1, "uploaded": null}"#).unwrap(), ids(&[]));
        assert!(parse(br#"{"version": 2, "uploaded": []}"#).unwrap_err().contains("version 2"));
    }

    #[test]
    fn a_claim_that_was_not_asked_is_kept_apart() {
        let claimed = ids(&[B]).uploaded;
        let listed = Listed { claimed, ..ids(&[A]) };
        let text = String::from_utf8(render(&listed)).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap(), listed);
        let as_prometheus: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(as_prometheus["uploaded"], serde_json::json!([A]));
        assert_eq!(listed.all(), ids(&[A, B]).uploaded);
    }

    #[test]
    fn a_missing_or_broken_file_claims_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let progress = Progress::new(Arc::new(RealDisk), dir.path().join("thanos.shipper.json"));
        assert_eq!(progress.read(), (ids(&[]), None));
        progress.write(&ids(&[A])).unwrap();
        assert_eq!(progress.read(), (ids(&[A]), None));
        std::fs::write(progress.path(), "{\"version\": 1, \"uploaded\": [\"01").unwrap();
        let (claims, problem) = progress.read();
        assert!(claims == Listed::default() && problem.unwrap().contains("thanos.shipper.json"));
        progress.write(&ids(&[B])).unwrap();
        assert_eq!(progress.read(), (ids(&[B]), None));
    }
}
