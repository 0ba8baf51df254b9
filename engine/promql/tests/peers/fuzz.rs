//! G25: random queries over random data, ours beside a real Prometheus, to the tolerances of [`crate::compare`].

use crate::compare::{
    Answer, counts_resets, difference, is_unstable, joins_apart, ours, ranks_without_order, theirs, warns_without_order,
};
use crate::data::{self, LENGTH, START};
use crate::metamorphic;
use crate::queries::query;
use crate::server::{read_back, start};
use crate::shrink::{show_data, shrink};
use model::FloatHistogram;
use promql::exec::memory::MemorySource;
use promql::exec::{EngineOptions, Helpers, Plan, RatioHash, Samples, Source as _, Stop, Times};
use promql::parse::Options;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::goal::{Goal, Rng};
use testkit::prometheus::Prometheus;

/// A Prometheus with data, and the same data for us.
pub(crate) struct Pair {
    pub(crate) peer: Prometheus,
    pub(crate) source: MemorySource,
    pub(crate) options: EngineOptions,
}

impl Pair {
    /// With fresh data.
    pub(crate) fn new(r: &mut Rng, delayed_name_removal: bool) -> Self {
        Self::with(r, if delayed_name_removal { ",promql-delayed-name-removal" } else { "" }, delayed_name_removal)
    }

    /// With features of Prometheus beside those that open the language.
    pub(crate) fn with(r: &mut Rng, features: &str, delayed_name_removal: bool) -> Self {
        let series = data::generate(r);
        let peer = start(&series, features);
        let source = read_back(&peer, START - 3_600_000, START + 2 * LENGTH);
        assert_eq!(source.len(), series.len(), "Prometheus holds what it was given");
        let options = EngineOptions {
            parser: Options { x_functions: false, ..Options::ALL },
            delayed_name_removal,
            max_samples: 500_000_000,
            dropped_labels: Some(Vec::new()),
            helpers: Helpers::new(1),
            ratio_hash: RatioHash::Prometheus,
            ..EngineOptions::default()
        };
        Self { peer, source, options }
    }

    /// Prometheus's answer as it comes.
    pub(crate) fn get(&self, query: &str, times: Times, more: &str) -> testkit::http::Answer {
        let form = match times {
            Times::Instant(t) => format!("query?time={}", t as f64 / 1000.0),
            Times::Range { start, end, step } => format!(
                "query_range?start={}&end={}&step={}",
                start as f64 / 1000.0,
                end as f64 / 1000.0,
                step as f64 / 1000.0
            ),
        };
        let url = format!("{}/api/v1/{form}{more}&query={}", self.peer.url(), testkit::http::encode(query));
        testkit::http::get(&url).unwrap()
    }

    pub(crate) fn ask(&self, query: &str, times: Times) -> Answer {
        theirs(&serde_json::from_str(&self.get(query, times, "").body).unwrap())
    }

    pub(crate) fn answer(&self, query: &str, times: Times) -> Answer {
        let plan = Plan::new(query, times, &self.options);
        ours(query, plan.and_then(|p| p.execute(&self.source, &Stop::new())))
    }

    /// True if Prometheus itself has several answers, of which `first` is one: to a ranking of ties whose order it does not
    /// fix, or in warnings about series in no order.
    fn wavers(&self, query: &str, times: Times, first: &Answer, what: &str) -> bool {
        const AGAIN: usize = 50;
        (ranks_without_order(query, times) || what.starts_with("annotations") && warns_without_order(query, times))
            && (0..AGAIN).any(|_| difference(first, &self.ask(query, times)).is_some_and(|d| !d.starts_with("error")))
    }

    /// True if resets decide and a histogram that is read has lost a bucket in a way that Prometheus overlooks: among the
    /// buckets beyond its last one it looks at the first only, which is empty here.
    fn overlooks_a_reset(&self, query: &str, times: Times) -> bool {
        let beyond = |now: &FloatHistogram, before: &FloatHistogram, side: f64| {
            let of = |h: &FloatHistogram| {
                let all = promql::histogram_buckets(h).into_iter();
                let mut side: Vec<(f64, f64)> = all
                    .filter(|b| b.lower * side >= 0.0 && b.upper * side > 0.0)
                    .map(|b| (b.lower.abs().max(b.upper.abs()), b.count))
                    .collect();
                side.sort_by(|a, b| a.0.total_cmp(&b.0));
                side
            };
            let last = of(now).last().map_or(0.0, |b| b.0);
            let mut lost = of(before).into_iter().filter(|b| b.0 > last);
            lost.next().is_some_and(|b| b.1 == 0.0) && lost.any(|b| b.1 != 0.0)
        };
        let Ok(plan) = Plan::new(query, times, &self.options) else { return false };
        counts_resets(query)
            && plan.selects().iter().any(|request| {
                let (mut set, mut found) = (self.source.select(request).unwrap(), false);
                while let Some(entry) = set.next_series().unwrap() {
                    let mut samples = Samples::default();
                    entry.data.decode(&mut samples).unwrap();
                    found |= samples.histograms.windows(2).any(|pair| {
                        let (before, now) = (&pair[0].1, &pair[1].1);
                        beyond(now, before, 1.0) || beyond(now, before, -1.0)
                    });
                }
                found
            })
    }

