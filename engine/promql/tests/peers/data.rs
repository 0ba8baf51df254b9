//! Series that are hard to evaluate: resets, gaps, markers, extreme values, histograms of every kind.

use model::histogram::{CUSTOM_BUCKETS_SCHEMA, ResetHint, Span};
use model::sample::{Sample, Value};
use model::{FloatHistogram, Labels};
use std::sync::Arc;
use testkit::goal::Rng;

/// The marker for the end of a series.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// The first time, milliseconds; a whole hour.
pub(crate) const START: i64 = 1_700_002_800_000;
/// How long data is, milliseconds.
pub(crate) const LENGTH: i64 = 45 * 60_000;

pub(crate) type Series = (Labels, Vec<Sample>);

/// Series sorted by labels: Prometheus numbers them in this order, and so sums, rankings and limits take them in the
/// same order as we do.
pub(crate) fn generate(r: &mut Rng) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    let interval = [15_000, 30_000, 60_000, 7_000].get(r.below(4)).copied().unwrap_or(15_000);
    for name in ["requests_total", "errors_total", "load", "limit", "hist", "hist_gauge", "custom", "mixed"] {
        for (a, b) in [("x", "1"), ("x", "2"), ("y", "1"), ("y", "2"), ("z", "")] {
            if r.one_in(4) {
                continue;
            }
            let labels = Labels::from_pairs([("__name__", name), ("a", a), ("b", b), ("job", "api"), ("instance", a)]);
            let samples = series(r, name, interval);
            all.push((labels, samples));
        }
    }
    for a in ["x", "y"] {
        all.extend(classic(r, a, interval));
        let version = ["v1", "v2"].get(r.below(2)).copied().unwrap_or("v1");
        let info = [("__name__", "target_info"), ("job", "api"), ("instance", a), ("version", version)];
        all.push((Labels::from_pairs(info), floats(r, interval, |_, _| 1.0)));
    }
    let odd = [("__name__", "näme with spaces"), ("lä bel", "ü"), ("a", "x")];
    all.push((Labels::from_pairs(odd), floats(r, interval, |r, _| r.below(9) as f64)));
    all.retain(|(_, samples)| !samples.is_empty());
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn series(r: &mut Rng, name: &str, interval: i64) -> Vec<Sample> {
    match name {
        "requests_total" | "errors_total" => {
            let (whole, still) = (r.one_in(2), r.one_in(6));
            let mut v = r.below(1000) as f64;
            floats(r, interval, move |r, _| {
                match r.below(25) {
                    0 => v = 0.0,
                    1 => v = r.below(50) as f64,
                    2 => v += 1e9,
                    _ if still => {}
                    _ if whole => v += r.below(30) as f64,
                    _ => v += r.below(1000) as f64 / 7.0,
                }
                v
            })
        }
        "load" | "limit" => {
            let wild = r.one_in(3);
            let mut v = r.below(200) as f64 - 100.0;
            floats(r, interval, move |r, i| match r.below(if wild { 12 } else { 1000 }) {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => f64::NEG_INFINITY,
                3 => 1e308,
                4 => -0.0,
                // Not less: of subnormal numbers Go's logarithm on amd64 is wrong.
                5 => f64::MIN_POSITIVE,
                _ => {
                    v += r.below(21) as f64 - 10.0;
                    if wild && i % 2 == 0 { -v } else { v }
                }
            })
        }
        "mixed" => {
            let mut h = Growing::new(r, name);
            times(r, interval)
                .into_iter()
                .map(|t| {
                    let v = if (t / 300_000) % 2 == 0 { Value::Float(r.below(9) as f64) } else { h.next(r) };
                    Sample { t, v }
                })
                .collect()
        }
        _ => {
            let (mut h, times_of) = (Growing::new(r, name), times(r, interval));
            let mut next = |t| {
                let v = h.next(r);
                Sample { t, v: marked(r, v) }
            };
            times_of.into_iter().map(&mut next).collect()
        }
    }
}

/// Times with jitter and gaps.
fn times(r: &mut Rng, interval: i64) -> Vec<i64> {
    let jitter = if r.one_in(2) { 400 } else { 1 };
    let (mut t, mut all) = (START + r.below(3) as i64 * interval, Vec::new());
    while t < START + LENGTH {
        match r.below(40) {
            0 => t += interval * 25,
            1 => t += interval * 3,
            _ => all.push(t + r.below(jitter) as i64),
        }
        t += interval;
    }
    all
}

