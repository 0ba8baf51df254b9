//! Random series, made so that every rule of the appenders is met.

use crate::wire;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, IntHistogram, ResetHint, Span};
use model::sample::stale_nan;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use testkit::oracle::Oracle;
use tsdb::chunk::histogram::{Appended, Count};
use tsdb::chunk::{Chunk, Encoding, Exact, HistogramEncoder, Recoder, Value, Xor2Encoder, XorEncoder, exact};

/// One step of a series; what it does depends on the kind of series.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    time: u8,
    jump: i64,
    pub(crate) value: u8,
    float: f64,
    pub(crate) start: u8,
    buckets: Vec<(u8, u8)>,
    pub(crate) odd: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let buckets = prop::collection::vec((0u8..14, 0u8..40), 0..7);
    let step =
        (any::<u8>(), -40_000_000_000i64..40_000_000_000, any::<u8>(), any::<f64>(), any::<u8>(), buckets, any::<u8>());
    let step = step.prop_map(|(time, jump, value, float, start, buckets, odd)| Step {
        time,
        jump,
        value,
        float,
        start,
        buckets,
        odd,
    });
    prop::collection::vec(step, 1..200)
}

fn times(steps: &[Step], with_start: bool) -> Vec<(i64, i64)> {
    let (mut t, mut st) = (1_700_000_000_000i64, 0i64);
    let next = |s: &Step| {
        t += match s.time {
            0..=99 => 15_000,
            100..=179 => 15_000 + s.jump % 60,
            180..=199 => 0,
            200..=219 => s.jump % 7_000,
            220..=229 => s.jump % 70_000,
            230..=239 => s.jump % 600_000,
            _ => s.jump,
        };
        match s.start {
            0..=19 => st = t - 5_000,
            20..=24 => st = 0,
            25..=60 if st != 0 => st += 15_000,
            _ => {}
        }
        (if with_start { st } else { 0 }, t)
    };
    steps.iter().map(next).collect()
}

pub(crate) fn floats(steps: &[Step], with_start: bool) -> Vec<Exact> {
    let mut v = 0.0;
    let next = |(s, (st, t)): (&Step, (i64, i64))| {
        v = match s.value {
            0..=79 => v,
            80..=159 => v + f64::from(s.odd),
            160..=199 => f64::from(s.odd) / 10.0,
            200..=229 => s.float,
            230..=239 => return Exact { st, t, v: Value::Float(stale_nan()) },
            240..=245 => f64::NAN,
            _ => 0.0,
        };
        Exact { st, t, v: Value::Float(v) }
    };
    steps.iter().zip(times(steps, with_start)).map(next).collect()
}

/// Histograms whose buckets come, go and fall; whose spans are written in several ways.
pub(crate) fn histograms(steps: &[Step], with_start: bool, float: bool) -> Vec<Exact> {
    let mut counts = [0u64; 14];
    let mut gauge = false;
    let mut schema = 3;
    let mut threshold = 2f64.powi(-128);
    let mut bounds = vec![0.005, 1.0, 2.5];
    let next = |(s, (st, t)): (&Step, (i64, i64))| {
        for (i, n) in &s.buckets {
            counts[usize::from(*i)] += u64::from(*n);
        }
        match s.odd {
            0..=5 => gauge = !gauge,
            6..=8 => counts = [0; 14],
            9..=12 => counts[3] = counts[3].saturating_sub(4),
            13..=14 => schema = if schema == 3 { CUSTOM_BUCKETS_SCHEMA } else { 3 },
            15 => threshold = s.float,
            16 => threshold = 0.0,
            17..=18 => bounds[1] = s.float,
            19 => bounds = vec![1.5, 7.25],
            20 => bounds = vec![0.005, 1.0, 2.5],
            _ if gauge => counts[usize::from(s.value) % 14] = u64::from(s.odd),
            _ => {}
        }
        let custom = schema == CUSTOM_BUCKETS_SCHEMA;
        // Which buckets are mentioned: those in use, and some that are empty.
        let mentioned = |i: usize| counts[i] > 0 || (u64::from(s.value) >> (i % 8)) & 1 == 1 && s.odd % 3 == 0;
        let side = |range: std::ops::Range<usize>| {
            let (mut spans, mut buckets, mut last) = (Vec::<Span>::new(), Vec::new(), 0i32);
            for (index, i) in range.filter(|i| mentioned(*i)).map(|i| (i as i32 - 2, i)) {
                match spans.last_mut() {
                    // Some writers join neighbours, some don't, and some leave empty spans behind.
                    Some(span) if index == last && s.start % 4 != 0 => span.length += 1,
                    _ => {
                        if s.start % 16 == 0 {
                            spans.push(Span { offset: index - last, length: 0 });
                            last = index;
                        }
                        spans.push(Span { offset: index - last, length: 1 });
                    }
                }
                last = index + 1;
                buckets.push(counts[i]);
            }
            (spans, buckets)
        };
        let (positive_spans, positive_buckets) = side(0..8);
        let (negative_spans, negative_buckets) = if custom { <_>::default() } else { side(8..14) };
        let zero_count = if custom { 0 } else { counts[0] / 2 };
        let h = IntHistogram {
            reset_hint: match s.time {
                _ if gauge => ResetHint::Gauge,
                0..=2 => ResetHint::Reset,
                3..=40 => ResetHint::NotReset,
                _ => ResetHint::Unknown,
            },
            schema,
            zero_threshold: if custom { 0.0 } else { threshold },
            zero_count,
            count: positive_buckets.iter().chain(&negative_buckets).sum::<u64>() + zero_count,
            sum: if (30..33).contains(&s.odd) { stale_nan() } else { s.float },
            positive_spans,
            negative_spans,
            positive_buckets,
            negative_buckets,
            custom_values: if custom { bounds.clone() } else { vec![] },
        };
        Exact { st, t, v: if float { Value::FloatHistogram(halved(h)) } else { Value::Histogram(h) } }
    };
    steps.iter().zip(times(steps, with_start)).map(next).collect()
}

