//! Prometheus's relabelling of a series (`model/relabel`, 0.314), all actions.

use anyhow::{Context as _, bail};
use md5::{Digest as _, Md5};
use model::Labels;
use model::regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// More steps than anyone has.
const MAX_STEPS: usize = 1000;

/// One step as it is written, with Prometheus's defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    source_labels: Vec<String>,
    #[serde(default = "semicolon")]
    separator: String,
    #[serde(default = "anything")]
    regex: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    modulus: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    target_label: String,
    #[serde(default = "first_group")]
    replacement: String,
    #[serde(default = "replace")]
    action: String,
}

fn semicolon() -> String {
    ";".to_owned()
}
fn anything() -> String {
    "(.*)".to_owned()
}
fn first_group() -> String {
    "$1".to_owned()
}
fn replace() -> String {
    "replace".to_owned()
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

#[derive(Clone, Debug)]
struct Step {
    written: Written,
    action: Action,
    regex: Regex,
}

/// Steps, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Relabel(Vec<Step>);

impl Relabel {
    /// Reads the YAML.
    ///
    /// # Errors
    /// What is wrong with it, and in which step.
    pub(super) fn parse(yaml: &str) -> anyhow::Result<Self> {
        let all: Vec<Written> = args::yaml::read(yaml)?;
        anyhow::ensure!(all.len() <= MAX_STEPS, "{} steps; at most {MAX_STEPS} are read", all.len());
        let steps = all.into_iter().enumerate().map(|(i, w)| step(w).with_context(|| format!("step {}", i + 1)));
        Ok(Self(steps.collect::<anyhow::Result<_>>()?))
    }

    /// The steps as meta.json tells them.
    pub(super) fn written(&self) -> Vec<serde_json::Value> {
        self.0.iter().filter_map(|step| serde_json::to_value(&step.written).ok()).collect()
    }

    /// The labels that a series has after all steps; none if it is dropped or has none left.
    pub(super) fn apply(&self, labels: &Labels) -> Option<Labels> {
        let mut all: BTreeMap<String, String> = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        for step in &self.0 {
            if !step.apply(&mut all) {
                return None;
            }
        }
        all.retain(|_, value| !value.is_empty());
        (!all.is_empty()).then(|| Labels::from_pairs(all.iter().map(|(n, v)| (n.as_str(), v.as_str()))))
    }
}

fn step(mut written: Written) -> anyhow::Result<Step> {
    written.action = written.action.to_ascii_lowercase();
    let action = match written.action.as_str() {
        "replace" | "" => Action::Replace,
        "keep" => Action::Keep,
        "drop" => Action::Drop,
        "keepequal" => Action::KeepEqual,
        "dropequal" => Action::DropEqual,
        "hashmod" => Action::HashMod,
        "labelmap" => Action::LabelMap,
        "labeldrop" => Action::LabelDrop,
        "labelkeep" => Action::LabelKeep,
        "lowercase" => Action::Lowercase,
        "uppercase" => Action::Uppercase,
        other => bail!(
            "action {other} is not known: use replace, keep, drop, keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep, \
             lowercase or uppercase"
        ),
    };
    let targeted = matches!(
        action,
        Action::Replace
            | Action::HashMod
            | Action::Lowercase
            | Action::Uppercase
            | Action::KeepEqual
            | Action::DropEqual
    );
    anyhow::ensure!(!targeted || !written.target_label.is_empty(), "{} needs a target_label", written.action);
    anyhow::ensure!(action != Action::HashMod || written.modulus > 0, "hashmod needs a modulus that is not 0");
    let regex = Regex::new(&written.regex).map_err(|e| anyhow::anyhow!("regex {:?}: {e}", written.regex))?;
    if matches!(action, Action::Replace | Action::LabelMap) {
        regex.check_groups().map_err(|e| anyhow::anyhow!("regex {:?}: {e}", written.regex))?;
    }
    Ok(Step { written, action, regex })
}

impl Step {
    /// False if the series is dropped.
    fn apply(&self, labels: &mut BTreeMap<String, String>) -> bool {
        let Written { source_labels, separator, target_label, replacement, modulus, .. } = &self.written;
        let values: Vec<&str> = source_labels.iter().map(|name| labels.get(name).map_or("", String::as_str)).collect();
        let value = values.join(separator);
        match self.action {
            Action::Keep => return self.regex.is_match(&value),
            Action::Drop => return !self.regex.is_match(&value),
            Action::KeepEqual => return labels.get(target_label).map_or("", String::as_str) == value,
            Action::DropEqual => return labels.get(target_label).map_or("", String::as_str) != value,
            Action::Replace => {
                let name = self.regex.captures_expand(&value, target_label);
                let new = self.regex.captures_expand(&value, replacement);
                if let (Some(name), Some(new)) = (name, new)
                    && !name.is_empty()
                {
                    labels.insert(name, new);
                }
            }
            Action::HashMod => {
                labels.insert(target_label.clone(), (hash(&value) % modulus).to_string());
            }
            Action::Lowercase => {
                labels.insert(target_label.clone(), value.to_lowercase());
            }
            Action::Uppercase => {
                labels.insert(target_label.clone(), value.to_uppercase());
            }
            Action::LabelMap => {
                let new: Vec<(String, String)> = labels
                    .iter()
                    .filter_map(|(name, value)| Some((self.regex.captures_expand(name, replacement)?, value.clone())))
                    .collect();
                labels.extend(new);
            }
            Action::LabelDrop => labels.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.is_match(name)),
        }
        true
    }
}

