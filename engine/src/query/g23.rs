//! Goal G23: random schedules of two and three replicas, judged against the counter that they all read.

use super::dedup::tests::{Fake, in_both_ways};
use super::pairwise::Penalty;
use model::FloatHistogram;
use model::histogram::{ResetHint, Span, detect_reset};
use model::sample::{Sample, Value, stale_nan};
use std::sync::Arc;
use testkit::goal::{Goal, Rng};

/// Scrape interval, milliseconds.
const STEP: i64 = 15_000;
const SCRAPES: usize = 120;
/// How far a scrape may be off, milliseconds.
const JITTER: i64 = 100;
/// The windows of `rate`, in scrapes: one minute and five.
const WINDOWS: [i64; 2] = [4, 20];
/// Fastest pace of the counter, per second.
const PACE: usize = 3;

/// What is counted: it grows at a pace that changes, and begins anew at each reset.
struct Truth {
    resets: Vec<i64>,
    pace: Vec<f64>,
    /// What was counted before each step.
    sums: Vec<f64>,
    kind: Kind,
}

/// How the target shows it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Floats,
    Histograms,
    /// Floats until this time, histograms from then on.
    Mixed(i64),
}

impl Truth {
    fn new(rng: &mut Rng) -> Self {
        let mut resets: Vec<i64> = (0..rng.below(3)).map(|_| rng.below(SCRAPES * STEP as usize) as i64).collect();
        resets.sort_unstable();
        let kind = match rng.below(5) {
            0 | 1 => Kind::Floats,
            2 | 3 => Kind::Histograms,
            _ => Kind::Mixed(rng.below(SCRAPES) as i64 * STEP),
        };
        let pace: Vec<f64> = (0..=SCRAPES).map(|_| rng.below(PACE) as f64).collect();
        let sums = pace.iter().scan(0.0, |sum, p| Some(std::mem::replace(sum, *sum + p * STEP as f64 / 1000.0)));
        Self { resets, sums: sums.collect(), pace, kind }
    }

    /// All that was ever counted until `t`.
    fn total(&self, t: i64) -> f64 {
        let t = t.max(0);
        let whole = usize::try_from(t / STEP).unwrap().min(SCRAPES);
        self.sums[whole] + self.pace[whole] * (t - whole as i64 * STEP) as f64 / 1000.0
    }

    /// What the target shows at `t`.
    fn count(&self, t: i64) -> f64 {
        let since = self.resets.iter().copied().filter(|r| *r <= t).max();
        self.total(t) - since.map_or(-1000.0, |r| self.total(r))
    }

    fn value(&self, t: i64) -> Value {
        let count = self.count(t);
        match self.kind {
            Kind::Floats => Value::Float(count),
            Kind::Mixed(until) if t < until => Value::Float(count),
            Kind::Histograms | Kind::Mixed(_) => {
                let (count, low) = (count.floor(), (count / 4.0).floor());
                Value::Histogram(Arc::new(FloatHistogram {
                    count,
                    sum: 2.0 * count,
                    positive_spans: vec![Span { offset: 0, length: 2 }],
                    positive_buckets: vec![low, count - low],
                    ..FloatHistogram::default()
                }))
            }
        }
    }

    /// The most that it grows by in one scrape that touches `from..=to`.
    fn scrape(&self, from: i64, to: i64) -> f64 {
        let (step, grown) = (STEP + JITTER, |t: i64| self.total(t + STEP + JITTER) - self.total(t));
        // The pace changes at whole steps only, so the extremes lie there.
        let steps = ((from - step) / STEP..=to / STEP).flat_map(|i| [i * STEP, i * STEP - step]);
        let inside = steps.filter(|t| *t >= from - step && *t <= to);
        inside.chain([from - step, to]).map(grown).fold(0.0, f64::max)
    }
}

/// A replica: what it scraped, and when it should have.
struct Scraped {
    samples: Vec<Sample>,
    lost: Vec<i64>,
}