pub(crate) fn halved(h: IntHistogram) -> FloatHistogram {
    let half = |v: Vec<u64>| v.into_iter().map(|v| v as f64 / 2.0).collect();
    FloatHistogram {
        reset_hint: h.reset_hint,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: h.zero_count as f64 / 2.0,
        count: h.count as f64 / 2.0,
        sum: h.sum,
        positive_spans: h.positive_spans,
        negative_spans: h.negative_spans,
        positive_buckets: half(h.positive_buckets),
        negative_buckets: half(h.negative_buckets),
        custom_values: h.custom_values,
    }
}

/// Our encoders, driven as the oracle drives Prometheus's: a new chunk after `cut` samples, which is told of the one before when
/// `after` is set.
pub(crate) fn encode(encoding: Encoding, samples: &[Exact], cut: u16, after: bool) -> Vec<Chunk> {
    let starts = matches!(encoding, Encoding::HistogramSt | Encoding::FloatHistogramSt);
    match encoding {
        Encoding::Xor | Encoding::Xor2 => {
            samples.chunks(usize::from(cut)).map(|part| encode_floats(encoding, part)).collect()
        }
        Encoding::Histogram | Encoding::HistogramSt => encode_histograms(starts, samples, cut, after, |v| match v {
            Value::Histogram(h) => h.clone(),
            _ => panic!("another kind"),
        }),
        _ => encode_histograms(starts, samples, cut, after, |v| match v {
            Value::FloatHistogram(h) => h.clone(),
            _ => panic!("another kind"),
        }),
    }
}

fn encode_floats(encoding: Encoding, samples: &[Exact]) -> Chunk {
    let (mut xor, mut xor2) = (XorEncoder::default(), Xor2Encoder::default());
    for s in samples {
        let Value::Float(v) = s.v else { panic!("another kind") };
        xor.append(s.t, v).unwrap();
        xor2.append(s.st, s.t, v).unwrap();
    }
    let ((min_t, max_t), samples) = (xor.range(), xor.count());
    assert_eq!((xor2.range(), xor2.count()), ((min_t, max_t), samples));
    assert_eq!((xor.size(), xor2.size()), (xor.bytes().len(), xor2.bytes().len()));
    let data = if encoding == Encoding::Xor { xor.bytes() } else { xor2.bytes() };
    Chunk { encoding, min_t, max_t, samples, data }
}

