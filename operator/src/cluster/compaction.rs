//! What keeps Prometheus from compacting a block before the sidecar has uploaded it: else it would upload neither, because
//! compacted blocks stay out of the bucket.

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// Nothing is uploaded, so nothing has to be kept.
    Free,
    /// Prometheus reads from the sidecar's file which blocks are uploaded, and compacts only those.
    Delayed,
    /// Prometheus is too old for that file: all blocks have one length, so there is nothing to compact.
    Off,
}

impl Compaction {
    /// `uploads`: there is a bucket. `version` is Prometheus's, as `3.14.0`; the file is known since 3.9.
    pub(crate) fn choose(uploads: bool, version: &str) -> Self {
        let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        match uploads {
            false => Self::Free,
            true if (parts.next(), parts.next()) >= (Some(3), Some(9)) => Self::Delayed,
            true => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_version() {
        assert_eq!(Compaction::choose(false, "3.14.0"), Compaction::Free);
        for version in ["3.9.0", "3.14.0", "3.9.0-rc.1", "4.0.0"] {
            assert_eq!(Compaction::choose(true, version), Compaction::Delayed, "{version}");
        }
        for version in ["3.0.0", "3.8.9"] {
            assert_eq!(Compaction::choose(true, version), Compaction::Off, "{version}");
        }
    }
}