    /// See [`joins_apart`].
    fn joins_apart(&self, query: &str, times: Times) -> bool {
        joins_apart(&self.answer(query, times), || match times {
            Times::Instant(t) => self.ask(query, Times::Range { start: t, end: t, step: 1 }),
            Times::Range { .. } => self.ask(query, times),
        })
    }

    /// What differs between the two, if anything does.
    pub(crate) fn differ(&self, query: &str, times: Times) -> Option<String> {
        difference(&self.ask(query, times), &self.answer(query, times))
    }
}

/// Times around the data: on and off its grid, one step, steps that don't divide the range.
pub(crate) fn times(r: &mut Rng) -> Times {
    let start = START + (r.below(50) as i64 - 3) * 60_000 + [0, 0, 1, 7_500].get(r.below(4)).copied().unwrap_or(0);
    match r.below(5) {
        0 | 1 => Times::Instant(start),
        2 => Times::Range { start, end: start, step: 60_000 },
        _ => {
            let step = [15_000, 30_000, 60_000, 37_000, 120_000, 1_000].get(r.below(6)).copied().unwrap_or(30_000);
            Times::Range { start, end: start + step * r.below(25) as i64 + 500, step }
        }
    }
}

#[test]
fn goal_g25_random_queries_equal_prometheus() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let goal = Goal::start("G25");
    let (sets, per_set) = goal.pick((2, 400), (10, 2000), (40, 5000));
    let (asked, failed, values) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (differences, unstable): (Mutex<Vec<String>>, Mutex<Vec<String>>) = Default::default();
    for set in 0..sets {
        let pair = Pair::new(&mut goal.rng(&format!("data {set}")), set % 3 == 1);
        let work = |part: usize| {
            let mut r = goal.rng(&format!("queries {set} {part}"));
            for _ in 0..per_set / 2 {
                let (text, when) = (query(&mut r), times(&mut r));
                let answer = pair.answer(&text, when);
                asked.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(usize::from(answer.error.is_some()), Ordering::Relaxed);
                values.fetch_add(answer.series.values().map(Vec::len).sum(), Ordering::Relaxed);
                let peer = pair.ask(&text, when);
                let found = difference(&peer, &answer).or_else(|| {
                    if asked.load(Ordering::Relaxed) % 8 == 0 {
                        metamorphic::check(&pair, &text, when, &answer)
                    } else {
                        None
                    }
                });
                if let Some(what) = found {
                    // Judged is the least that still differs, so that a large query is not excused by one of its parts.
                    let (small, when, what) = shrink(&pair, &text, when, what);
                    if is_unstable(&small, &what)
                        || pair.joins_apart(&small, when)
                        || pair.overlooks_a_reset(&small, when)
                        || pair.wavers(&small, when, &pair.ask(&small, when), &what)
                    {
                        unstable.lock().unwrap().push(format!("{small} at {when:?}: {what}\n  shrunk from {text}"));
                        continue;
                    }
                    let mut all = differences.lock().unwrap();
                    let read = if all.len() < 12 { show_data(&pair, &small, when) } else { String::new() };
                    all.push(format!("data {set}: {small}\n  at {when:?}\n  {what}\n  shrunk from {text}\n{read}"));
                    if all.len() > 200 {
                        return;
                    }
                }
            }
        };
        std::thread::scope(|s| {
            s.spawn(|| work(1));
            work(0);
        });
    }
    let (asked, failed, values) = (asked.into_inner(), failed.into_inner(), values.into_inner());
    let (differences, unstable) = (differences.into_inner().unwrap(), unstable.into_inner().unwrap());
    let shown = differences.iter().take(15).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(differences.is_empty(), "{} of {asked} random queries differ from Prometheus\n{shown}", differences.len());
    let shown = unstable.iter().take(5).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(unstable.len() * 200 <= asked, "{} of {asked} answers turn over by a last bit\n{shown}", unstable.len());
    assert!(
        failed * 2 < asked && values > asked,
        "{asked} queries, {failed} errors, {values} values: too little to compare"
    );
    goal.figure(&format!(
        "{asked} random queries with {values} values and {failed} errors, 0 differences, {} turned over by a last bit",
        unstable.len()
    ));
}

/// `PANOPTES_ASK='up;rate(x[5m])' cargo test -p promql --test peers ask -- --ignored`: both sides' answers to your queries,
/// 20 minutes into the data of `PANOPTES_SEED` (or at `PANOPTES_AT`, `time` or `start,end,step` in milliseconds; `PANOPTES_DATA` is the number of the data).
#[test]
#[ignore = "a tool"]
fn ask() {
    let set: usize = std::env::var("PANOPTES_DATA").map_or(0, |s| s.parse().unwrap());
    let pair = Pair::new(&mut Goal::start("G25").rng(&format!("data {set}")), set % 3 == 1);
    let numbers = std::env::var("PANOPTES_AT").unwrap_or_else(|_| (START + 1_200_000).to_string());
    let numbers: Vec<i64> = numbers.split(',').map(|n| n.parse().unwrap()).collect();
    let when = match *numbers {
        [start, end, step] => Times::Range { start, end, step },
        _ => Times::Instant(numbers[0]),
    };
    for query in std::env::var("PANOPTES_ASK").unwrap_or_default().split(';') {
        eprintln!("{query}\n  theirs {:?}\n  ours   {:?}", pair.ask(query, when), pair.answer(query, when));
    }
}
