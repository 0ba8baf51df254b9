//! The engine alone, over chunks in memory: 5,000 series × 8 h of samples 15 s apart, at 60 s steps.
//!
//! `cargo bench -p promql` prints a line per query: CPU seconds and the peak of memory beyond the chunks.
//! `cargo bench -p promql -- rate --helpers 1` runs those whose name contains `rate`, with one thread beside the caller's.
//! The comparison with other engines over the same blocks is `make bench`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a benchmark talks and may fail")]

use model::{FloatHistogram, Labels};
use promql::exec::{
    Encoded, EngineOptions, Entry, Helpers, Plan, QueryError, QueryValue, Samples, SelectRequest, SeriesSet, Source,
    Stop, Times,
};
use tsdb::chunk::histogram::{Appended, HistogramEncoder};
use tsdb::chunk::{self, ChunkError, Columns, Encoding, XorEncoder};

const SERIES: usize = 5000;
const SAMPLES: i64 = 8 * 3600 / 15;
const STEP_MS: i64 = 15_000;
const PER_CHUNK: i64 = 120;
const START: i64 = 1_700_000_000_000;

const QUERIES: &[(&str, &str)] = &[
    ("raw", "requests_total"),
    ("sum by rate", "sum by (job) (rate(requests_total[5m]))"),
    ("rate", "rate(requests_total[5m])"),
    ("count", "count(requests_total)"),
    ("classic quantile", "histogram_quantile(0.9, sum by (job, le) (rate(latency_bucket[5m])))"),
    ("native quantile", "histogram_quantile(0.9, sum by (job) (rate(latency[5m])))"),
    ("group_left", "rate(requests_total[5m]) * on (instance) group_left (version) build_info"),
    ("topk max_over_time", "topk(10, max_over_time(requests_total[5m]))"),
    ("subquery", "max_over_time(sum by (job) (rate(requests_total[5m]))[30m:1m])"),
    ("series subquery", "max_over_time(rate(requests_total[5m])[30m:1m])"),
    ("shared", "sum by (job) (rate(requests_total[5m])) / sum by (job) (rate(requests_total[5m])) + 1"),
    ("quantile", "quantile by (job) (0.9, rate(requests_total[5m]))"),
    ("avg_over_time 1h", "sum(avg_over_time(requests_total[1h]))"),
];

struct Series {
    labels: Labels,
    chunks: Vec<(Encoding, bytes::Bytes)>,
}

struct Chunks(Vec<Series>);

impl Source for Chunks {
    fn select<'s>(&'s self, request: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
        let found: Vec<&Series> =
            self.0.iter().filter(|s| request.matchers.iter().all(|m| m.matches_labels(&s.labels))).collect();
        Ok(Box::new(Set(found.into_iter())))
    }

    fn repeatable(&self) -> bool {
        true
    }
}

struct Set<'s>(std::vec::IntoIter<&'s Series>);

impl<'s> SeriesSet<'s> for Set<'s> {
    fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
        Ok(self.0.next().map(|s| Entry { labels: s.labels.clone(), data: Box::new(One(s)) }))
    }
}

struct One<'s>(&'s Series);

impl Encoded for One<'_> {
    fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
        let failed = |e: ChunkError| QueryError::Storage(e.to_string());
        let mut columns = Columns { times: std::mem::take(&mut out.times), values: std::mem::take(&mut out.floats) };
        for (encoding, data) in &self.0.chunks {
            if encoding.is_float() {
                chunk::floats(*encoding, data, &mut columns).map_err(failed)?;
                continue;
            }
            if out.wants_rows && chunk::histograms(*encoding, data, &mut out.table, |_| true).map_err(failed)? {
                continue;
            }
            for s in chunk::decode(*encoding, data.clone()).map_err(failed)? {
                let s = s.map_err(failed)?;
                if let model::sample::Value::Histogram(h) = s.v {
                    out.push_histogram(s.t, h);
                }
            }
        }
        (out.times, out.floats) = (columns.times, columns.values);
        Ok(())
    }
}

fn floats(labels: Labels, value: impl Fn(i64) -> f64) -> Series {
    let mut chunks = Vec::new();
    for from in (0..SAMPLES).step_by(PER_CHUNK as usize) {
        let mut e = XorEncoder::default();
        for i in from..(from + PER_CHUNK).min(SAMPLES) {
            e.append(START + i * STEP_MS, value(i)).unwrap();
        }
        chunks.push((Encoding::Xor, e.bytes()));
    }
    Series { labels, chunks }
}

