//! Random queries: a weighted grammar over the names and labels of [`crate::data`], types kept valid most of the time.

use testkit::goal::Rng;

/// One of the items.
pub(crate) fn pick(r: &mut Rng, of: &[&'static str]) -> &'static str {
    r.choose(of).copied().unwrap_or("")
}

const RANGE_FUNCTIONS: &[&str] = &[
    "rate",
    "increase",
    "delta",
    "irate",
    "idelta",
    "resets",
    "changes",
    "deriv",
    "sum_over_time",
    "avg_over_time",
    "min_over_time",
    "max_over_time",
    "count_over_time",
    "last_over_time",
    "first_over_time",
    "present_over_time",
    "absent_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "mad_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_min_over_time",
    "ts_of_max_over_time",
];

const FUNCTIONS: &[&str] = &[
    "abs",
    "ceil",
    "floor",
    "exp",
    "sqrt",
    "ln",
    "log2",
    "log10",
    "sgn",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "rad",
    "deg",
    "round",
    "absent",
    "timestamp",
    "year",
    "month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "sort",
    "sort_desc",
    "histogram_count",
    "histogram_sum",
    "histogram_avg",
    "histogram_stddev",
    "histogram_stdvar",
    "info",
    "-",
    "+",
    "",
    "",
];

pub(crate) fn selector(r: &mut Rng) -> String {
    let name = pick(
        r,
        &[
            "requests_total",
            "requests_total",
            "errors_total",
            "load",
            "load",
            "limit",
            "hist",
            "hist",
            "hist_gauge",
            "custom",
            "mixed",
            "latency_bucket",
            "target_info",
            "nothing",
            "",
        ],
    );
    if name.is_empty() {
        return pick(r, &["{\"näme with spaces\"}", "{a=\"x\"}", "{__name__=~\"load|limit\"}", "{\"lä bel\"=\"ü\"}"])
            .to_owned();
    }
    let matchers = pick(
        r,
        &["", "", "", "{a=\"x\"}", "{a=~\"x|y\",b!=\"2\"}", "{b=\"\"}", "{a!~\"z.*\"}", "{b=\"1\"}", "{a=\"none\"}"],
    );
    format!("{name}{matchers}")
}

fn moved(r: &mut Rng) -> &'static str {
    pick(
        r,
        &[
            "",
            "",
            "",
            "",
            "",
            "",
            " offset 1m",
            " offset -90s",
            " @ 1700004000",
            " @ end() offset 45s",
            " @ start()",
            " offset (1m + step())",
        ],
    )
}

fn window(r: &mut Rng) -> &'static str {
    pick(r, &["1m", "90s", "2m", "5m", "10m", "15s", "30s", "1m", "2m + 30s", "max_of(step(), 1m)", "7s"])
}

fn range(r: &mut Rng, depth: usize) -> String {
    let (window, moved) = (window(r), moved(r));
    match r.below(6) {
        0 if depth > 0 => {
            let inner = vector(r, depth - 1);
            format!("({inner})[{window}:{}]{moved}", pick(r, &["", "30s", "45s", "1m", "13s"]))
        }
        1 => format!("{}[{window}] {}{moved}", selector(r), pick(r, &["anchored", "smoothed"])),
        _ => format!("{}[{window}]{moved}", selector(r)),
    }
}

pub(crate) fn scalar(r: &mut Rng, depth: usize) -> String {
    if depth == 0 || r.one_in(2) {
        return pick(
            r,
            &[
                "1", "2", "0.5", "-1", "0", "100", "NaN", "Inf", "1e3", "5m", "0x1F", "time()", "pi()", "start()",
                "end()", "range()", "step()",
            ],
        )
        .to_owned();
    }
    match r.below(4) {
        0 => format!("scalar({})", vector(r, depth - 1)),
        1 => format!("{}({}, {})", pick(r, &["min_of", "max_of"]), scalar(r, depth - 1), scalar(r, depth - 1)),
        2 => format!("(-{})", scalar(r, 0)),
        _ => {
            let op = pick(r, &["+", "-", "*", "/", "%", "^", "> bool", "== bool", "atan2"]);
            format!("({} {op} {})", scalar(r, depth - 1), scalar(r, depth - 1))
        }
    }
}

fn grouping(r: &mut Rng) -> &'static str {
    pick(
        r,
        &[
            "",
            "",
            "by (a)",
            "without (b)",
            "by (a, b)",
            "by (le)",
            "by (__name__)",
            "without ()",
            "by ()",
            "by (\"lä bel\")",
        ],
    )
}

