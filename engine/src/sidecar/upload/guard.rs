//! Whether Prometheus's own compaction leaves blocks alone until they are in the bucket (thanos-map SC-06).

use std::path::{Component, Path, PathBuf};

/// What Prometheus says of its block lengths and of the file that delays its compaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sidecar) struct TsdbFlags {
    /// `--storage.tsdb.min-block-duration`, as `2h`.
    pub(in crate::sidecar) min_block: String,
    /// `--storage.tsdb.max-block-duration`.
    pub(in crate::sidecar) max_block: String,
    /// `--storage.tsdb.delay-compact-file.path`; empty if it is not set or not known to that version.
    pub(in crate::sidecar) delay_file: String,
}

/// May blocks be uploaded?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Yes.
    Yes,
    /// Yes, at a risk that is worth a warning.
    Risky(String),
    /// No, and what to do.
    No(String),
}

/// Judges Prometheus's flags; `None` if it does not tell them. `progress` is where the list of uploads is written.
pub(super) fn judge(flags: Option<&TsdbFlags>, progress: &Path, ignore_unequal: bool) -> Permit {
    let Some(flags) = flags else { return Permit::Yes };
    if !flags.delay_file.is_empty() {
        let theirs = clean(Path::new(&flags.delay_file));
        if theirs == clean(progress) {
            return Permit::Yes;
        }
        return Permit::No(format!(
            "Prometheus reads --storage.tsdb.delay-compact-file.path={} and the sidecar writes {}: give both the same file \
             (--tsdb.path and --shipper.meta-file-name), or Prometheus compacts blocks before they are uploaded",
            theirs.display(),
            progress.display(),
        ));
    }
    if length(&flags.min_block) == length(&flags.max_block) {
        return Permit::Yes;
    }
    let what = format!(
        "Prometheus compacts by itself (blocks from {} to {}) and does not wait for uploads",
        flags.min_block, flags.max_block
    );
    if ignore_unequal {
        return Permit::Risky(format!("{what}: a block whose upload is late may never reach the bucket"));
    }
    Permit::No(format!(
        "{what}, so data could miss the bucket: set --storage.tsdb.delay-compact-file.path={} on Prometheus 3.9 or later, \
         or equal --storage.tsdb.min-block-duration and --storage.tsdb.max-block-duration",
        progress.display()
    ))
}

/// A duration in milliseconds; what can't be read equals only itself.
fn length(text: &str) -> Result<i64, &str> {
    model::time::parse_duration(text).map_err(|_| text)
}

/// A path without `.` and `..`, as far as it can be told without looking.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// The time part of Prometheus's retention, milliseconds: `15d`, `15d or 10GiB`; `None` if only a size is set.
pub(in crate::sidecar) fn retention_ms(text: &str) -> Option<i64> {
    let time = text.split(" or ").next()?;
    model::time::parse_duration(time.trim()).ok().filter(|ms| *ms > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(min: &str, max: &str, delay: &str) -> TsdbFlags {
        TsdbFlags { min_block: min.into(), max_block: max.into(), delay_file: delay.into() }
    }

    #[test]
    fn prometheus_must_wait_or_not_compact() {
        let file = Path::new("/prometheus/thanos.shipper.json");
        let judge = |f: &TsdbFlags, ignore| judge(Some(f), file, ignore);
        assert_eq!(super::judge(None, file, false), Permit::Yes);
        assert_eq!(judge(&flags("2h", "120m", ""), false), Permit::Yes);
        assert_eq!(judge(&flags("2h", "1d12h", "/prometheus/./thanos.shipper.json"), false), Permit::Yes);
        let Permit::No(why) = judge(&flags("2h", "1d12h", ""), false) else { panic!("{:?}", Permit::Yes) };
        assert!(
            why.contains("1d12h") && why.contains("delay-compact-file.path=/prometheus/thanos.shipper.json"),
            "{why}"
        );
        let Permit::Risky(why) = judge(&flags("2h", "1d12h", ""), true) else { panic!("must warn") };
        assert!(why.contains("never reach"), "{why}");
        // A wrong path is worse than none: the flag that ignores block sizes does not help.
        let Permit::No(why) = judge(&flags("2h", "2h", "/data/thanos.shipper.json"), true) else {
            panic!("must refuse")
        };
        assert!(why.contains("/data/thanos.shipper.json") && why.contains("same file"), "{why}");
    }

    #[test]
    fn retention_is_read_as_prometheus_tells_it() {
        assert_eq!(retention_ms("15d"), Some(15 * 86_400_000));
        assert_eq!(retention_ms("1d12h or 10GiB"), Some(36 * 3_600_000));
        assert_eq!(retention_ms("10GiB"), None);
        assert_eq!(retention_ms(""), None);
    }
}
