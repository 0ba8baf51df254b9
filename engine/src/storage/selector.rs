//! Which blocks are this part's share: Prometheus's relabel configuration over external labels and `__block_id`, of which
//! `keep`, `drop` and `hashmod` make sense here (as in Thanos).

use anyhow::{Context as _, bail};
use md5::{Digest as _, Md5};
use model::regex::Regex;
use model::{BlockId, Labels};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The label that holds a block's id.
const BLOCK_ID: &str = "__block_id";
/// More steps than anyone has.
const MAX_STEPS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    source_labels: Vec<String>,
    #[serde(default = "semicolon")]
    separator: String,
    #[serde(default)]
    regex: Option<String>,
    #[serde(default)]
    modulus: u64,
    #[serde(default)]
    target_label: String,
    #[serde(default)]
    #[allow(dead_code, reason = "read, because it may be there; no action that is allowed here uses it")]
    replacement: Option<String>,
    #[serde(default)]
    action: Option<String>,
}

fn semicolon() -> String {
    ";".to_owned()
}

#[derive(Clone, Debug)]
enum Action {
    Keep(Regex),
    Drop(Regex),
    HashMod(u64, String),
}

#[derive(Clone, Debug)]
struct Step {
    sources: Vec<String>,
    separator: String,
    action: Action,
}

/// A selector of blocks; the default selects all.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    steps: Vec<Step>,
}

impl Selector {
    /// Reads the YAML; empty: all blocks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(yaml: &str) -> anyhow::Result<Self> {
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        let raw: Vec<Raw> = args::yaml::read(yaml)?;
        if raw.len() > MAX_STEPS {
            bail!("{} steps; at most {MAX_STEPS} are read", raw.len());
        }
        let steps = raw.into_iter().enumerate().map(|(i, raw)| raw.step().with_context(|| format!("step {}", i + 1)));
        Ok(Self { steps: steps.collect::<anyhow::Result<_>>()? })
    }

    /// True if the block is selected.
    pub fn selects(&self, id: BlockId, external: &Labels) -> bool {
        if self.steps.is_empty() {
            return true;
        }
        let mut labels: BTreeMap<String, String> = external.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        labels.insert(BLOCK_ID.to_owned(), id.to_string());
        for step in &self.steps {
            let values: Vec<&str> =
                step.sources.iter().map(|name| labels.get(name).map_or("", String::as_str)).collect();
            let value = values.join(&step.separator);
            match &step.action {
                Action::Keep(regex) if !regex.is_match(&value) => return false,
                Action::Drop(regex) if regex.is_match(&value) => return false,
                Action::Keep(_) | Action::Drop(_) => {}
                Action::HashMod(modulus, target) => {
                    labels.insert(target.clone(), (hash(&value) % modulus).to_string());
                }
            }
        }
        true
    }
}

/// Prometheus's: the last eight bytes of the MD5, most significant first.
fn hash(value: &str) -> u64 {
    let sum: [u8; 16] = Md5::digest(value.as_bytes()).into();
    sum.iter().skip(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

impl Raw {
    fn step(self) -> anyhow::Result<Step> {
        let regex = || {
            let source = self.regex.as_deref().unwrap_or("(.*)");
            Regex::new(source).map_err(|e| anyhow::anyhow!("regex {source:?}: {e}"))
        };
        let action = match self.action.as_deref().unwrap_or("replace").to_ascii_lowercase().as_str() {
            "keep" => Action::Keep(regex()?),
            "drop" => Action::Drop(regex()?),
            "hashmod" if self.modulus == 0 => bail!("hashmod needs a modulus that is not 0"),
            "hashmod" if self.target_label.is_empty() => bail!("hashmod needs a target_label"),
            "hashmod" => Action::HashMod(self.modulus, self.target_label),
            other => bail!("action {other} can't select blocks: use keep, drop or hashmod"),
        };
        Ok(Step { sources: self.source_labels, separator: self.separator, action })
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
    }

    #[test]
    fn shards_are_disjoint_and_complete_and_those_of_prometheus() {
        // MD5("a") = 0cc175b9c0f1b6a831c399e269772661: its last eight bytes.
        assert_eq!(hash("a"), 0x31c3_99e2_6977_2661);
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
            ("action: keep", ""),
        ] {
            let error = format!("{:#}", Selector::parse(yaml).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
