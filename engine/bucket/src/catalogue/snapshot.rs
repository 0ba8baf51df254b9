//! Many commits in one document.

use super::{ROOT, SNAPSHOT};
use model::BlockId;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::meta::MAX_META_BYTES;

/// Memory that the blocks of a snapshot may take, in bytes: this, and so much per byte of their JSON. Real ones take 5.
const FREE: usize = 1 << 20;
const PER_BYTE: usize = 15;

/// Many commits in one document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number, as in its name; the highest one counts.
    pub number: u64,
    /// When, in ms since the epoch, by the holder's clock.
    pub time_ms: i64,
    /// Who wrote it.
    pub holder: String,
    /// The epoch of its lease.
    pub epoch: u64,
    /// The metas of all blocks that were committed and are still there.
    #[serde(deserialize_with = "metas")]
    pub blocks: Vec<Arc<BlockMeta>>,
    /// Blocks whose entries count no more, though they may still be there.
    pub folded: Vec<BlockId>,
}

/// The name of a snapshot.
pub fn snapshot_path(number: u64) -> String {
    format!("{ROOT}{SNAPSHOT}{number:020}")
}

/// Reads the metas one by one, so that what one of them costs while it is read is gone before the next, and stops when they
/// take more memory than real ones do.
fn metas<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Arc<BlockMeta>>, D::Error> {
    struct Metas;

    impl<'de> Visitor<'de> for Metas {
        type Value = Vec<Arc<BlockMeta>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of metas")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut metas = Vec::new();
            let (mut read, mut taken) = (0usize, 0usize);
            while let Some(raw) = all.next_element::<&'de RawValue>()? {
                let text = raw.get();
                let what = || format!("block {}", metas.len());
                if text.len() as u64 > MAX_META_BYTES {
                    return Err(A::Error::custom(format!("{}: {} bytes are no meta", what(), text.len())));
                }
                let meta: BlockMeta = tsdb::json::read("snapshot", "blocks", text.as_bytes())
                    .map_err(|e| A::Error::custom(format!("{}: {e}", what())))?;
                read = read.saturating_add(text.len());
                // With what a list that grows and a map of all blocks take for each.
                taken = taken.saturating_add(meta.memory() + 128);
                if taken > FREE.saturating_add(read.saturating_mul(PER_BYTE))
                    && !model::protection::off("snapshot-memory")
                {
                    let what = "the blocks take more memory than real ones of their size";
                    return Err(A::Error::custom(what));
                }
                metas.push(Arc::new(meta));
            }
            Ok(metas)
        }
    }

    d.deserialize_seq(Metas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn read(blocks: &str) -> Result<Snapshot, document::Unreadable> {
        let body: Box<RawValue> = serde_json::from_str(&format!(
            r#"{{"number":1,"time_ms":0,"holder":"","epoch":1,"folded":[],"blocks":[{blocks}]}}"#
        ))
        .unwrap();
        document::read_many("snapshot", &document::write("snapshot", &body).unwrap())
    }

    #[test]
    fn small_metas_are_many_and_bombs_are_told() {
        let meta = |rest: &str| {
            format!(r#"{{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":0,"maxTime":0,"version":1{rest}}}"#)
        };
        let many = |rest: &str, n: usize| vec![meta(rest); n].join(",");
        assert_eq!(read(&many("", 40_000)).unwrap().blocks.len(), 40_000);
        let empty = format!(r#","thanos":{{"rewrites":[{}{{}}]}}"#, "{},".repeat(500));
        let unknown = format!(r#","x":[{}0]"#, "0,".repeat(1_000));
        let folders = r#","thanos":{"x":{"a":{"a":{"a":{"a":{}}}}}}"#.to_owned();
        for (what, rest) in [("rewrites", empty), ("unknown", unknown), ("nested", folders)] {
            let error = read(&many(&rest, 20_000)).unwrap_err().to_string();
            assert!(error.contains("more memory"), "{what}: {error}");
        }
        let error = read(&meta(&format!(r#","x":[{}0]"#, "0,".repeat(100_000)))).unwrap_err().to_string();
        assert!(error.contains("block 0") && error.contains("more values"), "{error}");
    }
}