/// Phase, jitter, gaps with and without a marker of staleness, a later start.
fn scrapes(rng: &mut Rng, truth: &Truth) -> Scraped {
    let (phase, latency) = (rng.below(STEP as usize) as i64, rng.below(500) as i64);
    let gaps: Vec<(usize, usize, bool)> =
        (0..rng.below(4)).map(|_| (rng.below(SCRAPES), 1 + rng.below(20), rng.below(2) == 0)).collect();
    let start = if rng.below(4) == 0 { rng.below(SCRAPES / 2) } else { 0 };
    let mut all = Scraped { samples: Vec::new(), lost: Vec::new() };
    let mut before: Option<Arc<FloatHistogram>> = None;
    for i in 0..SCRAPES {
        let t = i as i64 * STEP + phase + rng.below(JITTER as usize) as i64 - JITTER / 2;
        let gap = gaps.iter().find(|(from, n, _)| (*from..from + n).contains(&i));
        if i < start || gap.is_some() {
            all.lost.push(t);
            // The target could not be reached: the first scrape that fails leaves a marker. Else the replica was away.
            if gap.is_some_and(|(from, _, marked)| *marked && *from == i) && i > start {
                all.samples.push(Sample { t, v: Value::Float(stale_nan()) });
                before = None;
            }
            continue;
        }
        let mut v = truth.value(t - latency);
        if let Value::Histogram(h) = &mut v {
            // As Prometheus knows it within a chunk.
            let hint = match &before {
                None => ResetHint::Unknown,
                Some(b) if detect_reset(h, b) => ResetHint::Reset,
                Some(_) => ResetHint::NotReset,
            };
            before = Some(Arc::clone(h));
            Arc::make_mut(h).reset_hint = hint;
        }
        all.samples.push(Sample { t, v });
    }
    all
}

/// A sample as `rate` sees it.
fn count(s: &Sample) -> f64 {
    match &s.v {
        Value::Float(v) => *v,
        Value::Histogram(h) => h.count,
    }
}

fn fell(a: &Sample, b: &Sample) -> bool {
    match (&a.v, &b.v) {
        (Value::Float(a), Value::Float(b)) => b < a,
        (Value::Histogram(a), Value::Histogram(b)) => detect_reset(b, a),
        _ => false,
    }
}

/// The samples in `(end - window, end]`, if they are of one type.
fn inside(data: &[Sample], end: i64, window: i64) -> Option<&[Sample]> {
    let from = data.partition_point(|s| s.t <= end - window);
    let to = data.partition_point(|s| s.t <= end);
    let all = &data[from..to];
    let floats = all.iter().filter(|s| matches!(s.v, Value::Float(_))).count();
    (all.len() > 1 && (floats == 0 || floats == all.len())).then_some(all)
}

/// What was counted between the first and the last of these, as a reader of counters sees it.
fn increase(all: &[Sample]) -> f64 {
    all.windows(2).map(|w| if fell(&w[0], &w[1]) { count(&w[1]) } else { count(&w[1]) - count(&w[0]) }).sum()
}

/// By how much `rate` stretches an increase to its whole window (Prometheus's rule, but for counters close to zero).
fn stretch(all: &[Sample], end: i64, window: i64) -> f64 {
    let (first, last) = (all[0].t, all[all.len() - 1].t);
    let sampled = (last - first) as f64;
    let average = sampled / (all.len() - 1) as f64;
    let edge = |d: i64| if d as f64 >= average * 1.1 { average / 2.0 } else { d as f64 };
    (sampled + edge(first - (end - window)) + edge(end - last)) / sampled
}

#[derive(Default)]
struct Found {
    gaps: u64,
    falls: u64,
    rates: u64,
    /// The last of them: where, what was found, what would have been right.
    wrong: String,
}

