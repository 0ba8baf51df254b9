//! Downsampling against brute force (goal G24): random series with a reset at every position, gaps, markers, NaN, both kinds of
//! histograms and custom buckets; once through, and through 5m to 1h.

use super::*;
use crate::chunk::{Exact, Recoder, Value as Stored};
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Histogram, IntHistogram, Span};
use model::sample::stale_nan;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;
use testkit::goal::Goal;

pub(super) const BEGIN: i64 = 1_700_000_000_000;
pub(super) const FIVE: i64 = 300_000;
pub(super) const HOUR: i64 = 3_600_000;

/// What is made of a series, after a look at the counts: whatever is made stands for all samples that count.
fn series(chunks: &[Chunk], from: i64, to: &[i64]) -> Result<Vec<Vec<Chunk>>, Error> {
    let made = super::series(chunks, from, to)?;
    made.iter().for_each(|made| assert_eq!(counted(&made.chunks).unwrap(), made.counted));
    let Some(first) = made.first().filter(|_| from == 0) else {
        return Ok(made.into_iter().map(|m| m.chunks).collect());
    };
    let counts = |sample: &Exact| match &sample.v {
        Stored::Float(v) => !v.is_nan(),
        Stored::Histogram(h) => !h.sum.is_nan(),
        Stored::FloatHistogram(h) => !h.sum.is_nan(),
    };
    let all = chunks.iter().flat_map(|c| crate::chunk::exact(c.encoding, c.data.clone()).unwrap()).map(Result::unwrap);
    assert_eq!(all.filter(counts).count() as f64, first.counted);
    Ok(made.into_iter().map(|m| m.chunks).collect())
}

/// A random series.
#[derive(Debug, Clone)]
pub(super) struct Wild {
    /// Milliseconds between samples.
    step: i64,
    /// What each does: gap, jitter, growth, reset, marker.
    steps: Vec<(u8, u8, u8)>,
}

pub(super) fn wild(length: usize) -> impl Strategy<Value = Wild> {
    let step = prop::sample::select(vec![1_000, 15_000, 60_000, 299_999, 300_000, 700_000]);
    let steps = prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..length);
    (step, steps).prop_map(|(step, steps)| Wild { step, steps })
}

impl Wild {
    pub(super) fn times(&self) -> Vec<i64> {
        let mut t = BEGIN;
        let next = |(what, jitter, _): &(u8, u8, u8)| {
            t += match what {
                0..=5 => self.step * 50,
                6..=60 => self.step + i64::from(*jitter),
                _ => self.step,
            };
            t
        };
        self.steps.iter().map(next).collect()
    }

    /// The same, and nothing falls.
    pub(super) fn without_resets(&self) -> Self {
        let steps = self.steps.iter().map(|(what, grow, odd)| (*what, *grow, (*odd).max(36))).collect();
        Self { step: self.step, steps }
    }

    /// A counter with resets.
    pub(super) fn floats(&self, wilder: bool) -> Vec<Exact> {
        let mut v = 0.0;
        let values = self.steps.iter().map(|(what, grow, odd)| {
            v = match odd {
                0..=30 => f64::from(*grow) / 7.0,
                31..=35 => 0.0,
                _ => v + f64::from(*grow),
            };
            match (what, wilder) {
                (61..=66, true) => stale_nan(),
                (67..=72, true) => f64::NAN,
                (73..=76, true) => -v,
                _ => v,
            }
        });
        self.times().into_iter().zip(values).map(|(t, v)| Exact { st: 0, t, v: Stored::Float(v) }).collect()
    }

    /// Histograms of a counter with resets.
    pub(super) fn histograms(&self, kind: Kind) -> Vec<Exact> {
        let mut buckets = [0u64; 6];
        let values = self.steps.iter().map(|(what, grow, odd)| {
            if *odd < 12 {
                buckets = [0; 6];
            }
            buckets[usize::from(*odd) % 6] += u64::from(*grow);
            kind.histogram(buckets, matches!(what, 61..=64), *odd)
        });
        self.times().into_iter().zip(values).map(|(t, v)| Exact { st: 0, t, v }).collect()
    }
}

/// Kinds of histograms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Integers,
    Floats,
    Gauges,
    Custom,
    Schemas,
    Bounds,
}

