//! The configuration of Prometheus: rendered, compared with what replicas have loaded, and spread over Secrets.
//!
//! Two versions travel: *next*, which the spec asks for, and *last good*, which a replica is known to have loaded. A
//! Prometheus starts with the last good one, so a pod restart never turns a bad configuration into a crash loop.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use args::files::{CONFIG_SLOTS, LAST_GOOD, NEXT};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value, json};

use crate::api::ScrapeJob;
use crate::cluster::{ConditionType, Problem, Reason, ValidCluster};
use crate::observe::Found;

use super::{Object, hash, meta, names, objstore, scrape_jobs};

/// Bytes of one version in one slot; a slot holds a part of both.
const PART: usize = 450_000;
/// A larger configuration is packed; a smaller one stays readable with kubectl.
const PLAIN: usize = 200_000;
/// No configuration is larger when unpacked.
const MAX_TEXT: u64 = 64 << 20;

/// The directory where Prometheus's container finds the expanded configuration.
pub(crate) const SHARED_DIR: &str = "/etc/prometheus/shared";
/// Where the sidecar puts rule files for Prometheus: what Prometheus refuses does not stay there.
pub(crate) const SHARED_RULES_DIR: &str = "/etc/prometheus/shared/rules";
/// The rule files as they are wished for.
pub(crate) const RULES_DIR: &str = "/etc/prometheus/rules";

/// What Prometheus should load, and what it is known to load. Texts are before `$(POD_NAME)` is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// What the spec asks for.
    pub next: String,
    /// SHA-256 of [`Configuration::next`], as sidecars report it.
    pub hash: String,
    /// What a replica was known to have loaded last.
    pub last_good: Option<String>,
    /// SHA-256 of [`Configuration::last_good`].
    pub last_good_hash: Option<String>,
}

/// Both versions as the Secrets hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) next: Option<String>,
    pub(crate) last_good: Option<String>,
}

impl Configuration {
    /// Decides which version is the last good one. Where the wanted one is too large for the slots, what is stored stays.
    /// `safe` is what the very first start uses if the wanted one holds text of others, which may be refused.
    pub(crate) fn choose(
        wanted: String,
        safe: Option<String>,
        stored: Stored,
        loaded: &BTreeSet<String>,
    ) -> Result<Self, (Self, Problem)> {
        let is_loaded = |text: &String| loaded.contains(&hash(text.as_bytes()));
        let promote = |next: &String| is_loaded(next).then(|| next.clone());
        let last_good =
            promote(&wanted).or_else(|| stored.next.as_ref().and_then(promote)).or(stored.last_good).or(safe);
        let bytes = pack(&wanted).len();
        let fits = bytes <= CONFIG_SLOTS * PART;
        let kept = Self::new(if fits { wanted } else { stored.next.unwrap_or_default() }, last_good);
        if fits {
            return Ok(kept);
        }
        let problem = Problem::new(
            ConditionType::ConfigurationApplied,
            Reason::ConfigTooLarge,
            "spec.scrape.additional",
            format!(
                "The configuration has {bytes} bytes packed, {} fit; the previous one stays. Shorten the additional scrape \
                 configurations.",
                CONFIG_SLOTS * PART
            ),
        );
        Err((kept, problem))
    }

    fn new(next: String, last_good: Option<String>) -> Self {
        Self {
            hash: hash(next.as_bytes()),
            last_good_hash: last_good.as_ref().map(|text| hash(text.as_bytes())),
            next,
            last_good,
        }
    }
}

/// Begins a line at the top of the text: how many of the last jobs come from which source. So the text alone says what
/// ran before a source broke.
const FROM: &str = "# additional ";

/// The text that the spec asks for.
pub(crate) fn render(cluster: &ValidCluster) -> String {
    let mut text: String = cluster
        .additional_jobs
        .chunk_by(|a, b| a.source == b.source)
        .map(|jobs| format!("{FROM}{}: {}\n", jobs[0].source, jobs.len()))
        .collect();
    text.push_str(&with_jobs(cluster, scrape_jobs::render(cluster)));
    text
}

/// The jobs that [`render`] wrote for a source.
pub(crate) fn jobs_of(text: &str, source: &str) -> Option<Vec<Value>> {
    let sources: Vec<(&str, usize)> = text
        .lines()
        .map_while(|line| line.strip_prefix(FROM)?.rsplit_once(": "))
        .filter_map(|(source, jobs)| Some((source, jobs.parse().ok()?)))
        .collect();
    let at = sources.iter().position(|(name, _)| *name == source)?;
    let after: usize = sources[at..].iter().map(|(_, jobs)| jobs).sum();
    let config: Value = serde_saphyr::from_str(text).ok()?;
    let jobs = config.get("scrape_configs")?.as_array()?;
    let first = jobs.len().checked_sub(after)?;
    Some(jobs.get(first..first + sources[at].1)?.to_vec())
}

