//! Replica deduplication: the samples of several replicas of one series become one series.
//!
//! The rule, sample by sample: stay with the replica in use while it goes on at its interval. Where it falls silent,
//! take the earliest sample that any replica has, and stay with that one. Go back to the first replica ("home") as
//! soon as it has data again and goes on for a few samples, so that what is chosen at a time depends on the data
//! around it, not on where the query began. A staleness marker counts only if no replica has data around it.
//!
//! Where the consumer reads counters (`rate` and its kin), a change of replica must not look like a reset, nor like a
//! jump: a difference that both replicas had at the same time is taken out by shifting the new replica until its next
//! real reset (histograms in [`super::lifted`]). Values are never changed otherwise, times never.
//!
//! Replicas are read lazily: while home has no gap, no other replica is decoded.

use super::lifted::{Lifted, Pace, moment};
use model::histogram::ResetHint;
use model::sample::{Sample, Value};
use std::sync::Arc;

/// One replica: stretches of samples in ascending time, decoded when asked for.
pub trait Replica {
    /// Why a stretch can't be read.
    type Error;
    /// No sample of the next stretch is earlier than this; `None` if there is no further stretch.
    fn next_from(&self) -> Option<i64>;
    /// Puts the next stretch into `out`, which the caller has cleared. May leave out stretches that are followed by
    /// one that begins at or before `after`. False if there is none.
    fn read(&mut self, after: i64, out: &mut Vec<Sample>) -> Result<bool, Self::Error>;
    /// Least distance of samples around the last stretch, where more are known than it holds.
    fn interval(&self) -> Option<i64> {
        None
    }
}

/// Number of neighbouring distances that the interval is estimated from, on either side.
const WINDOW: usize = 4;
/// Home is used again if this many of its samples follow each other without a gap.
const SETTLED: usize = 5;

struct Cursor<R> {
    replica: R,
    samples: Vec<Sample>,
    at: usize,
    /// The last sample with data that was passed over or given out.
    before: Option<Sample>,
    ended: bool,
}

impl<R: Replica> Cursor<R> {
    fn peek(&self) -> Option<&Sample> {
        self.samples.get(self.at)
    }

    /// Makes [`Cursor::peek`] the first sample later than `t`.
    fn seek(&mut self, t: i64) -> Result<(), R::Error> {
        loop {
            let passed = match self.samples.get(self.at) {
                // Mostly it is the very next one.
                Some(s) if s.t > t => 0,
                Some(_) => self.samples.get(self.at..).map_or(0, |rest| rest.partition_point(|s| s.t <= t)),
                None => 0,
            };
            if passed > 0 {
                let end = self.at + passed;
                if let Some(s) = self.samples.get(self.at..end).and_then(|p| p.iter().rev().find(|s| !s.v.is_stale())) {
                    self.before = Some(s.clone());
                }
                self.at = end;
            }
            if self.at < self.samples.len() || self.ended {
                return Ok(());
            }
            self.samples.clear();
            self.at = 0;
            self.ended = !self.replica.read(t, &mut self.samples)?;
        }
    }

    /// A time that no later sample is before, without decoding anything.
    fn not_before(&self) -> Option<i64> {
        match self.peek() {
            Some(s) => Some(s.t),
            None if self.ended => None,
            None => self.replica.next_from(),
        }
    }

    /// Reads on until [`Cursor::peek_data`] knows: data may follow a marker in the next stretch.
    fn look_ahead(&mut self) -> Result<(), R::Error> {
        while !self.ended && self.peek_data().is_none() {
            let Some(last) = self.samples.last().map(|s| s.t) else { return Ok(()) };
            let mut more = Vec::new();
            self.ended = !self.replica.read(last, &mut more)?;
            self.samples.extend(more.into_iter().filter(|s| s.t > last));
        }
        Ok(())
    }

    /// The first sample at or behind the cursor that is no staleness marker; looks into what was read only.
    fn peek_data(&self) -> Option<&Sample> {
        self.samples.get(self.at..)?.iter().find(|s| !s.v.is_stale())
    }