/// What is wrong with a deduplicated series.
fn judge(out: &[Sample], replicas: &[Scraped], truth: &Truth) -> Found {
    let mut found = Found::default();
    let live = |data: &[Sample]| -> Vec<Sample> { data.iter().filter(|s| !s.v.is_stale()).cloned().collect() };
    let (out, all): (Vec<Sample>, Vec<Vec<Sample>>) = (live(out), replicas.iter().map(|r| live(&r.samples)).collect());
    let has = |from: i64, to: i64| all.iter().flatten().any(|s| s.t > from && s.t < to);
    for w in out.windows(2) {
        let (a, b) = (&w[0], &w[1]);
        // Two intervals are one scrape that is missing: what comes within an interval after a sample fills no gap.
        if b.t - a.t > 2 * STEP + JITTER && has(a.t + STEP + JITTER, b.t) {
            found.gaps += 1;
            found.wrong = format!("from {} to {}", a.t, b.t);
        }
        let theirs = |d: &Vec<Sample>| d.windows(2).any(|r| fell(&r[0], &r[1]) && r[0].t <= b.t && r[1].t >= a.t);
        if fell(a, b) && !all.iter().any(theirs) {
            found.falls += 1;
        }
    }
    let (begin, end) = (all.iter().flatten().map(|s| s.t).min(), all.iter().flatten().map(|s| s.t).max());
    let (Some(begin), Some(end)) = (begin, end) else { return found };
    if out.first().is_none_or(|s| s.t - begin > 2 * STEP) || out.last().is_none_or(|s| end - s.t > 2 * STEP) {
        found.gaps += 1;
        found.wrong = format!("at the edges {begin} or {end}");
    }
    for scrapes in WINDOWS {
        let window = scrapes * STEP;
        for end in (scrapes..=SCRAPES as i64).step_by(3).map(|i| i * STEP) {
            let Some(ours) = inside(&out, end, window) else { continue };
            let (first, last) = (ours[0].t, ours[ours.len() - 1].t);
            // Histograms show whole numbers.
            let scrape = truth.scrape(end - window, end) + 1.0;
            let complete = |r: &&Scraped| !r.lost.iter().any(|t| *t > end - window - STEP && *t <= end);
            let own = replicas.iter().filter(complete).filter_map(|r| inside(&r.samples, end, window));
            let rate = increase(ours) * stretch(ours, end, window);
            // One scrape's increase, which is stretched as well; and as much for each reset, before which a replica may miss that
            // which another has seen.
            let resets = truth.resets.iter().filter(|r| **r > end - window - STEP && **r <= end).count() as f64;
            let more = scrape * (1.0 + resets) * stretch(ours, end, window) + 1e-6;
            let most = own.map(|own| increase(own) * stretch(own, end, window) + more).reduce(f64::max);
            // What `rate` makes up beyond its samples is not deduplication's.
            let wrong = most.is_some_and(|most| rate > most)
                || increase(ours) > truth.total(last) - truth.total(first) + scrape + 1e-6;
            // Nothing that can be seen may be lost either. What is counted between the last scrape before a reset and the
            // reset is never seen, and of a replica that begins it is not known whether it is reset or behind.
            let unseen = truth.resets.iter().any(|r| *r > first - STEP && *r <= last + STEP)
                || all.iter().any(|d| d.first().is_some_and(|f| f.t > end - window && f.t <= end));
            let lost = !unseen && increase(ours) < truth.total(last) - truth.total(first) - scrape - 1e-6;
            if wrong || lost {
                found.rates += 1;
                let (ours, true_) = (increase(ours), truth.total(last) - truth.total(first));
                found.wrong = format!(
                    "{window} ms to {end}: {ours} and truly {true_}, a scrape is {scrape}; rate {rate}, most {most:?}"
                );
            }
        }
    }
    found
}

fn fakes(replicas: &[Scraped], rng: &mut Rng) -> Vec<Fake> {
    let some = replicas.iter().filter(|r| !r.samples.is_empty());
    some.map(|r| Fake::new(&r.samples, 1 + rng.below(40))).collect()
}

fn ours(replicas: Vec<Fake>) -> Vec<Sample> {
    in_both_ways(replicas, !model::protection::off("dedup-counter"), i64::MAX)
}

fn thanos(replicas: Vec<Fake>) -> Vec<Sample> {
    let mut d = Penalty::new(replicas, true).unwrap();
    std::iter::from_fn(|| d.next_sample().unwrap()).collect()
}

#[test]
fn goal_g23_schedules_of_replicas() {
    let goal = Goal::start("G23");
    let (mut rng, count) = (goal.rng("schedules"), goal.pick(1_000, 10_000, 1_000_000));
    let (mut baseline, mut bad) = (Found::default(), 0u64);
    for n in 0..count {
        let truth = Truth::new(&mut rng);
        let replicas: Vec<Scraped> = (0..2 + n % 2).map(|_| scrapes(&mut rng, &truth)).collect();
        let out = ours(fakes(&replicas, &mut rng));
        let f = judge(&out, &replicas, &truth);
        let shown = || {
            let list = |d: &[Sample]| d.iter().map(|s| format!("{} {}", s.t, count_of(s))).collect::<Vec<_>>();
            let all: Vec<_> = replicas.iter().map(|r| list(&r.samples)).collect();
            format!("{:?}, resets {:?}: {:?}\nof {all:?}", truth.kind, truth.resets, list(&out))
        };
        assert_eq!(f.gaps, 0, "schedule {n}: a gap though a replica had data: {}: {}", f.wrong, shown());
        assert_eq!(f.falls, 0, "schedule {n}: a fall that no replica had: {}", shown());
        assert_eq!(f.rates, 0, "schedule {n}: the increase is not the counter's: {}: {}", f.wrong, shown());
        let f = judge(&thanos(fakes(&replicas, &mut rng)), &replicas, &truth);
        baseline.gaps += f.gaps;
        baseline.falls += f.falls;
        baseline.rates += f.rates;
        bad += u64::from(f.gaps + f.falls + f.rates > 0);
    }
    // The known faults of the baseline show that the judge sees.
    assert!(baseline.gaps > 0, "Thanos's penalty left no gap in {count} schedules: the judge is blind");
    goal.figure(&format!(
        "{count} schedules of floats, native histograms and both: gaps 0, falls 0, increases off 0; by Thanos's penalty {bad} \
         are bad: {} gaps, {} falls, {} increases off",
        baseline.gaps, baseline.falls, baseline.rates
    ));
}

fn count_of(s: &Sample) -> String {
    if s.v.is_stale() { "stale".to_owned() } else { format!("{:.2}", count(s)) }
}
