//! Which blocks of the bucket are a compactor's own: those that its selector keeps, in its time.

use crate::server::point::Point;
use crate::storage::selector::Selector;
use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tsdb::BlockMeta;
use tsdb::plan;

/// The scope of a compactor that works on all blocks.
pub(super) const ALL: &str = "all";

/// A compactor's share.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// The name of its lease: shares that are told in the same words have the same.
    pub(super) scope: String,
    /// The words, for people; empty for all.
    pub(super) words: String,
    selector: Selector,
    window: (Point, Point),
    replicas: Vec<String>,
}

impl Share {
    /// All blocks.
    #[cfg(test)]
    pub(super) fn all() -> Self {
        let window = (Point::At(i64::MIN), Point::At(i64::MAX));
        let (scope, words, replicas) = (ALL.to_owned(), String::new(), Vec::new());
        Self { scope, words, selector: Selector::default(), window, replicas }
    }

    /// What these flags say: a relabel configuration, the oldest and the newest time, the labels of replicas, which selectors don't
    /// see, so that all replicas are one compactor's.
    ///
    /// # Errors
    /// When one of them can't be read.
    pub(crate) fn new(yaml: &str, min: &str, max: &str, replicas: &[String]) -> anyhow::Result<Self> {
        let point =
            |flag: &str, text: &str| text.parse::<Point>().map_err(anyhow::Error::msg).with_context(|| flag.to_owned());
        let window = (point("--min-time", min)?, point("--max-time", max)?);
        ensure!(
            !yaml.contains("__block_id"),
            "--selector.relabel-config: __block_id can't tell shards apart, since blocks change their ids when they are compacted; select by \
             external labels"
        );
        let selector = Selector::parse(yaml).context("--selector.relabel-config")?;
        let mut words = yaml.trim().to_owned();
        if window != (Point::At(i64::MIN), Point::At(i64::MAX)) {
            words = format!("{words}\nfrom {min} to {max}").trim().to_owned();
        }
        let scope = if words.is_empty() {
            ALL.to_owned()
        } else {
            args::files::hex(Sha256::digest(words.as_bytes()).get(..8).unwrap_or_default())
        };
        Ok(Self { scope, words, selector, window, replicas: replicas.to_vec() })
    }

    /// Whether a block is in it at `now` (ms since the epoch).
    pub(crate) fn has(&self, meta: &BlockMeta, now: i64) -> bool {
        meta.max_time >= self.window.0.at(now)
            && meta.min_time <= self.window.1.at(now)
            && self.selector.selects(meta.id, &plan::without_replicas(&meta.labels(), &self.replicas))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::BlockId;
    use tsdb::meta::Thanos;

    const EVER: (&str, &str) = ("0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z");

    fn meta(cluster: &str, replica: &str) -> BlockMeta {
        let mut meta = BlockMeta::new(BlockId::from_parts(1, 2), 1_000, 2_000);
        let labels = [("cluster".to_owned(), cluster.to_owned()), ("replica".to_owned(), replica.to_owned())].into();
        meta.thanos = Some(Thanos { labels, ..Thanos::default() });
        meta
    }

    #[test]
    fn replicas_stay_together_and_each_share_has_a_scope() {
        let shard = |n: u8| {
            let yaml = format!(
                "- {{action: hashmod, source_labels: [cluster, replica], target_label: shard, modulus: 3}}\n\
                 - {{action: keep, source_labels: [shard], regex: '{n}'}}"
            );
            Share::new(&yaml, EVER.0, EVER.1, &["replica".to_owned()]).unwrap()
        };
        let shards = [shard(0), shard(1), shard(2)];
        for cluster in ["a", "b", "c", "d", "e"] {
            let of = |replica: &str| shards.iter().position(|s| s.has(&meta(cluster, replica), 0)).unwrap();
            assert_eq!(of("0"), of("1"), "{cluster}");
        }
        assert_ne!(shards[0].scope, shards[1].scope);
        assert_eq!(shards[0].scope, shard(0).scope);
        let all = Share::new(" ", EVER.0, EVER.1, &[]).unwrap();
        assert_eq!((all.scope.as_str(), all.words.as_str()), (ALL, ""));
    }

    #[test]
    fn blocks_outside_of_its_time_are_none_of_its() {
        let late = Share::new("", "1970-01-01T00:00:03Z", EVER.1, &[]).unwrap();
        assert!(!late.has(&meta("a", "0"), 0) && late.scope != ALL);
        let recent = Share::new("", "-5s", EVER.1, &[]).unwrap();
        assert!(recent.has(&meta("a", "0"), 7_000) && !recent.has(&meta("a", "0"), 7_001));
        assert!(Share::new("", "soon", EVER.1, &[]).unwrap_err().to_string().contains("--min-time"));
        assert!(Share::new("- {}", EVER.0, EVER.1, &[]).is_err());
        let by_id = "- {action: keep, source_labels: [__block_id], regex: 0.*}";
        assert!(Share::new(by_id, EVER.0, EVER.1, &[]).unwrap_err().to_string().contains("external labels"));
    }
}