impl Kind {
    fn histogram(self, buckets: [u64; 6], stale: bool, odd: u8) -> Stored {
        // Buckets that were never filled are not there.
        let used = 6 - buckets.iter().rev().take_while(|b| **b == 0).count();
        let custom = matches!(self, Self::Custom | Self::Bounds);
        let (zero, rest) = if custom { (0, &buckets[..used]) } else { (buckets[0], &buckets[1.min(used)..used]) };
        let count = buckets.iter().sum();
        let sum = if stale { stale_nan() } else { count as f64 * 1.5 };
        let mut h = IntHistogram {
            schema: 1,
            zero_threshold: 0.001,
            zero_count: zero,
            count,
            sum,
            positive_spans: vec![Span { offset: 0, length: rest.len() as u32 }],
            positive_buckets: rest.to_vec(),
            ..Histogram::default()
        };
        if custom {
            h.schema = CUSTOM_BUCKETS_SCHEMA;
            h.zero_threshold = 0.0;
            h.custom_values = vec![1.0, 2.0, 5.0, 10.0, 20.0];
            if self == Self::Bounds && odd.is_multiple_of(16) {
                h.custom_values[1] = 3.0;
            }
        } else if self == Self::Schemas && odd.is_multiple_of(16) {
            h.schema = 0;
        }
        if self == Self::Gauges {
            h.reset_hint = ResetHint::Gauge;
        }
        if matches!(self, Self::Integers | Self::Custom | Self::Schemas | Self::Bounds) {
            return Stored::Histogram(h);
        }
        Stored::FloatHistogram(Histogram {
            reset_hint: h.reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero_count: h.zero_count as f64,
            count: h.count as f64,
            sum: h.sum,
            positive_spans: h.positive_spans,
            negative_spans: Vec::new(),
            positive_buckets: h.positive_buckets.iter().map(|b| *b as f64).collect(),
            negative_buckets: Vec::new(),
            custom_values: h.custom_values,
        })
    }
}

pub(super) fn chunks(samples: &[Exact]) -> Vec<Chunk> {
    let mut recoder = Recoder::new(false);
    samples.iter().for_each(|s| recoder.push(s).unwrap());
    recoder.finish()
}

/// The samples of an aggregate, by time; of several with the same time the last.
fn floats_of(chunks: &[Chunk], aggregate: Aggregate) -> Vec<(i64, f64)> {
    let mut out = Vec::new();
    for chunk in chunks {
        let (encoding, data) = Container::parse(&chunk.data).unwrap().get(aggregate).unwrap().clone();
        for s in decode(encoding, data).unwrap() {
            let s = s.unwrap();
            let Value::Float(v) = s.v else { panic!("{s:?}") };
            out.push((s.t, v));
        }
    }
    out
}

pub(super) fn histograms_of(chunks: &[Chunk], aggregate: Aggregate) -> Vec<(i64, FloatHistogram)> {
    let mut out = Vec::new();
    for chunk in chunks {
        let (encoding, data) = Container::parse(&chunk.data).unwrap().get(aggregate).unwrap().clone();
        for s in decode(encoding, data).unwrap() {
            let s = s.unwrap();
            let Value::Histogram(h) = s.v else { panic!("{s:?}") };
            out.push((s.t, (*h).clone()));
        }
    }
    out
}

fn window(t: i64, resolution: i64) -> i64 {
    t / resolution
}

/// What each window truly holds: count, sum, least, greatest, by its number.
fn truth(samples: &[(i64, f64)], resolution: i64) -> BTreeMap<i64, (f64, f64, f64, f64)> {
    let mut all = BTreeMap::new();
    for (t, v) in samples {
        let w = all.entry(window(*t, resolution)).or_insert((0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY));
        *w = (w.0 + 1.0, w.1 + v, v.min(w.2), v.max(w.3));
    }
    all
}

/// How much a counter has truly grown up to the end of each window.
fn growth(samples: &[(i64, f64)], resolution: i64) -> BTreeMap<i64, f64> {
    let (mut all, mut total, mut before) = (BTreeMap::new(), 0.0, None);
    for (t, v) in samples {
        total += match before {
            Some(b) if *v >= b => v - b,
            Some(_) => *v,
            None => 0.0,
        };
        before = Some(*v);
        all.insert(window(*t, resolution), total);
    }
    all
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1e-300) || (a - b).abs() < 1e-9
}

