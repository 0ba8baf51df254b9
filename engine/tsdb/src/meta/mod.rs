//! `meta.json`: what a block is. Prometheus's fields, and Thanos's under `thanos`.
//!
//! Fields that we don't know survive a rewrite, at every level. Written as Thanos writes it: tabs, newline at the end.

mod memory;

use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, Unknown};
use model::{BlockId, Labels};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// The file's name in the folder of its block.
pub const META_FILE: &str = "meta.json";
/// A meta.json can't be larger than this (a block of 10,000 sources has less than 1 MiB).
pub const MAX_META_BYTES: u64 = 16 << 20;

/// The only version of Prometheus's part and of Thanos's part.
const VERSION: i64 = 1;

/// What a block is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockMeta {
    /// The block's id.
    #[serde(rename = "ulid")]
    pub id: BlockId,
    /// Begin of its time range in ms, inclusive.
    pub min_time: i64,
    /// End of its time range in ms, exclusive.
    pub max_time: i64,
    /// What it holds.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub stats: Stats,
    /// Where it comes from.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub compaction: Compaction,
    /// 1.
    pub version: i64,
    /// Thanos's part; absent in blocks that only Prometheus has touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thanos: Option<Thanos>,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a block holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Samples. In a downsampled block, the sum of its count aggregates' samples.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub num_samples: u64,
    /// Samples that are floats.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub num_float_samples: u64,
    /// Samples that are native histograms.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub num_histogram_samples: u64,
    /// Series.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub num_series: u64,
    /// Chunks.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub num_chunks: u64,
    /// Deleted ranges.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub num_tombstones: u64,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Where a block comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    /// 1 for a block cut from a head; one more than the highest of its parents otherwise.
    #[serde(deserialize_with = "json::null_is_default")]
    pub level: i64,
    /// Ids of all blocks of level 1 that went in, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub sources: Vec<BlockId>,
    /// True if the compaction gave no samples, so that the block is to be removed.
    #[serde(skip_serializing_if = "is_false", deserialize_with = "json::null_is_default")]
    pub deletable: bool,
    /// The blocks that it was made of directly.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub parents: Vec<Parent>,
    /// True if a compaction of this block failed, so that Prometheus leaves it alone.
    #[serde(skip_serializing_if = "is_false", deserialize_with = "json::null_is_default")]
    pub failed: bool,
    /// More about it: `from-out-of-order`, `from-stale-series`, …
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub hints: Vec<String>,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A block that another was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// Its id.
    #[serde(rename = "ulid")]
    pub id: BlockId,
    /// Begin of its time range in ms, inclusive.
    pub min_time: i64,
    /// End of its time range in ms, exclusive.
    pub max_time: i64,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Thanos's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thanos {
    /// 1, or 0 for "1".
    #[serde(skip_serializing_if = "is_zero_i64", deserialize_with = "json::null_is_default")]
    pub version: i64,
    /// External labels: who made it. Never empty in a bucket.
    #[serde(deserialize_with = "json::null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// How coarse its samples are.
    #[serde(deserialize_with = "json::null_is_default")]
    pub downsample: Downsample,
    /// Which program made it: see [`source`].
    #[serde(deserialize_with = "json::null_is_default")]
    pub source: String,
    /// Names in `chunks/`, sorted. Superseded by `files`, still written.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub segment_files: Vec<String>,
    /// The block's files, sorted by path.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub files: Vec<File>,
    /// What `bucket rewrite` did to it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub rewrites: Vec<Rewrite>,
    /// Sizes in its index that help a reader to guess.
    #[serde(deserialize_with = "json::null_is_default")]
    pub index_stats: IndexStats,
    /// What others add; the key `parquet_migrated` is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<serde_json::Value>,
    /// When this meta.json went to the bucket.
    pub upload_time: UploadTime,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How coarse a block's samples are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Downsample {
    /// 0 (raw), 300000 or 3600000 ms.
    #[serde(deserialize_with = "json::null_is_default")]
    pub resolution: i64,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A file of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path within the block's folder: `chunks/000001`, `index`, `meta.json`.
    pub rel_path: String,
    /// Size in bytes; 0 where it is not told (meta.json).
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub size_bytes: u64,
    /// Hash of its content, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl File {
    /// A file of this size in bytes, without a hash.
    pub fn new(rel_path: impl Into<String>, size_bytes: u64) -> Self {
        Self { rel_path: rel_path.into(), size_bytes, hash: None, unknown: Unknown::new() }
    }
}

