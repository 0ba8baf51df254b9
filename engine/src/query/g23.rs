//! Goal G23: random schedules of two and three replicas, judged against the counter that they all read.

use super::dedup::Dedup;
use super::dedup::tests::{Fake, replica};
use super::pairwise::Penalty;
use model::sample::Value;
use testkit::goal::{Goal, Rng};

/// Scrape interval, milliseconds.
const STEP: i64 = 15_000;
const SCRAPES: usize = 120;
/// How far a scrape may be off, milliseconds.
const JITTER: i64 = 100;
/// The window of `rate`.
const WINDOW: i64 = 20 * STEP;
/// What the counter grows by in one interval at most.
const PACE: f64 = 2.0 * STEP as f64 / 1000.0;

type Data = Vec<(i64, f64)>;

/// What is counted: it grows at a pace that changes, and begins anew at each reset.
struct Truth {
    resets: Vec<i64>,
    pace: Vec<f64>,
}

impl Truth {
    fn new(rng: &mut Rng) -> Self {
        let mut resets: Vec<i64> = (0..rng.below(3)).map(|_| rng.below(SCRAPES) as i64 * STEP).collect();
        resets.sort_unstable();
        Self { resets, pace: (0..=SCRAPES).map(|_| rng.below(3) as f64).collect() }
    }

    /// All that was ever counted until `t`.
    fn total(&self, t: i64) -> f64 {
        let t = t.max(0);
        let whole = usize::try_from(t / STEP).unwrap().min(SCRAPES);
        let full: f64 = self.pace[..whole].iter().map(|p| p * STEP as f64 / 1000.0).sum();
        full + self.pace[whole] * (t % STEP) as f64 / 1000.0
    }

    fn value(&self, t: i64) -> f64 {
        let since = self.resets.iter().copied().filter(|r| *r <= t).max();
        100.0 + self.total(t) - since.map_or(-1000.0, |r| self.total(r))
    }
}

/// A replica: phase, jitter, gaps, a later start.
fn scrapes(rng: &mut Rng, truth: &Truth) -> Data {
    let (phase, latency) = (rng.below(STEP as usize) as i64, rng.below(500) as i64);
    let gaps: Vec<(usize, usize)> = (0..rng.below(4)).map(|_| (rng.below(SCRAPES), 1 + rng.below(20))).collect();
    let start = if rng.below(4) == 0 { rng.below(SCRAPES / 2) } else { 0 };
    let on = |i: &usize| *i >= start && !gaps.iter().any(|(from, n)| (*from..from + n).contains(i));
    (0..SCRAPES)
        .filter(on)
        .map(|i| {
            let t = i as i64 * STEP + phase + rng.below(JITTER as usize) as i64 - JITTER / 2;
            (t, truth.value(t - latency))
        })
        .collect()
}

#[derive(Default)]
struct Found {
    gaps: u64,
    falls: u64,
    rates: u64,
}

/// What is wrong with a deduplicated series.
fn judge(out: &Data, replicas: &[Data], truth: &Truth) -> Found {
    let mut found = Found::default();
    let has = |from: i64, to: i64| replicas.iter().flatten().any(|s| s.0 > from && s.0 < to);
    for w in out.windows(2) {
        let (a, b) = (w[0], w[1]);
        // Two intervals are one scrape that is missing: what comes within an interval after a sample fills no gap.
        if b.0 - a.0 > 2 * STEP + JITTER && has(a.0 + STEP + JITTER, b.0) {
            found.gaps += 1;
        }
        let fell = |d: &Data| d.windows(2).any(|r| r[1].1 < r[0].1 && r[0].0 <= b.0 && r[1].0 >= a.0);
        if b.1 < a.1 && !replicas.iter().any(fell) {
            found.falls += 1;
        }
    }
    for end in (1..SCRAPES as i64 / 20).map(|i| i * WINDOW) {
        let inside: Vec<&(i64, f64)> = out.iter().filter(|s| s.0 > end - WINDOW && s.0 <= end).collect();
        let (Some(first), Some(last)) = (inside.first(), inside.last()) else { continue };
        let increase: f64 = inside.windows(2).map(|w| if w[1].1 < w[0].1 { w[1].1 } else { w[1].1 - w[0].1 }).sum();
        // Resets are told from a fall: what is counted between the last scrape before one and the reset is never seen, and
        // the first value after it counts from nothing.
        let resets = truth.resets.iter().filter(|r| **r > first.0 - STEP && **r <= last.0 + STEP).count() as f64;
        let begins = replicas.iter().any(|d| d.first().is_some_and(|f| f.0 > end - WINDOW && f.0 <= end));
        if resets > 0.0 || begins {
            continue;
        }
        if (increase - (truth.total(last.0) - truth.total(first.0))).abs() > 2.0 * PACE {
            found.rates += 1;
        }
    }
    found
}

fn ours(replicas: Vec<Fake>) -> Data {
    let mut d = Dedup::new(replicas, !model::protection::off("dedup-counter"), i64::MAX);
    collect(|| d.next_sample().unwrap())
}

fn thanos(replicas: Vec<Fake>) -> Data {
    let mut d = Penalty::new(replicas, true).unwrap();
    collect(|| d.next_sample().unwrap())
}

fn collect(mut next: impl FnMut() -> Option<model::sample::Sample>) -> Data {
    let mut out = Vec::new();
    while let Some(s) = next() {
        let Value::Float(v) = s.v else { panic!("floats went in") };
        out.push((s.t, v));
    }
    out
}

#[test]
fn goal_g23_schedules_of_replicas() {
    let goal = Goal::start("G23");
    let (mut rng, count) = (goal.rng("schedules"), goal.pick(2_000, 20_000, 1_000_000));
    let (mut baseline, mut bad) = (Found::default(), 0u64);
    for n in 0..count {
        let truth = Truth::new(&mut rng);
        let replicas: Vec<Data> = (0..2 + n % 2).map(|_| scrapes(&mut rng, &truth)).collect();
        let fakes =
            |rng: &mut Rng| replicas.iter().filter(|d| !d.is_empty()).map(|d| replica(d, 1 + rng.below(40))).collect();
        let out = ours(fakes(&mut rng));
        let f = judge(&out, &replicas, &truth);
        assert_eq!(f.gaps, 0, "schedule {n}: a gap though a replica had data: {out:?}\nof {replicas:?}");
        assert_eq!(f.falls, 0, "schedule {n}: a fall that no replica had: {out:?}\nof {replicas:?}");
        assert_eq!(f.rates, 0, "schedule {n}: the increase is not the counter's: {out:?}\nof {replicas:?}");
        let f = judge(&thanos(fakes(&mut rng)), &replicas, &truth);
        baseline.gaps += f.gaps;
        baseline.falls += f.falls;
        baseline.rates += f.rates;
        bad += u64::from(f.gaps + f.falls + f.rates > 0);
    }
    // The known faults of the baseline show that the judge sees.
    assert!(baseline.gaps > 0, "Thanos's penalty left no gap in {count} schedules: the judge is blind");
    goal.figure(&format!(
        "{count} schedules: gaps 0, falls 0, increases off 0; by Thanos's penalty {bad} are bad: {} gaps, {} falls, {} increases off",
        baseline.gaps, baseline.falls, baseline.rates
    ));
}
