//! How queries are executed: threads, rewrites of the plan, budgets, explanations.

use super::support::Lab;
use promql::exec::{Account, EngineOptions, Helpers, Plan, Rewrites, Stop, Times};

/// Queries that touch every operator.
const QUERIES: &[&str] = &[
    "requests_total",
    "sum by (a) (rate(requests_total[1m])) / sum by (a) (rate(requests_total[1m])) + 0",
    "rate(limit[1m]) + rate(limit[1m])",
    "limit / limit",
    "requests_total and limit",
    "requests_total unless requests_total > 10 or limit",
    "topk(2, requests_total) by (a)",
    "bottomk(1, -requests_total)",
    "limitk(2, requests_total)",
    "limit_ratio(0.5, requests_total)",
    "quantile by (a) (0.3, requests_total)",
    "count_values(\"v\", requests_total)",
    "requests_total{b=\"1\"} + requests_total",
    "max_over_time(rate(requests_total[1m])[5m:30s])",
    "sort(requests_total)",
    "label_replace(requests_total, \"c\", \"$1\", \"a\", \"(.*)\")",
    "absent(requests_total{a=\"none\"})",
    "1 + 2 * min_of(3, 4) > bool vector(1)",
    "histogram_quantile(0.5, requests_total)",
    "avg(requests_total) + stddev(requests_total) * on () group_left () count(limit)",
    "-requests_total % 7",
    "requests_total @ end() offset 1m",
];

/// Many series with gaps and uneven values, so that the order of additions shows in the last bits.
fn crowd() -> Lab {
    let mut lab = Lab::new();
    for i in 0..210 {
        let series = format!("requests_total{{a=\"{}\",b=\"{i}\"}}", i % 7);
        let limit = format!("limit{{a=\"{}\",b=\"{i}\"}}", i % 7);
        let value =
            move |k: i64| if (k + i) % 11 == 0 { f64::NAN } else { (k * (i + 1)) as f64 / 7.0 + 1e9 / (i + 1) as f64 };
        let (of, last) = (move |k: &i64| (k + i) % 5 != 0, 80);
        for k in (0..last).filter(of) {
            lab.source.push(&promql::parse::parse_metric(&series).unwrap(), k * 10_000, value(k));
            if i % 3 == 0 {
                lab.source.push(&promql::parse::parse_metric(&limit).unwrap(), k * 10_000, value(k) / 3.0);
            }
        }
    }
    lab.options.dropped_labels = Some(Vec::new());
    lab
}

/// Long answers are not worth printing.
fn same(a: &str, b: &str, what: &str) {
    let at = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let near = |s: &str| s.get(at.saturating_sub(80)..(at + 80).min(s.len())).unwrap_or_default().to_owned();
    assert!(a == b, "{what}: at {at} of {} and {}\n{}\n{}", a.len(), b.len(), near(a), near(b));
}

fn bits(lab: &Lab, query: &str, times: Times, options: &EngineOptions) -> String {
    let result = Plan::new(query, times, options).and_then(|p| p.execute(&lab.source, &Stop::new()));
    match result {
        // Debug prints floats so that they read back to the same bits; warnings with their positions and order.
        Ok(r) => format!("{:?} {:?}", r.value, r.annotations.strings(query, 0)),
        Err(e) => format!("error: {e}"),
    }
}

#[test]
fn threads_do_not_show_in_a_single_bit() {
    let lab = crowd();
    for query in QUERIES {
        for times in [Times::Instant(500_000), Times::Range { start: 0, end: 800_000, step: 13_000 }] {
            let with = |n| EngineOptions { helpers: Helpers::new(n), ..lab.options.clone() };
            let alone = bits(&lab, query, times, &with(0));
            for n in [1, 3, 7] {
                same(&alone, &bits(&lab, query, times, &with(n)), &format!("{query} with {n} helpers"));
            }
        }
    }
}

#[test]
fn threads_do_not_show_in_what_is_too_much() {
    let lab = crowd();
    let times = Times::Range { start: 0, end: 800_000, step: 1000 };
    for query in ["sum by (a) (rate(requests_total[1m]))", "requests_total", "topk(2, requests_total * 2) by (a)"] {
        let run = |max_samples, helpers| {
            let options = EngineOptions { max_samples, helpers: Helpers::new(helpers), ..lab.options.clone() };
            let plan = Plan::new(query, times, &options).unwrap();
            plan.execute(&lab.source, &Stop::new()).map(|r| r.stats.peak_samples).map_err(|e| e.to_string())
        };
        let most = run(0, 0).unwrap();
        for helpers in [0, 1, 3, 7] {
            assert_eq!(run(0, helpers), Ok(most), "{query}");
            assert_eq!(run(most, helpers), Ok(most), "{query} with {helpers} helpers");
            assert!(run(most - 1, helpers).is_err(), "{query} with {helpers} helpers");
        }
    }
}

