//! `promtool test rules` with our answers as the expectation: the same series, values equal to the last bit or its
//! neighbour.

use crate::random::Random;
use model::sample::Value;
use promql::exec::{EngineOptions, QueryValue, Times};
use promql::parse::Options;
use promql::promqltest::{Engine, MemoryEngine, run};
use std::fmt::Write as _;
use std::process::Command;

const STEPS: usize = 30;
const STEP_SECONDS: usize = 30;

/// Series of counters with resets, gauges and classic histograms, with gaps and staleness markers.
fn data(r: &mut Random) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, counter) in [("requests_total", true), ("errors_total", true), ("load", false), ("limit", false)] {
        for labels in ["a=\"x\",b=\"1\"", "a=\"x\",b=\"2\"", "a=\"y\",b=\"1\"", "a=\"z\""] {
            if r.once_in(5) {
                continue;
            }
            let mut v = r.below(100) as f64;
            let values = (0..STEPS).map(|_| match r.below(20) {
                0 => "_".to_owned(),
                1 => "stale".to_owned(),
                n => {
                    v = if counter && n == 2 { 0.0 } else { v + r.below(20) as f64 / 2.0 };
                    v -= if counter { 0.0 } else { r.below(20) as f64 / 2.0 };
                    v.to_string()
                }
            });
            let values: Vec<String> = values.collect();
            all.push((format!("{name}{{{labels}}}"), values.join(" ")));
        }
    }
    let mut rows = vec![Vec::new(); 4];
    let mut totals = [0usize; 4];
    for _ in 0..STEPS {
        let mut below = 0;
        for (row, total) in rows.iter_mut().zip(&mut totals) {
            below += r.below(4);
            *total += below;
            row.push(total.to_string());
        }
    }
    for (row, le) in rows.iter().zip(["0.1", "1", "10", "+Inf"]) {
        all.push((format!("latency_bucket{{a=\"x\",le=\"{le}\"}}"), row.join(" ")));
    }
    all
}

fn selector(r: &mut Random) -> String {
    let name = r.pick(&["requests_total", "errors_total", "load", "limit", "latency_bucket"]);
    let matchers = r.pick(&["", "", "{a=\"x\"}", "{a=~\"x|y\",b!=\"2\"}", "{b=\"\"}", "{a!~\"z.*\"}"]);
    format!("{name}{matchers}")
}

fn moved(r: &mut Random) -> &'static str {
    r.pick(&["", "", "", "", " offset 1m", " offset -90s", " @ 300", " @ end() offset 45s"])
}

fn range(r: &mut Random) -> String {
    let (window, moved) = (r.pick(&["1m", "90s", "2m", "5m", "10m"]), moved(r));
    match r.below(4) {
        0 => format!("({})[{window}:{}]{moved}", vector(r, 1), r.pick(&["", "30s", "45s", "1m"])),
        _ => format!("{}[{window}]{moved}", selector(r)),
    }
}

fn vector(r: &mut Random, depth: usize) -> String {
    if depth == 0 || r.once_in(6) {
        return format!("{}{}", selector(r), moved(r));
    }
    let a = vector(r, depth - 1);
    match r.below(10) {
        0..=2 => {
            let f = r.pick(&[
                "rate",
                "increase",
                "delta",
                "irate",
                "idelta",
                "resets",
                "changes",
                "sum_over_time",
                "avg_over_time",
                "min_over_time",
                "max_over_time",
                "count_over_time",
                "last_over_time",
                "first_over_time",
                "present_over_time",
                "absent_over_time",
            ]);
            format!("{f}({})", range(r))
        }
        3 => format!(
            "{}({a})",
            r.pick(&["abs", "ceil", "floor", "sgn", "round", "absent", "timestamp", "hour", "sort", "-", "+", ""])
        ),
        4 => format!(
            "{} {} ({a})",
            r.pick(&["sum", "avg", "min", "max", "count", "group"]),
            r.pick(&["", "by (a)", "without (b)", "by (le)", "by (__name__)"])
        ),
        5 => format!("quantile by (a) ({}, {a})", r.pick(&["0.5", "0.9", "0", "1"])),
        6 => {
            let op = r.pick(&["+", "-", "*", "/", "%", "==", "!=", ">", "<=", "> bool", "== bool"]);
            format!("{a} {op} {}", r.pick(&["2", "0.5", "-1", "time()", "scalar(load{a=\"z\"})"]))
        }
        7 => {
            let op = r.pick(&["and", "or", "unless"]);
            format!("{a} {op} {} {}", r.pick(&["", "on (a)", "ignoring (b)"]), vector(r, depth - 1))
        }
        8 => {
            let op = r.pick(&["+", "-", "*", "/", "==", ">"]);
            let matching = r.pick(&["", "on (a, b)", "ignoring (le)", "on (a) group_left", "on (a) group_right (b)"]);
            format!("{a} {op} {matching} {}", vector(r, depth - 1))
        }
        _ => match r.below(3) {
            0 => format!("label_replace({a}, \"c\", \"$1-x\", \"a\", \"(.*)\")"),
            1 => format!("label_join({a}, \"c\", \"-\", \"a\", \"b\")"),
            _ => format!(
                "histogram_quantile({}, {})",
                r.pick(&["0.5", "0.9", "1"]),
                r.pick(&["latency_bucket", "rate(latency_bucket[2m])", "sum by (le) (increase(latency_bucket[5m]))"])
            ),
        },
    }
}

