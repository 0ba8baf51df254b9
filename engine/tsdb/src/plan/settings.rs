//! How a bucket is to be kept, and settings that defeat themselves.

use super::item::span;
use crate::meta::BlockMeta;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Raw blocks at least so wide (ms) are downsampled to 5m: Thanos's width.
pub(super) const WIDE_RAW: i64 = 40 * HOUR;
/// 5m blocks at least so wide (ms) are downsampled to 1h: Thanos's width.
pub(super) const WIDE_5M: i64 = 10 * DAY;

/// How a bucket is to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Widths that blocks grow to, in ms, ascending; the first is never aimed at.
    pub ranges: Vec<i64>,
    /// Whether blocks that overlap are merged.
    pub merge: bool,
    /// External labels that tell replicas apart; blocks that differ in nothing else are one stream. Needs `merge`.
    pub replica_labels: Vec<String>,
    /// The index of a compacted block is not to exceed this, in bytes.
    pub max_index_bytes: u64,
    /// Whether coarser copies are made.
    pub downsample: bool,
    /// How long data is kept.
    pub retention: Retention,
    /// Retention is for blocks that carry all of these external labels; others are kept. None: for all blocks.
    pub retention_labels: std::collections::BTreeMap<String, String>,
    /// From the mark to the deletion, in ms.
    pub delete_delay: i64,
    /// Blocks of others that were uploaded less than this ago (ms) are not looked at.
    pub consistency_delay: i64,
    /// An upload that has written nothing for so long (ms) broke off.
    pub partial_age: i64,
}

impl Default for Settings {
    /// Thanos's defaults.
    fn default() -> Self {
        Self {
            ranges: vec![HOUR, 2 * HOUR, 8 * HOUR, 2 * DAY, 14 * DAY],
            merge: false,
            replica_labels: Vec::new(),
            max_index_bytes: 64 << 30,
            downsample: true,
            retention: Retention::default(),
            retention_labels: std::collections::BTreeMap::new(),
            delete_delay: 2 * DAY,
            consistency_delay: HOUR / 2,
            partial_age: 2 * DAY,
        }
    }
}

/// How long data is kept, in ms, by resolution; 0: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Raw data.
    pub raw: i64,
    /// 5m.
    pub five_minutes: i64,
    /// 1h.
    pub one_hour: i64,
}

impl Retention {
    /// How long data of a resolution (ms) is kept; 0 for ever, also for one that is not known.
    pub fn of(&self, resolution: i64) -> i64 {
        match resolution {
            0 => self.raw,
            300_000 => self.five_minutes,
            3_600_000 => self.one_hour,
            _ => 0,
        }
    }

    /// Whether data of a resolution that ends at `max_time` is older than that is kept. Thanos counts whole seconds.
    pub(super) fn is_over_for(&self, resolution: i64, max_time: i64, now: i64) -> bool {
        let keep = self.of(resolution);
        keep > 0 && now > (max_time / 1000 * 1000).saturating_add(keep)
    }
}

/// Something about settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// They can't be used.
    Refused(String),
    /// They will not do what was probably meant.
    Warning(String),
}

impl Settings {
    /// Whether retention is for this block.
    pub(super) fn expires(&self, meta: &BlockMeta) -> bool {
        let labels = meta.thanos.as_ref().map(|t| &t.labels);
        self.retention_labels.iter().all(|(name, value)| labels.and_then(|l| l.get(name)) == Some(value))
    }

    /// Whether a block is older than its resolution is kept.
    pub(super) fn is_over(&self, meta: &BlockMeta, now: i64) -> bool {
        self.is_over_for(meta, meta.resolution(), now)
    }

    /// Whether the data of a block would be too old in this resolution.
    pub(super) fn is_over_for(&self, meta: &BlockMeta, resolution: i64, now: i64) -> bool {
        self.expires(meta) && self.retention.is_over_for(resolution, meta.max_time, now)
    }

    /// What is wrong with the settings, all of it.
    pub fn check(&self) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut refuse = |what: String| out.push(Finding::Refused(what));
        let Retention { raw, five_minutes, one_hour } = self.retention;
        for (name, ms) in [
            ("retention of raw data", raw),
            ("retention of 5m data", five_minutes),
            ("retention of 1h data", one_hour),
            ("delete delay", self.delete_delay),
            ("consistency delay", self.consistency_delay),
            ("age of partial uploads", self.partial_age),
        ] {
            if ms < 0 {
                refuse(format!("the {name} is negative ({}); 0 or more is needed", span(ms)));
            }
        }
        let grows = |w: &[i64]| matches!(w, [a, b] if *a > 0 && b > a && b % a == 0);
        if self.ranges.len() < 2 || !self.ranges.windows(2).all(grows) {
            refuse("the widths of blocks must grow, each a multiple of the one before".to_owned());
        }
        if !self.replica_labels.is_empty() && !self.merge {
            refuse("replica labels are set but blocks that overlap are not to be merged; allow merging".to_owned());
        }
        if self.replica_labels.iter().any(String::is_empty) {
            refuse("a replica label has no name".to_owned());
        }
        if self.downsample {
            for (name, keep, least) in [("raw", raw, WIDE_RAW), ("5m", five_minutes, WIDE_5M)] {
                if keep > 0 && keep < least {
                    refuse(format!(
                        "{name} data is kept for {} only; it is downsampled from blocks of {}: keep it at least that \
                         long, or switch downsampling off",
                        span(keep),
                        span(least)
                    ));
                }
            }
            let mut warn = |what: String| out.push(Finding::Warning(what));
            if (WIDE_5M..21 * DAY).contains(&five_minutes) {
                warn(format!(
                    "5m data is kept for {}: it is deleted before blocks of two weeks are made of it, so 1h data is \
                     made of small blocks at the last moment; keep it at least 21d",
                    span(five_minutes)
                ));
            }
            for (name, finer) in [("5m", five_minutes), ("raw", raw)] {
                if one_hour > 0 && (finer == 0 || one_hour < finer) {
                    let finer = if finer == 0 { "ever".to_owned() } else { span(finer) };
                    warn(format!(
                        "1h data is kept for {} and {name} data for {finer}: the coarsest copy goes first, so long \
                         queries gain nothing; keep 1h data longest",
                        span(one_hour)
                    ));
                }
            }
        } else if five_minutes > 0 || one_hour > 0 {
            out.push(Finding::Warning(
                "downsampling is off, so that the retention of 5m and 1h data matters for old blocks only".to_owned(),
            ));
        }
        out
    }
}