/// The same without the additional jobs, if there are any: every word of it is ours.
pub(crate) fn render_safe(cluster: &ValidCluster) -> Option<String> {
    (!cluster.additional_jobs.is_empty()).then(|| with_jobs(cluster, scrape_jobs::built_in(cluster)))
}

fn with_jobs(cluster: &ValidCluster, jobs: Vec<Value>) -> String {
    let spec = &cluster.spec;
    let mut external: BTreeMap<&str, &str> =
        spec.external_labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    external.insert(&spec.cluster_label, &spec.cluster_name);
    external.insert(&spec.replica_label, "$(POD_NAME)");
    let mut config = json!({
        "global": {
            "scrape_interval": spec.scrape.interval,
            "scrape_timeout": spec.scrape.timeout,
            "evaluation_interval": spec.scrape.evaluation_interval,
            "external_labels": external,
        },
        // replicas must send identical alerts
        "alerting": {"alert_relabel_configs": [{"action": "labeldrop", "regex": spec.replica_label}]},
        "rule_files": [format!("{SHARED_RULES_DIR}/current/*.yaml")],
        "scrape_configs": jobs,
    });
    if retention_in_file(&cluster.prometheus_version) {
        config["storage"] = json!({"tsdb": {"retention": {
            "time": spec.retention.local,
            "size": format!("{}B", cluster.retention_bytes),
        }}});
    }
    // JSON is YAML too: what can't be written pretty is still right.
    serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
}

/// Since 3.11 the retention is a matter of the file, where it can change without a restart.
pub(super) fn retention_in_file(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(3), Some(11))
}

/// Whether a built-in job is wanted.
pub(super) fn has_job(cluster: &ValidCluster, job: ScrapeJob) -> bool {
    cluster.spec.scrape.jobs.contains(&job)
}

fn pack(text: &str) -> Vec<u8> {
    if text.len() <= PLAIN {
        return text.as_bytes().to_vec();
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a Vec can't fail; a short read-back would be seen as a broken file by every reader.
    match packed.write_all(text.as_bytes()).and_then(|()| packed.finish()) {
        Ok(bytes) => bytes,
        Err(_) => text.as_bytes().to_vec(),
    }
}

fn unpack(bytes: &[u8]) -> Option<String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    let mut text = String::new();
    GzDecoder::new(bytes).take(MAX_TEXT).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The file names of a version's parts: slot 0 holds `next.yaml`, slot n `next.yaml.n`.
fn part(file: &str, slot: usize) -> String {
    if slot == 0 { file.to_owned() } else { format!("{file}.{slot}") }
}

/// The Secrets.
pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    let config = &cluster.configuration;
    let mut slots: Vec<Map<String, Value>> = vec![Map::new(); CONFIG_SLOTS];
    let versions = [(NEXT, Some(&config.next)), (LAST_GOOD, config.last_good.as_ref())];
    for (file, text) in versions {
        let Some(text) = text else { continue };
        for (slot, bytes) in pack(text).chunks(PART).enumerate().take(CONFIG_SLOTS) {
            slots[slot].insert(part(file, slot), Value::from(STANDARD.encode(bytes)));
        }
    }
    names::configuration_slots(&cluster.name)
        .into_iter()
        .zip(slots)
        .enumerate()
        .filter(|(slot, (_, data))| *slot == 0 || !data.is_empty())
        .map(|(_, (name, data))| objstore::secret(cluster, meta::PROMETHEUS, &name, data))
        .collect()
}