fn encode_histograms<V: Count>(
    starts: bool,
    samples: &[Exact],
    cut: u16,
    after: bool,
    get: impl Fn(&Value) -> Histogram<V>,
) -> Vec<Chunk> {
    let (mut out, mut open) = (Vec::new(), None::<HistogramEncoder<V>>);
    let finish = |e: &HistogramEncoder<V>| Chunk {
        encoding: e.encoding(),
        min_t: e.range().0,
        max_t: e.range().1,
        samples: e.count(),
        data: e.bytes(),
    };
    for s in samples {
        let h = get(&s.v);
        match &mut open {
            Some(e) if e.count() < cut => {
                if let Appended::Cut(old) = e.append(s.st, s.t, &h).unwrap() {
                    out.push(finish(&old));
                }
            }
            _ => {
                let before = open.as_ref().filter(|_| after);
                let next = HistogramEncoder::new(starts, s.st, s.t, &h, before).unwrap();
                out.extend(open.replace(next).as_ref().map(finish));
            }
        }
    }
    out.extend(open.as_ref().map(finish));
    out
}

pub(crate) fn run(cases: u32, test: impl Fn(&mut Oracle, Vec<Step>) -> Result<(), TestCaseError>) {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let oracle = std::cell::RefCell::new(Oracle::start("prometheus-blocks").unwrap());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner.run(&steps(), |steps| test(&mut oracle.borrow_mut(), steps)).unwrap();
}

fn same_bytes(
    oracle: &mut Oracle,
    encoding: Encoding,
    samples: &[Exact],
    cut: u16,
    after: bool,
) -> Result<(), TestCaseError> {
    let number = encoding.to_prometheus();
    let request =
        json!({"op": "encode", "encoding": number, "samples": wire::samples(samples), "cut": cut, "prev": after});
    let theirs = wire::read_chunks(&oracle.ask(&request).unwrap()["chunks"]);
    let ours = encode(encoding, samples, cut, after);
    prop_assert_eq!(&ours, &theirs);
    for chunk in &ours {
        let request = json!({"op": "decode", "encoding": number, "data": wire::hex(&chunk.data)});
        let theirs = wire::read_samples(&oracle.ask(&request).unwrap()["samples"]);
        let ours: Vec<_> = exact(encoding, chunk.data.clone()).unwrap().map(Result::unwrap).collect();
        // Debug output tells NaNs of the same bits from others no better than `==`; the wire does.
        prop_assert_eq!(wire::samples(&ours), wire::samples(&theirs));
        prop_assert_eq!(ours.len(), usize::from(chunk.samples));
    }
    Ok(())
}

#[test]
fn floats_become_the_same_bytes() {
    run(80, |oracle, steps| {
        same_bytes(oracle, Encoding::Xor, &floats(&steps, false), 120, false)?;
        same_bytes(oracle, Encoding::Xor2, &floats(&steps, false), 150, false)?;
        same_bytes(oracle, Encoding::Xor2, &floats(&steps, true), 150, false)
    });
}

#[test]
fn histograms_become_the_same_bytes() {
    run(100, |oracle, steps| {
        for after in [false, true] {
            same_bytes(oracle, Encoding::Histogram, &histograms(&steps, false, false), 25, after)?;
            same_bytes(oracle, Encoding::FloatHistogram, &histograms(&steps, false, true), 25, after)?;
        }
        same_bytes(oracle, Encoding::HistogramSt, &histograms(&steps, true, false), 25, true)?;
        same_bytes(oracle, Encoding::FloatHistogramSt, &histograms(&steps, true, true), 25, true)
    });
}

/// A long run without a cut, in which a start time first changes at and behind the last number that the head can hold.
#[test]
fn late_start_times_become_the_same_bytes() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("prometheus-blocks").unwrap();
    for change in [1, 2, 126, 127, 128, 200] {
        let at = |i: i64| if i < change { 7 } else { 1_000 + i / 2 };
        let floats: Vec<_> = (0..220).map(|i| Exact { st: at(i), t: i * 1000, v: Value::Float(i as f64) }).collect();
        same_bytes(&mut oracle, Encoding::Xor2, &floats, 400, false).unwrap();
        let h = |i: i64| IntHistogram { count: i as u64, sum: i as f64, ..IntHistogram::default() };
        let histograms: Vec<_> =
            (0..220).map(|i| Exact { st: at(i), t: i * 1000, v: Value::Histogram(h(i)) }).collect();
        same_bytes(&mut oracle, Encoding::HistogramSt, &histograms, 400, false).unwrap();
    }
}

