//! Whether an answer of Prometheus and one of ours are the same, within the tolerances that are written here.

use model::FloatHistogram;
use model::sample::Value;
use promql::exec::{QueryError, QueryResult, QueryValue, Times};
use promql::parse::{AggregateOp, Expr, Options, ValueType, parse_expr};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Relative difference that sums, averages and interpolations may show: Go fuses no multiply-add on amd64 either, but
/// its mathematical functions are its own, and what follows them carries their last bits on.
pub(crate) const RELATIVE: f64 = 1e-9;
/// Absolute difference in terms of the largest number of both answers: differences of near equals leave only noise.
pub(crate) const NOISE: f64 = 1e-12;

/// One answer, from either side.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) error: Option<String>,
    pub(crate) kind: String,
    /// Points of each series, by labels; the label set is written as JSON.
    pub(crate) series: BTreeMap<String, Vec<(i64, Point)>>,
    /// Order of an instant vector.
    pub(crate) order: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) infos: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Point {
    Float(f64),
    Text(String),
    Histogram { count: f64, sum: f64, buckets: Vec<(i64, f64, f64, f64)> },
}

fn number(v: &Json) -> f64 {
    match v.as_str().unwrap_or_default() {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        s => s.parse().unwrap(),
    }
}

fn millis(v: &Json) -> i64 {
    (v.as_f64().unwrap() * 1000.0).round() as i64
}

/// The answer in Prometheus's JSON.
pub(crate) fn theirs(json: &Json) -> Answer {
    let strings = |name: &str| {
        let list = json[name].as_array().cloned().unwrap_or_default();
        let mut all: Vec<String> = list.iter().map(|s| cut_number(s.as_str().unwrap_or_default())).collect();
        all.sort();
        all
    };
    let mut out = Answer { warnings: strings("warnings"), infos: strings("infos"), ..Answer::default() };
    if let Some(e) = json["error"].as_str() {
        out.error = Some(e.trim_start_matches("invalid parameter \"query\": ").to_owned());
        return out;
    }
    let (data, result) = (&json["data"], &json["data"]["result"]);
    out.kind = data["resultType"].as_str().unwrap_or_default().to_owned();
    match out.kind.as_str() {
        "scalar" => {
            out.series.insert(String::new(), vec![(millis(&result[0]), Point::Float(number(&result[1])))]);
        }
        "string" => {
            let text = result[1].as_str().unwrap_or_default().to_owned();
            out.series.insert(String::new(), vec![(millis(&result[0]), Point::Text(text))]);
        }
        _ => {
            for s in result.as_array().unwrap() {
                let labels: BTreeMap<String, String> = serde_json::from_value(s["metric"].clone()).unwrap();
                let labels = serde_json::to_string(&labels).unwrap();
                let list = |name: &str| s[name].as_array().cloned().unwrap_or_default();
                let float = |p: &Json| (millis(&p[0]), Point::Float(number(&p[1])));
                let native = |p: &Json| (millis(&p[0]), native_point(&p[1]));
                let mut points: Vec<(i64, Point)> = list("values").iter().map(float).collect();
                points.extend(list("histograms").iter().map(native));
                points.extend(s.get("value").map(float));
                points.extend(s.get("histogram").map(native));
                points.sort_by_key(|p| p.0);
                out.order.push(labels.clone());
                out.series.insert(labels, points);
            }
        }
    }
    out
}

fn native_point(h: &Json) -> Point {
    let buckets = h["buckets"].as_array().cloned().unwrap_or_default();
    let bucket = |b: &Json| (b[0].as_i64().unwrap(), number(&b[1]), number(&b[2]), number(&b[3]));
    Point::Histogram {
        count: number(&h["count"]),
        sum: number(&h["sum"]),
        buckets: buckets.iter().map(bucket).collect(),
    }
}

fn our_point(v: &Value) -> Point {
    match v {
        Value::Float(v) => Point::Float(*v),
        Value::Histogram(h) => our_histogram(h),
    }
}

fn our_histogram(h: &FloatHistogram) -> Point {
    let rule = |b: &promql::Bucket| match (b.lower_inclusive, b.upper_inclusive) {
        (false, true) => 0,
        (true, false) => 1,
        (false, false) => 2,
        (true, true) => 3,
    };
    let all = promql::histogram_buckets(h);
    let buckets = all.iter().filter(|b| b.count != 0.0).map(|b| (rule(b), b.lower, b.upper, b.count)).collect();
    Point::Histogram { count: h.count, sum: h.sum, buckets }
}

