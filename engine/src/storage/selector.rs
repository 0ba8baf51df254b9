//! Which blocks are this part's share: Prometheus's relabel configuration over external labels and `__block_id`, of which
//! `keep`, `drop` and `hashmod` make sense here (as in Thanos).

use super::relabel::{Relabel, Use};
use model::{BlockId, Labels};
use std::collections::BTreeMap;

/// The label that holds a block's id.
const BLOCK_ID: &str = "__block_id";

/// A selector of blocks; the default selects all.
#[derive(Clone, Debug, Default)]
pub struct Selector(Relabel);

impl Selector {
    /// Reads the YAML; empty: all blocks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(yaml: &str) -> anyhow::Result<Self> {
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(Relabel::parse(yaml, Use::Select)?))
    }

    /// True if the block is selected.
    pub fn selects(&self, id: BlockId, external: &Labels) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut labels: BTreeMap<String, String> = external.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        labels.insert(BLOCK_ID.to_owned(), id.to_string());
        self.0.keeps(&mut labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    #[test]
    fn keeps_and_drops_by_label() {
        let id: BlockId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let yaml = "- {action: keep, source_labels: [cluster, zone], regex: 'eu;.*'}\n- {action: Drop, source_labels: [replica], regex: b}\n";
        let selector = Selector::parse(yaml).unwrap();
        assert!(selector.selects(id, &labels(&[("cluster", "eu")])));
        assert!(!selector.selects(id, &labels(&[("cluster", "eu2"), ("zone", "a")])));
        assert!(!selector.selects(id, &labels(&[("cluster", "eu"), ("replica", "b")])));
        let by_id = Selector::parse("- {action: drop, source_labels: [__block_id], regex: 01ARZ.*}").unwrap();
        assert!(!by_id.selects(id, &Labels::empty()));
        assert!(Selector::parse(" \n").unwrap().selects(id, &Labels::empty()));
        let nulls = Selector::parse("- {action: keep, source_labels: [cluster], regex: , replacement: ~}").unwrap();
        assert!(nulls.selects(id, &Labels::empty()));
    }

    #[test]
    fn shards_are_disjoint_and_complete_and_those_of_prometheus() {
        let shard = |n: u32| {
            let yaml = format!(
                "- action: hashmod\n  source_labels: [__block_id]\n  target_label: shard\n  modulus: 3\n- action: keep\n  source_labels: [shard]\n  regex: \"{n}\"\n"
            );
            Selector::parse(&yaml).unwrap()
        };
        let shards = [shard(0), shard(1), shard(2)];
        for n in 0..300u128 {
            let id = BlockId::from_parts(7, n);
            assert_eq!(shards.iter().filter(|s| s.selects(id, &Labels::empty())).count(), 1);
        }
        for shard in shards {
            assert!((0..300).filter(|n| shard.selects(BlockId::from_parts(7, *n), &Labels::empty())).count() > 60);
        }
    }

    #[test]
    fn what_cannot_select_is_refused() {
        for (yaml, says) in [
            ("- {action: replace, target_label: a}", "use keep, drop or hashmod"),
            ("- {source_labels: [a]}", "replace"),
            ("- {action: hashmod, target_label: a}", "modulus"),
            ("- {action: hashmod, modulus: 2}", "target_label"),
            ("- {action: keep, regex: '('}", "step 1"),
            ("- {action: keep, regexp: a}", "regexp"),
            ("- {action: twist}", "action twist can't select blocks: use keep, drop or hashmod"),
            ("action: keep", ""),
        ] {
            let error = format!("{:#}", Selector::parse(yaml).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