fn check_floats(samples: &[(i64, f64)], made: &[Chunk], resolution: i64) -> Result<(), TestCaseError> {
    // At chunk borders a window may have several samples: they add up to it.
    let mut seen: BTreeMap<i64, (f64, f64, f64, f64)> = BTreeMap::new();
    let columns = [Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max].map(|a| floats_of(made, a));
    for i in 0..columns[0].len() {
        let t = columns[0][i].0;
        prop_assert!(columns.iter().all(|c| c[i].0 == t), "the times differ");
        let [count, sum, min, max] = [0, 1, 2, 3].map(|c| columns[c][i].1);
        let w = seen.entry(window(t, resolution)).or_insert((0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY));
        *w = (w.0 + count, w.1 + sum, w.2.min(min), w.3.max(max));
    }
    let want = truth(samples, resolution);
    prop_assert_eq!(seen.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (w, (count, sum, min, max)) in &want {
        let got = seen[w];
        prop_assert!(got.0 == *count && near(got.1, *sum) && got.2 == *min && got.3 == *max, "{got:?} {:?}", want[w]);
    }
    let mut resets = Resets::default();
    let mut total: BTreeMap<i64, f64> = BTreeMap::new();
    let counter = floats_of(made, Aggregate::Counter);
    let first = counter.first().map_or(0.0, |(_, v)| *v);
    for (t, v) in counter {
        if let Some(v) = resets.next(t, v) {
            total.insert(window(t, resolution), v - first);
        }
    }
    for (w, grown) in growth(samples, resolution) {
        prop_assert!(near(total[&w], grown), "window {w}: {} and truly {grown}", total[&w]);
    }
    for c in made {
        prop_assert!(c.min_t <= c.max_t, "{c:?}");
    }
    prop_assert!(made.windows(2).all(|w| w[0].max_t < w[1].min_t), "chunks overlap");
    Ok(())
}

/// One number of each histogram, as if it were a series of its own.
fn part(h: &FloatHistogram, which: usize) -> f64 {
    let side = |i: usize| {
        let all = model::histogram::expand(&h.positive_spans, &h.positive_buckets);
        all.filter(|(index, _)| *index == i as i32).map(|(_, c)| c).sum()
    };
    match which {
        0 => h.count,
        1 => h.zero_count,
        2 => h.sum,
        n => side(n - 3),
    }
}

fn check_histograms(samples: &[Exact], made: &[Chunk], resolution: i64, kind: Kind) -> Result<(), TestCaseError> {
    let plain = |v: &Stored| -> FloatHistogram {
        match v {
            Stored::FloatHistogram(h) => h.clone(),
            Stored::Histogram(h) => Histogram {
                reset_hint: h.reset_hint,
                schema: h.schema,
                zero_threshold: h.zero_threshold,
                zero_count: h.zero_count as f64,
                count: h.count as f64,
                sum: h.sum,
                positive_spans: h.positive_spans.clone(),
                negative_spans: Vec::new(),
                positive_buckets: h.positive_buckets.iter().map(|b| *b as f64).collect(),
                negative_buckets: Vec::new(),
                custom_values: h.custom_values.clone(),
            },
            Stored::Float(v) => panic!("{v}"),
        }
    };
    let real: Vec<(i64, FloatHistogram)> =
        samples.iter().map(|s| (s.t, plain(&s.v))).filter(|(_, h)| !h.sum.is_nan()).collect();
    let counts = floats_of(made, Aggregate::Count);
    let sums = histograms_of(made, Aggregate::Sum);
    let totals = histograms_of(made, Aggregate::Counter);
    let times = |of: &[(i64, FloatHistogram)]| of.iter().map(|(t, _)| *t).collect::<Vec<_>>();
    prop_assert_eq!(times(&sums), times(&totals));
    prop_assert_eq!(counts.iter().map(|(t, _)| *t).collect::<Vec<_>>(), times(&sums));
    let mut want: BTreeMap<i64, f64> = BTreeMap::new();
    real.iter().for_each(|(t, _)| *want.entry(window(*t, resolution)).or_default() += 1.0);
    let mut got: BTreeMap<i64, f64> = BTreeMap::new();
    counts.iter().for_each(|(t, v)| *got.entry(window(*t, resolution)).or_default() += v);
    prop_assert_eq!(got, want);
    // Buckets of layouts that differ can't be told apart: of those only the totals.
    let mixed = matches!(kind, Kind::Schemas | Kind::Bounds);
    for which in if mixed { 0..1 } else { 0..8 } {
        let mut want: BTreeMap<i64, f64> = BTreeMap::new();
        real.iter().for_each(|(t, h)| *want.entry(window(*t, resolution)).or_default() += part(h, which));
        let mut got: BTreeMap<i64, f64> = BTreeMap::new();
        sums.iter().for_each(|(t, h)| *got.entry(window(*t, resolution)).or_default() += part(h, which));
        for (w, v) in &want {
            prop_assert!(near(got[w], *v), "sum {which} of window {w}: {} and truly {v}", got[w]);
        }
    }
    // Resets as Prometheus finds them, between histograms as they were stored.
    let mut total: Option<(FloatHistogram, [f64; 8])> = None;
    let mut grown: Vec<(i64, [f64; 8])> = Vec::new();
    for (t, h) in &real {
        let values: [f64; 8] = std::array::from_fn(|i| part(h, i));
        let next = match &total {
            None => values,
            Some((before, sum)) => {
                let reset = kind != Kind::Gauges && model::histogram::detect_reset(h, before);
                std::array::from_fn(|i| sum[i] + values[i] - if reset { 0.0 } else { part(before, i) })
            }
        };
        total = Some((h.clone(), next));
        grown.push((*t, next));
    }
    for (t, h) in totals {
        let want = grown[grown.partition_point(|(at, _)| *at <= t) - 1].1;
        for which in if mixed { 0..1 } else { 0..8 } {
            let got = part(&h, which);
            prop_assert!(near(got, want[which]), "counter {which} at {t}: {got} and truly {}", want[which]);
        }
    }
    Ok(())
}

fn plain(samples: &[Exact]) -> Vec<(i64, f64)> {
    let value = |s: &Exact| match s.v {
        Stored::Float(v) => v,
        _ => f64::NAN,
    };
    samples.iter().map(|s| (s.t, value(s))).filter(|(_, v)| !v.is_nan()).collect()
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Integers, Kind::Floats, Kind::Gauges, Kind::Custom, Kind::Schemas, Kind::Bounds])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn floats_are_what_brute_force_says(wild in wild(1500), wilder in any::<bool>()) {
        let samples = wild.floats(wilder);
        let raw = chunks(&samples);
        let made = series(&raw, 0, &[FIVE, HOUR]).unwrap();
        let real = plain(&samples);
        if wilder {
            // Only what is defined of counters that fall below zero.
            prop_assert_eq!(made[0].is_empty(), real.is_empty());
        } else {
            check_floats(&real, &made[0], FIVE)?;
            check_floats(&real, &made[1], HOUR)?;
        }
        // In one pass, in two, and again: the same bytes.
        let five = series(&raw, 0, &[FIVE]).unwrap();
        prop_assert_eq!(&five[0], &made[0]);
        prop_assert_eq!(&series(&five[0], FIVE, &[HOUR]).unwrap()[0], &made[1]);
    }

    #[test]
    fn histograms_are_what_brute_force_says(wild in wild(700), kind in kinds()) {
        let samples = wild.histograms(kind);
        let raw = chunks(&samples);
        let made = series(&raw, 0, &[FIVE, HOUR]).unwrap();
        check_histograms(&samples, &made[0], FIVE, kind)?;
        check_histograms(&samples, &made[1], HOUR, kind)?;
        prop_assert_eq!(&series(&made[0], FIVE, &[HOUR]).unwrap()[0], &made[1]);
    }
}