/// Prometheus's: the last eight bytes of the MD5, most significant first.
fn hash(value: &str) -> u64 {
    let sum: [u8; 16] = Md5::digest(value.as_bytes()).into();
    sum.iter().skip(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(yaml: &str) -> Option<String> {
        let labels = Labels::from_pairs([("__name__", "up"), ("a", "x-1"), ("b", "X"), ("c", "x-1")]);
        Relabel::parse(yaml).unwrap().apply(&labels).map(|labels| labels.to_string())
    }

    #[test]
    fn every_action() {
        for (yaml, is) in [
            (
                "- {source_labels: [a], regex: '(.)-(.)', target_label: 'd', replacement: '$2${1}'}",
                r#"{__name__="up", a="x-1", b="X", c="x-1", d="1x"}"#,
            ),
            ("- {source_labels: [a], target_label: a, replacement: ''}", r#"{__name__="up", b="X", c="x-1"}"#),
            ("- {source_labels: [a], regex: nope, target_label: b}", r#"{__name__="up", a="x-1", b="X", c="x-1"}"#),
            ("- {action: labeldrop, regex: 'a|b'}", r#"{__name__="up", c="x-1"}"#),
            ("- {action: labelkeep, regex: '__name__|b'}", r#"{__name__="up", b="X"}"#),
            (
                "- {action: labelmap, regex: '(a|b)', replacement: 'k_$1'}",
                r#"{__name__="up", a="x-1", b="X", c="x-1", k_a="x-1", k_b="X"}"#,
            ),
            (
                "- {action: Lowercase, source_labels: [b], target_label: b}\n- {action: labeldrop, regex: '[ac]'}",
                r#"{__name__="up", b="x"}"#,
            ),
            (
                "- {action: uppercase, source_labels: [a], target_label: b}\n- {action: labeldrop, regex: '[ac]'}",
                r#"{__name__="up", b="X-1"}"#,
            ),
            (
                "- {action: keep, source_labels: [a, b], regex: 'x-1;X'}\n- {action: labeldrop, regex: '[abc]'}",
                r#"{__name__="up"}"#,
            ),
            (
                "- {action: keepequal, source_labels: [a], target_label: c}\n- {action: labeldrop, regex: '[abc]'}",
                r#"{__name__="up"}"#,
            ),
        ] {
            assert_eq!(after(yaml).as_deref(), Some(is), "{yaml}");
        }
        for yaml in [
            "- {action: drop, source_labels: [b], regex: X}",
            "- {action: keep, source_labels: [b], regex: x}",
            "- {action: dropequal, source_labels: [a], target_label: c}",
            "- {action: labeldrop, regex: '.*'}",
        ] {
            assert_eq!(after(yaml), None, "{yaml}");
        }
        // As a shard of a store counts it.
        let shard = after(
            "- {action: hashmod, source_labels: [a], modulus: 8, target_label: s}\n- {action: labelkeep, regex: s}",
        );
        assert!(shard.unwrap().starts_with("{s=\""));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_step() {
        for (yaml, says) in [
            ("- {action: labeldrop, regex: a}\n- {action: twist}", "step 2"),
            ("- {regex: '('}", "target_label"),
            ("- {action: labeldrop, regex: '('}", "regex"),
            ("- {action: hashmod, target_label: a}", "modulus"),
            ("- {replace: a}", "replace"),
        ] {
            let error = format!("{:#}", Relabel::parse(yaml).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
