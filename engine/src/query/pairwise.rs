//! Thanos's two ways to make one series of replicas, for comparison: `penalty`, which takes two replicas at a time and makes
//! the one that it leaves wait, and `chain`, which takes all samples of all. Both have the gaps and the jumps that
//! [`super::dedup`] is there to avoid.

use super::dedup::Replica;
use model::sample::{Sample, Value};
use tsdb::series::{Side, Turns};

/// One replica, read sample by sample.
struct Leaf<R> {
    replica: R,
    samples: Vec<Sample>,
    at: usize,
    ended: bool,
    counter: bool,
    /// What is added to its floats.
    lift: f64,
}

impl<R: Replica> Leaf<R> {
    fn new(replica: R, counter: bool) -> Self {
        Self { replica, samples: Vec::new(), at: 0, ended: false, counter, lift: 0.0 }
    }

    /// Goes to the first sample at `t` or later, never back; false if there is none.
    fn seek(&mut self, t: i64) -> Result<bool, R::Error> {
        loop {
            let rest = self.samples.get(self.at..).unwrap_or_default();
            self.at += rest.partition_point(|s| s.t < t);
            if self.at < self.samples.len() {
                return Ok(true);
            }
            if self.ended {
                return Ok(false);
            }
            self.samples.clear();
            self.at = 0;
            self.ended = !self.replica.read(t.saturating_sub(1), &mut self.samples)?;
        }
    }

    fn sample(&self) -> Option<Sample> {
        let s = self.samples.get(self.at)?;
        Some(match &s.v {
            Value::Float(v) => Sample { t: s.t, v: Value::Float(v + self.lift) },
            Value::Histogram(_) => s.clone(),
        })
    }

    fn time(&self) -> Option<i64> {
        self.samples.get(self.at).map(|s| s.t)
    }

    fn adjust(&mut self, last: f64) {
        if let Some(Sample { v: Value::Float(v), .. }) = self.sample()
            && self.counter
            && last > v
        {
            self.lift += last - v;
        }
    }
}

/// One replica, or what was made of some.
enum Walk<R> {
    One(Leaf<R>),
    Two(Box<Pair<R>>),
}

impl<R: Replica> Walk<R> {
    fn seek(&mut self, t: i64) -> Result<bool, R::Error> {
        match self {
            Self::One(leaf) => leaf.seek(t),
            Self::Two(pair) => {
                while pair.now.as_ref().is_some_and(|s| s.t < t) {
                    pair.step()?;
                }
                Ok(pair.now.is_some())
            }
        }
    }

    fn sample(&self) -> Option<Sample> {
        match self {
            Self::One(leaf) => leaf.sample(),
            Self::Two(pair) => pair.now.clone(),
        }
    }

    fn time(&self) -> Option<i64> {
        match self {
            Self::One(leaf) => leaf.time(),
            Self::Two(pair) => pair.now.as_ref().map(|s| s.t),
        }
    }

    fn adjust(&mut self, last: f64) {
        match self {
            Self::One(leaf) => leaf.adjust(last),
            Self::Two(pair) => pair.adjust(last),
        }
    }
}

struct Pair<R> {
    a: Walk<R>,
    b: Walk<R>,
    /// Whether each has samples left.
    alive: (bool, bool),
    turns: Turns,
    use_a: bool,
    now: Option<Sample>,
    /// The last float, as given out.
    float: Option<f64>,
}

impl<R: Replica> Pair<R> {
    /// Both at their first sample.
    fn new(mut a: Walk<R>, mut b: Walk<R>) -> Result<Self, R::Error> {
        let alive = (a.seek(i64::MIN)?, b.seek(i64::MIN)?);
        let float = float(a.sample().as_ref());
        let mut me = Self { a, b, alive, turns: Turns::new(), use_a: true, now: None, float };
        me.step()?;
        Ok(me)
    }

    fn step(&mut self) -> Result<(), R::Error> {
        let (before, float_before) = (self.use_a, self.float);
        let (from_a, from_b) = self.turns.from();
        self.alive.0 = self.alive.0 && self.a.seek(from_a)?;
        self.alive.1 = self.alive.1 && self.b.seek(from_b)?;
        let times = (self.a.time().filter(|_| self.alive.0), self.b.time().filter(|_| self.alive.1));
        let Some(side) = self.turns.take(times.0, times.1) else {
            self.now = None;
            return Ok(());
        };
        self.use_a = side == Side::A;
        if let Some(last) = float_before.filter(|_| self.use_a != before) {
            self.lift(last);
        }
        self.show();
        Ok(())
    }

    fn lift(&mut self, last: f64) {
        if self.alive.0 {
            self.a.adjust(last);
        }
        if self.alive.1 {
            self.b.adjust(last);
        }
    }

    /// The same, from above.
    fn adjust(&mut self, last: f64) {
        self.lift(last);
        self.show();
    }

    fn show(&mut self) {
        self.now = if self.use_a { self.a.sample() } else { self.b.sample() };
        self.float = float(self.now.as_ref());
    }
}

fn float(s: Option<&Sample>) -> Option<f64> {
    match s.map(|s| &s.v) {
        Some(Value::Float(v)) => Some(*v),
        _ => None,
    }
}