    /// Least distance of the samples around the cursor: the interval, unless all of them are gaps. Unknown if there are
    /// too few.
    fn interval(&self) -> Option<i64> {
        let from = self.at.saturating_sub(WINDOW);
        let to = (self.at + WINDOW + 1).min(self.samples.len());
        match self.samples.get(from..to) {
            Some(around) if around.len() > WINDOW => around.windows(2).map(|w| w[1].t - w[0].t).min(),
            _ => self.replica.interval(),
        }
    }

    /// True if the next samples follow each other at `limit` at most.
    fn settled(&self, limit: i64) -> bool {
        let Some(rest) = self.samples.get(self.at..) else { return false };
        let next = rest.get(..SETTLED.min(rest.len())).unwrap_or(rest);
        next.iter().all(|s| !s.v.is_stale()) && next.windows(2).all(|w| w[1].t - w[0].t <= limit)
    }
}

/// The deduplicated series. Feed it the replicas in a stable order: the first is home.
pub struct Dedup<R> {
    cursors: Vec<Cursor<R>>,
    counter: bool,
    end: i64,
    /// Time of the last sample given out, and whether it was data (not a staleness marker).
    last: Option<i64>,
    live: bool,
    used: Option<usize>,
    /// Estimate of the scrape interval: follows smaller values at once, larger ones slowly.
    interval: i64,
    /// What is added to the floats of the replica in use.
    shift: f64,
    /// The last float or histogram given out, as given out.
    last_data: Option<Sample>,
    /// The last float as it was in its replica.
    last_raw: Option<f64>,
    /// When the output last fell for real.
    fell_at: i64,
    pace: Pace,
    /// The same for native histograms.
    lifted: Lifted,
}

impl<R: Replica> Dedup<R> {
    /// With `counter`, values are made fit for functions that read counters. `end` is where the query's range ends.
    pub fn new(replicas: Vec<R>, counter: bool, end: i64) -> Self {
        let cursors = replicas
            .into_iter()
            .map(|replica| Cursor { replica, samples: Vec::new(), at: 0, before: None, ended: false })
            .collect();
        Self {
            cursors,
            counter,
            end,
            last: None,
            live: false,
            used: None,
            interval: 0,
            shift: 0.0,
            last_data: None,
            last_raw: None,
            fell_at: i64::MIN,
            pace: Pace::default(),
            lifted: Lifted::default(),
        }
    }

    /// The next sample; times ascend strictly.
    pub fn next_sample(&mut self) -> Result<Option<Sample>, R::Error> {
        if self.cursors.len() == 1 {
            return self.only();
        }
        let Some((replica, sample)) = self.choose()? else { return Ok(None) };
        self.last = Some(sample.t);
        self.live = !sample.v.is_stale();
        Ok(Some(if self.live { self.adjust(replica, sample) } else { sample }))
    }

    /// All samples, as [`Dedup::next_sample`] gives them.
    pub fn each(mut self, mut give: impl FnMut(Sample)) -> Result<(), R::Error> {
        while let Some(sample) = self.next_sample()? {
            give(sample);
            self.floats(|t, v| give(Sample { t, v: Value::Float(v) }));
        }
        Ok(())
    }

    /// Gives out floats of home for as long as they simply go on, in what is decoded already: the very samples that
    /// [`Dedup::next_sample`] would give, one after the other, at a fraction of the cost.
    fn floats(&mut self, mut give: impl FnMut(i64, f64)) {
        let most = self.tolerance();
        let (Some(c), Some(0), true) = (self.cursors.first_mut(), self.used, self.live && self.shift == 0.0) else {
            return;
        };
        let (Some(Sample { t: last_t, v: Value::Float(last) }), Some(_)) = (&mut self.last_data, self.last_raw) else {
            return;
        };
        // The sample at the cursor is the last one given out, unless a marker stood before that.
        if c.peek().is_none_or(|s| s.t != *last_t) {
            return;
        }
        while let Some(s) = c.samples.get(c.at + 1) {
            let (t, Value::Float(v)) = (s.t, &s.v) else { break };
            let distance = t.saturating_sub(*last_t);
            // What changes the estimate of the interval is looked at one by one, as are gaps and markers.
            if distance < self.interval || distance > most || s.v.is_stale() {
                break;
            }
            if self.counter {
                self.pace.note(*last, *v, distance);
                if *v < *last {
                    self.fell_at = t;
                }
            }
            c.at += 1;
            (*last_t, *last) = (t, *v);
            give(t, *v);
        }
        (self.last, self.last_raw) = (Some(*last_t), Some(*last));
    }

