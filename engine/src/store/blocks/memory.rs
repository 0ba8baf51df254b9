//! What is known of the blocks, left on the local disk for the next start: then no meta.json is read a second time, and a bucket
//! that can't be reached is not taken for an empty one.
//!
//! One file of frames: `length u32 | CRC-32C u32 | JSON`, numbers big endian; the first frame names the bucket. It is replaced
//! as a whole. What is behind a damaged frame counts as never seen.

use bucket::Version;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tsdb::BlockMeta;
use tsdb::disk::{Disk, FileReader, RealDisk, TempFile};
use tsdb::meta::MAX_META_BYTES;

/// The name of the format, in the first frame.
const FORMAT: &str = "panoptes blocks 1";
/// No frame is longer.
const MAX_FRAME: u64 = MAX_META_BYTES + (1 << 16);

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    bucket: String,
}

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    etag: Option<std::borrow::Cow<'a, str>>,
    generation: Option<std::borrow::Cow<'a, str>>,
    size: u64,
    modified_ms: i64,
    meta: std::borrow::Cow<'a, BlockMeta>,
}

/// A meta, and what the listing said of its object: version, bytes, time in ms.
pub(super) type Remembered = (Arc<BlockMeta>, (Version, u64, i64));

/// Writes the file.
///
/// # Errors
/// When the disk refuses.
pub(super) async fn save(path: PathBuf, bucket: String, metas: Vec<Remembered>) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let mut file = TempFile::create(&RealDisk, &path)?;
        let mut write = |json: Vec<u8>| -> anyhow::Result<()> {
            file.write(&u32::try_from(json.len())?.to_be_bytes())?;
            file.write(&crc32c::crc32c(&json).to_be_bytes())?;
            Ok(file.write(&json)?)
        };
        write(serde_json::to_vec(&Head { format: FORMAT.to_owned(), bucket })?)?;
        for (meta, (version, size, modified_ms)) in &metas {
            write(serde_json::to_vec(&Kept {
                etag: version.etag.as_deref().map(Into::into),
                generation: version.generation.as_deref().map(Into::into),
                size: *size,
                modified_ms: *modified_ms,
                meta: std::borrow::Cow::Borrowed(meta),
            })?)?;
        }
        Ok(file.commit()?)
    })
    .await?
}

/// Reads the file, if it is about this bucket.
///
/// # Errors
/// When there is none, or it is about something else.
pub(super) async fn load(path: PathBuf, bucket: String) -> anyhow::Result<Vec<Remembered>> {
    tokio::task::spawn_blocking(move || {
        let file = RealDisk.reader(&path)?;
        let mut at = 0;
        let head = frame(&*file, &mut at).and_then(|json| serde_json::from_slice::<Head>(&json).ok());
        anyhow::ensure!(
            head.is_some_and(|h| h.format == FORMAT && h.bucket == bucket),
            "{} is about another bucket, or of another version",
            path.display()
        );
        let mut metas = Vec::new();
        while let Some(json) = frame(&*file, &mut at) {
            let Ok(kept) = serde_json::from_slice::<Kept<'_>>(&json) else { break };
            let text = |t: Option<std::borrow::Cow<'_, str>>| t.map(std::borrow::Cow::into_owned);
            let version = Version { etag: text(kept.etag), generation: text(kept.generation) };
            metas.push((Arc::new(kept.meta.into_owned()), (version, kept.size, kept.modified_ms)));
        }
        Ok(metas)
    })
    .await?
}

/// The frame at `at`, if it is whole.
fn frame(file: &dyn FileReader, at: &mut u64) -> Option<Vec<u8>> {
    let mut head = [0; 8];
    file.read_at(*at, &mut head).ok()?;
    let [a, b, c, d, e, f, g, h] = head;
    let length = u64::from(u32::from_be_bytes([a, b, c, d]));
    let begin = at.checked_add(8)?;
    if length > MAX_FRAME || begin.checked_add(length)? > file.size() {
        return None;
    }
    let mut json = vec![0; usize::try_from(length).ok()?];
    file.read_at(begin, &mut json).ok()?;
    *at = begin + length;
    (crc32c::crc32c(&json) == u32::from_be_bytes([e, f, g, h])).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::BlockId;

    #[tokio::test]
    async fn damage_costs_what_is_behind_it_and_another_bucket_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blocks");
        let meta = |n| Arc::new(BlockMeta::new(BlockId::from_parts(n, 1), 0, 1));
        let version = Version { etag: Some("e".into()), generation: None };
        let metas: Vec<Remembered> = (0..50).map(|n| (meta(n), (version.clone(), n, 7))).collect();
        let read = |bucket: &str| load(path.clone(), bucket.to_owned());
        assert!(read("b").await.is_err(), "there is none yet");
        save(path.clone(), "b".into(), metas.clone()).await.unwrap();
        assert_eq!(read("b").await.unwrap(), metas);
        assert!(read("c").await.unwrap_err().to_string().contains("another bucket"));
        let whole = std::fs::read(&path).unwrap();
        let mut lengths = std::collections::BTreeSet::new();
        for at in (0..whole.len()).step_by(7) {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            std::fs::write(&path, bad).unwrap();
            if let Ok(got) = read("b").await {
                assert!(metas.starts_with(&got) && got.len() < metas.len(), "a flipped bit at {at} is not noticed");
                lengths.insert(got.len());
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            if let Ok(got) = read("b").await {
                assert!(metas.starts_with(&got) && got.len() < metas.len(), "cut at {at}");
            }
        }
        assert_eq!(lengths.len(), 50);
    }
}