/// An expression that is an instant vector.
pub(crate) fn vector(r: &mut Rng, depth: usize) -> String {
    if depth == 0 || r.one_in(7) {
        return match r.below(12) {
            0 => format!("{} {}{}", selector(r), "smoothed", moved(r)),
            1 => format!("vector({})", scalar(r, 1)),
            _ => format!("{}{}", selector(r), moved(r)),
        };
    }
    match r.below(17) {
        0..=3 => format!("{}({})", pick(r, RANGE_FUNCTIONS), range(r, depth)),
        4 => match r.below(3) {
            0 => format!("quantile_over_time({}, {})", scalar(r, 1), range(r, depth)),
            1 => format!("predict_linear({}, {})", range(r, depth), scalar(r, 1)),
            _ => format!("double_exponential_smoothing({}, {}, 0.3)", range(r, depth), pick(r, &["0.5", "0.1", "1.5"])),
        },
        5 | 6 => format!("{}({})", pick(r, FUNCTIONS), vector(r, depth - 1)),
        7 | 8 => {
            let op = pick(r, &["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]);
            format!("{op} {} ({})", grouping(r), vector(r, depth - 1))
        }
        9 => {
            let op = pick(r, &["topk", "bottomk", "quantile", "limitk", "limit_ratio"]);
            let k = if r.one_in(4) { scalar(r, 1) } else { pick(r, &["1", "2", "0.5", "3", "0.9", "0"]).to_owned() };
            format!("{op} {} ({k}, {})", grouping(r), vector(r, depth - 1))
        }
        10 => format!("count_values {} (\"v\", {})", grouping(r), vector(r, depth - 1)),
        11 => {
            let op = pick(
                r,
                &["+", "-", "*", "/", "%", "^", "atan2", "==", "!=", ">", "<=", "> bool", "== bool", "</", ">/"],
            );
            let (v, s) = (vector(r, depth - 1), scalar(r, 1));
            if r.one_in(2) { format!("({v}) {op} ({s})") } else { format!("({s}) {op} ({v})") }
        }
        12 => {
            let op = pick(r, &["and", "or", "unless"]);
            let on = pick(r, &["", "", "on (a)", "ignoring (b)", "on ()"]);
            format!("({}) {op} {on} ({})", vector(r, depth - 1), vector(r, depth - 1))
        }
        13 | 14 => {
            let op = pick(r, &["+", "-", "*", "/", "==", ">", "!= bool", "</", "%", "atan2"]);
            let matching = pick(
                r,
                &[
                    "",
                    "",
                    "on (a, b)",
                    "ignoring (le)",
                    "on (a) group_left",
                    "on (a) group_right (b)",
                    "on (a, b) group_left (version)",
                    "fill (0)",
                    "on (a, b) fill_left (1)",
                    "on (a) group_left () fill_right (2)",
                ],
            );
            // Often with itself, so that there are partners.
            let left = vector(r, depth - 1);
            let right = if r.one_in(3) { left.clone() } else { vector(r, depth - 1) };
            format!("({left}) {op} {matching} ({right})")
        }
        15 => match r.below(5) {
            0 => format!("label_replace({}, \"c\", \"$1-x\", \"a\", \"(.*)\")", vector(r, depth - 1)),
            1 => format!(
                "label_replace({}, \"{}\", \"k\", \"a\", \"[xy]\")",
                vector(r, depth - 1),
                pick(r, &["a", "b", "__name__"])
            ),
            2 => format!("label_join({}, \"c\", \"-\", \"a\", \"b\")", vector(r, depth - 1)),
            3 => format!("sort_by_label{}({}, \"a\")", pick(r, &["", "_desc"]), vector(r, depth - 1)),
            _ => match r.below(3) {
                0 => format!("clamp({}, {}, {})", vector(r, depth - 1), scalar(r, 0), scalar(r, 0)),
                1 => format!("clamp_min({}, {})", vector(r, depth - 1), scalar(r, 1)),
                _ => format!("round({}, {})", vector(r, depth - 1), pick(r, &["5", "0.3", "0", "10"])),
            },
        },
        _ => {
            let of = if r.one_in(4) {
                vector(r, depth - 1)
            } else {
                let w = window(r);
                match r.below(6) {
                    0 => "latency_bucket".to_owned(),
                    1 => format!("rate(latency_bucket[{w}])"),
                    2 => format!("sum by (le) (increase(latency_bucket[{w}]))"),
                    3 => format!("rate({}[{w}])", pick(r, &["hist", "custom", "hist_gauge"])),
                    4 => format!("sum by (a) (rate({}[{w}]))", pick(r, &["hist", "custom"])),
                    _ => pick(r, &["hist", "custom", "hist_gauge", "mixed"]).to_owned(),
                }
            };
            // Of a bound that is spelled twice Prometheus's second quantile counts buckets twice.
            let several = !of.contains("latency_bucket") && !of.contains("__name__");
            match r.below(4) {
                0 => format!("histogram_fraction({}, {}, {of})", scalar(r, 0), scalar(r, 0)),
                1 if several => {
                    format!("histogram_quantiles({of}, \"q\", 0.1, {}, 0.9)", pick(r, &["0.5", "2", "0.25"]))
                }
                _ => format!(
                    "histogram_quantile({}, {of})",
                    pick(r, &["0.5", "0.9", "1", "0", "0.99", "-1", "NaN", "scalar(load{a=\"x\",b=\"1\"})"])
                ),
            }
        }
    }
}

/// Any query; now and then a wrong one.
pub(crate) fn query(r: &mut Rng) -> String {
    let depth = 1 + r.below(5);
    match r.below(40) {
        0 => scalar(r, 3),
        1 => range(r, depth),
        2 => {
            let mut text = vector(r, depth);
            let at = (0..=r.below(text.len() + 1)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.insert_str(at, r.choose(crate::words::WORDS).copied().unwrap_or(""));
            text
        }
        3 => format!("rate({})", vector(r, depth)),
        _ => vector(r, depth),
    }
}
