//! Thanos's `penalty`: of two replicas one is followed while it goes on; the other one has to wait for twice the last distance
//! before it may come in (0.42.4, `pkg/dedup`). It leaves a hole where a replica has a gap, though the other one has data: see
//! `engine::query::dedup` for a rule that does not. [`Turns`] says whose turn it is; the querier asks it sample by sample, and
//! [`fold`] walks whole runs of samples with it, as a compactor wants them.

/// How long the replica that is not taken first has to wait, in ms.
const FIRST: i64 = 5_000;

/// One of two replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first: of equal times its sample counts.
    A,
    /// The second.
    B,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Time of the sample that was taken last.
    last: Option<i64>,
    /// How long each has to wait, in ms.
    wait: (i64, i64),
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

impl Turns {
    /// Before the first sample.
    pub fn new() -> Self {
        Self { last: None, wait: (0, 0) }
    }

    /// Behind two samples of the first replica, at the times `before` and `last`.
    fn behind(before: i64, last: i64) -> Self {
        Self { last: Some(last), wait: (0, last.saturating_sub(before).saturating_mul(2)) }
    }

    /// The time from which on each replica's next sample counts.
    pub fn from(&self) -> (i64, i64) {
        let last = self.last.unwrap_or(i64::MIN).saturating_add(1);
        (last.saturating_add(self.wait.0), last.saturating_add(self.wait.1))
    }

    /// Takes one of the samples at these times, the first of each from [`Turns::from`] on; `None` stands for a replica that has
    /// ended. Gives the side; none if both have ended.
    pub fn take(&mut self, a: Option<i64>, b: Option<i64>) -> Option<Side> {
        let wait = |t: i64| self.last.map_or(FIRST, |last| t.saturating_sub(last).saturating_mul(2));
        let (side, t) = match (a, b) {
            (None, None) => return None,
            (None, Some(t)) => {
                self.wait.1 = 0;
                (Side::B, t)
            }
            (Some(t), None) => {
                self.wait.0 = 0;
                (Side::A, t)
            }
            (Some(a), Some(b)) if a <= b => {
                self.wait = (0, wait(a));
                (Side::A, a)
            }
            (Some(_), Some(b)) => {
                self.wait = (wait(b), 0);
                (Side::B, b)
            }
        };
        self.last = Some(t);
        Some(side)
    }
}

/// A run of samples, as it grows by one replica after the other.
#[derive(Debug)]
pub(super) struct Folded<S> {
    samples: Vec<S>,
    /// Longest distance of two samples in it.
    gap: i64,
}

impl<S: Clone> Folded<S> {
    /// The first replica.
    pub(super) fn new(samples: Vec<S>, time: impl Fn(&S) -> i64) -> Self {
        let gap = longest(&samples, &time);
        Self { samples, gap }
    }

    /// Folds the next replica in: as [`Turns`] says, over all of both. What lies well before the begin of `next` can't be touched by
    /// it, so that the cost of a chunk does not grow with what was before it.
    pub(super) fn fold(&mut self, next: &[S], time: impl Fn(&S) -> i64) {
        let Some(begin) = next.first().map(&time) else { return };
        // Up to there each sample was followed by its waiting time, and the next replica had not begun then.
        let clear = begin.saturating_sub(1).saturating_sub(self.gap.max(FIRST).saturating_mul(3));
        let kept = self.samples.partition_point(|s| time(s) < clear);
        let (kept, mut turns) = match (kept.checked_sub(2).and_then(|i| self.samples.get(i)), kept.checked_sub(1)) {
            (Some(before), Some(i)) => match self.samples.get(i) {
                Some(last) => (kept, Turns::behind(time(before), time(last))),
                None => (0, Turns::new()),
            },
            _ => (0, Turns::new()),
        };
        let old: Vec<S> = self.samples.split_off(kept);
        let (mut a, mut b) = (old.as_slice(), next);
        let seek = |rest: &mut &[S], from: i64| {
            // Mostly it is the very next one.
            while let Some((first, others)) = rest.split_first()
                && time(first) < from
            {
                *rest = others;
            }
        };
        loop {
            let from = turns.from();
            seek(&mut a, from.0);
            seek(&mut b, from.1);
            let taken = match turns.take(a.first().map(&time), b.first().map(&time)) {
                None => break,
                Some(Side::A) => a.first(),
                Some(Side::B) => b.first(),
            };
            self.samples.extend(taken.cloned());
        }
        let touched = self.samples.get(kept.saturating_sub(1)..).unwrap_or_default();
        self.gap = self.gap.max(longest(touched, &time));
    }

    pub(super) fn samples(&self) -> &[S] {
        &self.samples
    }
}

fn longest<S>(samples: &[S], time: impl Fn(&S) -> i64) -> i64 {
    let pairs = samples.iter().zip(samples.iter().skip(1));
    pairs.map(|(a, b)| time(b).saturating_sub(time(a))).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All of it from the begin, as it is written.
    fn plain(a: &[(i64, u32)], b: &[(i64, u32)]) -> Vec<(i64, u32)> {
        let (mut turns, mut i, mut j, mut out) = (Turns::new(), 0, 0, Vec::new());
        loop {
            let from = turns.from();
            while i < a.len() && a[i].0 < from.0 {
                i += 1;
            }
            while j < b.len() && b[j].0 < from.1 {
                j += 1;
            }
            match turns.take(a.get(i).map(|s| s.0), b.get(j).map(|s| s.0)) {
                None => return out,
                Some(Side::A) => out.push(a[i]),
                Some(Side::B) => out.push(b[j]),
            }
        }
    }

    fn replica(number: u32, begin: i64, steps: &[i64]) -> Vec<(i64, u32)> {
        let mut t = begin;
        steps
            .iter()
            .map(|step| {
                t += step;
                (t, number)
            })
            .collect()
    }

    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![20 => Just(15_000i64), 5 => 1i64..20_000, 1 => 60_000i64..2_000_000]
    }

    proptest! {
        #[test]
        fn what_lies_well_before_need_not_be_walked_again(
            replicas in prop::collection::vec((0i64..3_000_000, prop::collection::vec(step(), 0..150)), 1..8)
        ) {
            let mut replicas: Vec<_> = replicas
                .into_iter()
                .enumerate()
                .map(|(n, (begin, steps))| replica(n as u32, begin, &steps))
                .collect();
            replicas.sort_by_key(|r| r.first().map(|s| s.0));
            let mut all = Folded::new(replicas[0].clone(), |s| s.0);
            let mut want = replicas[0].clone();
            for next in &replicas[1..] {
                all.fold(next, |s| s.0);
                want = plain(&want, next);
                prop_assert_eq!(all.samples(), &want[..]);
            }
        }
    }

    #[test]
    fn a_gap_is_filled_late_and_a_close_sample_is_not_taken() {
        let a = replica(0, 0, &[15_000; 4]);
        let b = replica(1, 3_000, &[15_000; 20]);
        let out = plain(&a, &b);
        assert_eq!(&out[..4], &a[..]);
        // Two distances behind the last sample of the first one.
        assert_eq!(out[4], (93_000, 1));
        assert_eq!(Turns::new().take(None, None), None);
    }
}