    fn only(&mut self) -> Result<Option<Sample>, R::Error> {
        let after = self.last.unwrap_or(i64::MIN);
        let Some(c) = self.cursors.first_mut() else { return Ok(None) };
        if c.at >= c.samples.len() {
            c.seek(after)?;
        }
        let next = c.samples.get(c.at).cloned();
        c.at += 1;
        self.last = next.as_ref().map(|s| s.t);
        Ok(next)
    }

    /// A distance above this is a gap.
    fn tolerance(&self) -> i64 {
        self.interval + self.interval / 2
    }

    /// Which sample comes next, and whose.
    fn choose(&mut self) -> Result<Option<(usize, Sample)>, R::Error> {
        let after = self.last.unwrap_or(i64::MIN);
        if let Some(used) = self.used
            && self.live
        {
            self.seek(used, after)?;
            if used > 0
                && let Some(home) = self.back_home(used, after)?
            {
                return Ok(self.cursors.get(home).and_then(Cursor::peek).map(|s| (home, s.clone())));
            }
            if let Some(s) = self.goes_on(used, after) {
                return Ok(Some((used, s)));
            }
        }
        if self.last.is_none()
            && let Some(home) = self.first()?
        {
            return Ok(Some((0, home)));
        }
        // The beginning, a gap, a staleness marker or the end: ask everybody.
        for i in 0..self.cursors.len() {
            self.seek(i, after)?;
            if !self.live && self.last.is_some() {
                // Markers behind a marker say nothing new.
                while let Some(t) = self.cursors.get(i).and_then(Cursor::peek).filter(|s| s.v.is_stale()).map(|s| s.t) {
                    self.seek(i, t)?;
                }
            }
        }
        self.leave_the_end(after)?;
        for c in &mut self.cursors {
            c.look_ahead()?;
        }
        Ok(self.earliest())
    }

    /// Where the replica in use ends at the end of the query's range, its next scrape is only not there yet: samples
    /// that others have in the meantime are no news. Once it is overdue, this is a gap like any other.
    fn leave_the_end(&mut self, after: i64) -> Result<(), R::Error> {
        let ended = self.used.and_then(|u| self.cursors.get(u)).is_some_and(|c| c.peek().is_none());
        let due = after.saturating_add(self.interval).saturating_add(self.interval / 8);
        if !self.live || !ended || due <= self.end {
            return Ok(());
        }
        for i in 0..self.cursors.len() {
            while let Some(s) = self.cursors.get(i).and_then(Cursor::peek).filter(|s| !s.v.is_stale()) {
                let t = s.t;
                self.seek(i, t)?;
            }
        }
        Ok(())
    }

    fn seek(&mut self, i: usize, after: i64) -> Result<(), R::Error> {
        match self.cursors.get_mut(i) {
            Some(c) => c.seek(after),
            None => Ok(()),
        }
    }

    /// The next sample of the replica in use, if there is no gap before it.
    fn goes_on(&mut self, used: usize, after: i64) -> Option<Sample> {
        let c = self.cursors.get(used)?;
        let s = c.peek()?;
        if s.v.is_stale() {
            return None;
        }
        let distance = s.t.saturating_sub(after);
        if distance > self.tolerance() {
            let found = c.interval()?;
            if found < self.interval || self.interval == 0 {
                self.interval = found;
            } else {
                self.interval += (found - self.interval + 7) / 8;
            }
            if distance > self.interval + self.interval / 2 {
                return None;
            }
        } else if distance < self.interval {
            self.interval = distance;
        }
        Some(s.clone())
    }