fn yaml_number(v: f64) -> String {
    match v {
        v if v.is_nan() => ".nan".to_owned(),
        f64::INFINITY => ".inf".to_owned(),
        f64::NEG_INFINITY => "-.inf".to_owned(),
        v => v.to_string(),
    }
}

#[test]
fn promtool_gets_our_answers() {
    if testkit::peers::skip(&["promtool"]) {
        return;
    }
    let promtool = testkit::peers::path("promtool").unwrap();
    let mut r = Random::new(2);
    // JSON strings are YAML strings.
    let text = |s: &str| serde_json::Value::from(s).to_string();
    let mut file = "fuzzy_compare: true\nevaluation_interval: 30s\ntests:\n".to_owned();
    let (mut asked, mut samples) = (0, 0);
    for _ in 0..20 {
        let series = data(&mut r);
        // promtool's default step of subqueries is the evaluation interval.
        let options = EngineOptions {
            default_subquery_step_ms: STEP_SECONDS as i64 * 1000,
            parser: Options::default(),
            ..EngineOptions::default()
        };
        let mut engine = MemoryEngine::new(options);
        let mut script = format!("load {STEP_SECONDS}s\n");
        writeln!(file, "- interval: {STEP_SECONDS}s\n  input_series:").unwrap();
        for (name, values) in &series {
            writeln!(script, "  {name} {values}").unwrap();
            writeln!(file, "  - series: {}\n    values: {}", text(name), text(values)).unwrap();
        }
        assert_eq!(run(&script, &mut engine).failed, []);
        writeln!(file, "  promql_expr_test:").unwrap();
        for _ in 0..60 {
            let (query, seconds) = (vector(&mut r, 3), r.below(STEPS * STEP_SECONDS + 60));
            // What fails is left out: promtool can't expect failures.
            let Ok(answer) = engine.query(&query, Times::Instant(seconds as i64 * 1000)) else { continue };
            let QueryValue::Vector(found) = answer.value else { continue };
            // promtool compares no NaN.
            if found.iter().any(|s| matches!(s.value, Value::Float(v) if v.is_nan())) {
                continue;
            }
            asked += 1;
            samples += found.len();
            writeln!(file, "  - expr: {}\n    eval_time: {seconds}s\n    exp_samples:", text(&query)).unwrap();
            for s in found {
                let Value::Float(v) = s.value else { continue };
                writeln!(file, "    - labels: {}\n      value: {}", text(&s.labels.to_string()), yaml_number(v))
                    .unwrap();
            }
        }
    }
    let path = std::env::temp_dir().join(format!("panoptes-promtool-{}.yml", std::process::id()));
    std::fs::write(&path, file).unwrap();
    let output = Command::new(promtool).args(["test", "rules"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool differs ({}):\n{said}", path.display());
    std::fs::remove_file(&path).unwrap();
    assert!(asked > 500 && samples > 800, "{asked} queries with {samples} samples are too few");
}