/// Our answer.
pub(crate) fn ours(query: &str, result: Result<QueryResult, QueryError>) -> Answer {
    let result = match result {
        Ok(r) => r,
        Err(e) => return Answer { error: Some(e.to_string()), ..Answer::default() },
    };
    let (warnings, infos) = result.annotations.strings(query, 10);
    let sorted = |all: Vec<String>| {
        let mut all: Vec<String> = all.iter().map(|s| cut_number(s)).collect();
        all.sort();
        all
    };
    let (warnings, infos) = (sorted(warnings), sorted(infos));
    let mut out = Answer { warnings, infos, ..Answer::default() };
    let json = |labels: &model::Labels| {
        let map: BTreeMap<&str, &str> = labels.iter().collect();
        serde_json::to_string(&map).unwrap()
    };
    match result.value {
        QueryValue::Scalar(t, v) => {
            out.kind = "scalar".to_owned();
            out.series.insert(String::new(), vec![(t, Point::Float(v))]);
        }
        QueryValue::String(t, s) => {
            out.kind = "string".to_owned();
            out.series.insert(String::new(), vec![(t, Point::Text(s))]);
        }
        QueryValue::Vector(all) => {
            out.kind = "vector".to_owned();
            for s in all {
                out.order.push(json(&s.labels));
                out.series.insert(json(&s.labels), vec![(s.t, our_point(&s.value))]);
            }
        }
        QueryValue::Matrix(all) => {
            out.kind = "matrix".to_owned();
            for s in all.iter() {
                out.order.push(json(&s.labels));
                let points = s.samples().iter().map(|p| (p.t, our_point(&p.v))).collect();
                out.series.insert(json(&s.labels), points);
            }
        }
    }
    out
}

/// True if a difference is one that may be, as long as few are: it is counted, not refused.
pub(crate) fn is_unstable(query: &str, what: &str) -> bool {
    // Values that become labels, ranks, comparisons, remainders and roundings turn over by the last bit of what
    // mathematical functions give, which differ from Go's by an ulp or two.
    const TURN: &[&str] = &[
        "count_values",
        "topk",
        "bottomk",
        "==",
        "!=",
        ">",
        "<",
        "%",
        "floor",
        "stdvar",
        "stddev",
        "ceil",
        "round",
        "sgn",
        "changes",
        "resets",
        "^",
    ];
    const ROUGH: &[&str] = &[
        "sin",
        "cos",
        "tan",
        "exp",
        "ln",
        "log",
        "sqrt",
        "^",
        "histogram_",
        "deriv",
        "predict_linear",
        "std",
        "avg",
        "sum",
        "rate",
        "increase",
        "rad",
        "deg",
        "quantile",
        "smooth",
        "mad_",
        "delta",
    ];
    let pinned = answers_otherwise(query);
    // Any series will do, and which they are may decide over an error.
    let limits = holds(query, |e| matches!(e, Expr::Aggregate(a) if a.op == AggregateOp::Limitk));
    if what.starts_with("annotations") {
        return pinned;
    }
    if what.starts_with("error") {
        // A duration of NaN slips through Prometheus's bounds and becomes whatever the processor makes of it.
        let ours = what.rsplit("ours").next().unwrap_or_default();
        let no_offset = query.contains("NaN") && ours.contains("duration out of range");
        // The released 3.14.0 takes `@ start()` and a computed offset before a range; 3.14's parser inputs say that they are
        // refused as all others.
        let computed = ["start()", "end()", "step()", "range()"].iter().any(|w| query.contains(w));
        let before_range = computed && ours.contains("modifiers allowed before range");
        // In a text that can't be read to its end an empty range is told first by Prometheus, last by us.
        let no_range = what.contains("theirs Some")
            && what.contains("duration must be greater than 0")
            && what.contains("unexpected");
        // If two things are wrong, either may be told.
        return no_offset
            || before_range
            || no_range
            || pinned
            || limits
            || (!what.contains("None") && !what.contains("parse error"));
    }
    let turns = TURN.iter().any(|w| query.contains(w)) && ROUGH.iter().any(|w| query.contains(w));
    pinned || limits || turns || is_noise(query) || is_log_of_subnormal(query, what)
}

/// True if resets of counters decide over the answer.
pub(crate) fn counts_resets(query: &str) -> bool {
    holds(query, |e| matches!(e, Expr::Call(c) if ["rate", "increase", "irate", "resets"].contains(&c.func.name)))
}

/// True if Prometheus answers something else than the query says, by one of its known accidents.
pub(crate) fn answers_otherwise(query: &str) -> bool {
    has_no_answer(query) || is_accident(query)
}