    /// A replica before the one in use that has data again and goes on.
    fn back_home(&mut self, used: usize, after: i64) -> Result<Option<usize>, R::Error> {
        let limit = self.tolerance();
        let until = after.saturating_add(limit);
        for i in 0..used {
            if self.cursors.get(i).and_then(Cursor::not_before).is_none_or(|t| t > until) {
                continue;
            }
            self.seek(i, after)?;
            if let Some(c) = self.cursors.get(i)
                && c.peek().is_some_and(|s| s.t <= until)
                && c.settled(limit)
            {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// Home's first sample, unless another replica begins more than an interval earlier.
    fn first(&mut self) -> Result<Option<Sample>, R::Error> {
        self.seek(0, i64::MIN)?;
        let Some(home) = self.cursors.first() else { return Ok(None) };
        let Some(first) = home.peek().filter(|s| !s.v.is_stale()).cloned() else { return Ok(None) };
        self.interval = home.interval().unwrap_or(0);
        for decode in [false, true] {
            if decode {
                for i in 1..self.cursors.len() {
                    self.seek(i, i64::MIN)?;
                }
            }
            let known = self.cursors.iter().filter_map(Cursor::interval).min();
            self.interval = known.unwrap_or(0);
            let others = self.cursors.iter().skip(1).filter_map(Cursor::not_before).min();
            if others.is_none_or(|t| t >= first.t.saturating_sub(self.interval)) {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    /// The earliest data of all replicas, or the earliest staleness marker if data is further away than a gap.
    fn earliest(&self) -> Option<(usize, Sample)> {
        let cursors = self.cursors.iter().enumerate();
        let data = cursors.clone().filter_map(|(i, c)| c.peek_data().map(|s| (i, s))).min_by_key(|(i, s)| (s.t, *i));
        let stale = cursors
            .filter_map(|(i, c)| c.peek().filter(|s| s.v.is_stale()).map(|s| (i, s)))
            .min_by_key(|(i, s)| (s.t, *i));
        let chosen = match (data, stale) {
            (Some(d), Some(s)) if self.live && d.1.t > s.1.t.saturating_add(self.tolerance()) => Some(s),
            (Some(d), _) => Some(d),
            (None, s) => s,
        };
        chosen.map(|(i, s)| (i, s.clone()))
    }

    /// What is given out for a sample of data.
    fn adjust(&mut self, replica: usize, mut s: Sample) -> Sample {
        let changed = self.used.is_some_and(|u| u != replica);
        let before = if changed { self.cursors.get(replica).and_then(|c| c.before.clone()) } else { None };
        match &mut s.v {
            Value::Float(v) => {
                let raw = *v;
                if self.counter {
                    if changed {
                        self.shift = self.shift_for(s.t, raw, before.as_ref());
                    } else if let (Some(l), Some(last)) = (self.last_raw, &self.last_data) {
                        if raw < l {
                            self.shift = 0.0;
                        }
                        self.pace.note(l, raw, s.t.saturating_sub(last.t));
                    }
                    if self.shift != 0.0 {
                        *v = raw + self.shift;
                        // It may still be a moment behind the one before it.
                        if let Some(Sample { v: Value::Float(last), .. }) = self.last_data {
                            *v = v.max(last);
                        }
                    }
                    if let Some(Sample { v: Value::Float(l), .. }) = &self.last_data
                        && *v < *l
                    {
                        self.fell_at = s.t;
                    }
                }
                self.last_raw = Some(raw);
                self.lifted.forget();
            }
            Value::Histogram(h) => {
                if self.counter && h.reset_hint != ResetHint::Gauge {
                    let change = changed.then(|| match &before {
                        Some(Sample { t, v: Value::Histogram(b) }) => Some((*t, b.as_ref())),
                        _ => None,
                    });
                    *h = self.lifted.lift(s.t, Arc::clone(h), change, self.interval);
                } else if changed && !matches!(h.reset_hint, ResetHint::Gauge | ResetHint::Unknown) {
                    Arc::make_mut(h).reset_hint = ResetHint::Unknown;
                }
                (self.last_raw, self.shift) = (None, 0.0);
            }
        }
        self.used = Some(replica);
        self.last_data = Some(s.clone());
        s
    }

    /// What to add to a replica that takes over at `t` with the value `raw`, so that the series goes on as that replica
    /// did; `before` is that replica's own last sample not later than the last one given out.
    fn shift_for(&self, t: i64, raw: f64, before: Option<&Sample>) -> f64 {
        let Some(Sample { t: last_t, v: Value::Float(last) }) = self.last_data else { return 0.0 };
        // One that reads what the replica in use reads is lifted as that was.
        let plausible = |l: f64| self.pace.reaches(l, raw, t.saturating_sub(last_t));
        let alike = self.shift != 0.0 && self.last_raw.is_some_and(plausible);
        let lift = match raw < last {
            _ if alike => self.shift,
            true => last - raw,
            false => 0.0,
        };
        let shift = match before {
            Some(Sample { t: before_t, v: Value::Float(before) }) => {
                // One that was silent while a reset was shown has had it, too, though it may have counted beyond its last value.
                let passed = self.fell_at > *before_t && t.saturating_sub(self.fell_at) > self.interval;
                if raw < *before || passed {
                    let hidden = |l: f64| self.shift != 0.0 && (raw - l).abs() < (before - l).abs();
                    if self.last_raw.is_some_and(hidden) {
                        // The replica in use had this reset before it was looked at, and was lifted over it.
                        self.shift.max(lift)
                    } else if self.fell_at > *before_t {
                        // It was shown already, from another replica.
                        lift
                    } else {
                        0.0
                    }
                } else if *before - last <= (raw - before) * moment(self.interval, t - before_t) {
                    // The usual case, where both read the same counter: nothing to do, or a moment behind.
                    lift
                } else {
                    // Ahead already before the change: it goes on from the last value at its own pace.
                    let share = (t - last_t) as f64 / (t - before_t) as f64;
                    last + (raw - before) * share - raw
                }
            }
            _ => lift,
        };
        if shift == 0.0 || !shift.is_finite() {
            return 0.0;
        }
        // Rounding must not let the sum come out below the last value: that would be a reset.
        if raw + shift < last { shift + (last.next_up() - last) } else { shift }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use model::FloatHistogram;
    use model::sample::{STALE_NAN_BITS, stale_nan};
    use proptest::prelude::*;

    /// Decoded stretches, as a replica; counts how many were read.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Fake(std::collections::VecDeque<Vec<Sample>>);

    impl Replica for Fake {
        type Error = std::convert::Infallible;
        fn next_from(&self) -> Option<i64> {
            self.0.front().map(|s| s[0].t)
        }
        fn read(&mut self, _after: i64, out: &mut Vec<Sample>) -> Result<bool, Self::Error> {
            Ok(self.0.pop_front().map(|s| out.extend(s)).is_some())
        }
    }

    impl Fake {
        pub(crate) fn new(samples: &[Sample], stretch: usize) -> Self {
            Self(samples.chunks(stretch).map(<[Sample]>::to_vec).collect())
        }
    }

    pub(crate) fn replica(samples: &[(i64, f64)], stretch: usize) -> Fake {
        let s: Vec<Sample> = samples.iter().map(|(t, v)| Sample { t: *t, v: Value::Float(*v) }).collect();
        Fake::new(&s, stretch)
    }

    fn run(replicas: Vec<Fake>, counter: bool) -> Vec<(i64, f64)> {
        run_to(replicas, counter, i64::MAX)
    }

    fn run_to(replicas: Vec<Fake>, counter: bool, end: i64) -> Vec<(i64, f64)> {
        let float = |s: &Sample| {
            let Value::Float(v) = s.v else { panic!("a float went in") };
            (s.t, v)
        };
        in_both_ways(replicas, counter, end).iter().map(float).collect()
    }

    /// Reads one by one, and in runs, which must be the same.
    pub(crate) fn in_both_ways(replicas: Vec<Fake>, counter: bool, end: i64) -> Vec<Sample> {
        let mut d = Dedup::new(replicas.clone(), counter, end);
        let one_by_one: Vec<Sample> = std::iter::from_fn(|| d.next_sample().unwrap()).collect();
        let mut in_runs = Vec::with_capacity(one_by_one.len());
        Dedup::new(replicas, counter, end).each(|s| in_runs.push(s)).unwrap();
        let same = |(a, b): (&Sample, &Sample)| match (&a.v, &b.v) {
            (Value::Float(v), Value::Float(w)) => (a.t, v.to_bits()) == (b.t, w.to_bits()),
            _ => a == b,
        };
        let all = one_by_one.len() == in_runs.len() && one_by_one.iter().zip(&in_runs).all(same);
        assert!(all, "one by one {one_by_one:?}, in runs {in_runs:?}");
        in_runs
    }

    /// `n` samples every 15 from `from`, valued by time.
    fn every15(from: i64, n: i64) -> Vec<(i64, f64)> {
        (0..n).map(|i| (from + 15 * i, (from + 15 * i) as f64)).collect()
    }

    #[test]
    fn stays_with_home_and_leaves_the_others_unread() {
        let (a, b) = (every15(0, 100), every15(7, 100));
        let mut d = Dedup::new(vec![replica(&a, 10), replica(&b, 10)], false, 15 * 100);
        for want in &a {
            assert_eq!(d.next_sample().unwrap().unwrap().t, want.0);
        }
        assert_eq!(d.cursors[1].replica.0.len(), 10, "nothing of the second replica was decoded");
        // Home ends; that the second has one sample more is no news.
        assert!(d.next_sample().unwrap().is_none());
    }

    #[test]
    fn fills_a_gap_and_returns_home() {
        let mut a = every15(0, 40);
        a.drain(10..20); // silent from 135 to 300
        let out = run_to(vec![replica(&a, 7), replica(&every15(7, 40), 9)], false, 595);
        let times: Vec<i64> = out.iter().map(|s| s.0).collect();
        let b_used: Vec<i64> = times.iter().copied().filter(|t| t % 15 == 7).collect();
        assert_eq!(b_used, (0..11).map(|i| 142 + 15 * i).collect::<Vec<_>>());
        assert!(times.windows(2).all(|w| w[1] - w[0] <= 22), "{times:?}");
    }

    #[test]
    fn a_staleness_marker_counts_only_when_no_replica_has_data() {
        let mut a = every15(0, 10);
        a.push((150, stale_nan()));
        let b = every15(7, 20);
        let out = run(vec![replica(&a, 100), replica(&b, 100)], false);
        assert!(out.iter().all(|(_, v)| v.to_bits() != STALE_NAN_BITS), "{out:?}");
        assert_eq!(out.last().unwrap().0, 292);
        // Both go stale, later both come back: one marker, no data lost.
        let mut b = every15(7, 10);
        b.push((157, stale_nan()));
        let mut a2 = a.clone();
        a2.extend(every15(600, 3));
        b.extend(every15(607, 3));
        let out = run_to(vec![replica(&a2, 11), replica(&b, 11)], false, 640);
        let stale: Vec<i64> = out.iter().filter(|(_, v)| v.to_bits() == STALE_NAN_BITS).map(|(t, _)| *t).collect();
        assert_eq!(stale, [150], "{out:?}");
        assert_eq!(out.iter().map(|s| s.0).skip(12).collect::<Vec<_>>(), [600, 615, 630]);
    }

    #[test]
    fn counters_neither_fall_nor_jump_at_a_change() {
        // The second replica reads a counter of its own, far above; then one a moment behind.
        let mut a: Vec<(i64, f64)> = (0..40).map(|i| (15 * i, 100.0 + i as f64)).collect();
        a.drain(10..20);
        let above: Vec<(i64, f64)> = (0..40).map(|i| (7 + 15 * i, 90_000.0 + i as f64)).collect();
        let behind: Vec<(i64, f64)> = (0..40).map(|i| (7 + 15 * i, 98.0 + i as f64)).collect();
        for b in [above, behind] {
            let out = run(vec![replica(&a, 7), replica(&b, 9)], true);
            assert!(out.windows(2).all(|w| w[1].1 >= w[0].1 && w[1].1 - w[0].1 <= 2.0), "{out:?}");
        }
        // A real reset in the gap stays one.
        let b: Vec<(i64, f64)> =
            (0..40).map(|i| (7 + 15 * i, if i < 15 { 100.0 + i as f64 } else { i as f64 - 15.0 })).collect();
        let out = run(vec![replica(&a[..10], 7), replica(&b, 9)], true);
        assert_eq!(out.windows(2).filter(|w| w[1].1 < w[0].1).count(), 1, "{out:?}");
    }

    #[test]
    fn a_reset_that_a_replica_was_lifted_over_is_not_shown_again() {
        // Reset at 105, while both are silent; the second one begins after it, and the first comes back later.
        let counted = |i: i64| if i < 7 { 100.0 + i as f64 } else { i as f64 - 7.0 };
        let a: Vec<(i64, f64)> = (0..60).filter(|i| !(7..30).contains(i)).map(|i| (15 * i, counted(i))).collect();
        let b: Vec<(i64, f64)> = (10..28).map(|i| (7 + 15 * i, counted(i))).collect();
        let out = run(vec![replica(&a, 7), replica(&b, 9)], true);
        let grown: f64 = out.windows(2).map(|w| if w[1].1 < w[0].1 { w[1].1 } else { w[1].1 - w[0].1 }).sum();
        assert!((54.0..=59.0).contains(&grown), "it counted 59 in this time, not {grown}: {out:?}");
    }

    #[test]
    fn a_replica_that_counts_from_elsewhere_and_was_silent_does_not_jump() {
        // The second one is ahead by 440, was silent for long, and comes back in the moment in which the first one falls silent.
        let a: Vec<(i64, f64)> = (0..80).filter(|i| !(68..74).contains(i)).map(|i| (15 * i, 15.0 * i as f64)).collect();
        let b = (0..80).filter(|i| !(51..68).contains(i)).map(|i| (15 * i, 15.0 * i as f64 + 440.0));
        let out = run(vec![replica(&a, 1), replica(&b.collect::<Vec<_>>(), 1)], true);
        assert!(out.windows(2).all(|w| (0.0..=45.0).contains(&(w[1].1 - w[0].1))), "{out:?}");
    }

    #[test]
    fn data_behind_a_marker_at_the_end_of_a_stretch_is_seen() {
        let a: Vec<(i64, f64)> = [0, 15, 30, 94, 109].map(|t| (t, 1.0)).into();
        let mut b: Vec<(i64, f64)> = [1, 16, 31, 46, 61, 76, 91].map(|t| (t, 1.0)).into();
        b[5].1 = stale_nan();
        let out = run(vec![replica(&a, 9), replica(&b, 6)], false);
        assert!(out.iter().any(|s| s.0 == 91), "{out:?}");
    }

    #[test]
    fn histograms_lose_the_reset_hint_at_a_change_and_do_not_fall() {
        let h = |t: i64, count: f64| Sample {
            t,
            v: Value::Histogram(Arc::new(FloatHistogram {
                count,
                reset_hint: ResetHint::NotReset,
                ..Default::default()
            })),
        };
        let a: Vec<Sample> = (0..10).map(|i| h(15 * i, 100.0 + i as f64)).collect();
        let b: Vec<Sample> = (0..30).map(|i| h(7 + 15 * i, 99.0 + i as f64)).collect();
        let mut d = Dedup::new(vec![Fake([a].into()), Fake([b].into())], true, i64::MAX);
        let mut out = Vec::new();
        while let Some(s) = d.next_sample().unwrap() {
            let Value::Histogram(h) = s.v else { panic!("histograms went in") };
            out.push((s.t, h.count, h.reset_hint));
        }
        assert!(out.windows(2).all(|w| w[1].1 >= w[0].1), "{out:?}");
        let unknown: Vec<i64> = out.iter().filter(|s| s.2 == ResetHint::Unknown).map(|s| s.0).collect();
        assert_eq!(unknown.len(), 1, "{out:?}");
        assert_eq!(out.last().unwrap().0, 7 + 15 * 29);
    }

    const STEP: i64 = 15_000;
    const JITTER: i64 = 200;

    /// A schedule: a scrape every [`STEP`] with a phase and jitter, silent in some stretches.
    #[derive(Clone, Debug)]
    struct Schedule {
        phase: i64,
        latency: i64,
        own: f64,
        jitter: Vec<i64>,
        silent: Vec<(usize, usize)>,
        stretch: usize,
    }

    fn schedule() -> impl Strategy<Value = Schedule> {
        (
            0..STEP,
            0i64..900,
            prop_oneof![Just(0.0), Just(0.0), 0.0f64..100_000.0],
            proptest::collection::vec(-50i64..50, 80),
            proptest::collection::vec((0usize..80, 1usize..20), 0..4),
            1usize..40,
        )
            .prop_map(|(phase, latency, own, jitter, silent, stretch)| Schedule {
                phase,
                latency,
                own,
                jitter,
                silent,
                stretch,
            })
    }

    impl Schedule {
        fn times(&self) -> Vec<i64> {
            let on = |i: &usize| !self.silent.iter().any(|(from, n)| (*from..from + n).contains(i));
            (0..80usize).filter(on).map(|i| i as i64 * STEP + self.phase + self.jitter[i]).collect()
        }
    }

    /// A counter that grows by about 1 per second and restarts at `resets`.
    fn counter(t: i64, resets: &[i64]) -> f64 {
        let since = resets.iter().copied().filter(|r| *r <= t).max().unwrap_or(-1_000_000);
        ((t - since) / 1000) as f64
    }

    fn data(s: &Schedule, value: impl Fn(i64) -> f64) -> Vec<(i64, f64)> {
        s.times().into_iter().map(|t| (t, value(t))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_invented_and_no_gap_is_left(schedules in proptest::collection::vec(schedule(), 1..4)) {
            let all: Vec<Vec<(i64, f64)>> = schedules.iter().enumerate()
                .map(|(i, s)| data(s, |t| t as f64 + i as f64 / 10.0)).collect();
            let out = run(schedules.iter().zip(&all).map(|(s, d)| replica(d, s.stretch)).collect(), false);
            if all.len() == 1 {
                prop_assert_eq!(&out, &all[0]);
            }
            for w in out.windows(2) {
                prop_assert!(w[0].0 < w[1].0, "times ascend: {:?}", w);
            }
            let union: std::collections::BTreeMap<i64, Vec<f64>> = all.iter().flatten()
                .fold(Default::default(), |mut m: std::collections::BTreeMap<i64, Vec<f64>>, (t, v)| { m.entry(*t).or_default().push(*v); m });
            for (t, v) in &out {
                prop_assert!(union.get(t).is_some_and(|all| all.contains(v)), "{t} {v} is nobody's");
            }
            let edges = [i64::MIN].into_iter().chain(out.iter().map(|s| s.0)).chain([i64::MAX]).collect::<Vec<_>>();
            for w in edges.windows(2) {
                let inside: Vec<i64> = union.range((std::ops::Bound::Excluded(w[0]), std::ops::Bound::Excluded(w[1]))).map(|e| *e.0).collect();
                if w[1] == i64::MAX {
                    prop_assert!(inside.is_empty(), "the end is missing: {inside:?}");
                } else if w[0] == i64::MIN {
                    prop_assert!(inside.iter().all(|t| w[1] - t <= STEP * 2), "the beginning is missing: {inside:?}");
                } else if w[1] - w[0] > 2 * STEP + JITTER {
                    // What comes right after a sample fills no gap.
                    let inside: Vec<&i64> = inside.iter().filter(|t| **t - w[0] > STEP + JITTER).collect();
                    prop_assert!(inside.is_empty(), "gap {} to {} though there was data: {inside:?}", w[0], w[1]);
                }
            }
        }

        #[test]
        fn counters_grow_as_the_replicas_do(
            schedules in proptest::collection::vec(schedule(), 1..4),
            resets in proptest::collection::vec(0i64..80 * STEP, 0..3),
        ) {
            let all: Vec<Vec<(i64, f64)>> = schedules.iter()
                .map(|s| data(s, |t| counter(t - s.latency, &resets) + s.own)).collect();
            let out = run(schedules.iter().zip(&all).map(|(s, d)| replica(d, s.stretch)).collect(), true);
            let falls = |d: &[(i64, f64)]| d.windows(2).filter(|w| w[1].1 < w[0].1).map(|w| (w[0].0, w[1].0)).collect::<Vec<_>>();
            let real: Vec<(i64, i64)> = all.iter().flat_map(|d| falls(d)).collect();
            for (from, to) in falls(&out) {
                prop_assert!(real.iter().any(|(f, t)| *f <= to && *t >= from), "a fall between {from} and {to} that no replica had");
            }
            // It grows no faster than time does, plus one scrape's worth per change of replica.
            let mut base = out.first().copied().unwrap_or_default();
            let changes = 2.0 * schedules.iter().map(|s| s.silent.len() + 1).sum::<usize>() as f64;
            for w in out.windows(2) {
                let reset_near = resets.iter().any(|r| *r <= w[1].0 + STEP && *r >= w[0].0 - 40 * STEP);
                // Nothing can be known of a replica that begins here.
                let begins = all.iter().any(|d| d.first().is_some_and(|f| w[0].0 < f.0 && f.0 <= w[1].0));
                if reset_near || begins {
                    base = w[1];
                    continue;
                }
                let most = ((w[1].0 - base.0) as f64 + changes * 2.0 * STEP as f64) / 1000.0;
                prop_assert!(w[1].1 - base.1 <= most, "grew by {} from {} to {}", w[1].1 - base.1, base.0, w[1].0);
            }
        }
    }
}
