//! `/api/v1/parse_query` and `/api/v1/format_query`: the same trees, texts, errors and positions.

use crate::random::Random;
use crate::words::WORDS;
use promql::parse::{Options, json::ast_json, parse_expr, prettify};
use serde_json::Value;
use testkit::prometheus::{Options as Setup, Prometheus};

fn expression(r: &mut Random, depth: usize) -> String {
    if depth == 0 || r.once_in(4) {
        let leaf = [
            "foo",
            "bar{a=\"b\"}",
            "1",
            "-2",
            "5m",
            "\"s\"",
            "time()",
            "foo offset -5m",
            "foo @ end()",
            "sum",
            "{\"m\"}",
            "fill",
            "0x1F",
            "NaN",
        ];
        return r.pick(&leaf).to_owned();
    }
    let mut e = || expression(r, depth - 1);
    let (a, b) = (e(), e());
    match r.below(7) {
        0 | 1 => {
            let op = r.pick(&[
                "+", "-", "*", "/", "%", "^", "==", "!=", ">", "<", ">=", "<=", "and", "or", "unless", "atan2", "</",
                ">/",
            ]);
            let modifier = r.pick(&[
                "",
                "",
                "",
                "bool ",
                "on (a) ",
                "ignoring (a, b) ",
                "on (a) group_left (b) ",
                "on () group_right ",
                "fill (0) ",
                "on (a) group_left (a) ",
            ]);
            format!("{a} {op} {modifier}{b}")
        }
        2 => format!(
            "{} {} ({a})",
            r.pick(&["sum", "avg", "group", "stddev"]),
            r.pick(&["", "by (a)", "without (b, \"c d\")", "by ()"])
        ),
        3 => format!(
            "{} ({b}, {a}) {}",
            r.pick(&["topk", "quantile", "count_values", "limitk"]),
            r.pick(&["", "by (a)"])
        ),
        4 => format!(
            "{}({a}{})",
            r.pick(&["rate", "abs", "scalar", "vector", "round", "hour", "info", "absent", "label_join", "Rate"]),
            r.pick(&["", ", 1", ", \"x\"", ","])
        ),
        5 => format!("({a})"),
        _ => format!(
            "{a}{}",
            r.pick(&[
                "[5m]",
                "[5m:]",
                "[1h:1m]",
                "[step()]",
                "[2 * 5m - 1:range()]",
                "[-5m]",
                " offset 5m",
                " offset -max_of(1, 2m)",
                " offset 5m + 1m",
                " @ 5.5",
                " @ start()",
                " anchored",
                " smoothed"
            ])
        ),
    }
}

fn query(r: &mut Random) -> String {
    let mut text = match r.below(3) {
        0 => (0..r.below(8)).map(|_| format!("{}{}", r.pick(WORDS), r.pick(&[" ", ""]))).collect(),
        _ => expression(r, 3),
    };
    if r.once_in(2) {
        let at = (0..=r.below(text.len() + 1)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.insert_str(at, r.pick(WORDS));
    }
    text
}

/// What the built peer (3.14.0) still does otherwise than the 3.14 that our recorded answers come from.
fn differs_between_releases(ours: &Result<Value, String>, text: &str) -> bool {
    match ours {
        Err(e) => e.contains("modifiers allowed before range"),
        Ok(_) => text.contains("(5m)"),
    }
}

#[test]
fn prometheus_parses_as_we_do() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let features = "promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers";
    let args = vec![format!("--enable-feature={features}")];
    let peer = Prometheus::start(&Setup { args, ..Setup::default() }).unwrap();
    let ask = |endpoint: &str, text: &str| -> Value {
        let url = format!("{}/api/v1/{endpoint}?query={}", peer.url(), testkit::http::encode(text));
        serde_json::from_str(&testkit::http::get(&url).unwrap().body).unwrap()
    };
    let options = Options { x_functions: false, ..Options::ALL };
    let mut random = Random::new(1);
    let (mut valid, mut refused) = (0, 0);
    for _ in 0..1500 {
        let text = query(&mut random);
        let ours = parse_expr(&text, &options);
        let tree = ours.as_ref().map(ast_json).map_err(ToString::to_string);
        if differs_between_releases(&tree, &text) {
            continue;
        }
        let theirs = ask("format_query", &text);
        if let Some(error) = theirs["error"].as_str() {
            let error = error.trim_start_matches("invalid parameter \"query\": ");
            assert_eq!(tree.err().as_deref(), Some(error), "{text:?}");
            refused += 1;
            continue;
        }
        let ours = ours.unwrap_or_else(|e| panic!("{text:?}: {e}, but Prometheus gives {theirs}"));
        assert_eq!(prettify(&ours), theirs["data"].as_str().unwrap_or_default(), "{text:?}");
        // JSON can't hold some values that queries can; then Prometheus gives no tree.
        let parsed = ask("parse_query", &text);
        if parsed["status"] == "success" {
            assert_eq!(ast_json(&ours), parsed["data"], "{text:?}");
        }
        valid += 1;
    }
    assert!(valid > 200 && refused > 400, "{valid} valid, {refused} refused");
}