/// Hash of a file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash {
    /// `SHA256`.
    #[serde(rename = "hashFunc")]
    pub function: String,
    /// In lower-case hex.
    pub value: String,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What `bucket rewrite` did to a block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewrite {
    /// The block that was rewritten.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub sources: Vec<BlockId>,
    /// Deletions, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub deletions_applied: Vec<Deletion>,
    /// Relabelings, in order, in Prometheus's form.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub relabels_applied: Vec<serde_json::Value>,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A deletion that `bucket rewrite` did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deletion {
    /// Matchers, in Go's form of them.
    pub matchers: serde_json::Value,
    /// Time ranges; none = all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_default")]
    pub intervals: Vec<DeletedRange>,
    /// Who asked.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_default")]
    pub request_id: String,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A time range that was deleted, both ends inclusive, in ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRange {
    /// Begin.
    #[serde(rename = "Mint")]
    pub min_time: i64,
    /// End.
    #[serde(rename = "Maxt")]
    pub max_time: i64,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Sizes in an index that help a reader to guess.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexStats {
    /// Bytes of the longest series entry.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub series_max_size: u64,
    /// Bytes of the longest chunk.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "json::null_is_default")]
    pub chunk_max_size: u64,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Programs that make blocks, as Thanos names them.
pub mod source {
    /// The sidecar of a Prometheus.
    pub const SIDECAR: &str = "sidecar";
    /// Receive.
    pub const RECEIVE: &str = "receive";
    /// The compactor (also when it downsamples).
    pub const COMPACTOR: &str = "compactor";
    /// The compactor, repairing.
    pub const COMPACTOR_REPAIR: &str = "compactor.repair";
    /// The ruler.
    pub const RULER: &str = "ruler";
    /// `tools bucket verify --repair`.
    pub const BUCKET_REPAIR: &str = "bucket.repair";
    /// `tools bucket rewrite`.
    pub const BUCKET_REWRITE: &str = "bucket.rewrite";
    /// `tools bucket upload-blocks`.
    pub const BUCKET_UPLOAD: &str = "bucket.upload";
}

/// A moment as Go's `time.Time` writes it; "never" is its zero value, in the year 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct UploadTime(Option<jiff::Timestamp>);

const NEVER: &str = "0001-01-01T00:00:00Z";

impl UploadTime {
    /// A moment in ms since the epoch; one beyond the year 9999 is "never".
    pub fn from_ms(ms: i64) -> Self {
        Self(jiff::Timestamp::from_millisecond(ms).ok())
    }

    /// ms since the epoch; `None` for "never".
    pub fn ms(self) -> Option<i64> {
        self.0.map(jiff::Timestamp::as_millisecond)
    }
}

impl fmt::Display for UploadTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str(NEVER),
            Some(t) => t.fmt(f),
        }
    }
}

impl Serialize for UploadTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UploadTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(Self(None)) };
        if text == NEVER {
            return Ok(Self(None));
        }
        text.parse().map(|t| Self(Some(t))).map_err(serde::de::Error::custom)
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_zero_i64(n: &i64) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}

impl BlockMeta {
    /// A block of this range, cut from a head: level 1, its own source. `max_time` is exclusive.
    pub fn new(id: BlockId, min_time: i64, max_time: i64) -> Self {
        Self {
            id,
            min_time,
            max_time,
            stats: Stats::default(),
            compaction: Compaction { level: 1, sources: vec![id], ..Compaction::default() },
            version: VERSION,
            thanos: None,
            unknown: Unknown::new(),
        }
    }

    /// Reads a meta.json; `file` is named in the error.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none or its time range is impossible, [`ErrorKind::Version`] when its version
    /// (or that of Thanos's part) is not 1.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        // What follows the document is left alone, as Thanos does: a block that it shows is one for us, too.
        let meta: Self = json::read_first(file, "meta", bytes)?;
        meta.check(file)?;
        Ok(meta)
    }

    /// What [`read`](Self::read) asks of a meta.json beside its form, for one that lies in another document: `file`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn check(&self, file: &str) -> Result<()> {
        if self.version != VERSION {
            return Err(version(file, "meta.json", self.version));
        }
        if let Some(thanos) = &self.thanos
            && thanos.version != 0
            && thanos.version != VERSION
        {
            return Err(version(file, "Thanos's part of meta.json", thanos.version));
        }
        if self.min_time > self.max_time {
            let what = format!("minTime {} is after maxTime {}", self.min_time, self.max_time);
            return Err(Error::corrupt(file, "meta", 0, what));
        }
        Ok(())
    }

    /// Whether this is the meta that was committed, or that with more under Thanos's extensions, as its tools write it later.
    pub fn tells_the_same(&self, committed: &Self) -> bool {
        if self == committed {
            return true;
        }
        let (Some(now), Some(then)) = (&self.thanos, &committed.thanos) else { return false };
        let kept = match (&now.extensions, &then.extensions) {
            (_, None | Some(serde_json::Value::Null)) => true,
            (Some(now), Some(then)) => match (now.as_object(), then.as_object()) {
                (Some(now), Some(then)) => then.iter().all(|(key, value)| now.get(key) == Some(value)),
                _ => now == then,
            },
            (None, Some(_)) => false,
        };
        let without = |meta: &Self| {
            let mut meta = meta.clone();
            meta.thanos = meta.thanos.map(|t| Thanos { extensions: None, ..t });
            meta
        };
        kept && without(self) == without(committed)
    }

    /// The bytes of meta.json, as Thanos writes them.
    ///
    /// # Errors
    /// None for real metas.
    pub fn write(&self) -> Result<Vec<u8>> {
        json::write(META_FILE, self)
    }

    /// The external labels; none for a block that only Prometheus has touched.
    pub fn labels(&self) -> Labels {
        self.thanos.as_ref().map_or_else(Labels::empty, |t| Labels::from_pairs(&t.labels))
    }

    /// Resolution in ms: 0 (raw), 300000 or 3600000.
    pub fn resolution(&self) -> i64 {
        self.thanos.as_ref().map_or(0, |t| t.downsample.resolution)
    }

    /// Thanos's group of blocks that may be compacted together: `<resolution>@<hash of the external labels>`.
    pub fn group_key(&self) -> String {
        format!("{}@{}", self.resolution(), self.labels().shard_hash(|_| true))
    }
}

