//! Marks of blocks in a bucket. The formats are `tsdb::marks`'.

use crate::error::{Error, Kind, Operation};
use crate::{Bucket, Result, block};
use model::BlockId;
use tsdb::marks::{MAX_MARK_BYTES, Mark};

/// What was found where a mark would be.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<M> {
    /// No mark.
    None,
    /// A mark.
    Mark(M),
    /// An object that is no JSON of a mark: counts as no mark, as in Thanos, and is told.
    Broken(String),
}

/// Reads a mark.
///
/// # Errors
/// As the store says; `Corrupt` for a version that is not known, since what it wants can't be guessed.
pub async fn read<M: Mark>(bucket: &Bucket, id: BlockId) -> Result<Found<M>> {
    let path = block::object(id, M::FILE);
    let object = match bucket.get(&path, MAX_MARK_BYTES).await {
        Ok(object) => object,
        Err(e) if e.is_not_found() => return Ok(Found::None),
        Err(e) if e.kind == Kind::TooLarge => return Ok(Found::Broken(e.to_string())),
        Err(e) => return Err(e),
    };
    match M::read(&path, &object.bytes) {
        // Thanos never looks at the block in it. To keep a block as it is, nor do we; to delete one, it must be named.
        Ok(mark) if mark.block() == id || M::FILE != block::DELETION_MARK => Ok(Found::Mark(mark)),
        Ok(mark) => Ok(Found::Broken(format!("{path} names another block, {}", mark.block()))),
        Err(tsdb::Error { kind: tsdb::ErrorKind::Version(what), .. }) => {
            Err(Error::new(Kind::Corrupt, Operation::Get, path, what))
        }
        Err(e) => Ok(Found::Broken(e.to_string())),
    }
}

/// Writes a mark if there is none; tells whether it was written. An existing one stays as it is.
///
/// # Errors
/// As the store says.
pub async fn create<M: Mark>(bucket: &Bucket, mark: &M) -> Result<bool> {
    let path = block::object(mark.block(), M::FILE);
    let bytes = mark.write().map_err(|e| Error::new(Kind::Invalid, Operation::Upload, path.clone(), e.to_string()))?;
    match bucket.create(&path, bytes).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind == Kind::Exists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes a mark away; one that is not there is a success.
///
/// # Errors
/// As the store says.
pub async fn remove<M: Mark>(bucket: &Bucket, id: BlockId) -> Result<()> {
    bucket.delete(&block::object(id, M::FILE)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use model::world::World;
    use tsdb::marks::{DeletionMark, NoCompactMark};

    #[tokio::test]
    async fn a_mark_stays_and_a_broken_one_is_told() {
        let bucket = Bucket::memory(Options::new(World::real()));
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let json = |id: &str, version: u32| format!(r#"{{"id":"{id}","version":{version},"deletion_time":7}}"#);
        let path = block::object(id, DeletionMark::FILE);
        assert_eq!(read::<DeletionMark>(&bucket, id).await.unwrap(), Found::None);
        let first = DeletionMark::read("m", json(&id.to_string(), 1).as_bytes()).unwrap();
        assert!(create(&bucket, &first).await.unwrap());
        assert!(!create(&bucket, &DeletionMark { deletion_time: 9, ..first.clone() }).await.unwrap());
        assert_eq!(read::<DeletionMark>(&bucket, id).await.unwrap(), Found::Mark(first));
        for broken in ["{".to_owned(), json("01ARZ3NDEKTSV4RRFFQ69G5FAW", 1)] {
            bucket.put(&path, broken).await.unwrap();
            assert!(matches!(read::<DeletionMark>(&bucket, id).await.unwrap(), Found::Broken(_)));
        }
        // Written by hand: Thanos leaves such a block out of compaction.
        bucket.put(&block::object(id, NoCompactMark::FILE), r#"{"version":1,"reason":"manual"}"#).await.unwrap();
        assert!(matches!(read::<NoCompactMark>(&bucket, id).await.unwrap(), Found::Mark(m) if m.reason == "manual"));
        bucket.put(&path, json(&id.to_string(), 2)).await.unwrap();
        assert_eq!(read::<DeletionMark>(&bucket, id).await.unwrap_err().kind, Kind::Corrupt);
        remove::<DeletionMark>(&bucket, id).await.unwrap();
        remove::<DeletionMark>(&bucket, id).await.unwrap();
    }
}