#[test]
fn series_of_mixed_kinds_are_cut_as_prometheus_cuts_them() {
    run(50, |oracle, steps| {
        let all = [
            floats(&steps, false),
            floats(&steps, true),
            histograms(&steps, false, false),
            histograms(&steps, true, true),
        ];
        // Runs of one kind, their length from the first step of each.
        let (mut samples, mut i) = (Vec::new(), 0);
        while let Some(s) = steps.get(i) {
            let run = if s.time < 100 { 150 } else { 1 + usize::from(s.odd) % 20 };
            let from = &all[usize::from(s.value) % 4];
            samples.extend_from_slice(&from[i..from.len().min(i + run)]);
            i += run;
        }
        for xor2 in [false, true] {
            let request = json!({"op": "recode", "samples": wire::samples(&samples), "xor2": xor2});
            let theirs = wire::read_chunks(&oracle.ask(&request).unwrap()["chunks"]);
            let mut recoder = Recoder::new(xor2);
            samples.iter().for_each(|s| recoder.push(s).unwrap());
            prop_assert_eq!(recoder.finish(), theirs);
        }
        Ok(())
    });
}

/// Both sides of every border: widths of time differences, zeros in front of a XOR, widths of counts, thresholds and bounds that
/// have a short form.
#[test]
fn the_edges_become_the_same_bytes() {
    if testkit::peers::skip(&["prometheus-blocks"]) {
        return;
    }
    let mut oracle = Oracle::start("prometheus-blocks").unwrap();
    let around = |n: i64| [n - 1, n, n + 1, -n - 1, -n, -n + 1];
    let changes = [0, 1 << 12, 1 << 13, 1 << 16, 1 << 19, 1 << 40].into_iter().flat_map(around);
    let (mut t, mut delta) = (0i64, 0i64);
    let times: Vec<i64> = changes
        .map(|change| {
            delta += change;
            t += delta;
            t
        })
        .collect();
    let values = (0..64u32).rev().flat_map(|n| [f64::from_bits(u64::MAX >> n), 0.0, f64::from_bits(1 << n), 0.0]);
    let floats: Vec<_> = values
        .zip(times.iter().cycle().zip(0..))
        .map(|(v, (time, i))| Exact {
            st: 0,
            t: *time + (i / times.len() as i64) * 1_000_000_000_000_000,
            v: Value::Float(v),
        })
        .collect();
    for encoding in [Encoding::Xor, Encoding::Xor2] {
        same_bytes(&mut oracle, encoding, &floats, 400, false).unwrap();
    }

    let widths = [3u32, 6, 9, 12, 18, 25, 56, 63];
    let counts = widths
        .into_iter()
        .flat_map(|w| [(1u64 << (w - 1)) - 1, 1 << (w - 1), (1 << (w - 1)) + 1, (1 << w) - 1, 1 << w]);
    let gauges: Vec<_> = counts
        .flat_map(|n| [n, 0])
        .zip(0..)
        .map(|(n, i)| {
            let span = vec![Span { offset: 0, length: 2 }];
            let h = IntHistogram {
                reset_hint: ResetHint::Gauge,
                count: n,
                zero_count: n / 2,
                positive_spans: span,
                positive_buckets: vec![n, 0],
                ..IntHistogram::default()
            };
            Exact { st: 0, t: i, v: Value::Histogram(h) }
        })
        .collect();
    same_bytes(&mut oracle, Encoding::Histogram, &gauges, 400, false).unwrap();

    // Each of these needs a chunk of its own.
    let powers = [-1074, -1022, -245, -244, -243, -128, 0, 9, 10, 11, 1023];
    let thresholds = powers.into_iter().map(|n| 2f64.powi(n)).chain([0.0, -0.0, -1.0, 0.3, f64::INFINITY]);
    let bounds = [0.001, 0.29, 1.001, 33_554.43, 33_554.431, 1.0005, -0.0, -1.0, 1e300, f64::INFINITY];
    let thresholds = thresholds.map(|zero_threshold| FloatHistogram { zero_threshold, ..FloatHistogram::default() });
    let bounds = bounds.map(|bound| FloatHistogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        custom_values: vec![bound, 0.29, bound],
        ..FloatHistogram::default()
    });
    let layouts: Vec<_> =
        thresholds.chain(bounds).zip(0..).map(|(h, t)| Exact { st: 0, t, v: Value::FloatHistogram(h) }).collect();
    same_bytes(&mut oracle, Encoding::FloatHistogram, &layouts, 400, false).unwrap();
}