/// True if the change over time of what a mathematical function gave is asked, or its place on a circle: of near equals the
/// difference is mostly made of last bits, as is what is left of a large number after whole turns.
fn is_noise(query: &str) -> bool {
    const CHANGES: &[&str] = &["rate", "irate", "increase", "delta", "idelta", "deriv", "predict_linear"];
    const MATHS: &[&str] = &[
        "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "ln", "log10", "log2", "sin", "sinh",
        "tan", "tanh",
    ];
    let is = |e: &Expr, names: &[&str]| matches!(e, Expr::Call(c) if names.contains(&c.func.name));
    holds(query, |e| {
        // The function itself is one of those that are counted.
        let mut maths = 0;
        e.walk(&mut |inner| maths += usize::from(is(inner, MATHS)));
        maths > 0 && is(e, CHANGES) || maths > 1 && is(e, &["cos", "sin", "tan"])
    })
}

/// Go's logarithm of a subnormal number is wrong; such numbers also come from differences and interpolation.
fn is_log_of_subnormal(query: &str, what: &str) -> bool {
    let ours = what.rsplit_once("ours   Float(").and_then(|(_, rest)| rest.trim_end().strip_suffix(')')?.parse().ok());
    let Some(ours): Option<f64> = ours else { return false };
    let is = |name: &str, from: f64, to: f64| {
        (from..to).contains(&ours) && holds(query, |e| matches!(e, Expr::Call(c) if c.func.name == name))
    };
    is("ln", -745.2, -708.3) || is("log2", -1075.0, -1021.9) || is("log10", -323.4, -307.6)
}

/// True if a part of the query is so.
fn holds(query: &str, mut is: impl FnMut(&Expr) -> bool) -> bool {
    let mut found = false;
    if let Ok(expr) = parse_expr(query, &Options::ALL) {
        expr.walk(&mut |e| found |= is(e));
    }
    found
}

/// True if a ranking, which breaks ties by the order of its series, stands above something whose series Prometheus gives
/// in no order.
pub(crate) fn ranks_without_order(query: &str, times: Times) -> bool {
    let range = matches!(times, Times::Range { .. });
    holds(query, |e| match e {
        Expr::Aggregate(a) => matches!(a.op, AggregateOp::Topk | AggregateOp::Bottomk) && has_no_order(&a.expr, range),
        // Below it all is evaluated at several times.
        Expr::Subquery(s) => ranks_without_order(&s.expr.to_string(), Times::Range { start: 0, end: 1, step: 1 }),
        _ => false,
    })
}

/// True if a warning may depend on the order of series which Prometheus gives in no order: it tells of the last pair of
/// operands that do not fit, and of the first histogram of an aggregation.
pub(crate) fn warns_without_order(query: &str, times: Times) -> bool {
    let range = matches!(times, Times::Range { .. });
    holds(query, |e| match e {
        Expr::Aggregate(a) => has_no_order(&a.expr, range),
        Expr::Binary(b) => has_no_order(&b.lhs, range) || has_no_order(&b.rhs, range),
        Expr::Subquery(s) => warns_without_order(&s.expr.to_string(), Times::Range { start: 0, end: 1, step: 1 }),
        _ => false,
    })
}

/// True if Prometheus may collect the series in a Go map, whose order is chance: always in `info`, `count_values` and where
/// series that became equal are joined (label functions, signs), at several steps in all that is neither a selector, a
/// function of ranges nor an aggregation to one value per group.
fn has_no_order(expr: &Expr, range: bool) -> bool {
    match expr.unparen() {
        Expr::Vector(_) | Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) => false,
        Expr::Subquery(s) => has_no_order(&s.expr, true),
        Expr::Unary(_) => true,
        Expr::Binary(b) => range || has_no_order(&b.lhs, range) || has_no_order(&b.rhs, range),
        Expr::Aggregate(a) => match a.op {
            AggregateOp::CountValues => true,
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio if range => true,
            _ => has_no_order(&a.expr, range),
        },
        Expr::Call(c) => {
            let of_range = c.args.iter().any(|a| a.value_type() == ValueType::Matrix);
            ["info", "label_replace", "label_join"].contains(&c.func.name)
                || (range && !of_range)
                || c.args.iter().any(|a| has_no_order(a, range))
        }
        Expr::Paren(_) => false,
    }
}

/// Prometheus 3.14 by accident has no answer at all to a function of a subquery that is pinned to a time, if the function
/// still depends on the step.
fn has_no_answer(query: &str) -> bool {
    let pinned_subquery = |e: &Expr| matches!(e.unparen(), Expr::Subquery(s) if s.at.is_some());
    holds(query, |e| matches!(e, Expr::Call(c) if c.args.iter().any(pinned_subquery) && depends_on_step(e)))
}

