//! Which objects a block is made of, in which order they come and go.
//!
//! A block is the objects under `<ULID>/`. `meta.json` makes it a block: it is written last and only if absent, and deleted
//! first, so nobody takes a block for whole that isn't. The deletion mark goes last, so that a delete that stopped half-way is
//! found and finished.

use crate::error::{Error, Kind, Operation};
use crate::{Bucket, Result};
use futures::TryStreamExt as _;
use model::BlockId;
use model::protection;
use std::collections::BTreeMap;

/// The document that makes it a block.
pub const META: &str = "meta.json";
/// Series, labels, postings.
pub const INDEX: &str = "index";
/// Where the chunk segments lie.
pub const CHUNKS: &str = "chunks";
/// Marks a block that will be deleted.
pub const DELETION_MARK: &str = "deletion-mark.json";
/// Marks a block that is not to be compacted.
pub const NO_COMPACT_MARK: &str = "no-compact-mark.json";
/// Marks a block that is not to be downsampled.
pub const NO_DOWNSAMPLE_MARK: &str = "no-downsample-mark.json";

/// What lies as `meta.json` where an upload that broke off was cleared away. No reader takes it for a block: it is JSON,
/// but its version is no number, which Thanos counts as one damaged meta.json (a number other than 1 would fail its whole look at the
/// bucket); and since `meta.json` is only ever created, the one of a process that was frozen while it sent it can't land any more.
pub fn closed(id: BlockId) -> String {
    format!(
        "{{\"version\":\"none\",\"ulid\":\"{id}\",\"panoptes\":\"{CLOSED}\",\"why\":\"the upload broke off and was cleared away; this keeps a late \
         meta.json out, and goes some days later\"}}\n"
    )
}

/// What [`closed`] says in its field `panoptes`.
const CLOSED: &str = "closed";

/// Whether these bytes are what [`closed`] writes.
pub fn is_closed(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Closed<'a> {
        #[serde(borrow)]
        version: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        panoptes: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Closed<'_>>(bytes).is_ok_and(|c| c.version == "none" && c.panoptes == CLOSED)
}

/// The directory of a block, with a slash at its end.
pub fn directory(id: BlockId) -> String {
    format!("{id}/")
}

/// The name of one of its objects; `relative` as in `chunks/000001`.
pub fn object(id: BlockId, relative: &str) -> String {
    format!("{id}/{relative}")
}

/// The relative name of the segment with this number, from 1.
pub fn segment(number: u32) -> String {
    format!("{CHUNKS}/{number:06}")
}

/// The block that an object or directory belongs to, and its relative name; none if it is not a block's.
pub fn parse(path: &str) -> Option<(BlockId, &str)> {
    let (first, rest) = path.split_once('/')?;
    Some((first.parse().ok()?, rest))
}

/// The relative names of a block's files in the order of upload: segments, index, whatever else; never `meta.json`.
pub fn upload_order(mut files: Vec<String>) -> Vec<String> {
    files.retain(|f| f != META);
    files.sort_by_key(|f| (!f.starts_with(CHUNKS), f != INDEX, f.clone()));
    files
}

/// Compares what lies in the bucket with what was sent, before `meta.json` makes it a block: one listing.
///
/// # Errors
/// `Corrupt`, naming the first object that is missing or has another size than `files` (relative name, bytes) says.
pub async fn check_uploaded(bucket: &Bucket, id: BlockId, files: &[(String, u64)]) -> Result<()> {
    let there: BTreeMap<String, u64> =
        bucket.list(&directory(id)).map_ok(|meta| (meta.path, meta.size)).try_collect().await?;
    if protection::off("upload-size") {
        return Ok(());
    }
    for (relative, size) in files {
        let path = object(id, relative);
        let what = match there.get(&path) {
            Some(found) if found == size => continue,
            Some(found) => format!("{size} bytes were sent, {found} are there"),
            None => format!("{size} bytes were sent, and there is no object"),
        };
        return Err(Error::new(Kind::Corrupt, Operation::Upload, path, what));
    }
    Ok(())
}

/// Deletes all objects of a block: `meta.json` first, the deletion mark last.
///
/// # Errors
/// As the store says; what is left is found by the deletion mark.
pub async fn delete(bucket: &Bucket, id: BlockId) -> Result<()> {
    bucket.delete(&object(id, META)).await?;
    let all: Vec<String> = bucket.list(&directory(id)).map_ok(|meta| meta.path).try_collect().await?;
    let mark = object(id, DELETION_MARK);
    for path in all.iter().filter(|path| **path != mark) {
        bucket.delete(path).await?;
    }
    if all.contains(&mark) {
        bucket.delete(&mark).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use model::world::World;

    #[test]
    fn names() {
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        assert_eq!(object(id, &segment(1)), "01ARZ3NDEKTSV4RRFFQ69G5FAV/chunks/000001");
        assert_eq!(parse("01ARZ3NDEKTSV4RRFFQ69G5FAV/chunks/000001"), Some((id, "chunks/000001")));
        assert_eq!(parse("01ARZ3NDEKTSV4RRFFQ69G5FAV"), None);
        assert_eq!(parse("debug/metas/x.json"), None);
        let files = ["meta.json", "index", "tombstones", "chunks/000002", "chunks/000001"].map(str::to_owned).to_vec();
        assert_eq!(upload_order(files), ["chunks/000001", "chunks/000002", "index", "tombstones"]);
    }

    #[test]
    fn a_closed_id_is_no_block() {
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let closed = closed(id);
        assert!(is_closed(closed.as_bytes()) && tsdb::BlockMeta::read("m", closed.as_bytes()).is_err());
        let meta = tsdb::BlockMeta::new(id, 0, 1).write().unwrap();
        assert!(!is_closed(&meta) && !is_closed(b"{}") && !is_closed(b"{\"panoptes\":\"closed\",\"version\":1}"));
    }

    #[tokio::test]
    async fn a_short_object_is_named_and_a_delete_leaves_nothing() {
        let bucket = Bucket::memory(Options::new(World::real()));
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let files = [("chunks/000001".to_owned(), 3), ("index".to_owned(), 2)];
        for (name, body) in [("chunks/000001", "abc"), ("index", "x"), (META, "{}"), (DELETION_MARK, "{}")] {
            bucket.put(&object(id, name), body).await.unwrap();
        }
        let error = check_uploaded(&bucket, id, &files).await.unwrap_err();
        assert_eq!((error.kind, error.path.as_str()), (Kind::Corrupt, "01ARZ3NDEKTSV4RRFFQ69G5FAV/index"));
        bucket.put(&object(id, "index"), "xy").await.unwrap();
        check_uploaded(&bucket, id, &files).await.unwrap();
        bucket.delete(&object(id, "chunks/000001")).await.unwrap();
        assert!(check_uploaded(&bucket, id, &files).await.unwrap_err().what.contains("no object"));
        delete(&bucket, id).await.unwrap();
        assert_eq!(bucket.list("").try_collect::<Vec<_>>().await.unwrap(), []);
    }
}
