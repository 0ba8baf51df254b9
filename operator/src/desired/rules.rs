//! Rule files: the built-in ones and the user's, spread over ConfigMaps that are declared in the pod template from the
//! start.

use std::collections::BTreeMap;

use args::files::RULE_SLOTS;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::ScrapeJob;
use crate::cluster::{ConditionType, Problem, Reason, ValidCluster};

use super::configuration::{RULES_DIR, has_job};
use super::{Object, meta, names, prometheus, slots};

const BUILTIN: &str = include_str!("builtin-rules.yaml");
const BUILTIN_META: &str = include_str!("builtin-meta-rules.yaml");
/// The user's files start with their ConfigMap's name and `_`, so none has this name.
const BUILTIN_FILE: &str = "builtin.yaml";

/// All files, by name.
fn files(cluster: &ValidCluster) -> BTreeMap<&str, String> {
    let mut files: BTreeMap<&str, String> =
        cluster.rule_files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    if cluster.spec.rules.builtin {
        files.insert(BUILTIN_FILE, builtin(cluster));
    }
    files
}

fn builtin(cluster: &ValidCluster) -> String {
    let meta = if has_job(cluster, ScrapeJob::Own) { BUILTIN_META } else { "" };
    format!("{BUILTIN}{meta}")
        .replace("@CLUSTER@", &format!("{{{{ $externalLabels.{} }}}}", cluster.spec.cluster_label))
        .replace("@REPLICAS@", &prometheus::replicas(cluster).to_string())
}

fn spread<'a>(files: &'a BTreeMap<&'a str, String>) -> (BTreeMap<&'a str, usize>, Vec<&'a str>) {
    slots::spread(files.iter().map(|(name, text)| (*name, text.len())), RULE_SLOTS)
}

pub(super) fn too_large(cluster: &ValidCluster) -> Option<Problem> {
    let files = files(cluster);
    let (_, left) = spread(&files);
    let first = left.first()?;
    Some(Problem::new(
        ConditionType::ConfigurationApplied,
        Reason::ConfigTooLarge,
        "spec.rules",
        format!(
            "{} rule files don't fit into {RULE_SLOTS} ConfigMaps and are left out, {first:?} first. Shorten or remove some.",
            left.len()
        ),
    ))
}

/// Hash over the rule files that Prometheus should evaluate, as sidecars report it.
pub(super) fn hash(cluster: &ValidCluster) -> String {
    let files = files(cluster);
    let (placed, _) = spread(&files);
    let mut hash = Sha256::new();
    for (name, text) in files.iter().filter(|(name, _)| placed.contains_key(*name)) {
        let path = format!("{RULES_DIR}/{name}");
        args::files::hash_rule_file(path.as_bytes(), text.as_bytes(), |bytes| hash.update(bytes));
    }
    args::files::hex(&hash.finalize())
}

/// The ConfigMaps.
pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let files = files(cluster);
    let (placed, _) = spread(&files);
    let mut data: Vec<Map<String, Value>> = vec![Map::new(); RULE_SLOTS];
    for (name, slot) in placed {
        data[slot].insert(name.to_owned(), json!(files[name]));
    }
    names::rule_slots(&cluster.name)
        .into_iter()
        .zip(data)
        .filter(|(_, data)| !data.is_empty())
        .map(|(name, data)| {
            Object(json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": meta::metadata(cluster, meta::PROMETHEUS, &name),
                "data": data,
            }))
        })
        .collect()
}
