//! The tree as text over several lines, as `/api/v1/format_query` shows it.

use super::ast::*;
use super::print::{AggregateHead, OperatorModifiers, SubquerySuffix};

/// A node whose text is longer is broken over several lines.
const MAX_LINE: usize = 100;

/// The expression on as many lines as it needs, indented by two blanks a level.
pub fn prettify(expr: &Expr) -> String {
    pretty(expr, 0)
}

fn pretty(expr: &Expr, level: usize) -> String {
    let pad = "  ".repeat(level);
    let line = expr.to_string();
    if line.len() <= MAX_LINE {
        // A short subquery is not indented, a quirk of Prometheus.
        return if matches!(expr, Expr::Subquery(_)) { line } else { pad + &line };
    }
    match expr {
        Expr::Aggregate(a) => {
            let param = a.param.as_ref().map(|p| pretty(p, level + 1) + ",\n").unwrap_or_default();
            format!("{pad}{}(\n{param}{}\n{pad})", AggregateHead(a), pretty(&a.expr, level + 1))
        }
        Expr::Binary(b) => {
            let (l, r) = (pretty(&b.lhs, level + 1), pretty(&b.rhs, level + 1));
            format!("{l}\n{pad}{}{}\n{r}", b.op, OperatorModifiers(b))
        }
        Expr::Call(c) => {
            let args: Vec<String> = c.args.iter().map(|a| pretty(a, level + 1)).collect();
            format!("{pad}{}(\n{}\n{pad})", c.func.name, args.join(",\n"))
        }
        Expr::Paren(p) => format!("{pad}(\n{}\n{pad})", pretty(&p.expr, level + 1)),
        Expr::Subquery(s) => format!("{}{}", pretty(&s.expr, level), SubquerySuffix(s)),
        Expr::Unary(u) => format!("{pad}{}{}", u.op.as_str(), pretty(&u.expr, level).trim()),
        Expr::Number(_) | Expr::String(_) | Expr::Vector(_) | Expr::Matrix(_) => pad + &line,
    }
}
