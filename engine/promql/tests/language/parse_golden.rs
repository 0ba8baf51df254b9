//! The parser against what Prometheus 3.14 answered: tree, printed forms, types, and error texts with positions.

use promql::parse::{Options, json::ast_json, parse_expr, prettify};
use serde_json::Value;
use std::path::Path;

#[test]
fn parse_golden() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/promqltest/parse_golden.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: the shared test data is absent ({})", path.display());
        return;
    };
    let (mut total, mut failed) = (0, Vec::new());
    for line in text.lines().filter(|l| !l.is_empty()) {
        total += 1;
        let case: Value = serde_json::from_str(line).unwrap();
        if let Err(why) = check(&case) {
            failed.push(format!("{}\n{why}", case["input"]));
        }
    }
    assert!(failed.is_empty(), "{} of {total} fail:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(total, 214);
}

fn check(case: &Value) -> Result<(), String> {
    let got = parse_expr(case["input"].as_str().unwrap(), &Options::ALL);
    if case["fail"] == true {
        return same("error", got.map(|e| e.to_string()).unwrap_or_else(|e| e.to_string()).into(), &case["error"]);
    }
    let expr = got.map_err(|e| format!("  not parsed: {e}"))?;
    same("string", expr.to_string().into(), &case["string"])?;
    same("pretty", prettify(&expr).into(), &case["pretty"])?;
    same("type", expr.value_type().documented().into(), &case["type"])?;
    same("parse", ast_json(&expr), &case["parse"])?;
    let again = parse_expr(&expr.to_string(), &Options::ALL).map_err(|e| format!("  not parsed again: {e}"))?;
    same("printed again", again.to_string().into(), &expr.to_string().into())
}

fn same(what: &str, got: Value, want: &Value) -> Result<(), String> {
    if got == *want { Ok(()) } else { Err(format!("  {what}\n    got  {got}\n    want {want}")) }
}
