//! Whether another program compacts this bucket, too: Thanos's compactor knows no lease.
//!
//! Its signs are a block of a compactor that no intent of ours announced, and a mark for deletion in a compactor's words that we
//! did not write; newer than our lease, so that a bucket that was Thanos's before is none.

use bucket::fetch::View;
use model::BlockId;
use std::collections::BTreeSet;
use tsdb::marks::DeletionMark;
use tsdb::meta::source;
use tsdb::plan::{OUTDATED, SOURCE_OF_COMPACTED};

/// The field of our marks that Thanos ignores: who wrote it.
const OURS: &str = "panoptes";
/// How Thanos's mark begins for what is too old.
const RETENTION: &str = "block exceeding retention of ";

/// A deletion mark of ours: Thanos's, and one more field that says whose it is.
pub(super) fn mark(id: BlockId, seconds: i64, details: &str, holder: &str, epoch: u64) -> DeletionMark {
    let mut mark = DeletionMark::new(id, seconds, details);
    mark.unknown.insert(OURS.to_owned(), serde_json::json!({"holder": holder, "epoch": epoch}));
    mark
}

/// The newest sign of a foreign compactor since `since_ms`, in words; `ours` are the blocks that the catalogue tells of, or that
/// were announced.
pub(super) fn sign(view: &View, ours: &BTreeSet<BlockId>, since_ms: i64) -> Option<String> {
    let mut newest: Option<(i64, String)> = None;
    let mut found = |at: i64, what: String| {
        if at > since_ms && newest.as_ref().is_none_or(|(t, _)| at > *t) {
            newest = Some((at, what));
        }
    };
    for (id, block) in &view.blocks {
        let by = block.meta.thanos.as_ref().map_or("", |t| t.source.as_str());
        if matches!(by, source::COMPACTOR | source::COMPACTOR_REPAIR) && !ours.contains(id) {
            found(i64::try_from(id.time_ms()).unwrap_or(0), format!("block {id} was compacted by another program"));
        }
        if let Some(mark) = &block.marks.deletion
            && !mark.unknown.contains_key(OURS)
            && (mark.details == SOURCE_OF_COMPACTED || mark.details == OUTDATED || mark.details.starts_with(RETENTION))
        {
            let what = format!("another program marked block {id} for deletion ({})", mark.details);
            // A mark tells whole seconds.
            found(mark.deletion_time.saturating_mul(1000), what);
        }
    }
    newest.map(|(_, what)| {
        format!("{what}, after our lease began: end the other compactor, then restart this one; until then nothing is compacted or deleted")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bucket::fetch::{Block, Marks};
    use std::sync::Arc;
    use tsdb::meta::{BlockMeta, Thanos};

    fn view(by: &str, made_ms: u64, mark: Option<DeletionMark>) -> (View, BlockId) {
        let id = BlockId::from_parts(made_ms, 7);
        let mut meta = BlockMeta::new(id, 0, 1);
        meta.thanos = Some(Thanos { source: by.to_owned(), ..Thanos::default() });
        let marks = Marks { deletion: mark, ..Marks::default() };
        let block = Block { meta: Arc::new(meta), marks, bytes: 0, index_bytes: None, problems: Vec::new() };
        (View { blocks: [(id, block)].into(), ..View::default() }, id)
    }

    #[test]
    fn only_what_a_compactor_did_after_the_lease_began_and_we_did_not() {
        let none = BTreeSet::new();
        let (by_sidecar, _) = view("sidecar", 2_000_000, None);
        assert_eq!(sign(&by_sidecar, &none, 1_000_000), None);
        let (block, id) = view("compactor", 2_000_000, None);
        assert!(sign(&block, &none, 1_000_000).unwrap().contains(&format!("block {id} was compacted by another")));
        assert_eq!(sign(&block, &none, 2_000_000), None, "it was there before");
        assert_eq!(sign(&block, &BTreeSet::from([id]), 1_000_000), None, "it is ours");
        for (details, counts) in [
            ("source of compacted block", true),
            ("outdated block", true),
            ("block exceeding retention of 4d", true),
            ("by hand", false),
        ] {
            let theirs = DeletionMark::new(id, 1_500, details);
            assert_eq!(
                sign(&view("sidecar", 9, Some(theirs.clone())).0, &none, 1_000_000).is_some(),
                counts,
                "{details}"
            );
            assert_eq!(sign(&view("sidecar", 9, Some(theirs)).0, &none, 1_500_000), None);
            let ours = mark(id, 1_500, details, "a", 3);
            assert_eq!(sign(&view("sidecar", 9, Some(ours)).0, &none, 1_000_000), None, "{details}");
        }
    }
}
