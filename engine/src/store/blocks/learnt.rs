//! What is learnt of a block while it is served: what is wrong with it, and sizes that its meta.json does not tell.

use crate::store::ranges::File;
use std::collections::BTreeMap;
use std::time::Duration;

/// First delay before a damaged block is tried again; doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// How long a part that can't be read is told after it was met last.
const FLAW_TOLD: Duration = Duration::from_secs(24 * 3600);

/// What is learnt of one block. Times are those of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// It can't be used.
    pub(super) damage: Option<Damage>,
    /// A part of it can't be read, and when that was met last.
    flaw: Option<(String, Duration)>,
    /// Bytes of its files, as the bucket said.
    pub(super) sizes: BTreeMap<File, u64>,
}

/// Why a block can't be used.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    /// What, where.
    pub(super) reason: String,
    /// When it may be tried again.
    pub(super) retry_at: Duration,
    /// How often it was tried.
    tries: u32,
    /// Its index-header can't be made. Else an object is missing: an index-header that lies on disk says nothing about that.
    of_header: bool,
}

impl Damage {
    pub(super) fn is_of_header(&self) -> bool {
        self.of_header
    }
}

impl Learnt {
    /// It can't be used, for this reason: left alone for a while, longer each time.
    pub(super) fn damage(&mut self, reason: &str, of_header: bool, now: Duration) {
        let tries = self.damage.as_ref().map_or(0, |d| d.tries);
        let retry_at = now + RETRY.saturating_mul(1 << tries.min(10)).min(RETRY_MAX);
        self.damage = Some(Damage { reason: reason.to_owned(), retry_at, tries: tries.saturating_add(1), of_header });
    }

    /// A part of it can't be read. The first reason stays, as long as such are met.
    pub(super) fn flaw(&mut self, reason: &str, now: Duration) {
        match &mut self.flaw {
            Some((_, at)) if now.saturating_sub(*at) < FLAW_TOLD => *at = now,
            flaw => *flaw = Some((reason.to_owned(), now)),
        }
    }

    /// Why it is not to be tried now.
    pub(super) fn shut(&self, now: Duration) -> Option<&str> {
        self.damage.as_ref().filter(|d| d.retry_at > now).map(|d| d.reason.as_str())
    }

    /// What is wrong with it, all of it or a part.
    pub(super) fn wrong(&self, now: Duration) -> Option<&str> {
        let flaw = self.flaw.as_ref().filter(|(_, at)| now.saturating_sub(*at) < FLAW_TOLD);
        self.damage.as_ref().map(|d| &d.reason).or(flaw.map(|(reason, _)| reason)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_shuts_longer_each_time_and_a_flaw_is_told_for_a_day() {
        let (mut learnt, s) = (Learnt::default(), Duration::from_secs);
        learnt.damage("an object is missing", false, s(0));
        assert!(learnt.shut(s(59)).is_some() && learnt.shut(s(60)).is_none() && learnt.wrong(s(60)).is_some());
        learnt.damage("an object is missing", false, s(60));
        assert!(learnt.shut(s(179)).is_some() && learnt.shut(s(180)).is_none());
        for _ in 0..20 {
            learnt.damage("again", false, s(1000));
        }
        assert!(learnt.shut(s(4599)).is_some() && learnt.shut(s(4600)).is_none());
        let mut learnt = Learnt::default();
        learnt.flaw("chunk 1", s(0));
        learnt.flaw("chunk 2", s(80_000));
        assert_eq!((learnt.wrong(s(160_000)), learnt.shut(s(80_000))), (Some("chunk 1"), None));
        assert_eq!(learnt.wrong(s(80_000 + 86_400)), None);
    }
}
