//! Native histograms of replicas that take turns: as for floats, a change of replica must not look like a reset, nor hide what
//! is counted after it.

use model::FloatHistogram;
use model::histogram::{Accumulator, ResetHint, detect_reset};
use std::sync::Arc;

/// By how much two reads of one counter may be apart that were scraped at the same time, milliseconds of counting.
const LATENCY: i64 = 1_000;

/// How fast a counter was seen to count.
#[derive(Default)]
pub(super) struct Pace {
    /// The most, per millisecond.
    most: f64,
}

impl Pace {
    /// Takes note of a replica's values, so many milliseconds apart.
    pub(super) fn note(&mut self, from: f64, to: f64, ms: i64) {
        if ms > 0 {
            self.most = self.most.max((to - from) / ms as f64);
        }
    }

    /// True if one replica may have shown `from` and another one `to`, so many milliseconds later, of the same counter.
    pub(super) fn reaches(&self, from: f64, to: f64, ms: i64) -> bool {
        to - from <= 2.0 * self.most * ms as f64 && from - to <= 2.0 * self.most * LATENCY as f64
    }
}

/// Which part of a distance two scrapes are, all of it at most: by what is counted in that time replicas of one counter differ.
pub(super) fn moment(interval: i64, distance: i64) -> f64 {
    let two = interval.saturating_mul(2);
    if distance <= two { 1.0 } else { two as f64 / distance as f64 }
}

/// What is done to the histograms of the replica in use.
#[derive(Default)]
pub(super) struct Lifted {
    /// Given out is `base` and what has been counted since `origin`, until the replica's next reset.
    over: Option<Over>,
    /// The replica's last one, as it was.
    raw: Option<Arc<FloatHistogram>>,
    /// The last one given out, and when.
    last: Option<(i64, Arc<FloatHistogram>)>,
    /// When what was given out last fell.
    fell_at: i64,
    pace: Pace,
}

struct Over {
    base: Arc<FloatHistogram>,
    origin: Arc<FloatHistogram>,
}

impl Lifted {
    /// A float came in between: what follows begins anew.
    pub(super) fn forget(&mut self) {
        if self.last.is_some() {
            *self = Self::default();
        }
    }

    /// What is given out for `h` at `t`. `change`: it is of another replica than the one before, with that replica's own
    /// histogram before it, if it is known. A scrape is `interval` after the one before, milliseconds.
    pub(super) fn lift(
        &mut self,
        t: i64,
        h: Arc<FloatHistogram>,
        change: Option<Option<(i64, &FloatHistogram)>>,
        interval: i64,
    ) -> Arc<FloatHistogram> {
        let out = match change {
            None => {
                if let (Some(raw), Some((last_t, _))) = (&self.raw, &self.last) {
                    self.pace.note(raw.count, h.count, t.saturating_sub(*last_t));
                }
                self.goes_on(&h)
            }
            Some(before) => {
                let plain = unknown(&h);
                let last = self.last.as_ref().map(|(_, last)| unknown(last));
                // A replica that was silent while a reset was shown has had it, too.
                let passed = |before_t| self.fell_at > before_t && t.saturating_sub(self.fell_at) > interval;
                let before = before.map(|(t, b)| (t, b, detect_reset(&plain, b) || passed(t)));
                self.over = last.and_then(|last| self.over((t, interval), &plain, last, before));
                match &self.over {
                    Some(over) => sum(over, &plain, ResetHint::Unknown).unwrap_or(plain),
                    None => plain,
                }
            }
        };
        if self.last.as_ref().is_some_and(|(_, last)| detect_reset(&out, last)) {
            self.fell_at = t;
        }
        self.raw = Some(h);
        self.last = Some((t, Arc::clone(&out)));
        out
    }

    fn goes_on(&mut self, h: &Arc<FloatHistogram>) -> Arc<FloatHistogram> {
        let Some(over) = &self.over else { return Arc::clone(h) };
        if !self.raw.as_ref().is_some_and(|raw| detect_reset(h, raw))
            && let Some(out) = sum(over, h, ResetHint::NotReset)
        {
            return out;
        }
        self.over = None;
        unknown(h)
    }

    /// How a replica is to be lifted that takes over at `t` with `h` after `last` was given out; `before` is its own last one, when that was,
    /// and whether it was reset since.
    fn over(
        &self,
        (t, interval): (i64, i64),
        h: &Arc<FloatHistogram>,
        last: Arc<FloatHistogram>,
        before: Option<(i64, &FloatHistogram, bool)>,
    ) -> Option<Over> {
        let hidden = |raw: &Arc<FloatHistogram>, before: &FloatHistogram| {
            (h.count - raw.count).abs() < (before.count - raw.count).abs()
        };
        // One that reads what the replica in use reads is lifted as that was.
        let since = self.last.as_ref().map_or(0, |(last_t, _)| t.saturating_sub(*last_t));
        let used = self.raw.as_ref().filter(|_| self.over.is_some());
        let alike = used.filter(|raw| self.pace.reaches(raw.count, h.count, since) && !detect_reset(h, raw));
        let lift = |base| Some(Over { base, origin: Arc::clone(alike.unwrap_or(h)) });
        let fallen = alike.is_some() || detect_reset(h, &last);
        let Some((before_t, before, reset)) = before else {
            // Of one that begins it is not known whether it is behind or reset.
            return if fallen { lift(last) } else { None };
        };
        if !reset {
            // Behind, or not reset yet where that was shown already: both have caught up by the next scrape.
            let ahead =
                before.count - last.count > (h.count - before.count) * moment(interval, t.saturating_sub(before_t));
            return if fallen || ahead { lift(last) } else { None };
        }
        match &self.raw {
            // The replica in use had this reset before it was looked at, and was lifted over it.
            Some(raw) if self.over.is_some() && hidden(raw, before) => lift(last),
            // It was shown already, from another replica.
            _ if self.fell_at > before_t && fallen => lift(last),
            _ => None,
        }
    }
}

fn sum(over: &Over, h: &FloatHistogram, hint: ResetHint) -> Option<Arc<FloatHistogram>> {
    let mut all = Accumulator::new(&over.base);
    all.add(h).ok()?;
    all.sub(&over.origin).ok()?;
    Some(Arc::new(FloatHistogram { reset_hint: hint, ..all.finish() }))
}

/// The same without a word about resets.
fn unknown(h: &Arc<FloatHistogram>) -> Arc<FloatHistogram> {
    match h.reset_hint {
        ResetHint::Unknown => Arc::clone(h),
        _ => Arc::new(FloatHistogram { reset_hint: ResetHint::Unknown, ..FloatHistogram::clone(h) }),
    }
}
