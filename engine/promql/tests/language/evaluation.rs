//! One test per construct of the language, on small data with answers worked out by hand.

use super::support::Lab;
use promql::exec::budget::{Limit, Phase};
use promql::exec::{EngineOptions, Plan, QueryError, Rewrites, Source, Stop, Times};

/// A counter of 1 per second and two gauges, every 10 s.
fn lab() -> Lab {
    let counter = |per_step: f64| (0..61).map(move |i| f64::from(i) * per_step);
    Lab::new()
        .load(10, r#"requests_total{job="a",code="200"}"#, counter(10.0))
        .load(10, r#"requests_total{job="a",code="500"}"#, counter(1.0))
        .load(10, r#"requests_total{job="b",code="200"}"#, counter(20.0))
        .load(10, r#"limit{job="a"}"#, std::iter::repeat_n(100.0, 61))
        .load(10, r#"limit{job="b"}"#, std::iter::repeat_n(50.0, 61))
        .load(10, r#"limit{job="c"}"#, std::iter::repeat_n(7.0, 61))
}

#[test]
fn selectors_look_back_and_stop_at_markers() {
    let stale = model::sample::stale_nan();
    let lab = Lab::new().load(60, "x", [1.0, 2.0, stale]).load(60, "y", [1.0, 2.0]);
    assert_eq!(lab.at(60, "x"), ["x 2"]);
    assert_eq!(lab.at(119, "x"), ["x 2"]);
    assert!(lab.at(120, "x").is_empty(), "the marker ends it");
    assert_eq!(lab.at(359, "y"), ["y 2"]);
    assert!(lab.at(360, "y").is_empty(), "a sample of exactly the lookback's age is gone");
    assert_eq!(lab.at(120, "x[5m]"), ["x 1@0 2@60"], "markers are no samples");
    assert_eq!(lab.over(0, 180, 60, "x"), ["x 1@0 2@60"]);
}

#[test]
fn modifiers_move_the_time() {
    let lab = lab();
    assert_eq!(lab.at(600, r#"requests_total{job="b"} offset 1m"#), [r#"requests_total{code="200", job="b"} 1080"#]);
    assert_eq!(lab.at(600, r#"requests_total{job="b"} @ 60"#), [r#"requests_total{code="200", job="b"} 120"#]);
    assert_eq!(
        lab.over(0, 20, 10, r#"requests_total{job="b"} @ end()"#),
        [r#"requests_total{code="200", job="b"} 40@0 40@10 40@20"#]
    );
    assert_eq!(lab.at(300, r#"sum_over_time(limit{job="c"}[20s] @ 100 offset -10s)"#), [r#"{job="c"} 14"#]);
}

#[test]
fn rates_extrapolate() {
    let lab = lab();
    assert_eq!(
        lab.at(600, r#"rate(requests_total{code="200"}[1m])"#),
        [r#"{code="200", job="a"} 1"#, r#"{code="200", job="b"} 2"#]
    );
    assert_eq!(lab.at(600, r#"increase(requests_total{job="b"}[1m])"#), [r#"{code="200", job="b"} 120"#]);
    assert_eq!(lab.at(600, r#"irate(requests_total{job="b"}[1m])"#), [r#"{code="200", job="b"} 2"#]);
    // A reset: 0 10 20 5 15, every 10 s.
    let reset = Lab::new().load(10, "c_total", [0.0, 10.0, 20.0, 5.0, 15.0]);
    assert_eq!(reset.at(40, "resets(c_total[50s])"), ["{} 1"]);
    assert_eq!(reset.at(40, "increase(c_total[40s])"), ["{} 33.33333333333333"]);
    assert!(reset.at(40, "rate(c_total[10s])").is_empty(), "one sample is not enough");
    assert_eq!(reset.notes(40, "rate(c_total[1m])"), [""; 0]);
    let gauge = Lab::new().load(10, "temperature", [1.0, 2.0]);
    assert_eq!(
        gauge.notes(10, "sum(rate(temperature[1m]))"),
        [
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"temperature\" \
         (1:10)"
        ]
    );
}

#[test]
fn aggregations_group() {
    let lab = lab();
    assert_eq!(lab.at(10, "sum by (job) (requests_total)"), [r#"{job="a"} 11"#, r#"{job="b"} 20"#]);
    assert_eq!(lab.at(10, "sum without (job, code) (requests_total)"), ["{} 31"]);
    assert_eq!(lab.at(10, "count(requests_total)"), ["{} 3"]);
    assert_eq!(lab.at(10, "avg(limit)"), ["{} 52.333333333333336"]);
    assert_eq!(lab.at(10, "min(limit)"), ["{} 7"]);
    assert_eq!(lab.at(10, "max(limit)"), ["{} 100"]);
    assert_eq!(lab.at(10, "group(limit)"), ["{} 1"]);
    assert_eq!(lab.at(10, "stdvar(limit)"), ["{} 1444.222222222222"]);
    assert_eq!(lab.at(10, "quantile(0.5, limit)"), ["{} 50"]);
    assert_eq!(lab.at(10, "topk(2, limit)"), [r#"limit{job="a"} 100"#, r#"limit{job="b"} 50"#]);
    assert_eq!(lab.at(10, "bottomk(1, limit)"), [r#"limit{job="c"} 7"#]);
    assert_eq!(lab.at(10, r#"count_values("v", requests_total >= 10)"#), [r#"{v="10"} 1"#, r#"{v="20"} 1"#]);
    assert_eq!(lab.at(10, "count(limitk(2, limit))"), ["{} 2"]);
    assert_eq!(lab.at(10, "count(limit_ratio(0.5, limit) or limit_ratio(-0.5, limit))"), ["{} 3"]);
    assert_eq!(lab.over(0, 20, 10, "sum(requests_total)"), ["{} 0@0 31@10 62@20"]);
    assert_eq!(
        lab.notes(10, "quantile(2, limit)"),
        ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:10)"]
    );
}

#[test]
fn sums_are_compensated() {
    let lab =
        Lab::new().load(10, r#"x{n="1"}"#, [1e100]).load(10, r#"x{n="2"}"#, [1.0]).load(10, r#"x{n="3"}"#, [-1e100]);
    assert_eq!(lab.at(0, "sum(x)"), ["{} 1"]);
    let huge = Lab::new().load(10, r#"x{n="1"}"#, [f64::MAX]).load(10, r#"x{n="2"}"#, [f64::MAX]);
    assert_eq!(huge.at(0, "avg(x)"), ["{} 1.7976931348623157e+308"]);
}

#[test]
fn vectors_are_joined() {
    let lab = lab();
    assert_eq!(lab.at(10, r#"sum by (job) (requests_total) / limit"#), [r#"{job="a"} 0.11"#, r#"{job="b"} 0.4"#]);
    assert_eq!(
        lab.at(10, "requests_total * on (job) group_left limit"),
        [r#"{code="200", job="a"} 1000"#, r#"{code="200", job="b"} 1000"#, r#"{code="500", job="a"} 100"#]
    );
    assert_eq!(
        lab.at(10, "limit - on (job) group_right requests_total{code=\"200\"}"),
        [r#"{code="200", job="a"} 90"#, r#"{code="200", job="b"} 30"#]
    );
    assert_eq!(
        lab.error(10, "limit * on (job) requests_total"),
        "found duplicate series for the match group {job=\"a\"} on the right hand-side of the operation: \
         [{__name__=\"requests_total\", code=\"500\", job=\"a\"}, {__name__=\"requests_total\", code=\"200\", job=\"a\"}];\
         many-to-many matching not allowed: matching labels must be unique on one side"
    );
    assert_eq!(
        lab.error(10, "requests_total * on (job) limit"),
        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
    );
    assert_eq!(lab.at(10, "limit and on (job) requests_total{code=\"500\"}"), [r#"limit{job="a"} 100"#]);
    assert_eq!(lab.at(10, "limit unless on (job) requests_total"), [r#"limit{job="c"} 7"#]);
    assert_eq!(lab.at(10, r#"limit{job="a"} or limit{job=~"a|b"}"#), [r#"limit{job="a"} 100"#, r#"limit{job="b"} 50"#]);
    assert_eq!(lab.at(10, r#"limit{job="a"} + fill(1) limit{job="c"}"#), [r#"{job="a"} 101"#, r#"{job="c"} 8"#]);
}

#[test]
fn comparisons_filter_or_tell() {
    let lab = lab();
    assert_eq!(lab.at(10, "limit > 10"), [r#"limit{job="a"} 100"#, r#"limit{job="b"} 50"#]);
    assert_eq!(lab.at(10, "10 > limit"), [r#"limit{job="c"} 7"#]);
    assert_eq!(lab.at(10, "limit >= bool 50"), [r#"{job="a"} 1"#, r#"{job="b"} 1"#, r#"{job="c"} 0"#]);
    assert_eq!(lab.at(10, "limit < +Inf == 7"), [r#"limit{job="c"} 7"#]);
    assert_eq!(lab.at(10, "1 > bool 2"), ["0"]);
    assert_eq!(
        lab.over(0, 20, 10, r#"requests_total{job="b"} > 0"#),
        [r#"requests_total{code="200", job="b"} 20@10 40@20"#]
    );
}

#[test]
fn scalars_and_precedence() {
    let lab = lab();
    assert_eq!(lab.at(10, "-1 ^ 2 + 2 ^ 3 ^ 2 % 5"), ["1"]);
    assert_eq!(lab.at(10, "time()"), ["10"]);
    assert_eq!(lab.at(10, "scalar(limit{job=\"c\"}) * 2"), ["14"]);
    assert_eq!(lab.at(10, "scalar(limit)"), ["NaN"]);
    assert_eq!(lab.at(10, "vector(3) - 1"), ["{} 2"]);
    assert_eq!(lab.at(10, "-limit{job=\"c\"}"), [r#"{job="c"} -7"#]);
    assert_eq!(lab.at(10, "\"text\""), ["text"]);
    assert_eq!(lab.over(0, 20, 10, "time() * 2"), ["{} 0@0 20@10 40@20"]);
    assert_eq!(lab.over(0, 20, 10, "step() + range() + end()"), ["{} 50@0 50@10 50@20"]);
}

#[test]
fn subqueries_have_their_own_grid() {
    let lab = lab();
    assert_eq!(
        lab.at(605, r#"requests_total{job="b"}[1m:20s]"#),
        [r#"requests_total{code="200", job="b"} 1120@560 1160@580 1200@600"#]
    );
    assert_eq!(
        lab.at(600, r#"max_over_time(rate(requests_total{job="b"}[1m])[5m:1m])"#),
        [r#"{code="200", job="b"} 2"#]
    );
    assert_eq!(lab.over(300, 360, 60, r#"sum_over_time(vector(1)[1m:10s])"#), ["{} 6@300 6@360"]);
}

#[test]
fn windows_of_all_kinds() {
    let lab = Lab::new().load(10, "x", [3.0, 1.0, 4.0, 1.0, 5.0]);
    for (query, value) in [
        ("sum_over_time(x[1m])", "14"),
        ("avg_over_time(x[1m])", "2.8"),
        ("min_over_time(x[1m])", "1"),
        ("max_over_time(x[1m])", "5"),
        ("count_over_time(x[1m])", "5"),
        ("last_over_time(x[30s])", "5"),
        ("first_over_time(x[30s])", "4"),
        ("present_over_time(x[1m])", "1"),
        ("quantile_over_time(0.5, x[1m])", "3"),
        ("stdvar_over_time(x[1m])", "2.56"),
        ("mad_over_time(x[1m])", "2"),
        ("changes(x[1m])", "4"),
        ("resets(x[1m])", "2"),
        ("delta(x[40s])", "5.333333333333333"),
        ("idelta(x[1m])", "4"),
        ("deriv(x[1m])", "0.04"),
        ("predict_linear(x[1m], 10)", "3.9999999999999996"),
        ("ts_of_min_over_time(x[1m])", "30"),
        ("ts_of_max_over_time(x[1m])", "40"),
        ("ts_of_first_over_time(x[20s])", "30"),
        ("ts_of_last_over_time(x[20s])", "40"),
    ] {
        let answer = lab.at(40, query);
        assert_eq!(answer.len(), 1, "{query}");
        assert!(answer[0].ends_with(&format!(" {value}")), "{query}: {answer:?}");
    }
    assert_eq!(lab.at(40, "absent_over_time(y{a=\"b\"}[1m])"), [r#"{a="b"} 1"#]);
    assert!(lab.at(40, "absent_over_time(x[1m])").is_empty());
    assert_eq!(
        lab.error(40, "double_exponential_smoothing(x[1m], 2, 0.5)"),
        "invalid smoothing factor. Expected: 0 < sf < 1, got: 2.000000"
    );
}

#[test]
fn functions_of_values_labels_and_times() {
    let lab = lab();
    assert_eq!(lab.at(10, "clamp(limit, 10, 60)"), [r#"{job="a"} 60"#, r#"{job="b"} 50"#, r#"{job="c"} 10"#]);
    assert!(lab.at(10, "clamp(limit, 2, 1)").is_empty());
    assert_eq!(lab.at(10, "round(limit{job=\"c\"}, 5)"), [r#"{job="c"} 5"#]);
    assert_eq!(lab.at(10, "sqrt(limit{job=\"a\"})"), [r#"{job="a"} 10"#]);
    assert_eq!(lab.at(13, "timestamp(limit{job=\"a\"})"), [r#"{job="a"} 10"#]);
    assert_eq!(lab.at(13, "timestamp(-limit{job=\"a\"})"), [r#"{job="a"} 13"#]);
    assert_eq!(lab.at(0, "year()"), ["{} 1970"]);
    assert_eq!(lab.at(10, "absent(nothing{x=\"y\"})"), [r#"{x="y"} 1"#]);
    assert!(lab.at(10, "absent(limit)").is_empty());
    assert_eq!(lab.at(10, "sort(limit)"), [r#"limit{job="c"} 7"#, r#"limit{job="b"} 50"#, r#"limit{job="a"} 100"#]);
    assert_eq!(
        lab.at(10, r#"label_replace(limit{job="a"}, "x", "$1-y", "job", "(.*)")"#),
        [r#"limit{job="a", x="a-y"} 100"#]
    );
    assert_eq!(lab.at(10, r#"label_join(limit{job="a"}, "x", "+", "job", "job")"#), [r#"limit{job="a", x="a+a"} 100"#]);
    assert_eq!(
        lab.error(10, r#"label_replace(limit, "job", "", "", "")"#),
        "vector cannot contain metrics with the same labelset"
    );
    // Bytes that are no text name no label.
    for (query, role, function) in [
        (r#"label_replace(limit, "\xff", "", "job", "(.*)")"#, "destination", "label_replace"),
        (r#"label_join(limit, "x", "+", "job", "\xff")"#, "source", "label_join"),
        (r#"label_join(limit, "\xff", "+", "job")"#, "destination", "label_join"),
    ] {
        assert_eq!(lab.error(10, query), format!("invalid {role} label name in {function}(): \u{fffd}"));
    }
    assert_eq!(
        lab.error(10, r#"abs({__name__=~"limit|requests_total", code!="500", job="b"} * 0 + ignoring(code) 1)"#)
            .split(':')
            .next(),
        Some("1")
    );
}

#[test]
fn names_that_are_dropped_may_collide() {
    let lab = Lab::new().load(10, r#"a{x="1"}"#, [1.0, 2.0]).load(10, r#"b{x="1"}"#, [1.0]);
    assert_eq!(lab.error(0, r#"abs({x="1"})"#), "vector cannot contain metrics with the same labelset");
    assert_eq!(
        lab.error(0, r#"rate({x="1"}[1m])"#.replace("rate", "sum_over_time").as_str()),
        "vector cannot contain metrics with the same labelset"
    );
}

#[test]
fn classic_quantiles() {
    let mut lab = Lab::new();
    for (le, v) in [("1", 10.0), ("2", 20.0), ("+Inf", 20.0)] {
        lab = lab.load(10, &format!(r#"h_bucket{{job="a",le="{le}"}}"#), [v]);
    }
    assert_eq!(lab.at(0, "histogram_quantile(0.75, h_bucket)"), [r#"{job="a"} 1.5"#]);
    assert_eq!(lab.at(0, "histogram_quantile(0.75, sum by (le) (h_bucket))"), ["{} 1.5"]);
    assert_eq!(lab.at(0, "histogram_fraction(0, 1, h_bucket)"), [r#"{job="a"} 0.5"#]);
    assert_eq!(
        lab.at(0, r#"histogram_quantiles(h_bucket, "q", 0.5, 0.75)"#),
        [r#"{job="a", q="0.5"} 1"#, r#"{job="a", q="0.75"} 1.5"#]
    );
    assert_eq!(
        lab.notes(0, "histogram_quantile(2, h_bucket)"),
        ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:20)"]
    );
    let bad = Lab::new().load(10, "x", [1.0]);
    assert_eq!(
        bad.notes(0, "histogram_quantile(0.5, x)"),
        ["PromQL warning: bucket label \"le\" is missing or has a malformed value of \"\" (1:25)"]
    );
}

#[test]
fn info_metrics_add_labels() {
    let lab = Lab::new().load(10, r#"up{instance="i",job="j"}"#, [1.0]).load(
        10,
        r#"target_info{instance="i",job="j",version="3",os="linux"}"#,
        [1.0],
    );
    assert_eq!(lab.at(0, "info(up)"), [r#"up{instance="i", job="j", os="linux", version="3"} 1"#]);
    assert_eq!(lab.at(0, r#"info(up, {version=~".+"})"#), [r#"up{instance="i", job="j", version="3"} 1"#]);
    assert!(lab.at(0, r#"info(up, {missing=~".+"})"#).is_empty());
}

#[test]
fn selects_are_known_beforehand() {
    let options = EngineOptions::default();
    let query = r#"sum by (job) (rate(a_total[5m] offset 1m)) / max_over_time(b[10m:1m])"#;
    let plan = Plan::new(query, Times::Range { start: 3_600_000, end: 7_200_000, step: 60_000 }, &options).unwrap();
    let [a, b] = plan.selects() else { panic!("two selects: {:?}", plan.selects()) };
    assert_eq!((a.mint, a.maxt), (3_600_000 - 360_000 + 1, 7_200_000 - 60_000));
    assert_eq!((a.hints.func.as_str(), a.hints.range_ms, a.hints.step_ms), ("rate", 300_000, 60_000));
    assert_eq!((b.mint, b.maxt), (3_600_000 - 540_000 - 300_000 + 1, 7_200_000));
    assert_eq!(b.hints.func, "max_over_time");
    assert_eq!(b.matchers.len(), 1);
    let sum = Plan::new("sum by (job) (a)", Times::Instant(0), &options).unwrap();
    assert_eq!((sum.selects()[0].hints.grouping.clone(), sum.selects()[0].hints.by), (vec!["job".to_owned()], true));
}

#[test]
fn limits_and_the_end_of_patience() {
    let mut lab = lab();
    lab.options.max_samples = 100;
    assert_eq!(lab.run("requests_total[10m]", Times::Instant(600_000)).unwrap_err(), QueryError::TooManySamples);
    lab.options.max_samples = 0;
    // Columns count even where they are empty.
    lab.options.max_bytes = 1 << 20;
    let times = Times::Range { start: 0, end: 100_000_000, step: 1000 };
    let error = lab.run("requests_total", times).unwrap_err().to_string();
    assert!(error.contains("more than the 1048576 bytes that one query may hold"), "{error}");
    let error = lab.run("sum(requests_total)", times).unwrap_err();
    let QueryError::TooManyBytes(e) = error else { panic!("{error}") };
    assert_eq!((e.limit, e.phase, e.max), (Limit::Query, Phase::Evaluation, 1 << 20));
    // Nothing is read when even one series is too much.
    let times = Times::Range { start: 0, end: 1_000_000_000, step: 1000 };
    let error = lab.run("requests_total + time()", times).unwrap_err();
    let QueryError::TooManyBytes(e) = error else { panic!("{error}") };
    assert_eq!(e.phase, Phase::Estimate);
    let stop = Stop::new();
    let plan = Plan::new("sum(requests_total)", Times::Instant(0), &lab.options).unwrap();
    stop.cancel();
    assert_eq!(plan.execute(&lab.source, &stop).unwrap_err(), QueryError::Canceled);
    let stop = Stop::new();
    stop.expire();
    assert_eq!(plan.execute(&lab.source, &stop).unwrap_err().to_string(), "query timed out in expression evaluation");
    let endless = Plan::new("sum_over_time(vector(1)[1y:1ms])", Times::Instant(0), &lab.options).unwrap_err();
    assert!(endless.to_string().contains("use a larger step"), "{endless}");
    let range = Times::Range { start: 0, end: 10, step: 0 };
    assert!(matches!(Plan::new("up", range, &lab.options), Err(QueryError::BadRequest(_))));
    let range = Times::Range { start: 0, end: 10, step: 1 };
    assert_eq!(
        Plan::new("up[5m]", range, &lab.options).unwrap_err().to_string(),
        "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector"
    );
}

#[test]
fn deep_trees_are_evaluated_on_a_small_stack() {
    let deep =
        (0..400).fold("up".to_owned(), |q, i| if i % 2 == 0 { format!("{q} + 1") } else { format!("{q} or up") });
    let lab = Lab::new().load(10, "up", [1.0]);
    assert_eq!(lab.at(0, &deep).len(), 1);
}

/// A source that gives each select once, as a stream does.
struct Once<'a>(&'a promql::exec::memory::MemorySource, std::sync::Mutex<Vec<usize>>);

impl Source for Once<'_> {
    fn select<'s>(
        &'s self,
        request: &promql::exec::SelectRequest,
    ) -> Result<Box<dyn promql::exec::SeriesSet<'s> + 's>, QueryError> {
        let mut asked = self.1.lock().unwrap();
        assert!(!asked.contains(&request.id), "select {} was asked twice", request.id);
        asked.push(request.id);
        self.0.select(request)
    }
}

#[test]
fn each_select_is_read_once() {
    let lab = lab();
    for query in [
        "requests_total",
        "limit / limit",
        r#"histogram_quantiles(requests_total, "q", 0.1, 0.5, 0.9)"#,
        "histogram_fraction(scalar(limit), 1, requests_total)",
        "topk(scalar(count(limit)), max_over_time(rate(requests_total[1m])[5m:1m]))",
        r#"count_values("v", requests_total) or absent(requests_total)"#,
        "info(requests_total)",
        "quantile_over_time(scalar(limit), requests_total[5m]) or timestamp(limit) or sort(limit)",
    ] {
        let times = Times::Range { start: 0, end: 600_000, step: 60_000 };
        // A stream serves one use only.
        let rewrites = Rewrites { merge_selects: false, ..Rewrites::ALL };
        let plan = Plan::new(query, times, &EngineOptions { rewrites, ..lab.options.clone() }).unwrap();
        let once = Once(&lab.source, std::sync::Mutex::default());
        plan.execute(&once, &Stop::new()).unwrap_or_else(|e| panic!("{query}: {e}"));
        let mut asked = once.1.into_inner().unwrap();
        asked.sort_unstable();
        assert_eq!(asked, (0..plan.selects().len()).collect::<Vec<_>>(), "{query}");
    }
}

/// Of equal notes the one that Prometheus 3.14 tells last keeps its position: an operator tells after all its operands,
/// and operands from left to right. The positions are what a real Prometheus answered.
#[test]
fn the_outermost_of_equal_notes_keeps_its_position() {
    let lab = Lab::new().load(10, r#"up{a="x"}"#, [1.0, 2.0, 3.0]).load(10, "limit", [1.0, 2.0, 3.0]);
    let quantile = |at: &str| [format!("PromQL warning: quantile value should be between 0 and 1, got 2 ({at})")];
    assert_eq!(lab.notes(20, "quantile(2, quantile by (a) (2, up))"), quantile("1:10"));
    assert_eq!(lab.notes(20, "quantile(2, up unless quantile by (b) (2, limit))"), quantile("1:10"));
    assert_eq!(lab.notes(20, "quantile(2, up) unless on(a) quantile(2, limit)"), quantile("1:39"));
    let subquery = "quantile_over_time(2, (up unless quantile by (b) (2, limit))[1m:10s])";
    assert_eq!(lab.notes(20, subquery), quantile("1:20"));
    let histogram = "histogram_quantile(2, histogram_quantile(2, up))";
    assert_eq!(lab.notes(20, histogram).last(), quantile("1:20").first());
    let counter = |at: &str| {
        [format!(
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"limit\" ({at})"
        )]
    };
    assert_eq!(lab.notes(20, "rate(limit[5m]) + scalar(rate(limit[2m]))"), counter("1:31"));
    assert_eq!(lab.notes(20, "scalar(rate(limit[2m])) + rate(limit[5m])"), counter("1:32"));
}

/// As in Prometheus 3.14 `info()` of what does not depend on the step is evaluated once, at the first step, and so is
/// what stands around it.
#[test]
fn info_of_a_constant_is_constant() {
    let lab = Lab::new().load(10, r#"x{instance="i",job="j"}"#, [1.0, 1.0, 1.0]).load(
        20,
        r#"target_info{instance="i",job="j",version="1"}"#,
        [1.0, 1.0],
    );
    let over = |query: &str| {
        let times = Times::Range { start: 0, end: 20_000, step: 10_000 };
        let result = lab.run(query, times).unwrap_or_else(|e| panic!("{query}: {e}"));
        result.annotations.strings(query, 10).0.len()
    };
    assert_eq!(over("sort(info(vector(1)))"), 0, "sorted at the only step that there is");
    assert_eq!(over("sort(info(x @ 10))"), 0);
    assert_eq!(over("sort(info(x))"), 1);
    assert_eq!(over(r#"sort(info(vector(1), {version=~".*"}))"#), 1, "its second argument is pinned to no time");
    assert_eq!(lab.over(0, 20, 10, "info(vector(7))"), ["{} 7@0 7@10 7@20"]);
}
