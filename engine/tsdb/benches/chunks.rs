//! How long a sample takes: our codecs, and Prometheus's own on the same chunks (`cargo bench -p tsdb`, part of `make bench`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use model::histogram::{IntHistogram, Span};
use serde_json::json;
use std::hint::black_box;
use std::time::Instant;
use testkit::oracle::Oracle;
use tsdb::chunk::{self, Chunk, Columns, Exact, Recoder, Value};

const SERIES: usize = 400;
const SAMPLES: i64 = 480;
const ROUNDS: usize = 15;
const REPEAT: usize = 5;

/// Enough of a generator for series that differ (xorshift).
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A kind of series: the jitter of its scrapes in ms, and what happens to its value.
type Kind = (&'static str, u64, fn(f64, &mut Noise) -> f64);

const KINDS: [Kind; 5] = [
    ("constant, steady scrapes", 0, |v, _| v),
    ("counter, steady scrapes", 0, |v, n| v + n.below(100) as f64),
    ("counter, jitter", 7, |v, n| v + n.below(100) as f64),
    ("mostly constant, jitter", 7, |v, n| if n.below(10) == 0 { v + 1.0 } else { v }),
    ("gauge of fractions, jitter", 7, |v, n| v + n.below(1000) as f64 / 997.0 - 0.5),
];

fn floats((_, jitter, next): &Kind, xor2: bool) -> (Vec<Exact>, Vec<Chunk>) {
    let (mut noise, mut all, mut chunks) = (Noise(88_172_645_463_325_252), Vec::new(), Vec::new());
    for _ in 0..SERIES {
        let (mut v, mut recoder) = (noise.below(1000) as f64, Recoder::new(xor2));
        for i in 0..SAMPLES {
            let late = if *jitter == 0 { 0 } else { noise.below(*jitter) as i64 };
            v = next(v, &mut noise);
            let s = Exact { st: 0, t: 1_700_000_000_000 + i * 15_000 + late, v: Value::Float(v) };
            recoder.push(&s).unwrap();
            all.push(s);
        }
        chunks.extend(recoder.finish());
    }
    (all, chunks)
}

fn histograms() -> (Vec<Exact>, Vec<Chunk>) {
    let (mut noise, mut all, mut chunks) = (Noise(88_172_645_463_325_252), Vec::new(), Vec::new());
    for _ in 0..SERIES / 10 {
        let (mut counts, mut recoder) = (vec![0u64; 20], Recoder::default());
        for i in 0..SAMPLES {
            counts.iter_mut().for_each(|c| *c += noise.below(5));
            let h = IntHistogram {
                schema: 3,
                zero_threshold: 2f64.powi(-128),
                count: counts.iter().sum(),
                sum: i as f64 * 0.37,
                positive_spans: vec![Span { offset: -4, length: 12 }, Span { offset: 3, length: 8 }],
                positive_buckets: counts.clone(),
                ..IntHistogram::default()
            };
            let s = Exact { st: 0, t: 1_700_000_000_000 + i * 15_000, v: Value::Histogram(h) };
            recoder.push(&s).unwrap();
            all.push(s);
        }
        chunks.extend(recoder.finish());
    }
    (all, chunks)
}

/// The best of some rounds, in nanoseconds per sample.
fn best(samples: usize, mut work: impl FnMut()) -> f64 {
    let one = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..REPEAT).for_each(|_| work());
        start.elapsed().as_nanos() as f64 / (samples * REPEAT) as f64
    };
    (0..ROUNDS).map(|_| one(&mut work)).fold(f64::MAX, f64::min)
}

fn theirs(oracle: &mut Oracle, chunks: &[Chunk]) -> f64 {
    let hex = |data: &[u8]| data.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let chunks: Vec<_> =
        chunks.iter().map(|c| json!({"encoding": c.encoding.to_prometheus(), "data": hex(&c.data)})).collect();
    let request = json!({"op": "bench", "chunks": chunks, "rounds": REPEAT});
    let one = |oracle: &mut Oracle| {
        let answer = oracle.ask(&request).unwrap();
        answer["nanoseconds"].as_f64().unwrap() / answer["samples"].as_f64().unwrap()
    };
    (0..ROUNDS).map(|_| one(oracle)).fold(f64::MAX, f64::min)
}

fn main() {
    let mut oracle = Oracle::start("prometheus-blocks").unwrap();
    println!(
        "ns per sample: what | Prometheus reads | we read one by one | into columns | we write | bytes per sample"
    );
    for xor2 in [false, true] {
        for kind in &KINDS {
            let (samples, chunks) = floats(kind, xor2);
            let n = samples.len();
            let one_by_one = best(n, || {
                let mut sum = 0.0;
                for c in &chunks {
                    if xor2 {
                        chunk::Xor2Iter::new(c.data.clone()).unwrap().for_each(|s| sum += s.unwrap().1);
                    } else {
                        chunk::XorIter::new(c.data.clone()).unwrap().for_each(|s| sum += s.unwrap().1);
                    }
                }
                black_box(sum);
            });
            let mut columns = Columns::default();
            let at_once = best(n, || {
                for c in &chunks {
                    columns.clear();
                    chunk::floats(c.encoding, &c.data, &mut columns).unwrap();
                    black_box(&columns);
                }
            });
            report(
                &format!("{}, {}", chunks[0].encoding, kind.0),
                &mut oracle,
                &samples,
                &chunks,
                one_by_one,
                Some(at_once),
            );
        }
    }
    let (samples, chunks) = histograms();
    let one_by_one = best(samples.len(), || {
        for c in &chunks {
            chunk::decode(c.encoding, c.data.clone()).unwrap().for_each(|s| {
                black_box(s.unwrap());
            });
        }
    });
    report("histogram of 20 buckets", &mut oracle, &samples, &chunks, one_by_one, None);
}

fn report(what: &str, oracle: &mut Oracle, samples: &[Exact], chunks: &[Chunk], one_by_one: f64, at_once: Option<f64>) {
    let xor2 = chunks.iter().any(|c| c.encoding == chunk::Encoding::Xor2);
    let write = best(samples.len(), || {
        let mut recoder = Recoder::new(xor2);
        samples.iter().for_each(|s| recoder.push(s).unwrap());
        black_box(recoder.finish());
    });
    let bytes: usize = chunks.iter().map(|c| c.data.len()).sum();
    let at_once = at_once.map_or_else(|| "–".to_owned(), |ns| format!("{ns:.2}"));
    let theirs = theirs(oracle, chunks);
    let each = bytes as f64 / samples.len() as f64;
    println!("{what} | {theirs:.2} | {one_by_one:.2} | {at_once} | {write:.2} | {each:.2}");
}
