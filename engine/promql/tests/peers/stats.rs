//! Samples per step, as `stats=all` tells them with `promql-per-step-stats`: ours beside a real Prometheus.

use crate::compare::answers_otherwise;
use crate::data::{LENGTH, START};
use crate::fuzz::{Pair, times};
use crate::queries::query;
use promql::exec::{EngineOptions, Plan, Rewrites, StepSamples, Stop, Times};
use serde_json::Value as Json;
use testkit::goal::Rng;

/// Counts by time, milliseconds.
type Counts = Vec<(i64, u64)>;

/// What Prometheus tells: samples that steps look at, those that they read, and the totals of both. `None` if the query fails.
fn theirs(pair: &Pair, query: &str, times: Times) -> Option<(Counts, Counts, [u64; 2])> {
    let answer: Json = serde_json::from_str(&pair.get(query, times, "&stats=all").body).unwrap();
    let samples = &answer["data"]["stats"]["samples"];
    if answer["status"] != "success" {
        return None;
    }
    let list = |name: &str| {
        let all = samples[name].as_array().unwrap_or_else(|| panic!("no {name} in {answer:.2000}"));
        all.iter().map(|p| ((p[0].as_f64().unwrap() * 1000.0).round() as i64, p[1].as_u64().unwrap())).collect()
    };
    let total = |name: &str| samples[name].as_u64().unwrap();
    let totals = [total("totalQueryableSamples"), total("samplesRead")];
    Some((list("totalQueryableSamplesPerStep"), list("samplesReadPerStep"), totals))
}

/// The same of ours. Matchers stay where they are written: who selects less looks at less.
fn ours(pair: &Pair, query: &str, times: Times, helpers: usize) -> Option<(Counts, Counts, [u64; 2])> {
    let rewrites = Rewrites { propagate_matchers: false, ..Rewrites::ALL };
    let helpers = promql::exec::Helpers::new(helpers);
    let options = EngineOptions { count_samples: true, rewrites, helpers, ..pair.options.clone() };
    let plan = Plan::new(query, times, &options).ok()?;
    let steps: StepSamples = plan.execute(&pair.source, &Stop::new()).ok()?.stats.steps.unwrap();
    let totals = [steps.queryable.iter().sum(), steps.read.iter().sum()];
    Some((steps.by_time(&steps.queryable).collect(), steps.by_time(&steps.read).collect(), totals))
}

const QUERIES: &[&str] = &[
    "requests_total",
    "load + on (a, b) limit",
    "hist",
    "mixed",
    "rate(requests_total[5m])",
    "sum by (a) (increase(hist[2m]))",
    "max_over_time(mixed[90s] offset 1m)",
    "rate(requests_total[30s])",
    "rate(requests_total[2m] anchored)",
    "rate(requests_total[2m] smoothed)",
    "load @ 1700004000",
    "sum(rate(requests_total[5m] @ 1700004000)) + load",
    "predict_linear(load[5m] @ 1700004000, time())",
    "max_over_time(rate(requests_total[1m])[5m:30s])",
    "max_over_time(sum(load)[45s:10s] offset 30s)",
    "sum_over_time((load @ 1700004000)[2m:30s])",
    "max_over_time(max_over_time(load[1m])[2m:30s])[3m:1m]",
    "max_over_time(max_over_time(load[1m:20s])[2m:30s])",
    "timestamp(load)",
    "timestamp(hist)",
    "histogram_count(hist) / histogram_sum(hist)",
    "histogram_quantile(0.9, sum by (le) (rate(latency_bucket[1m])))",
    "rate(requests_total[5m]) / rate(requests_total[5m])",
    "absent_over_time(nothing[5m]) or load",
    "nothing * load",
    "nothing and load",
    "topk(0, load)",
    "topk(1, load) + scalar(limit{a=\"x\",b=\"1\"})",
    "quantile by (a) (scalar(load{a=\"x\",b=\"1\"}), load)",
    "info(load)",
    "load[5m]",
    "mixed[10m] @ 1700004000",
    "rate(requests_total[1m])[5m:30s]",
    "vector(1)",
    "time()",
];

#[test]
fn samples_per_step_are_those_of_prometheus() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let mut r = Rng(0x5747);
    let pair = Pair::with(&mut r, ",promql-per-step-stats", false);
    let start = START + LENGTH / 2;
    let grids = [
        Times::Instant(start),
        Times::Range { start, end: start + 600_000, step: 60_000 },
        Times::Range { start: start + 1, end: start + 400_000, step: 15_000 },
        Times::Range { start, end: start + 3_000_500, step: 700_000 },
        Times::Range { start, end: start, step: 1000 },
    ];
    let (mut compared, mut samples) = (0, 0);
    let mut both = |query: &str, when: Times| {
        if let (Some(theirs), Some(ours)) = (theirs(&pair, query, when), ours(&pair, query, when, 0)) {
            assert_eq!(ours, theirs, "{query} at {when:?}");
            compared += 1;
            samples += ours.2[0];
        }
    };
    for query in QUERIES {
        grids.iter().for_each(|when| both(query, *when));
    }
    for _ in 0..1000 {
        let (text, when) = (query(&mut r), times(&mut r));
        // A histogram that was computed may have its buckets in other spans, so that it is of another size.
        let computed = text.contains(':') && ["hist", "custom", "mixed", "{"].iter().any(|w| text.contains(w));
        if !computed && !answers_otherwise(&text) {
            both(&text, when);
        }
    }
    assert!(compared > 300 && samples > 100_000, "{compared} queries with {samples} samples");
    // Threads and a small memory change nothing.
    for query in QUERIES {
        for when in grids {
            assert_eq!(ours(&pair, query, when, 0), ours(&pair, query, when, 3), "{query}");
        }
    }
}
