//! Prometheus's relabelling (`model/relabel`, 0.314): of series with all actions, of blocks to select them.

use anyhow::{Context as _, bail};
use md5::{Digest as _, Md5};
use model::Labels;
use model::regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// More steps than anyone has.
const MAX_STEPS: usize = 1000;

/// One step as somebody writes it; what is left out, or null, has Prometheus's default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    source_labels: Option<Vec<String>>,
    separator: Option<String>,
    regex: Option<String>,
    modulus: Option<u64>,
    target_label: Option<String>,
    replacement: Option<String>,
    action: Option<String>,
}

/// One step with all that it has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "Raw")]
struct Written {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_labels: Vec<String>,
    separator: String,
    regex: String,
    #[serde(skip_serializing_if = "is_zero")]
    modulus: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    target_label: String,
    replacement: String,
    action: String,
}

impl From<Raw> for Written {
    fn from(raw: Raw) -> Self {
        let or = |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_owned());
        let action = raw.action.filter(|action| !action.is_empty());
        Self {
            source_labels: raw.source_labels.unwrap_or_default(),
            separator: or(raw.separator, ";"),
            regex: or(raw.regex, "(.*)"),
            modulus: raw.modulus.unwrap_or_default(),
            target_label: raw.target_label.unwrap_or_default(),
            replacement: or(raw.replacement, "$1"),
            action: or(action, "replace").to_ascii_lowercase(),
        }
    }
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

const ACTIONS: [(&str, Action); 11] = [
    ("replace", Action::Replace),
    ("keep", Action::Keep),
    ("drop", Action::Drop),
    ("keepequal", Action::KeepEqual),
    ("dropequal", Action::DropEqual),
    ("hashmod", Action::HashMod),
    ("labelmap", Action::LabelMap),
    ("labeldrop", Action::LabelDrop),
    ("labelkeep", Action::LabelKeep),
    ("lowercase", Action::Lowercase),
    ("uppercase", Action::Uppercase),
];

/// What steps are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// They change series.
    Change,
    /// They only say which blocks are taken.
    Select,
}

impl Use {
    fn action(self, name: &str) -> anyhow::Result<Action> {
        let fits = |action| self == Self::Change || matches!(action, Action::Keep | Action::Drop | Action::HashMod);
        if let Some((_, action)) = ACTIONS.iter().find(|(known, action)| *known == name && fits(*action)) {
            return Ok(*action);
        }
        let why = if self == Self::Change { "is not known" } else { "can't select blocks" };
        let names: Vec<&str> = ACTIONS.iter().filter(|(_, action)| fits(*action)).map(|(name, _)| *name).collect();
        let (last, others) = names.split_last().context("no action at all")?;
        bail!("action {name} {why}: use {} or {last}", others.join(", "))
    }
}

#[derive(Clone, Debug)]
struct Step {
    written: Written,
    action: Action,
    regex: Regex,
}

/// Steps, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relabel(Vec<Step>);

impl Relabel {
    /// Reads the YAML.
    ///
    /// # Errors
    /// What is wrong with it, and in which step.
    pub(crate) fn parse(yaml: &str, used: Use) -> anyhow::Result<Self> {
        let all: Vec<Written> = args::yaml::read(yaml)?;
        anyhow::ensure!(all.len() <= MAX_STEPS, "{} steps; at most {MAX_STEPS} are read", all.len());
        let steps = all.into_iter().enumerate().map(|(i, w)| step(w, used).with_context(|| format!("step {}", i + 1)));
        Ok(Self(steps.collect::<anyhow::Result<_>>()?))
    }

    /// The steps as meta.json tells them.
    pub(crate) fn written(&self) -> Vec<serde_json::Value> {
        self.0.iter().filter_map(|step| serde_json::to_value(&step.written).ok()).collect()
    }

    /// Whether there are no steps.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all steps on these labels, up to the one that drops them; false if one does.
    pub(crate) fn keeps(&self, labels: &mut BTreeMap<String, String>) -> bool {
        self.0.iter().all(|step| step.apply(labels))
    }

    /// The labels that a series has after all steps; none if it is dropped or has none left.
    pub(crate) fn apply(&self, labels: &Labels) -> Option<Labels> {
        let mut all: BTreeMap<String, String> = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        if !self.keeps(&mut all) {
            return None;
        }
        all.retain(|_, value| !value.is_empty());
        (!all.is_empty()).then(|| Labels::from_pairs(all.iter().map(|(n, v)| (n.as_str(), v.as_str()))))
    }
}

fn step(written: Written, used: Use) -> anyhow::Result<Step> {
    let action = used.action(&written.action)?;
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

    #[test]
    fn hashes_are_those_of_prometheus() {
        // MD5("a") = 0cc175b9c0f1b6a831c399e269772661: its last eight bytes.
        assert_eq!(hash("a"), 0x31c3_99e2_6977_2661);
    }

    fn after(yaml: &str) -> Option<String> {
        let labels = Labels::from_pairs([("__name__", "up"), ("a", "x-1"), ("b", "X"), ("c", "x-1")]);
        Relabel::parse(yaml, Use::Change).unwrap().apply(&labels).map(|labels| labels.to_string())
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
            let error = format!("{:#}", Relabel::parse(yaml, Use::Change).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
