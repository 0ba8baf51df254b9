//! The tree as `/api/v1/parse_query` shows it.

use super::ast::*;
use model::Matcher;
use model::number::format_f;
use serde_json::{Value, json};

/// The JSON of an expression: Prometheus' `translateAST`. The children are rendered first, so that the recursion takes
/// little stack.
pub fn ast_json(expr: &Expr) -> Value {
    match expr {
        Expr::Number(n) => number_literal(n),
        Expr::String(s) => string_literal(s),
        Expr::Vector(v) => selector("vectorSelector", v),
        Expr::Matrix(m) => matrix(m),
        Expr::Subquery(s) => subquery(s, ast_json(&s.expr)),
        Expr::Aggregate(a) => aggregation(a, ast_json(&a.expr), a.param.as_ref().map(ast_json)),
        Expr::Binary(b) => binary(b, ast_json(&b.lhs), ast_json(&b.rhs)),
        Expr::Unary(u) => unary(u, ast_json(&u.expr)),
        Expr::Paren(p) => paren(ast_json(&p.expr)),
        Expr::Call(c) => call(c, c.args.iter().map(ast_json).collect()),
    }
}

fn number_literal(n: &NumberLiteral) -> Value {
    json!({"type": "numberLiteral", "val": format_f(n.value)})
}

fn string_literal(s: &StringLiteral) -> Value {
    json!({"type": "stringLiteral", "val": s.value})
}

fn matrix(m: &MatrixSelector) -> Value {
    let mut node = selector("matrixSelector", &m.selector);
    if let Value::Object(fields) = &mut node {
        fields.insert("range".into(), m.range_ms.into());
        fields.insert("rangeExpr".into(), optional(m.range_expr.as_deref()));
    }
    node
}

fn subquery(s: &SubqueryExpr, expr: Value) -> Value {
    let (timestamp, start_or_end) = at(s.at);
    json!({
        "type": "subquery",
        "expr": expr,
        "range": s.range_ms,
        "rangeExpr": optional(s.range_expr.as_deref()),
        "offset": s.offset_ms,
        "offsetExpr": optional(s.offset_expr.as_deref()),
        "step": s.step_ms,
        "stepExpr": optional(s.step_expr.as_deref()),
        "timestamp": timestamp,
        "startOrEnd": start_or_end,
    })
}

fn aggregation(a: &AggregateExpr, expr: Value, param: Option<Value>) -> Value {
    json!({
        "type": "aggregation",
        "op": a.op.as_str(),
        "expr": expr,
        "param": param,
        "grouping": a.grouping,
        "without": a.without,
    })
}

fn binary(b: &BinaryExpr, lhs: Value, rhs: Value) -> Value {
    json!({
        "type": "binaryExpr",
        "op": b.op.as_str(),
        "lhs": lhs,
        "rhs": rhs,
        "matching": b.matching.as_ref().map(|m| json!({
            "card": m.card.as_str(),
            "labels": m.labels,
            "on": m.on,
            "include": m.include,
            "fillValues": {"lhs": m.fill_left.map(number), "rhs": m.fill_right.map(number)},
        })),
        "bool": b.return_bool,
    })
}

fn unary(u: &UnaryExpr, expr: Value) -> Value {
    json!({"type": "unaryExpr", "op": u.op.as_str(), "expr": expr})
}

fn paren(expr: Value) -> Value {
    json!({"type": "parenExpr", "expr": expr})
}

fn call(c: &Call, args: Vec<Value>) -> Value {
    json!({
        "type": "call",
        "func": {
            "name": c.func.name,
            "argTypes": c.func.arg_types.iter().map(|t| t.as_str()).collect::<Vec<_>>(),
            "variadic": c.func.variadic,
            "returnType": c.func.return_type.as_str(),
        },
        "args": args,
    })
}

fn selector(kind: &str, v: &VectorSelector) -> Value {
    let (timestamp, start_or_end) = at(v.at);
    let matcher = |m: &Matcher| json!({"name": m.name, "value": m.value, "type": m.op.as_str()});
    json!({
        "type": kind,
        "name": v.name,
        "offset": v.offset_ms,
        "offsetExpr": optional(v.offset_expr.as_deref()),
        "matchers": v.matchers.iter().map(matcher).collect::<Vec<_>>(),
        "timestamp": timestamp,
        "startOrEnd": start_or_end,
        "anchored": v.mode == RangeMode::Anchored,
        "smoothed": v.mode == RangeMode::Smoothed,
    })
}

fn at(at: Option<At>) -> (Value, Value) {
    match at {
        None => (Value::Null, Value::Null),
        Some(At::Timestamp(ms)) => (ms.into(), Value::Null),
        Some(At::Start) => (Value::Null, "start".into()),
        Some(At::End) => (Value::Null, "end".into()),
    }
}

/// A number without a needless fraction, as Go writes it.
fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 1e15 { (v as i64).into() } else { v.into() }
}

fn optional(expr: Option<&DurationExpr>) -> Value {
    expr.map_or(Value::Null, duration)
}

fn duration(d: &DurationExpr) -> Value {
    let (op, lhs, rhs) = match &d.kind {
        DurationKind::Literal(n) => {
            return json!({"type": "numberLiteral", "val": format_f(n.value), "duration": n.duration});
        }
        DurationKind::Step => ("step", None, None),
        DurationKind::Range => ("range", None, None),
        DurationKind::Unary(sign, e) => (sign.as_str(), None, Some(e)),
        DurationKind::Binary(op, l, r) => (op.as_str(), Some(l), Some(r)),
        DurationKind::MinOf(l, r) => ("min_of", Some(l), Some(r)),
        DurationKind::MaxOf(l, r) => ("max_of", Some(l), Some(r)),
    };
    json!({
        "type": "durationExpr",
        "op": op,
        "lhs": lhs.map(|d| duration(d)),
        "rhs": rhs.map(|d| duration(d)),
        "wrapped": d.wrapped,
    })
}