fn floats(r: &mut Rng, interval: i64, mut value: impl FnMut(&mut Rng, usize) -> f64) -> Vec<Sample> {
    let mut all = Vec::new();
    for (i, t) in times(r, interval).into_iter().enumerate() {
        let v = Value::Float(value(r, i));
        all.push(Sample { t, v: marked(r, v) });
    }
    all
}

/// Now and then a marker instead of the value.
fn marked(r: &mut Rng, v: Value) -> Value {
    if !r.one_in(50) {
        return v;
    }
    match v {
        Value::Float(_) => Value::Float(f64::from_bits(STALE)),
        Value::Histogram(_) => {
            Value::Histogram(Arc::new(FloatHistogram { sum: f64::from_bits(STALE), ..FloatHistogram::default() }))
        }
    }
}

/// One bound is spelled twice.
const BOUNDS: &[&str] = &["0.1", "1", "1.0", "10", "+Inf"];

/// A classic histogram's buckets; some lack the last one, or fall where they should not.
fn classic(r: &mut Rng, a: &str, interval: i64) -> Vec<Series> {
    let bounds: &[&str] = if r.one_in(4) { &["0.1", "1", "10"] } else { BOUNDS };
    let crooked = r.one_in(3);
    let times = times(r, interval);
    let mut rows: Vec<Vec<Sample>> = vec![Vec::new(); bounds.len()];
    let mut totals = vec![0.0; bounds.len()];
    for t in times {
        let mut below = 0.0;
        for (row, total) in rows.iter_mut().zip(&mut totals) {
            below += r.below(5) as f64;
            *total += if crooked && r.one_in(9) { below / 2.0 } else { below };
            row.push(Sample { t, v: Value::Float(*total) });
        }
    }
    let label = |le: &str| {
        let pairs = [("__name__", "latency_bucket"), ("a", a), ("le", le), ("job", "api"), ("instance", a)];
        Labels::from_pairs(pairs)
    };
    bounds.iter().zip(rows).map(|(le, row)| (label(le), row)).collect()
}

/// A histogram that is observed into.
struct Growing {
    h: FloatHistogram,
    gauge: bool,
}

impl Growing {
    fn new(r: &mut Rng, name: &str) -> Self {
        let (gauge, custom) = (name == "hist_gauge", name == "custom");
        Self { h: Self::fresh(r, gauge, custom), gauge }
    }

    fn fresh(r: &mut Rng, gauge: bool, custom: bool) -> FloatHistogram {
        let reset_hint = if gauge { ResetHint::Gauge } else { ResetHint::Unknown };
        if custom {
            let custom_values = if r.one_in(4) { vec![0.5, 2.0, 8.0] } else { vec![0.5, 1.0, 2.0, 4.0] };
            let length = custom_values.len() as u32 + 1;
            return FloatHistogram {
                reset_hint,
                schema: CUSTOM_BUCKETS_SCHEMA,
                positive_spans: vec![Span { offset: 0, length }],
                positive_buckets: vec![0.0; length as usize],
                custom_values,
                ..FloatHistogram::default()
            };
        }
        let spans = vec![Span { offset: -2, length: 3 }, Span { offset: r.below(3) as i32, length: 2 }];
        let negative = r.one_in(2);
        FloatHistogram {
            reset_hint,
            schema: [0, 1, 3, -1].get(r.below(4)).copied().unwrap_or(0),
            // Below every bucket of every schema, as clients make it.
            zero_threshold: [0.001, 0.01, 0.0].get(r.below(3)).copied().unwrap_or(0.0),
            positive_buckets: vec![0.0; 5],
            negative_spans: if negative { vec![Span { offset: 0, length: 2 }] } else { Vec::new() },
            negative_buckets: if negative { vec![0.0; 2] } else { Vec::new() },
            positive_spans: spans,
            ..FloatHistogram::default()
        }
    }

    fn next(&mut self, r: &mut Rng) -> Value {
        let custom = self.h.has_custom_buckets();
        if r.one_in(20) {
            self.h = Self::fresh(r, self.gauge, custom);
        }
        let h = &mut self.h;
        for b in h.positive_buckets.iter_mut().chain(&mut h.negative_buckets) {
            *b += r.below(4) as f64;
        }
        if !custom {
            h.zero_count += r.below(3) as f64;
        }
        if self.gauge && r.one_in(2) {
            for b in h.positive_buckets.iter_mut() {
                *b = (*b - 2.0).max(0.0);
            }
        }
        h.count = h.zero_count + h.positive_buckets.iter().chain(&h.negative_buckets).sum::<f64>();
        h.sum += r.below(100) as f64 / 3.0 - if h.negative_buckets.is_empty() { 0.0 } else { 10.0 };
        Value::Histogram(Arc::new(h.clone()))
    }
}