fn histograms(labels: Labels, scale: i64) -> Series {
    let at = |i: i64| FloatHistogram {
        schema: 3,
        zero_threshold: 1e-9,
        count: (i * scale * 20) as f64,
        sum: (i * scale) as f64 * 1.5,
        positive_spans: vec![model::histogram::Span { offset: -8, length: 20 }],
        positive_buckets: (0..20).map(|b| (i * scale + (i * b) % 7 / 7) as f64).collect(),
        ..FloatHistogram::default()
    };
    let mut chunks = Vec::new();
    for from in (0..SAMPLES).step_by(PER_CHUNK as usize) {
        let mut e = HistogramEncoder::<f64>::new(false, 0, START + from * STEP_MS, &at(from), None).unwrap();
        for i in from + 1..(from + PER_CHUNK).min(SAMPLES) {
            if let Appended::Cut(full) = e.append(0, START + i * STEP_MS, &at(i)).unwrap() {
                chunks.push((full.encoding(), full.bytes()));
            }
        }
        chunks.push((e.encoding(), e.bytes()));
    }
    Series { labels, chunks }
}

fn data() -> Chunks {
    let mut all = Vec::new();
    for i in 0..SERIES {
        let (job, instance) = (format!("job-{}", i % 20), format!("10.0.{}.{}:9100", i % 10, (i / 10) % 25));
        let l = |name: &str, more: &[(&str, String)]| {
            let base = [("__name__", name.to_owned()), ("job", job.clone()), ("instance", instance.clone())];
            Labels::from_pairs(base.iter().chain(more).map(|(n, v)| (*n, v.as_str())))
        };
        let slope = (i % 17 + 1) as i64;
        // A restart now and then.
        let counter = move |k: i64| (k % (700 + i as i64 % 900) * slope + k * k % 13) as f64;
        all.push(floats(l("requests_total", &[("pod", format!("pod-{i}")), ("code", "200".to_owned())]), counter));
        if i < 250 {
            all.push(floats(
                Labels::from_pairs([("__name__", "build_info"), ("instance", &instance), ("version", "v1.2.3")]),
                |_| 1.0,
            ));
        }
        if i < SERIES / 10 {
            for (b, le) in ["0.005", "0.01", "0.05", "0.1", "0.5", "1", "2.5", "5", "10", "+Inf"].iter().enumerate() {
                let more = [("pod", format!("pod-{i}")), ("le", (*le).to_owned())];
                all.push(floats(l("latency_bucket", &more), move |k| (k * slope * (b as i64 + 1)) as f64));
            }
            all.push(histograms(l("latency", &[("pod", format!("pod-{i}"))]), slope));
        }
    }
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    Chunks(all)
}

/// CPU time of all threads, seconds.
fn cpu() -> f64 {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    nanos as f64 / 1e9
}

/// Resident bytes now (`VmRSS`) or at most since the last reset (`VmHWM`), MiB.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let helpers = args.iter().position(|a| a == "--helpers").map_or(0, |i| args[i + 1].parse().unwrap());
    let wanted = args.first().filter(|a| !a.starts_with("--")).cloned().unwrap_or_default();
    let source = data();
    let chunks: usize = source.0.iter().flat_map(|s| &s.chunks).map(|(_, d)| d.len()).sum();
    println!("{} series, {:.1} MiB of chunks, {helpers} helpers", source.0.len(), chunks as f64 / 1048576.0);
    let options =
        EngineOptions { helpers: Helpers::new(helpers), dropped_labels: Some(Vec::new()), ..EngineOptions::default() };
    let clock = model::world::RealClock::default();
    let elapsed = || model::world::Clock::elapsed(&clock).as_secs_f64();
    println!(
        "{:20} {:>8} {:>8} {:>10} {:>10} {:>8} {:>12}",
        "query", "cpu s", "wall s", "+rss MiB", "held MiB", "series", "samples"
    );
    for (name, query) in QUERIES.iter().filter(|(n, _)| n.contains(&wanted)) {
        let (start, end) = (START, START + 8 * 3_600_000 - 60_000);
        let plan = Plan::new(query, Times::Range { start, end, step: 60_000 }, &options).unwrap();
        let mut best: Option<(f64, f64, f64)> = None;
        let mut line = String::new();
        for _ in 0..3 {
            let _ = std::fs::write("/proc/self/clear_refs", "5");
            let (before, c, w) = (memory("VmRSS"), cpu(), elapsed());
            let result = plan.execute(&source, &Stop::new()).unwrap();
            let now = (cpu() - c, elapsed() - w, memory("VmHWM") - before);
            let QueryValue::Matrix(m) = &result.value else { panic!("{query}") };
            best = Some(best.map_or(now, |b| (b.0.min(now.0), b.1.min(now.1), b.2.max(now.2))));
            let held = result.stats.peak_bytes as f64 / 1048576.0;
            line = format!("{held:10.1} {:8} {:12}", m.len(), result.stats.samples_read);
            std::hint::black_box(&m);
        }
        let (c, w, rss) = best.unwrap();
        println!("{name:20} {c:8.3} {w:8.3} {rss:10.1} {line}");
    }
}