/// Reads back what [`objects`] wrote. The slots are written one after the other, and a writer may have stopped between
/// two of them, just as it made the next version the last good one: then the first slots hold that one as the last good,
/// the others still as the next, and its checksum says where the seam is.
pub(crate) fn decode(cr: &str, secrets: &BTreeMap<String, Found<Secret>>) -> Stored {
    let names = names::configuration_slots(cr);
    let data = |slot: usize| secrets.get(names.get(slot)?).and_then(Found::present)?.data.as_ref();
    let found = |file: &str, slot: usize| data(slot)?.get(&part(file, slot)).map(|bytes| bytes.0.as_slice());
    // The parts of `file` in the slots before `seam`, those of `after` from there on.
    let joined = |file: &str, seam: usize, after: &str| {
        let parts = (0..names.len()).map_while(|slot| found(if slot < seam { file } else { after }, slot));
        let bytes: Vec<u8> = parts.flatten().copied().collect();
        if bytes.is_empty() { None } else { unpack(&bytes) }
    };
    let whole = |file: &str| joined(file, names.len(), file);
    let last_good = whole(LAST_GOOD).or_else(|| {
        found(LAST_GOOD, 0)?;
        (1..names.len()).find_map(|seam| joined(LAST_GOOD, seam, NEXT))
    });
    Stored { next: whole(NEXT), last_good }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(next: &str, last_good: Option<&str>) -> Stored {
        Stored { next: Some(next.to_owned()), last_good: last_good.map(str::to_owned) }
    }
    fn loaded(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| hash(text.as_bytes())).collect()
    }

    #[test]
    fn a_version_is_promoted_only_when_a_replica_loaded_it() {
        let choose = |wanted: &str, stored, loaded| Configuration::choose(wanted.to_owned(), None, stored, &loaded);
        let first = choose("a", Stored::default(), loaded(&[])).expect("fits");
        assert_eq!((first.next.as_str(), first.last_good.as_deref()), ("a", None));

        let safe =
            Configuration::choose("a".to_owned(), Some("s".to_owned()), Stored::default(), &loaded(&[])).expect("fits");
        assert_eq!((safe.next.as_str(), safe.last_good.as_deref()), ("a", Some("s")));

        let proved = choose("a", stored("a", None), loaded(&["a"])).expect("fits");
        assert_eq!(proved.last_good.as_deref(), Some("a"));

        // a new one arrives before anybody noticed that the previous one was loaded
        let later = choose("b", stored("a", None), loaded(&["a"])).expect("fits");
        assert_eq!((later.next.as_str(), later.last_good.as_deref()), ("b", Some("a")));

        // refused, and all pods gone: nobody reports anything
        let refused = choose("b", stored("b", Some("a")), loaded(&[])).expect("fits");
        assert_eq!((refused.next.as_str(), refused.last_good.as_deref()), ("b", Some("a")));

        // corrected
        let corrected = choose("c", stored("b", Some("a")), loaded(&["a"])).expect("fits");
        assert_eq!((corrected.next.as_str(), corrected.last_good.as_deref()), ("c", Some("a")));
    }

    #[test]
    fn a_large_one_is_packed_and_comes_back() {
        let text: String = (0..200_000).map(|i| format!("# line {i}\n")).collect();
        let bytes = pack(&text);
        assert!(bytes.len() < text.len() / 3);
        assert_eq!(unpack(&bytes).as_deref(), Some(text.as_str()));
        assert_eq!(unpack(&bytes[..bytes.len() / 2]), None);
        assert_eq!(unpack(b"plain"), Some("plain".to_owned()));
        assert_eq!(unpack(b"\xff"), None);
    }

    /// Text that needs several slots, because it can't be packed well.
    fn large(seed: u64) -> String {
        let mut state = seed;
        (0..120_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("# {:010x}\n", state >> 24)
            })
            .collect()
    }

    fn slots(next: &str, last_good: &str) -> BTreeMap<String, Found<Secret>> {
        let mut slots = BTreeMap::new();
        for (file, text) in [(NEXT, next), (LAST_GOOD, last_good)] {
            for (slot, bytes) in pack(text).chunks(PART).enumerate() {
                let name = format!("c-prometheus-config-{slot}");
                let entry = slots.entry(name).or_insert_with(|| Found::Present(Secret::default()));
                let Found::Present(secret) = entry else { continue };
                let data = secret.data.get_or_insert_default();
                data.insert(part(file, slot), k8s_openapi::ByteString(bytes.to_vec()));
            }
        }
        slots
    }

    #[test]
    fn a_writer_that_stops_between_two_slots_loses_nothing() {
        let (a, b, c) = (large(1), large(2), large(3));
        let before = slots(&b, &a);
        assert!(before.len() > 1, "it is split");
        // b was loaded; the same wish, and a newer one
        for next in [&b, &c] {
            let after = slots(next, &b);
            for written in 1..after.len() {
                let mut mixed = before.clone();
                mixed.extend(after.iter().take(written).map(|(name, secret)| (name.clone(), secret.clone())));
                assert_eq!(decode("c", &mixed).last_good.as_deref(), Some(b.as_str()), "{written} written");
            }
            assert_eq!(decode("c", &after), stored(next, Some(&b)));
        }
        assert_eq!(decode("c", &before), stored(&b, Some(&a)));
        assert_eq!(decode("c", &BTreeMap::new()), Stored::default());
    }

    #[test]
    fn retention_moved_into_the_file() {
        assert!(retention_in_file("3.14.0") && retention_in_file("3.11.0-rc.1") && retention_in_file("4.0.0"));
        assert!(!retention_in_file("3.10.9") && !retention_in_file("3.5.0"));
    }
}