/// Thanos's `penalty`.
pub struct Penalty<R> {
    all: Option<Walk<R>>,
    next: i64,
}

impl<R: Replica> Penalty<R> {
    /// Of replicas in their order; with `counter`, a replica that would make the series fall is lifted.
    ///
    /// # Errors
    /// If a replica's first stretch can't be read.
    pub fn new(replicas: Vec<R>, counter: bool) -> Result<Self, R::Error> {
        let mut all: Option<Walk<R>> = None;
        for replica in replicas {
            let leaf = Walk::One(Leaf::new(replica, counter));
            all = Some(match all {
                None => leaf,
                Some(some) => Walk::Two(Box::new(Pair::new(some, leaf)?)),
            });
        }
        Ok(Self { all, next: i64::MIN })
    }

    /// The next sample; times ascend strictly.
    ///
    /// # Errors
    /// If a stretch can't be read.
    pub fn next_sample(&mut self) -> Result<Option<Sample>, R::Error> {
        let Some(all) = &mut self.all else { return Ok(None) };
        if !all.seek(self.next)? {
            return Ok(None);
        }
        let sample = all.sample();
        self.next = sample.as_ref().map_or(i64::MAX, |s| s.t.saturating_add(1));
        Ok(sample)
    }
}

/// Thanos's `chain`: every time that any replica has, once.
pub struct Chain<R> {
    replicas: Vec<Leaf<R>>,
    next: i64,
}

impl<R: Replica> Chain<R> {
    /// Of replicas in their order: of equal times the first one's sample counts.
    pub fn new(replicas: Vec<R>) -> Self {
        Self { replicas: replicas.into_iter().map(|r| Leaf::new(r, false)).collect(), next: i64::MIN }
    }

    /// The next sample; times ascend strictly.
    ///
    /// # Errors
    /// If a stretch can't be read.
    pub fn next_sample(&mut self) -> Result<Option<Sample>, R::Error> {
        let mut first: Option<(i64, usize)> = None;
        for (i, leaf) in self.replicas.iter_mut().enumerate() {
            if leaf.seek(self.next)?
                && let Some(t) = leaf.time()
                && first.is_none_or(|(earliest, _)| t < earliest)
            {
                first = Some((t, i));
            }
        }
        let Some((t, i)) = first else { return Ok(None) };
        self.next = t.saturating_add(1);
        Ok(self.replicas.get(i).and_then(Leaf::sample))
    }
}

#[cfg(test)]
mod tests {
    use super::super::dedup::tests::{Fake, replica};
    use super::*;

    fn penalty(replicas: Vec<Fake>, counter: bool) -> Vec<(i64, f64)> {
        let mut p = Penalty::new(replicas, counter).unwrap();
        collect(|| p.next_sample().unwrap())
    }

    fn collect(mut next: impl FnMut() -> Option<Sample>) -> Vec<(i64, f64)> {
        let mut out = Vec::new();
        while let Some(s) = next() {
            out.push((s.t, float(Some(&s)).unwrap()));
        }
        out
    }

    fn every(step: i64, from: i64, n: i64) -> Vec<(i64, f64)> {
        (0..n).map(|i| (from + step * i, (from + step * i) as f64)).collect()
    }

    #[test]
    fn the_replica_in_use_stays_while_it_goes_on_and_a_gap_is_not_filled_at_once() {
        let (a, b) = (every(15_000, 0, 20), every(15_000, 3_000, 20));
        assert_eq!(penalty(vec![replica(&a, 4), replica(&b, 9)], false)[..20], a[..]);
        let mut gappy = a.clone();
        gappy.drain(5..10);
        let times: Vec<i64> = penalty(vec![replica(&gappy, 4), replica(&b, 9)], false).iter().map(|s| s.0).collect();
        // The other may come in only two intervals after the last sample: a hole, where it had data all the time.
        assert!(times.windows(2).any(|w| w[1] - w[0] > 30_000), "{times:?}");
        assert_eq!(penalty(vec![replica(&a, 3)], false), a);
    }

    #[test]
    fn counters_are_lifted_at_a_change() {
        let a: Vec<(i64, f64)> = (0..5).map(|i| (15_000 * i, 100.0 + i as f64)).collect();
        let b: Vec<(i64, f64)> = (0..20).map(|i| (7_000 + 15_000 * i, 10.0 + i as f64)).collect();
        let out = penalty(vec![replica(&a, 4), replica(&b, 9)], true);
        assert!(out.windows(2).all(|w| w[0].1 <= w[1].1), "{out:?}");
        assert!(penalty(vec![replica(&a, 4), replica(&b, 9)], false).windows(2).any(|w| w[0].1 > w[1].1));
        let three = vec![replica(&a, 4), replica(&b, 9), replica(&every(15_000, 3_000, 30), 2)];
        assert!(penalty(three, true).windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn a_chain_has_all_samples() {
        let (a, b) = (every(15, 0, 4), vec![(0, 9.0), (7, 9.0), (45, 9.0), (60, 9.0)]);
        let mut c = Chain::new(vec![replica(&a, 3), replica(&b, 2)]);
        let out = collect(|| c.next_sample().unwrap());
        assert_eq!(out, [(0, 0.0), (7, 9.0), (15, 15.0), (30, 30.0), (45, 45.0), (60, 9.0)]);
    }
}