fn version(file: &str, what: &str, found: i64) -> Error {
    Error::new(file, "meta", 0, ErrorKind::Version(format!("version {found} of {what} is not known, only {VERSION}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field, and one more at each level; in the order and form in which Thanos writes it.
    const FULL: &str = include_str!("../../testdata/meta/full.json");

    #[test]
    fn every_field_survives() {
        let meta = BlockMeta::read("meta.json", FULL.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(meta.write().unwrap()).unwrap(), FULL);
        let thanos = meta.thanos.as_ref().unwrap();
        assert_eq!(meta.resolution(), 300_000);
        assert_eq!(meta.labels().to_string(), r#"{cluster="eu<1>", replica="a"}"#);
        assert_eq!(thanos.files.len(), 3);
        assert_eq!(thanos.upload_time.ms(), Some(1_754_000_000_123));
        assert_eq!(thanos.rewrites[0].deletions_applied[0].intervals[0].max_time, 20);
        // A field that is unknown is known by being nowhere else.
        assert_eq!(FULL.matches("\"later\"").count(), 12);
    }

    #[test]
    fn a_new_block() {
        let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let mut meta = BlockMeta::new(id, 10, 20);
        assert!(!String::from_utf8(meta.write().unwrap()).unwrap().contains("thanos"));
        meta.thanos = Some(Thanos { source: source::SIDECAR.into(), ..Thanos::default() });
        let text = String::from_utf8(meta.write().unwrap()).unwrap();
        assert!(text.contains("\t\t\"labels\": {},\n") && text.contains("\"index_stats\": {},\n"), "{text}");
        assert!(text.ends_with("\t\t\"upload_time\": \"0001-01-01T00:00:00Z\"\n\t}\n}\n"), "{text}");
        assert_eq!(BlockMeta::read("f", text.as_bytes()).unwrap(), meta);
    }

    #[test]
    fn what_go_reads_is_read_and_the_rest_refused() {
        let base = r#"{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":1,"maxTime":2,"version":1,"thanos":{"labels":null,"files":null}}"#;
        let meta = BlockMeta::read("f", base.as_bytes()).unwrap();
        assert_eq!(meta.thanos.unwrap().upload_time.ms(), None);
        assert!(
            BlockMeta::read("f", format!("{base}\n{{}} and more").as_bytes()).is_ok(),
            "Go stops behind the document"
        );
        for (from, to, says) in [
            (r#""version":1"#, r#""version":2"#, "version 2 of meta.json is not known"),
            (r#"{"labels""#, r#"{"version":9,"labels""#, "version 9 of Thanos's part"),
            (r#""minTime":1"#, r#""minTime":3"#, "minTime 3 is after maxTime 2"),
            (r#""ulid":"0"#, r#""ulid":"9"#, "not a block id"),
            (r#""minTime":1,"#, "", "missing field `minTime`"),
            (r#""files":null"#, r#""upload_time":"yesterday""#, "not valid"),
        ] {
            let error = BlockMeta::read("f", base.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says) && error.starts_with("f: meta at byte"), "{error}");
        }
    }

    #[test]
    fn group_key_is_thanoss() {
        let mut meta = BlockMeta::new(BlockId::default(), 0, 1);
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        meta.thanos = Some(Thanos { labels, ..Thanos::default() });
        assert!(meta.group_key().starts_with("0@"));
    }
}