#[test]
fn rewrites_change_neither_values_nor_annotations() {
    let lab = crowd();
    let one = |f: fn(&mut Rewrites)| {
        let mut r = Rewrites::NONE;
        f(&mut r);
        r
    };
    let all = [
        Rewrites::ALL,
        one(|r| r.fold_constants = true),
        one(|r| r.propagate_matchers = true),
        one(|r| r.merge_selects = true),
        one(|r| r.share_subtrees = true),
        one(|r| r.projection = true),
    ];
    for query in QUERIES {
        for times in [Times::Instant(500_000), Times::Range { start: 0, end: 800_000, step: 13_000 }] {
            let with = |rewrites| EngineOptions { rewrites, ..lab.options.clone() };
            let plain = bits(&lab, query, times, &with(Rewrites::NONE));
            for r in all {
                same(&plain, &bits(&lab, query, times, &with(r)), &format!("{query} with {r:?}"));
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_evaluated_in_parts() {
    let lab = crowd();
    let times = Times::Range { start: 0, end: 800_000, step: 1000 };
    for query in ["quantile by (a) (0.3, requests_total)", "count_values by (a) (\"v\", floor(requests_total * 1e-8))"]
    {
        let with = |max_bytes| EngineOptions { max_bytes, ..lab.options.clone() };
        let whole = bits(&lab, query, times, &with(0));
        // 210 series of 801 steps are more than 1 MiB.
        same(&whole, &bits(&lab, query, times, &with(1 << 20)), query);
    }
}

#[test]
fn plans_explain_themselves() {
    let lab = crowd();
    let query = "sum by (a) (rate(requests_total{a=\"1\"}[1m])) / sum by (a) (rate(requests_total[1m])) + (1 + 2)";
    let times = Times::Range { start: 0, end: 800_000, step: 60_000 };
    let plan = Plan::new(query, times, &lab.options).unwrap();
    assert_eq!(plan.selects().len(), 1, "one select covers the other");
    let text = plan.explain().text();
    for part in ["[join] /", "[aggregate] sum by (a)", "[function] rate (by slices)", "[window] 1m over", "[number] 3"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.contains("labels __name__, a") && text.contains("filtered by {a=\"1\"}"), "{text}");
    let clock = model::world::RealClock::default();
    let (_, analysis) = plan.analyze(&lab.source, &Stop::new(), &Account::new(&lab.options), &clock).unwrap();
    let json = analysis.json();
    let rate = &json["children"][0]["children"][1]["children"][0];
    assert_eq!(
        (rate["name"].as_str(), rate["series"].as_u64()),
        (Some("[function] rate (by slices)"), Some(210)),
        "{json}"
    );
}

#[test]
fn groups_and_partners_are_looked_for_once_per_series() {
    let lab = crowd();
    // 210 series of requests_total, of which 70 have a limit.
    for (query, series) in [
        ("sum by (a) (requests_total)", 210),
        ("avg without (b) (rate(requests_total[1m]))", 210),
        ("topk by (a) (2, requests_total)", 210),
        ("limitk by (a) (2, requests_total)", 210),
        ("quantile by (a) (0.3, requests_total)", 210),
        ("histogram_quantile(0.5, requests_total)", 210),
        ("requests_total / limit", 280),
        ("requests_total * on (a, b) group_left limit", 280),
        ("limit * on (a, b) group_right requests_total", 280),
        ("limit + fill (1) requests_total", 280),
        ("requests_total and limit", 280),
        ("requests_total unless limit", 280),
        ("limit or requests_total", 280),
    ] {
        for steps in [1, 2, 800] {
            let times = Times::Range { start: 100_000, end: 100_000 + (steps - 1) * 500, step: 500 };
            let plan = Plan::new(query, times, &lab.options).unwrap();
            let clock = model::world::RealClock::default();
            let (_, told) = plan.analyze(&lab.source, &Stop::new(), &Account::new(&lab.options), &clock).unwrap();
            assert_eq!(told.measured.unwrap().matched, series, "{query} at {steps} steps");
            assert_eq!(told.json()["matched"], series, "{query}");
        }
    }
}

#[test]
fn thanos_functions_look_before_the_window() {
    let lab = Lab::new().load(60, "c_total", [1.0, 2.0, 5.0, 5.0, 1.0, 4.0]).load(600, "new_total", [7.0]);
    assert_eq!(lab.at(300, "xincrease(c_total[2m])"), ["{} 4"]);
    assert_eq!(lab.at(300, "xrate(c_total[2m])"), ["{} 0.03333333333333333"]);
    assert_eq!(lab.at(300, "xdelta(c_total[2m])"), ["{} -1"]);
    // A counter that has just appeared began at zero.
    assert_eq!(lab.at(60, "xincrease(new_total[5m])"), ["{} 7"]);
    assert_eq!(lab.at(400, "xincrease(new_total[5m])"), ["{} 0"]);
    assert_eq!(lab.at(4000, "xincrease(new_total[5m])"), [""; 0]);
    assert!(lab.error(0, "xrate(c_total[5m:1m])").contains("works on range selectors"));
}