/// True if we say that series became equal and Prometheus gives, as a range, a series with two values at one time: it
/// joins the floats and the histograms of such series apart. An instant vector then shows one of the two.
pub(crate) fn joins_apart(ours: &Answer, as_range: impl FnOnce() -> Answer) -> bool {
    let twice = |points: &Vec<(i64, Point)>| points.iter().zip(points.iter().skip(1)).any(|(a, b)| a.0 == b.0);
    ours.error.as_deref() == Some("vector cannot contain metrics with the same labelset")
        && as_range().series.values().any(twice)
}

/// What else Prometheus 3.14 does by accident: a selector that is pinned inside a subquery with an offset moves by that
/// offset, if the subquery begins with the query (and inside a pinned one what `smoothed` needs may not be read); the parameter of an aggregation that is pinned to a time moves along
/// with the steps; `info` of what is moved by an offset or pinned looks for info series as of the step (its later test files
/// say: as of the argument's time), and `info` of a function of a range sees no info sample older than the range.
fn is_accident(query: &str) -> bool {
    let is_pinned = |e: &Expr| match e {
        Expr::Vector(s) => s.at.is_some(),
        Expr::Matrix(m) => m.selector.at.is_some(),
        Expr::Subquery(s) => s.at.is_some(),
        _ => false,
    };
    let holds_pin = |e: &Expr| {
        let mut found = false;
        e.walk(&mut |e| found |= is_pinned(e));
        found
    };
    let holds_move_or_range = |e: &Expr| {
        let mut found = holds_pin(e);
        e.walk(&mut |e| {
            found |= match e {
                Expr::Vector(s) => s.offset_ms != 0 || s.offset_expr.is_some(),
                Expr::Matrix(_) => true,
                Expr::Subquery(s) => s.offset_ms != 0 || s.offset_expr.is_some(),
                _ => false,
            }
        });
        found
    };
    holds(query, |e| match e {
        Expr::Subquery(s) => (s.at.is_some() || s.offset_ms != 0 || s.offset_expr.is_some()) && holds_pin(&s.expr),
        Expr::Aggregate(a) => a.param.as_ref().is_some_and(holds_pin),
        // Of classic buckets a bound that is spelled twice is counted twice from the second quantile on.
        Expr::Call(c) if c.func.name == "histogram_quantiles" => holds(query, |e| match e {
            Expr::Aggregate(a) => a.grouping.iter().any(|g| g == "le"),
            Expr::Vector(s) => s.name.is_empty(),
            Expr::Matrix(m) => m.selector.name.is_empty(),
            _ => false,
        }),
        Expr::Call(c) if c.func.name == "info" => c.args.first().is_some_and(holds_move_or_range),
        _ => false,
    })
}

/// True if Prometheus evaluates it at every step and not just once.
fn depends_on_step(expr: &Expr) -> bool {
    const TIME: &[&str] = &[
        "days_in_month",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "hour",
        "minute",
        "month",
        "year",
        "predict_linear",
        "time",
    ];
    match expr.unparen() {
        Expr::Vector(s) => s.at.is_none(),
        Expr::Matrix(m) => m.selector.at.is_none(),
        Expr::Subquery(s) => s.at.is_none(),
        Expr::Unary(u) => depends_on_step(&u.expr),
        Expr::Binary(b) => depends_on_step(&b.lhs) || depends_on_step(&b.rhs),
        Expr::Aggregate(a) => depends_on_step(&a.expr),
        Expr::Call(c) => match (c.func.name, c.args.first().map(Expr::unparen)) {
            ("timestamp", Some(Expr::Vector(s))) => s.at.is_none(),
            ("timestamp", _) => true,
            (name, _) => TIME.contains(&name) || c.args.iter().any(depends_on_step),
        },
        Expr::Number(_) | Expr::String(_) | Expr::Paren(_) => false,
    }
}

/// A text whose number is cut to ten digits.
fn cut_number(text: &str) -> String {
    let Some((before, rest)) = text.split_once(", got ") else { return text.to_owned() };
    let (number, after) = rest.split_once([',', ' ']).unwrap_or((rest, ""));
    let number = number.parse::<f64>().map_or(number.to_owned(), |v| format!("{v:.9e}"));
    format!("{before}, got {number} {after}")
}

fn close(a: f64, b: f64, largest: f64) -> bool {
    a == b
        || (a.is_nan() && b.is_nan())
        || (a - b).abs() <= RELATIVE * a.abs().max(b.abs())
        || (a - b).abs() <= NOISE * largest
}