#[test]
fn a_reset_at_every_position() {
    for reset in 0..400usize {
        let value = |i: usize| if i < reset { i as f64 * 3.0 + 7.0 } else { (i - reset) as f64 * 2.0 };
        let samples: Vec<Exact> =
            (0..400).map(|i| Exact { st: 0, t: BEGIN + i as i64 * 60_000, v: Stored::Float(value(i)) }).collect();
        let made = series(&chunks(&samples), 0, &[FIVE, HOUR]).unwrap();
        check_floats(&plain(&samples), &made[0], FIVE).unwrap();
        check_floats(&plain(&samples), &made[1], HOUR).unwrap();
    }
}

#[test]
fn kinds_that_change_cut_the_output() {
    let wild = Wild { step: 15_000, steps: vec![(100, 3, 200); 300] };
    let mut samples = wild.floats(false);
    for (i, h) in wild.histograms(Kind::Integers).into_iter().enumerate().filter(|(i, _)| (100..200).contains(i)) {
        samples[i] = h;
    }
    for (i, h) in wild.histograms(Kind::Custom).into_iter().enumerate().filter(|(i, _)| (150..200).contains(i)) {
        samples[i] = h;
    }
    let made = series(&chunks(&samples), 0, &[FIVE, HOUR]).unwrap();
    let histogram =
        |c: &Chunk| Container::parse(&c.data).unwrap().get(Aggregate::Counter).unwrap().0 == Encoding::FloatHistogram;
    assert_eq!(made[0].iter().map(histogram).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(made[1].iter().map(histogram).collect::<Vec<_>>(), [false, true, true, false]);
    let counted: f64 =
        made[0].iter().flat_map(|c| floats_of(std::slice::from_ref(c), Aggregate::Count)).map(|(_, v)| v).sum();
    assert_eq!(counted, 300.0);
}

#[test]
fn what_can_t_be_read_is_told() {
    let samples = Wild { step: 15_000, steps: vec![(100, 3, 200); 300] }.floats(false);
    let mut raw = chunks(&samples);
    raw[1].min_t = raw[0].max_t;
    let error = series(&raw, 0, &[FIVE]).unwrap_err();
    assert!(error.to_string().contains("overlaps the one before it; compact the block first"), "{error}");
    raw[1].min_t += 1;
    raw[2].data = raw[2].data.slice(..10);
    let error = series(&raw, 0, &[FIVE]).unwrap_err();
    assert!(matches!(error, Error::Read { min_t, .. } if min_t == raw[2].min_t), "{error}");
    assert_eq!(series(&[], 0, &[FIVE, HOUR]).unwrap(), [vec![], vec![]]);
}

/// G24: aggregates against brute force, a reset at every position of every hundredth series, all kinds; and twice the same bytes.
#[test]
fn goal_g24_downsampling() {
    let goal = Goal::start("G24");
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&goal.rng("series").next_u64().to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let (wild, kinds) = (wild(120), kinds());
    let (runs, mut samples) = (goal.pick(400, 20_000, 2_000_000), 0usize);
    let check = |all: &[Exact], kind: Option<Kind>, run: usize| {
        let raw = chunks(all);
        let made = series(&raw, 0, &[FIVE, HOUR]).unwrap();
        for (made, resolution) in made.iter().zip([FIVE, HOUR]) {
            let right = match kind {
                None => check_floats(&plain(all), made, resolution),
                Some(kind) => check_histograms(all, made, resolution, kind),
            };
            right.unwrap_or_else(|e| panic!("series {run}: {e}"));
        }
        let again = series(&series(&raw, 0, &[FIVE]).unwrap()[0], FIVE, &[HOUR]).unwrap();
        assert!(again[0] == made[1], "series {run}: other bytes in two passes");
    };
    for run in 0..runs {
        let one = wild.new_tree(&mut runner).unwrap().current();
        samples += one.steps.len();
        if run % 2 == 0 {
            check(&one.floats(false), None, run);
        } else {
            let kind = kinds.new_tree(&mut runner).unwrap().current();
            check(&one.histograms(kind), Some(kind), run);
        }
        if run % 100 == 0 {
            let rising = one.without_resets().floats(false);
            for reset in 0..rising.len() {
                let mut all = rising.clone();
                let before = plain(&rising)[reset].1;
                for s in all.iter_mut().skip(reset) {
                    if let Stored::Float(v) = &mut s.v {
                        *v -= before;
                    }
                }
                check(&all, None, run);
            }
        }
    }
    goal.figure(&format!("{runs} series, {samples} samples, 0 windows that differ from brute force"));
}
