//! Marks: small JSON objects beside a block that say what must not, or will, happen to it (Thanos's formats, version 1).

use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, Unknown};
use model::BlockId;
use serde::{Deserialize, Serialize};

/// A mark can't be larger than this.
pub const MAX_MARK_BYTES: u64 = 1 << 20;

/// The only version of marks that there is.
const VERSION: i64 = 1;

/// What the marks have in common.
pub trait Mark: Serialize + serde::de::DeserializeOwned {
    /// The object's name in the folder of its block.
    const FILE: &'static str;
    /// The block that is marked.
    fn block(&self) -> BlockId;
    /// The version in the file.
    fn version(&self) -> i64;
    /// When the mark was set, in seconds since the epoch.
    fn time(&self) -> i64;

    /// Reads a mark; `file` is named in the error. Unknown fields are kept.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is no such mark (Thanos then acts as if it were absent, with a warning),
    /// [`ErrorKind::Version`] when its version is not 1.
    fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        let mark: Self = json::read(file, "mark", bytes)?;
        if mark.version() != VERSION {
            let what = format!("version {} of a mark is not known, only {VERSION}", mark.version());
            return Err(Error::new(file, "mark", 0, ErrorKind::Version(what)));
        }
        Ok(mark)
    }

    /// The bytes of the mark, as Thanos writes them: one line without a newline.
    ///
    /// # Errors
    /// None for real marks.
    fn write(&self) -> Result<Vec<u8>> {
        json::write_compact(Self::FILE, self)
    }
}

/// The block is to be deleted after a delay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeletionMark {
    /// The block; zero where the file says none.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub id: BlockId,
    /// 1.
    pub version: i64,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_default")]
    pub details: String,
    /// When it was marked, in seconds since the epoch; 0 where the file says nothing.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub deletion_time: i64,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The block is left out of compaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoCompactMark {
    /// The block; zero where the file says none.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub id: BlockId,
    /// 1.
    pub version: i64,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_default")]
    pub details: String,
    /// When it was marked, in seconds since the epoch; 0 where the file says nothing.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub no_compact_time: i64,
    /// Why, for programs: see [`reason`].
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub reason: String,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The block is left out of downsampling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoDownsampleMark {
    /// The block; zero where the file says none.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub id: BlockId,
    /// 1.
    pub version: i64,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_default")]
    pub details: String,
    /// When it was marked, in seconds since the epoch; 0 where the file says nothing.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub no_downsample_time: i64,
    /// Why, for programs: see [`reason`].
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub reason: String,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Thanos's reasons of marks.
pub mod reason {
    /// A person wished it.
    pub const MANUAL: &str = "manual";
    /// The index would grow beyond 64 GiB.
    pub const INDEX_SIZE: &str = "index-size-exceeding";
    /// The index has chunks that go back in time.
    pub const OUT_OF_ORDER_CHUNK: &str = "block-index-out-of-order-chunk";
    /// It is damaged: ours, Thanos knows no such reason and heeds the mark all the same.
    pub const DAMAGED: &str = "block-damaged";
    /// Overlapping downsampled blocks can't be merged.
    pub const DOWNSAMPLE_VERTICAL: &str = "downsample-vertical-compaction";
}

impl DeletionMark {
    /// A mark of now (`time` in seconds since the epoch).
    pub fn new(id: BlockId, time: i64, details: impl Into<String>) -> Self {
        Self { id, version: VERSION, details: details.into(), deletion_time: time, unknown: Unknown::new() }
    }
}

impl NoCompactMark {
    /// A mark of now (`time` in seconds since the epoch).
    pub fn new(id: BlockId, time: i64, reason: impl Into<String>, details: impl Into<String>) -> Self {
        let (details, reason) = (details.into(), reason.into());
        Self { id, version: VERSION, details, no_compact_time: time, reason, unknown: Unknown::new() }
    }
}

impl NoDownsampleMark {
    /// A mark of now (`time` in seconds since the epoch).
    pub fn new(id: BlockId, time: i64, reason: impl Into<String>, details: impl Into<String>) -> Self {
        let (details, reason) = (details.into(), reason.into());
        Self { id, version: VERSION, details, no_downsample_time: time, reason, unknown: Unknown::new() }
    }
}

macro_rules! mark {
    ($type:ty, $file:literal, $time:ident) => {
        impl Mark for $type {
            const FILE: &'static str = $file;
            fn block(&self) -> BlockId {
                self.id
            }
            fn version(&self) -> i64 {
                self.version
            }
            fn time(&self) -> i64 {
                self.$time
            }
        }
    };
}

mark!(DeletionMark, "deletion-mark.json", deletion_time);
mark!(NoCompactMark, "no-compact-mark.json", no_compact_time);
mark!(NoDownsampleMark, "no-downsample-mark.json", no_downsample_time);

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn written_as_thanos_does() {
        let id = ID.parse().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(DeletionMark::new(id, 7, "").write().unwrap()),
            format!(r#"{{"id":"{ID}","version":1,"deletion_time":7}}"#)
        );
        assert_eq!(
            text(NoCompactMark::new(id, 7, reason::MANUAL, "a<b").write().unwrap()),
            format!(r#"{{"id":"{ID}","version":1,"details":"a\u003cb","no_compact_time":7,"reason":"manual"}}"#)
        );
        assert_eq!(
            text(NoDownsampleMark::new(id, 7, reason::MANUAL, "x").write().unwrap()),
            format!(r#"{{"id":"{ID}","version":1,"details":"x","no_downsample_time":7,"reason":"manual"}}"#)
        );
    }

    #[test]
    fn read_with_what_we_do_not_know() {
        let text = format!(r#"{{"deletion_time": 5, "by": ["me", 1], "version": 1, "details": null, "id": "{ID}"}}"#);
        let mark = DeletionMark::read("f", text.as_bytes()).unwrap();
        assert_eq!((mark.time(), mark.details.as_str(), mark.block().to_string().as_str()), (5, "", ID));
        assert!(String::from_utf8(mark.write().unwrap()).unwrap().ends_with(r#","by":["me",1]}"#));
        let error = DeletionMark::read("f", text.replace("1,", "2,").as_bytes()).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Version(_)), "{error}");
        // What is missing is zero in Go, and the mark counts.
        let by_hand = br#"{"version":1,"reason":"manual","no_compact_time":null}"#;
        let mark = NoCompactMark::read("f", by_hand).unwrap();
        assert!(mark.id.is_zero() && mark.time() == 0 && mark.reason == reason::MANUAL);
        assert!(DeletionMark::read("f", by_hand).is_ok());
        assert!(DeletionMark::read("f", b"").unwrap_err().is_damage());
    }
}
