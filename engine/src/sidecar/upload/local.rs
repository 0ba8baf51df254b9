//! The blocks in Prometheus's data directory.

use args::state::SkipReason;
use model::BlockId;
use std::path::{Path, PathBuf};
use tsdb::disk::Disk;
use tsdb::meta::{BlockMeta, META_FILE};

/// Why one block is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// Which kind of reason.
    pub(super) reason: SkipReason,
    /// What is wrong, where, and what to do.
    pub(super) message: String,
}

/// What planning needs to know of a local block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Begin of its time range in ms, inclusive.
    pub(super) min_time: i64,
    /// End of its time range in ms, exclusive.
    pub(super) max_time: i64,
    /// Compaction level: 1 is cut from the head.
    pub(super) level: i64,
    /// The blocks of level 1 that went in.
    pub(super) sources: Vec<BlockId>,
    /// It has no samples.
    pub(super) empty: bool,
}

/// A folder that is named like a block.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) id: BlockId,
    pub(super) facts: Result<Facts, Bad>,
}

/// The folder of a block.
pub(super) fn dir(data: &Path, id: BlockId) -> PathBuf {
    data.join(id.to_string())
}

/// All blocks in `data`. Prometheus creates and deletes blocks by renaming a folder, so a folder named like a block is whole,
/// or vanishes as a whole.
pub(super) fn scan(disk: &dyn Disk, data: &Path) -> tsdb::Result<Vec<Local>> {
    let mut found = Vec::new();
    for entry in disk.list(data)?.iter().filter(|e| e.is_dir) {
        let Ok(id) = entry.name.parse::<BlockId>() else { continue };
        let facts = read_meta(disk, &dir(data, id), id).map(|m| facts(&m));
        // Deleted by Prometheus between the listing and the reading.
        if facts.is_err() && !disk.exists(&dir(data, id)).unwrap_or(true) {
            continue;
        }
        found.push(Local { id, facts });
    }
    Ok(found)
}

fn facts(meta: &BlockMeta) -> Facts {
    Facts {
        min_time: meta.min_time,
        max_time: meta.max_time,
        level: meta.compaction.level,
        sources: meta.compaction.sources.clone(),
        empty: meta.stats.num_samples == 0,
    }
}

/// The meta.json in the folder of the block `id`.
pub(super) fn read_meta(disk: &dyn Disk, dir: &Path, id: BlockId) -> Result<BlockMeta, Bad> {
    let path = dir.join(META_FILE);
    let bad = |message: String| Bad { reason: SkipReason::BadMeta, message };
    let bytes = disk.read(&path, tsdb::meta::MAX_META_BYTES).map_err(|e| bad(e.to_string()))?;
    let meta = BlockMeta::read(&path.display().to_string(), &bytes).map_err(|e| bad(e.to_string()))?;
    if meta.id != id {
        return Err(bad(format!(
            "{} says that it belongs to block {}: take the block from a copy, or move its folder away",
            path.display(),
            meta.id
        )));
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsdb::disk::RealDisk;

    #[test]
    fn finds_blocks_and_tells_what_is_wrong_with_bad_ones() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<BlockId> = (1..=4u64).map(|t| BlockId::from_parts(t, 7)).collect();
        let put = |id: BlockId, text: &[u8]| {
            std::fs::create_dir_all(dir.path().join(id.to_string())).unwrap();
            std::fs::write(dir.path().join(id.to_string()).join(META_FILE), text).unwrap();
        };
        let mut meta = BlockMeta::new(ids[0], 0, 7_200_000);
        meta.stats.num_samples = 1;
        put(ids[0], &meta.write().unwrap());
        put(ids[1], b"{\"version\": 1");
        put(ids[2], &meta.write().unwrap());
        std::fs::create_dir(dir.path().join(ids[3].to_string())).unwrap();
        for other in ["wal", "chunks_head", "01JD.tmp-for-creation"] {
            std::fs::create_dir(dir.path().join(other)).unwrap();
        }
        std::fs::write(dir.path().join("01JDAAAAAAAAAAAAAAAAAAAAAA"), "a file").unwrap();
        let found = scan(&RealDisk, dir.path()).unwrap();
        assert_eq!(found.iter().map(|b| b.id).collect::<Vec<_>>(), ids);
        let facts = found[0].facts.as_ref().unwrap();
        assert_eq!((facts.level, facts.max_time, facts.empty, &facts.sources[..]), (1, 7_200_000, false, &ids[..1]));
        let why = |i: usize| found[i].facts.as_ref().unwrap_err();
        assert!(found[1..].iter().all(|b| b.facts.as_ref().unwrap_err().reason == SkipReason::BadMeta));
        assert!(why(1).message.contains(&ids[1].to_string()) && why(1).message.contains(META_FILE));
        assert!(why(2).message.contains(&format!("belongs to block {}", ids[0])), "{:?}", why(2));
        assert!(scan(&RealDisk, &dir.path().join("gone")).is_err());
    }
}