fn same_point(a: &Point, b: &Point, largest: f64) -> bool {
    match (a, b) {
        (Point::Float(a), Point::Float(b)) => close(*a, *b, largest),
        (Point::Text(a), Point::Text(b)) => a == b,
        (Point::Histogram { count, sum, buckets }, Point::Histogram { count: c, sum: s, buckets: bs }) => {
            // A bucket that holds noise only is as good as none.
            let full = |all: &[(i64, f64, f64, f64)]| {
                all.iter().filter(|b| b.3.abs() > NOISE * count.abs().max(1.0)).copied().collect::<Vec<_>>()
            };
            let (x, y) = (full(buckets), full(bs));
            close(*count, *c, largest)
                && close(*sum, *s, largest)
                && x.len() == y.len()
                && x.iter().zip(&y).all(|(a, b)| {
                    a.0 == b.0
                        && close(a.1, b.1, 0.0)
                        && close(a.2, b.2, 0.0)
                        && close(a.3, b.3, count.abs().max(largest))
                })
        }
        _ => false,
    }
}

/// What differs, if anything does.
pub(crate) fn difference(theirs: &Answer, ours: &Answer) -> Option<String> {
    // Prometheus's own accidents: an empty range vector with `anchored` or `smoothed` as the whole query; the text of a
    // histogram with custom buckets that was divided by zero.
    const PANICS: [&str; 3] =
        ["runtime error: index out of range", "slice bounds", "histograms with custom buckets have no zero bucket"];
    if theirs.error.as_ref().is_some_and(|e| PANICS.iter().any(|p| e.contains(p))) {
        return None;
    }
    match (&theirs.error, &ours.error) {
        (Some(a), Some(b)) if same_error(a, b) => return None,
        (None, None) => {}
        _ => return Some(format!("error\n  theirs {:?}\n  ours   {:?}", theirs.error, ours.error)),
    }
    if theirs.kind != ours.kind {
        return Some(format!("{} against {}", theirs.kind, ours.kind));
    }
    let values = |a: &Answer| {
        a.series.values().flatten().fold(0.0f64, |m, (_, p)| match p {
            Point::Float(v) if v.is_finite() => m.max(v.abs()),
            Point::Histogram { sum, count, .. } if sum.is_finite() => m.max(sum.abs()).max(count.abs()),
            _ => m,
        })
    };
    let largest = values(theirs).max(values(ours));
    let missing = |a: &Answer, b: &Answer| a.series.keys().find(|k| !b.series.contains_key(*k)).cloned();
    if let Some(labels) = missing(theirs, ours) {
        return Some(format!("only theirs: {labels} {:?}", theirs.series[&labels].first()));
    }
    if let Some(labels) = missing(ours, theirs) {
        return Some(format!("only ours: {labels} {:?}", ours.series[&labels].first()));
    }
    for (labels, a) in &theirs.series {
        let b = &ours.series[labels];
        let times = |p: &[(i64, Point)]| p.iter().map(|p| p.0).collect::<Vec<_>>();
        if times(a) != times(b) {
            let odd = times(a).into_iter().find(|t| !times(b).contains(t));
            return Some(format!(
                "{labels}: {} points against {}, the first that we lack is {odd:?}",
                a.len(),
                b.len()
            ));
        }
        if let Some((x, y)) = a.iter().zip(b).find(|(x, y)| !same_point(&x.1, &y.1, largest)) {
            return Some(format!("{labels} at {}\n  theirs {:?}\n  ours   {:?}", x.0, x.1, y.1));
        }
    }
    // Of more than ten Prometheus shows any ten.
    let few = theirs.warnings.len() <= 10 && theirs.infos.len() <= 10;
    if few && (theirs.warnings != ours.warnings || theirs.infos != ours.infos) {
        let only = |a: &[String], b: &[String]| a.iter().filter(|x| !b.contains(x)).cloned().collect::<Vec<_>>();
        return Some(format!(
            "annotations\n  only theirs {:?} {:?}\n  only ours   {:?} {:?}",
            only(&theirs.warnings, &ours.warnings),
            only(&theirs.infos, &ours.infos),
            only(&ours.warnings, &theirs.warnings),
            only(&ours.infos, &theirs.infos)
        ));
    }
    None
}

/// Equal texts; a message that names two series may name them in either order, and which group of several fails first
/// is chance.
fn same_error(a: &str, b: &str) -> bool {
    let cut = |s: &str| s.split(" for the match group ").next().unwrap_or(s).to_owned();
    let info = |s: &str| s.split("series for info metric").next().unwrap_or(s).to_owned();
    a == b
        || cut(a) == cut(b) && a.contains(" for the match group ")
        || info(a) == info(b) && a.contains("series for info metric")
}
