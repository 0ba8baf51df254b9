//! Random words: the parser must never panic, and what it prints must mean the same.

use promql::parse::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::words::WORDS;

fn soup() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::collection::vec((prop::sample::select(WORDS), prop::bool::ANY), 0..16)
            .prop_map(|ws| ws.iter().map(|(w, gap)| if *gap { format!("{w} ") } else { (*w).to_owned() }).collect()),
        ".{0,40}",
    ]
}

/// Queries that are mostly valid, so that printing is exercised.
fn query() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "foo",
        "bar{a=\"b\",\"c d\"!~\"x|y\"}",
        "{\"m\"}",
        "1",
        "-0.5",
        "5m",
        "time()",
        "foo offset -5m @ end()",
        "sum",
        "NaN",
        "rate(foo[5m + step()] offset (1m*2))",
        "max_over_time(foo[1h:min_of(5m, step())] @ 12.5)",
        "foo offset -max_of(1, 2m)",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(6, 40, 3, |inner| {
        let op = prop::sample::select(vec![
            "+",
            "-",
            "^",
            "*",
            "== bool",
            "and",
            "or on(a)",
            "/ on(a) group_left(b)",
            "unless ignoring(c)",
            "atan2",
            "</",
            "+ fill(1)",
            "> ignoring() group_right fill_left(-2)",
        ]);
        let call =
            prop::sample::select(vec!["abs", "vector", "scalar", "sum by (a)", "topk without (\"b c\")", "-", "+", ""]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            (call, inner.clone()).prop_map(|(f, a)| if f.starts_with("topk") {
                format!("{f}(3, {a})")
            } else {
                format!("{f}({a})")
            }),
            inner.prop_map(|a| format!("({a})[1h:5m] offset 5m")),
        ]
    })
}

/// The tree with the matchers in the order in which they are printed.
fn tree(expr: &Expr) -> serde_json::Value {
    fn sort(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => fields.values_mut().for_each(sort),
            serde_json::Value::Array(list) => {
                list.iter_mut().for_each(sort);
                if list.iter().all(|v| v.get("value").is_some()) {
                    list.sort_by_key(ToString::to_string);
                }
            }
            _ => {}
        }
    }
    let mut value = json::ast_json(expr);
    sort(&mut value);
    value
}

fn stable(input: &str) -> Result<bool, TestCaseError> {
    let Ok(expr) = parse_expr(input, &Options::ALL) else { return Ok(false) };
    let text = expr.to_string();
    let again = parse_expr(&text, &Options::ALL).map_err(|e| TestCaseError::fail(format!("{input} → {text}: {e}")))?;
    prop_assert_eq!(again.to_string(), text);
    prop_assert_eq!(tree(&again), tree(&expr));
    let pretty = parse_expr(&prettify(&expr), &Options::ALL).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(pretty.to_string(), expr.to_string());
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn soup_never_panics(input in soup()) {
        stable(&input)?;
        let _ = parse_metric_selector(&input);
        let _ = parse_metric(&input);
        let _ = parse_series_description(&format!("m {input}"));
    }

    #[test]
    fn printing_is_stable(input in query()) {
        stable(&input)?;
    }
}

#[test]
fn the_query_generator_is_not_in_vain() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let valid = (0..300)
        .filter(|_| {
            let input = query().new_tree(&mut runner).unwrap().current();
            stable(&input).unwrap()
        })
        .count();
    assert!(valid > 60, "only {valid} of 300 generated queries are valid");
}
